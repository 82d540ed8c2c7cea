//! One attempt of a task on this host.
pub mod environment;
pub mod machine;
pub mod pattern;
