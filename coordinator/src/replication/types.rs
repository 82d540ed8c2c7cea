//! What openraft is told about our cluster, and how its values become bytes.
//!
//! The bytes are ours, not a derived encoding of openraft's types: log and snapshots outlive its versions.

use super::log::{self, EntryId};
use super::payload::Payload;
use super::snapshot::SnapshotFile;
use crate::state::{Reply, command};
use bytes::{BufMut, BytesMut};
use lote_shared::protocol::codec;
use openraft::impls::OneshotResponder;
use openraft::{EntryPayload, LogId, Membership, RaftTypeConfig, StoredMembership};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Number of a coordinator; a member that lost its log comes back under a new one.
pub type MemberId = u64;

/// What members know of each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The libp2p peer id; empty while there is one coordinator without a network.
    pub peer: String,
    /// Where it can be dialled, as multiaddresses.
    pub addresses: Vec<String>,
}

openraft::declare_raft_types!(
    /// openraft with our types on tokio.
    pub TypeConfig:
        D = Payload,
        R = Replies,
        NodeId = MemberId,
        Node = Member,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = SnapshotFile,
        Responder = OneshotResponder<TypeConfig>,
        AsyncRuntime = openraft::TokioRuntime,
);

/// Any openraft configuration with our types: the simulator brings another runtime.
pub trait Types:
    RaftTypeConfig<
        D = Payload,
        R = Replies,
        NodeId = MemberId,
        Node = Member,
        Entry = openraft::Entry<Self>,
        SnapshotData = SnapshotFile,
        Responder = OneshotResponder<Self>,
    >
{
}

impl<C> Types for C where
    C: RaftTypeConfig<
            D = Payload,
            R = Replies,
            NodeId = MemberId,
            Node = Member,
            Entry = openraft::Entry<C>,
            SnapshotData = SnapshotFile,
            Responder = OneshotResponder<C>,
        >
{
}

/// The replies to an entry's commands, in their order; none for entries without commands.
pub type Replies = Vec<Reply>;

/// Why an entry's bytes cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("it is empty")]
    Empty,
    #[error("its membership: {0}")]
    Membership(codec::Error),
    #[error("unknown kind {0}")]
    Kind(u8),
}

/// Limits of one entry: so many commands, so many bytes of commands.
pub const COMMANDS_MAX: usize = 2_000;
pub const COMMAND_BYTES_MAX: usize = 1024 * 1024;
const _: () = assert!(COMMAND_BYTES_MAX >= 4 * command::SIZE_MAX as usize);

const KIND_BLANK: u8 = 0;
const KIND_NORMAL: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;

/// A membership as it is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipRow {
    configs: Vec<BTreeSet<MemberId>>,
    nodes: BTreeMap<MemberId, Member>,
}

impl MembershipRow {
    /// Who votes: one set, or two while that changes.
    pub fn voters(&self) -> &[BTreeSet<MemberId>] {
        &self.configs
    }
}

const MEMBERSHIP_VERSION: u8 = 1;
const MEMBERSHIP_BYTES_MAX: u64 = 1024 * 1024;

impl From<&Membership<MemberId, Member>> for MembershipRow {
    fn from(membership: &Membership<MemberId, Member>) -> MembershipRow {
        MembershipRow {
            configs: membership.get_joint_config().clone(),
            nodes: membership.nodes().map(|(id, member)| (*id, member.clone())).collect(),
        }
    }
}

impl From<MembershipRow> for Membership<MemberId, Member> {
    fn from(row: MembershipRow) -> Membership<MemberId, Member> {
        Membership::new(row.configs, row.nodes)
    }
}

/// An openraft entry as the log keeps it.
pub fn to_log<C: Types>(entry: &openraft::Entry<C>) -> Result<log::Entry, codec::Error> {
    let mut body = BytesMut::new();
    match &entry.payload {
        EntryPayload::Blank => body.put_u8(KIND_BLANK),
        EntryPayload::Normal(payload) => {
            body.reserve(1 + payload.bytes().len());
            body.put_u8(KIND_NORMAL);
            body.put_slice(payload.bytes());
        }
        EntryPayload::Membership(membership) => {
            body.put_u8(KIND_MEMBERSHIP);
            body.put_slice(&codec::encode(MEMBERSHIP_VERSION, &MembershipRow::from(membership))?);
        }
    }
    Ok(log::Entry { id: to_id(&entry.log_id), body: body.freeze() })
}

/// The entry that the log kept; its payload shares the log's bytes.
pub fn from_log<C: Types>(entry: &log::Entry) -> Result<openraft::Entry<C>, Error> {
    let payload = match entry.body.first() {
        None => return Err(Error::Empty),
        Some(&KIND_BLANK) if entry.body.len() == 1 => EntryPayload::Blank,
        Some(&KIND_NORMAL) => EntryPayload::Normal(Payload::from_bytes(entry.body.slice(1..))),
        Some(&KIND_MEMBERSHIP) => {
            let row: MembershipRow =
                codec::decode(MEMBERSHIP_VERSION, &entry.body[1..], MEMBERSHIP_BYTES_MAX)
                    .map_err(Error::Membership)?;
            EntryPayload::Membership(row.into())
        }
        Some(&kind) => return Err(Error::Kind(kind)),
    };
    Ok(openraft::Entry { log_id: from_id(entry.id), payload })
}

pub fn to_id(id: &LogId<MemberId>) -> EntryId {
    EntryId { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
}

pub fn from_id(id: EntryId) -> LogId<MemberId> {
    LogId::new(openraft::CommittedLeaderId::new(id.term, id.node), id.index)
}

/// Which entry made the membership, and what it is.
pub fn stored_membership(id: Option<EntryId>, row: &MembershipRow) -> StoredMembership<MemberId, Member> {
    StoredMembership::new(id.map(from_id), row.clone().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use lote_shared::model::Timestamp;

    #[test]
    fn entries_of_every_kind_pass_through_the_log() {
        let member = Member { peer: "p".to_owned(), addresses: vec!["/ip4/127.0.0.1".to_owned()] };
        let nodes = BTreeMap::from([(1, member.clone()), (2, Member::default()), (3, member)]);
        let membership = Membership::new(vec![BTreeSet::from([1, 2]), BTreeSet::from([1])], nodes);
        let payloads: Vec<EntryPayload<TypeConfig>> = vec![
            EntryPayload::Blank,
            EntryPayload::Normal(Payload::new(Timestamp(5), std::iter::empty())),
            EntryPayload::Membership(membership),
        ];
        for (index, payload) in payloads.into_iter().enumerate() {
            let id = EntryId { term: 3, node: 2, index: index as u64 };
            let entry = openraft::Entry::<TypeConfig> { log_id: from_id(id), payload };
            let kept = to_log(&entry).unwrap();
            assert_eq!(from_log::<TypeConfig>(&kept).unwrap(), entry);
        }
        for body in [&b""[..], b"\x00x", b"\x09", b"\x02\x01\x01"] {
            let entry = log::Entry { id: EntryId::default(), body: Bytes::from_static(body) };
            assert!(from_log::<TypeConfig>(&entry).is_err(), "{body:?}");
        }
    }
}
