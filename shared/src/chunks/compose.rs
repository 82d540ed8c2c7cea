//! One file from parts of others, without copying their bytes: how a block list becomes a blob.
//!
//! The parts' chunks are listed one after the other (`docs/decisions/0003-blob-extents.md`). Where that would
//! leave many small chunks the bytes are written anew, which also gives the file its plain BLAKE3.

use super::list::{Builder, Entry};
use super::manifest::{Manifest, Tree};
use super::read::Walk;
use super::tree::{Position, UNIT};
use super::write::FileWriter;
use super::{ChunkStore, Error};
use std::io::Read;
use std::ops::Range;

/// Results up to this length are always written anew: it costs less than the list saves.
const RECUT_ALWAYS: u64 = 4 * 1024 * 1024;

/// A part of a file. Best cut where that file's chunks end, as parts that were composed before are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub manifest: Manifest,
    pub range: Range<u64>,
}

impl Part {
    pub fn whole(manifest: Manifest) -> Part {
        Part { manifest, range: 0..manifest.length }
    }

    fn length(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }
}

/// The manifest of the parts in this order, durable when this returns. Reads the parts' lists; their bytes only if
/// the parts are mostly smaller than a unit or the result is short.
pub fn compose(store: &ChunkStore, parts: &[Part]) -> Result<Manifest, Error> {
    let length = parts.iter().map(Part::length).fold(0, u64::saturating_add);
    let filled: Vec<&Part> = parts.iter().filter(|part| part.length() > 0).collect();
    match filled.as_slice() {
        [] => return Ok(Manifest::empty()),
        [only] if only.length() == only.manifest.length => return Ok(only.manifest),
        _ => {}
    }
    let mean = length / filled.len() as u64;
    if length <= RECUT_ALWAYS || mean < UNIT as u64 {
        let reader = PartsReader { store, parts: filled.iter(), walk: None, current: bytes::Bytes::new() };
        return Ok(FileWriter::new(store, ()).copy_from(reader)?.0);
    }
    let mut group = store.group();
    let mut list = Builder::default();
    for part in filled {
        let part = if cuts_chunks(store, part)? { &recut(store, part)? } else { part };
        let mut walk = Walk::new(store, &part.manifest, part.range.clone())?;
        while let Some(piece) = walk.next_piece()? {
            let entry = Entry { id: piece.id, length: piece.length };
            list.push(entry, &mut |node: Vec<u8>| group.add(&node, Position::Whole))?;
        }
    }
    let top = list.finish(&mut |node: Vec<u8>| group.add(&node, Position::Whole))?;
    group.commit()?;
    match top {
        Some((root, depth)) => Ok(Manifest { length, root, tree: Tree::Composed { depth } }),
        None => Ok(Manifest::empty()),
    }
}

/// Whether the part begins or ends inside a chunk: it was written anew before, and its edges with it.
fn cuts_chunks(store: &ChunkStore, part: &Part) -> Result<bool, Error> {
    let end = part.range.end;
    for edge in [part.range.start..part.range.start + 1, end - 1..end] {
        if let Some(piece) = Walk::new(store, &part.manifest, edge)?.next_piece()? {
            let inside = piece.start < part.range.start || piece.start + piece.length > end;
            if inside {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn recut(store: &ChunkStore, part: &Part) -> Result<Part, Error> {
    let parts = [part];
    let reader = PartsReader { store, parts: parts.iter(), walk: None, current: bytes::Bytes::new() };
    Ok(Part::whole(FileWriter::new(store, ()).copy_from(reader)?.0))
}

/// The parts' bytes, for writing them anew.
struct PartsReader<'a, I> {
    store: &'a ChunkStore,
    parts: I,
    walk: Option<Walk>,
    current: bytes::Bytes,
}

impl<'a, I: Iterator<Item = &'a &'a Part>> Read for PartsReader<'a, I> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() {
            let next = match &mut self.walk {
                Some(walk) => walk.next_bytes().map_err(std::io::Error::other)?,
                None => None,
            };
            match next {
                Some(bytes) => self.current = bytes,
                None => {
                    let Some(part) = self.parts.next() else { return Ok(0) };
                    let walk = Walk::new(self.store, &part.manifest, part.range.clone());
                    self.walk = Some(walk.map_err(std::io::Error::other)?);
                }
            }
        }
        let now = self.current.split_to(self.current.len().min(out.len()));
        out[..now.len()].copy_from_slice(&now);
        Ok(now.len())
    }
}
