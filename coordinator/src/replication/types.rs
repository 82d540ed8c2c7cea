//! What openraft is told about our cluster, and how its values become bytes.
//!
//! The bytes are ours, not a derived encoding of openraft's types: log and snapshots outlive its versions.

use super::log::{self, EntryId};
use super::snapshot::SnapshotFile;
use crate::state::{Command, Reply, command};
use bytes::{BufMut, Bytes, BytesMut};
use lote_shared::model::Timestamp;
use lote_shared::protocol::codec;
use openraft::impls::OneshotResponder;
use openraft::{EntryPayload, LogId, Membership, RaftTypeConfig, StoredMembership};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

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
    #[error("its payload has version {0}")]
    Version(u8),
    #[error("its payload is cut short")]
    Short,
    #[error("its payload has {0} bytes too many")]
    Trailing(usize),
    #[error("command {number}: {why}")]
    Command { number: usize, why: codec::Error },
    #[error("its membership: {0}")]
    Membership(codec::Error),
    #[error("unknown kind {0}")]
    Kind(u8),
}

/// What one entry carries: the leader's time and the commands that gathered, as bytes
/// `version u8 │ now u64 │ count u32 │ count × (length u32 │ command)`, little-endian.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(Bytes);

const PAYLOAD_VERSION: u8 = 1;

impl Payload {
    /// `commands` in their encoded form.
    pub fn new<'a>(now: Timestamp, commands: impl ExactSizeIterator<Item = &'a [u8]>) -> Payload {
        let mut out = BytesMut::new();
        out.put_u8(PAYLOAD_VERSION);
        out.put_u64_le(now.0);
        out.put_u32_le(commands.len() as u32);
        for command in commands {
            out.put_u32_le(command.len() as u32);
            out.put_slice(command);
        }
        Payload(out.freeze())
    }

    /// The leader's time alone.
    pub fn now(&self) -> Result<Timestamp, Error> {
        Ok(self.parts()?.0)
    }

    pub fn decode(&self) -> Result<(Timestamp, Vec<Command>), Error> {
        let (now, count, mut rest) = self.parts()?;
        // Every command takes four bytes at least, so a made-up count allocates nothing large.
        let mut commands = Vec::with_capacity((count as usize).min(rest.len() / 4));
        for number in 0..count as usize {
            let (length, after) = rest.split_first_chunk::<4>().ok_or(Error::Short)?;
            let length = u32::from_le_bytes(*length) as usize;
            let command = after.get(..length).ok_or(Error::Short)?;
            rest = &after[length..];
            commands.push(Command::decode(command).map_err(|why| Error::Command { number, why })?);
        }
        if rest.is_empty() { Ok((now, commands)) } else { Err(Error::Trailing(rest.len())) }
    }

    fn parts(&self) -> Result<(Timestamp, u32, &[u8]), Error> {
        let (version, rest) = self.0.split_first().ok_or(Error::Short)?;
        if *version != PAYLOAD_VERSION {
            return Err(Error::Version(*version));
        }
        let (now, rest) = rest.split_first_chunk::<8>().ok_or(Error::Short)?;
        let (count, rest) = rest.split_first_chunk::<4>().ok_or(Error::Short)?;
        Ok((Timestamp(u64::from_le_bytes(*now)), u32::from_le_bytes(*count), rest))
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.0.len())
    }
}

impl Serialize for Payload {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Payload, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Payload;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Payload, E> {
                Ok(Payload(Bytes::copy_from_slice(bytes)))
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Payload, E> {
                Ok(Payload(Bytes::from(bytes)))
            }
        }
        deserializer.deserialize_byte_buf(Visitor)
    }
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
            body.reserve(1 + payload.0.len());
            body.put_u8(KIND_NORMAL);
            body.put_slice(&payload.0);
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
        None => return Err(Error::Short),
        Some(&KIND_BLANK) if entry.body.len() == 1 => EntryPayload::Blank,
        Some(&KIND_NORMAL) => EntryPayload::Normal(Payload(entry.body.slice(1..))),
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
    use crate::state::{Action, IdempotencyKey};
    use lote_shared::model::AccountId;

    fn command(name: &str) -> Command {
        let action = Action::AccountAdd { name: name.to_owned(), keys: vec![] };
        Command { account: AccountId(1), key: IdempotencyKey(7), action }
    }

    #[test]
    fn payloads_come_back_and_malformed_ones_are_refused() {
        let commands = [command("a"), command("b")];
        let bytes: Vec<Vec<u8>> = commands.iter().map(|command| command.encode().unwrap()).collect();
        let payload = Payload::new(Timestamp(77), bytes.iter().map(Vec::as_slice));
        assert_eq!(payload.decode().unwrap(), (Timestamp(77), commands.to_vec()));
        assert_eq!(payload.now().unwrap(), Timestamp(77));
        for size in 0..payload.0.len() {
            assert!(Payload(payload.0.slice(..size)).decode().is_err(), "cut at {size}");
        }
        let mut longer = payload.0.to_vec();
        longer.push(0);
        assert!(matches!(Payload(longer.into()).decode(), Err(Error::Trailing(1))));
        let mut many = payload.0.to_vec();
        many[9..13].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(Payload(many.into()).decode(), Err(Error::Short)));
        let serde = codec::encode(1, &payload).unwrap();
        assert_eq!(codec::decode::<Payload>(1, &serde, 10_000).unwrap(), payload);
    }

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
