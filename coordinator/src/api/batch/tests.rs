//! The interface as clients use it: the real actix application over the real state machine, without a log and
//! without a network.

mod files;
mod jobs;
mod pools;
mod protocol;
mod server;
mod socket;
mod tasks;
