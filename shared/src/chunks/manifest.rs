//! [`Manifest`]: what must be known of a file to read and verify all of it.

use super::list::DEPTH_MAX;
use super::tree::{CHUNK, ChunkId};
use serde::{Deserialize, Serialize};

/// A file's length and where its bytes are. At most 75 bytes encoded, whatever the file's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Bytes.
    pub length: u64,
    /// Plain BLAKE3 of the file, except for [`Tree::Composed`], where it names the top node of the list.
    pub root: ChunkId,
    pub tree: Tree,
}

/// How the chunks are found. Persisted: grows only at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tree {
    /// At most one chunk, named by the root; no chunk at all if the file is empty.
    Chunk,
    /// Chunks of 1 MiB, the last one shorter; `top` names the top node of their list.
    List { top: ChunkId, depth: u8 },
    /// Chunks of any length that belong to several files, one after the other (`docs/decisions/0003-blob-extents.md`).
    Composed { depth: u8 },
}

impl Manifest {
    /// The manifest of no bytes.
    pub fn empty() -> Manifest {
        Manifest { length: 0, root: ChunkId(*blake3::hash(b"").as_bytes()), tree: Tree::Chunk }
    }

    /// Plain BLAKE3 of the file, if the manifest knows it.
    pub fn content_id(&self) -> Option<ChunkId> {
        match self.tree {
            Tree::Chunk | Tree::List { .. } => Some(self.root),
            Tree::Composed { .. } => None,
        }
    }

    /// The top node of the list and its depth, if there is a list.
    pub fn list(&self) -> Option<(ChunkId, u8)> {
        match self.tree {
            Tree::Chunk => None,
            Tree::List { top, depth } => Some((top, depth)),
            Tree::Composed { depth } => Some((self.root, depth)),
        }
    }

    /// What can be said without looking at chunks; for manifests from a network.
    pub fn is_plausible(&self) -> bool {
        match self.tree {
            Tree::Chunk => self.length <= CHUNK as u64 && (self.length > 0 || *self == Manifest::empty()),
            Tree::List { depth, .. } => self.length > CHUNK as u64 && (1..=DEPTH_MAX).contains(&depth),
            Tree::Composed { depth } => self.length > 0 && (1..=DEPTH_MAX).contains(&depth),
        }
    }
}
