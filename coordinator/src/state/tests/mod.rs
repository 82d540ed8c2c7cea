//! Scenarios of the specs as far as the core decides them; named after their rows.

mod attempts;
mod jobs;
mod members;
mod outputs;
mod pools;
mod random;
mod replay;
mod tasks;
