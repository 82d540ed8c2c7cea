//! What always holds, whatever was committed. Each property has a name and a file; tests, the simulator and a debug
//! endpoint call the same functions.
//!
//! Some speak of one state, some of how a state follows from the one seen before: for those a [`Watch`] remembers what
//! it saw. Look after every command to catch everything; looking seldom only weakens what can be said of the steps
//! between. All of them walk all records.

mod completed_tasks_stay_completed;
mod counts_match_records;
mod dependencies_run_in_order;
mod every_waiting_task_has_a_reason;
mod fenced_attempts_change_nothing;
mod members_keep_their_numbers;
mod one_live_attempt_per_task;
mod preparations_come_first;
mod quotas_respected;
mod slots_never_oversubscribed;
mod terminated_jobs_start_nothing;
mod time_never_runs_backwards;

use super::cluster::Cluster;
use super::records::{TaskPlace, TaskRecord};
use super::reply::Version;
use lote_shared::model::{Attempt, JobKey, JobState, NodeKey, TaskKey, Timestamp};
use std::collections::BTreeMap;

/// A property that did not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{invariant}: {what}")]
pub struct Violation {
    pub invariant: &'static str,
    pub what: String,
}

/// What is remembered of a task.
#[derive(Debug, Clone, Copy)]
struct Seen {
    place: TaskPlace,
    attempt: Attempt,
    last_node: Option<NodeKey>,
    held_by: Option<NodeKey>,
    version: Version,
    state_changed: Timestamp,
}

impl Seen {
    fn of(task: &TaskRecord) -> Seen {
        Seen {
            place: task.place,
            attempt: task.attempt,
            last_node: task.last_node,
            held_by: task.held_by(),
            version: task.version,
            state_changed: task.state_changed,
        }
    }
}

/// The state seen before, as far as the properties need it.
#[derive(Debug, Default)]
pub struct Before {
    clock: Timestamp,
    tasks: BTreeMap<TaskKey, Seen>,
    jobs: BTreeMap<JobKey, JobState>,
    /// Numbers of coordinators by peer, and the last one given.
    numbers: BTreeMap<String, u64>,
    last_number: u64,
    /// Whether a state was seen for every command since the last look.
    every_step: bool,
}

type Check = fn(&Before, &Cluster) -> Result<(), String>;

/// Name and check of every property.
pub const ALL: [(&str, Check); 12] = [
    ("slots_never_oversubscribed", slots_never_oversubscribed::check),
    ("counts_match_records", counts_match_records::check),
    ("dependencies_run_in_order", dependencies_run_in_order::check),
    ("completed_tasks_stay_completed", completed_tasks_stay_completed::check),
    ("fenced_attempts_change_nothing", fenced_attempts_change_nothing::check),
    ("one_live_attempt_per_task", one_live_attempt_per_task::check),
    ("terminated_jobs_start_nothing", terminated_jobs_start_nothing::check),
    ("every_waiting_task_has_a_reason", every_waiting_task_has_a_reason::check),
    ("preparations_come_first", preparations_come_first::check),
    ("quotas_respected", quotas_respected::check),
    ("members_keep_their_numbers", members_keep_their_numbers::check),
    ("time_never_runs_backwards", time_never_runs_backwards::check),
];

/// Looks at a cluster again and again.
#[derive(Debug, Default)]
pub struct Watch {
    before: Before,
}

impl Watch {
    /// For looks after every single command, where more can be said.
    pub fn every_step() -> Watch {
        Watch { before: Before { every_step: true, ..Before::default() } }
    }

    /// For looks now and then.
    pub fn now_and_then() -> Watch {
        Watch::default()
    }

    /// Checks everything against the state now and the one seen before.
    pub fn look(&mut self, cluster: &Cluster) -> Result<(), Violation> {
        for (invariant, check) in ALL {
            check(&self.before, cluster).map_err(|what| Violation { invariant, what })?;
        }
        self.before = Before {
            clock: cluster.clock(),
            tasks: cluster.all_tasks().map(|task| (task.key, Seen::of(task))).collect(),
            jobs: cluster.all_jobs().map(|job| (job.key, job.state)).collect(),
            numbers: cluster
                .coordinators()
                .filter_map(|member| Some((member.peer.clone(), member.member?)))
                .collect(),
            last_number: cluster.membership.last_member,
            every_step: self.before.every_step,
        };
        Ok(())
    }
}

/// Fails with a message unless the condition holds.
fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}
