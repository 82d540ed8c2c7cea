//! Replication. (In progress.)
mod applied;
mod applier;
mod clock;
mod driver;
pub mod log;
mod log_store;
mod machine;
mod network;
mod snapshot;
mod state_machine;
mod types;
