//! Replication: makes commands durable, has them applied, and answers.
//!
//! ```text
//! Engine ──queue──► driver ──one entry at a time──► openraft ──► log_store ──► log (files, fdatasync)
//!   ▲                 ▲                                │ committed
//!   │ reads           └── replies ◄── state_machine ◄──┘
//!   └── memory, store ◄── applier (its own thread) ──► store (rows and position in one batch), snapshots
//! ```
//! On a member that does not lead, the driver sends what gathers to the leader instead ([`forward`]); openraft speaks
//! to the other members through [`transport`] and [`serve`], over libp2p.
//!
//! Threads: `lote-raft` runs openraft, the driver and the streams to other members on a tokio runtime of its own and
//! never waits for a disk (the swarm below the streams has tasks of its own on the main runtime);
//! `lote-log` writes and syncs the log; `lote-apply` alone changes the state; `lote-flush` flushes the store now
//! and then.
//!
//! What survives a crash: the log and the vote, to the last acknowledged entry ([`log`]). The store lags and is
//! brought forward from the log at the next start, or rebuilt from snapshot and log if it is damaged ([`folder`]).

mod applied;
mod applier;
mod build;
mod clock;
mod driver;
mod due;
mod failover;
pub mod folder;
mod forward;
mod found;
mod housekeeping;
mod life;
mod link;
pub mod log;
mod log_store;
mod machine;
pub mod membership;
mod payload;
pub mod recover;
mod replica;
mod room;
mod serve;
mod skew;
mod snapshot;
mod state_machine;
mod transfer;
mod transport;
mod types;
mod waiting;
mod wire;
mod witness;

#[cfg(test)]
mod tests;

pub use applied::Applied;
pub use applier::{Applier, Home, MemoryHome, Position, View};
pub use clock::{ClockCore, Reading, SystemTime, Time};
pub use driver::{Driver, GIVE_UP_AFTER, Parts};
pub use forward::{EngineAnswer, EngineQuestion, Forwarded};
pub use log_store::LogStore;
pub use machine::{EngineMachine, Machine};
pub use payload::Payload;
pub use replica::{MemberStatus, Replica, Role, Status};
pub use skew::{OFF_MS as CLOCK_OFF_MS, watch::Clocks};
pub use snapshot::{SnapshotFile, Snapshots};
pub use state_machine::StateMachine;
pub use transport::{Links, Transport};
pub use types::{Member, MemberId, Replies, TypeConfig, Types};

use crate::engine::Engine;
use crate::state::version::Unsupported;
use crate::state::{Cluster, LoadError};
use crate::store::{MemoryStore, SwitchStore};
use lote_shared::network::{self as net, Network};
use std::io;
use std::path::{Path, PathBuf};
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

/// What a member's folder is opened for. A folder that was used before goes on as what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// The first member of a new cluster; it gets the number 1.
    Found { me: Member },
    /// An empty folder waits until the leader adds this number. Never one that was used before: a member that lost its
    /// log may have forgotten votes. A folder that was recovered since goes on under the greater number it then got.
    Join { member: MemberId },
    /// Only a folder that was used before.
    Resume,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{path}` belongs to member {found}, not to member {asked}; an empty folder is needed")]
    OtherMember { path: PathBuf, found: MemberId, asked: MemberId },
    #[error("`{path}` is no member's folder yet; found a cluster or join one")]
    NoMember { path: PathBuf },
    #[error(transparent)]
    Network(#[from] net::Error),
    #[error("`{path}`: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("another process is using the data folder `{path}`")]
    Locked { path: PathBuf },
    #[error("`{path}` cannot be used by this build: {why}")]
    NewerFormat { path: PathBuf, why: Unsupported },
    #[error(
        "`{path}` is not a data folder of Lote, or its version is unreadable; if it was one, see `lote recover`"
    )]
    Unversioned { path: PathBuf },
    #[error(
        "`{path}` is missing or unreadable although this member has run before, so its number is unknown; \
         see `lote recover`"
    )]
    MemberUnknown { path: PathBuf },
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
    /// Damaged nowhere, and yet what it forgot was acknowledged.
    #[error(
        "the log is an older copy of itself: it ends at entry {last:?}, or its vote is from before, and the state has \
         entry {applied}; see `lote recover`"
    )]
    LogOlder { last: Option<u64>, applied: u64 },
    #[error(transparent)]
    Snapshot(#[from] snapshot::Error),
    #[error("the state cannot be loaded: {0}; see `lote recover`")]
    Load(#[from] LoadError),
    #[error(transparent)]
    Apply(#[from] applier::Error),
    #[error("raft: {0}")]
    Raft(String),
}

impl Error {
    /// Whether nothing is wrong but the build: the data belong to a cluster version that it does not support.
    fn unsupported(&self) -> Option<&Unsupported> {
        use crate::store::Error as Store;
        match self {
            Error::NewerFormat { why, .. }
            | Error::Load(LoadError::Version(why))
            | Error::Apply(applier::Error::Load(LoadError::Version(why)))
            | Error::Apply(applier::Error::Store(Store::Version(why))) => Some(why),
            _ => None,
        }
    }
}

/// A state of `path` that does not load: another build is the remedy, or a recovery.
fn load_error(path: &Path) -> impl FnOnce(LoadError) -> Error {
    let path = path.to_owned();
    move |error| match error {
        LoadError::Version(why) => Error::NewerFormat { path, why },
        error => error.into(),
    }
}

/// Opens or creates the data folder of a cluster of one without a network. Returns once it leads and has applied
/// everything in its log. The engine answers `NoQuorum` after [`Replica::shutdown`].
pub async fn open(config: Config) -> Result<(Engine, Replica), Error> {
    open_member(config, Start::Found { me: Member::default() }, None).await
}

/// Opens or creates the data folder of a member. Returns once it runs, in whatever role; the only voter leads by then
/// and has applied everything in its log. The network's allow-list is the caller's business; members' addresses are
/// added here as Raft's membership names them.
pub async fn open_member(
    config: Config,
    start: Start,
    network: Option<Network>,
) -> Result<(Engine, Replica), Error> {
    open_member_at(config, start, network, Arc::new(SystemTime::default())).await
}

/// As [`open_member`], by other clocks than the machine's.
pub async fn open_member_at(
    config: Config,
    start: Start,
    network: Option<Network>,
    time: Arc<dyn Time>,
) -> Result<(Engine, Replica), Error> {
    // The folder's store takes this one's place before anything is read or applied.
    let store = Arc::new(SwitchStore::new(Arc::new(MemoryStore::new())));
    let (engine, queue) = Engine::new(Cluster::new(), store.clone());
    let machine = Arc::new(EngineMachine::new(&engine, store));
    let replica = Replica::start(config, start, network, machine, queue, time).await?;
    Ok((engine, replica))
}
