//! The worker.
pub mod attempt;
pub mod files;
mod journal;
pub mod keeper;
pub mod layout;
pub mod node;
