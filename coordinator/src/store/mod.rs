//! `Store`: ordered keys, atomic batches, range scans. The place of the materialised job state; never the truth,
//! which is the Raft log. Two implementations, sled and memory, one conformance suite.

mod frozen;
mod memory;
mod rows;
mod sled;
mod switch;

#[cfg(test)]
mod tests;

pub use frozen::{Frozen, Row, SliceMax};
pub use memory::MemoryStore;
pub use rows::rows;
pub use sled::SledStore;
pub use switch::SwitchStore;

use std::fmt::Debug;

/// A change of one batch: the key, and its new value or `None` to remove it.
pub type Write = (Vec<u8>, Option<Vec<u8>>);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder cannot be trusted; it must be rebuilt from snapshot and log.
    #[error("the stored state is damaged: {0}")]
    Damaged(String),
    #[error("the store failed: {0}")]
    Io(String),
    /// What was to be stored belongs to a cluster version that this build does not know.
    #[error(transparent)]
    Version(#[from] crate::state::version::Unsupported),
}

/// Ordered byte keys. Methods may be called from several threads; batches are atomic and become visible as one.
pub trait Store: Debug + Send + Sync + 'static {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;

    /// Calls `each` for rows with `start <= key < end`, in order, until it returns false. Not a point in time while
    /// batches are applied meanwhile.
    fn scan(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Error>;

    /// All or nothing, in order; visible when this returns, durable after [`Store::flush`].
    fn write(&self, batch: &[Write]) -> Result<(), Error>;

    /// Everything written before this call survives a kill of the process.
    fn flush(&self) -> Result<(), Error>;
}
