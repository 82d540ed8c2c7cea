//! The root of the leader's actors: owns every pool's group as a generation.
//!
//! A group that panicked or failed is dropped and built again from the replicated state: at once the first time,
//! then after 0.1 s doubling to 30 s; after 5 restarts in a minute it waits the full 30 s and the status says why.
//! A group that does not answer a progress check for [`STUCK_MS`] holds its arbiter's thread; a thread cannot be
//! ended, so the arbiter is given up and every group on it moves to a new one.

use super::chunk::ChunkBuilder;
use super::faults::Faults;
use super::guard::{GroupFailed, Guard, Place, signal};
use super::host_registry::{Attach, Reallocate, Undelivered};
use super::pool_dispatcher::DispatcherStatus;
use super::pool_supervisor::{Check, GroupParts, PoolNews, PoolSupervisor, Stop};
use crate::clock;
use crate::engine::Engine;
use crate::state::Event;
use actix::{
    Actor, ActorFutureExt, Addr, Arbiter, AsyncContext, Context, Handler, Message, Recipient, WrapFuture,
};
use lote_shared::model::PoolKey;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// A group that was silent for so long is taken for stuck.
pub const STUCK_MS: u64 = 5_000;
const CHECK_EVERY: Duration = Duration::from_millis(500);
const BACKOFF_FIRST_MS: u64 = 100;
const BACKOFF_MAX_MS: u64 = 30_000;
const RESTARTS_PER_MINUTE_MAX: usize = 5;
const MINUTE_MS: u64 = 60_000;

/// What the supervisor is made with.
#[derive(Debug, Clone)]
pub struct Settings {
    pub engine: Engine,
    pub builder: ChunkBuilder,
    pub faults: Faults,
    pub registry: Recipient<Attach>,
    pub reallocate: Recipient<Reallocate>,
    pub undelivered: Recipient<Undelivered>,
    /// Threads the groups share.
    pub arbiters: usize,
}

/// A group as people see it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct GroupStatus {
    pub pool: u32,
    pub generation: u64,
    /// Restarts within the last minute.
    pub restarts: usize,
    pub last_failure: Option<String>,
    /// Not running: waits for its back-off.
    pub waiting: bool,
    pub dispatcher: Option<DispatcherStatus>,
}

/// Asks for the status of every group.
#[derive(Debug, Message)]
#[rtype(result = "Vec<GroupStatus>")]
pub struct Inspect;

/// Changes of the state since the last one; `None` after too many were missed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct News(pub Option<Arc<Vec<Event>>>);

#[derive(Debug)]
struct Group {
    generation: u64,
    /// `None` while it waits for its back-off.
    address: Option<Addr<PoolSupervisor>>,
    arbiter: usize,
    checked_ms: u64,
    answered_ms: u64,
    restarts_ms: VecDeque<u64>,
    last_failure: Option<String>,
    dispatcher: Option<DispatcherStatus>,
}

#[derive(Debug)]
pub struct ClusterSupervisor {
    settings: Settings,
    arbiters: Vec<Arbiter>,
    groups: BTreeMap<PoolKey, Group>,
    next_generation: u64,
}

impl ClusterSupervisor {
    pub fn new(settings: Settings) -> ClusterSupervisor {
        let arbiters = (0..settings.arbiters.max(1)).map(|_| Arbiter::new()).collect();
        ClusterSupervisor { settings, arbiters, groups: BTreeMap::new(), next_generation: 1 }
    }

    /// Makes the groups those of the pools in the state, and wakes them all.
    fn resync(&mut self, ctx: &mut Context<Self>) {
        let pools: Vec<PoolKey> =
            self.settings.engine.read(|cluster| cluster.all_pools().map(|pool| pool.key).collect());
        let gone: Vec<PoolKey> = self.groups.keys().copied().filter(|pool| !pools.contains(pool)).collect();
        for pool in gone {
            self.remove(pool);
        }
        for pool in pools {
            self.tell(pool, PoolNews::Changed, ctx);
        }
    }

    /// Passes news on, building the group if it is the first.
    fn tell(&mut self, pool: PoolKey, news: PoolNews, ctx: &mut Context<Self>) {
        match self.groups.get(&pool) {
            None => {
                self.groups.insert(pool, Group::new(pool, self.arbiters.len()));
                self.build(pool, ctx);
            }
            Some(Group { address: Some(address), .. }) => {
                // A full mailbox already holds news that make it look at the state.
                let _ = address.try_send(news);
            }
            Some(_) => {} // It waits for its back-off and will look at the state when built.
        }
    }

    fn build(&mut self, pool: PoolKey, ctx: &mut Context<Self>) {
        let generation = self.next_generation;
        self.next_generation += 1;
        let Some(group) = self.groups.get_mut(&pool) else { return };
        let guard = Guard { pool, generation, parent: ctx.address().recipient() };
        let parts = GroupParts {
            guard,
            faults: self.settings.faults.clone(),
            engine: self.settings.engine.clone(),
            builder: self.settings.builder.clone(),
            registry: self.settings.registry.clone(),
            reallocate: self.settings.reallocate.clone(),
            undelivered: self.settings.undelivered.clone(),
        };
        let Some(arbiter) = self.arbiters.get(group.arbiter) else { return };
        group.generation = generation;
        group.answered_ms = clock::monotonic_ms();
        group.checked_ms = group.answered_ms;
        group.address =
            Some(PoolSupervisor::start_in_arbiter(&arbiter.handle(), move |_| PoolSupervisor::new(parts)));
    }

    fn remove(&mut self, pool: PoolKey) {
        if let Some(Group { address: Some(address), .. }) = self.groups.remove(&pool) {
            signal(&address, Stop); // The last message of a generation.
        }
    }

    fn failed(&mut self, pool: PoolKey, reason: String, ctx: &mut Context<Self>) {
        let Some(group) = self.groups.get_mut(&pool) else { return };
        if let Some(address) = group.address.take() {
            signal(&address, Stop); // The last message of a generation.
        }
        let wait_ms = group.restarted(clock::monotonic_ms());
        tracing::error!(pool = %pool, generation = group.generation, %reason, wait_ms, "pool group restarts");
        group.last_failure = Some(reason);
        ctx.run_later(Duration::from_millis(wait_ms), move |this, ctx| {
            if this.groups.get(&pool).is_some_and(|group| group.address.is_none()) {
                this.build(pool, ctx);
            }
        });
    }

    fn check_progress(&mut self, ctx: &mut Context<Self>) {
        let now_ms = clock::monotonic_ms();
        let mut stuck = None;
        let mut checks = Vec::new();
        for (pool, group) in &mut self.groups {
            let Some(address) = &group.address else { continue };
            if now_ms.saturating_sub(group.answered_ms) > STUCK_MS && group.checked_ms > group.answered_ms {
                stuck = Some(group.arbiter);
                continue;
            }
            group.checked_ms = now_ms;
            checks.push((*pool, group.generation, address.send(Check)));
        }
        for (pool, generation, check) in checks {
            ctx.spawn(check.into_actor(self).map(move |answer, this, _| {
                let group = this.groups.get_mut(&pool).filter(|group| group.generation == generation);
                if let (Ok(status), Some(group)) = (answer, group) {
                    group.answered_ms = clock::monotonic_ms();
                    group.dispatcher = status;
                }
            }));
        }
        if let Some(arbiter) = stuck {
            self.give_up_arbiter(arbiter, ctx);
        }
    }

    /// Moves every group of a stuck arbiter to a new one.
    fn give_up_arbiter(&mut self, index: usize, ctx: &mut Context<Self>) {
        let Some(slot) = self.arbiters.get_mut(index) else { return };
        let old = std::mem::replace(slot, Arbiter::new());
        old.stop(); // Obeyed if its thread ever comes back.
        let pools: Vec<PoolKey> =
            self.groups.iter().filter(|(_, group)| group.arbiter == index).map(|(pool, _)| *pool).collect();
        for pool in pools {
            self.failed(pool, format!("no progress for {} s", STUCK_MS / 1000), ctx);
        }
    }
}

impl Group {
    fn new(pool: PoolKey, arbiters: usize) -> Group {
        Group {
            generation: 0,
            address: None,
            arbiter: pool.0 as usize % arbiters.max(1),
            checked_ms: 0,
            answered_ms: 0,
            restarts_ms: VecDeque::new(),
            last_failure: None,
            dispatcher: None,
        }
    }

    /// Notes a restart and says how long to wait before it.
    fn restarted(&mut self, now_ms: u64) -> u64 {
        while self.restarts_ms.front().is_some_and(|at| now_ms.saturating_sub(*at) > MINUTE_MS) {
            self.restarts_ms.pop_front();
        }
        self.restarts_ms.push_back(now_ms);
        match self.restarts_ms.len() {
            0 | 1 => 0,
            n if n > RESTARTS_PER_MINUTE_MAX => BACKOFF_MAX_MS,
            n => (BACKOFF_FIRST_MS << (n - 2)).min(BACKOFF_MAX_MS),
        }
    }
}

/// With the root go the threads of its groups, and with them every actor on them. One that hangs goes when its thread
/// comes back; until then its proposals are refused ([`Engine::in_term`]).
impl Drop for ClusterSupervisor {
    fn drop(&mut self) {
        for arbiter in &self.arbiters {
            arbiter.stop();
        }
    }
}

impl Actor for ClusterSupervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        // Many pools may change in one entry; a mailbox of 16 would turn every burst into a resync.
        ctx.set_mailbox_capacity(1024);
        self.resync(ctx);
        ctx.run_interval(CHECK_EVERY, |this, ctx| this.check_progress(ctx));
    }
}

impl Handler<News> for ClusterSupervisor {
    type Result = ();
    fn handle(&mut self, news: News, ctx: &mut Context<Self>) {
        let Some(events) = news.0 else { return self.resync(ctx) };
        for event in events.iter() {
            match event {
                Event::PoolAdded(pool) | Event::PoolChanged(pool) => self.tell(*pool, PoolNews::Changed, ctx),
                Event::Dispatch(pool) => self.tell(*pool, PoolNews::Dispatch, ctx),
                Event::NodeFreed { pool, node } => self.tell(*pool, PoolNews::Freed(*node), ctx),
                Event::NodeRemoved { pool, node } => self.tell(*pool, PoolNews::Removed(*node), ctx),
                Event::PoolRemoved(pool) => self.remove(*pool),
                _ => {}
            }
        }
    }
}

impl Handler<GroupFailed> for ClusterSupervisor {
    type Result = ();
    fn handle(&mut self, failed: GroupFailed, ctx: &mut Context<Self>) {
        let current = self.groups.get(&failed.pool).map(|group| group.generation);
        if current == Some(failed.generation) {
            let place = match failed.place {
                Place::Started => "start",
                Place::Handler => "handler",
                Place::Timer => "timer",
            };
            self.failed(failed.pool, format!("panic in a {place}: {}", failed.reason), ctx);
        }
    }
}

impl Handler<Inspect> for ClusterSupervisor {
    type Result = actix::MessageResult<Inspect>;
    fn handle(&mut self, _: Inspect, _: &mut Context<Self>) -> Self::Result {
        let status = |(pool, group): (&PoolKey, &Group)| GroupStatus {
            pool: pool.0,
            generation: group.generation,
            restarts: group.restarts_ms.len(),
            last_failure: group.last_failure.clone(),
            waiting: group.address.is_none(),
            dispatcher: group.dispatcher.clone(),
        };
        actix::MessageResult(self.groups.iter().map(status).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_back_off_and_forget_after_a_minute() {
        let mut group = Group::new(PoolKey(3), 2);
        let waits: Vec<u64> = (0..7).map(|n| group.restarted(n * 10)).collect();
        assert_eq!(waits, [0, 100, 200, 400, 800, 30_000, 30_000]);
        assert_eq!(group.restarted(10 * MINUTE_MS), 0);
    }
}
