//! Replication: the Raft log and, on top of it, openraft and the driver of the engine. (In progress.)

pub mod log;
