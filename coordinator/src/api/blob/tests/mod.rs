//! The interface end to end, in process: a real chunk store, the real records, requests signed anew.

mod containers;
mod objects;
pub(crate) mod rig;
mod signatures;
