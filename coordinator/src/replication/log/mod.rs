//! The Raft log and vote of this member: our own journal of segment files. The truth of the cluster stands here.
//!
//! ```text
//! append, vote, committed, truncate, purge ──► Index (memory, at once)
//!                                         └──► queue ──► writer thread: one write, one fdatasync ──► callbacks
//! read ◄── Index: recent entries from memory, older ones from their place in a file
//! ```
//! Everything goes through one queue and is a record of the journal, in order: so the vote and the entries are
//! made durable in the order they were given, and several requests share a sync. `recover` says what opening
//! accepts: a torn tail beyond the mark is cut; anything else that is unreadable is an error naming file and
//! offset. `segment` has the layout of a file, `record` that of a record.
//!
//! What survives a crash: everything whose callback was called with success.

pub mod disk;
mod index;
mod record;
mod recover;
pub mod salvage;
mod segment;
pub mod simulated;
mod writer;

#[cfg(test)]
mod tests;

pub use disk::{Disk, FolderDisk};
pub use record::{Entry, EntryId, State, Vote};

use bytes::Bytes;
use disk::File;
use index::{Found, Index, Place};
use parking_lot::Mutex;
use record::Record;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use writer::{Op, Writer};

/// Called once something is durable, or will never be.
pub type Done = Box<dyn FnOnce(Result<(), Error>) + Send>;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("could not {what} log file `{file}`: {why}")]
    Io { file: String, what: &'static str, why: String, full: bool },
    #[error("log file `{file}` is damaged at offset {offset}: {why}; see `lote recover`")]
    Damaged { file: String, offset: u64, why: String },
    #[error(
        "log file `{file}` ends at offset {end}, but was on stable storage up to {mark}: acknowledged writes are lost; \
         see `lote recover`"
    )]
    BehindMark { file: String, end: u64, mark: u64 },
    #[error("log file `{file}` is missing: acknowledged writes are lost; see `lote recover`")]
    MissingSegment { file: String },
    #[error("the log is missing although this member has run before; see `lote recover`")]
    Missing,
    #[error("the log has format version {found}; this build reads up to {supported}")]
    NewerFormat { found: u32, supported: u32 },
    #[error("entry {found} cannot follow entry {last:?}")]
    Gap { last: Option<u64>, found: u64 },
    #[error("an entry of {size} bytes is above the limit of {limit}")]
    TooLarge { size: usize, limit: usize },
    /// An earlier failure; the log takes nothing more until it is opened again.
    #[error("the log has failed: {0}")]
    Failed(String),
}

impl Error {
    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        matches!(self, Error::Io { full: true, .. })
    }
}

fn io_error(file: &str, what: &'static str, error: io::Error) -> Error {
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    Error::Io { file: file.to_owned(), what, why: error.to_string(), full }
}

#[derive(Debug, Clone)]
pub struct Options {
    /// A segment is closed once it is so long.
    pub segment_bytes: u64,
    /// Recent entries kept in memory.
    pub cache_bytes: usize,
    /// Without a thread: every call does its own writing before it returns. For deterministic simulation.
    pub inline: bool,
    /// Whether a folder without a log is a new one; otherwise it lost it.
    pub may_create: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            segment_bytes: 64 * 1024 * 1024,
            cache_bytes: 16 * 1024 * 1024,
            inline: false,
            may_create: true,
        }
    }
}

/// What the log has done since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub syncs: u64,
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    syncs: AtomicU64,
    bytes: AtomicU64,
}

#[derive(Debug)]
struct Shared {
    index: Mutex<Index>,
    files: Mutex<BTreeMap<u64, Arc<dyn File>>>,
    failure: Mutex<Option<Error>>,
    counters: Counters,
    cache_bytes: usize,
}

impl Shared {
    fn failure(&self) -> Option<Error> {
        self.failure.lock().clone()
    }

    fn fail(&self, error: &Error) {
        let mut failure = self.failure.lock();
        if failure.is_none() {
            tracing::error!(%error, "the log has failed and takes nothing more");
            *failure = Some(Error::Failed(error.to_string()));
        }
    }

    fn placed(&self, places: &[(EntryId, Place)]) {
        let mut index = self.index.lock();
        for (id, place) in places {
            index.place(*id, *place);
        }
        index.evict(self.cache_bytes);
    }
}

enum Way {
    /// Unbounded, because Raft has one append under way and everything else is tiny.
    Thread(Option<mpsc::Sender<Op>>, Option<std::thread::JoinHandle<()>>),
    Inline(Box<Writer>),
}

impl Way {
    fn send(&mut self, op: Op) {
        match self {
            Way::Thread(Some(queue), _) => {
                // The thread ends only after its queue, unless it panicked.
                if let Err(mpsc::SendError(op)) = queue.send(op) {
                    refuse(op);
                }
            }
            Way::Thread(None, _) => refuse(op),
            Way::Inline(writer) => writer.process(vec![op]),
        }
    }
}

fn refuse(op: Op) {
    if let Some(done) = op.done {
        done(Err(Error::Failed("the writer has stopped".to_owned())));
    }
}

/// An open log. Dropping it closes it.
pub struct Log {
    shared: Arc<Shared>,
    /// Held while the index changes and the record is queued, so that both have the same order.
    way: Mutex<Way>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("state", &self.state()).finish_non_exhaustive()
    }
}

impl Log {
    /// Opens the log on a disk, or makes a new one.
    pub fn open(disk: Arc<dyn Disk>, options: &Options) -> Result<Log, Error> {
        let recovered = recover::recover(&*disk, options.may_create)?;
        let written = Index::without_entries(recovered.index.state());
        let shared = Arc::new(Shared {
            index: Mutex::new(recovered.index),
            files: Mutex::new(recovered.files),
            failure: Mutex::new(None),
            counters: Counters::default(),
            cache_bytes: options.cache_bytes,
        });
        let mut writer = Writer {
            disk,
            shared: shared.clone(),
            current: recovered.current,
            written,
            segments: recovered.segments,
            segment_bytes: options.segment_bytes,
        };
        // What was read may be in the page cache only; from here on it counts as durable.
        writer.settle();
        if let Some(failure) = shared.failure() {
            return Err(failure);
        }
        let way = if options.inline {
            Way::Inline(Box::new(writer))
        } else {
            #[expect(
                clippy::disallowed_methods,
                reason = "Raft has one append under way and everything else is tiny; a full queue would stop Raft's thread while it holds the lock of `way`"
            )]
            let (queue, work) = mpsc::channel();
            let thread = std::thread::Builder::new()
                .name("lote-log".to_owned())
                .spawn(move || writer.run(&work))
                .map_err(|error| io_error(".", "start the writer of", error))?;
            Way::Thread(Some(queue), Some(thread))
        };
        Ok(Log { shared, way: Mutex::new(way) })
    }

    pub fn state(&self) -> State {
        self.shared.index.lock().state()
    }

    pub fn counts(&self) -> Counts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts { syncs: load(&self.shared.counters.syncs), bytes: load(&self.shared.counters.bytes) }
    }

    /// Size of all segments on disk.
    pub fn size_bytes(&self) -> u64 {
        self.shared.files.lock().values().map(|file| file.size().unwrap_or(0)).sum()
    }

    /// Entries that are not purged.
    pub fn entries(&self) -> usize {
        self.shared.index.lock().entries()
    }

    /// Appends entries with consecutive indexes. They can be read when this returns; `done` tells when they are
    /// durable.
    pub fn append(&self, entries: Vec<Entry>, done: Done) -> Result<(), Error> {
        let limit = record::SIZE_MAX - record::ENTRY_BODY_AT;
        if let Some(size) = entries.iter().map(|entry| entry.body.len()).find(|size| *size > limit) {
            return Err(Error::TooLarge { size, limit });
        }
        self.submit(entries.into_iter().map(Record::Entry).collect(), true, Some(done))
    }

    /// `done` tells when the vote is durable.
    pub fn save_vote(&self, vote: Vote, done: Done) -> Result<(), Error> {
        self.submit(vec![Record::Vote(vote)], true, Some(done))
    }

    /// Becomes durable with the next thing that must be, or when the log is idle.
    pub fn save_committed(&self, committed: EntryId) -> Result<(), Error> {
        // Never ahead of the entries: a cut tail then takes both.
        if self.state().last.is_none_or(|last| last.index < committed.index) {
            return Ok(());
        }
        self.submit(vec![Record::Committed(committed)], false, None)
    }

    /// Forgets entries from `from` on.
    pub fn truncate(&self, from: u64, done: Done) -> Result<(), Error> {
        let last = match from.checked_sub(1) {
            None => None,
            Some(before) => {
                let index = self.shared.index.lock();
                match index.state().last {
                    Some(last) if last.index >= from => index.id_at(before),
                    last => last,
                }
            }
        };
        // Nothing to forget: the log ends before.
        if self.state().last == last {
            done(Ok(()));
            return Ok(());
        }
        self.submit(vec![Record::Truncate { from, last }], true, Some(done))
    }

    /// Forgets entries up to `upto`; whole segments without entries are removed.
    pub fn purge(&self, upto: EntryId, done: Done) -> Result<(), Error> {
        self.submit(vec![Record::Purge(upto)], true, Some(done))
    }

    fn submit(&self, records: Vec<Record>, durable: bool, done: Option<Done>) -> Result<(), Error> {
        if let Some(failure) = self.shared.failure() {
            return Err(failure);
        }
        let mut way = self.way.lock();
        {
            let mut index = self.shared.index.lock();
            for record in &records {
                index.apply(record, None, true).map_err(|why| match why {
                    index::Contradiction::Gap { last, found } => Error::Gap { last, found },
                    why => Error::Failed(why.to_string()),
                })?;
            }
        }
        way.send(Op { records, durable, done });
        Ok(())
    }

    /// The entries there are with `range.start <= index < range.end`, cut off after about `bytes_max`.
    pub fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<Entry>, Error> {
        let found = self.shared.index.lock().find(range.start, range.end, bytes_max);
        found
            .into_iter()
            .map(|found| match found {
                Found::Here(entry) => Ok(entry),
                Found::At(id, place) => self.read_place(id, place),
            })
            .collect()
    }

    fn read_place(&self, id: EntryId, place: Place) -> Result<Entry, Error> {
        let name = segment::file_name(place.segment);
        let file = self.shared.files.lock().get(&place.segment).cloned();
        let file = file.ok_or_else(|| Error::MissingSegment { file: name.clone() })?;
        let mut bytes = vec![0; place.size as usize];
        file.read_at(place.offset, &mut bytes).map_err(|error| io_error(&name, "read", error))?;
        let damaged = |why: String| Error::Damaged { file: name, offset: place.offset, why };
        match record::decode_entry(&Bytes::from(bytes)) {
            Ok(entry) if entry.id == id => Ok(entry),
            Ok(entry) => {
                Err(damaged(format!("entry {} stands where {} was written", entry.id.index, id.index)))
            }
            Err(flaw) => Err(damaged(flaw.to_string())),
        }
    }
}

impl Log {
    /// Writes what is queued and leaves nothing ambiguous on disk. Nothing is taken afterwards.
    pub fn close(&self) {
        match &mut *self.way.lock() {
            Way::Thread(queue, thread) => {
                drop(queue.take());
                if let Some(thread) = thread.take() {
                    let _ = thread.join();
                }
            }
            Way::Inline(writer) => writer.settle(),
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.close();
    }
}
