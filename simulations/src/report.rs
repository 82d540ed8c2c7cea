//! What a run tells.

use crate::oracle::Violation;
use crate::world::{Line, TraceHash};
use std::fmt;

/// How often what happened; all zero in a quiet run means the scenario tests nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    pub faults: u64,
    /// Processes started.
    pub attempts: u64,
    pub entries: u64,
    pub commands: u64,
    pub host_crashes: u64,
    pub coordinator_crashes: u64,
    /// Sessions that said hello, the first of each host included.
    pub sessions: u64,
    pub hosts_lost: u64,
    pub deadline_kills: u64,
    /// Attempts found again by a restarted worker.
    pub adopted: u64,
    /// Entries that became durable although their leader died before it knew.
    pub unheard_entries: u64,
    pub entries_replayed: u64,
    /// Reports that no longer fitted.
    pub fenced: u64,
    pub retries: u64,
    pub chunks_sent_again: u64,
    /// Attempts that a node was asked to give back unstarted.
    pub asked_back: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub scenario: String,
    pub seed: u64,
    pub tasks: u64,
    /// Where virtual time stood at the end.
    pub virtual_ms: u64,
    /// When the last task was completed.
    pub finished_at_ms: Option<u64>,
    pub events: u64,
    pub counts: Counts,
    pub hash: TraceHash,
    pub violations: Vec<Violation>,
    /// The last events in words, if lines were kept.
    pub last_lines: Vec<Line>,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.finished_at_ms.is_some()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |ms: u64| format!("{}.{:03} s", ms / 1_000, ms % 1_000);
        let counts = &self.counts;
        write!(f, "{} seed {}: {} tasks", self.scenario, self.seed, self.tasks)?;
        match self.finished_at_ms {
            Some(at_ms) => write!(f, " finished after {}", seconds(at_ms))?,
            None => write!(f, " not finished after {}", seconds(self.virtual_ms))?,
        }
        write!(
            f,
            "; {} attempts ({} retries), {} faults, {} host and {} coordinator crashes, {} sessions, {} hosts lost, \
             {} killed at the deadline, {} adopted, {} fenced, {} chunks sent again, {} asked back, {} commands in {} entries \
             ({} replayed, {} unheard), {} events; trace {}",
            counts.attempts,
            counts.retries,
            counts.faults,
            counts.host_crashes,
            counts.coordinator_crashes,
            counts.sessions,
            counts.hosts_lost,
            counts.deadline_kills,
            counts.adopted,
            counts.fenced,
            counts.chunks_sent_again,
            counts.asked_back,
            counts.commands,
            counts.entries,
            counts.entries_replayed,
            counts.unheard_entries,
            self.events,
            self.hash
        )?;
        for violation in &self.violations {
            write!(f, "\nVIOLATION {violation}")?;
        }
        Ok(())
    }
}
