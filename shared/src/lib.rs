//! What both sides of Lote speak: domain types, wire messages, the network and the chunk store.
//!
//! * [`model`]: pools, nodes, jobs, tasks, files, time. Plain data, no I/O.
//! * [`protocol`]: versioned messages between hosts and coordinators, and the codec that bounds them.
//! * [`network`]: libp2p identity, admission, sessions and streams. Knows nothing about batch.
//! * [`chunks`]: the content-addressed chunk store, manifests, and the fetcher.
//! * [`machine`]: which machine this is.

pub mod chunks;
pub mod machine;
pub mod model;
pub mod network;
pub mod protocol;
pub mod turns;
