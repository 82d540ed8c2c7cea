//! What is spoken on a stream, and who may speak it.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a member of the cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    Coordinator,
    Worker,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Coordinator => "coordinator",
            Role::Worker => "worker",
        })
    }
}

/// One kind of stream. Each has its own name on the wire, roles, and limits, so that none can starve another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// A host's long-lived conversation with the leader (`protocol::host`).
    Session,
    /// Reading a node's files (`protocol::files`).
    Files,
    /// Chunks of content between any two members.
    Data,
    /// Replication between coordinators: entries, heartbeats, votes.
    Raft,
    /// Snapshots of the replicated state between coordinators, apart from what must not wait behind them.
    Snapshot,
    /// What a coordinator that does not lead asks of the one that does.
    Engine,
    /// Which build a coordinator is (`protocol::build`).
    Build,
    /// As `Data`, from a worker to a coordinator that refuses outputs of attempts that were given up. A name of its own, so
    /// that a worker knows before it gives anything away whether the coordinator understands it.
    Output,
    /// Content between hosts, and the plan of who pulls it from whom (`protocol::swarm`).
    Swarm,
    /// What coordinators ask each other about the chunks they keep (`protocol::storage`).
    Storage,
}

impl Protocol {
    /// Every protocol, in the order of [`Protocol::index`].
    pub const ALL: [Protocol; 10] = [
        Protocol::Session,
        Protocol::Files,
        Protocol::Data,
        Protocol::Raft,
        Protocol::Snapshot,
        Protocol::Engine,
        Protocol::Build,
        Protocol::Output,
        Protocol::Swarm,
        Protocol::Storage,
    ];

    /// The name negotiated on the wire; the last part is the version of the protocol's framing.
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Session => "/lote/session/1",
            Protocol::Files => "/lote/files/1",
            Protocol::Data => "/lote/data/1",
            Protocol::Raft => "/lote/raft/1",
            Protocol::Snapshot => "/lote/snapshot/1",
            Protocol::Engine => "/lote/engine/1",
            Protocol::Build => "/lote/build/1",
            Protocol::Output => "/lote/output/1",
            Protocol::Swarm => "/lote/swarm/1",
            Protocol::Storage => "/lote/storage/1",
        }
    }

    /// Whether a member of this role may open such a stream to another.
    pub const fn may_open(self, role: Role) -> bool {
        match self {
            Protocol::Session | Protocol::Output | Protocol::Swarm => matches!(role, Role::Worker),
            Protocol::Files
            | Protocol::Raft
            | Protocol::Snapshot
            | Protocol::Engine
            | Protocol::Build
            | Protocol::Storage => matches!(role, Role::Coordinator),
            Protocol::Data => true,
        }
    }

    /// Whether a member of this role serves such streams. Coordinators serve `Files` too: a follower relays
    /// through the coordinator that holds the host's session.
    pub const fn may_serve(self, role: Role) -> bool {
        match self {
            Protocol::Session
            | Protocol::Raft
            | Protocol::Snapshot
            | Protocol::Engine
            | Protocol::Build
            | Protocol::Output
            | Protocol::Storage => matches!(role, Role::Coordinator),
            Protocol::Files | Protocol::Data | Protocol::Swarm => true,
        }
    }

    /// Most streams that one peer may hold open to us at a time.
    ///
    /// A session needs one; the spare ones let a host come back before its broken connection was noticed here.
    pub const fn streams_per_peer_max(self) -> usize {
        match self {
            Protocol::Session | Protocol::Snapshot | Protocol::Build | Protocol::Storage => 4,
            Protocol::Files
            | Protocol::Data
            | Protocol::Output
            | Protocol::Swarm
            | Protocol::Raft
            | Protocol::Engine => 16,
        }
    }

    /// Accepted streams that wait for [`super::Incoming::next`]; when full, further ones are refused as busy.
    pub(super) const fn accept_queue_max(self) -> usize {
        match self {
            Protocol::Session => 256,
            Protocol::Snapshot | Protocol::Build | Protocol::Storage => 4,
            Protocol::Files
            | Protocol::Data
            | Protocol::Output
            | Protocol::Swarm
            | Protocol::Raft
            | Protocol::Engine => 64,
        }
    }

    /// Largest frame in bytes, header included. Bulk content travels as raw bytes after a small header frame.
    pub const fn frame_bytes_max(self) -> u32 {
        match self {
            Protocol::Session | Protocol::Raft | Protocol::Engine => 16 * 1024 * 1024,
            Protocol::Snapshot => 64 * 1024,
            Protocol::Build => 1024,
            Protocol::Files | Protocol::Data | Protocol::Output | Protocol::Swarm | Protocol::Storage => {
                1024 * 1024
            }
        }
    }

    /// Schema version of the frames, checked by the codec.
    pub const fn frame_version(self) -> u8 {
        1
    }

    pub(super) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_protocol_has_a_place_of_its_own() {
        for (position, protocol) in Protocol::ALL.into_iter().enumerate() {
            assert_eq!(protocol.index(), position);
            assert!(Protocol::ALL.iter().filter(|other| other.name() == protocol.name()).count() == 1);
        }
    }

    #[test]
    fn roles_per_protocol() {
        use Role::{Coordinator, Worker};
        let cases = [
            // protocol, coordinator opens, worker opens, coordinator serves, worker serves
            (Protocol::Session, false, true, true, false),
            (Protocol::Files, true, false, true, true),
            (Protocol::Data, true, true, true, true),
            (Protocol::Raft, true, false, true, false),
            (Protocol::Snapshot, true, false, true, false),
            (Protocol::Engine, true, false, true, false),
            (Protocol::Build, true, false, true, false),
            (Protocol::Output, false, true, true, false),
            (Protocol::Swarm, false, true, true, true),
            (Protocol::Storage, true, false, true, false),
        ];
        for (protocol, coordinator_opens, worker_opens, coordinator_serves, worker_serves) in cases {
            assert_eq!(protocol.may_open(Coordinator), coordinator_opens, "{protocol}");
            assert_eq!(protocol.may_open(Worker), worker_opens, "{protocol}");
            assert_eq!(protocol.may_serve(Coordinator), coordinator_serves, "{protocol}");
            assert_eq!(protocol.may_serve(Worker), worker_serves, "{protocol}");
        }
    }
}
