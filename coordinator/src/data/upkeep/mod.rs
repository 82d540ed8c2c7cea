//! The upkeep of chunks: what runs all the time on every coordinator so that its chunks are those they should be.
//!
//! * [`collecting`]: removes what nothing refers to ([`super::collect`] decides).
//! * [`repairing`]: makes copies of what lies on too few coordinators ([`super::repair`] decides).
//! * [`verifying`]: reads everything now and then; what is damaged is set aside, and repair makes a new copy.
//! * [`asking`]: the questions that coordinators ask each other, and the answers.
//!
//! Each is a pass that goes through everything and begins again after a pause; an operator can have it begin at once. A
//! pass works on one thread and does one thing at a time, with pauses, so that what clients wait for goes first. What a
//! pass knows is gone with the process; the chunks are on the disk and the references in the state.

pub mod asking;
mod collecting;
mod repairing;
mod verifying;

use super::replicas::Others;
use crate::api::blob::BlobApi;
use crate::clock;
use lote_shared::network::{Network, PeerId};
use lote_shared::protocol::storage::{Pass, Request, Status, Work};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// How often membership is looked at while repair rests.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A pass of repair that could not ask everybody is made again after this.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// For how long nothing is removed after somebody asked for that.
const DEFERRED: Duration = Duration::from_secs(600);
/// How often the other coordinators are told so.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// One moment by both clocks, in ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    pub monotonic_ms: u64,
    pub wall_ms: u64,
}

impl Clock {
    /// Files have their times from the true wall clock, which no test sets wrong.
    fn now() -> Clock {
        Clock { monotonic_ms: clock::monotonic_ms(), wall_ms: clock::files_ms() }
    }
}

/// How the upkeep goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// For how long a chunk must have been without references before it is removed.
    pub grace: Duration,
    /// Between the end of a pass of collection or repair and the next.
    pub every: Duration,
    /// Between two passes of verification.
    pub verify_every: Duration,
    /// A coordinator that has been silent for so long is repaired around.
    pub silent_max: Duration,
}

/// The grace period, unless the operator sets another.
pub const GRACE: Duration = Duration::from_secs(3_600);

impl Default for Settings {
    fn default() -> Settings {
        Settings::of_grace(GRACE)
    }
}

impl Settings {
    /// What follows from a grace period. One of seconds is for tests: a write that takes longer from its last chunk to its
    /// commit could lose what it found here already.
    pub fn of_grace(grace: Duration) -> Settings {
        Settings {
            grace,
            every: (grace / 2).clamp(Duration::from_millis(500), Duration::from_secs(1_800)),
            verify_every: Duration::from_secs(7 * 24 * 3_600),
            silent_max: grace.min(Duration::from_secs(600)),
        }
    }
}

/// The upkeep of one coordinator; clone freely.
#[derive(Clone)]
pub struct Upkeep {
    inner: Arc<Inner>,
}

struct Inner {
    api: BlobApi,
    network: Network,
    others: Others,
    settings: Settings,
    status: Mutex<Status>,
    collect: Notify,
    repair: Notify,
    verify: Notify,
    stopping: AtomicBool,
    /// Nothing is removed before this time of the monotonic clock, in ms.
    deferred_ms: AtomicU64,
    /// When the others were last told, the same.
    told_ms: Mutex<Option<u64>>,
}

impl std::fmt::Debug for Upkeep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upkeep").field("settings", &self.inner.settings).finish_non_exhaustive()
    }
}

impl Upkeep {
    /// Begins; stops with [`Upkeep::stop`]. Must be called on the runtime that carries the network.
    pub fn start(api: BlobApi, network: Network, others: Others, settings: Settings) -> Upkeep {
        let status = Mutex::new(Status { damaged: api.chunks.damaged_count(), ..Status::default() });
        let inner = Inner {
            api,
            network,
            others,
            settings,
            status,
            collect: Notify::new(),
            repair: Notify::new(),
            verify: Notify::new(),
            stopping: AtomicBool::new(false),
            deferred_ms: AtomicU64::new(0),
            told_ms: Mutex::new(None),
        };
        let upkeep = Upkeep { inner: Arc::new(inner) };
        tokio::spawn(upkeep.clone().collect());
        tokio::spawn(upkeep.clone().repair());
        tokio::spawn(upkeep.clone().verify());
        upkeep
    }

    /// Ends what goes on, within a chunk or so.
    pub fn stop(&self) {
        self.inner.stopping.store(true, Ordering::Relaxed);
        [&self.inner.collect, &self.inner.repair, &self.inner.verify]
            .into_iter()
            .for_each(Notify::notify_one);
    }

    /// Has a pass begin at once; one that is going on is followed by another.
    pub fn begin(&self, work: Work) {
        match work {
            Work::Verify => self.inner.verify.notify_one(),
            Work::Repair => self.inner.repair.notify_one(),
        }
    }

    /// Has nothing removed here for a while.
    fn defer_here(&self) {
        let until = Clock::now().monotonic_ms.saturating_add(DEFERRED.as_millis() as u64);
        self.inner.deferred_ms.fetch_max(until, Ordering::Relaxed);
    }

    fn is_deferred(&self) -> bool {
        Clock::now().monotonic_ms < self.inner.deferred_ms.load(Ordering::Relaxed)
    }

    /// Has nothing removed on any coordinator for a while: for whoever reads by an older state, as a backup does. Tells the
    /// others at most once a minute, and before it returns.
    pub async fn defer(&self) {
        self.defer_here();
        let now = Clock::now().monotonic_ms;
        {
            let mut told = self.inner.told_ms.lock();
            if told.is_some_and(|told| now.saturating_sub(told) < TELL_EVERY.as_millis() as u64) {
                return;
            }
            *told = Some(now);
        }
        let others = (self.inner.others)();
        let tell = |peer| asking::ask(&self.inner.network, peer, &Request::Defer);
        for (peer, told) in
            others.iter().zip(futures::future::join_all(others.iter().map(|peer| tell(*peer))).await)
        {
            if let Err(error) = told {
                tracing::info!(%peer, %error, "a coordinator was not told that a backup is taken");
            }
        }
    }

    /// How things are on this coordinator.
    pub fn status(&self) -> Status {
        self.inner.status.lock().clone()
    }

    fn is_stopping(&self) -> bool {
        self.inner.stopping.load(Ordering::Relaxed)
    }

    async fn collect(self) {
        let mut collector = super::collect::Collector::new(self.inner.settings.grace.as_millis() as u64);
        let mut pause = self.inner.settings.every.min(Duration::from_secs(10));
        loop {
            let _ = tokio::time::timeout(pause, self.inner.collect.notified()).await;
            if self.is_stopping() {
                return;
            }
            pause = self.inner.settings.every;
            self.pass(|status| &mut status.collection, collecting::pass(&self, &mut collector)).await;
        }
    }

    async fn repair(self) {
        let mut silence = super::repair::Silence::default();
        let mut members: Option<Vec<PeerId>> = None;
        let mut pause = Duration::ZERO;
        let mut rested = Duration::ZERO;
        loop {
            let asked = tokio::time::timeout(LOOK_EVERY, self.inner.repair.notified()).await.is_ok();
            if self.is_stopping() {
                return;
            }
            rested += LOOK_EVERY;
            let mut now = (self.inner.others)();
            now.sort_unstable();
            if !asked && rested < pause && members.as_ref() == Some(&now) {
                continue;
            }
            members = Some(now);
            rested = Duration::ZERO;
            let ended = self.pass(|status| &mut status.repair, repairing::pass(&self, &mut silence)).await;
            let every = self.inner.settings.every;
            pause = if ended { every } else { every.min(AGAIN_AFTER) };
        }
    }

    async fn verify(self) {
        let mut asked = false;
        loop {
            if !asked {
                let pause = self.inner.settings.verify_every;
                asked = tokio::time::timeout(pause, self.inner.verify.notified()).await.is_ok();
            }
            if self.is_stopping() {
                return;
            }
            let found = self.inner.status.lock().damaged;
            let pass = verifying::pass(&self, std::mem::take(&mut asked));
            self.pass(|status| &mut status.verification, pass).await;
            if self.inner.status.lock().damaged > found {
                self.begin(Work::Repair);
            }
        }
    }

    /// Writes down how a pass goes; whether it came to its end without trouble.
    async fn pass(
        &self,
        of: impl Fn(&mut Status) -> &mut Pass,
        work: impl Future<Output = Result<(), String>>,
    ) -> bool {
        {
            let mut status = self.inner.status.lock();
            let pass = of(&mut status);
            (pass.running, pass.done, pass.started_ms) = (true, 0, Some(clock::wall().0));
        }
        let result = work.await;
        let mut status = self.inner.status.lock();
        let pass = of(&mut status);
        pass.running = false;
        pass.trouble = result.err();
        match &pass.trouble {
            None => {
                pass.finished_ms = Some(clock::wall().0);
                pass.total = pass.done;
                true
            }
            Some(trouble) => {
                tracing::info!(trouble, "a pass of the upkeep of chunks did not do all it should");
                false
            }
        }
    }
}
