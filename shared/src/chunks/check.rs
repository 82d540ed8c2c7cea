//! Whether a manifest that somebody else made is true of the chunks that are here.

use super::list::Node;
use super::manifest::{Manifest, Tree};
use super::store::Group;
use super::tree::{CHUNK, Folder, Position};
use super::{ChunkStore, Error};

/// Most chunks of a manifest that is checked: 4 TiB in whole ones. A list can name the same node many times, so
/// its own size bounds nothing.
const CHUNKS_MAX: u64 = 4 * 1024 * 1024;

/// Checks that every chunk of the manifest is here, that lengths add up, and that a plain file's chunks lie at their
/// places and fold to its root; takes them all into the group. Reads trailers and lists, not data.
pub fn check(store: &ChunkStore, group: &mut Group, manifest: &Manifest) -> Result<(), Error> {
    let bad = |why| Error::BadList { id: manifest.root, why };
    if !manifest.is_plausible() {
        return Err(bad("the manifest contradicts itself"));
    }
    let Some((top, depth)) = manifest.list() else {
        if manifest.length == 0 {
            return Ok(());
        }
        let seal = group.adopt(manifest.root)?;
        let fits = seal.position == Position::Whole && seal.length as u64 == manifest.length;
        return if fits { Ok(()) } else { Err(bad("the chunk is not the whole file")) };
    };
    let plain = matches!(manifest.tree, Tree::List { .. });
    let mut offset = 0;
    let mut chunks = 0;
    let mut folder = Folder::default();
    let mut nodes = vec![(top, depth, manifest.length)];
    while let Some((id, depth, length)) = nodes.pop() {
        group.adopt(id)?;
        let (bytes, _) = store.read(id)?;
        let node = Node::decode(&bytes, depth, length).map_err(|why| Error::BadList { id, why })?;
        if depth > 1 {
            let below = node.entries.into_iter().rev();
            nodes.extend(below.map(|entry| (entry.id, depth - 1, entry.length)));
            continue;
        }
        for entry in node.entries {
            chunks += 1;
            if chunks > CHUNKS_MAX {
                return Err(bad("the list has too many chunks"));
            }
            let seal = group.adopt(entry.id)?;
            let last = offset + entry.length == manifest.length;
            let in_place =
                seal.position == (Position::Part { offset }) && (last || entry.length == CHUNK as u64);
            if seal.length as u64 != entry.length || (plain && !in_place) {
                return Err(bad("a chunk is not where the list has it"));
            }
            folder.push(entry.id);
            offset += entry.length;
        }
    }
    match plain && folder.root() != Some(manifest.root) {
        true => Err(bad("the chunks do not fold to the root")),
        false => Ok(()),
    }
}

/// As [`check`], and makes everything durable.
pub fn check_and_commit(store: &ChunkStore, mut group: Group, manifest: &Manifest) -> Result<(), Error> {
    check(store, &mut group, manifest)?;
    group.commit()
}
