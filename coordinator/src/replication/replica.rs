//! One running member: its threads, how it starts and how it stops.

use super::applier::{self, Applier, View};
use super::clock::{ClockCore, Time};
use super::driver::Driver;
use super::folder::Folder;
use super::housekeeping::keep_log_short;
use super::log::{self, Log};
use super::log_store::LogStore;
use super::machine::Machine;
use super::network::NoNetwork;
use super::state_machine::StateMachine;
use super::types::{self, Member, MemberId, TypeConfig};
use super::{Config, Error};
use crate::engine::Request;
use crate::leadership::{Leader, Leadership};
use lote_shared::model::Timestamp;
use openraft::{EntryPayload, Raft, ServerState, SnapshotPolicy};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, mpsc as std_mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// The number of the first member of a cluster.
const FIRST_MEMBER: MemberId = 1;
const FLUSH_EVERY: Duration = Duration::from_millis(500);
/// A lone member needs no one's vote; this only ends a start that hangs.
const LEAD_WITHIN: Duration = Duration::from_secs(30);

/// openraft's settings (`docs/dependencies.md`).
fn raft_config(config: &Config) -> Result<openraft::Config, Error> {
    let settings = openraft::Config {
        cluster_name: "lote".to_owned(),
        heartbeat_interval: 250,
        election_timeout_min: 1_000,
        election_timeout_max: 2_000,
        install_snapshot_timeout: 60_000,
        max_payload_entries: 64,
        replication_lag_threshold: config.snapshot_entries + config.keep_entries,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(config.snapshot_entries),
        max_in_snapshot_log_to_keep: config.keep_entries,
        purge_batch_size: config.keep_entries.clamp(1, 1_000),
        ..openraft::Config::default()
    };
    settings.validate().map_err(|error| Error::Raft(error.to_string()))
}

/// What a member is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Leader,
    Candidate,
    Follower,
    Learner,
    /// It applies nothing any more; see [`Status::stopped`].
    Stopped,
}

/// A look at a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub member: MemberId,
    pub role: Role,
    pub term: u64,
    pub leader: Option<MemberId>,
    /// Index of the last entry in the log.
    pub last_log: Option<u64>,
    pub applied: Option<u64>,
    /// Index up to which the newest snapshot reaches.
    pub snapshot: Option<u64>,
    /// Index up to which the log was purged.
    pub purged: Option<u64>,
    /// Running hash of the state as of `applied`, in hex: equal on all members at the same entry.
    pub state_hash: String,
    /// Time of the last applied entry.
    pub now: Timestamp,
    /// What the log did since the start.
    pub log: log::Counts,
    /// Why this member has stopped by itself.
    pub stopped: Option<String>,
}

/// A running member. Dropping it asks it to stop; [`Replica::shutdown`] waits until it has.
pub struct Replica {
    raft: Raft<TypeConfig>,
    view: Arc<View>,
    log: Arc<Log>,
    leadership: watch::Receiver<Leadership>,
    stop: watch::Sender<bool>,
    ended: watch::Receiver<bool>,
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Replica {
    /// Starts a member of a cluster of one on a folder; `queue` brings the engine's requests.
    pub async fn start<M: Machine>(
        config: Config,
        machine: Arc<M>,
        queue: mpsc::Receiver<Request>,
        time: Arc<dyn Time>,
    ) -> Result<Replica, Error> {
        let (started, wait) = oneshot::channel();
        let path = config.folder.clone();
        std::thread::Builder::new()
            .name("lote-raft".to_owned())
            .spawn(move || run(&config, machine, queue, time, started))
            .map_err(|source| Error::Io { path, source })?;
        wait.await.map_err(|_| Error::Raft("the starting thread ended".to_owned()))?
    }

    /// Stops proposing, finishes what is under way, flushes, and lets go of the folder.
    pub async fn shutdown(&self) {
        let _ = self.stop.send(true);
        // An error means that the thread has ended.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Ends when this member stops by itself: the disk failed, or an entry could not be applied. It serves nothing
    /// any more, and the process should end.
    pub async fn stopped(&self) -> String {
        let mut ended = self.ended.clone();
        let _ = ended.wait_for(|ended| *ended).await;
        self.status().stopped.unwrap_or_else(|| "the member has stopped".to_owned())
    }

    /// Follows who leads. It does not change while there is one member.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    pub fn status(&self) -> Status {
        let metrics = self.raft.metrics().borrow().clone();
        let applied = self.view.applied();
        let stopped = match (self.view.stopped(), &metrics.running_state) {
            (Some(why), _) => Some(why),
            (None, Err(fatal)) => Some(fatal.to_string()),
            (None, Ok(())) => None,
        };
        let role = match metrics.state {
            _ if stopped.is_some() => Role::Stopped,
            ServerState::Leader => Role::Leader,
            ServerState::Candidate => Role::Candidate,
            ServerState::Follower => Role::Follower,
            ServerState::Learner => Role::Learner,
            ServerState::Shutdown => Role::Stopped,
        };
        Status {
            member: metrics.id,
            role,
            term: metrics.current_term,
            leader: metrics.current_leader,
            last_log: metrics.last_log_index,
            applied: applied.index(),
            snapshot: metrics.snapshot.map(|id| id.index),
            purged: metrics.purged.map(|id| id.index),
            state_hash: applied.hash.iter().map(|byte| format!("{byte:02x}")).collect(),
            now: applied.now,
            log: self.log.counts(),
            stopped,
        }
    }

    /// Has a snapshot written now; it is done some time after this returns.
    pub async fn snapshot(&self) -> Result<(), Error> {
        self.raft.trigger().snapshot().await.map_err(|error| Error::Raft(error.to_string()))
    }
}

/// A folder that was opened and brought to memory.
struct Opened<M: Machine> {
    member: MemberId,
    log: Arc<Log>,
    machine: Arc<M>,
    view: Arc<View>,
    state_machine: StateMachine<M>,
    applying: JoinHandle<Applier<M>>,
    clock: ClockCore,
    /// Dropped last: nobody else may open the folder before.
    folder: Folder,
}

/// The whole life of the `lote-raft` thread.
fn run<M: Machine>(
    config: &Config,
    machine: Arc<M>,
    queue: mpsc::Receiver<Request>,
    time: Arc<dyn Time>,
    started: oneshot::Sender<Result<Replica, Error>>,
) {
    let opened = match open(config, machine) {
        Ok(opened) => opened,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => {
            let _ = started.send(Err(Error::Io { path: config.folder.clone(), source }));
            return;
        }
    };
    let Opened { member, log, machine, view, state_machine, applying, clock, folder } = opened;
    // Nothing is ever sent: that it closes is the message.
    let (flush_end, flushing) = std_mpsc::sync_channel::<()>(0);
    let flusher = {
        let (machine, view) = (machine.clone(), view.clone());
        std::thread::Builder::new()
            .name("lote-flush".to_owned())
            .spawn(move || flush_now_and_then(&*machine, &view, &flushing))
    };
    let (stop, stopping) = watch::channel(false);
    let (end, ended) = watch::channel(false);
    runtime.block_on(async {
        match lead(config, member, &log, state_machine, clock, time).await {
            Ok((raft, driver)) => {
                let term = raft.metrics().borrow().current_term;
                let leader = Leader { member, peer: String::new(), addresses: Vec::new() };
                let leads = Leadership { term, leader: Some(leader), is_ours: true };
                let (_publish, leadership) = watch::channel(leads);
                let replica = Replica { raft: raft.clone(), view, log: log.clone(), leadership, stop, ended };
                tokio::spawn(keep_log_short(raft.clone(), log.clone(), config.log_bytes_max));
                if started.send(Ok(replica)).is_ok() {
                    driver.run(queue, stopping).await;
                }
                let _ = raft.shutdown().await;
            }
            Err(error) => {
                let _ = started.send(Err(error));
            }
        }
    });
    // With the runtime the last handles of the state machine go, and the applying thread ends.
    drop(runtime);
    let _ = applying.join();
    drop(flush_end);
    if let Ok(flusher) = flusher {
        let _ = flusher.join();
    }
    if let Err(error) = machine.store().flush() {
        tracing::warn!(%error, "the store could not be flushed; the log brings it forward at the next start");
    }
    drop(machine);
    log.close();
    drop(folder);
    let _ = end.send(true);
}

/// Everything that reads the disk before Raft starts.
fn open<M: Machine>(config: &Config, machine: Arc<M>) -> Result<Opened<M>, Error> {
    let folder = Folder::open(&config.folder)?;
    let known = folder.member()?;
    let options = log::Options {
        segment_bytes: config.segment_bytes,
        may_create: known.is_none(),
        ..log::Options::default()
    };
    let log = Arc::new(Log::open(Arc::new(folder.log_disk()?), &options)?);
    let member = known.unwrap_or(FIRST_MEMBER);
    if known.is_none() {
        // A log that was used belongs to a member, whose number is gone.
        if log.state() != log::State::default() {
            return Err(Error::NoMember { path: config.folder.join("raft/member") });
        }
        folder.set_member(member)?;
    }
    let snapshots = folder.snapshots()?;
    let mut states = folder.states(config.store_cache_bytes)?;
    states.open_state(log.state().purged, &snapshots, |store| Ok(machine.load(store)?))?;
    let applier = Applier::open(machine.clone(), Box::new(states), snapshots)?;
    let clock = ClockCore::new(last_stamp(&log, &applier)?);
    let view = applier.view();
    let (state_machine, applying) = StateMachine::on_thread(applier)
        .map_err(|source| Error::Io { path: config.folder.clone(), source })?;
    Ok(Opened { member, log, machine, view, state_machine, applying, clock, folder })
}

/// The greatest stamp so far: in the log, where entries may wait to be applied, or in the state.
fn last_stamp<M: Machine>(log: &Log, applier: &Applier<M>) -> Result<Timestamp, Error> {
    let applied = applier.applied();
    let first = applied.index().map_or(0, |index| index + 1);
    let end = log.state().last.map_or(0, |last| last.index + 1);
    for index in (first..end).rev() {
        for entry in log.read(index..index + 1, usize::MAX)? {
            let failed =
                |error: types::Error| Error::Apply(applier::Error::Entry { index, why: error.to_string() });
            let entry = types::from_log::<TypeConfig>(&entry).map_err(failed)?;
            if let EntryPayload::Normal(payload) = &entry.payload {
                return Ok(applied.now.max(payload.now().map_err(failed)?));
            }
        }
    }
    Ok(applied.now)
}

/// Starts Raft and brings it to leadership with everything in the log applied.
async fn lead<M: Machine>(
    config: &Config,
    member: MemberId,
    log: &Arc<Log>,
    state_machine: StateMachine<M>,
    clock: ClockCore,
    time: Arc<dyn Time>,
) -> Result<(Raft<TypeConfig>, Driver<TypeConfig>), Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Raft(error.to_string());
    let settings = Arc::new(raft_config(config)?);
    let raft = Raft::new(member, settings, NoNetwork, LogStore::new(log.clone()), state_machine)
        .await
        .map_err(|error| failed(&error))?;
    if !raft.is_initialized().await.map_err(|error| failed(&error))? {
        let members = BTreeMap::from([(member, Member::default())]);
        raft.initialize(members).await.map_err(|error| failed(&error))?;
    } else if raft.metrics().borrow().state != ServerState::Leader {
        // There is nobody else to wait for.
        raft.trigger().elect().await.map_err(|error| failed(&error))?;
    }
    raft.wait(Some(LEAD_WITHIN))
        .state(ServerState::Leader, "lead a cluster of one")
        .await
        .map_err(|error| failed(&error))?;
    let mut driver = Driver::new(raft.clone(), clock, time);
    driver.settle().await.map_err(|error| failed(&error))?;
    Ok((raft, driver))
}

/// Flushes the store twice a second if anything was applied since, until the other end is dropped.
fn flush_now_and_then(machine: &impl Machine, view: &View, end: &std_mpsc::Receiver<()>) {
    let mut flushed = None;
    while end.recv_timeout(FLUSH_EVERY) == Err(std_mpsc::RecvTimeoutError::Timeout) {
        let applied = view.applied().index();
        if applied == flushed {
            continue;
        }
        match machine.store().flush() {
            Ok(()) => flushed = applied,
            Err(error) => tracing::warn!(%error, "the store could not be flushed"),
        }
    }
}
