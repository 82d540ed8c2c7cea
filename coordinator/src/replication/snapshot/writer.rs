//! Writes one snapshot file, piece by piece. Until it is whole it has a temporary name, and goes with its writer.

use super::{END, Error, Hashing, MAGIC, VERSION};
use crate::replication::applied::Applied;
use crate::replication::log::disk::sync_folder;
use crate::replication::room::Room;
use crate::store::Row;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

/// Bytes written between two looks at what is left of the disk.
const LOOK_EVERY_BYTES: u64 = 4 * 1024 * 1024;

/// A file that is being written.
pub struct Writer {
    folder: PathBuf,
    temporary: PathBuf,
    path: PathBuf,
    out: Hashing<BufWriter<File>>,
    rows: u64,
    /// Bytes that may be written before the next look.
    allowed: u64,
    room: Room,
    is_finished: bool,
}

impl Writer {
    pub(super) fn create(
        folder: &Path,
        (temporary, path): (PathBuf, PathBuf),
        position: &Applied,
        room: Room,
    ) -> Result<Writer, Error> {
        if !room.has(LOOK_EVERY_BYTES) {
            return Err(Error::NoRoom { path });
        }
        let file = File::create(&temporary).map_err(|error| Error::io(&path, error))?;
        let out = Hashing { inner: BufWriter::with_capacity(1 << 20, file), hasher: blake3::Hasher::new() };
        let folder = folder.to_owned();
        let allowed = LOOK_EVERY_BYTES;
        let mut writer = Writer { folder, temporary, path, out, rows: 0, allowed, room, is_finished: false };
        let position = position.encode().map_err(|error| writer.error(io::Error::other(error)))?;
        let mut head = Vec::from(MAGIC);
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&(position.len() as u32).to_le_bytes());
        head.extend_from_slice(&position);
        writer.out.write_all(&head).map_err(|error| writer.error(error))?;
        Ok(writer)
    }

    fn error(&self, source: io::Error) -> Error {
        Error::io(&self.path, source)
    }

    /// The next rows, in key order.
    pub fn write(&mut self, rows: &[Row]) -> Result<(), Error> {
        for (key, value) in rows {
            self.write_row(key, value).map_err(|error| self.error(error))?;
            let size = (key.len() + value.len() + 8) as u64;
            if size > self.allowed {
                if !self.room.has(size + LOOK_EVERY_BYTES) {
                    return Err(Error::NoRoom { path: self.path.clone() });
                }
                self.allowed = size + LOOK_EVERY_BYTES;
            }
            self.allowed -= size;
        }
        Ok(())
    }

    fn write_row(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.rows += 1;
        self.out.write_all(&(key.len() as u32).to_le_bytes())?;
        self.out.write_all(&(value.len() as u32).to_le_bytes())?;
        self.out.write_all(key)?;
        self.out.write_all(value)
    }

    /// Ends the file and gives it its name, under which it is on the disk when this returns.
    pub fn finish(mut self) -> Result<PathBuf, Error> {
        let mut end = || -> io::Result<()> {
            self.out.write_all(&END.to_le_bytes())?;
            self.out.write_all(&self.rows.to_le_bytes())?;
            let hash = self.out.hasher.finalize();
            self.out.inner.write_all(hash.as_bytes())?;
            self.out.inner.flush()?;
            self.out.inner.get_ref().sync_all()?;
            fs::rename(&self.temporary, &self.path)?;
            sync_folder(&self.folder)
        };
        let ended = end();
        ended.map_err(|error| self.error(error))?;
        self.is_finished = true;
        Ok(self.path.clone())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.is_finished {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}
