//! What a run tells.

use crate::oracle::Violation;
use crate::series::Series;
use crate::world::{Line, TraceHash};
use serde::Serialize;
use std::fmt;

/// How often what happened; all zero in a quiet run means the scenario tests nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
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

impl Counts {
    /// Each with its name, for people.
    pub fn named(&self) -> [(&'static str, u64); 16] {
        [
            ("faults", self.faults),
            ("processes started", self.attempts),
            ("log entries", self.entries),
            ("commands", self.commands),
            ("host crashes", self.host_crashes),
            ("coordinator crashes", self.coordinator_crashes),
            ("sessions", self.sessions),
            ("hosts lost", self.hosts_lost),
            ("killed at the deadline", self.deadline_kills),
            ("attempts adopted", self.adopted),
            ("entries unheard of", self.unheard_entries),
            ("entries replayed", self.entries_replayed),
            ("reports fenced", self.fenced),
            ("retries", self.retries),
            ("chunks sent again", self.chunks_sent_again),
            ("attempts asked back", self.asked_back),
        ]
    }
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
    /// Whether it ended at the time that was asked for and not by itself.
    pub cut_short: bool,
    pub series: Series,
    pub violations: Vec<Violation>,
    /// The last events in words, if lines were kept.
    pub last_lines: Vec<Line>,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty() && (self.finished_at_ms.is_some() || self.cut_short)
    }

    /// What kept the work from being done sooner, as far as the slots can tell.
    pub fn bottleneck(&self) -> Option<Bottleneck> {
        let end_ms = self.finished_at_ms?;
        let used = self.series.utilisation(end_ms)?;
        let last_queued =
            self.series.samples.iter().rev().find(|sample| sample.at_ms <= end_ms && sample.queued > 0);
        let tail_ms = end_ms.saturating_sub(last_queued.map_or(0, |sample| sample.at_ms));
        Some(match used {
            _ if tail_ms * 3 > end_ms => Bottleneck::LastTasks { tail_ms },
            800.. => Bottleneck::Slots { per_mille: used },
            _ => Bottleneck::Supply { per_mille: used },
        })
    }
}

/// See [`Report::bottleneck`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Bottleneck {
    /// Slots were busy nearly all the time: more of them make it shorter.
    Slots { per_mille: u64 },
    /// For so long nothing waited any more and the last tasks ran: only shorter tasks make it shorter.
    LastTasks { tail_ms: u64 },
    /// Slots stood empty while tasks waited: adding, dispatching, the log, or faults.
    Supply { per_mille: u64 },
}

impl fmt::Display for Bottleneck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_cent = |per_mille: &u64| format!("{}.{} %", per_mille / 10, per_mille % 10);
        match self {
            Bottleneck::Slots { per_mille } => {
                write!(f, "slots: {} of their time was used; more slots would help", per_cent(per_mille))
            }
            Bottleneck::LastTasks { tail_ms } => {
                write!(
                    f,
                    "the last tasks: for {} s nothing waited any more; more slots would not help",
                    tail_ms / 1_000
                )
            }
            Bottleneck::Supply { per_mille } => write!(
                f,
                "not the slots, of whose time {} was used: adding, the log, or faults",
                per_cent(per_mille)
            ),
        }
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
