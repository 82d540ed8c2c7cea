//! Walking a manifest and reading verified ranges of a file.

use super::list::Node;
use super::manifest::Manifest;
use super::tree::ChunkId;
use super::{ChunkStore, Error};
use bytes::Bytes;
use futures::Stream;
use std::ops::Range;

/// A chunk of a file and where it lies in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub id: ChunkId,
    /// Offset of its first byte in the file.
    pub start: u64,
    /// Bytes.
    pub length: u64,
}

/// Goes through the chunks that a range touches, in order. Holds one list node per depth.
#[derive(Debug)]
pub struct Walk {
    store: ChunkStore,
    range: Range<u64>,
    /// Nodes from the top down: depth, the node, the next entry, and the offset of that entry in the file.
    path: Vec<Step>,
    /// The only chunk of a file without a list.
    single: Option<Piece>,
}

#[derive(Debug)]
struct Step {
    node: Node,
    next: usize,
    offset: u64,
}

impl Walk {
    /// `range` must lie in the file. Reads the top node of the list.
    pub fn new(store: &ChunkStore, manifest: &Manifest, range: Range<u64>) -> Result<Walk, Error> {
        if range.start > range.end || range.end > manifest.length {
            return Err(Error::OutOfRange { start: range.start, end: range.end, length: manifest.length });
        }
        let mut walk = Walk { store: store.clone(), range, path: Vec::new(), single: None };
        if walk.range.is_empty() {
            return Ok(walk);
        }
        match manifest.list() {
            None => walk.single = Some(Piece { id: manifest.root, start: 0, length: manifest.length }),
            Some((top, depth)) => walk.descend(top, depth, manifest.length, 0)?,
        }
        Ok(walk)
    }

    fn descend(&mut self, id: ChunkId, depth: u8, length: u64, offset: u64) -> Result<(), Error> {
        let (bytes, _) = self.store.read(id)?;
        let node = Node::decode(&bytes, depth, length).map_err(|why| Error::BadList { id, why })?;
        self.path.push(Step { node, next: 0, offset });
        Ok(())
    }

    /// The next chunk that the range touches.
    pub fn next_piece(&mut self) -> Result<Option<Piece>, Error> {
        if let Some(piece) = self.single.take() {
            return Ok(Some(piece));
        }
        while let Some(step) = self.path.last_mut() {
            let Some(entry) = step.node.entries.get(step.next).copied() else {
                self.path.pop();
                continue;
            };
            let start = step.offset;
            let depth = step.node.depth;
            step.next += 1;
            step.offset += entry.length;
            if start >= self.range.end {
                self.path.clear();
            } else if start + entry.length <= self.range.start {
                // Wholly before the range: skipped without a look inside.
            } else if depth == 1 {
                return Ok(Some(Piece { id: entry.id, start, length: entry.length }));
            } else {
                self.descend(entry.id, depth - 1, entry.length, start)?;
            }
        }
        Ok(None)
    }

    /// The verified bytes of the next chunk that lie in the range.
    pub fn next_bytes(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(piece) = self.next_piece()? else { return Ok(None) };
        let start = self.range.start.max(piece.start) - piece.start;
        let end = self.range.end.min(piece.start + piece.length) - piece.start;
        let bytes = self.store.read_range(piece.id, start as usize..end as usize)?;
        Ok(Some(Bytes::from(bytes)))
    }
}

/// The bytes of a range, a chunk at a time, read on other threads as the consumer asks for them. Ends after the
/// first error.
pub fn stream(
    store: ChunkStore,
    manifest: Manifest,
    range: Range<u64>,
) -> impl Stream<Item = Result<Bytes, Error>> {
    enum State {
        Start(ChunkStore, Manifest, Range<u64>),
        Going(Walk),
    }
    futures::stream::try_unfold(State::Start(store, manifest, range), |state| async move {
        let step = move || {
            let mut walk = match state {
                State::Start(store, manifest, range) => Walk::new(&store, &manifest, range)?,
                State::Going(walk) => walk,
            };
            let bytes = walk.next_bytes()?;
            Ok(bytes.map(|bytes| (bytes, State::Going(walk))))
        };
        tokio::task::spawn_blocking(step).await.map_err(|_| Error::Stopped)?
    })
}

/// All bytes of a short file, for tests and for lists that are kept as files.
pub fn read_all(store: &ChunkStore, manifest: &Manifest, length_max: u64) -> Result<Vec<u8>, Error> {
    if manifest.length > length_max {
        return Err(Error::OutOfRange { start: 0, end: manifest.length, length: length_max });
    }
    let mut walk = Walk::new(store, manifest, 0..manifest.length)?;
    let mut out = Vec::new();
    while let Some(bytes) = walk.next_bytes()? {
        out.extend_from_slice(&bytes);
    }
    Ok(out)
}

/// Calls `each` with every chunk the manifest needs, list nodes included. For the collector and for replication of
/// chunks. A missing list node is an error: what is below it cannot be known.
pub fn references(
    store: &ChunkStore,
    manifest: &Manifest,
    each: &mut dyn FnMut(ChunkId),
) -> Result<(), Error> {
    fn below(
        store: &ChunkStore,
        id: ChunkId,
        depth: u8,
        length: u64,
        each: &mut dyn FnMut(ChunkId),
    ) -> Result<(), Error> {
        each(id);
        let (bytes, _) = store.read(id)?;
        let node = Node::decode(&bytes, depth, length).map_err(|why| Error::BadList { id, why })?;
        for entry in node.entries {
            match depth {
                1 => each(entry.id),
                _ => below(store, entry.id, depth - 1, entry.length, each)?,
            }
        }
        Ok(())
    }
    match manifest.list() {
        Some((top, depth)) => below(store, top, depth, manifest.length, each),
        None if manifest.length == 0 => Ok(()),
        None => {
            each(manifest.root);
            Ok(())
        }
    }
}
