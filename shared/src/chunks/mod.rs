//! The content-addressed chunk store: how the bytes of blobs, resource files and output files lie on a disk.
//!
//! A file is cut into **chunks** of 1 MiB. A chunk is named by the BLAKE3 subtree value of its bytes *at its
//! place in the file*, so that folding the names of a file's chunks gives the plain BLAKE3 of the file; a file of
//! at most one chunk is named by exactly that hash. Chunks are checked in **units** of 64 KiB, whose values fold to
//! the chunk's name, so a short read never has to look at a whole chunk.
//!
//! ```text
//!   Manifest { length, root, tree }          small; lives in replicated state
//!        │ tree = Chunk                      ≤ 1 MiB: `root` names the only chunk; 0 bytes: no chunk at all
//!        │ tree = List { top, depth }        the list of chunks, itself stored as chunks of ≤ 4 096 entries
//!        │ tree = Composed { depth }         a list put together from several files; `root` names its top node
//!        ▼
//!   list node ──► list nodes … ──► data chunks        entries carry lengths, so a range is found by skipping
//! ```
//!
//! * [`tree`]: values and folding. Pure.
//! * [`seal`]: the trailer that makes a chunk file verifiable alone. Pure.
//! * [`list`]: list nodes and the builder that cuts a long list into them. Pure.
//! * [`manifest`]: the type `Manifest`.
//! * [`store`]: [`ChunkStore`], the folder on disk, and the group commit of new chunks.
//! * [`write`]: cutting a stream of bytes into chunks; [`read`]: verified ranges and the walk over a manifest;
//!   [`compose`]: one manifest from many; [`check`]: whether a manifest from elsewhere is true.
//! * [`fetch`]: the calling side of `protocol::data`; [`swarm`]: both sides of `protocol::swarm`, over [`arriving`], the
//!   chunks on their way.
//!
//! **What survives a crash.** A chunk has its name only after its bytes are on stable storage, and a writer's
//! `finish` returns only after the folders that hold the names are too. What a crash leaves in `tmp/` is removed at
//! the next open. A damaged chunk is never served: reading it is an error and moves it to `damaged/`.

pub mod arriving;
pub mod check;
pub mod compose;
pub mod fetch;
pub mod list;
pub mod manifest;
pub mod read;
pub mod seal;
pub mod store;
pub mod swarm;
pub mod tree;
pub mod write;

pub use manifest::{Manifest, Tree};
pub use read::{Piece, Walk};
pub use store::ChunkStore;
pub use tree::{CHUNK, ChunkId, Position, UNIT};
pub use write::{FileWriter, Tap, Upload};

/// Why chunks could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("chunk {0} is not here")]
    Missing(ChunkId),
    /// The bytes do not belong to the name. Never served; the file was moved aside.
    #[error("chunk {id} is damaged: {why}")]
    Damaged { id: ChunkId, why: &'static str },
    /// A list that does not fit the manifest that names it.
    #[error("list {id} is unusable: {why}")]
    BadList { id: ChunkId, why: &'static str },
    #[error("bytes {start} to {end} are not all inside a file of {length}")]
    OutOfRange { start: u64, end: u64, length: u64 },
    #[error("{what} failed: {source}")]
    Io { what: &'static str, source: std::io::Error },
    /// The thread that worked for an asynchronous caller ended; the process is stopping or it panicked.
    #[error("the chunk store's worker ended")]
    Stopped,
}

impl Error {
    pub(crate) fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        move |source| Error::Io { what, source }
    }
}

#[cfg(test)]
mod tests;
