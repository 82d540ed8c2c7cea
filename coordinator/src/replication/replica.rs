//! One running member: its threads, how it starts and how it stops.

use super::applier::{self, Applier, View};
use super::clock::{ClockCore, Time};
use super::driver::{self, Driver};
use super::folder::Folder;
use super::forward::{FORWARDED_MAX, HasLost};
use super::housekeeping::keep_log_short;
use super::log::{self, Log};
use super::log_store::LogStore;
use super::machine::Machine;
use super::membership::{self, Step};
use super::state_machine::StateMachine;
use super::transport::{Links, Transport, peer_of};
use super::types::{self, Member, MemberId, TypeConfig};
use super::{Config, Error, Start, failover, serve};
use crate::engine::Request;
use crate::leadership::Leadership;
use lote_shared::model::Timestamp;
use lote_shared::network::Network;
use openraft::{EntryPayload, Raft, ServerState, SnapshotPolicy};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, mpsc as std_mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// The number of the first member of a cluster.
const FIRST_MEMBER: MemberId = 1;
const FLUSH_EVERY: Duration = Duration::from_millis(500);
/// The only voter needs no one's vote; this only ends a start that hangs.
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

/// A member as Raft knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    pub member: Member,
    pub is_voter: bool,
    /// The last entry it is known to have; only the leader knows.
    pub matched: Option<u64>,
}

/// A running member. Dropping it asks it to stop; [`Replica::shutdown`] waits until it has.
pub struct Replica {
    raft: Raft<TypeConfig>,
    view: Arc<View>,
    log: Arc<Log>,
    leadership: watch::Receiver<Leadership>,
    /// That of `lote-raft`.
    runtime: tokio::runtime::Handle,
    stop: watch::Sender<bool>,
    ended: watch::Receiver<bool>,
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Replica {
    /// Starts a member on a folder; `queue` brings the engine's requests. Returns once it runs, and if it is the only
    /// voter once it leads and has applied everything in its log. Without a network it stays alone.
    pub async fn start<M: Machine>(
        config: Config,
        start: Start,
        network: Option<Network>,
        machine: Arc<M>,
        queue: mpsc::Receiver<Request>,
        time: Arc<dyn Time>,
    ) -> Result<Replica, Error> {
        let (started, wait) = oneshot::channel();
        let path = config.folder.clone();
        let life = Life { config, start, network, queue, time };
        std::thread::Builder::new()
            .name("lote-raft".to_owned())
            .spawn(move || run(life, machine, started))
            .map_err(|source| Error::Io { path, source })?;
        let (replica, is_only_voter) =
            wait.await.map_err(|_| Error::Raft("the starting thread ended".to_owned()))??;
        if is_only_voter {
            replica.wait_to_lead().await?;
        }
        Ok(replica)
    }

    async fn wait_to_lead(&self) -> Result<(), Error> {
        let mut leadership = self.leadership.clone();
        let leads = leadership.wait_for(|leadership| leadership.is_ours);
        let why = match tokio::time::timeout(LEAD_WITHIN, leads).await {
            Ok(Ok(_)) => return Ok(()),
            // The driver has ended.
            Ok(Err(_)) => self.stopped().await,
            Err(_) => format!("the only voter did not lead within {} s", LEAD_WITHIN.as_secs()),
        };
        Err(Error::Raft(why))
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

    /// Follows who leads.
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

    /// Raft's members. Every member knows them; how far each is only the leader does.
    pub fn members(&self) -> BTreeMap<MemberId, MemberStatus> {
        let metrics = self.raft.metrics().borrow().clone();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<MemberId> = membership.voter_ids().collect();
        let matched = metrics.replication.unwrap_or_default();
        let status = |(id, member): (&MemberId, &Member)| {
            let matched = matched.get(id).copied().flatten().map(|id| id.index);
            (*id, MemberStatus { member: member.clone(), is_voter: voters.contains(id), matched })
        };
        membership.nodes().map(status).collect()
    }

    /// For a leader: the time since a quorum last heard it, measured from when it spoke. `None` if this member does
    /// not lead, or was not heard yet.
    pub fn quorum_age(&self) -> Option<Duration> {
        self.raft.metrics().borrow().millis_since_quorum_ack.map(Duration::from_millis)
    }

    /// For the leader: replicates to a new member, which does not vote.
    pub async fn add_learner(&self, id: MemberId, member: Member) -> Result<(), Error> {
        self.change(Step::AddLearner(id, member)).await
    }

    /// For the leader: these members vote from now on; those who do no longer stay as learners.
    pub async fn set_voters(&self, voters: BTreeSet<MemberId>) -> Result<(), Error> {
        self.change(Step::SetVoters(voters)).await
    }

    /// For the leader: forgets a member that does not vote.
    pub async fn remove(&self, id: MemberId) -> Result<(), Error> {
        self.change(Step::Remove(id)).await
    }

    async fn change(&self, step: Step) -> Result<(), Error> {
        membership::change(&self.raft, step).await.map_err(Error::Raft)
    }

    /// From now on, whenever this member leads, it brings Raft's membership to what `desired` says, a step at a time.
    /// `desired` reads the coordinators out of the state; `None` means that it does not know.
    pub fn keep_membership(
        &self,
        desired: impl Fn() -> Option<BTreeMap<MemberId, Member>> + Send + Sync + 'static,
    ) {
        self.runtime.spawn(membership::keep(self.raft.clone(), self.leadership(), desired));
    }

    /// Has a snapshot written now; it is done some time after this returns.
    pub async fn snapshot(&self) -> Result<(), Error> {
        self.raft.trigger().snapshot().await.map_err(|error| Error::Raft(error.to_string()))
    }
}

/// What a member is started with.
struct Life {
    config: Config,
    start: Start,
    network: Option<Network>,
    queue: mpsc::Receiver<Request>,
    time: Arc<dyn Time>,
}

/// The running member, and whether it is the only voter.
type Started = Result<(Replica, bool), Error>;

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
fn run<M: Machine>(life: Life, machine: Arc<M>, started: oneshot::Sender<Started>) {
    let Life { config, start, network, queue, time } = life;
    let opened = match open(&config, &start, machine) {
        Ok(opened) => opened,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => {
            let _ = started.send(Err(Error::Io { path: config.folder, source }));
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
        let links = network.map(|network| Arc::new(Links::new(network)));
        match join(&config, &start, member, links.clone(), &log, state_machine).await {
            Ok((raft, is_only_voter)) => {
                let (publish, leadership) = watch::channel(Leadership::default());
                let (forward, forwarded) = mpsc::channel(FORWARDED_MAX);
                let driver = Driver::new(driver::Parts {
                    raft: raft.clone(),
                    clock,
                    time,
                    position: view.position(),
                    replayed: log.state().last.map_or(0, |last| last.index),
                    links: links.clone(),
                    forwarded,
                    leadership: publish,
                    give_up_after: driver::GIVE_UP_AFTER,
                });
                tokio::spawn(keep_log_short(raft.clone(), log.clone(), config.log_bytes_max));
                let runtime = tokio::runtime::Handle::current();
                let log = log.clone();
                let replica = Replica { raft: raft.clone(), view, log, leadership, runtime, stop, ended };
                let meeting = links.map_or(Ok(()), |links| meet_others(&raft, links, forward));
                if started.send(meeting.map(|()| (replica, is_only_voter))).is_ok() {
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

/// Serves the other members and watches over the connections to them.
fn meet_others(
    raft: &Raft<TypeConfig>,
    links: Arc<Links>,
    forward: mpsc::Sender<super::Forwarded>,
) -> Result<(), Error> {
    let has_lost: HasLost = {
        let (raft, links) = (raft.clone(), links.clone());
        Arc::new(move |member| {
            let metrics = raft.metrics();
            let metrics = metrics.borrow();
            let known = metrics.membership_config.membership().get_node(&member);
            let peer = known.and_then(peer_of);
            member != metrics.id && peer.is_some_and(|peer| !links.network().connected().contains(&peer))
        })
    };
    serve::start(links.network(), raft, forward, has_lost)?;
    tokio::spawn(failover::watch(raft.clone(), links.clone()));
    let mut server = raft.server_metrics();
    tokio::spawn(async move {
        let mut known = None;
        loop {
            let membership = server.borrow_and_update().membership_config.clone();
            if known.as_ref() != Some(&membership) {
                links.set_members(membership.membership().nodes().map(|(_, member)| member));
                known = Some(membership);
            }
            if server.changed().await.is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// Everything that reads the disk before Raft starts.
fn open<M: Machine>(config: &Config, start: &Start, machine: Arc<M>) -> Result<Opened<M>, Error> {
    let folder = Folder::open(&config.folder)?;
    let known = folder.member()?;
    let member = match (known, start) {
        (Some(found), Start::Join { member }) if found != *member => {
            return Err(Error::OtherMember { path: config.folder.clone(), found, asked: *member });
        }
        (Some(found), _) => found,
        (None, Start::Found { .. }) => FIRST_MEMBER,
        (None, Start::Join { member }) => *member,
        (None, Start::Resume) => return Err(Error::NoMember { path: config.folder.clone() }),
    };
    let options = log::Options {
        segment_bytes: config.segment_bytes,
        may_create: known.is_none(),
        ..log::Options::default()
    };
    let log = Arc::new(Log::open(Arc::new(folder.log_disk()?), &options)?);
    if known.is_none() {
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

/// Starts Raft. A new cluster is founded, and the only voter stands for election at once; with several nobody ever
/// forces itself. Tells whether this is the only voter.
async fn join<M: Machine>(
    config: &Config,
    start: &Start,
    member: MemberId,
    links: Option<Arc<Links>>,
    log: &Arc<Log>,
    state_machine: StateMachine<M>,
) -> Result<(Raft<TypeConfig>, bool), Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Raft(error.to_string());
    let settings = Arc::new(raft_config(config)?);
    let transport = Transport::new(member, links);
    let raft = Raft::new(member, settings, transport, LogStore::new(log.clone()), state_machine)
        .await
        .map_err(|error| failed(&error))?;
    let is_initialized = raft.is_initialized().await.map_err(|error| failed(&error))?;
    match start {
        // A folder that waits to be added under another number founds nothing.
        Start::Found { me } if !is_initialized && member == FIRST_MEMBER => {
            let members = BTreeMap::from([(member, me.clone())]);
            raft.initialize(members).await.map_err(|error| failed(&error))?;
            return Ok((raft, true));
        }
        _ => {}
    }
    // The metrics may not say it yet.
    let is_only_voter = raft
        .with_raft_state(move |state| state.membership_state.effective().voter_ids().eq([member]))
        .await
        .map_err(|error| failed(&error))?;
    if is_only_voter {
        // There is nobody else to wait for. One that leads already takes no notice.
        raft.trigger().elect().await.map_err(|error| failed(&error))?;
    }
    Ok((raft, is_only_voter))
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
