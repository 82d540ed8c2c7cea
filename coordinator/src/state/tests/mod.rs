//! Scenarios of the specs as far as the core decides them; named after their rows.

mod applications;
mod attempts;
mod chores;
mod dependencies;
mod draining;
mod jobs;
mod members;
mod outputs;
mod pools;
pub(crate) mod random;
mod replay;
mod schedules;
mod special;
mod tasks;
mod version;
