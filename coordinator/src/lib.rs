//! The coordinator: replicated state, scheduling, supervised pools, and the REST interfaces.
//!
//! A request becomes a [`state::Command`]; [`engine::Engine`] has it made durable and applied; what changed wakes
//! the actor groups of [`pools`], which ask [`scheduling`] what to do and propose the next commands.
//!
//! Who owns what: [`state`] and [`scheduling`] decide and own no thread; [`replication`] and [`store`] own the
//! disk; [`pools`] owns soft state only; [`api`] owns nothing.

pub mod api;
pub mod clock;
pub mod data;
pub mod directory;
pub mod engine;
pub mod join;
pub mod leadership;
pub mod members;
pub mod node_files;
pub mod pools;
pub mod replication;
pub mod scheduling;
pub mod service;
pub mod state;
pub mod store;
pub mod versions;
