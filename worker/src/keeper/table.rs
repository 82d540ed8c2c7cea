//! The keeper's memory: every attempt it holds, as a plain structure behind one lock.
//!
//! An entry goes `Spawning → Running → Ending → Exited` and is forgotten when its exit is acknowledged. `Ending`
//! means the main process has ended, or is being ended, and the rest of the tree is on its way out; only when
//! nothing of it is left does the entry become `Exited` and the exit go to the record file and to the worker.

use super::wire::{Cause, Event, Exit, Running, SpawnError};
use std::collections::{BTreeMap, VecDeque};

/// How an attempt is being ended.
#[derive(Debug, Clone)]
pub struct Ending {
    pub cause: Cause,
    pub grace_ms: u64,
    /// When SIGTERM was sent.
    pub asked_ms: Option<u64>,
    /// When SIGKILL was first sent.
    pub killed_ms: Option<u64>,
}

impl Ending {
    pub fn new(cause: Cause, grace_ms: u64) -> Ending {
        Ending { cause, grace_ms, asked_ms: None, killed_ms: None }
    }
}

#[derive(Debug)]
pub struct Entry {
    pub context: Vec<u8>,
    /// `None` while the process is being started.
    pub main: Option<u32>,
    pub started_ms: u64,
    /// Exit code and time of the main process, once it was reaped.
    pub main_exit: Option<(i32, u64)>,
    pub ending: Option<Ending>,
    /// Processes that outlive the main one stay.
    pub leave_children: bool,
    /// The exit was handed out; only processes that were to stay are left.
    pub lingering: bool,
}

/// What [`Table::reaped`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Reaped {
    /// The main process of this attempt; its tree has still to be looked at.
    Main(String),
    /// A re-parented process, or one that is being registered right now.
    Other,
}

#[derive(Debug, Default)]
pub struct Table {
    pub entries: BTreeMap<String, Entry>,
    pub exited: BTreeMap<String, (Exit, Vec<u8>)>,
    by_main: BTreeMap<u32, String>,
    /// Spawns between `posix_spawn` and [`Table::spawned`], and what was reaped meanwhile: the exit of a very short
    /// process can be seen before its start.
    starting: usize,
    early: BTreeMap<u32, (i32, bool)>,
    /// Counts started processes, so that the reaper knows whether waiting again can succeed.
    pub started_count: u64,
    /// For the writer thread.
    pub outbox: VecDeque<Event>,
    pub deadline_ms: Option<u64>,
    pub lease_ms: u64,
    /// Grace of the shutdown that was asked for.
    pub shutdown: Option<u64>,
    /// Number of the connection that is served; events go to this one only.
    pub connection: u64,
    pub connected: bool,
    /// When the last connection ended (or the keeper started).
    pub alone_since_ms: u64,
}

impl Table {
    /// Takes a new attempt; refused if the key is held already.
    pub fn reserve(&mut self, key: &str, context: Vec<u8>, leave_children: bool, now_ms: u64) -> bool {
        if self.shutdown.is_some() || self.entries.contains_key(key) || self.exited.contains_key(key) {
            return false;
        }
        let entry = Entry {
            context,
            main: None,
            started_ms: now_ms,
            main_exit: None,
            ending: None,
            leave_children,
            lingering: false,
        };
        self.entries.insert(key.to_owned(), entry);
        self.starting += 1;
        true
    }

    /// The process runs. Returns `Some(orphans)` if it was reaped already: what [`Table::reaped`] was told then.
    pub fn spawned(&mut self, key: &str, main: u32, now_ms: u64) -> Option<bool> {
        self.starting -= 1;
        self.started_count += 1;
        let early = self.early.remove(&main);
        if self.starting == 0 {
            self.early.clear();
        }
        let entry = self.entries.get_mut(key)?;
        entry.main = Some(main);
        let Some((code, orphans)) = early else {
            self.by_main.insert(main, key.to_owned());
            return None;
        };
        entry.main_exit = Some((code, now_ms));
        Some(orphans)
    }

    /// The process could not be started.
    pub fn not_spawned(&mut self, key: &str, error: SpawnError, message: String) {
        self.starting -= 1;
        if self.starting == 0 {
            self.early.clear();
        }
        self.entries.remove(key);
        self.outbox.push_back(Event::NotSpawned { key: key.to_owned(), error, message });
    }

    /// A child of the keeper was reaped; `orphans`: whether re-parented processes are alive.
    pub fn reaped(&mut self, process: u32, exit_code: i32, orphans: bool, now_ms: u64) -> Reaped {
        let Some(key) = self.by_main.remove(&process) else {
            if self.starting > 0 {
                self.early.insert(process, (exit_code, orphans));
            }
            return Reaped::Other;
        };
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.main_exit = Some((exit_code, now_ms));
        }
        Reaped::Main(key)
    }

    /// Begins to end an attempt unless that has begun; a shorter grace than before counts.
    pub fn end(&mut self, key: &str, cause: Cause, grace_ms: u64) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        match &mut entry.ending {
            Some(ending) => {
                ending.grace_ms = ending.grace_ms.min(grace_ms);
                if cause == Cause::Deadline {
                    ending.cause = cause;
                }
            }
            none => *none = Some(Ending::new(cause, grace_ms)),
        }
    }

    /// Nothing of the attempt is left: keeps its exit and hands it out. `None` if it is not held.
    pub fn finish(&mut self, key: &str, survivors: u32, now_ms: u64) -> Option<Exit> {
        let entry = self.entries.remove(key)?;
        if entry.lingering {
            return None;
        }
        let (exit_code, ended_ms) = entry.main_exit.unwrap_or((128 + 9, now_ms));
        let exit = Exit {
            key: key.to_owned(),
            exit_code,
            cause: entry.ending.map_or(Cause::Itself, |ending| ending.cause),
            started_ms: entry.started_ms,
            ended_ms,
            survivors,
        };
        self.exited.insert(key.to_owned(), (exit.clone(), entry.context));
        self.outbox.push_back(Event::Exited(exit.clone()));
        Some(exit)
    }

    /// The main process ended and what it started may stay: hands its exit out and remembers whose they are.
    pub fn linger(&mut self, key: &str, now_ms: u64) -> Option<Exit> {
        let started_ms = self.entries.get(key)?.started_ms;
        let exit = self.finish(key, 0, now_ms);
        let entry = Entry {
            context: Vec::new(),
            // The id may be used again by another process.
            main: Some(0),
            started_ms,
            main_exit: Some((0, now_ms)),
            ending: None,
            leave_children: true,
            lingering: true,
        };
        self.entries.insert(key.to_owned(), entry);
        exit
    }

    /// Whether nothing runs but processes that were left on purpose.
    pub fn is_idle(&self) -> bool {
        self.entries.values().all(|entry| entry.lingering)
    }

    /// The answer to a list request. Events that waited for the writer are contained in it.
    pub fn listing(&self) -> Event {
        let held = self.entries.iter().filter(|(_, entry)| !entry.lingering);
        let running = held.map(|(key, entry)| Running {
            key: key.clone(),
            started_ms: entry.started_ms,
            context: entry.context.clone(),
        });
        Event::Listing { running: running.collect(), exited: self.exited.values().cloned().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table::default()
    }

    #[test]
    fn an_exit_seen_before_its_start_is_not_lost() {
        let mut table = table();
        assert!(table.reserve("a", vec![1], false, 5));
        assert_eq!(table.reaped(70, 3, false, 6), Reaped::Other);
        assert_eq!(table.spawned("a", 70, 7), Some(false), "the caller must finish it");
        let exit = table.finish("a", 0, 8).unwrap();
        assert_eq!((exit.exit_code, exit.cause), (3, Cause::Itself));
        // Only while something is being started may an unknown process matter.
        assert_eq!(table.reaped(71, 1, false, 9), Reaped::Other);
        assert!(table.early.is_empty());
    }

    #[test]
    fn an_end_that_overtakes_the_start_still_counts() {
        let mut table = table();
        table.reserve("a", vec![], false, 5);
        table.end("a", Cause::Asked, 100);
        assert_eq!(table.spawned("a", 70, 7), None);
        table.end("a", Cause::Deadline, 10);
        assert_eq!(table.reaped(70, 143, false, 9), Reaped::Main("a".into()));
        let exit = table.finish("a", 0, 9).unwrap();
        assert_eq!((exit.exit_code, exit.cause), (143, Cause::Deadline));
    }

    #[test]
    fn a_key_is_used_once_until_acknowledged() {
        let mut table = table();
        assert!(table.reserve("a", vec![], false, 5));
        assert!(!table.reserve("a", vec![], false, 5));
        table.spawned("a", 70, 7);
        table.reaped(70, 0, false, 8);
        table.finish("a", 0, 8);
        assert!(!table.reserve("a", vec![], false, 9));
        table.exited.remove("a");
        assert!(table.reserve("a", vec![], false, 9));
        table.shutdown = Some(0);
        assert!(!table.reserve("b", vec![], false, 9));
    }
}
