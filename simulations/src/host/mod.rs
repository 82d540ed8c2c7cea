//! A host: a machine with a keeper that owns processes, a worker that may die by itself, and a disk.
//!
//! ```text
//!   crash    machine off: processes, keeper and worker gone, another boot id; of unsynced files only some are left
//!   kill     worker gone and started again; the keeper and its processes go on, the boot id stays
//!   pause    worker stands still; the keeper does not, and ends everything at the deadline
//!   freeze   the whole machine stands still; its clock is right again when it goes on
//! ```

pub mod keeper;
pub mod process;
mod worker;

use crate::sabotage::Sabotage;
use crate::simulation::{Event, Packet, World};
use crate::world::{LinkId, SessionId, Side, Source};
use keeper::Keeper;
use lote_shared::model::NodeKey;
use lote_shared::protocol::host::NodeGrant;
use lote_worker::keeper::wire::{Cause, Event as KeeperEvent, Exit, Request};
use lote_worker::node::machine::Note;
use std::collections::BTreeMap;
use worker::Worker;

#[derive(Debug)]
pub enum Timer {
    PowerOn,
    WorkerStarts,
    /// The worker runs on.
    WorkerResumes {
        worker: u64,
    },
    /// The machine runs on.
    Thaws,
    Keeper {
        boot: u64,
        timer: keeper::Timer,
    },
    Worker {
        worker: u64,
        timer: worker::Timer,
    },
}

/// What a node's directory keeps for the next worker.
#[derive(Debug, Clone)]
struct Memory {
    grant: NodeGrant,
    notes: Vec<Note>,
}

#[derive(Debug, Default)]
struct Disk {
    nodes: BTreeMap<NodeKey, Memory>,
    /// Exits the keeper left behind.
    exits: Vec<Exit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Still {
    No,
    Worker,
    Machine,
}

pub struct Host {
    number: u32,
    boot: u64,
    /// Virtual time at the boot clock's zero; before the beginning of time for machines that are up already.
    booted_at_ms: u64,
    disk: Disk,
    keeper: Option<Keeper>,
    worker: Option<Worker>,
    /// Number of the latest worker process; events for an earlier one are void.
    workers: u64,
    still: Still,
    /// What happens once it moves again.
    held: Vec<Event>,
}

impl Host {
    pub fn new(number: u32, world: &mut World) -> Host {
        let host = Host {
            number,
            boot: 0,
            booted_at_ms: 0,
            disk: Disk::default(),
            keeper: None,
            worker: None,
            workers: 0,
            still: Still::No,
            held: Vec::new(),
        };
        let wait_ms = world.chance.between(0, 1_000);
        world.in_ms(wait_ms, Event::Host { host: number, timer: Timer::PowerOn });
        host
    }

    pub fn number(&self) -> u32 {
        self.number
    }

    pub fn link(&self) -> LinkId {
        LinkId(self.number)
    }

    /// Whether nobody looks at what arrives.
    pub fn is_still(&self) -> bool {
        self.still != Still::No
    }

    pub fn hold(&mut self, event: Event) {
        self.held.push(event);
    }

    /// The boot clock.
    fn clock_ms(&self, world: &World) -> u64 {
        world.now_ms() - self.booted_at_ms
    }

    fn at_clock(&self, world: &mut World, clock_ms: u64, timer: Timer) {
        world.queue.at(self.booted_at_ms.saturating_add(clock_ms), Event::Host { host: self.number, timer });
    }

    fn note(&self, world: &mut World, kind: &'static str) {
        world.note(Source::Host(self.number), kind, &self.boot.to_le_bytes(), String::new);
    }

    pub fn on_timer(&mut self, world: &mut World, timer: Timer) {
        let is_held = match (&timer, self.still) {
            (Timer::Worker { worker, .. }, Still::Worker | Still::Machine) => *worker == self.workers,
            (Timer::Keeper { boot, .. }, Still::Machine) => *boot == self.boot,
            (Timer::WorkerStarts, Still::Machine) => true,
            _ => false,
        };
        if is_held {
            return self.hold(Event::Host { host: self.number, timer });
        }
        match timer {
            Timer::PowerOn if self.keeper.is_none() => self.power_on(world),
            Timer::WorkerStarts if self.keeper.is_some() && self.worker.is_none() => self.start_worker(world),
            Timer::WorkerResumes { worker } if worker == self.workers && self.still == Still::Worker => {
                self.note(world, "worker-resumes");
                self.move_again(world);
            }
            Timer::Thaws if self.still == Still::Machine => self.thaw(world),
            Timer::Keeper { boot, timer } if boot == self.boot => {
                let clock_ms = self.clock_ms(world);
                if let Some(keeper) = &mut self.keeper {
                    if timer == keeper::Timer::Deadline && world.is_sabotaged(Sabotage::IgnoreDeadline) {
                        return;
                    }
                    let effects = keeper.tick(clock_ms, timer);
                    self.keeper_effects(world, effects);
                }
            }
            Timer::Worker { worker, timer } if worker == self.workers => {
                self.with_worker(world, |worker, bench| worker.on_timer(bench, timer));
            }
            _ => {}
        }
    }

    // ---- the machine ----

    fn power_on(&mut self, world: &mut World) {
        self.boot = world.chance.number();
        self.booted_at_ms = world.now_ms();
        self.note(world, "power-on");
        self.keeper = Some(Keeper::new(self.boot, std::mem::take(&mut self.disk.exits)));
        self.start_worker(world);
    }

    /// The power fails; `None` = for good.
    pub fn crash(&mut self, world: &mut World, outage_ms: Option<u64>) {
        let Some(keeper) = self.keeper.take() else { return };
        world.counts.host_crashes += 1;
        for attempt in keeper.attempts().collect::<Vec<_>>() {
            world.oracle.died(attempt, None);
        }
        self.disk.exits = keeper.power_loss(|| world.chance.coin());
        if let Some(session) = self.worker.take().and_then(|worker| worker.connection())
            && let Some((at_ms, notice)) = world.network.vanish(world.queue.now_ms(), session, Side::Host)
        {
            world.queue.at(at_ms, Event::Notice(notice));
        }
        self.workers += 1;
        self.still = Still::No;
        self.held.clear();
        if let Some(outage_ms) = outage_ms {
            world.in_ms(outage_ms, Event::Host { host: self.number, timer: Timer::PowerOn });
        }
    }

    /// The whole machine stands still.
    pub fn freeze(&mut self, world: &mut World, outage_ms: u64) {
        if self.keeper.is_none() || self.still == Still::Machine {
            return;
        }
        self.still = Still::Machine;
        world.oracle.frozen(self.number);
        world.in_ms(outage_ms, Event::Host { host: self.number, timer: Timer::Thaws });
    }

    fn thaw(&mut self, world: &mut World) {
        self.note(world, "thaws");
        let clock_ms = self.clock_ms(world);
        self.still = Still::No;
        let ignore = world.is_sabotaged(Sabotage::IgnoreDeadline);
        let effects = self.keeper.as_mut().filter(|_| !ignore).map(|keeper| keeper.thaw(clock_ms));
        self.keeper_effects(world, effects.unwrap_or_default());
        let attempts: Vec<_> = self.keeper.iter().flat_map(Keeper::attempts).collect();
        for attempt in attempts {
            world.oracle.thawed(world.queue.now_ms(), attempt);
        }
        self.move_again(world);
    }

    fn move_again(&mut self, world: &mut World) {
        self.still = Still::No;
        for event in std::mem::take(&mut self.held) {
            world.in_ms(0, event);
        }
    }

    // ---- the worker process ----

    fn start_worker(&mut self, world: &mut World) {
        self.workers += 1;
        self.note(world, "worker-starts");
        let clock_ms = self.clock_ms(world);
        let listing = self.keeper.as_mut().map(|keeper| keeper.on(clock_ms, Request::List));
        let Some(keeper::Effect::Tell(listing)) = listing.and_then(|mut effects| effects.pop()) else {
            return;
        };
        self.worker = Some(Worker::default());
        self.with_worker(world, |worker, bench| worker.start(bench, listing));
    }

    /// The worker process dies; its system closes its connection.
    pub fn kill_worker(&mut self, world: &mut World, outage_ms: u64) {
        if self.still == Still::Machine {
            return;
        }
        let Some(worker) = self.worker.take() else { return };
        if let Some(session) = worker.connection() {
            world.close(session, Side::Host, true);
        }
        self.workers += 1;
        self.still = Still::No;
        self.held.clear();
        world.in_ms(outage_ms.max(1), Event::Host { host: self.number, timer: Timer::WorkerStarts });
    }

    pub fn pause_worker(&mut self, world: &mut World, outage_ms: u64) {
        if self.worker.is_none() || self.still != Still::No {
            return;
        }
        self.still = Still::Worker;
        let timer = Timer::WorkerResumes { worker: self.workers };
        world.in_ms(outage_ms, Event::Host { host: self.number, timer });
    }

    /// The connection breaks for no reason; the other side hears of it at once or only by the silence.
    pub fn disconnect(&mut self, world: &mut World) {
        if self.is_still() {
            return;
        }
        let Some(session) = self.worker.as_ref().and_then(Worker::connection) else { return };
        if world.chance.coin() {
            world.close(session, Side::Host, true);
        } else if let Some((at_ms, notice)) = world.network.vanish(world.queue.now_ms(), session, Side::Host)
        {
            world.queue.at(at_ms, Event::Notice(notice));
        }
        self.session_over(world, session);
    }

    pub fn dialled(&mut self, world: &mut World, worker: u64, session: Option<SessionId>) {
        if worker != self.workers || self.worker.is_none() {
            // Whoever dialled is gone.
            if let Some(session) = session {
                world.close(session, Side::Host, true);
            }
            return;
        }
        self.with_worker(world, |worker, bench| worker.dialled(bench, session));
    }

    pub fn on_packet(&mut self, world: &mut World, session: SessionId, packet: Packet) {
        self.with_worker(world, |worker, bench| worker.on_packet(bench, session, packet));
    }

    pub fn session_over(&mut self, world: &mut World, session: SessionId) {
        self.with_worker(world, |worker, bench| worker.session_over(bench, session));
    }

    fn with_worker(&mut self, world: &mut World, act: impl FnOnce(&mut Worker, &mut Bench)) {
        let Some(mut worker) = self.worker.take() else { return };
        act(&mut worker, &mut Bench { host: self, world });
        self.worker = Some(worker);
    }

    // ---- the keeper ----

    fn keeper_effects(&mut self, world: &mut World, effects: Vec<keeper::Effect>) {
        for effect in effects {
            match effect {
                keeper::Effect::At(clock_ms, timer) => {
                    let timer = Timer::Keeper { boot: self.boot, timer };
                    self.at_clock(world, clock_ms, timer);
                }
                keeper::Effect::Tell(event) => {
                    if let KeeperEvent::Exited(Exit { cause: Cause::Deadline, .. }) = &event {
                        world.counts.deadline_kills += 1;
                    }
                    let timer =
                        Timer::Worker { worker: self.workers, timer: worker::Timer::Keeper(Box::new(event)) };
                    world.in_ms(0, Event::Host { host: self.number, timer });
                }
                keeper::Effect::Born(attempt) => {
                    world.counts.attempts += 1;
                    let slots = u32::from(world.scenario.pool.slots_per_node) * self.disk.nodes.len() as u32;
                    world.oracle.born(world.queue.now_ms(), self.number, attempt, 1, slots);
                    let number = attempt.task.0.to_le_bytes();
                    world.note(Source::Host(self.number), "born", &number, || attempt.to_string());
                }
                keeper::Effect::Died(attempt, exit_code) => {
                    world.oracle.died(attempt, Some(exit_code));
                    let number = attempt.task.0.to_le_bytes();
                    world.note(Source::Host(self.number), "died", &number, || {
                        format!("{attempt} with {exit_code}")
                    });
                }
            }
        }
    }
}

/// What a worker works with: its machine and the world.
struct Bench<'a> {
    host: &'a mut Host,
    world: &'a mut World,
}

impl Bench<'_> {
    fn clock_ms(&self) -> u64 {
        self.host.clock_ms(self.world)
    }

    /// A timer of this worker, at a time of the boot clock.
    fn at(&mut self, clock_ms: u64, timer: worker::Timer) {
        let timer = Timer::Worker { worker: self.host.workers, timer };
        self.host.at_clock(self.world, clock_ms, timer);
    }

    fn in_ms(&mut self, delay_ms: u64, timer: worker::Timer) {
        self.at(self.clock_ms() + delay_ms, timer);
    }

    fn ask_keeper(&mut self, request: Request) {
        let clock_ms = self.clock_ms();
        let effects = self.host.keeper.as_mut().map(|keeper| keeper.on(clock_ms, request));
        self.host.keeper_effects(self.world, effects.unwrap_or_default());
    }

    fn spawn(&mut self, key: String, context: Vec<u8>, attempt: lote_shared::model::AttemptRef) {
        let clock_ms = self.clock_ms();
        let lifetime = process::Lifetime::of(self.world.random, &self.world.scenario.job, attempt);
        let keeper = self.host.keeper.as_mut();
        let effects = keeper.map(|keeper| keeper.spawn(clock_ms, key, context, attempt, lifetime));
        self.host.keeper_effects(self.world, effects.unwrap_or_default());
    }
}
