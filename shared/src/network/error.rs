//! What can go wrong, as seen by a caller.

use super::protocol::Protocol;
use libp2p::{Multiaddr, PeerId};

/// Why the network could not be started or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on `{address}`: {reason}")]
    Listen { address: Multiaddr, reason: String },
    #[error("cannot set up the transport: {0}")]
    Transport(String),
    #[error("{0} is already being accepted")]
    AlreadyAccepted(Protocol),
}

/// Why a stream could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Our own allow-list or rules forbid it; nothing was sent.
    #[error("peer `{peer}` is not a member that serves {protocol}")]
    NotAllowed { peer: PeerId, protocol: Protocol },
    /// The peer's allow-list or rules forbid it.
    #[error("peer `{peer}` refused {protocol}: this machine's role may not open it")]
    Refused { peer: PeerId, protocol: Protocol },
    #[error("a machine does not open streams to itself")]
    ToSelf,
    /// Somebody else answered at every address of the peer.
    #[error("at `{address}` another peer answered: `{found}` instead of `{peer}`")]
    WrongPeer { peer: PeerId, found: PeerId, address: Multiaddr },
    /// This network was shut down.
    #[error("the network was shut down")]
    ShutDown,
    #[error("no address of peer `{0}` is known")]
    NoAddress(PeerId),
    /// No address of the peer answered.
    #[error("peer `{peer}` cannot be reached: {reason}")]
    Unreachable { peer: PeerId, reason: String },
    /// The peer does not (yet) accept this protocol.
    #[error("the peer does not serve this protocol now")]
    NotServed,
    /// Too many streams at the peer, or too many requests here.
    #[error("too many streams at once")]
    Busy,
    /// The connection broke, or the peer does not count us a member and cut it.
    #[error("the connection was lost")]
    ConnectionLost,
    #[error("opening the stream took too long")]
    Timeout,
}

impl OpenError {
    /// Whether the same call may succeed later without anybody changing a setting.
    pub fn is_retryable(&self) -> bool {
        match self {
            OpenError::NotAllowed { .. }
            | OpenError::Refused { .. }
            | OpenError::ToSelf
            | OpenError::WrongPeer { .. }
            | OpenError::ShutDown => false,
            OpenError::NoAddress(_)
            | OpenError::Unreachable { .. }
            | OpenError::NotServed
            | OpenError::Busy
            | OpenError::ConnectionLost
            | OpenError::Timeout => true,
        }
    }
}
