//! The only door to bincode: a format byte, a schema version, a size limit, no trailing bytes.
//!
//! Everything decoded here came from a network or a disk, so sizes are checked before anything is allocated and
//! every failure is an error value. Persisted enums only grow at the end; golden-bytes tests pin them.

use bincode::Options;
use serde::{Serialize, de::DeserializeOwned};

/// Bincode 1.3, variable-width integers. The way out to another format is another byte.
const FORMAT_BINCODE: u8 = 1;

/// Largest message or record, unless a caller sets less.
pub const LIMIT_DEFAULT: u64 = 16 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{size} bytes exceed the limit of {limit}")]
    TooLarge { size: u64, limit: u64 },
    #[error("empty input")]
    Empty,
    #[error("unknown format byte {0}")]
    UnknownFormat(u8),
    #[error("schema version {found} is not supported; this build reads {expected}")]
    UnknownVersion { found: u8, expected: u8 },
    #[error("malformed content: {0}")]
    Malformed(#[from] bincode::Error),
}

fn options(limit: u64) -> impl Options {
    bincode::DefaultOptions::new().with_limit(limit)
}

/// Encodes with a header of format byte and `version`.
pub fn encode<T: Serialize>(version: u8, value: &T) -> Result<Vec<u8>, Error> {
    let mut out = vec![FORMAT_BINCODE, version];
    options(LIMIT_DEFAULT).serialize_into(&mut out, value)?;
    Ok(out)
}

/// Decodes what [`encode`] wrote with the same `version`; refuses anything longer than `limit`.
pub fn decode<T: DeserializeOwned>(version: u8, bytes: &[u8], limit: u64) -> Result<T, Error> {
    let size = bytes.len() as u64;
    if size > limit {
        return Err(Error::TooLarge { size, limit });
    }
    match bytes {
        [] | [_] => Err(Error::Empty),
        [FORMAT_BINCODE, found, body @ ..] => {
            if *found != version {
                return Err(Error::UnknownVersion { found: *found, expected: version });
            }
            Ok(options(limit).deserialize(body)?)
        }
        [other, ..] => Err(Error::UnknownFormat(*other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_refusals() {
        let bytes = encode(3, &("lote", 7_u64)).unwrap();
        assert_eq!(decode::<(String, u64)>(3, &bytes, 100).unwrap(), ("lote".to_owned(), 7));
        assert!(matches!(
            decode::<(String, u64)>(2, &bytes, 100),
            Err(Error::UnknownVersion { found: 3, expected: 2 })
        ));
        assert!(matches!(decode::<(String, u64)>(3, &bytes, 4), Err(Error::TooLarge { .. })));
        assert!(matches!(decode::<u8>(3, &[9, 3, 0], 100), Err(Error::UnknownFormat(9))));
        assert!(matches!(decode::<u8>(3, &[], 100), Err(Error::Empty)));
        let mut trailing = bytes.clone();
        trailing.push(0);
        assert!(matches!(decode::<(String, u64)>(3, &trailing, 100), Err(Error::Malformed(_))));
    }

    #[test]
    fn a_huge_length_prefix_allocates_nothing() {
        // A string that claims 2^60 bytes.
        let mut bytes = vec![FORMAT_BINCODE, 1, 253];
        bytes.extend_from_slice(&(1_u64 << 60).to_le_bytes());
        assert!(matches!(decode::<String>(1, &bytes, 1000), Err(Error::Malformed(_))));
    }
}
