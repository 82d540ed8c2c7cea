//! Who sees everything and says what must not be.
//!
//! Beside the named invariants of the state (`coordinator::state::invariants`), which every replica can check, there
//! are properties only the world can see: what processes really ran, what was really promised to whom.

mod one_live_process;
mod results_are_true;

use lote_coordinator::state::invariants::Watch;
use lote_coordinator::state::{Batch, Cluster, TaskPlace, keys};
use lote_shared::model::{AttemptRef, TaskKey};
use std::fmt;

use one_live_process::LiveProcesses;
use results_are_true::Results;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub at_ms: u64,
    pub invariant: &'static str,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "of {} at {} ms: {}", self.invariant, self.at_ms, self.what)
    }
}

#[derive(Debug, Default)]
pub struct Oracle {
    violations: Vec<Violation>,
    watch: Watch,
    live: LiveProcesses,
    results: Results,
    /// Ends that a host was told to be durable and that were not yet compared with the state.
    acknowledged: Vec<AttemptRef>,
}

impl Oracle {
    pub fn is_content(&self) -> bool {
        self.violations.is_empty()
    }

    pub fn into_violations(self) -> Vec<Violation> {
        self.violations
    }

    pub fn violated(&mut self, at_ms: u64, invariant: &'static str, what: String) {
        self.violations.push(Violation { at_ms, invariant, what });
    }

    fn note(&mut self, at_ms: u64, invariant: &'static str, result: Result<(), String>) {
        if let Err(what) = result {
            self.violated(at_ms, invariant, what);
        }
    }

    pub fn born(&mut self, at_ms: u64, host: u32, attempt: AttemptRef, slots: u16, host_slots: u32) {
        let result = self.live.born(host, attempt, slots, host_slots);
        self.note(at_ms, "one_live_attempt_per_task", result);
    }

    /// `exit_code` is what a worker can learn of it; `None` if its end is known to nobody.
    pub fn died(&mut self, attempt: AttemptRef, exit_code: Option<i32>) {
        self.live.died(attempt);
        if let Some(exit_code) = exit_code {
            self.results.ended(attempt, exit_code);
        }
    }

    /// Processes that run, or stand still on a machine that does.
    pub fn live(&self) -> u64 {
        self.live.count()
    }

    /// All processes of a host stand still: they do nothing until it goes on.
    pub fn frozen(&mut self, host: u32) {
        self.live.frozen(host);
    }

    /// A process goes on.
    pub fn thawed(&mut self, at_ms: u64, attempt: AttemptRef) {
        let result = self.live.thawed(attempt);
        self.note(at_ms, "one_live_attempt_per_task", result);
    }

    /// A host was told that its final report of this attempt is durable.
    pub fn acknowledged(&mut self, attempt: AttemptRef) {
        self.acknowledged.push(attempt);
    }

    /// After every applied entry: what it wrote.
    pub fn applied(&mut self, at_ms: u64, cluster: &Cluster, batch: &Batch) {
        for (key, _) in &batch.writes {
            let Some((_, keys::Table::Task, rest)) = keys::split(key) else { continue };
            let Ok(number) = <[u8; 8]>::try_from(rest) else { continue };
            let key = TaskKey(u64::from_be_bytes(number));
            let result = self.results.changed(key, cluster.task(key));
            self.note(at_ms, "results_are_true", result);
        }
        self.check_acknowledged(at_ms, cluster);
    }

    /// What was acknowledged as ended is not live in the state.
    pub fn check_acknowledged(&mut self, at_ms: u64, cluster: &Cluster) {
        for attempt in std::mem::take(&mut self.acknowledged) {
            let task = cluster.task(attempt.task).filter(|task| task.attempt == attempt.attempt);
            let open = |place| {
                matches!(
                    place,
                    TaskPlace::Assigned { .. } | TaskPlace::Preparing { .. } | TaskPlace::Running { .. }
                )
            };
            if task.is_some_and(|task| open(task.place)) {
                let what = format!("the end of {attempt} was acknowledged and the state does not have it");
                self.violated(at_ms, "no_acknowledged_write_lost", what);
            }
        }
    }

    /// Everything the state can say about itself.
    pub fn check_state(&mut self, at_ms: u64, cluster: &Cluster) {
        if let Err(violation) = self.watch.look(cluster) {
            self.violated(at_ms, violation.invariant, violation.what);
        }
    }

    /// When everything had time to end.
    pub fn check_end(&mut self, at_ms: u64, cluster: &Cluster) {
        let open = cluster.all_tasks().find(|task| !matches!(task.place, TaskPlace::Completed { .. }));
        if let Some(task) = open {
            let reason = cluster.explain_task(task.key).map_or_else(String::new, |reason| reason.to_string());
            let count =
                cluster.all_tasks().filter(|task| !matches!(task.place, TaskPlace::Completed { .. })).count();
            let what =
                format!("{count} tasks are not completed; task {} is {:?}: {reason}", task.key, task.place);
            self.violated(at_ms, "everything_finishes", what);
        } else if let Some(attempt) = self.live.any() {
            self.violated(
                at_ms,
                "everything_finishes",
                format!("{attempt} still runs although its task is completed"),
            );
        }
    }
}
