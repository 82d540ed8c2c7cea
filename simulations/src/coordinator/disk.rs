//! The coordinator's disk: the log of committed entries, and the rows that apply made of it.
//!
//! The log is durable when an entry is committed. Rows are durable only as of the last flush, as in the real store:
//! a crash takes them back to it, and recovery replays the log from there. What replay writes must be exactly what
//! was there before the crash; [`Recovery::differing`] says where it is not.

use lote_coordinator::state::{Batch, Cluster, Command, LoadError, Stamp};
use std::collections::{BTreeMap, BTreeSet};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// One committed entry.
#[derive(Debug, Clone)]
struct Entry {
    stamp: Stamp,
    commands: Vec<Command>,
}

#[derive(Debug, Default)]
pub struct Disk {
    rows: Rows,
    /// What rows were before they were changed after the last flush; the first change of a row counts.
    unflushed: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Entries whose rows were not flushed yet.
    log: Vec<Entry>,
}

/// What came back after a crash.
#[derive(Debug)]
pub struct Recovery {
    pub cluster: Cluster,
    pub replayed: usize,
    /// Keys of rows that replay did not make as they had been.
    pub differing: Vec<Vec<u8>>,
}

impl Disk {
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.rows.get(key).map(Vec::as_slice)
    }

    /// An entry is durable; [`Disk::write`] follows once it is applied.
    pub fn commit(&mut self, stamp: Stamp, commands: Vec<Command>) {
        self.log.push(Entry { stamp, commands });
    }

    /// The rows of an applied entry, as one batch.
    pub fn write(&mut self, batch: &Batch) {
        for (key, value) in &batch.writes {
            let before = match value {
                Some(value) => self.rows.insert(key.clone(), value.clone()),
                None => self.rows.remove(key),
            };
            self.unflushed.entry(key.clone()).or_insert(before);
        }
    }

    /// Everything written so far survives; the log before it may go.
    pub fn flush(&mut self) {
        self.unflushed.clear();
        self.log.clear();
    }

    /// For a planted bug: the log is gone.
    pub fn forget_log(&mut self) {
        self.log.clear();
    }

    /// Takes the rows back to the last flush, loads them, and replays the log. `lost_answer` is an entry that became
    /// durable although nobody heard of it.
    pub fn recover(&mut self, lost_answer: Option<(Stamp, Vec<Command>)>) -> Result<Recovery, LoadError> {
        let mut expected: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
        for (key, before) in std::mem::take(&mut self.unflushed) {
            let crashed = match before {
                Some(before) => self.rows.insert(key.clone(), before),
                None => self.rows.remove(&key),
            };
            expected.insert(key, crashed);
        }
        let rows = self.rows.iter().filter(|(key, _)| is_hot(key));
        let mut cluster = Cluster::load(rows.map(|(key, value)| (key.clone(), value.clone())))?;
        let log = self.log.clone();
        for entry in &log {
            self.replay(&mut cluster, entry);
        }
        let touched: BTreeSet<&Vec<u8>> = expected.keys().chain(self.unflushed.keys()).collect();
        // A row that only replay touched was not changed before the crash, so it must be as it was.
        let should = |key: &Vec<u8>| expected.get(key).or_else(|| self.unflushed.get(key)).cloned().flatten();
        let differs = |key: &&Vec<u8>| self.rows.get(*key) != should(key).as_ref();
        let differing = touched.into_iter().filter(differs).cloned().collect();
        if let Some((stamp, commands)) = lost_answer {
            self.commit(stamp, commands.clone());
            self.replay(&mut cluster, &Entry { stamp, commands });
        }
        Ok(Recovery { cluster, replayed: log.len(), differing })
    }

    fn replay(&mut self, cluster: &mut Cluster, entry: &Entry) {
        let mut batch = Batch::default();
        for command in &entry.commands {
            // Whoever wanted the reply is gone.
            let _ = cluster.apply(entry.stamp, command, &mut batch);
        }
        self.write(&batch);
    }
}

fn is_hot(key: &[u8]) -> bool {
    lote_coordinator::state::keys::split(key).is_some_and(|(_, table, _)| table.is_hot())
}
