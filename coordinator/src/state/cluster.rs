//! The core of the state machine. (In progress.)

use super::{Command, Reply};
use lote_shared::model::AttemptRef;
use lote_shared::model::{JobKey, NodeKey, PoolKey, Timestamp};
use lote_shared::protocol::host::{KillReason, TaskDirectory};

/// Where in the log, and when by the leader's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Index of the Raft entry; several commands share one.
    pub index: u64,
    pub now: Timestamp,
}

/// What one entry changes: rows for the store (later ones win) and events for the shells.
#[derive(Debug, Default)]
pub struct Batch {
    /// `None` deletes.
    pub writes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    pub events: Vec<Event>,
}

/// Something a shell on the leader may want to act on. Hints only: everything can be found again from the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    PoolAdded(PoolKey),
    PoolChanged(PoolKey),
    PoolRemoved(PoolKey),
    HostsChanged,
    /// Something in this pool may be dispatchable now: tasks became ready or slots free.
    Dispatch(PoolKey),
    JobChanged(JobKey),
    /// A cursor wants `Continue`.
    CursorPending(super::command::CursorKey),
    /// The host of this node should end an attempt.
    Kill {
        node: NodeKey,
        attempt: AttemptRef,
        reason: KillReason,
    },
    WallClock {
        node: NodeKey,
        attempt: AttemptRef,
        wall_clock_ms: Option<u64>,
    },
    Clean {
        node: NodeKey,
        directory: TaskDirectory,
    },
    NodeGranted(NodeKey),
    NodeLeaving(NodeKey),
    RetryAt {
        task: lote_shared::model::TaskKey,
        at: Timestamp,
    },
}

/// Why rows could not be taken back into memory.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("row {key}: {why}")]
    Row { key: String, why: String },
    #[error("{0}")]
    Inconsistent(String),
}

/// The replicated state.
#[derive(Debug, Default)]
pub struct Cluster {}

impl Cluster {
    pub fn new() -> Cluster {
        Cluster::default()
    }

    /// Rebuilds memory from hot rows, in key order.
    pub fn load(_rows: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) -> Result<Cluster, LoadError> {
        Ok(Cluster::default())
    }

    /// Applies one committed command. Total: never panics, never touches more than 1 000 records.
    pub fn apply(&mut self, _stamp: Stamp, _command: &Command, _batch: &mut Batch) -> Reply {
        Err(super::RefusalCode::InternalError.into())
    }
}
