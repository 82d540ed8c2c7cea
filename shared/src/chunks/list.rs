//! List nodes: a file's chunk list cut into chunks of at most [`FAN_OUT`] entries. Pure.
//!
//! ```text
//! node = [magic "LLN1"][depth u8][count u32][entries: id 32, length u64]      integers little-endian
//! ```
//! At depth 1 entries name data chunks, above they name nodes of the depth below. Lengths are bytes of the file
//! under the entry, so a range is found by skipping entries. A node is stored as a whole file of its own, so its
//! name alone verifies it.

use super::tree::{CHUNK, ChunkId};

/// Most entries of a node.
pub const FAN_OUT: usize = 4096;
/// Highest depth that is written or read: 64 million GiB.
pub const DEPTH_MAX: u8 = 3;

const MAGIC: [u8; 4] = *b"LLN1";
const HEADER: usize = 9;
const ENTRY: usize = 40;

/// One chunk or node, and how many bytes of the file are under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub id: ChunkId,
    pub length: u64,
}

/// A decoded node; see the module's comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub depth: u8,
    pub entries: Vec<Entry>,
}

impl Node {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + ENTRY * self.entries.len());
        out.extend_from_slice(&MAGIC);
        out.push(self.depth);
        out.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        for entry in &self.entries {
            out.extend_from_slice(&entry.id.0);
            out.extend_from_slice(&entry.length.to_le_bytes());
        }
        out
    }

    /// Reads a node that must have this depth and stand for this many bytes.
    pub fn decode(bytes: &[u8], depth: u8, length: u64) -> Result<Node, &'static str> {
        let (header, body) = bytes.split_first_chunk::<HEADER>().ok_or("too short")?;
        let [m0, m1, m2, m3, found_depth, c0, c1, c2, c3] = *header;
        if [m0, m1, m2, m3] != MAGIC {
            return Err("not a list node");
        }
        if found_depth != depth || depth == 0 || depth > DEPTH_MAX {
            return Err("wrong depth");
        }
        let count = u32::from_le_bytes([c0, c1, c2, c3]) as usize;
        let (cells, rest) = body.as_chunks::<ENTRY>();
        if cells.len() != count || !rest.is_empty() || count == 0 || count > FAN_OUT {
            return Err("wrong number of entries");
        }
        let mut entries = Vec::with_capacity(count);
        let mut total: u64 = 0;
        for cell in cells {
            let (id, length) = cell.split_at(32);
            let id = ChunkId(id.try_into().map_err(|_| "too short")?);
            let length = u64::from_le_bytes(length.try_into().map_err(|_| "too short")?);
            if length == 0 || (depth == 1 && length > CHUNK as u64) {
                return Err("an entry with an impossible length");
            }
            total = total.checked_add(length).ok_or("lengths overflow")?;
            entries.push(Entry { id, length });
        }
        if total != length {
            return Err("lengths do not add up");
        }
        Ok(Node { depth, entries })
    }
}

/// Collects entries and gives out a node whenever one is full.
#[derive(Debug, Default)]
pub struct Builder {
    /// Entries of the unfinished node of each depth, depth 1 first.
    levels: Vec<Vec<Entry>>,
    entries: u64,
    length: u64,
}

impl Builder {
    /// Adds a data chunk. `put` stores a finished node and gives its name.
    pub fn push<E>(
        &mut self,
        entry: Entry,
        put: &mut impl FnMut(Vec<u8>) -> Result<ChunkId, E>,
    ) -> Result<(), E> {
        self.entries += 1;
        self.length += entry.length;
        self.push_at(0, entry, put)
    }

    fn push_at<E>(
        &mut self,
        level: usize,
        entry: Entry,
        put: &mut impl FnMut(Vec<u8>) -> Result<ChunkId, E>,
    ) -> Result<(), E> {
        if self.levels.len() <= level {
            self.levels.push(Vec::new());
        }
        // A full node is stored only when one more entry comes, so that the last one can become the top.
        if self.levels[level].len() == FAN_OUT {
            let node = self.store(level, put)?;
            self.push_at(level + 1, node, put)?;
        }
        self.levels[level].push(entry);
        Ok(())
    }

    fn store<E>(
        &mut self,
        level: usize,
        put: &mut impl FnMut(Vec<u8>) -> Result<ChunkId, E>,
    ) -> Result<Entry, E> {
        let entries = std::mem::take(&mut self.levels[level]);
        let length = entries.iter().map(|entry| entry.length).sum();
        let id = put(Node { depth: level as u8 + 1, entries }.encode())?;
        Ok(Entry { id, length })
    }

    /// Number of data chunks so far.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Bytes of all data chunks so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The only entry, if there is exactly one.
    pub fn single(&self) -> Option<Entry> {
        match (self.entries, self.levels.first().map(Vec::as_slice)) {
            (1, Some([entry])) => Some(*entry),
            _ => None,
        }
    }

    /// Stores what is unfinished and gives the top node and its depth; `None` if nothing was pushed.
    pub fn finish<E>(
        mut self,
        put: &mut impl FnMut(Vec<u8>) -> Result<ChunkId, E>,
    ) -> Result<Option<(ChunkId, u8)>, E> {
        let mut level = 0;
        while level < self.levels.len() {
            let node = self.store(level, put)?;
            if level + 1 == self.levels.len() {
                return Ok(Some((node.id, level as u8 + 1)));
            }
            self.push_at(level + 1, node, put)?;
            level += 1;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunks::tree::{Position, chunk_id};
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    fn entry(n: u64) -> Entry {
        Entry { id: chunk_id(&n.to_le_bytes(), Position::Whole), length: 1 + n % 3 }
    }

    fn walk(nodes: &BTreeMap<ChunkId, Vec<u8>>, id: ChunkId, depth: u8, length: u64, out: &mut Vec<Entry>) {
        let node = Node::decode(&nodes[&id], depth, length).unwrap();
        for entry in node.entries {
            match depth {
                1 => out.push(entry),
                _ => walk(nodes, entry.id, depth - 1, entry.length, out),
            }
        }
    }

    #[test]
    fn lists_of_any_length_come_back() {
        let fan = FAN_OUT as u64;
        for (count, expected_depth) in
            [(1, 1), (fan - 1, 1), (fan, 1), (fan + 1, 2), (3 * fan, 2), (3 * fan + 7, 2), (fan * fan + 1, 3)]
        {
            let mut nodes = BTreeMap::new();
            let mut put = |bytes: Vec<u8>| {
                let id = chunk_id(&bytes, Position::Whole);
                nodes.insert(id, bytes);
                Ok::<_, Infallible>(id)
            };
            let mut builder = Builder::default();
            // The largest case shares its entries, to stay quick.
            let shared = entry(1);
            let make = |n| if count > fan * 4 { shared } else { entry(n) };
            for n in 0..count {
                builder.push(make(n), &mut put).unwrap();
            }
            let length = builder.length();
            let (top, depth) = builder.finish(&mut put).unwrap().unwrap();
            assert_eq!(depth, expected_depth, "{count} entries");
            if depth == 3 {
                continue;
            }
            let mut found = Vec::new();
            walk(&nodes, top, depth, length, &mut found);
            assert_eq!(found.len() as u64, count);
            assert!(found.iter().enumerate().all(|(n, entry)| *entry == make(n as u64)));
        }
        let nothing = Builder::default().finish(&mut |_| Ok::<_, Infallible>(entry(0).id)).unwrap();
        assert_eq!(nothing, None);
    }

    #[test]
    fn nonsense_is_refused() {
        let good = Node { depth: 1, entries: vec![entry(0), entry(1)] };
        let bytes = good.encode();
        assert_eq!(Node::decode(&bytes, 1, 3), Ok(good));
        assert_eq!(Node::decode(&bytes, 1, 4), Err("lengths do not add up"));
        assert_eq!(Node::decode(&bytes, 2, 3), Err("wrong depth"));
        assert_eq!(Node::decode(&bytes[..bytes.len() - 1], 1, 3), Err("wrong number of entries"));
        assert_eq!(Node::decode(&[0; 9], 1, 0), Err("not a list node"));
        assert_eq!(Node::decode(&[], 1, 0), Err("too short"));
        let huge = Node { depth: 2, entries: vec![Entry { length: u64::MAX, ..entry(0) }; 2] };
        assert_eq!(Node::decode(&huge.encode(), 2, 5), Err("lengths overflow"));
        let empty = Node { depth: 1, entries: vec![Entry { length: 0, ..entry(0) }] };
        assert_eq!(Node::decode(&empty.encode(), 1, 0), Err("an entry with an impossible length"));
    }
}
