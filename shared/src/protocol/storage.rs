//! `/lote/storage/1`: what coordinators ask each other about the chunks they keep.
//!
//! The caller writes one [`Request`] frame at a time; each is answered with one [`Response`]. Asking changes nothing:
//! unlike `data::Request::Have`, a chunk that is here is not made young by it. Messages keep their shape, enums grow at
//! their ends.

use crate::chunks::ChunkId;
use serde::{Deserialize, Serialize};

/// Most names in one [`Request::Holds`].
pub const HOLDS_MAX: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Which of these lie at yours?
    Holds { ids: Vec<ChunkId> },
    /// How is your storage?
    Status,
    /// Begin this now.
    Begin(Work),
    /// Somebody reads content that may have lost its references meanwhile (a backup): remove nothing for ten minutes.
    Defer,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// In the order of the request.
    Holds(Vec<bool>),
    Status(Box<Status>),
    Begun,
    /// More names than [`HOLDS_MAX`].
    TooMany,
}

/// What an operator can ask for out of turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    Verify,
    Repair,
}

/// One kind of work that goes through all chunks over and over. Times are the wall clock's, in ms since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    pub running: bool,
    /// Begin of the present pass, or of the last one.
    pub started_ms: Option<u64>,
    /// End of the last pass that came to its end.
    pub finished_ms: Option<u64>,
    /// Chunks looked at by the present pass, or by the last one.
    pub done: u64,
    /// Chunks it will look at, as far as is known.
    pub total: u64,
    /// Why the last pass did not do all it should.
    pub trouble: Option<String>,
}

/// The storage of one coordinator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Chunks and bytes of their files on this disk, by the last pass of collection.
    pub chunks: u64,
    pub bytes: u64,
    /// Those of them that nothing refers to and that wait for the end of the grace period.
    pub unreferenced: u64,
    pub unreferenced_bytes: u64,
    /// Removed by collection since the process began.
    pub collected: u64,
    pub collected_bytes: u64,
    /// References of all files to chunks in the last pass of repair, the same chunk counted as often as it is referred to.
    pub references: u64,
    /// Of a sample of those references, all and the different ones: their quotient is the deduplication ratio.
    pub sampled: u64,
    pub sampled_distinct: u64,
    /// Chunks on fewer coordinators than there should be, and those found nowhere, by the last pass of repair.
    pub under_replicated: u64,
    pub lost: u64,
    /// Copies made here since the process began.
    pub repaired: u64,
    /// Chunks set aside as damaged.
    pub damaged: u64,
    pub collection: Pass,
    pub repair: Pass,
    pub verification: Pass,
}
