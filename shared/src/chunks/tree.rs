//! Values of units and chunks, and folding them: BLAKE3's tree cut at 64 KiB and 1 MiB. Pure.
//!
//! BLAKE3 hashes a file as a binary tree whose left side is always a full power of two. Both sizes are powers of
//! two, so every unit and every chunk is one subtree, and the value of a larger part is the fold of the values of
//! its parts. The topmost fold of a file carries a mark ("root"), which is why a chunk that is a whole file is
//! valued differently from the same bytes inside a longer one.

use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Bytes that are verified together.
pub const UNIT: usize = 64 * 1024;
/// Bytes that are stored together.
pub const CHUNK: usize = 1024 * 1024;

/// A value of the tree: the name of a chunk, the content id of a file, or an inner value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChunkId(pub [u8; 32]);

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a chunk id has 64 lower-case hexadecimal digits")]
pub struct InvalidId;

impl FromStr for ChunkId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<ChunkId, InvalidId> {
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(InvalidId);
        }
        blake3::Hash::from_hex(text).map(|hash| ChunkId(*hash.as_bytes())).map_err(|_| InvalidId)
    }
}

/// Where bytes lie in their file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// They are the whole file.
    Whole,
    /// They start at this offset, a multiple of [`CHUNK`], of a longer file.
    Part { offset: u64 },
}

/// Largest offset of a chunk; far above any file, and far below what the hash can count.
pub const OFFSET_MAX: u64 = 1 << 52;

impl Position {
    /// Whether a chunk can lie there.
    pub fn is_valid(self) -> bool {
        match self {
            Position::Whole => true,
            Position::Part { offset } => offset % CHUNK as u64 == 0 && offset <= OFFSET_MAX,
        }
    }
}

/// The value of one unit, number `index` of a chunk at `position`. `only`: the chunk has no other unit.
pub fn unit_value(unit: &[u8], position: Position, index: usize, only: bool) -> ChunkId {
    debug_assert!(unit.len() <= UNIT && position.is_valid());
    let start = (index * UNIT) as u64;
    let offset = match position {
        // Without a sibling the unit is the top of the tree; an empty file has no other value than that.
        Position::Whole if only || unit.is_empty() => return ChunkId(*blake3::hash(unit).as_bytes()),
        Position::Whole => start,
        Position::Part { offset } => offset + start,
    };
    if unit.is_empty() {
        // No part of a file is empty. A value that nothing has keeps this function total.
        return ChunkId([0; 32]);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset).update(unit);
    ChunkId(hasher.finalize_non_root())
}

/// The values of all units of a chunk, at least one.
pub fn unit_values(chunk: &[u8], position: Position) -> Vec<ChunkId> {
    let only = chunk.len() <= UNIT;
    if chunk.is_empty() {
        return vec![unit_value(chunk, position, 0, true)];
    }
    let units = chunk.chunks(UNIT).enumerate();
    units.map(|(index, unit)| unit_value(unit, position, index, only)).collect()
}

/// Folds the values of a chunk's units to the chunk's name.
pub fn fold_units(values: &[ChunkId], position: Position) -> Option<ChunkId> {
    let mut folder = Folder::default();
    values.iter().for_each(|value| folder.push(*value));
    match position {
        Position::Whole => folder.root(),
        Position::Part { .. } => folder.inner(),
    }
}

/// The name of a chunk.
pub fn chunk_id(chunk: &[u8], position: Position) -> ChunkId {
    let values = unit_values(chunk, position);
    // `unit_values` gives at least one value, so there is something to fold.
    fold_units(&values, position).unwrap_or(ChunkId([0; 32]))
}

/// Folds the values of equal neighbours, given from left to right, in O(log n) memory. All but the last must have
/// the same power-of-two size.
#[derive(Debug, Default, Clone)]
pub struct Folder {
    /// Values of finished subtrees, largest first.
    stack: Vec<ChunkId>,
    count: u64,
}

impl Folder {
    pub fn push(&mut self, value: ChunkId) {
        // Merging waits for the next value, because the topmost merge is a different one.
        while self.stack.len() as u32 > self.count.count_ones() {
            self.merge(false);
        }
        self.stack.push(value);
        self.count += 1;
    }

    fn merge(&mut self, root: bool) {
        let (Some(right), Some(left)) = (self.stack.pop(), self.stack.pop()) else { return };
        self.stack.push(ChunkId(if root {
            *merge_subtrees_root(&left.0, &right.0, Mode::Hash).as_bytes()
        } else {
            merge_subtrees_non_root(&left.0, &right.0, Mode::Hash)
        }));
    }

    /// The value of everything pushed as a whole file. A single value must have been made as a whole already.
    pub fn root(mut self) -> Option<ChunkId> {
        while self.stack.len() > 1 {
            self.merge(self.stack.len() == 2);
        }
        self.stack.pop()
    }

    /// The value of everything pushed as a part of a longer file.
    pub fn inner(mut self) -> Option<ChunkId> {
        while self.stack.len() > 1 {
            self.merge(false);
        }
        self.stack.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i % 251) as u8 ^ (i / 4096) as u8).collect()
    }

    #[test]
    fn folding_gives_the_plain_hash() {
        let lengths = [
            0,
            1,
            1023,
            1024,
            1025,
            UNIT - 1,
            UNIT,
            UNIT + 1,
            3 * UNIT,
            CHUNK - 1,
            CHUNK,
            CHUNK + 1,
            2 * CHUNK,
            3 * CHUNK,
            5 * CHUNK + 3,
            7 * CHUNK + UNIT,
            8 * CHUNK,
            9 * CHUNK + 1,
        ];
        for length in lengths {
            let data = bytes(length);
            let expected = ChunkId(*blake3::hash(&data).as_bytes());
            let found = if length <= CHUNK {
                chunk_id(&data, Position::Whole)
            } else {
                let mut folder = Folder::default();
                for (index, chunk) in data.chunks(CHUNK).enumerate() {
                    folder.push(chunk_id(chunk, Position::Part { offset: (index * CHUNK) as u64 }));
                }
                folder.root().unwrap()
            };
            assert_eq!(found, expected, "length {length}");
        }
    }

    #[test]
    fn place_is_part_of_the_name() {
        let data = bytes(CHUNK);
        let at_0 = chunk_id(&data, Position::Part { offset: 0 });
        assert_ne!(at_0, chunk_id(&data, Position::Part { offset: CHUNK as u64 }));
        assert_ne!(at_0, chunk_id(&data, Position::Whole));
    }

    #[test]
    fn names_read_and_write() {
        let id = chunk_id(b"lote", Position::Whole);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("00".parse::<ChunkId>(), Err(InvalidId));
        assert_eq!(id.to_string().to_uppercase().parse::<ChunkId>(), Err(InvalidId));
        assert!(!Position::Part { offset: 5 }.is_valid());
    }
}
