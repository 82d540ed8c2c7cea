//! The worker.
pub mod keeper;
