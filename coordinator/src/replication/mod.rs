//! Replication. (In progress.)
mod applied;
mod clock;
pub mod log;
mod log_store;
mod network;
mod snapshot;
mod types;
