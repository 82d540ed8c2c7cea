//! Records of the log and their bytes.
//!
//! ```text
//! length u32 │ crc32c u32 │ chain 16 bytes │ kind u8 │ body        (little-endian; length and crc cover chain…body)
//! ```
//! The chain value of a record is the hash over everything before it; the next one is
//! `blake3(chain ++ kind ++ body)`, cut to 16 bytes. A record that was swapped, repeated or left over from an
//! earlier life of the file therefore never fits.
//!
//! The log is a journal: conflicts and purges are records too, nothing that was written is ever overwritten.

use bytes::Bytes;

/// Largest record on disk; an entry is far below (see the driver).
pub const SIZE_MAX: usize = 16 * 1024 * 1024;
/// Length and checksum.
pub const PREFIX_SIZE: usize = 8;
const CHAIN_SIZE: usize = 16;
/// From the start of a record to the start of an entry's own bytes.
pub const ENTRY_BODY_AT: usize = PREFIX_SIZE + CHAIN_SIZE + 1 + ID_SIZE;
const ID_SIZE: usize = 24;

/// Hash over all records before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chain(pub [u8; CHAIN_SIZE]);

impl Chain {
    fn next(self, kind_and_body: &[u8]) -> Chain {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0);
        hasher.update(kind_and_body);
        let mut next = [0; CHAIN_SIZE];
        hasher.finalize_xof().fill(&mut next);
        Chain(next)
    }
}

/// What identifies an entry: the leadership that proposed it and its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct EntryId {
    pub term: u64,
    pub node: u64,
    pub index: u64,
}

/// The vote of this member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vote {
    pub term: u64,
    pub node: u64,
    pub committed: bool,
}

/// One entry; the bytes mean nothing to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub id: EntryId,
    pub body: Bytes,
}

/// What the log knows besides its entries. Stands first in every segment, so that older ones can go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct State {
    pub vote: Option<Vote>,
    /// Last position known to be committed; may lag.
    pub committed: Option<EntryId>,
    /// Everything up to here was purged.
    pub purged: Option<EntryId>,
    /// The last entry, or `purged` if there is none.
    pub last: Option<EntryId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    State(State),
    Entry(Entry),
    Vote(Vote),
    Committed(EntryId),
    /// Entries from this index on are gone; the last one left.
    Truncate {
        from: u64,
        last: Option<EntryId>,
    },
    Purge(EntryId),
}

/// Why bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("the record ends after the end of the file")]
    Short,
    #[error("its length {0} is impossible")]
    Length(u32),
    #[error("its checksum does not match")]
    Checksum,
    #[error("it does not continue the record before it")]
    Chain,
    #[error("its content is malformed")]
    Content,
}

/// Appends a record's bytes and moves the chain on.
pub fn encode(record: &Record, chain: &mut Chain, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX_SIZE]);
    out.extend_from_slice(&chain.0);
    let content_at = out.len();
    encode_content(record, out);
    *chain = chain.next(&out[content_at..]);
    let length = (out.len() - start - PREFIX_SIZE) as u32;
    let crc = crc32c::crc32c(&out[start + PREFIX_SIZE..]);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + PREFIX_SIZE].copy_from_slice(&crc.to_le_bytes());
}

/// Reads the record at the start of `bytes`, which must continue `chain`; also tells its size.
pub fn decode(bytes: &Bytes, chain: &mut Chain) -> Result<(Record, usize), Flaw> {
    let (content, size) = unframe(bytes)?;
    let (carried, content) = content.split_first_chunk::<CHAIN_SIZE>().ok_or(Flaw::Content)?;
    if *carried != chain.0 {
        return Err(Flaw::Chain);
    }
    let record = decode_content(bytes, content).ok_or(Flaw::Content)?;
    *chain = chain.next(content);
    Ok((record, size))
}

/// Reads an entry at a known place, without following the chain.
pub fn decode_entry(bytes: &Bytes) -> Result<Entry, Flaw> {
    let (content, _) = unframe(bytes)?;
    let (_, content) = content.split_first_chunk::<CHAIN_SIZE>().ok_or(Flaw::Content)?;
    match decode_content(bytes, content) {
        Some(Record::Entry(entry)) => Ok(entry),
        _ => Err(Flaw::Content),
    }
}

/// Chain, kind and body of the record at the start, checked against its checksum; and its whole size.
fn unframe(bytes: &[u8]) -> Result<(&[u8], usize), Flaw> {
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or(Flaw::Short)?;
    let (crc, rest) = rest.split_first_chunk::<4>().ok_or(Flaw::Short)?;
    let length = u32::from_le_bytes(*length);
    let size = length as usize;
    if size <= CHAIN_SIZE || size > SIZE_MAX {
        return Err(Flaw::Length(length));
    }
    let content = rest.get(..size).ok_or(Flaw::Short)?;
    if crc32c::crc32c(content) != u32::from_le_bytes(*crc) {
        return Err(Flaw::Checksum);
    }
    Ok((content, PREFIX_SIZE + size))
}

fn encode_content(record: &Record, out: &mut Vec<u8>) {
    match record {
        Record::State(state) => {
            out.push(0);
            out.push(u8::from(state.vote.is_some()));
            put_vote(state.vote.unwrap_or_default(), out);
            put_option(state.committed, out);
            put_option(state.purged, out);
            put_option(state.last, out);
        }
        Record::Entry(entry) => {
            out.push(1);
            put_id(entry.id, out);
            out.extend_from_slice(&entry.body);
        }
        Record::Vote(vote) => {
            out.push(2);
            put_vote(*vote, out);
        }
        Record::Committed(id) => {
            out.push(3);
            put_id(*id, out);
        }
        Record::Truncate { from, last } => {
            out.push(4);
            out.extend_from_slice(&from.to_le_bytes());
            put_option(*last, out);
        }
        Record::Purge(id) => {
            out.push(5);
            put_id(*id, out);
        }
    }
}

fn put_id(id: EntryId, out: &mut Vec<u8>) {
    for part in [id.term, id.node, id.index] {
        out.extend_from_slice(&part.to_le_bytes());
    }
}

fn put_option(id: Option<EntryId>, out: &mut Vec<u8>) {
    out.push(u8::from(id.is_some()));
    put_id(id.unwrap_or_default(), out);
}

fn put_vote(vote: Vote, out: &mut Vec<u8>) {
    out.extend_from_slice(&vote.term.to_le_bytes());
    out.extend_from_slice(&vote.node.to_le_bytes());
    out.push(u8::from(vote.committed));
}

/// `content` is a part of `whole`, of which an entry's body becomes a slice.
fn decode_content(whole: &Bytes, content: &[u8]) -> Option<Record> {
    let (kind, body) = content.split_first()?;
    let mut rest = body;
    let record = match kind {
        0 => {
            let has_vote = take_flag(&mut rest)?;
            let vote = take_vote(&mut rest)?;
            Record::State(State {
                vote: has_vote.then_some(vote),
                committed: take_option(&mut rest)?,
                purged: take_option(&mut rest)?,
                last: take_option(&mut rest)?,
            })
        }
        1 => {
            let id = take_id(&mut rest)?;
            let body = whole.slice_ref(rest);
            rest = &[];
            Record::Entry(Entry { id, body })
        }
        2 => Record::Vote(take_vote(&mut rest)?),
        3 => Record::Committed(take_id(&mut rest)?),
        4 => Record::Truncate { from: take_u64(&mut rest)?, last: take_option(&mut rest)? },
        5 => Record::Purge(take_id(&mut rest)?),
        _ => return None,
    };
    rest.is_empty().then_some(record)
}

fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    let (bytes, after) = rest.split_first_chunk::<8>()?;
    *rest = after;
    Some(u64::from_le_bytes(*bytes))
}

fn take_flag(rest: &mut &[u8]) -> Option<bool> {
    let (byte, after) = rest.split_first()?;
    *rest = after;
    match byte {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn take_id(rest: &mut &[u8]) -> Option<EntryId> {
    Some(EntryId { term: take_u64(rest)?, node: take_u64(rest)?, index: take_u64(rest)? })
}

fn take_option(rest: &mut &[u8]) -> Option<Option<EntryId>> {
    let present = take_flag(rest)?;
    let id = take_id(rest)?;
    Some(present.then_some(id))
}

fn take_vote(rest: &mut &[u8]) -> Option<Vote> {
    Some(Vote { term: take_u64(rest)?, node: take_u64(rest)?, committed: take_flag(rest)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Record> {
        let id = EntryId { term: 3, node: 1, index: 7 };
        let vote = Vote { term: 3, node: 1, committed: true };
        vec![
            Record::State(State::default()),
            Record::State(State { vote: Some(vote), committed: None, purged: Some(id), last: Some(id) }),
            Record::Entry(Entry { id, body: Bytes::from_static(b"hello") }),
            Record::Entry(Entry { id, body: Bytes::new() }),
            Record::Vote(vote),
            Record::Committed(id),
            Record::Truncate { from: 8, last: Some(id) },
            Record::Truncate { from: 0, last: None },
            Record::Purge(id),
        ]
    }

    #[test]
    fn records_come_back_in_a_chain() {
        let (mut writing, mut reading) = (Chain::default(), Chain::default());
        let mut out = Vec::new();
        for record in samples() {
            encode(&record, &mut writing, &mut out);
        }
        let mut rest = Bytes::from(out);
        for record in samples() {
            let (found, size) = decode(&rest, &mut reading).unwrap();
            assert_eq!(found, record);
            rest = rest.slice(size..);
        }
        assert!(rest.is_empty());
        assert_eq!(writing, reading);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        for record in samples() {
            let mut out = Vec::new();
            encode(&record, &mut Chain([7; 16]), &mut out);
            for bit in 0..out.len() * 8 {
                let mut flipped = out.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(decode(&Bytes::from(flipped), &mut Chain([7; 16])).is_err(), "{record:?} bit {bit}");
            }
            for size in 0..out.len() {
                let cut = Bytes::copy_from_slice(&out[..size]);
                assert_eq!(decode(&cut, &mut Chain([7; 16])), Err(Flaw::Short));
            }
            assert_eq!(decode(&Bytes::from(out), &mut Chain([8; 16])), Err(Flaw::Chain));
        }
    }

    /// The bytes on disk are a promise to the next version.
    #[test]
    fn golden_bytes() {
        let mut out = Vec::new();
        let id = EntryId { term: 2, node: 1, index: 5 };
        encode(
            &Record::Entry(Entry { id, body: Bytes::from_static(b"ab") }),
            &mut Chain::default(),
            &mut out,
        );
        let hex: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
        expect_test::expect!["2b000000092e6e6000000000000000000000000000000000010200000000000000010000000000000005000000000000006162"].assert_eq(&hex);
    }
}
