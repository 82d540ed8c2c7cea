//! openraft's view of the [`Applier`], which works on a thread of its own (or in place, for the simulator).
//!
//! Entries, and the slices of a snapshot that is being built ([`super::build`]), go through the same queue, so that
//! neither happens in the middle of the other.

use super::applied::Applied;
use super::applier::{self, Applier, Error, View};
use super::build;
use super::machine::Machine;
use super::room::Room;
use super::snapshot::{self, SnapshotFile};
use super::types::{Member, MemberId, Replies, Types};
use openraft::storage::RaftStateMachine;
use openraft::{
    AnyError, LogId, OptionalSend, RaftSnapshotBuilder, Snapshot, SnapshotMeta, StorageError, StorageIOError,
    StoredMembership,
};
use parking_lot::Mutex;
use std::io;
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// More jobs than ever wait: openraft and its snapshot builder each wait for the answer before they ask again.
const JOBS_MAX: usize = 64;

type Job<M> = Box<dyn FnOnce(&mut Applier<M>) + Send>;

enum Way<M> {
    /// Ends when the last handle is gone.
    Thread(mpsc::SyncSender<Job<M>>),
    Inline(Arc<Mutex<Applier<M>>>),
}

impl<M> Clone for Way<M> {
    fn clone(&self) -> Way<M> {
        match self {
            Way::Thread(queue) => Way::Thread(queue.clone()),
            Way::Inline(applier) => Way::Inline(applier.clone()),
        }
    }
}

/// A handle to the applier, also its snapshot builder.
pub struct StateMachine<M> {
    way: Way<M>,
    view: Arc<View>,
    room: Room,
}

impl<M> Clone for StateMachine<M> {
    fn clone(&self) -> StateMachine<M> {
        StateMachine { way: self.way.clone(), view: self.view.clone(), room: self.room.clone() }
    }
}

impl<M: Machine> StateMachine<M> {
    /// Starts the applying thread; it gives the applier back when all handles are dropped.
    pub fn on_thread(applier: Applier<M>) -> io::Result<(StateMachine<M>, JoinHandle<Applier<M>>)> {
        let (view, room) = (applier.view(), applier.snapshots().room());
        let (queue, jobs) = mpsc::sync_channel::<Job<M>>(JOBS_MAX);
        let work = move || {
            let mut applier = applier;
            for job in jobs {
                job(&mut applier);
            }
            applier
        };
        let thread = std::thread::Builder::new().name("lote-apply".to_owned()).spawn(work)?;
        Ok((StateMachine { way: Way::Thread(queue), view, room }, thread))
    }

    /// Works in the caller's place: deterministic, and blocking.
    pub fn inline(applier: Applier<M>) -> StateMachine<M> {
        let (view, room) = (applier.view(), applier.snapshots().room());
        StateMachine { way: Way::Inline(Arc::new(Mutex::new(applier))), view, room }
    }

    /// What others may see.
    pub fn view(&self) -> Arc<View> {
        self.view.clone()
    }

    /// Whether so many more bytes may be written.
    pub fn room(&self) -> &Room {
        &self.room
    }

    /// Fills a fresh store with a verified snapshot from elsewhere, so that installing it takes but a moment and finds
    /// its room: openraft takes a snapshot that cannot be installed for the end of this member.
    pub async fn prepare(&self, file: SnapshotFile) -> Result<Applied, Error> {
        let fresh = self.call(Applier::fresh).await?;
        let (store, room) = (fresh.clone(), self.room.clone());
        let filled = move || -> Result<Applied, Error> {
            let position = snapshot::load_while(&file, &*store, &room)?;
            applier::check_position(&*store, &position)?;
            // What is to be installed is on the disk by then.
            file.sync()?;
            Ok(position)
        };
        let filled = self.blocking(filled).await?;
        let (position, failure) = match filled {
            Ok(position) => (Some(position), None),
            Err(error) => (None, Some(error)),
        };
        let given = position.clone();
        let give = move |applier: &mut Applier<M>| {
            match given {
                Some(position) => applier.prepared(position, fresh),
                None => {
                    drop(fresh);
                    applier.discard();
                }
            }
            Ok(())
        };
        self.call(give).await?;
        match (position, failure) {
            (Some(position), _) => Ok(position),
            (None, failure) => Err(failure.unwrap_or_else(|| Error::Home("nothing was prepared".to_owned()))),
        }
    }

    /// What was prepared is not wanted, unless it is installed.
    pub async fn discard(&self) -> Result<(), Error> {
        self.call(|applier| {
            applier.discard();
            Ok(())
        })
        .await
    }

    /// Work that waits for a disk: on a thread of its own, or in place.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        match &self.way {
            // Whoever waits for a disk lets others go first now and then, also here.
            Way::Inline(_) => {
                let done = work();
                let mut others_had_their_turn = false;
                std::future::poll_fn(|context| {
                    if std::mem::replace(&mut others_had_their_turn, true) {
                        return Poll::Ready(());
                    }
                    context.waker().wake_by_ref();
                    Poll::Pending
                })
                .await;
                Ok(done)
            }
            Way::Thread(_) => tokio::task::spawn_blocking(work)
                .await
                .map_err(|_| Error::Stopped("a thread that wrote a snapshot has ended".to_owned())),
        }
    }

    /// Waits; false where there is no clock to wait by.
    pub(super) async fn pause(&self, pause: Duration) -> bool {
        let has_clock = matches!(self.way, Way::Thread(_));
        if has_clock {
            tokio::time::sleep(pause).await;
        }
        has_clock
    }

    pub(super) async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Applier<M>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        match &self.way {
            Way::Inline(applier) => job(&mut applier.lock()),
            Way::Thread(queue) => {
                let (answer, wait) = oneshot::channel();
                let job: Job<M> = Box::new(move |applier| {
                    let _ = answer.send(job(applier));
                });
                let stopped = || Error::Stopped("the applying thread has ended".to_owned());
                queue.send(job).map_err(|_| stopped())?;
                wait.await.map_err(|_| stopped())?
            }
        }
    }
}

fn read_error(error: Error) -> StorageError<MemberId> {
    StorageIOError::read_state_machine(AnyError::new(&error)).into()
}

fn write_error(error: Error) -> StorageError<MemberId> {
    StorageIOError::write_state_machine(AnyError::new(&error)).into()
}

impl<C: Types, M: Machine> RaftSnapshotBuilder<C> for StateMachine<M> {
    async fn build_snapshot(&mut self) -> Result<Snapshot<C>, StorageError<MemberId>> {
        let built = build::build(self).await.map_err(write_error)?;
        // Without any, openraft is told of none: it looks at nothing but the position.
        let (meta, file) = built.unwrap_or_default();
        Ok(Snapshot { meta, snapshot: Box::new(file) })
    }
}

impl<C: Types, M: Machine> RaftStateMachine<C> for StateMachine<M> {
    type SnapshotBuilder = StateMachine<M>;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId<MemberId>>, StoredMembership<MemberId, Member>), StorageError<MemberId>> {
        let applied = self.view.applied();
        Ok((applied.log_id(), applied.stored_membership()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Replies>, StorageError<MemberId>>
    where
        I: IntoIterator<Item = C::Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<openraft::Entry<C>> = entries.into_iter().collect();
        self.view.unpressed().await;
        let apply =
            move |applier: &mut Applier<M>| entries.iter().map(|entry| applier.apply(entry)).collect();
        self.call(apply).await.map_err(write_error)
    }

    async fn get_snapshot_builder(&mut self) -> StateMachine<M> {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotFile>, StorageError<MemberId>> {
        let file = self.call(|applier| Ok(applier.receiving())).await.map_err(write_error)?;
        Ok(Box::new(file))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<MemberId, Member>,
        snapshot: Box<SnapshotFile>,
    ) -> Result<(), StorageError<MemberId>> {
        let expected = meta.snapshot_id.clone();
        self.call(move |applier| applier.install(&expected, &snapshot)).await.map_err(write_error)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<C>>, StorageError<MemberId>> {
        let current = self.call(|applier| Ok(applier.current_snapshot())).await.map_err(read_error)?;
        Ok(current.map(|(meta, file)| Snapshot { meta, snapshot: Box::new(file) }))
    }
}
