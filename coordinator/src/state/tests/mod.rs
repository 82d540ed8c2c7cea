//! Scenarios of the specs as far as the core decides them; named after their rows.

mod attempts;
mod jobs;
mod members;
mod pools;
pub(crate) mod random;
mod replay;
mod tasks;
mod version;
