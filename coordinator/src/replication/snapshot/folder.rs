//! The folder of snapshots, and which of them is the one.

use super::{Error, Writer, verify};
use crate::replication::applied::Applied;
use crate::replication::log::EntryId;
use crate::replication::log::disk::{create_folder, sync_folder};
use crate::replication::room::Room;
use crate::store::{self, Store};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

const SUFFIX: &str = ".snapshot";
const TEMPORARY_SUFFIX: &str = ".new";
/// Rows that are written at a time when nobody waits meanwhile.
const PIECE_ROWS: usize = 1_024;

/// A snapshot as openraft passes it round: the file that holds it or will hold it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotFile {
    pub path: PathBuf,
}

impl SnapshotFile {
    /// Its content is on the disk when this returns.
    pub fn sync(&self) -> Result<(), Error> {
        File::open(&self.path).and_then(|file| file.sync_all()).map_err(|error| Error::io(&self.path, error))
    }
}

/// The folder of snapshots.
#[derive(Debug)]
pub struct Snapshots {
    folder: PathBuf,
    current: Option<(Applied, PathBuf)>,
    received: u64,
    room: Room,
}

impl Snapshots {
    /// Finds the newest snapshot; removes older ones and what was left unfinished.
    pub fn open(folder: &Path) -> Result<Snapshots, Error> {
        let at = |source| Error::Io { path: folder.to_owned(), source };
        create_folder(folder).map_err(at)?;
        let mut current: Option<(Applied, PathBuf)> = None;
        for entry in fs::read_dir(folder).map_err(at)? {
            let path = entry.map_err(at)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.ends_with(TEMPORARY_SUFFIX) {
                fs::remove_file(&path).map_err(at)?;
            } else if name.ends_with(SUFFIX) {
                // Its head alone could name a position that it does not have.
                let position = match verify(&SnapshotFile { path: path.clone() }) {
                    Ok(position) => position,
                    Err(Error::Damaged { path, why }) => {
                        tracing::warn!(path = %path.display(), why, "setting a damaged snapshot aside");
                        fs::rename(&path, path.with_extension("damaged")).map_err(at)?;
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                let is_newer = current.as_ref().is_none_or(|(newest, _)| newest.id < position.id);
                let old =
                    if is_newer { current.replace((position, path)).map(|(_, old)| old) } else { Some(path) };
                // A crash came between the name of the newer one and the removal of the older.
                old.map_or(Ok(()), fs::remove_file).map_err(at)?;
            }
        }
        Ok(Snapshots { folder: folder.to_owned(), current, received: 0, room: Room::below(folder) })
    }

    /// Asks this one instead of the disk whether there is room.
    #[cfg(test)]
    #[must_use]
    pub fn with_room(self, room: Room) -> Snapshots {
        Snapshots { room, ..self }
    }

    /// What is asked before much is written.
    pub fn room(&self) -> Room {
        self.room.clone()
    }

    /// The newest one.
    pub fn current(&self) -> Option<(&Applied, SnapshotFile)> {
        self.current.as_ref().map(|(applied, path)| (applied, SnapshotFile { path: path.clone() }))
    }

    /// Removes the snapshot if it ends before this entry. Beside a whole state and a log that begins there it serves for
    /// nothing, and Raft, which makes another when it has none, takes it for granted that this does not happen.
    pub fn drop_before(&mut self, purged: Option<EntryId>) -> Result<(), Error> {
        let Some((_, path)) = self.current.take_if(|(applied, _)| applied.id < purged) else { return Ok(()) };
        tracing::warn!(snapshot = %path.display(), "a snapshot is older than the log and is removed");
        fs::remove_file(&path).map_err(|source| Error::io(&path, source))
    }

    /// Where a snapshot from elsewhere may be written.
    pub fn receiving(&mut self) -> SnapshotFile {
        self.received += 1;
        SnapshotFile { path: self.folder.join(format!("received-{}{TEMPORARY_SUFFIX}", self.received)) }
    }

    /// What writes the snapshot at `position`, once it is asked to: that touches the disk, which may be slow.
    pub fn writer(&self, position: &Applied) -> impl FnOnce() -> Result<Writer, Error> + Send + use<> {
        let (folder, room, position) = (self.folder.clone(), self.room.clone(), position.clone());
        let names = (folder.join(format!("{}{TEMPORARY_SUFFIX}", position.name())), self.path(&position));
        move || Writer::create(&folder, names, &position, room)
    }

    fn path(&self, position: &Applied) -> PathBuf {
        self.folder.join(format!("{}{SUFFIX}", position.name()))
    }

    /// Writes all rows of the store, which nobody may change meanwhile, as the snapshot at `position`.
    pub fn build(&mut self, position: &Applied, store: &dyn Store) -> Result<(), Error> {
        let mut writer = self.writer(position)()?;
        let mut piece = Vec::with_capacity(PIECE_ROWS);
        for row in store::rows(store) {
            piece.push(row?);
            if piece.len() == PIECE_ROWS {
                writer.write(&piece)?;
                piece.clear();
            }
        }
        writer.write(&piece)?;
        let path = writer.finish()?;
        if let Some(old) = self.keep(position.clone(), path) {
            // Only space is lost if this fails; the next start removes it.
            let _ = fs::remove_file(old);
        }
        Ok(())
    }

    /// Has a finished file be the current one, unless there is a newer one by now; the file that may go.
    #[must_use]
    pub fn keep(&mut self, position: Applied, path: PathBuf) -> Option<PathBuf> {
        let is_newer = self.current.as_ref().is_none_or(|(current, _)| current.id <= position.id);
        let old =
            if is_newer { self.current.replace((position, path)).map(|(_, old)| old) } else { Some(path) };
        old.filter(|old| self.current.as_ref().is_none_or(|(_, current)| current != old))
    }

    /// Makes a verified file from elsewhere the current snapshot.
    pub fn adopt(&mut self, position: Applied, file: &SnapshotFile) -> Result<(), Error> {
        let temporary = if file.path.parent() == Some(&self.folder) {
            file.path.clone()
        } else {
            let temporary = self.receiving().path;
            fs::copy(&file.path, &temporary).map_err(|error| Error::io(&temporary, error))?;
            temporary
        };
        let path = self.path(&position);
        let at = |source| Error::Io { path: path.clone(), source };
        File::open(&temporary).and_then(|file| file.sync_all()).map_err(at)?;
        if temporary != path {
            fs::rename(&temporary, &path).map_err(at)?;
        }
        sync_folder(&self.folder).map_err(at)?;
        // The state goes there whatever was built here.
        if let Some((_, old)) = self.current.replace((position, path.clone()))
            && old != path
        {
            let _ = fs::remove_file(&old);
        }
        Ok(())
    }
}
