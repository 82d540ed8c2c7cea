//! The worker.
pub mod attempt;
pub mod keeper;
pub mod layout;
