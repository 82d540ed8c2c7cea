//! The trailer of a chunk file. Pure.
//!
//! ```text
//! [data: length bytes][unit values: 32 × units, only if there is more than one unit][offset u64][length u32]
//! [whole u8][version u8][0 u16][magic 8 bytes]          integers little-endian
//! ```
//!
//! With the trailer a chunk file can be checked with nothing but its name: the unit values fold to the name, and
//! each unit hashes to its value at the offset that the trailer claims. A wrong offset, length or value can only
//! lead to a mismatch. The data come first so that a file of one chunk can be laid down by reference.

use super::tree::{self, CHUNK, ChunkId, Position, UNIT};

const MAGIC: [u8; 8] = *b"LoteChnk";
const VERSION: u8 = 1;
/// Length of the fixed part.
pub const FIXED: usize = 24;
/// Largest trailer.
pub const MAX: usize = FIXED + 32 * (CHUNK / UNIT);

/// What the trailer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    pub position: Position,
    pub length: usize,
    /// Values of the units, at least one.
    pub units: Vec<ChunkId>,
}

/// Number of units of a chunk of this length.
pub fn unit_count(length: usize) -> usize {
    length.div_ceil(UNIT).max(1)
}

/// Length of the trailer of a chunk of this length.
pub fn trailer_length(length: usize) -> usize {
    match unit_count(length) {
        1 => FIXED,
        units => FIXED + 32 * units,
    }
}

impl Seal {
    /// Seals these bytes; also gives their name.
    pub fn of(chunk: &[u8], position: Position) -> (ChunkId, Seal) {
        let units = tree::unit_values(chunk, position);
        // There is at least one unit, so there is something to fold.
        let id = tree::fold_units(&units, position).unwrap_or(ChunkId([0; 32]));
        (id, Seal { position, length: chunk.len(), units })
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(trailer_length(self.length));
        if self.units.len() > 1 {
            self.units.iter().for_each(|unit| out.extend_from_slice(&unit.0));
        }
        let (offset, whole) = match self.position {
            Position::Whole => (0, 1),
            Position::Part { offset } => (offset, 0),
        };
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&(self.length as u32).to_le_bytes());
        out.extend_from_slice(&[whole, VERSION, 0, 0]);
        out.extend_from_slice(&MAGIC);
        out
    }

    /// Reads the trailer of chunk `id` from the last bytes of its file, `file_length` in all, and checks that the
    /// unit values fold to the name. The units themselves are checked by [`Seal::check_unit`].
    pub fn decode(id: ChunkId, tail: &[u8], file_length: u64) -> Result<Seal, &'static str> {
        let (before, fixed) = tail.split_last_chunk::<FIXED>().ok_or("shorter than a trailer")?;
        let (offset, rest) = fixed.split_first_chunk::<8>().ok_or("shorter than a trailer")?;
        let (length, rest) = rest.split_first_chunk::<4>().ok_or("shorter than a trailer")?;
        let (flags, magic) = rest.split_first_chunk::<4>().ok_or("shorter than a trailer")?;
        if magic != MAGIC {
            return Err("no trailer");
        }
        let position = match (*flags, u64::from_le_bytes(*offset)) {
            ([1, VERSION, 0, 0], 0) => Position::Whole,
            ([0, VERSION, 0, 0], offset) => Position::Part { offset },
            _ => return Err("unknown trailer version"),
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > CHUNK || !position.is_valid() {
            return Err("impossible length or offset");
        }
        if file_length != (length + trailer_length(length)) as u64 {
            return Err("file length does not fit the trailer");
        }
        let units = match unit_count(length) {
            1 => vec![id],
            count => {
                let start = before.len().checked_sub(32 * count).ok_or("shorter than a trailer")?;
                let (values, _) = before[start..].as_chunks::<32>();
                values.iter().map(|value| ChunkId(*value)).collect()
            }
        };
        let seal = Seal { position, length, units };
        match tree::fold_units(&seal.units, position) == Some(id) {
            true => Ok(seal),
            false => Err("unit values do not fold to the name"),
        }
    }

    /// Bytes of the unit with this number.
    pub fn unit_range(&self, index: usize) -> std::ops::Range<usize> {
        let start = (index * UNIT).min(self.length);
        start..(start + UNIT).min(self.length)
    }

    /// Whether these bytes are the unit with this number.
    pub fn check_unit(&self, index: usize, unit: &[u8]) -> bool {
        self.units.get(index).is_some_and(|value| {
            unit.len() == self.unit_range(index).len()
                && tree::unit_value(unit, self.position, index, self.units.len() == 1) == *value
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_survives_encoding_and_any_flipped_bit_is_seen() {
        for (length, position) in [
            (1, Position::Whole),
            (UNIT, Position::Part { offset: CHUNK as u64 }),
            (2 * UNIT + 5, Position::Whole),
            (CHUNK, Position::Part { offset: 7 * CHUNK as u64 }),
        ] {
            let data: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let (id, seal) = Seal::of(&data, position);
            let tail = seal.encode();
            let file_length = (data.len() + tail.len()) as u64;
            assert_eq!(Seal::decode(id, &tail, file_length), Ok(seal.clone()));
            for index in 0..seal.units.len() {
                assert!(seal.check_unit(index, &data[seal.unit_range(index)]));
            }
            for bit in 0..tail.len() * 8 {
                let mut bad = tail.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                if let Ok(seal) = Seal::decode(id, &bad, file_length) {
                    // Only a changed place gets this far, and then no unit fits.
                    let fits = (0..seal.units.len()).all(|i| seal.check_unit(i, &data[seal.unit_range(i)]));
                    assert!(!fits, "bit {bit} of length {length}");
                }
            }
        }
    }
}
