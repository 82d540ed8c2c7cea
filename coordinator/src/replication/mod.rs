//! Replication: makes commands durable, has them applied, and answers.
//!
//! ```text
//! Engine ──queue──► driver ──one entry at a time──► openraft ──► log_store ──► log (files, fdatasync)
//!   ▲                 ▲                                │ committed
//!   │ reads           └── replies ◄── state_machine ◄──┘
//!   └── memory, store ◄── applier (its own thread) ──► store (rows and position in one batch), snapshots
//! ```
//! Threads: `lote-raft` runs openraft and the driver on a tokio runtime of its own and never waits for a disk;
//! `lote-log` writes and syncs the log; `lote-apply` alone changes the state; `lote-flush` flushes the store now
//! and then.
//!
//! What survives a crash: the log and the vote, to the last acknowledged entry ([`log`]). The store lags and is
//! brought forward from the log at the next start, or rebuilt from snapshot and log if it is damaged ([`folder`]).

mod applied;
mod applier;
mod clock;
mod driver;
pub mod folder;
mod found;
mod housekeeping;
pub mod log;
mod log_store;
mod machine;
mod network;
pub mod recover;
mod replica;
mod snapshot;
mod state_machine;
mod types;

#[cfg(test)]
mod tests;

pub use applied::Applied;
pub use applier::{Applier, Home, MemoryHome, View};
pub use clock::{ClockCore, Reading, SystemTime, Time};
pub use driver::Driver;
pub use log_store::LogStore;
pub use machine::{EngineMachine, Machine};
pub use network::NoNetwork;
pub use replica::{Replica, Role, Status};
pub use snapshot::{SnapshotFile, Snapshots};
pub use state_machine::StateMachine;
pub use types::{Member, MemberId, Payload, Replies, TypeConfig, Types};

use crate::engine::Engine;
use crate::state::{Cluster, LoadError};
use crate::store::{MemoryStore, SwitchStore};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// How a coordinator keeps its state.
#[derive(Debug, Clone)]
pub struct Config {
    /// The data folder; created if it is missing.
    pub folder: PathBuf,
    /// Entries between two snapshots.
    pub snapshot_entries: u64,
    /// Entries kept in the log although a snapshot has them.
    pub keep_entries: u64,
    /// Size of the log on disk at which a snapshot is made, however few entries there are. Some segments at least.
    pub log_bytes_max: u64,
    /// Size at which a segment of the log is closed.
    pub segment_bytes: u64,
    /// Memory for sled's pages.
    pub store_cache_bytes: u64,
}

impl Config {
    /// The defaults for everything but the folder.
    pub fn new(folder: impl Into<PathBuf>) -> Config {
        Config {
            folder: folder.into(),
            snapshot_entries: 50_000,
            keep_entries: 5_000,
            log_bytes_max: 1024 * 1024 * 1024,
            segment_bytes: 64 * 1024 * 1024,
            store_cache_bytes: 64 * 1024 * 1024,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{path}`: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("another process is using the data folder `{path}`")]
    Locked { path: PathBuf },
    #[error("`{path}` was written by a newer Lote (format {found}; this one reads up to {supported})")]
    NewerFormat { path: PathBuf, found: u32, supported: u32 },
    #[error(
        "`{path}` is not a data folder of Lote, or its version is unreadable; if it was one, see `lote recover`"
    )]
    Unversioned { path: PathBuf },
    #[error(
        "`{path}` is missing or unreadable although this member has run before, so its number is unknown; \
         see `lote recover`"
    )]
    NoMember { path: PathBuf },
    #[error("a recovery of `{path}` was interrupted; finish it with `lote recover`")]
    Unfinished { path: PathBuf },
    /// To go on with an empty state would be no recovery.
    #[error(
        "nothing of the state in `{path}` is left: no snapshot and no stored state can be read, and the log does not \
         reach back to the beginning; bring a backup back with `lote restore`"
    )]
    NothingLeft { path: PathBuf },
    #[error("`{path}` is there already; choose another folder")]
    Exists { path: PathBuf },
    /// Includes a log that lost acknowledged writes: [`log::Error::BehindMark`] and its kin.
    #[error(transparent)]
    Log(#[from] log::Error),
    #[error(
        "the state cannot be rebuilt: the log begins after entry {purged} and the snapshot ends at {snapshot:?}; \
         see `lote recover`"
    )]
    StateLost { snapshot: Option<u64>, purged: u64 },
    #[error(transparent)]
    Snapshot(#[from] snapshot::Error),
    #[error("the state cannot be loaded: {0}; see `lote recover`")]
    Load(#[from] LoadError),
    #[error(transparent)]
    Apply(#[from] applier::Error),
    #[error("raft: {0}")]
    Raft(String),
}

/// Opens or creates the data folder and starts this member. Returns once it leads and has applied everything in
/// its log. The engine answers `NoQuorum` after [`Replica::shutdown`].
pub async fn open(config: Config) -> Result<(Engine, Replica), Error> {
    // The folder's store takes this one's place before anything is read or applied.
    let store = Arc::new(SwitchStore::new(Arc::new(MemoryStore::new())));
    let (engine, queue) = Engine::new(Cluster::new(), store.clone());
    let machine = EngineMachine::new(&engine, store);
    let replica = Replica::start(config, Arc::new(machine), queue, Arc::new(SystemTime::default())).await?;
    Ok((engine, replica))
}
