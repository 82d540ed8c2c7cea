//! Every chunk that the state refers to, list nodes included, a page of records at a time.

use crate::api::blob::Backend;
use crate::state::blobs::Place;
use lote_shared::chunks::{self, ChunkId, ChunkStore, read};

/// Records looked at under the state's lock at a time.
const PAGE: usize = 4_096;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the state cannot be read")]
    NoState,
    #[error("the coordinator stops")]
    Stopping,
    /// A list of chunks is nowhere to be had: what it names cannot be known.
    #[error(transparent)]
    List(#[from] chunks::Error),
}

/// Calls `each` for every reference of the state to a chunk; the same chunk as often as it is referred to. `unreadable`
/// says whether to go on after a list that is nowhere to be had. Blocks.
pub fn for_each(
    backend: &dyn Backend,
    store: &ChunkStore,
    stopping: &dyn Fn() -> bool,
    mut unreadable: impl FnMut(chunks::Error) -> Result<(), Error>,
    mut each: impl FnMut(ChunkId),
) -> Result<(), Error> {
    let mut place = Place::default();
    loop {
        let page = backend.read(|blobs| blobs.manifests(&place, PAGE));
        let (manifests, next) = page.ok_or(Error::NoState)?;
        for manifest in &manifests {
            if stopping() {
                return Err(Error::Stopping);
            }
            if let Err(error) = read::references(store, manifest, &mut each) {
                unreadable(error)?;
            }
        }
        match next {
            Some(next) => place = next,
            None => return Ok(()),
        }
    }
}
