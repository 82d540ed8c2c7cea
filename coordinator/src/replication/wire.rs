//! What coordinators say to each other, as it goes over the wire.
//!
//! These are our own types, not openraft's derived ones: two builds of Lote may use different versions of it. The
//! network's codec puts format and schema version before each message and checks every length.

use super::log::{self, EntryId};
use super::types::{self, MemberId, Types};
use bytes::Bytes;
use lote_shared::protocol::codec;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use openraft::{LogId, Vote};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Bytes of entries in one request, about: a link of 100 Mbit/s carries them within a heartbeat. One entry may be
/// larger, and is far below the limit of a frame.
pub const APPEND_BYTES_MAX: usize = 1024 * 1024;
/// Entries that one request may claim to bring.
const APPEND_ENTRIES_MAX: usize = 4_096;

/// Bytes that are copied as a whole.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Blob(pub Bytes);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.0.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Blob, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Blob;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(Bytes::copy_from_slice(bytes)))
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Blob, E> {
                Ok(Blob(Bytes::from(bytes)))
            }
        }
        deserializer.deserialize_byte_buf(Visitor)
    }
}

/// A vote: term, member, whether a quorum granted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireVote {
    pub term: u64,
    pub member: MemberId,
    pub committed: bool,
}

impl From<Vote<MemberId>> for WireVote {
    fn from(vote: Vote<MemberId>) -> WireVote {
        WireVote { term: vote.leader_id.term, member: vote.leader_id.node_id, committed: vote.committed }
    }
}

impl From<WireVote> for Vote<MemberId> {
    fn from(vote: WireVote) -> Vote<MemberId> {
        if vote.committed {
            Vote::new_committed(vote.term, vote.member)
        } else {
            Vote::new(vote.term, vote.member)
        }
    }
}

/// Place of an entry: term and member of the leader that made it, index. Of two logs the one with the greater last
/// entry has more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WireId(u64, MemberId, u64);

impl From<LogId<MemberId>> for WireId {
    fn from(id: LogId<MemberId>) -> WireId {
        WireId(id.leader_id.term, id.leader_id.node_id, id.index)
    }
}

impl From<EntryId> for WireId {
    fn from(id: EntryId) -> WireId {
        WireId(id.term, id.node, id.index)
    }
}

impl From<WireId> for EntryId {
    fn from(id: WireId) -> EntryId {
        EntryId { term: id.0, node: id.1, index: id.2 }
    }
}

impl From<WireId> for LogId<MemberId> {
    fn from(id: WireId) -> LogId<MemberId> {
        types::from_id(EntryId { term: id.0, node: id.1, index: id.2 })
    }
}

/// An entry: its place, and its body as the log keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireEntry {
    id: WireId,
    body: Blob,
}

/// What a member asks on a Raft stream. Grows only at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RaftQuestion {
    Append {
        vote: WireVote,
        prev: Option<WireId>,
        committed: Option<WireId>,
        entries: Vec<WireEntry>,
    },
    Vote {
        vote: WireVote,
        last: Option<WireId>,
    },
    /// How far the one who was asked, while it led, saw this member's log on stable storage.
    Remembered {
        member: MemberId,
    },
    /// From the leader with this vote: so far it saw the one who is told have its log on stable storage.
    Confirmed {
        vote: WireVote,
        last: Option<WireId>,
    },
    /// What time is it? Asked by this member.
    Clock {
        member: MemberId,
    },
}

/// The answer to a [`RaftQuestion`]. Grows only at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RaftAnswer {
    Appended,
    AppendedUpTo(Option<WireId>),
    Conflict,
    HigherVote(WireVote),
    Voted {
        vote: WireVote,
        granted: bool,
        last: Option<WireId>,
    },
    /// The request was not taken, with the reason in words.
    Refused(String),
    /// The leader's vote at that time, and the entry.
    Remembered(Option<(WireVote, Option<WireId>)>),
    /// The wall clock, in milliseconds since 1970.
    Clock {
        wall_ms: u64,
    },
}

/// Why a message cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("entry {index}: {why}")]
    Entry { index: u64, why: types::Error },
    #[error("{0} entries in one request")]
    TooMany(usize),
    #[error("the entries do not follow each other at index {0}")]
    Order(u64),
}

impl RaftQuestion {
    /// The member that speaks.
    pub fn from(&self) -> MemberId {
        match self {
            RaftQuestion::Append { vote, .. }
            | RaftQuestion::Vote { vote, .. }
            | RaftQuestion::Confirmed { vote, .. } => vote.member,
            RaftQuestion::Remembered { member } => *member,
            RaftQuestion::Clock { member } => *member,
        }
    }

    /// As many of the request's entries as fit, and the last one of them if that is not all.
    pub fn append<C: Types>(
        request: AppendEntriesRequest<C>,
    ) -> Result<(RaftQuestion, Option<LogId<MemberId>>), codec::Error> {
        let mut entries = Vec::with_capacity(request.entries.len());
        let (mut bytes, mut cut) = (0, None);
        for entry in &request.entries {
            let log::Entry { body, .. } = types::to_log::<C>(entry)?;
            bytes += body.len();
            if !entries.is_empty() && (bytes > APPEND_BYTES_MAX || entries.len() >= APPEND_ENTRIES_MAX) {
                cut = entries.last().map(|last: &WireEntry| last.id.into());
                break;
            }
            entries.push(WireEntry { id: entry.log_id.into(), body: Blob(body) });
        }
        let question = RaftQuestion::Append {
            vote: request.vote.into(),
            prev: request.prev_log_id.map(WireId::from),
            committed: request.leader_commit.map(WireId::from),
            entries,
        };
        Ok((question, cut))
    }

    pub fn vote(request: &VoteRequest<MemberId>) -> RaftQuestion {
        RaftQuestion::Vote { vote: request.vote.into(), last: request.last_log_id.map(WireId::from) }
    }
}

/// The request for openraft. What it asserts of its callers is checked here.
pub fn append_request<C: Types>(
    vote: WireVote,
    prev: Option<WireId>,
    committed: Option<WireId>,
    entries: Vec<WireEntry>,
) -> Result<AppendEntriesRequest<C>, Error> {
    if entries.len() > APPEND_ENTRIES_MAX {
        return Err(Error::TooMany(entries.len()));
    }
    let mut next = prev.map_or(0, |prev| prev.2.saturating_add(1));
    let mut whole = Vec::with_capacity(entries.len());
    for WireEntry { id, body } in entries {
        if id.2 != next {
            return Err(Error::Order(id.2));
        }
        next = next.saturating_add(1);
        let entry = log::Entry { id: EntryId { term: id.0, node: id.1, index: id.2 }, body: body.0 };
        whole.push(types::from_log::<C>(&entry).map_err(|why| Error::Entry { index: id.2, why })?);
    }
    Ok(AppendEntriesRequest {
        vote: vote.into(),
        prev_log_id: prev.map(LogId::from),
        entries: whole,
        leader_commit: committed.map(LogId::from),
    })
}

impl From<AppendEntriesResponse<MemberId>> for RaftAnswer {
    fn from(response: AppendEntriesResponse<MemberId>) -> RaftAnswer {
        match response {
            AppendEntriesResponse::Success => RaftAnswer::Appended,
            AppendEntriesResponse::PartialSuccess(upto) => RaftAnswer::AppendedUpTo(upto.map(WireId::from)),
            AppendEntriesResponse::Conflict => RaftAnswer::Conflict,
            AppendEntriesResponse::HigherVote(vote) => RaftAnswer::HigherVote(vote.into()),
        }
    }
}

impl From<VoteResponse<MemberId>> for RaftAnswer {
    fn from(response: VoteResponse<MemberId>) -> RaftAnswer {
        RaftAnswer::Voted {
            vote: response.vote.into(),
            granted: response.vote_granted,
            last: response.last_log_id.map(WireId::from),
        }
    }
}

/// The first frame on a snapshot stream; `size_bytes` raw bytes follow, the file as it lies on the sender's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotHead {
    pub vote: WireVote,
    /// The position it is taken at; the file says the same.
    pub name: String,
    pub size_bytes: u64,
}

/// What the receiver of a snapshot answers once it is installed, or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotAnswer {
    /// Its vote afterwards.
    Done(WireVote),
    Refused(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::{Payload, types::TypeConfig};
    use lote_shared::model::Timestamp;
    use openraft::EntryPayload;

    fn entry(index: u64, size: usize) -> openraft::Entry<TypeConfig> {
        let command = vec![7; size];
        let payload = Payload::new(Timestamp(1), std::iter::once(command.as_slice()));
        let log_id = types::from_id(EntryId { term: 2, node: 1, index });
        openraft::Entry { log_id, payload: EntryPayload::Normal(payload) }
    }

    fn request(entries: Vec<openraft::Entry<TypeConfig>>) -> AppendEntriesRequest<TypeConfig> {
        AppendEntriesRequest {
            vote: Vote::new_committed(2, 1),
            prev_log_id: Some(types::from_id(EntryId { term: 1, node: 3, index: 9 })),
            entries,
            leader_commit: None,
        }
    }

    fn taken(question: RaftQuestion) -> Result<AppendEntriesRequest<TypeConfig>, Error> {
        match question {
            RaftQuestion::Append { vote, prev, committed, entries } => {
                append_request(vote, prev, committed, entries)
            }
            _ => panic!("an append was made"),
        }
    }

    #[test]
    fn requests_arrive_as_they_were_and_are_cut_by_bytes() {
        let cases = [
            // sizes of the entries, how many of them go
            (vec![], 0),
            (vec![10, 20, 30], 3),
            (vec![APPEND_BYTES_MAX / 2; 5], 1),
            (vec![APPEND_BYTES_MAX / 3; 5], 2),
            (vec![3 * APPEND_BYTES_MAX, 1], 1),
        ];
        for (sizes, sent) in cases {
            let entries: Vec<_> = (10..).zip(&sizes).map(|(index, size)| entry(index, *size)).collect();
            let (question, cut) = RaftQuestion::append(request(entries.clone())).unwrap();
            assert_eq!(question.from(), 1);
            let expected_cut = (sent < sizes.len()).then(|| entries[sent - 1].log_id);
            assert_eq!(cut, expected_cut, "{sizes:?}");
            let bytes = codec::encode(1, &question).unwrap();
            let question = codec::decode(1, &bytes, 16 * 1024 * 1024).unwrap();
            let arrived = taken(question).unwrap();
            assert_eq!(arrived.entries, entries[..sent]);
            assert_eq!((arrived.vote, arrived.leader_commit), (Vote::new_committed(2, 1), None));
        }
    }

    /// Two builds that speak to each other agree on these bytes; whoever changes them raises the version of the
    /// protocol's frames.
    #[test]
    fn the_bytes_on_the_wire_stay() {
        use crate::replication::{EngineAnswer, EngineQuestion};
        let vote = WireVote { term: 2, member: 1, committed: true };
        let last = Some(WireId(1, 3, 9));
        let entries = vec![WireEntry { id: WireId(2, 1, 10), body: Blob(Bytes::from_static(b"\0")) }];
        let propose = EngineQuestion::Propose(vec![Blob(Bytes::from_static(b"ab"))]);
        let encoded = [
            codec::encode(1, &RaftQuestion::Vote { vote, last }),
            codec::encode(1, &RaftQuestion::Append { vote, prev: last, committed: None, entries }),
            codec::encode(1, &RaftAnswer::Voted { vote, granted: false, last: None }),
            codec::encode(1, &RaftAnswer::AppendedUpTo(last)),
            codec::encode(1, &RaftAnswer::Refused("no".to_owned())),
            codec::encode(1, &propose),
            codec::encode(1, &EngineQuestion::HasLost(3)),
            codec::encode(
                1,
                &EngineAnswer::Replies { index: 7, replies: vec![Ok(crate::state::Outcome::Done)] },
            ),
            codec::encode(1, &EngineAnswer::Lost { is_lost: true, last }),
            codec::encode(1, &SnapshotHead { vote, name: "n".to_owned(), size_bytes: 5 }),
            codec::encode(1, &SnapshotAnswer::Done(vote)),
            codec::encode(1, &RaftQuestion::Remembered { member: 2 }),
            codec::encode(1, &RaftQuestion::Confirmed { vote, last }),
            codec::encode(1, &RaftAnswer::Remembered(Some((vote, last)))),
            codec::encode(1, &RaftQuestion::Clock { member: 3 }),
            codec::encode(1, &RaftAnswer::Clock { wall_ms: 5 }),
        ];
        let expected: [&[u8]; 16] = [
            &[1, 1, 1, 2, 1, 1, 1, 1, 3, 9],
            &[1, 1, 0, 2, 1, 1, 1, 1, 3, 9, 0, 1, 2, 1, 10, 1, 0],
            &[1, 1, 4, 2, 1, 1, 0, 0],
            &[1, 1, 1, 1, 1, 3, 9],
            &[1, 1, 5, 2, b'n', b'o'],
            &[1, 1, 0, 1, 2, b'a', b'b'],
            &[1, 1, 2, 3],
            &[1, 1, 0, 7, 1, 0, 0],
            &[1, 1, 3, 1, 1, 1, 3, 9],
            &[1, 1, 2, 1, 1, 1, b'n', 5],
            &[1, 1, 0, 2, 1, 1],
            &[1, 1, 2, 2],
            &[1, 1, 3, 2, 1, 1, 1, 1, 3, 9],
            &[1, 1, 6, 1, 2, 1, 1, 1, 1, 3, 9],
            &[1, 1, 4, 3],
            &[1, 1, 7, 5],
        ];
        for (number, (encoded, expected)) in encoded.into_iter().zip(expected).enumerate() {
            assert_eq!(encoded.unwrap(), expected, "message {number}");
        }
    }

    #[test]
    fn entries_that_do_not_follow_each_other_or_are_malformed_are_refused() {
        for entries in
            [vec![entry(11, 1)], vec![entry(10, 1), entry(12, 1)], vec![entry(10, 1), entry(10, 1)]]
        {
            let (question, _) = RaftQuestion::append(request(entries)).unwrap();
            assert!(matches!(taken(question), Err(Error::Order(_))));
        }
        let vote = WireVote { term: 1, member: 1, committed: true };
        let malformed = WireEntry { id: WireId(1, 1, 0), body: Blob(Bytes::from_static(b"\x09")) };
        let refused = append_request::<TypeConfig>(vote, None, None, vec![malformed]);
        assert!(matches!(refused, Err(Error::Entry { index: 0, .. })));
    }
}
