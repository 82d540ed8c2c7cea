//! Brings the state forward, entry by entry; builds and installs snapshots. The only writer of machine and store.
//!
//! An entry is applied once: its position is stored in the same batch as its rows. What cannot be decoded, or
//! panics, stops this member for good, naming the entry: to skip it on one replica would be worse.

use super::applied::Applied;
use super::build::Build;
use super::log::EntryId;
use super::machine::Machine;
use super::snapshot::{self, SnapshotFile, Snapshots};
use super::types::{self, Member, MemberId, Replies, Types};
use crate::state::{Batch, ClusterVersion, LoadError, Stamp};
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
    #[error("the store cannot be flushed: {0}")]
    Unflushed(String),
}

/// Where fresh stores come from.
pub trait Home: Send + 'static {
    /// An empty store that is nobody's yet.
    fn fresh(&mut self) -> Result<Arc<dyn Store>, Error>;
    /// The last fresh store is the one to be found after a restart.
    fn adopt(&mut self) -> Result<(), Error>;
    /// The last fresh store, if it was not adopted, is not wanted; nobody holds it any more.
    fn discard(&mut self);
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

    fn discard(&mut self) {}
}

/// What others may see of the applier at any time.
#[derive(Debug, Default)]
pub struct View {
    inner: Mutex<ViewInner>,
    position: watch::Sender<Position>,
    /// Whether entries should wait for the build of a snapshot.
    pressed: watch::Sender<bool>,
}

/// The last entry that was applied, its time, and the rules that hold behind it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    pub id: Option<EntryId>,
    pub now: Timestamp,
    pub version: ClusterVersion,
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
    /// Why the last snapshot was not made.
    trouble: Option<String>,
    /// Builds that failed since one succeeded.
    failures: u32,
}

impl View {
    pub fn applied(&self) -> Applied {
        self.inner.lock().applied.clone()
    }

    /// Follows what is applied.
    pub fn position(&self) -> watch::Receiver<Position> {
        self.position.subscribe()
    }

    fn set_applied(&self, applied: Applied, version: ClusterVersion) {
        let position = Position { id: applied.id, now: applied.now, version };
        self.inner.lock().applied = applied;
        self.position.send_replace(position);
    }

    /// Returns when no build holds up the entries.
    pub async fn unpressed(&self) {
        // The sender is here, so this ends with the wait.
        let _ = self.pressed.subscribe().wait_for(|pressed| !*pressed).await;
    }

    pub(super) fn set_pressed(&self, pressed: bool) {
        self.pressed.send_if_modified(|current| std::mem::replace(current, pressed) != pressed);
    }

    /// Why the last snapshot that was tried was not made, if it was not. It is tried again.
    pub fn snapshot_trouble(&self) -> Option<String> {
        self.inner.lock().trouble.clone()
    }

    /// Notes how the last build went; how many failed by now since one succeeded.
    pub(super) fn set_trouble(&self, trouble: Option<String>) -> u32 {
        let mut inner = self.inner.lock();
        inner.failures = if trouble.is_some() { inner.failures.saturating_add(1) } else { 0 };
        inner.trouble = trouble;
        inner.failures
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
    /// The snapshot that is being built.
    build: Option<Build>,
    /// Builds begun.
    builds: u64,
    /// A snapshot from elsewhere, in a fresh store, that waits to be installed.
    prepared: Option<(Applied, Arc<dyn Store>)>,
}

impl<M: Machine> Applier<M> {
    /// The machine holds its state as of what its store says was applied.
    pub fn open(machine: Arc<M>, home: Box<dyn Home>, snapshots: Snapshots) -> Result<Applier<M>, Error> {
        let applied = read_applied(&*machine.store())?;
        let view = Arc::new(View::default());
        view.set_applied(applied.clone(), machine.version());
        machine.set_voters(applied.membership.voters());
        Ok(Applier { machine, home, snapshots, applied, view, build: None, builds: 0, prepared: None })
    }

    pub fn view(&self) -> Arc<View> {
        self.view.clone()
    }

    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// Applies an entry, unless it was applied before. After an error nothing is applied any more.
    pub fn apply<C: Types>(&mut self, entry: &openraft::Entry<C>) -> Result<Replies, Error> {
        self.check_running()?;
        self.try_apply(entry).inspect_err(|error| {
            tracing::error!(%error, "this member stops: an entry cannot be applied");
            self.view.inner.lock().stopped = Some(error.to_string());
        })
    }

    pub(super) fn check_running(&self) -> Result<(), Error> {
        self.view.stopped().map_or(Ok(()), |why| Err(Error::Stopped(why)))
    }

    fn try_apply<C: Types>(&mut self, entry: &openraft::Entry<C>) -> Result<Replies, Error> {
        let id = types::to_id(&entry.log_id);
        let index = id.index;
        if self.applied.index().is_some_and(|applied| index <= applied) {
            return Ok(Replies::new());
        }
        let failed = |why: String| Error::Entry { index, why };
        let mut next = Applied { id: Some(id), ..self.applied.clone() };
        let mut content = None;
        match &entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Membership(membership) => {
                next.membership_id = Some(id);
                next.membership = membership.into();
            }
            EntryPayload::Normal(payload) => {
                let decoded = payload.decode(id.term).map_err(|error| failed(error.to_string()))?;
                // Whatever a leader stamps, time never runs backwards.
                next.now = next.now.max(decoded.now);
                content = Some(decoded);
            }
        }
        let stamp = Stamp { index, now: next.now };
        let mut unstorable = None;
        let (build, view) = (&mut self.build, &self.view);
        let mut position = |batch: &Batch| {
            next.hash = self.applied.hash_after(index, batch);
            let more = position_write(&next).unwrap_or_else(|error| {
                unstorable = Some(error.into());
                Vec::new()
            });
            if let Some(build) = build {
                let keys = batch.writes.iter().chain(&more).map(|(key, _)| key.as_slice());
                if let Err(error) = build.before_write(keys, view) {
                    unstorable = Some(Error::Store(error));
                }
            }
            more
        };
        let commands = content.as_ref().map_or(&[][..], |content| &content.commands);
        let apply = || self.machine.apply(stamp, commands, &mut position);
        let replies = catch_unwind(AssertUnwindSafe(apply))
            .map_err(|panic| failed(format!("it panicked: {}", panic_text(&*panic))))??;
        if let Some(error) = unstorable {
            return Err(error);
        }
        let count = replies.len();
        let answers = content.map_or(Some(Replies::new()), |content| content.answers(replies));
        let answers =
            answers.ok_or_else(|| failed(format!("{count} replies are not one to each command")))?;
        self.set_applied(next);
        Ok(answers)
    }

    fn set_applied(&mut self, applied: Applied) {
        if applied.membership_id != self.applied.membership_id {
            self.machine.set_voters(applied.membership.voters());
        }
        self.view.set_applied(applied.clone(), self.machine.version());
        self.applied = applied;
    }

    /// What another module of this one builds with.
    pub(super) fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    pub(super) fn snapshots_mut(&mut self) -> &mut Snapshots {
        &mut self.snapshots
    }

    pub(super) fn build_mut(&mut self) -> Option<&mut Build> {
        self.build.as_mut()
    }

    /// From now on entries keep aside what they change; the number of the build and what it reads.
    pub(super) fn start_build(&mut self) -> (u64, Arc<dyn Store>) {
        let store = self.machine.store();
        self.builds += 1;
        self.build = Some(Build::new(self.builds, store.clone()));
        (self.builds, store)
    }

    pub(super) fn drop_build(&mut self, number: u64) {
        self.build.take_if(|build| build.number() == number);
    }

    pub fn current_snapshot(&self) -> Option<(SnapshotMeta<MemberId, Member>, SnapshotFile)> {
        self.snapshots.current().map(|(applied, file)| (applied.snapshot_meta(), file))
    }

    pub fn receiving(&mut self) -> SnapshotFile {
        self.snapshots.receiving()
    }

    /// An empty store for a snapshot from elsewhere. It is given to [`Applier::prepared`] or not wanted.
    pub fn fresh(&mut self) -> Result<Arc<dyn Store>, Error> {
        self.check_running()?;
        self.home.fresh()
    }

    /// The fresh store holds a snapshot, which may be installed next.
    pub fn prepared(&mut self, position: Applied, store: Arc<dyn Store>) {
        self.prepared = Some((position, store));
    }

    /// What was prepared and not installed goes.
    pub fn discard(&mut self) {
        self.prepared = None;
        self.home.discard();
    }

    /// Replaces the state by a snapshot's: the prepared one, or what is filled into a fresh store now. A snapshot that
    /// is being built is not.
    pub fn install(&mut self, expected: &str, file: &SnapshotFile) -> Result<(), Error> {
        self.check_running()?;
        let prepared = self.prepared.take().filter(|(position, _)| position.name() == expected);
        let (position, fresh) = match prepared {
            Some(prepared) => prepared,
            None => {
                let fresh = self.home.fresh()?;
                (snapshot::load(file, &*fresh)?, fresh)
            }
        };
        if position.name() != expected {
            return Err(Error::OtherSnapshot { found: position.name(), expected: expected.to_owned() });
        }
        check_position(&*fresh, &position)?;
        self.snapshots.adopt(position.clone(), file)?;
        self.build = None;
        self.view.set_pressed(false);
        self.machine.load(fresh)?;
        self.home.adopt()?;
        // The state that was loaded has not heard it yet.
        self.machine.set_voters(position.membership.voters());
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
