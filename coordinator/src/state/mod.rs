//! The replicated state machine.
//!
//! [`Cluster`] takes committed [`Command`]s with the leader's time and answers with a [`Reply`], the store rows
//! that changed, and [`Event`]s for the shells. It never reads a clock, draws a random number, does I/O or follows
//! hash order, so every replica that applies the same log holds the same state.
//!
//! Everything apply reads is in memory, in `records`; what only the API or a node needs (command lines, files,
//! environments) is *cold*: written to the store as given and never looked at here.
//! After a restart [`Cluster::load`] rebuilds memory from the hot rows.

//!
//! Where to read on: [`Cluster::apply`] for the order of things, `attempts` for the heart of it (who may run what,
//! and what an end means), `cursors` for work longer than one apply, `index` for what is kept beside the records,
//! `query` for what others may ask, [`invariants`] for what always holds.

mod applications;
mod attempts;
pub mod blobs;
mod chores;
mod cluster;
pub mod command;
mod condition;
mod cursors;
mod dependencies;
mod digest;
mod draining;
mod exits;
mod extras;
mod hosts;
mod idempotency;
mod index;
mod intervals;
pub mod invariants;
mod jobs;
pub mod keys;
mod leaving;
pub mod members;
mod nodes;
mod past;
mod pools;
pub mod query;
pub mod records;
pub mod reply;
mod schedules;
mod step;
mod table;
mod tasks;
pub mod testing;
mod timetable;
pub mod version;

pub use applications::{APPLICATIONS_MAX, PACKAGES_MAX};
pub use attempts::{INTERNAL_FAULTS_MAX, TASK_LIFETIME_MS, held_slots_max};
pub use cluster::{Batch, Cluster, DepartedNode, Event, LoadError, Stamp};
pub use command::{Action, Admission, Command, Condition, IdempotencyKey, TokenClaim};
pub use dependencies::Dependency;
pub use index::{Deadline, Needs, NodeCounts, NodeLoad};
pub use jobs::{EMPTY_GRACE_MS, JOBS_ACTIVE_MAX};
pub use nodes::DEPARTED_MAX;
pub use pools::POOLS_MAX;
pub use records::*;
pub use reply::{MembershipCode, Outcome, Refusal, RefusalCode, Reply};
pub use step::{RECORDS_MAX, ROW_VERSION};
pub use version::ClusterVersion;

#[cfg(test)]
pub(crate) mod tests;
