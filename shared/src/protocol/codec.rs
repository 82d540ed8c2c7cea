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

/// A frame on a stream begins with its length, big-endian.
pub const FRAME_PREFIX_BYTES: usize = 4;

/// A frame of length zero: the sender has ended in good order.
pub const END_MARK: [u8; FRAME_PREFIX_BYTES] = [0; FRAME_PREFIX_BYTES];

/// Appends a frame: the length, then what [`encode`] writes. On an error `out` is as it was.
pub fn encode_frame<T: Serialize>(
    out: &mut Vec<u8>,
    version: u8,
    value: &T,
    limit: u32,
) -> Result<(), Error> {
    let start = out.len();
    let body_start = start + FRAME_PREFIX_BYTES;
    out.extend_from_slice(&END_MARK);
    out.extend_from_slice(&[FORMAT_BINCODE, version]);
    // Two bytes of the limit are the header's.
    let body_limit = u64::from(limit).saturating_sub(2);
    if let Err(error) = options(body_limit).serialize_into(&mut *out, value) {
        out.truncate(start);
        return Err(match *error {
            bincode::ErrorKind::SizeLimit => {
                let size = options(u64::MAX).serialized_size(value).unwrap_or(u64::MAX);
                Error::TooLarge { size, limit: limit.into() }
            }
            _ => error.into(),
        });
    }
    let length = out.len() - body_start;
    debug_assert!(length <= limit as usize, "bincode kept to its limit");
    out[start..body_start].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(())
}

/// Length of a frame's body by its first bytes, checked before anything is allocated; `None` is the end mark.
pub fn frame_length(prefix: [u8; FRAME_PREFIX_BYTES], limit: u32) -> Result<Option<usize>, Error> {
    match u32::from_be_bytes(prefix) {
        0 => Ok(None),
        length if length > limit => Err(Error::TooLarge { size: length.into(), limit: limit.into() }),
        length => Ok(Some(length as usize)),
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

    #[test]
    fn frames_carry_their_length_and_keep_to_the_limit() {
        let mut out = vec![7];
        encode_frame(&mut out, 3, &"abc", 6).unwrap();
        assert_eq!(out, [7, 0, 0, 0, 6, FORMAT_BINCODE, 3, 3, b'a', b'b', b'c']);
        assert_eq!(frame_length([0, 0, 0, 6], 6).unwrap(), Some(6));
        assert_eq!(decode::<String>(3, &out[5..], 6).unwrap(), "abc");

        let error = encode_frame(&mut out, 3, &"abcd", 6).unwrap_err();
        assert!(matches!(error, Error::TooLarge { size: 5, limit: 6 }), "{error}");
        assert_eq!(out.len(), 11, "a refused message leaves nothing behind");
        assert!(matches!(frame_length([0, 0, 0, 7], 6), Err(Error::TooLarge { size: 7, limit: 6 })));
        assert!(matches!(frame_length([255; 4], 6), Err(Error::TooLarge { .. })));
        assert_eq!(frame_length(END_MARK, 6).unwrap(), None);
    }
}
