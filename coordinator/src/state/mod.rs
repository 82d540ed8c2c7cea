//! The replicated state machine.
//!
//! [`Cluster`] takes committed [`Command`]s with the leader's time and answers with a [`Reply`], the store rows
//! that changed, and [`Event`]s for the shells. It never reads a clock, draws a random number, does I/O or follows
//! hash order, so every replica that applies the same log holds the same state.
//!
//! Everything apply reads is in memory, in `records`; what only the API or a node needs (command lines, files,
//! environments) is *cold*: written to the store as given and never looked at here.
//! After a restart [`Cluster::load`] rebuilds memory from the hot rows.

pub mod blobs;
mod cluster;
pub mod command;
pub mod keys;
pub mod records;
pub mod reply;

pub use cluster::{Batch, Cluster, Event, LoadError, Stamp};
pub use command::{Action, Command, Condition, IdempotencyKey};
pub use records::*;
pub use reply::{Outcome, Refusal, RefusalCode, Reply};
