//! The one writer: takes what gathered, writes it with one `write` and one sync, then tells everybody.

use super::disk::Disk;
use super::index::{Index, Place};
use super::record::{self, Record};
use super::recover::{self, Current, Segments};
use super::segment::{self, Mark};
use super::{Done, Error, Shared, io_error};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// Bytes written by one batch, about.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// After so long without work the mark is made durable, so that an idle log leaves nothing ambiguous.
const IDLE: Duration = Duration::from_millis(100);

/// Records that belong together.
pub(super) struct Op {
    pub records: Vec<Record>,
    /// Whether `done` waits for stable storage.
    pub durable: bool,
    pub done: Option<Done>,
}

impl Op {
    fn size(&self) -> usize {
        let size = |record: &Record| match record {
            Record::Entry(entry) => entry.body.len() + record::ENTRY_BODY_AT,
            _ => 128,
        };
        self.records.iter().map(size).sum()
    }
}

pub(super) struct Writer {
    pub disk: Arc<dyn Disk>,
    pub shared: Arc<Shared>,
    pub current: Current,
    /// The state as of what was written, without entries; the shared one is ahead of it.
    pub written: Index,
    pub segments: Segments,
    pub segment_bytes: u64,
}

impl Writer {
    /// Works until all senders are gone; what was sent is written first.
    pub fn run(mut self, queue: &Receiver<Op>) {
        loop {
            let first = match queue.recv_timeout(IDLE) {
                Ok(op) => op,
                Err(RecvTimeoutError::Timeout) => {
                    self.settle();
                    // Nothing to settle until something arrives.
                    match queue.recv() {
                        Ok(op) => op,
                        Err(_) => return,
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.settle();
                    return;
                }
            };
            let mut size = first.size();
            let mut batch = vec![first];
            while size < BATCH_BYTES_MAX {
                let Ok(op) = queue.try_recv() else { break };
                size += op.size();
                batch.push(op);
            }
            self.process(batch);
        }
    }

    /// Writes a batch and answers it. After a failure everything is refused: what a failed sync left behind is
    /// unknown, so nothing may be built on it.
    pub fn process(&mut self, batch: Vec<Op>) {
        let result = match self.shared.failure() {
            Some(failure) => Err(failure),
            None => self.write(&batch).inspect_err(|error| self.shared.fail(error)),
        };
        for done in batch.into_iter().filter_map(|op| op.done) {
            done(result.clone());
        }
    }

    fn write(&mut self, batch: &[Op]) -> Result<(), Error> {
        if self.current.end >= self.segment_bytes {
            self.roll()?;
        }
        let mut bytes = Vec::with_capacity(batch.iter().map(Op::size).sum());
        let mut chain = self.current.chain;
        let mut places = Vec::new();
        for record in batch.iter().flat_map(|op| &op.records) {
            let start = bytes.len();
            record::encode(record, &mut chain, &mut bytes);
            self.written
                .follow(record)
                .map_err(|why| Error::Failed(format!("the log would contradict itself: {why}")))?;
            if let Record::Entry(entry) = record {
                let offset = self.current.end + start as u64;
                let size = (bytes.len() - start) as u32;
                let greatest = self.segments.entry(self.current.number).or_default();
                *greatest = (*greatest).max(Some(entry.id.index));
                places.push((entry.id, Place { segment: self.current.number, offset, size }));
            }
        }
        let current = &mut self.current;
        let name = segment::file_name(current.number);
        current.file.write_at(current.end, &bytes).map_err(|error| io_error(&name, "append to", error))?;
        current.end += bytes.len() as u64;
        current.chain = chain;
        self.shared.counters.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if batch.iter().any(|op| op.durable) {
            self.sync()?;
        }
        self.shared.placed(&places);
        if batch.iter().flat_map(|op| &op.records).any(|record| matches!(record, Record::Purge(_))) {
            self.remove_old_segments()?;
        }
        Ok(())
    }

    /// Makes everything written durable, then notes it in the mark, which the next sync makes durable.
    fn sync(&mut self) -> Result<(), Error> {
        let current = &mut self.current;
        let name = segment::file_name(current.number);
        current.file.sync().map_err(|error| io_error(&name, "sync", error))?;
        self.shared.counters.syncs.fetch_add(1, Ordering::Relaxed);
        current.durable = current.end;
        self.move_mark(false)
    }

    fn move_mark(&mut self, sealed: bool) -> Result<(), Error> {
        let current = &mut self.current;
        let mark = Mark { sequence: current.mark.sequence + 1, end: current.durable, sealed };
        let name = segment::file_name(current.number);
        mark.write(&*current.file).map_err(|error| io_error(&name, "mark", error))?;
        current.mark = mark;
        Ok(())
    }

    /// With nothing to do: leaves nothing unsynced and the mark durable.
    pub fn settle(&mut self) {
        if self.shared.failure().is_some() {
            return;
        }
        let settled = (|| {
            if self.current.durable < self.current.end {
                self.sync()?;
            }
            let name = segment::file_name(self.current.number);
            self.current.file.sync().map_err(|error| io_error(&name, "sync", error))
        })();
        if let Err(error) = settled {
            self.shared.fail(&error);
        }
    }

    /// Goes on in a new segment, which is durable before the old one says that there is one.
    fn roll(&mut self) -> Result<(), Error> {
        self.sync()?;
        let next =
            recover::create(&*self.disk, self.current.number + 1, self.current.chain, self.written.state())?;
        self.move_mark(true)?;
        let name = segment::file_name(self.current.number);
        self.current.file.sync().map_err(|error| io_error(&name, "sync", error))?;
        self.shared.files.lock().insert(next.number, next.file.clone());
        self.segments.insert(next.number, None);
        self.current = next;
        Ok(())
    }

    /// Removes the oldest segments that hold no entry above the purged position, which is durable by now.
    fn remove_old_segments(&mut self) -> Result<(), Error> {
        let purged = self.written.state().purged.map(|id| id.index);
        let old: Vec<u64> = self
            .segments
            .range(..self.current.number)
            .take_while(|(_, greatest)| **greatest <= purged)
            .map(|(number, _)| *number)
            .collect();
        if old.is_empty() {
            return Ok(());
        }
        for number in old {
            let name = segment::file_name(number);
            self.disk.remove(&name).map_err(|error| io_error(&name, "remove", error))?;
            self.shared.files.lock().remove(&number);
            self.segments.remove(&number);
        }
        self.disk.sync().map_err(|error| io_error(".", "sync", error))
    }
}
