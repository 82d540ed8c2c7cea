//! Snapshot files: all rows of the state at one position of the log.
//!
//! ```text
//! magic │ version u32 │ position: length u32, bytes │ rows: key length u32, value length u32, key, value │ …
//! end: u32::MAX, row count u64 │ blake3 of everything before, 32 bytes                     (little-endian)
//! ```
//! A file is written under a temporary name, synced, renamed, and its name synced: a file with the final name is
//! whole. It is still verified in full before anything is taken from it. One is kept, the newest.

use super::applied::Applied;
use super::log::EntryId;
use super::log::disk::{create_folder, sync_folder};
use crate::store::{self, Store, Write as StoreWrite};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"LOTESNP\n";
const VERSION: u32 = 1;
const END: u32 = u32::MAX;
/// Longest key and value that are believed.
const KEY_MAX: u32 = 64 * 1024;
const VALUE_MAX: u32 = 64 * 1024 * 1024;
const POSITION_MAX: u32 = 4 * 1024 * 1024;
const HASH_SIZE: usize = 32;
const SUFFIX: &str = ".snapshot";
const TEMPORARY_SUFFIX: &str = ".new";
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
}

/// A snapshot as openraft passes it round: the file that holds it or will hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFile {
    pub path: PathBuf,
}

/// The folder of snapshots.
#[derive(Debug)]
pub struct Snapshots {
    folder: PathBuf,
    current: Option<(Applied, PathBuf)>,
    received: u64,
}

impl Snapshots {
    /// Finds the newest snapshot and removes what was left unfinished.
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
                if current.as_ref().is_none_or(|(newest, _)| newest.id < position.id) {
                    current = Some((position, path));
                }
            }
        }
        Ok(Snapshots { folder: folder.to_owned(), current, received: 0 })
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
        fs::remove_file(&path).map_err(|source| Error::Io { path, source })
    }

    /// Where a snapshot from elsewhere may be written.
    pub fn receiving(&mut self) -> SnapshotFile {
        self.received += 1;
        SnapshotFile { path: self.folder.join(format!("received-{}{TEMPORARY_SUFFIX}", self.received)) }
    }

    /// Writes all rows of the store, which nobody may change meanwhile, as the snapshot at `position`.
    pub fn build(&mut self, position: &Applied, store: &dyn Store) -> Result<(), Error> {
        let path = self.folder.join(format!("{}{SUFFIX}", position.name()));
        let temporary = self.folder.join(format!("{}{TEMPORARY_SUFFIX}", position.name()));
        write(&temporary, position, store)?;
        self.finish(position.clone(), &temporary, path)
    }

    /// Makes a verified file from elsewhere the current snapshot.
    pub fn adopt(&mut self, position: Applied, file: &SnapshotFile) -> Result<(), Error> {
        let path = self.folder.join(format!("{}{SUFFIX}", position.name()));
        if file.path.parent() == Some(&self.folder) {
            return self.finish(position, &file.path, path);
        }
        let temporary = self.receiving().path;
        let at = |source| Error::Io { path: temporary.clone(), source };
        fs::copy(&file.path, &temporary).map_err(at)?;
        self.finish(position, &temporary, path)
    }

    fn finish(&mut self, position: Applied, temporary: &Path, path: PathBuf) -> Result<(), Error> {
        let at = |source| Error::Io { path: path.clone(), source };
        File::open(temporary).and_then(|file| file.sync_all()).map_err(at)?;
        if temporary != path {
            fs::rename(temporary, &path).map_err(at)?;
        }
        sync_folder(&self.folder).map_err(at)?;
        if let Some((_, old)) = self.current.replace((position, path.clone()))
            && old != path
        {
            // Only space is lost if this fails; the next start goes by the newest.
            let _ = fs::remove_file(&old);
        }
        Ok(())
    }
}

fn write(path: &Path, position: &Applied, store: &dyn Store) -> Result<(), Error> {
    let at = |source| Error::Io { path: path.to_owned(), source };
    let file = File::create(path).map_err(at)?;
    let mut out = Hashing { inner: BufWriter::with_capacity(1 << 20, file), hasher: blake3::Hasher::new() };
    let position = position.encode().map_err(|error| at(io::Error::other(error)))?;
    let mut head = Vec::from(MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&(position.len() as u32).to_le_bytes());
    head.extend_from_slice(&position);
    out.write_all(&head).map_err(at)?;
    let mut rows = 0_u64;
    let mut result = Ok(());
    store.scan(&[], None, &mut |key, value| {
        rows += 1;
        result = (|| {
            out.write_all(&(key.len() as u32).to_le_bytes())?;
            out.write_all(&(value.len() as u32).to_le_bytes())?;
            out.write_all(key)?;
            out.write_all(value)
        })();
        result.is_ok()
    })?;
    result.map_err(at)?;
    out.write_all(&END.to_le_bytes()).map_err(at)?;
    out.write_all(&rows.to_le_bytes()).map_err(at)?;
    let hash = out.hasher.finalize();
    let mut inner = out.inner;
    inner.write_all(hash.as_bytes()).map_err(at)?;
    let file = inner.into_inner().map_err(|error| at(error.into_error()))?;
    file.sync_all().map_err(at)
}

/// Reads a snapshot to its end and checks it; gives its position.
pub fn verify(file: &SnapshotFile) -> Result<Applied, Error> {
    let mut reader = Reader::open(&file.path)?;
    while reader.next_row()?.is_some() {}
    Ok(reader.position)
}

/// Fills an empty store with a snapshot's rows. Nothing of the store may be used if this fails.
pub fn load(file: &SnapshotFile, into: &dyn Store) -> Result<Applied, Error> {
    let mut reader = Reader::open(&file.path)?;
    let mut batch: Vec<StoreWrite> = Vec::new();
    let mut bytes = 0;
    while let Some((key, value)) = reader.next_row()? {
        bytes += key.len() + value.len();
        batch.push((key, Some(value)));
        if bytes > BATCH_BYTES {
            into.write(&batch)?;
            batch.clear();
            bytes = 0;
        }
    }
    into.write(&batch)?;
    into.flush()?;
    Ok(reader.position)
}

/// A key and its value.
type Row = (Vec<u8>, Vec<u8>);

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemoryStore, rows};

    fn filled() -> MemoryStore {
        let store = MemoryStore::new();
        let batch: Vec<StoreWrite> =
            (0..300_u32).map(|n| (n.to_be_bytes().to_vec(), Some(vec![n as u8; n as usize]))).collect();
        store.write(&batch).unwrap();
        store
    }

    fn all(store: &dyn Store) -> Vec<(Vec<u8>, Vec<u8>)> {
        rows(store).map(Result::unwrap).collect()
    }

    #[test]
    fn a_snapshot_brings_all_rows_and_the_newest_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut snapshots = Snapshots::open(folder.path()).unwrap();
        assert!(snapshots.current().is_none());
        let store = filled();
        for index in [4, 9] {
            snapshots.build(&Applied::at_index(index), &store).unwrap();
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        fs::write(folder.path().join("received-1.new"), b"half").unwrap();
        let snapshots = Snapshots::open(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let (position, file) = snapshots.current().unwrap();
        assert_eq!(position, &Applied::at_index(9));
        let other = MemoryStore::new();
        assert_eq!(&load(&file, &other).unwrap(), position);
        assert_eq!(all(&other), all(&store));
    }

    #[test]
    fn every_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let mut snapshots = Snapshots::open(folder.path()).unwrap();
        snapshots.build(&Applied::at_index(1), &filled()).unwrap();
        let (_, file) = snapshots.current().unwrap();
        let good = fs::read(&file.path).unwrap();
        assert_eq!(verify(&file).unwrap(), Applied::at_index(1));
        let damaged = SnapshotFile { path: folder.path().join("damaged") };
        for step in 0..200 {
            let at = good.len() * step / 200;
            let mut flipped = good.clone();
            flipped[at] ^= 1 << (step % 8);
            fs::write(&damaged.path, &flipped).unwrap();
            assert!(verify(&damaged).is_err(), "flip at {at}");
            assert!(load(&damaged, &MemoryStore::new()).is_err(), "flip at {at}");
            fs::write(&damaged.path, &good[..at]).unwrap();
            assert!(verify(&damaged).is_err(), "cut at {at}");
        }
        fs::write(&damaged.path, [&good[..], b"x"].concat()).unwrap();
        assert!(verify(&damaged).is_err(), "trailing byte");
    }
}
