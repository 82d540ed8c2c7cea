//! Snapshot files: all rows of the state at one position of the log.
//!
//! ```text
//! magic │ version u32 │ position: length u32, bytes │ rows: key length u32, value length u32, key, value │ …
//! end: u32::MAX, row count u64 │ blake3 of everything before, 32 bytes                     (little-endian)
//! ```
//! A file is written under a temporary name, synced, renamed, and its name synced ([`writer`]): a file with the final
//! name is whole. It is still verified in full before anything is taken from it. One is kept, the newest ([`folder`]).

mod folder;
mod writer;

#[cfg(test)]
mod tests;

pub use folder::{SnapshotFile, Snapshots};
pub use writer::Writer;

use super::applied::Applied;
use super::room::Room;
use crate::store::{self, Row, Store, Write as StoreWrite};
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"LOTESNP\n";
const VERSION: u32 = 1;
const END: u32 = u32::MAX;
/// Longest key and value that are believed.
const KEY_MAX: u32 = 64 * 1024;
const VALUE_MAX: u32 = 64 * 1024 * 1024;
const POSITION_MAX: u32 = 4 * 1024 * 1024;
const HASH_SIZE: usize = 32;
/// Rows are taken in in batches of about so many bytes.
const BATCH_BYTES: usize = 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("snapshot `{path}`: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("snapshot `{path}` is damaged: {why}; see `lote recover`")]
    Damaged { path: PathBuf, why: String },
    #[error("snapshot `{path}` has format version {found}; this build reads up to {VERSION}")]
    NewerFormat { path: PathBuf, found: u32 },
    #[error(transparent)]
    Store(#[from] store::Error),
    /// What is there stays as it is; to be tried again when there is room.
    #[error("there is no room on the disk for snapshot `{path}`")]
    NoRoom { path: PathBuf },
}

impl Error {
    fn io(path: &Path, source: io::Error) -> Error {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Error::NoRoom { path }
            }
            _ => Error::Io { path, source },
        }
    }
}

/// Reads a snapshot to its end and checks it; gives its position.
pub fn verify(file: &SnapshotFile) -> Result<Applied, Error> {
    let mut reader = Reader::open(&file.path)?;
    while reader.next_row()?.is_some() {}
    Ok(reader.position)
}

/// Fills an empty store with a snapshot's rows. Nothing of the store may be used if this fails.
pub fn load(file: &SnapshotFile, into: &dyn Store) -> Result<Applied, Error> {
    load_while(file, into, &Room::boundless())
}

/// As [`load`], as long as there is room for it.
pub fn load_while(file: &SnapshotFile, into: &dyn Store, room: &Room) -> Result<Applied, Error> {
    let mut reader = Reader::open(&file.path)?;
    let mut batch: Vec<StoreWrite> = Vec::new();
    let mut bytes = 0;
    while let Some((key, value)) = reader.next_row()? {
        bytes += key.len() + value.len();
        batch.push((key, Some(value)));
        if bytes > BATCH_BYTES {
            if !room.has(bytes as u64) {
                return Err(Error::NoRoom { path: file.path.clone() });
            }
            into.write(&batch)?;
            batch.clear();
            bytes = 0;
        }
    }
    into.write(&batch)?;
    into.flush()?;
    Ok(reader.position)
}

struct Hashing<T> {
    inner: T,
    hasher: blake3::Hasher,
}

impl<T: Write> Hashing<T> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.inner.write_all(bytes)
    }
}

impl<T: Read> Hashing<T> {
    fn read_exact(&mut self, into: &mut [u8]) -> io::Result<()> {
        self.inner.read_exact(into)?;
        self.hasher.update(into);
        Ok(())
    }

    fn read_u32(&mut self) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.read_exact(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }
}

struct Reader {
    path: PathBuf,
    input: Hashing<BufReader<File>>,
    position: Applied,
    rows: u64,
}

impl Reader {
    fn open(path: &Path) -> Result<Reader, Error> {
        let path = path.to_owned();
        let file = File::open(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        let mut input =
            Hashing { inner: BufReader::with_capacity(1 << 20, file), hasher: blake3::Hasher::new() };
        let mut magic = [0; 8];
        let mut head = || -> io::Result<(u32, u32)> {
            input.read_exact(&mut magic)?;
            Ok((input.read_u32()?, input.read_u32()?))
        };
        let (version, length) = head().map_err(|error| short(&path, error))?;
        let damaged = |why: &str| Error::Damaged { path: path.clone(), why: why.to_owned() };
        if magic != MAGIC {
            return Err(damaged("it does not start like a snapshot"));
        }
        if version > VERSION {
            return Err(Error::NewerFormat { path, found: version });
        }
        if length > POSITION_MAX {
            return Err(damaged("its position is unreadable"));
        }
        let mut position = vec![0; length as usize];
        input.read_exact(&mut position).map_err(|error| short(&path, error))?;
        let position = Applied::decode(&position).map_err(|error| damaged(&error.to_string()))?;
        Ok(Reader { path, input, position, rows: 0 })
    }

    /// The next row; `None` after the last one, when the trailer was found right.
    fn next_row(&mut self) -> Result<Option<Row>, Error> {
        let path = self.path.clone();
        let key_length = self.input.read_u32().map_err(|error| short(&path, error))?;
        if key_length == END {
            return self.check_trailer().map(|()| None);
        }
        let value_length = self.input.read_u32().map_err(|error| short(&path, error))?;
        if key_length > KEY_MAX || value_length > VALUE_MAX {
            return Err(Error::Damaged { path, why: format!("row {} has an impossible size", self.rows) });
        }
        let mut key = vec![0; key_length as usize];
        let mut value = vec![0; value_length as usize];
        self.input
            .read_exact(&mut key)
            .and_then(|()| self.input.read_exact(&mut value))
            .map_err(|error| short(&path, error))?;
        self.rows += 1;
        Ok(Some((key, value)))
    }

    fn check_trailer(&mut self) -> Result<(), Error> {
        let short = |error| short(&self.path, error);
        let mut rows = [0; 8];
        self.input.read_exact(&mut rows).map_err(short)?;
        let expected = self.input.hasher.finalize();
        let mut hash = [0; HASH_SIZE];
        self.input.inner.read_exact(&mut hash).map_err(short)?;
        let more = self.input.inner.read(&mut [0]).map_err(short)?;
        let damaged = |why: &str| Err(Error::Damaged { path: self.path.clone(), why: why.to_owned() });
        if hash != *expected.as_bytes() {
            return damaged("its hash does not match");
        }
        if u64::from_le_bytes(rows) != self.rows || more > 0 {
            return damaged("its rows do not add up");
        }
        Ok(())
    }
}

fn short(path: &Path, source: io::Error) -> Error {
    if source.kind() == io::ErrorKind::UnexpectedEof {
        Error::Damaged { path: path.to_owned(), why: "it ends too early".to_owned() }
    } else {
        Error::Io { path: path.to_owned(), source }
    }
}
