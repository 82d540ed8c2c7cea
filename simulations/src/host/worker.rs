//! The worker process: the shell round `NodeMachine` and `AttemptMachine`, and the host's end of the session.
//!
//! It dials, says hello with its inventory, and does what it is told. What it owns dies with it; what the next worker
//! needs is with the keeper (processes, exits, contexts) and in the nodes' memory.

use super::{Bench, Memory};
use crate::sabotage::Sabotage;
use crate::simulation::{Event, Packet};
use crate::world::{SessionId, Side};
use lote_shared::model::{AttemptOutcome, AttemptRef, BootId, HostCapacity, NodeKey, Timestamp};
use lote_shared::protocol::codec;
use lote_shared::protocol::host::{
    Frame, Hello, HostMessage, JobPart, LeaderMessage, Lease, TaskLaunch, Welcome,
};
use lote_shared::protocol::session::{Accept, LeaseClock, Limits, Resume, Session};
use lote_worker::attempt::machine::{self, AttemptMachine, Input, Plan, ProcessEnd};
use lote_worker::keeper::wire::{Event as KeeperEvent, Exit, Request};
use lote_worker::node::machine::{Effect, NodeMachine, Now, Work};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const DIAL_AGAIN_MS: u64 = 500;
const GRACE_MS: u64 = 2_000;
/// Version of [`Context`].
const CONTEXT_VERSION: u8 = 1;
const CONTEXT_LIMIT: u64 = 1024 * 1024;

#[derive(Debug)]
pub enum Timer {
    Dial,
    Ping(SessionId),
    Keeper(Box<KeeperEvent>),
    NodeTime(NodeKey),
    Directories(NodeKey),
    Wiped(NodeKey),
    Prepared(AttemptRef),
    AttemptTick(AttemptRef),
}

/// What a worker leaves with the keeper for its successor.
#[derive(Debug, Serialize, Deserialize)]
struct Context {
    node: NodeKey,
    job: JobPart,
    launch: TaskLaunch,
    started_ms: u64,
    started: Timestamp,
}

#[derive(Debug)]
struct Running {
    node: NodeKey,
    work: Work,
    started: Now,
    machine: AttemptMachine,
}

#[derive(Debug)]
pub struct Worker {
    connection: Option<SessionId>,
    welcomed: bool,
    session: Session<HostMessage>,
    lease: LeaseClock,
    lease_ms: u64,
    /// When the hello of this connection was sent, by the boot clock.
    hello_ms: u64,
    /// Cluster time and boot clock when the leader was last heard.
    heard: Option<(Timestamp, u64)>,
    nodes: BTreeMap<NodeKey, NodeMachine>,
    /// The time for which each node's timer is set.
    node_timers: BTreeMap<NodeKey, u64>,
    attempts: BTreeMap<AttemptRef, Running>,
}

impl Default for Worker {
    fn default() -> Worker {
        Worker {
            connection: None,
            welcomed: false,
            session: Session::new(Limits::default()),
            lease: LeaseClock::new(),
            lease_ms: 0,
            hello_ms: 0,
            heard: None,
            nodes: BTreeMap::new(),
            node_timers: BTreeMap::new(),
            attempts: BTreeMap::new(),
        }
    }
}

fn key_of(attempt: AttemptRef) -> String {
    attempt.to_string()
}

fn plan_of(launch: &TaskLaunch) -> Plan {
    Plan {
        has_resource_files: !launch.spec.resource_files.is_empty(),
        uploads: Vec::new(),
        wall_clock_ms: launch.wall_clock_ms,
        last_try: launch.last_try,
        grace_ms: GRACE_MS,
    }
}

/// Life of the process and of its connection.
impl Worker {
    pub fn connection(&self) -> Option<SessionId> {
        self.connection
    }

    fn now(&self, bench: &Bench) -> Now {
        let ms = bench.clock_ms();
        let time = match self.heard {
            Some((time, heard_ms)) => time.plus_ms(ms.saturating_sub(heard_ms)),
            None => bench.world.now(),
        };
        Now { ms, time }
    }

    /// Begins from what the disk and the keeper have.
    pub fn start(&mut self, bench: &mut Bench, listing: KeeperEvent) {
        let now = self.now(bench);
        for (node, memory) in bench.host.disk.nodes.clone() {
            let (machine, effects) = NodeMachine::resume(memory.grant, memory.notes, None, now);
            self.nodes.insert(node, machine);
            self.node_effects(bench, node, effects);
        }
        let KeeperEvent::Listing { running, exited } = listing else { return };
        for process in running {
            self.adopt(bench, &process.context);
        }
        for (exit, context) in exited {
            match self.adopt(bench, &context) {
                Some(_) => self.exited(bench, exit),
                // Of an earlier boot: nobody waits for it any more.
                None => bench.ask_keeper(Request::Acknowledge { key: exit.key }),
            }
        }
        self.dial(bench);
    }

    fn adopt(&mut self, bench: &mut Bench, context: &[u8]) -> Option<AttemptRef> {
        let context: Context = codec::decode(CONTEXT_VERSION, context, CONTEXT_LIMIT).ok()?;
        let attempt = context.launch.attempt;
        let started = Now { ms: context.started_ms, time: context.started };
        let plan = plan_of(&context.launch);
        let work = Work { job: Arc::new(context.job), launch: context.launch };
        self.nodes.get_mut(&context.node)?.on_adopted(&work, started);
        let machine = AttemptMachine::adopt(plan, started.ms);
        self.attempts.insert(attempt, Running { node: context.node, work, started, machine });
        bench.world.counts.adopted += 1;
        self.set_attempt_timer(bench, attempt);
        Some(attempt)
    }

    fn dial(&mut self, bench: &mut Bench) {
        let at_ms = bench.world.network.dial(bench.world.queue.now_ms());
        let event = Event::Dialled { host: bench.host.number, worker: bench.host.workers };
        bench.world.queue.at(at_ms, event);
    }

    pub fn dialled(&mut self, bench: &mut Bench, session: Option<SessionId>) {
        let Some(session) = session else { return bench.in_ms(DIAL_AGAIN_MS, Timer::Dial) };
        self.connection = Some(session);
        self.welcomed = false;
        bench.world.send(session, Side::Host, Packet::Resume(self.session.offer()));
    }

    pub fn session_over(&mut self, bench: &mut Bench, session: SessionId) {
        if self.connection == Some(session) {
            self.connection = None;
            self.welcomed = false;
            let wait_ms = bench.world.chance.between(1, DIAL_AGAIN_MS);
            bench.in_ms(wait_ms, Timer::Dial);
        }
    }

    fn hang_up(&mut self, bench: &mut Bench) {
        if let Some(session) = self.connection {
            bench.world.close(session, Side::Host, false);
            self.session.give_up();
            self.session_over(bench, session);
        }
    }

    pub fn on_packet(&mut self, bench: &mut Bench, session: SessionId, packet: Packet) {
        if self.connection != Some(session) {
            return;
        }
        match packet {
            Packet::Resume(answer) => self.resumed(bench, session, answer),
            Packet::Welcome(welcome) => self.welcome(bench, session, *welcome),
            Packet::FromLeader(Frame::Lease(lease)) => self.renewed(bench, lease),
            Packet::FromLeader(Frame::Ack { up_to }) => self.acknowledged(bench, up_to),
            Packet::FromLeader(Frame::Message { number, message }) => match self.session.inbox.accept(number)
            {
                Ok(Accept::New) => {
                    self.told(bench, message);
                    if let Ok(Some(up_to)) = self.session.inbox.durable(number) {
                        bench.world.send(session, Side::Host, Packet::FromHost(Frame::Ack { up_to }));
                    }
                }
                Ok(Accept::Duplicate) => {}
                Err(_) => self.hang_up(bench),
            },
            Packet::FromLeader(Frame::Ping { .. }) | Packet::Hello(_) | Packet::FromHost(_) => {
                self.hang_up(bench)
            }
        }
    }

    fn resumed(&mut self, bench: &mut Bench, session: SessionId, answer: Resume) {
        // What was not acknowledged comes back here and is dropped: the inventory says it, and the nodes say what
        // matters of it again.
        if self.session.on_answer(answer).is_err() {
            return self.hang_up(bench);
        }
        let inventory = self
            .nodes
            .iter()
            .flat_map(|(node, machine)| machine.inventory().into_iter().map(move |attempt| (*node, attempt)));
        let hosts = &bench.world.scenario.hosts;
        let capacity = HostCapacity {
            cores: hosts.cores,
            memory_mib: hosts.memory_mib,
            disk_mib: 100_000,
            labels: Vec::new(),
        };
        let hello = Hello {
            name: format!("host-{}", bench.host.number),
            boot: BootId(bench.host.boot),
            capacity,
            software: "simulated".to_owned(),
            address: format!("10.0.0.{}", bench.host.number),
            nodes: self.nodes.keys().copied().collect(),
            attempts: inventory.collect(),
            machine: String::new(),
        };
        self.hello_ms = bench.clock_ms();
        bench.world.send(session, Side::Host, Packet::Hello(Box::new(hello)));
    }

    fn welcome(&mut self, bench: &mut Bench, session: SessionId, welcome: Welcome) {
        self.welcomed = true;
        self.lease_ms = welcome.lease_ms;
        // The leader counts from the hello on, so the first lease does too. Without it a host that is cut off before
        // its first ping is answered would run for ever.
        self.lease.asked(self.hello_ms);
        self.renewed(bench, Lease { sent_ms: self.hello_ms, lease_ms: welcome.lease_ms, now: welcome.now });
        let now = self.now(bench);
        let granted: BTreeSet<NodeKey> = welcome.grants.iter().map(|grant| grant.node).collect();
        for grant in welcome.grants {
            self.granted(bench, grant);
        }
        let keep: BTreeSet<AttemptRef> = welcome.keep.into_iter().collect();
        let forgets = bench.world.is_sabotaged(Sabotage::ForgetReports);
        for node in self.nodes.keys().copied().collect::<Vec<_>>() {
            let Some(machine) = self.nodes.get_mut(&node) else { continue };
            let mut effects = machine.on_session(now, &keep, !forgets);
            if !granted.contains(&node) {
                effects.extend(machine.on_revoke(now));
            }
            self.node_effects(bench, node, effects);
        }
        self.ping(bench, session);
    }

    fn granted(&mut self, bench: &mut Bench, grant: lote_shared::protocol::host::NodeGrant) {
        let (node, now) = (grant.node, self.now(bench));
        let memory = bench.host.disk.nodes.entry(node);
        memory.or_insert_with(|| Memory { grant: grant.clone(), notes: Vec::new() }).grant = grant.clone();
        let effects = match self.nodes.get_mut(&node) {
            Some(machine) => machine.on_grant(now, grant),
            None => {
                let (machine, effects) = NodeMachine::grant(grant, now);
                self.nodes.insert(node, machine);
                effects
            }
        };
        self.node_effects(bench, node, effects);
    }

    fn ping(&mut self, bench: &mut Bench, session: SessionId) {
        if self.connection != Some(session) || !self.welcomed {
            return;
        }
        let sent_ms = bench.clock_ms();
        self.lease.asked(sent_ms);
        bench.world.send(session, Side::Host, Packet::FromHost(Frame::Ping { sent_ms }));
        bench.in_ms(LeaseClock::ping_interval_ms(self.lease_ms), Timer::Ping(session));
    }

    fn renewed(&mut self, bench: &mut Bench, lease: Lease) {
        self.heard = Some((lease.now, bench.clock_ms()));
        if self.lease.renewed(&lease)
            && let Some(at_ms) = self.lease.deadline_ms()
        {
            bench.ask_keeper(Request::Deadline { at_ms, lease_ms: self.lease_ms });
        }
    }

    /// The leader has everything up to this number for good.
    fn acknowledged(&mut self, bench: &mut Bench, up_to: u64) {
        let mut ended: BTreeMap<NodeKey, Vec<AttemptRef>> = BTreeMap::new();
        for number in self.session.outbox.acknowledged() + 1..=up_to.min(self.session.outbox.pushed()) {
            if let Some(HostMessage::Report { node, attempts }) = self.session.outbox.get(number) {
                let ends = attempts.iter().filter(|report| report.end.is_some()).map(|report| report.attempt);
                ended.entry(*node).or_default().extend(ends);
            }
        }
        if self.session.outbox.ack(up_to).is_err() {
            return self.hang_up(bench);
        }
        let now = self.now(bench);
        for (node, attempts) in ended {
            attempts.iter().for_each(|attempt| bench.world.oracle.acknowledged(*attempt));
            let effects = self.nodes.get_mut(&node).map(|machine| machine.on_acknowledged(now, &attempts));
            self.node_effects(bench, node, effects.unwrap_or_default());
        }
    }

    fn told(&mut self, bench: &mut Bench, message: LeaderMessage) {
        let now = self.now(bench);
        let node = match &message {
            LeaderMessage::Grant(grant) => return self.granted(bench, grant.clone()),
            LeaderMessage::Members { .. } => return,
            LeaderMessage::Chunk(chunk) => chunk.node,
            LeaderMessage::Revoke(node) => *node,
            LeaderMessage::Recall { node, .. }
            | LeaderMessage::Kill { node, .. }
            | LeaderMessage::WallClock { node, .. }
            | LeaderMessage::Clean { node, .. } => *node,
        };
        let Some(machine) = self.nodes.get_mut(&node) else { return };
        let effects = match message {
            LeaderMessage::Grant(_) | LeaderMessage::Members { .. } => Vec::new(),
            LeaderMessage::Chunk(chunk) => machine.on_chunk(now, chunk),
            LeaderMessage::Revoke(_) => machine.on_revoke(now),
            LeaderMessage::Recall { attempts, .. } => machine.on_recall(now, attempts),
            LeaderMessage::Kill { attempt, reason, .. } => machine.on_kill(now, attempt, reason),
            LeaderMessage::WallClock { attempt, wall_clock_ms, .. } => {
                machine.on_wall_clock(now, attempt, wall_clock_ms)
            }
            LeaderMessage::Clean { directories, .. } => machine.on_clean(now, directories),
        };
        self.node_effects(bench, node, effects);
    }

    fn tell(&mut self, bench: &mut Bench, message: HostMessage) {
        // Without a session nothing is said: it would be dropped by the next handshake anyway.
        let Some(session) = self.connection.filter(|_| self.welcomed) else { return };
        match self.session.outbox.push(message.clone(), 0) {
            Ok(number) => {
                let frame = Frame::Message { number, message };
                bench.world.send(session, Side::Host, Packet::FromHost(frame));
            }
            Err(_) => self.hang_up(bench),
        }
    }
}

/// Nodes and attempts.
impl Worker {
    pub fn on_timer(&mut self, bench: &mut Bench, timer: Timer) {
        let now = self.now(bench);
        match timer {
            Timer::Dial => {
                if self.connection.is_none() {
                    self.dial(bench);
                }
            }
            Timer::Ping(session) => self.ping(bench, session),
            Timer::Keeper(event) => match *event {
                KeeperEvent::Exited(exit) => self.exited(bench, exit),
                KeeperEvent::NotSpawned { key, error, message } => {
                    self.process_ended(bench, &key, ProcessEnd::NotSpawned { error, message });
                }
                KeeperEvent::Hello { .. } | KeeperEvent::Listing { .. } | KeeperEvent::Bye => {}
            },
            Timer::NodeTime(node) => {
                self.node_timers.remove(&node);
                let effects = self.nodes.get_mut(&node).map(|machine| machine.on_time(now));
                self.node_effects(bench, node, effects.unwrap_or_default());
            }
            Timer::Directories(node) => {
                let effects = self.nodes.get_mut(&node).map(|machine| machine.on_directories(now, Ok(())));
                self.node_effects(bench, node, effects.unwrap_or_default());
            }
            Timer::Wiped(node) => {
                let effects = self.nodes.get_mut(&node).map(NodeMachine::on_wiped);
                self.node_effects(bench, node, effects.unwrap_or_default());
            }
            Timer::Prepared(attempt) => self.attempt_input(bench, attempt, Input::Prepared(Ok(()))),
            Timer::AttemptTick(attempt) => self.attempt_input(bench, attempt, Input::Tick),
        }
    }

    fn node_effects(&mut self, bench: &mut Bench, node: NodeKey, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::MakeDirectories => {
                    let delay_ms = bench.world.chance.between(1, 5);
                    bench.in_ms(delay_ms, Timer::Directories(node));
                }
                Effect::Wipe => {
                    let delay_ms = bench.world.chance.between(1, 50);
                    bench.in_ms(delay_ms, Timer::Wiped(node));
                }
                Effect::Start(work) => self.start_attempt(bench, node, *work),
                Effect::Kill { attempt, reason } => self.attempt_input(bench, attempt, Input::Kill(reason)),
                Effect::WallClock { attempt, wall_clock_ms } => {
                    self.attempt_input(bench, attempt, Input::WallClock { wall_clock_ms });
                }
                Effect::HostStopping { attempt } => {
                    self.attempt_input(bench, attempt, Input::HostStopping { grace_ms: GRACE_MS });
                }
                Effect::Tell(message) => self.tell(bench, message),
                Effect::Remember(notes) => {
                    if let Some(memory) = bench.host.disk.nodes.get_mut(&node) {
                        memory.notes.extend(notes);
                    }
                }
                Effect::Forget(attempts) => {
                    for attempt in attempts {
                        bench.ask_keeper(Request::Acknowledge { key: key_of(attempt) });
                    }
                }
                Effect::Gone => {
                    self.nodes.remove(&node);
                    bench.host.disk.nodes.remove(&node);
                }
                // The files of the simulator's tasks are nowhere, and its pools have no start tasks.
                Effect::RemoveDirectories(_) | Effect::RunStartTask { .. } | Effect::EndStartTask => {}
            }
        }
        self.set_node_timer(bench, node);
    }

    fn set_node_timer(&mut self, bench: &mut Bench, node: NodeKey) {
        let now = self.now(bench);
        let Some(due_ms) = self.nodes.get(&node).and_then(|machine| machine.next_time_ms(now)) else {
            return;
        };
        let due_ms = due_ms.max(now.ms);
        if self.node_timers.get(&node).is_none_or(|set_ms| due_ms < *set_ms) {
            self.node_timers.insert(node, due_ms);
            bench.at(due_ms, Timer::NodeTime(node));
        }
    }

    fn start_attempt(&mut self, bench: &mut Bench, node: NodeKey, work: Work) {
        let (attempt, started) = (work.launch.attempt, self.now(bench));
        let (machine, effects) = AttemptMachine::start(plan_of(&work.launch), started.ms);
        self.attempts.insert(attempt, Running { node, work, started, machine });
        self.attempt_effects(bench, attempt, effects);
    }

    fn attempt_input(&mut self, bench: &mut Bench, attempt: AttemptRef, input: Input) {
        let clock_ms = bench.clock_ms();
        let effects = self.attempts.get_mut(&attempt).map(|running| running.machine.on(clock_ms, input));
        self.attempt_effects(bench, attempt, effects.unwrap_or_default());
    }

    fn set_attempt_timer(&mut self, bench: &mut Bench, attempt: AttemptRef) {
        let due_ms = self.attempts.get(&attempt).and_then(|running| running.machine.next_tick_ms());
        if let Some(due_ms) = due_ms {
            bench.at(due_ms, Timer::AttemptTick(attempt));
        }
    }

    fn attempt_effects(&mut self, bench: &mut Bench, attempt: AttemptRef, effects: Vec<machine::Effect>) {
        for effect in effects {
            match effect {
                machine::Effect::Prepare => {
                    let delay_ms = bench.world.chance.between(0, 3);
                    bench.in_ms(delay_ms, Timer::Prepared(attempt));
                }
                machine::Effect::Launch => {
                    let Some(running) = self.attempts.get(&attempt) else { continue };
                    let context = Context {
                        node: running.node,
                        job: JobPart::clone(&running.work.job),
                        launch: running.work.launch.clone(),
                        started_ms: running.started.ms,
                        started: running.started.time,
                    };
                    let context = codec::encode(CONTEXT_VERSION, &context).unwrap_or_default();
                    bench.spawn(key_of(attempt), context, attempt);
                    self.set_attempt_timer(bench, attempt);
                }
                machine::Effect::EndProcess { grace_ms } => {
                    bench.ask_keeper(Request::End { key: key_of(attempt), grace_ms });
                }
                machine::Effect::Finish { outcome, survivors } => {
                    self.finished(bench, attempt, outcome, survivors)
                }
                // The simulator's tasks have no files.
                machine::Effect::Fetch | machine::Effect::CancelTransfer | machine::Effect::Upload(_) => {}
            }
        }
    }

    fn exited(&mut self, bench: &mut Bench, exit: Exit) {
        let Exit { key, exit_code, cause, survivors, .. } = exit;
        self.process_ended(bench, &key, ProcessEnd::Exited { exit_code, cause, survivors });
    }

    fn process_ended(&mut self, bench: &mut Bench, key: &str, end: ProcessEnd) {
        let found = self.attempts.keys().find(|attempt| key_of(**attempt) == key).copied();
        if let Some(attempt) = found {
            self.attempt_input(bench, attempt, Input::Process(end));
        }
    }

    fn finished(&mut self, bench: &mut Bench, attempt: AttemptRef, outcome: AttemptOutcome, survivors: u32) {
        let Some(running) = self.attempts.remove(&attempt) else { return };
        let now = self.now(bench);
        let machine = self.nodes.get_mut(&running.node);
        let effects = machine.map(|machine| machine.on_attempt_ended(now, attempt, outcome, survivors));
        self.node_effects(bench, running.node, effects.unwrap_or_default());
    }
}
