//! Brings the state forward, entry by entry; builds and installs snapshots. The only writer of machine and store.
//!
//! An entry is applied once: its position is stored in the same batch as its rows. What cannot be decoded, or
//! panics, stops this member for good, naming the entry: to skip it on one replica would be worse.

use super::applied::Applied;
use super::log::EntryId;
use super::machine::Machine;
use super::snapshot::{self, SnapshotFile, Snapshots};
use super::types::{self, Member, MemberId, Replies, Types};
use crate::state::{LoadError, Stamp};
use crate::store::{self, Store, Write};
use lote_shared::model::Timestamp;
use lote_shared::protocol::codec;
use openraft::{EntryPayload, SnapshotMeta};
use parking_lot::Mutex;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokio::sync::watch;

/// Why a member does not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("entry {index} cannot be applied: {why}")]
    Entry { index: u64, why: String },
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Snapshot(#[from] snapshot::Error),
    #[error("the snapshot cannot be loaded: {0}")]
    Load(#[from] LoadError),
    #[error("the position cannot be stored: {0}")]
    Position(#[from] codec::Error),
    #[error("snapshot `{found}` arrived where `{expected}` was announced")]
    OtherSnapshot { found: String, expected: String },
    #[error("no fresh folder for the state: {0}")]
    Home(String),
    #[error("this member has stopped: {0}")]
    Stopped(String),
}

/// Where fresh stores come from.
pub trait Home: Send + 'static {
    /// An empty store that is nobody's yet.
    fn fresh(&mut self) -> Result<Arc<dyn Store>, Error>;
    /// The last fresh store is the one to be found after a restart.
    fn adopt(&mut self) -> Result<(), Error>;
}

/// Stores in memory, for tests and the simulator.
#[derive(Debug, Default)]
pub struct MemoryHome;

impl Home for MemoryHome {
    fn fresh(&mut self) -> Result<Arc<dyn Store>, Error> {
        Ok(Arc::new(store::MemoryStore::new()))
    }

    fn adopt(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// What others may see of the applier at any time.
#[derive(Debug, Default)]
pub struct View {
    inner: Mutex<ViewInner>,
    position: watch::Sender<Position>,
}

/// The last entry that was applied, and its time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    pub id: Option<EntryId>,
    pub now: Timestamp,
}

impl Position {
    /// Whether the entry at `index` and everything before it is applied.
    pub fn has_reached(&self, index: u64) -> bool {
        self.id.is_some_and(|id| id.index >= index)
    }
}

#[derive(Debug, Default)]
struct ViewInner {
    applied: Applied,
    stopped: Option<String>,
}

impl View {
    pub fn applied(&self) -> Applied {
        self.inner.lock().applied.clone()
    }

    /// Follows what is applied.
    pub fn position(&self) -> watch::Receiver<Position> {
        self.position.subscribe()
    }

    fn set_applied(&self, applied: Applied) {
        let position = Position { id: applied.id, now: applied.now };
        self.inner.lock().applied = applied;
        self.position.send_replace(position);
    }

    /// Why nothing is applied any more.
    pub fn stopped(&self) -> Option<String> {
        self.inner.lock().stopped.clone()
    }

    /// From now on nothing is applied.
    pub fn stop(&self, why: String) {
        self.inner.lock().stopped.get_or_insert(why);
    }
}

pub struct Applier<M> {
    machine: Arc<M>,
    home: Box<dyn Home>,
    snapshots: Snapshots,
    applied: Applied,
    view: Arc<View>,
}

impl<M: Machine> Applier<M> {
    /// The machine holds its state as of what its store says was applied.
    pub fn open(machine: Arc<M>, home: Box<dyn Home>, snapshots: Snapshots) -> Result<Applier<M>, Error> {
        let applied = read_applied(&*machine.store())?;
        let view = Arc::new(View::default());
        view.set_applied(applied.clone());
        Ok(Applier { machine, home, snapshots, applied, view })
    }

    pub fn view(&self) -> Arc<View> {
        self.view.clone()
    }

    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// Applies an entry, unless it was applied before. After an error nothing is applied any more.
    pub fn apply<C: Types>(&mut self, entry: &openraft::Entry<C>) -> Result<Replies, Error> {
        if let Some(why) = self.view.stopped() {
            return Err(Error::Stopped(why));
        }
        self.try_apply(entry).inspect_err(|error| {
            tracing::error!(%error, "this member stops: an entry cannot be applied");
            self.view.inner.lock().stopped = Some(error.to_string());
        })
    }

    fn try_apply<C: Types>(&mut self, entry: &openraft::Entry<C>) -> Result<Replies, Error> {
        let id = types::to_id(&entry.log_id);
        let index = id.index;
        if self.applied.index().is_some_and(|applied| index <= applied) {
            return Ok(Replies::new());
        }
        let failed = |why: String| Error::Entry { index, why };
        let mut next = Applied { id: Some(id), ..self.applied.clone() };
        let mut commands = Vec::new();
        match &entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Membership(membership) => {
                next.membership_id = Some(id);
                next.membership = membership.into();
            }
            EntryPayload::Normal(payload) => {
                let (now, decoded) = payload.decode().map_err(|error| failed(error.to_string()))?;
                // Whatever a leader stamps, time never runs backwards.
                next.now = next.now.max(now);
                commands = decoded;
            }
        }
        let stamp = Stamp { index, now: next.now };
        let mut unstorable = None;
        let mut position = |batch: &_| {
            next.hash = self.applied.hash_after(index, batch);
            position_write(&next).unwrap_or_else(|error| {
                unstorable = Some(error);
                Vec::new()
            })
        };
        let apply = || self.machine.apply(stamp, &commands, &mut position);
        let replies = catch_unwind(AssertUnwindSafe(apply))
            .map_err(|panic| failed(format!("it panicked: {}", panic_text(&*panic))))??;
        if let Some(error) = unstorable {
            return Err(error.into());
        }
        if replies.len() != commands.len() {
            return Err(failed(format!("{} replies to {} commands", replies.len(), commands.len())));
        }
        self.set_applied(next);
        Ok(replies)
    }

    fn set_applied(&mut self, applied: Applied) {
        self.view.set_applied(applied.clone());
        self.applied = applied;
    }

    /// Writes a snapshot of the state as it is. The store is flushed as well, since the log may be purged next.
    pub fn build_snapshot(&mut self) -> Result<(SnapshotMeta<MemberId, Member>, SnapshotFile), Error> {
        let store = self.machine.store();
        self.snapshots.build(&self.applied, &*store)?;
        store.flush()?;
        self.current_snapshot().ok_or_else(|| Error::Home("the snapshot just built is gone".to_owned()))
    }

    pub fn current_snapshot(&self) -> Option<(SnapshotMeta<MemberId, Member>, SnapshotFile)> {
        self.snapshots.current().map(|(applied, file)| (applied.snapshot_meta(), file))
    }

    pub fn receiving(&mut self) -> SnapshotFile {
        self.snapshots.receiving()
    }

    /// Replaces the state by a snapshot's, filled into a fresh store that then becomes the one.
    pub fn install(&mut self, expected: &str, file: &SnapshotFile) -> Result<(), Error> {
        if let Some(why) = self.view.stopped() {
            return Err(Error::Stopped(why));
        }
        let fresh = self.home.fresh()?;
        let position = snapshot::load(file, &*fresh)?;
        if position.name() != expected {
            return Err(Error::OtherSnapshot { found: position.name(), expected: expected.to_owned() });
        }
        check_position(&*fresh, &position)?;
        self.snapshots.adopt(position.clone(), file)?;
        self.machine.load(fresh)?;
        self.home.adopt()?;
        self.set_applied(position);
        Ok(())
    }
}

/// The rows of a snapshot say the same position as its head.
pub fn check_position(store: &dyn Store, position: &Applied) -> Result<(), Error> {
    let found = read_applied(store)?;
    if found == *position {
        Ok(())
    } else {
        Err(Error::OtherSnapshot { found: found.name(), expected: position.name() })
    }
}

/// How far a store's state has been brought. An unreadable row is damage.
pub fn read_applied(store: &dyn Store) -> Result<Applied, store::Error> {
    match store.get(&Applied::key())? {
        None => Ok(Applied::default()),
        Some(bytes) => Applied::decode(&bytes)
            .map_err(|error| store::Error::Damaged(format!("the applied position is unreadable: {error}"))),
    }
}

fn position_write(applied: &Applied) -> Result<Vec<Write>, codec::Error> {
    Ok(vec![(Applied::key(), Some(applied.encode()?))])
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a message")
}
