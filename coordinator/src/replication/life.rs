//! The life of a member's thread: what is opened in which order, what runs on it, and how all of it ends.

use super::applier::{self, Applier, View};
use super::clock::{ClockCore, Time};
use super::driver::{self, Driver};
use super::folder::{Folder, note_version};
use super::forward::{FORWARDED_MAX, Forwarded, HasLost};
use super::housekeeping::keep_log_short;
use super::log::{self, EntryId, Log};
use super::log_store::LogStore;
use super::machine::Machine;
use super::replica::Replica;
use super::room::Gate;
use super::skew::watch::{Clocks, watch_clocks};
use super::state_machine::StateMachine;
use super::transport::{Links, Transport};
use super::types::{self, MemberId, TypeConfig};
use super::witness;
use super::{Config, Error, Start, failover, room, serve};
use crate::engine::Request;
use crate::leadership::Leadership;
use crate::state::ClusterVersion;
use lote_shared::model::Timestamp;
use lote_shared::network::Network;
use openraft::{EntryPayload, Raft, SnapshotPolicy};
use std::collections::BTreeMap;
use std::sync::{Arc, mpsc as std_mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// The number of the first member of a cluster.
const FIRST_MEMBER: MemberId = 1;
const FLUSH_EVERY: Duration = Duration::from_millis(500);

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
        // Until the others have said what they know of this member.
        enable_elect: false,
        ..openraft::Config::default()
    };
    settings.validate().map_err(|error| Error::Raft(error.to_string()))
}

/// What a member is started with.
pub struct Life {
    pub config: Config,
    pub start: Start,
    pub network: Option<Network>,
    pub queue: mpsc::Receiver<Request>,
    pub time: Arc<dyn Time>,
}

/// The running member, and whether it is the only voter.
pub type Started = Result<(Replica, bool), Error>;

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
pub fn run<M: Machine>(life: Life, machine: Arc<M>, started: oneshot::Sender<Started>) {
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
        let machine = state_machine.clone();
        match join(&config, &start, member, links.clone(), &log, state_machine).await {
            Ok((raft, is_only_voter)) => {
                let (publish, leadership) = watch::channel(Leadership::default());
                let (forward, forwarded) = mpsc::channel(FORWARDED_MAX);
                let driver = Driver::new(driver::Parts {
                    raft: raft.clone(),
                    clock,
                    time: time.clone(),
                    position: view.position(),
                    replayed: log.state().last.map_or(0, |last| last.index),
                    links: links.clone(),
                    forwarded,
                    leadership: publish,
                    give_up_after: driver::GIVE_UP_AFTER,
                });
                let (tell_clocks, clocks) = watch::channel(Clocks::default());
                tokio::spawn(watch_clocks(
                    raft.clone(),
                    links.clone(),
                    time.clone(),
                    view.position(),
                    tell_clocks,
                ));
                let (has_room, gate) = Gate::new(&config.folder, clocks.clone());
                let driver = driver.with_gate(gate.clone());
                let (take_part, takes_part) = watch::channel(false);
                let (tell, told) = mpsc::channel(1);
                tokio::spawn(keep_log_short(raft.clone(), log.clone(), config.log_bytes_max));
                let runtime = tokio::runtime::Handle::current();
                let log = log.clone();
                let meeting = links.clone().map_or(Ok(()), |links| {
                    meet_others(
                        &raft,
                        machine,
                        forward,
                        serve::Guard { gate, links, takes_part, told: tell, time },
                    )
                });
                let begin = {
                    let (raft, links, folder) = (raft.clone(), links.clone(), config.folder.clone());
                    let clocks = clocks.clone();
                    move || {
                        take_part.send_replace(true);
                        // It has Raft stand for election as long as there is room.
                        tokio::spawn(room::watch_disk(raft.clone(), folder, has_room, clocks.clone()));
                        links.map(|links| tokio::spawn(failover::watch(raft, links, clocks)));
                    }
                };
                let may_ask = view.position().borrow().version >= ClusterVersion::V2;
                tokio::spawn({
                    let (raft, view, stop) = (raft.clone(), view.clone(), stop.clone());
                    let log = log.clone();
                    async move {
                        if let Err(why) =
                            witness::watch(&raft, links.as_deref(), &log, may_ask, told, begin).await
                        {
                            tracing::error!(why, "this member stops");
                            view.stop(why);
                            stop.send_replace(true);
                        }
                    }
                });
                let replica =
                    Replica { raft: raft.clone(), view, log, leadership, clocks, runtime, stop, ended };
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
fn meet_others<M: Machine>(
    raft: &Raft<TypeConfig>,
    machine: StateMachine<M>,
    forward: mpsc::Sender<Forwarded>,
    guard: serve::Guard,
) -> Result<(), Error> {
    let links = guard.links.clone();
    let has_lost: HasLost = {
        let (raft, links) = (raft.clone(), links.clone());
        Arc::new(move |member| failover::has_lost(&raft, &links, member))
    };
    serve::start(raft, machine, forward, has_lost, guard)?;
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
    room::make_way(&config.folder);
    let known = folder.member()?;
    let member = match (known, start) {
        // Recovered since it joined, a folder has a number beyond all that were given; one that was emptied and joined
        // anew would have been given a later one than it has.
        (Some(found), Start::Join { member }) if found < *member => {
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
        // A log that was used belongs to a member, whose number is gone.
        if log.state() != log::State::default() {
            return Err(Error::MemberUnknown { path: config.folder.join("raft/member") });
        }
        folder.set_member(member)?;
    }
    let mut snapshots = folder.snapshots()?;
    let mut states = folder.states(config.store_cache_bytes)?;
    let state = log.state();
    let snapshot = snapshots.current().and_then(|(applied, _)| applied.id);
    // One that came from the leader lies here before the state is made of it and the log goes.
    let begin = if snapshot > state.last { snapshot } else { state.purged };
    states.open_state(begin, &snapshots, |store| Ok(machine.load(store)?))?;
    snapshots.drop_before(state.purged)?;
    // For an older build that is started here one day; what is raised later is noted by `versions`.
    note_version(&config.folder, machine.version())?;
    let applier = Applier::open(machine.clone(), Box::new(states), snapshots)?;
    check_log(&state, applier.applied().id, snapshot)?;
    let clock = ClockCore::new(last_stamp(&log, &applier)?);
    let view = applier.view();
    let (state_machine, applying) = StateMachine::on_thread(applier)
        .map_err(|source| Error::Io { path: config.folder.clone(), source })?;
    Ok(Opened { member, log, machine, view, state_machine, applying, clock, folder })
}

/// The log comes before the state: only what a snapshot brought was not in it. A log that is behind is an older copy,
/// and the vote in it too.
fn check_log(log: &log::State, applied: Option<EntryId>, snapshot: Option<EntryId>) -> Result<(), Error> {
    let is_behind = applied > log.last && snapshot < applied;
    let has_voted = applied.is_none_or(|id| log.vote.is_some_and(|vote| vote.term >= id.term));
    if is_behind || !has_voted {
        let last = log.last.map(|id| id.index);
        return Err(Error::LogOlder { last, applied: applied.map_or(0, |id| id.index) });
    }
    Ok(())
}

/// The greatest stamp so far: in the log, where entries may wait to be applied, or in the state.
fn last_stamp<M: Machine>(log: &Log, applier: &Applier<M>) -> Result<Timestamp, Error> {
    let applied = applier.applied();
    let first = applied.index().map_or(0, |index| index + 1);
    let end = log.state().last.map_or(0, |last| last.index + 1);
    for index in (first..end).rev() {
        for entry in log.read(index..index + 1, usize::MAX)? {
            let failed = |why: String| Error::Apply(applier::Error::Entry { index, why });
            let entry = types::from_log::<TypeConfig>(&entry).map_err(|error| failed(error.to_string()))?;
            if let EntryPayload::Normal(payload) = &entry.payload {
                return Ok(applied.now.max(payload.now().map_err(|error| failed(error.to_string()))?));
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
    let raft =
        Raft::new(member, settings, transport, LogStore::of_member(log.clone(), member), state_machine)
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
