//! What a coordinator says of its build: it is asked by opening a stream of `Protocol::Build`, and answers with one frame.
//!
//! These two are the oldest things that builds of different versions have to understand of each other, so they do not
//! change: whatever else is to be said gets a protocol of its own.

use serde::{Deserialize, Serialize};

/// The build, and the first and the last cluster version that it supports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    pub software: String,
    pub oldest: u32,
    pub newest: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::codec;

    #[test]
    fn the_bytes_on_the_wire_stay() {
        let build = Build { software: "0.1".to_owned(), oldest: 1, newest: 2 };
        let bytes = codec::encode(1, &build).unwrap();
        assert_eq!(bytes, [1, 1, 3, b'0', b'.', b'1', 1, 2]);
        assert_eq!(codec::decode::<Build>(1, &bytes, 100).unwrap(), build);
    }
}
