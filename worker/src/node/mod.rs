//! A node of this host: a slice granted to a pool, with its directory, slots and start task.
//!
//! * [`machine`]: what happens next; pure. [`prefetch`], [`retention`], [`start`] are its parts.
//! * [`memory`]: what survives a restart of the worker.

pub mod actor;
pub mod machine;
pub mod memory;
pub mod prefetch;
pub mod retention;
pub mod start;
