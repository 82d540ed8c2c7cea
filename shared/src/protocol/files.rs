//! Reading a node's files through a substream of the host's connection.
//!
//! The caller writes one [`Request`] frame; the host answers with one [`Response`] frame, and for a read with the
//! announced number of raw bytes after it. Paths are relative to the node's root, `/`-separated, and are checked
//! again by the host: nothing outside the root is ever opened, links that leave it are not followed.

use crate::model::{NodeKey, Timestamp};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub node: NodeKey,
    pub operation: Operation,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Properties of one file or directory.
    Stat {
        path: String,
    },
    /// Bytes of one file as present now; the end is clamped to the length at the time of opening.
    Read {
        path: String,
        start: u64,
        end: Option<u64>,
    },
    /// Entries below a directory, sorted by name, names relative to `path`'s base as stored, after `after`.
    List {
        path: String,
        prefix: String,
        recursive: bool,
        after: Option<String>,
        max: u32,
    },
    Delete {
        path: String,
        recursive: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    Properties(Properties),
    /// Followed by exactly `length` bytes.
    Content {
        properties: Properties,
        start: u64,
        length: u64,
    },
    Entries {
        entries: Vec<Entry>,
        more: bool,
    },
    Deleted,
    Error(Error),
}

/// Why a file operation was refused; each is one answer of the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Error {
    #[error("no such file")]
    NotFound,
    #[error("no such node on this host")]
    NodeUnavailable,
    #[error("the directory is not empty")]
    NotEmpty,
    #[error("the range starts at or past the end of the file, which has {length} bytes")]
    InvalidRange { length: u64 },
    #[error("the path leaves the node's root")]
    OutsideRoot,
    #[error("reading failed: {0}")]
    Io(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Properties {
    pub directory: bool,
    pub length: u64,
    pub modified: Timestamp,
    /// Unix mode bits including the file type, e.g. `0o100644`.
    pub mode: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Relative to the listed directory.
    pub name: String,
    pub properties: Properties,
}
