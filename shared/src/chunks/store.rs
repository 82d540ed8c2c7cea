//! [`ChunkStore`]: chunk files in a folder, and their group commit.
//!
//! ```text
//!   <root>/chunks/ab/abcdef…      a chunk file: data and trailer (`seal`)
//!   <root>/tmp/                   being written; emptied at open
//!   <root>/damaged/               chunks that failed verification, for a person to look at
//! ```
//!
//! Calls block; asynchronous callers use [`super::write::Upload`] and [`super::read`], which work on other threads.
//! The store keeps no index: the folder is the truth.

use super::seal::{self, Seal};
use super::tree::{ChunkId, Position, UNIT};
use super::{CHUNK, Error};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Chunk files that are made durable together; bounds the files a writer holds open.
const GROUP: usize = 32;
/// Threads that flush one group: file systems join concurrent flushes into few journal commits.
const FLUSH_THREADS: usize = 4;

/// Where chunks come from that are not here.
pub trait Elsewhere: Send + Sync + std::fmt::Debug {
    /// A verified chunk; `None` if nobody has it in a bounded time. Blocks.
    fn fetch(&self, id: ChunkId) -> Option<(Vec<u8>, Seal)>;
}

/// The folder; clone freely.
#[derive(Debug, Clone)]
pub struct ChunkStore {
    inner: Arc<Inner>,
    elsewhere: Option<Arc<dyn Elsewhere>>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// Makes temporary names unique in this process; `tmp/` is emptied at open.
    next_temporary: AtomicU64,
    /// Held while a chunk gets its name and while a damaged one loses it.
    names: Mutex<()>,
    holds: Mutex<Holds>,
}

/// Work under way that may have met chunks which no record refers to yet: when each began, oldest first.
#[derive(Debug, Default)]
struct Holds {
    next: u64,
    open: BTreeMap<u64, Instant>,
}

/// Keeps whatever is written or met since [`ChunkStore::hold`] from the collector, until it is dropped.
#[derive(Debug)]
pub struct Hold {
    inner: Arc<Inner>,
    number: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.inner.holds.lock().open.remove(&self.number);
    }
}

/// A chunk as its folder lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    pub id: ChunkId,
    /// When it was last written or met by a writer.
    pub written: SystemTime,
    /// Bytes of its file.
    pub bytes: u64,
}

impl ChunkStore {
    /// Opens or makes the folder. Only one process may use it.
    pub fn open(root: &Path) -> Result<ChunkStore, Error> {
        let temporary = root.join("tmp");
        match fs::remove_dir_all(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Error::io("emptying the temporary folder")(error));
            }
            _ => {}
        }
        for folder in ["tmp", "damaged", "chunks"] {
            fs::create_dir_all(root.join(folder)).map_err(Error::io("making the chunk folder"))?;
        }
        for byte in 0..=255_u8 {
            let folder = root.join("chunks").join(format!("{byte:02x}"));
            match fs::create_dir(&folder) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    return Err(Error::io("making the chunk folder")(error));
                }
                _ => {}
            }
        }
        sync_folder(&root.join("chunks"))?;
        sync_folder(root)?;
        let inner = Inner {
            root: root.to_owned(),
            next_temporary: AtomicU64::new(0),
            names: Mutex::new(()),
            holds: Mutex::default(),
        };
        Ok(ChunkStore { inner: Arc::new(inner), elsewhere: None })
    }

    /// The same folder, whose reads fetch what is missing or damaged here, verify it and keep it.
    pub fn with_elsewhere(&self, elsewhere: Arc<dyn Elsewhere>) -> ChunkStore {
        ChunkStore { inner: self.inner.clone(), elsewhere: Some(elsewhere) }
    }

    /// The same folder, and only it.
    pub fn local(&self) -> ChunkStore {
        ChunkStore { inner: self.inner.clone(), elsewhere: None }
    }

    /// Reads, and once more after the chunk was brought here.
    fn reading<T>(&self, id: ChunkId, read: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
        let result = read();
        if let (Err(Error::Missing(_) | Error::Damaged { .. }), Some(elsewhere)) = (&result, &self.elsewhere)
            && let Some((bytes, seal)) = elsewhere.fetch(id)
        {
            let mut group = self.local().group();
            group.add_sealed(id, &seal, &bytes)?;
            group.commit()?;
            return read();
        }
        result
    }

    fn folder(&self, byte: u8) -> PathBuf {
        self.inner.root.join("chunks").join(format!("{byte:02x}"))
    }

    /// Where a chunk's file is; its data are the first bytes.
    pub fn path(&self, id: ChunkId) -> PathBuf {
        self.folder(id.0[0]).join(id.to_string())
    }

    /// Whether the chunk is here. Says nothing about its bytes; reading does.
    pub fn contains(&self, id: ChunkId) -> bool {
        self.path(id).is_file()
    }

    /// All of a chunk, verified, and its trailer.
    pub fn read(&self, id: ChunkId) -> Result<(Vec<u8>, Seal), Error> {
        self.reading(id, || {
            let mut file = self.open_chunk(id)?;
            let seal = self.read_seal(id, &mut file)?;
            let bytes = self.read_units(id, &mut file, &seal, 0..seal.length)?;
            Ok((bytes, seal))
        })
    }

    /// Bytes of a chunk. Reads and verifies only the units they are in; `range` must lie in the chunk.
    pub fn read_range(&self, id: ChunkId, range: Range<usize>) -> Result<Vec<u8>, Error> {
        self.reading(id, || {
            let mut file = self.open_chunk(id)?;
            let seal = self.read_seal(id, &mut file)?;
            self.read_units(id, &mut file, &seal, range.clone())
        })
    }

    fn open_chunk(&self, id: ChunkId) -> Result<File, Error> {
        File::open(self.path(id)).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::Missing(id),
            _ => Error::io("opening a chunk")(error),
        })
    }

    fn read_seal(&self, id: ChunkId, file: &mut File) -> Result<Seal, Error> {
        let file_length = file.metadata().map_err(Error::io("reading a chunk"))?.len();
        let tail_length = file_length.min(seal::MAX as u64);
        let mut tail = vec![0; tail_length as usize];
        file.seek(SeekFrom::Start(file_length - tail_length)).map_err(Error::io("reading a chunk"))?;
        file.read_exact(&mut tail).map_err(Error::io("reading a chunk"))?;
        Seal::decode(id, &tail, file_length).map_err(|why| self.damaged(id, why))
    }

    fn read_units(
        &self,
        id: ChunkId,
        file: &mut File,
        seal: &Seal,
        range: Range<usize>,
    ) -> Result<Vec<u8>, Error> {
        if range.start > range.end || range.end > seal.length {
            let (start, end) = (range.start as u64, range.end as u64);
            return Err(Error::OutOfRange { start, end, length: seal.length as u64 });
        }
        let first = range.start / UNIT;
        let end_unit = range.end.div_ceil(UNIT).max(first + 1);
        let start = seal.unit_range(first).start;
        let end = seal.unit_range(end_unit - 1).end;
        let mut bytes = vec![0; end - start];
        file.seek(SeekFrom::Start(start as u64)).map_err(Error::io("reading a chunk"))?;
        file.read_exact(&mut bytes).map_err(Error::io("reading a chunk"))?;
        for index in first..end_unit.min(seal.units.len()) {
            let unit = seal.unit_range(index);
            if !seal.check_unit(index, &bytes[unit.start - start..unit.end - start]) {
                return Err(self.damaged(id, "a unit does not have its value"));
            }
        }
        bytes.truncate(range.end - start);
        bytes.drain(..range.start - start);
        Ok(bytes)
    }

    /// Moves a chunk that failed verification aside, so that a later write of it puts a good one in its place.
    fn damaged(&self, id: ChunkId, why: &'static str) -> Error {
        let _names = self.inner.names.lock();
        // Somebody may have replaced it meanwhile; only what is bad now is moved.
        if fs::read(self.path(id)).is_ok_and(|bytes| !is_intact(id, &bytes)) {
            let aside = self.inner.root.join("damaged").join(id.to_string());
            if let Err(error) = fs::rename(self.path(id), aside) {
                tracing::error!(chunk = %id, %error, "a damaged chunk could not be moved aside");
            }
        }
        tracing::error!(chunk = %id, why, "damaged chunk");
        Error::Damaged { id, why }
    }

    /// Calls `each` for every chunk here with the time it was last written, in no particular order.
    pub fn for_each(&self, mut each: impl FnMut(ChunkId, SystemTime)) -> Result<(), Error> {
        (0..=255_u8).try_for_each(|byte| self.list(byte, |chunk| each(chunk.id, chunk.written)))
    }

    /// Calls `each` for every chunk whose name begins with this byte, in no particular order.
    pub fn list(&self, byte: u8, mut each: impl FnMut(Listed)) -> Result<(), Error> {
        let entries = fs::read_dir(self.folder(byte)).map_err(Error::io("listing chunks"))?;
        for entry in entries {
            let entry = entry.map_err(Error::io("listing chunks"))?;
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // A chunk that was removed meanwhile is of no interest.
            let Ok(metadata) = entry.metadata() else { continue };
            if let Ok(written) = metadata.modified() {
                each(Listed { id, written, bytes: metadata.len() });
            }
        }
        Ok(())
    }

    /// Holds what is written or met from now on: nothing collects it before the hold is dropped. For whoever is about to
    /// have a record name chunks, until that is acknowledged or has failed.
    #[expect(
        clippy::disallowed_methods,
        reason = "holds are compared with one another and with their age only"
    )]
    pub fn hold(&self) -> Hold {
        let mut holds = self.inner.holds.lock();
        holds.next += 1;
        let number = holds.next;
        holds.open.insert(number, Instant::now());
        Hold { inner: Arc::clone(&self.inner), number }
    }

    /// For how long the oldest hold has been open.
    pub fn oldest_hold(&self) -> Option<Duration> {
        // Numbers are given out under the lock, so the first began first.
        self.inner.holds.lock().open.first_key_value().map(|(_, since)| since.elapsed())
    }

    /// Chunks in `damaged/`.
    pub fn damaged_count(&self) -> u64 {
        fs::read_dir(self.inner.root.join("damaged")).map_or(0, |entries| entries.count() as u64)
    }

    /// Removes a chunk if it was last written before `before`: a writer that met it since has made it young again.
    pub fn remove_older(&self, id: ChunkId, before: SystemTime) -> Result<bool, Error> {
        let _names = self.inner.names.lock();
        let path = self.path(id);
        match fs::metadata(&path).and_then(|metadata| metadata.modified()) {
            Ok(modified) if modified < before => {
                fs::remove_file(&path).map_err(Error::io("removing a chunk"))?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// What a chunk's trailer says; its units are not looked at.
    pub fn seal(&self, id: ChunkId) -> Result<Seal, Error> {
        self.reading(id, || {
            let mut file = self.open_chunk(id)?;
            self.read_seal(id, &mut file)
        })
    }

    /// A group of chunks to be made durable together.
    pub fn group(&self) -> Group {
        Group { store: self.clone(), durable: true, pending: Vec::new(), folders: BTreeSet::new() }
    }

    /// As [`ChunkStore::group`], for a cache of what others hold durably: nothing is flushed, and a chunk that a
    /// crash tore is noticed when it is read and fetched again.
    pub fn cache_group(&self) -> Group {
        Group { durable: false, ..self.group() }
    }
}

fn is_intact(id: ChunkId, file: &[u8]) -> bool {
    let tail = &file[file.len() - file.len().min(seal::MAX)..];
    let Ok(seal) = Seal::decode(id, tail, file.len() as u64) else { return false };
    (0..seal.units.len()).all(|index| seal.check_unit(index, &file[seal.unit_range(index)]))
}

fn sync_folder(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(Error::io("flushing a folder"))
}

/// Chunks on their way to the disk. Nothing of a durable group is promised before [`Group::commit`] returned; a dropped
/// group leaves chunks that nothing refers to, for the collector.
#[derive(Debug)]
pub struct Group {
    store: ChunkStore,
    /// Whether [`Group::commit`] flushes.
    durable: bool,
    /// Written, but not yet flushed and without their name.
    pending: Vec<Pending>,
    /// Folders that hold names which may not be durable yet.
    folders: BTreeSet<u8>,
}

#[derive(Debug)]
struct Pending {
    id: ChunkId,
    path: PathBuf,
    file: Option<File>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.file.is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Group {
    /// Adds the bytes of a chunk at this place of its file; gives its name.
    pub fn add(&mut self, chunk: &[u8], position: Position) -> Result<ChunkId, Error> {
        debug_assert!(chunk.len() <= CHUNK);
        let (id, seal) = Seal::of(chunk, position);
        self.add_sealed(id, &seal, chunk)?;
        Ok(id)
    }

    /// Adds a chunk whose bytes are known to fit the seal and the seal the name.
    pub fn add_sealed(&mut self, id: ChunkId, seal: &Seal, chunk: &[u8]) -> Result<(), Error> {
        self.folders.insert(id.0[0]);
        if self.pending.iter().any(|pending| pending.id == id) || self.renew(id, seal) {
            return Ok(());
        }
        let number = self.store.inner.next_temporary.fetch_add(1, Ordering::Relaxed);
        let path = self.store.inner.root.join("tmp").join(format!("{number:016x}"));
        let file = File::create_new(&path).map_err(Error::io("making a temporary file"))?;
        let mut pending = Pending { id, path, file: Some(file) };
        if let Some(file) = &mut pending.file {
            file.write_all(chunk).map_err(Error::io("writing a chunk"))?;
            file.write_all(&seal.encode()).map_err(Error::io("writing a chunk"))?;
        }
        self.pending.push(pending);
        if self.pending.len() >= GROUP {
            self.flush()?;
        }
        Ok(())
    }

    /// Takes a chunk that is here already into the group, so that it is durable after the commit and safe from the
    /// collector for its grace period. Gives its trailer.
    pub fn adopt(&mut self, id: ChunkId) -> Result<Seal, Error> {
        let seal = self.store.seal(id)?;
        match self.renew(id, &seal) {
            true => {
                self.folders.insert(id.0[0]);
                Ok(seal)
            }
            false => Err(Error::Missing(id)),
        }
    }

    /// Whether the chunk is here already; if so it counts as written now, so that no collector takes it.
    #[expect(
        clippy::disallowed_methods,
        reason = "a renewed chunk takes the time the file system would give to a new one; only the collector's grace period compares it"
    )]
    fn renew(&self, id: ChunkId, seal: &Seal) -> bool {
        let _names = self.store.inner.names.lock();
        let Ok(file) = File::open(self.store.path(id)) else { return false };
        let expected = (seal.length + seal::trailer_length(seal.length)) as u64;
        file.metadata().is_ok_and(|metadata| metadata.len() == expected)
            && file.set_modified(SystemTime::now()).is_ok()
    }

    /// Makes the bytes durable and gives the chunks their names.
    fn flush(&mut self) -> Result<(), Error> {
        if self.durable {
            self.flush_bytes()?;
        }
        for mut pending in self.pending.drain(..) {
            let _names = self.store.inner.names.lock();
            let path = self.store.path(pending.id);
            fs::rename(&pending.path, path).map_err(Error::io("naming a chunk"))?;
            pending.file = None;
        }
        Ok(())
    }

    fn flush_bytes(&self) -> Result<(), Error> {
        let share = self.pending.len().div_ceil(FLUSH_THREADS).max(1);
        std::thread::scope(|scope| {
            let flushers: Vec<_> = self
                .pending
                .chunks(share)
                .map(|part| scope.spawn(|| part.iter().try_for_each(Pending::flush)))
                .collect();
            flushers.into_iter().try_for_each(|flusher| flusher.join().unwrap_or(Err(Error::Stopped)))
        })
    }

    /// Returns once every chunk of the group is on stable storage under its name.
    pub fn commit(&mut self) -> Result<(), Error> {
        self.flush()?;
        if !self.durable {
            self.folders.clear();
        }
        while let Some(byte) = self.folders.first().copied() {
            sync_folder(&self.store.folder(byte))?;
            self.folders.remove(&byte);
        }
        Ok(())
    }
}

impl Pending {
    fn flush(&self) -> Result<(), Error> {
        match &self.file {
            Some(file) => file.sync_data().map_err(Error::io("flushing a chunk")),
            None => Ok(()),
        }
    }
}
