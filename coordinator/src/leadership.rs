//! Who leads, as everything above replication sees it: published by [`crate::replication`], watched by whatever only
//! the leader does (actor tree, sessions, sweepers) and by whoever has to send a caller there.

use crate::replication::MemberId;

/// The member that leads, and the way to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    pub member: MemberId,
    /// Its libp2p peer id; empty in a cluster that has no network.
    pub peer: String,
    /// Where it can be dialled, as multiaddresses.
    pub addresses: Vec<String>,
}

/// A look at the leadership of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leadership {
    pub term: u64,
    /// As far as this member knows.
    pub leader: Option<Leader>,
    /// This member leads, and has applied everything that was committed before its term.
    pub is_ours: bool,
}
