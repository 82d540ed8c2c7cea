//! The worker.
pub mod attempt;
mod journal;
pub mod keeper;
pub mod layout;
pub mod node;
