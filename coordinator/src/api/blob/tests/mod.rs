//! The interface end to end, in process: a real chunk store, the real records, requests signed anew.

mod appends;
mod batches;
mod containers;
mod copies;
mod objects;
mod policies;
pub(crate) mod rig;
mod signatures;
