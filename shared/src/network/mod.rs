//! Streams between members of the cluster, over libp2p (TCP, Noise, Yamux). Knows nothing about batch.
//!
//! ```text
//!   Network (handle, clones)            Driver (one task, owns the swarm)
//!     set_allowed ── Members ───────────► cuts who left
//!     add_address ── AddressBook ───────► dials
//!     open ── bounded queue ────────────► request ──► Handler (in the connection's task) ──► stream
//!     accept ◄── bounded queue per protocol ◄── role, limits, answer byte ◄── Handler ◄── inbound stream
//! ```
//!
//! * Whoever is not on the allow-list gets a handshake and nothing more; every protocol has roles that may open and
//!   serve it ([`Protocol`]).
//! * The opener learns from the first byte whether its stream was taken; busy peers are tried again with jitter.
//! * A broken connection is made anew by the next [`Network::open`]; nothing here redials by itself.
//! * Everything is bounded: queues, streams per peer and protocol, handshakes, connections, frames.
//!
//! The identity file is all that survives a crash. Allow-list and addresses are given anew by whoever keeps them.

mod addresses;
mod admission;
mod behaviour;
mod config;
mod driver;
mod error;
mod handle;
mod handler;
pub mod identity;
mod members;
mod patient;
mod protocol;
pub mod rate;
mod stream;
#[cfg(test)]
mod tests;

pub use config::Config;
pub use error::{Error, OpenError};
pub use handle::{Incoming, Network};
pub use identity::Identity;
pub use libp2p::{Multiaddr, PeerId};
pub use patient::Patient;
pub use protocol::{Protocol, Role};
pub use stream::{ReceiveHalf, SendHalf, Stream, StreamError};

use libp2p::multiaddr::Protocol as MultiaddrProtocol;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use tokio_util::sync::CancellationToken;

/// A peer's first connection came up, or its last went down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionEvent {
    Connected(PeerId),
    Disconnected(PeerId),
}

/// What handles, the driver and the connections' tasks all look at.
#[derive(Default)]
struct Shared {
    members: members::Members,
    acceptors: admission::Acceptors,
    addresses: addresses::AddressBook,
    listen_addresses: Mutex<Vec<Multiaddr>>,
    connected: Mutex<BTreeSet<PeerId>>,
    /// Fires when the driver has ended.
    stopped: CancellationToken,
}
