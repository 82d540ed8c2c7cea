//! Segment files: their names, their first pages, and the scan that finds their records again.
//!
//! ```text
//! 0000000000000001.log
//!   page 0   magic, version, number, chain value its first record continues, checksum
//!   page 1   mark slot 0 │ sequence, end, sealed, checksum
//!   page 2   mark slot 1 │ (written in turns, so that a torn write leaves the other one)
//!   page 3…  records, the first of them the log's `State`
//! ```
//! The **mark** says up to where the file is known to be on stable storage. It is written after each sync and so
//! becomes durable with the next one: after power loss at most the last batch lies beyond it. Whatever is
//! unreadable beyond the mark was never promised and is cut; whatever is unreadable before it is damage or loss.

use super::disk::File;
use super::record::{self, Chain, Flaw, Record};
use bytes::Bytes;
use std::io;

pub const PAGE_SIZE: u64 = 4_096;
/// Where records begin.
pub const RECORDS_AT: u64 = 3 * PAGE_SIZE;
pub const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"LOTELOG\n";
const HEADER_SIZE: usize = 8 + 4 + 8 + 16 + 4;
const MARK_SIZE: usize = 8 + 8 + 1 + 4;

/// The name of a segment's file.
pub fn file_name(number: u64) -> String {
    format!("{number:016x}.log")
}

/// The number in a segment's file name.
pub fn file_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log")?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
}

/// How far a segment is known to be on stable storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Counts up; the slot with the greater one holds.
    pub sequence: u64,
    /// Offset in the file.
    pub end: u64,
    /// The log goes on in the next segment.
    pub sealed: bool,
}

impl Mark {
    pub fn write(&self, file: &dyn File) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(MARK_SIZE);
        bytes.extend_from_slice(&self.sequence.to_le_bytes());
        bytes.extend_from_slice(&self.end.to_le_bytes());
        bytes.push(u8::from(self.sealed));
        push_crc(&mut bytes);
        file.write_at(PAGE_SIZE * (1 + self.sequence % 2), &bytes)
    }

    /// The valid slot with the greater sequence.
    fn read(start_of_file: &[u8]) -> Option<Mark> {
        let slots = [1, 2].map(|page| Mark::decode(start_of_file.get((PAGE_SIZE * page) as usize..)?));
        slots.into_iter().flatten().max_by_key(|mark| mark.sequence)
    }

    fn decode(page: &[u8]) -> Option<Mark> {
        let body = check_crc(page.get(..MARK_SIZE)?)?;
        let (sequence, rest) = body.split_first_chunk::<8>()?;
        let (end, rest) = rest.split_first_chunk::<8>()?;
        Some(Mark {
            sequence: u64::from_le_bytes(*sequence),
            end: u64::from_le_bytes(*end),
            sealed: rest == [1],
        })
    }
}

/// The bytes of a new segment up to and with its first record, and the chain value after that.
pub fn begin(number: u64, chain: Chain, state: record::State) -> (Vec<u8>, Chain) {
    let mut out = Vec::with_capacity(RECORDS_AT as usize + 256);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&chain.0);
    push_crc(&mut out);
    out.resize(RECORDS_AT as usize, 0);
    let mut chain = chain;
    record::encode(&Record::State(state), &mut chain, &mut out);
    (out, chain)
}

fn push_crc(bytes: &mut Vec<u8>) {
    let crc = crc32c::crc32c(bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
}

fn check_crc(bytes: &[u8]) -> Option<&[u8]> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    (crc32c::crc32c(body) == u32::from_le_bytes(*crc)).then_some(body)
}

/// What the first pages of a segment say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub chain: Chain,
    pub mark: Mark,
}

/// Why the first pages cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadFlaw {
    #[error("the file header is unreadable")]
    Header,
    #[error("the file calls itself segment {0}")]
    Number(u64),
    #[error("version {0} is newer than this build")]
    Newer(u32),
    #[error("both mark slots are unreadable")]
    Mark,
}

pub fn read_head(number: u64, bytes: &[u8]) -> Result<Head, HeadFlaw> {
    let header = bytes.get(..HEADER_SIZE).and_then(check_crc).ok_or(HeadFlaw::Header)?;
    let (magic, rest) = header.split_first_chunk::<8>().ok_or(HeadFlaw::Header)?;
    let (version, rest) = rest.split_first_chunk::<4>().ok_or(HeadFlaw::Header)?;
    let (found, rest) = rest.split_first_chunk::<8>().ok_or(HeadFlaw::Header)?;
    let chain: [u8; 16] = rest.try_into().map_err(|_| HeadFlaw::Header)?;
    if *magic != MAGIC {
        return Err(HeadFlaw::Header);
    }
    let version = u32::from_le_bytes(*version);
    if version > VERSION {
        return Err(HeadFlaw::Newer(version));
    }
    let found = u64::from_le_bytes(*found);
    if found != number {
        return Err(HeadFlaw::Number(found));
    }
    Ok(Head { chain: Chain(chain), mark: Mark::read(bytes).ok_or(HeadFlaw::Mark)? })
}

/// The records of a segment, in order.
pub struct Scan {
    bytes: Bytes,
    offset: u64,
    chain: Chain,
}

impl Scan {
    pub fn new(bytes: Bytes, chain: Chain) -> Scan {
        Scan { bytes, offset: RECORDS_AT, chain }
    }

    /// Where the next record starts, or the first unreadable one.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    pub fn chain(&self) -> Chain {
        self.chain
    }

    /// The next record with its offset and size; `None` exactly at the end of the file.
    pub fn step(&mut self) -> Result<Option<(Record, u64, u32)>, Flaw> {
        let start = usize::try_from(self.offset).map_err(|_| Flaw::Short)?;
        if start == self.bytes.len() {
            return Ok(None);
        }
        if start > self.bytes.len() {
            return Err(Flaw::Short);
        }
        let (record, size) = record::decode(&self.bytes.slice(start..), &mut self.chain)?;
        let offset = self.offset;
        self.offset += size as u64;
        Ok(Some((record, offset, size as u32)))
    }
}
