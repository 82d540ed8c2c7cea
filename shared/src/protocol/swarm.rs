//! `/lote/swarm/1`: hosts bring content to each other.
//!
//! Two kinds of conversation, told apart by the first request. With a coordinator a host speaks about one content: it
//! says that it wants it ([`Request::Want`]) and is told from whom to pull, best first; it says how far it is and which
//! source failed, and is told anew. With any holder, hosts and coordinators alike, it asks for chunks by name
//! ([`Request::Pull`]), several ahead; they are answered in order. A holder that is still receiving a chunk passes on
//! each unit as it has verified it, and says every [`MARK_EVERY`] that it lives while it has nothing to pass on.
//!
//! ```text
//!  Pull ─►  [Waiting …] Chunk { length, trailer }  then for each unit of 64 KiB: [0 …] 1 and its bytes
//!                       Missing                    not here, and not on its way
//! ```
//! Frames are those of [`super::data`].

use crate::chunks::ChunkId;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A source that has nothing to pass on says so as often.
pub const MARK_EVERY: Duration = Duration::from_millis(200);
/// Before the bytes of a unit.
pub const UNIT_FOLLOWS: u8 = 1;
/// In place of a unit: wait.
pub const WAIT: u8 = 0;
/// Most sources of one answer.
pub const SOURCES_MAX: usize = 8;
/// Most addresses of one host.
pub const ADDRESSES_MAX: usize = 8;
/// Longest address that is looked at.
pub const ADDRESS_MAX: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The host needs this content and holds so many bytes of it; it can be reached at these multiaddresses.
    Want { content: ChunkId, length: u64, have: u64, addresses: Vec<String> },
    /// It holds so many bytes by now. Not answered.
    Progress { have: u64 },
    /// A source is no good; answered with others.
    Failed { source: Option<String>, why: Trouble },
    /// It holds all of it. Not answered, and the end of the conversation.
    Done,
    /// A chunk, please.
    Pull { id: ChunkId },
}

/// What is wrong with a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trouble {
    /// Cannot be reached, broke off, or fell silent.
    Dead,
    /// Lives, but has had nothing to pass on for long.
    Slow,
    /// Does not hold the content.
    Missing,
    /// Sent bytes that do not belong to the name.
    Lying,
}

/// Where to pull from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// The coordinator that says so.
    Coordinator,
    Host {
        peer: String,
        addresses: Vec<String>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// Best first; the last is always the coordinator.
    Sources(Vec<Source>),
    Chunk {
        length: u32,
        trailer: Vec<u8>,
    },
    Waiting,
    Missing,
    /// The request makes no sense here.
    Invalid(String),
}
