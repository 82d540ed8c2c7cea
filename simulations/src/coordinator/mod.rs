//! The coordinator: a lone leader with its log, its disk, its sessions and the cores.
//!
//! It stands where `pools/` and `replication/` stand in production and keeps their order of things: a chunk leaves
//! only after its `Assign` is committed, a report is acknowledged only when it is durable, and what a host is told
//! goes over its current session. A crash drops everything but [`Disk`].

mod disk;
mod log;
mod parcel;
mod sessions;

pub use log::Waiter;

use crate::client;
use crate::sabotage::Sabotage;
use crate::simulation::{Event, World};
use crate::world::{SessionId, Side, Source};
use disk::Disk;
use log::{Entry, Log};
use lote_coordinator::scheduling::{Allocation, Allocator, Decision, Dispatcher};
use lote_coordinator::state::Deadline;
use lote_coordinator::state::{Action, Batch, Cluster, Event as News, Outcome, Reply, keys};
use lote_shared::model::{AccountId, AttemptRef, HostKey, JobKey, NodeKey, PoolKey, Timestamp};
use lote_shared::protocol::codec;
use lote_shared::protocol::host::LeaderMessage;
use lote_shared::protocol::session::LeaseBook;
use sessions::Connection;
use std::collections::BTreeMap;

const TICK_MS: u64 = 250;
const FLUSH_MS: u64 = 500;
/// Retries that are due together travel in one command, at most so many.
const RETRIES_PER_COMMAND: usize = 500;

#[derive(Debug)]
pub enum Timer {
    /// The entry on its way is durable.
    Commit,
    /// The store is flushed.
    Flush,
    /// Leases are looked at.
    Tick,
    Plan {
        pool: PoolKey,
        generation: u64,
    },
    /// A chunk was built and is handed over.
    Hand {
        node: NodeKey,
        attempts: Vec<AttemptRef>,
    },
    /// A returning host is welcomed.
    Open(SessionId),
    /// A session hears that it is over.
    End(SessionId),
    /// Something may be due.
    Due,
}

#[derive(Debug, Default)]
pub struct Coordinator {
    disk: Disk,
    /// Of the last committed entry.
    index: u64,
    /// Which start this is; timers of an earlier one are void.
    epoch: u64,
    leader: Option<Leader>,
    /// The entry that was on its way when the leader died, if it became durable all the same.
    unheard: Option<Entry>,
}

/// Everything a crash takes.
#[derive(Debug)]
struct Leader {
    cluster: Cluster,
    log: Log,
    leases: LeaseBook,
    allocator: Allocator,
    /// Allocations proposed and not answered.
    allocating: usize,
    connections: BTreeMap<SessionId, Connection>,
    /// The session over which a host is spoken to.
    current: BTreeMap<HostKey, SessionId>,
    levels: BTreeMap<NodeKey, u32>,
    groups: BTreeMap<PoolKey, Group>,
    next_generation: u64,
    /// Due commands proposed and not answered.
    due_proposed: usize,
    due_timer_ms: Option<u64>,
}

/// A pool's actor group.
#[derive(Debug)]
struct Group {
    generation: u64,
    dispatcher: Dispatcher,
    plan_due: bool,
}

impl Coordinator {
    pub fn is_up(&self) -> bool {
        self.leader.is_some()
    }

    pub fn cluster(&self) -> Option<&Cluster> {
        self.leader.as_ref().map(|leader| &leader.cluster)
    }

    pub fn is_all_completed(&self, tasks: u64) -> bool {
        let Some(cluster) = self.cluster() else { return false };
        cluster.all_jobs().map(|job| job.counts.completed()).sum::<u64>() >= tasks
    }

    /// Starts from what is on the disk.
    pub fn start(&mut self, world: &mut World) {
        self.epoch += 1;
        let now_ms = world.now_ms();
        let unheard = self.unheard.take();
        if let Some(entry) = &unheard {
            world.counts.unheard_entries += 1;
            self.index = entry.stamp.index;
        }
        if world.is_sabotaged(Sabotage::ForgetLog) {
            self.disk.forget_log();
        }
        let recovered = self.disk.recover(unheard.map(|entry| (entry.stamp, entry.commands)));
        let recovery = match recovered {
            Ok(recovery) => recovery,
            Err(error) => return world.oracle.violated(now_ms, "rows_load", error.to_string()),
        };
        world.counts.entries_replayed += recovery.replayed as u64;
        if let Some(key) = recovery.differing.first() {
            let what = format!("{} rows differ after replay, first {key:02x?}", recovery.differing.len());
            world.oracle.violated(now_ms, "replicas_identical_at_same_index", what);
        }
        world.note(Source::Coordinator, "start", &self.epoch.to_le_bytes(), || {
            format!("index {}", self.index)
        });
        let cluster = recovery.cluster;
        let mut leases = LeaseBook::new(now_ms, world.scenario.cluster.lease_ms);
        for host in cluster.hosts() {
            leases.watch(host.key, now_ms);
        }
        let pools: Vec<PoolKey> = cluster.all_pools().map(|pool| pool.key).collect();
        self.leader = Some(Leader {
            cluster,
            log: Log::new(self.index, self.epoch),
            leases,
            allocator: Allocator::default(),
            allocating: 0,
            connections: BTreeMap::new(),
            current: BTreeMap::new(),
            levels: BTreeMap::new(),
            groups: BTreeMap::new(),
            next_generation: 1,
            due_proposed: 0,
            due_timer_ms: None,
        });
        for pool in pools {
            self.build_group(world, pool);
        }
        self.timer(world, FLUSH_MS, Timer::Flush);
        self.timer(world, TICK_MS, Timer::Tick);
        self.check(world);
        self.allocate(world);
        self.look_what_is_due(world);
    }

    /// The process dies; everything but the disk is gone.
    pub fn crash(&mut self, world: &mut World, outage_ms: u64) {
        let Some(leader) = self.leader.take() else { return };
        world.counts.coordinator_crashes += 1;
        // What was on its way to the disk may have got there.
        self.unheard = leader.log.crash().filter(|_| world.chance.coin());
        let power_fails = world.chance.coin();
        for session in leader.connections.into_keys() {
            if power_fails {
                if let Some((at_ms, notice)) =
                    world.network.vanish(world.now_ms(), session, Side::Coordinator)
                {
                    world.queue.at(at_ms, Event::Notice(notice));
                }
            } else {
                world.close(session, Side::Coordinator, true);
            }
        }
        world.in_ms(outage_ms, Event::CoordinatorStarts);
    }

    /// Every pool's group is dropped and built anew from the state.
    pub fn restart_groups(&mut self, world: &mut World) {
        let pools: Vec<PoolKey> =
            self.leader.as_ref().map(|leader| leader.groups.keys().copied().collect()).unwrap_or_default();
        for pool in pools {
            self.build_group(world, pool);
        }
    }

    fn build_group(&mut self, world: &mut World, pool: PoolKey) {
        let Some(leader) = &mut self.leader else { return };
        let mut dispatcher = Dispatcher::new(pool);
        for node in leader.cluster.nodes_of(pool, None) {
            if let Some(slots) = leader.levels.get(&node.key) {
                dispatcher.on_ask(node.key, *slots);
            }
        }
        let generation = leader.next_generation;
        leader.next_generation += 1;
        leader.groups.insert(pool, Group { generation, dispatcher, plan_due: false });
        self.wake(world, pool);
    }

    fn timer(&self, world: &mut World, delay_ms: u64, timer: Timer) {
        world.in_ms(delay_ms, Event::Coordinator { epoch: self.epoch, timer });
    }

    pub fn on_timer(&mut self, world: &mut World, epoch: u64, timer: Timer) {
        if epoch != self.epoch || self.leader.is_none() {
            return;
        }
        match timer {
            Timer::Commit => self.commit(world),
            Timer::Flush => {
                self.disk.flush();
                self.timer(world, FLUSH_MS, Timer::Flush);
            }
            Timer::Tick => {
                self.tick(world);
                self.timer(world, TICK_MS, Timer::Tick);
            }
            Timer::Plan { pool, generation } => self.plan(world, pool, generation),
            Timer::Open(session) => self.open(world, session),
            Timer::End(session) => self.end(world, session),
            Timer::Hand { node, attempts } => self.hand_over(world, node, &attempts),
            Timer::Due => {
                if let Some(leader) = &mut self.leader {
                    leader.due_timer_ms = None;
                }
                self.look_what_is_due(world);
            }
        }
    }

    pub fn propose(&mut self, world: &mut World, account: AccountId, action: Action, waiter: Waiter) {
        let Some(leader) = &mut self.leader else { return };
        leader.log.propose(account, action, waiter);
        self.begin_entry(world);
    }

    fn begin_entry(&mut self, world: &mut World) {
        let Some(leader) = &mut self.leader else { return };
        if leader.log.begin(world.now()) {
            let commit_ms = world.scenario.cluster.commit_ms.draw(&mut world.chance);
            self.timer(world, commit_ms, Timer::Commit);
        }
    }

    /// An entry is durable: it is applied, stored, answered, and what it changed is acted upon.
    fn commit(&mut self, world: &mut World) {
        let Some(leader) = &mut self.leader else { return };
        let Some(entry) = leader.log.committed(&mut self.disk) else { return };
        self.index = entry.stamp.index;
        let mut batch = Batch::default();
        let apply = |command| leader.cluster.apply(entry.stamp, command, &mut batch);
        let replies: Vec<Reply> = entry.commands.iter().map(apply).collect();
        self.disk.write(&batch);
        world.counts.entries += 1;
        world.counts.commands += entry.commands.len() as u64;
        let written = codec::encode(1, &(&entry.commands, &replies, &batch.writes)).unwrap_or_default();
        let index = entry.stamp.index;
        world.note(Source::Coordinator, "applied", &written, || {
            format!("{index}: {:?} → {replies:?}", entry.commands)
        });
        world.oracle.applied(world.queue.now_ms(), &leader.cluster, &batch);
        // Whoever waits and whoever listens are different actors: either may be first.
        if world.chance.coin() {
            self.answer_all(world, entry.waiters, replies);
            self.news(world, &batch.events);
        } else {
            self.news(world, &batch.events);
            self.answer_all(world, entry.waiters, replies);
        }
        self.look_what_is_due(world);
        self.begin_entry(world);
    }

    fn answer_all(&mut self, world: &mut World, waiters: Vec<Waiter>, replies: Vec<Reply>) {
        for (waiter, reply) in waiters.into_iter().zip(replies) {
            self.answer(world, waiter, reply);
        }
    }

    fn answer(&mut self, world: &mut World, waiter: Waiter, reply: Reply) {
        match waiter {
            Waiter::Nobody => {}
            Waiter::Client(request) => {
                let way_ms = world.scenario.cluster.delay_ms.draw(&mut world.chance);
                world.in_ms(way_ms, Event::Client(client::Timer::Answer(request, Box::new(reply))));
            }
            Waiter::Joined(session) => self.joined(world, session, reply),
            Waiter::Settled(session) => self.settled(world, session),
            // Refused for good is as settled as taken.
            Waiter::Report(session, number) => self.durable(world, session, number),
            Waiter::Assign { pool, generation, node, asked } => {
                let attempts = match reply {
                    Ok(Outcome::Assigned(attempts)) => attempts,
                    _ => Vec::new(),
                };
                if !attempts.is_empty() {
                    // The cold rows are read on another thread.
                    let read_ms = world.chance.between(0, 3);
                    self.timer(world, read_ms, Timer::Hand { node, attempts });
                }
                let group = self.leader.as_mut().and_then(|leader| leader.groups.get_mut(&pool));
                if let Some(group) = group.filter(|group| group.generation == generation) {
                    group.dispatcher.on_assign_result(node, &asked);
                }
                self.wake(world, pool);
            }
            Waiter::Allocation(allocation) => {
                let Some(leader) = &mut self.leader else { return };
                match allocation {
                    Allocation::Grant { pool, host, dedicated, .. } => {
                        leader.allocator.on_grant_result(pool, host, dedicated);
                    }
                    Allocation::Revoke { node, .. } => leader.allocator.on_revoke_result(node),
                    Allocation::Settle { pool, .. } => leader.allocator.on_settle_result(pool),
                }
                leader.allocating -= 1;
                if leader.allocating == 0 {
                    self.allocate(world);
                }
            }
            Waiter::Due => {
                if let Some(leader) = &mut self.leader {
                    leader.due_proposed -= 1;
                }
            }
        }
    }

    /// Tells hosts, dispatchers and the allocator what an entry changed.
    fn news(&mut self, world: &mut World, events: &[News]) {
        let mut reallocate = false;
        for event in events {
            match event {
                News::Kill { node, attempt, reason } => {
                    self.tell(
                        world,
                        *node,
                        LeaderMessage::Kill { node: *node, attempt: *attempt, reason: *reason },
                    );
                }
                News::Recall { node, attempt } => {
                    self.tell(world, *node, LeaderMessage::Recall { node: *node, attempts: vec![*attempt] });
                }
                News::WallClock { node, attempt, wall_clock_ms } => {
                    let (node, attempt, wall_clock_ms) = (*node, *attempt, *wall_clock_ms);
                    self.tell(world, node, LeaderMessage::WallClock { node, attempt, wall_clock_ms });
                }
                News::Clean { node, directory } => {
                    let directories = vec![directory.clone()];
                    self.tell(world, *node, LeaderMessage::Clean { node: *node, directories });
                }
                News::Launch { node, attempts } => self.hand_over(world, *node, attempts),
                News::NodeGranted(node) => {
                    let grant = self.leader.as_ref().and_then(|leader| parcel::grant(&leader.cluster, *node));
                    if let Some(grant) = grant {
                        self.tell(world, *node, LeaderMessage::Grant(grant));
                    }
                }
                News::NodeLeaving(node) => {
                    if self.cluster().is_some_and(|cluster| cluster.node_wants_revoke(*node)) {
                        self.tell(world, *node, LeaderMessage::Revoke(*node));
                    }
                }
                News::NodeFreed { pool, node } => {
                    if let Some(group) = self.leader.as_mut().and_then(|leader| leader.groups.get_mut(pool)) {
                        group.dispatcher.on_node_changed(*node);
                    }
                    self.wake(world, *pool);
                }
                News::NodeRemoved { pool, node } => {
                    if let Some(group) = self.leader.as_mut().and_then(|leader| leader.groups.get_mut(pool)) {
                        group.dispatcher.on_node_gone(*node);
                    }
                }
                News::Dispatch(pool) => self.wake(world, *pool),
                News::PoolAdded(pool) => {
                    self.build_group(world, *pool);
                    reallocate = true;
                }
                News::PoolRemoved(pool) => {
                    if let Some(leader) = &mut self.leader {
                        leader.groups.remove(pool);
                    }
                    reallocate = true;
                }
                News::PoolChanged(_) | News::HostsChanged => reallocate = true,
                News::RetryAt { .. }
                | News::JobChanged(_)
                | News::ScheduleChanged(_)
                | News::CursorPending(_)
                | News::MembersChanged => {}
            }
        }
        if reallocate {
            self.allocate(world);
        }
    }

    fn wake(&mut self, world: &mut World, pool: PoolKey) {
        let group = self.leader.as_mut().and_then(|leader| leader.groups.get_mut(&pool));
        let Some(group) = group.filter(|group| !group.plan_due) else { return };
        group.plan_due = true;
        let generation = group.generation;
        self.timer(world, 0, Timer::Plan { pool, generation });
    }

    fn plan(&mut self, world: &mut World, pool: PoolKey, generation: u64) {
        let Some(leader) = &mut self.leader else { return };
        let Some(group) = leader.groups.get_mut(&pool).filter(|group| group.generation == generation) else {
            return;
        };
        group.plan_due = false;
        let decisions = group.dispatcher.plan(world.now(), &leader.cluster);
        for decision in decisions {
            match decision {
                Decision::Assign { node, tasks } => {
                    let account = self.account_of(node);
                    let waiter = Waiter::Assign { pool, generation, node, asked: tasks.clone() };
                    self.propose(world, account, Action::Assign { node, tasks }, waiter);
                }
                Decision::Recall { node, attempts } => {
                    world.counts.asked_back += attempts.len() as u64;
                    self.tell(world, node, LeaderMessage::Recall { node, attempts });
                }
            }
        }
    }

    fn hand_over(&mut self, world: &mut World, node: NodeKey, attempts: &[AttemptRef]) {
        let Some(leader) = &self.leader else { return };
        if let Some(chunk) = parcel::chunk(&leader.cluster, &self.disk, node, attempts) {
            self.tell(world, node, LeaderMessage::Chunk(chunk));
        }
    }

    fn account_of(&self, node: NodeKey) -> AccountId {
        let node = self.cluster().and_then(|cluster| cluster.node(node));
        node.map_or(keys::CLUSTER, |node| node.account)
    }

    fn allocate(&mut self, world: &mut World) {
        let Some(leader) = &mut self.leader else { return };
        if leader.allocating > 0 {
            return; // The last answer comes back here.
        }
        let allocations = leader.allocator.plan(world.now(), &leader.cluster);
        leader.allocating = allocations.len();
        for allocation in allocations {
            let action = match allocation.clone() {
                Allocation::Grant { pool, host, node_id, dedicated } => {
                    Action::NodeGrant { pool, host, node_id, dedicated }
                }
                Allocation::Revoke { node, option } => Action::NodeRevoke { node, option },
                Allocation::Settle { pool, errors } => Action::PoolSettled { pool, errors },
            };
            self.propose(world, keys::CLUSTER, action, Waiter::Allocation(allocation));
        }
    }

    /// Hosts whose lease ran out are lost.
    fn tick(&mut self, world: &mut World) {
        let lost = self.leader.as_ref().map(|leader| leader.leases.lost(world.now_ms()));
        for host in lost.unwrap_or_default() {
            if let Some(leader) = &mut self.leader {
                leader.leases.remove(host);
            }
            self.forget(world, host, true);
            if world.is_sabotaged(Sabotage::ForgetHostLoss) {
                continue;
            }
            world.counts.hosts_lost += 1;
            self.propose(world, keys::CLUSTER, Action::HostLost { host }, Waiter::Nobody);
        }
        let pools: Vec<PoolKey> =
            self.leader.as_ref().map(|leader| leader.groups.keys().copied().collect()).unwrap_or_default();
        for pool in pools {
            self.wake(world, pool);
        }
    }

    /// Proposes everything that is due, and comes back when the next thing is.
    fn look_what_is_due(&mut self, world: &mut World) {
        let now = world.now();
        let Some(leader) = &mut self.leader else { return };
        if leader.due_proposed > 0 {
            return; // The commit that answers looks again.
        }
        let cluster = &leader.cluster;
        let account_of = |job: JobKey| cluster.job(job).map_or(keys::CLUSTER, |job| job.account);
        let mut commands: Vec<(AccountId, Action)> =
            cluster.cursors().map(|cursor| (keys::CLUSTER, Action::Continue { cursor })).collect();
        let mut retries = Vec::new();
        for (at, deadline) in cluster.deadlines() {
            if at > now || retries.len() >= RETRIES_PER_COMMAND {
                break;
            }
            match deadline {
                Deadline::JobWallClock(job) => commands.push((account_of(job), Action::JobExpire { job })),
                Deadline::JobEmptyGrace(job) => {
                    commands.push((account_of(job), Action::JobCheckComplete { job }))
                }
                Deadline::Retry(task) => retries.push(task),
                Deadline::Schedule(schedule) => {
                    commands.push((keys::CLUSTER, Action::ScheduleCheck { schedule }));
                }
            }
        }
        if !retries.is_empty() {
            commands.push((keys::CLUSTER, Action::RetryDue { tasks: retries }));
        }
        let next: Option<Timestamp> = cluster.deadlines().map(|(at, _)| at).next();
        leader.due_proposed = commands.len();
        if let (true, Some(next)) = (commands.is_empty(), next) {
            let at_ms = world.now_ms() + next.since_ms(now).max(1);
            if leader.due_timer_ms.is_none_or(|timer_ms| at_ms < timer_ms) {
                leader.due_timer_ms = Some(at_ms);
                let delay_ms = at_ms - world.now_ms();
                self.timer(world, delay_ms, Timer::Due);
            }
        }
        for (account, action) in commands {
            self.propose(world, account, action, Waiter::Due);
        }
    }

    /// Has the oracle look at the whole state.
    pub fn check(&mut self, world: &mut World) {
        let now_ms = world.now_ms();
        if let Some(leader) = &self.leader {
            world.oracle.check_acknowledged(now_ms, &leader.cluster);
            world.oracle.check_state(now_ms, &leader.cluster);
        }
    }
}
