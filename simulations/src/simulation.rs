//! One run: the parts, the events between them, and the loop that takes one event after the other.

use crate::Options;
use crate::client::{self, Client};
use crate::coordinator::{self, Coordinator};
use crate::faults::{self, Fault};
use crate::host::{self, Host};
use crate::oracle::Oracle;
use crate::report::{Counts, Report};
use crate::sabotage::Sabotage;
use crate::scenario::Scenario;
use crate::series::{Mark, Series};
use crate::world::{
    Arrival, LinkId, Network, NetworkSettings, Notice, Queue, Random, SessionId, Side, Source, Stream, Trace,
};
use lote_coordinator::state::Cluster;
use lote_shared::model::Timestamp;
use lote_shared::protocol::codec;
use lote_shared::protocol::host::{Frame, Hello, HostMessage, LeaderMessage, Welcome};
use lote_shared::protocol::session::Resume;
use serde::Serialize;

/// Cluster time at the beginning of a run.
const EPOCH: Timestamp = Timestamp(1_700_000_000_000);
/// A run that is still going after so many events is stuck in a loop.
const EVENTS_MAX: u64 = 200_000_000;

/// What travels over a session, in both directions.
#[derive(Debug, Serialize)]
pub enum Packet {
    Resume(Resume),
    Hello(Box<Hello>),
    Welcome(Box<Welcome>),
    FromHost(Frame<HostMessage>),
    FromLeader(Frame<LeaderMessage>),
}

#[derive(Debug)]
pub enum Event {
    Arrival(Arrival),
    Notice(Notice),
    /// A host's call for a connection gets through, if anybody listens.
    Dialled {
        host: u32,
        worker: u64,
    },
    Coordinator {
        epoch: u64,
        timer: coordinator::Timer,
    },
    CoordinatorStarts,
    Host {
        host: u32,
        timer: host::Timer,
    },
    Client(client::Timer),
    Fault(Fault),
    Healed(LinkId),
    Checkpoint,
    /// Somebody who changes nothing looks at the cluster.
    Sample,
}

/// Everything the parts share.
pub struct World {
    pub scenario: Scenario,
    pub sabotage: Option<Sabotage>,
    pub random: Random,
    /// Delays inside one machine, and coins for what may go either way.
    pub chance: Stream,
    pub queue: Queue<Event>,
    pub network: Network<Packet>,
    pub trace: Trace,
    pub oracle: Oracle,
    pub counts: Counts,
    pub series: Series,
}

impl World {
    pub fn now_ms(&self) -> u64 {
        self.queue.now_ms()
    }

    /// The leader's clock.
    pub fn now(&self) -> Timestamp {
        EPOCH.plus_ms(self.now_ms())
    }

    pub fn in_ms(&mut self, delay_ms: u64, event: Event) {
        self.queue.at(self.now_ms() + delay_ms, event);
    }

    /// Notes something that is decided inside an event.
    pub fn note(
        &mut self,
        source: Source,
        kind: &'static str,
        payload: &[u8],
        detail: impl FnOnce() -> String,
    ) {
        self.trace.event(self.queue.now_ms(), source, kind, payload, detail);
    }

    pub fn send(&mut self, session: SessionId, from: Side, packet: Packet) {
        if let Some((due_ms, arrival)) = self.network.send(self.now_ms(), session, from, packet) {
            self.queue.at(due_ms, Event::Arrival(arrival));
        }
    }

    pub fn close(&mut self, session: SessionId, by: Side, reset: bool) {
        if let Some((at_ms, notice)) = self.network.close(self.now_ms(), session, by, reset) {
            self.queue.at(at_ms, Event::Notice(notice));
        }
    }

    pub fn is_sabotaged(&self, by: Sabotage) -> bool {
        self.sabotage == Some(by)
    }
}

pub struct Simulation {
    world: World,
    coordinator: Coordinator,
    hosts: Vec<Host>,
    client: Client,
    finished_at_ms: Option<u64>,
    until_ms: Option<u64>,
}

impl Simulation {
    pub fn new(scenario: &Scenario, seed: u64, options: Options) -> Simulation {
        let Options { sabotage, lines, until_ms, listener } = options;
        let random = Random::new(seed);
        let settings = NetworkSettings {
            delay_min_ms: scenario.cluster.delay_ms.min,
            delay_max_ms: scenario.cluster.delay_ms.max,
            silence_ms: scenario.cluster.silence_ms,
        };
        let mut world = World {
            scenario: scenario.clone(),
            sabotage,
            random,
            chance: random.stream("chance", &[]),
            queue: Queue::default(),
            network: Network::new(settings, random.stream("network", &[])),
            trace: Trace::new(lines, listener),
            oracle: Oracle::default(),
            counts: Counts::default(),
            series: Series::default(),
        };
        let hosts: Vec<Host> =
            (0..scenario.hosts.count).map(|number| Host::new(number, &mut world)).collect();
        world.queue.at(0, Event::CoordinatorStarts);
        world.queue.at(1, Event::Client(client::Timer::Next));
        world.queue.at(scenario.checks.checkpoint_ms, Event::Checkpoint);
        world.queue.at(0, Event::Sample);
        for (at_ms, fault) in
            faults::plan(&scenario.faults, scenario.hosts.count, random.stream("faults", &[]))
        {
            world.queue.at(at_ms, Event::Fault(fault));
        }
        let client = Client::new(scenario);
        let coordinator = Coordinator::default();
        Simulation { world, coordinator, hosts, client, finished_at_ms: None, until_ms }
    }

    /// Runs to the end: everything finished, a violation, or the time in which everything must be finished is over.
    pub fn run(mut self, seed: u64) -> Report {
        while self.world.oracle.is_content() && !self.is_over() && !self.is_cut_short() {
            let Some((_, event)) = self.world.queue.pop() else { break };
            self.step(event);
            if self.world.trace.events() > EVENTS_MAX {
                self.world.oracle.violated(self.world.now_ms(), "runs_end", "too many events".to_owned());
            }
        }
        let cut_short = self.is_cut_short();
        if self.world.oracle.is_content() && !cut_short {
            self.check_end();
        }
        if let Some(cluster) = self.coordinator.cluster() {
            self.world.series.conclude(cluster);
        }
        let hash = self.world.trace.hash();
        let retries = |cluster: &Cluster| cluster.all_tasks().map(|task| u64::from(task.retry_count)).sum();
        self.world.counts.retries = self.coordinator.cluster().map_or(0, retries);
        let World { scenario, queue, trace, oracle, counts, series, .. } = self.world;
        Report {
            scenario: scenario.name,
            seed,
            tasks: self.coordinator.cluster().map_or(0, |cluster| cluster.all_tasks_count() as u64),
            virtual_ms: queue.now_ms(),
            finished_at_ms: self.finished_at_ms,
            events: trace.events(),
            counts,
            hash,
            cut_short,
            series,
            violations: oracle.into_violations(),
            last_lines: trace.lines().cloned().collect(),
        }
    }

    /// Faults and adding are over for `settle_ms`; or everything is done and had time to become quiet.
    fn is_over(&self) -> bool {
        let now_ms = self.world.now_ms();
        let quiet_ms = 4 * self.world.scenario.cluster.lease_ms;
        let calm_from_ms =
            self.world.scenario.faults.until_ms.max(self.client.done_at_ms().unwrap_or(now_ms));
        match self.finished_at_ms {
            Some(at_ms) => now_ms > at_ms.max(self.world.scenario.faults.until_ms.min(at_ms)) + quiet_ms,
            None => now_ms > calm_from_ms + self.world.scenario.checks.settle_ms,
        }
    }

    fn is_cut_short(&self) -> bool {
        self.until_ms.is_some_and(|until_ms| self.world.now_ms() >= until_ms)
    }

    fn step(&mut self, event: Event) {
        let Simulation { world, coordinator, hosts, client, .. } = self;
        match event {
            Event::Arrival(arrival) => self.arrival(arrival),
            Event::Notice(notice) => self.notice(notice),
            Event::Dialled { host, worker } => {
                let Some(host) = hosts.get_mut(host as usize) else { return };
                let session = if coordinator.is_up() { world.network.open(host.link()) } else { None };
                if let Some(session) = session {
                    coordinator.accept(session, host.number());
                }
                host.dialled(world, worker, session);
            }
            Event::Coordinator { epoch, timer } => coordinator.on_timer(world, epoch, timer),
            Event::CoordinatorStarts => coordinator.start(world),
            Event::Host { host, timer } => {
                if let Some(host) = hosts.get_mut(host as usize) {
                    host.on_timer(world, timer);
                }
            }
            Event::Client(timer) => client.on_timer(world, coordinator, timer),
            Event::Fault(fault) => self.fault(fault),
            Event::Healed(link) => self.heal(link),
            Event::Checkpoint => {
                coordinator.check(world);
                world.in_ms(world.scenario.checks.checkpoint_ms, Event::Checkpoint);
            }
            Event::Sample => {
                let live = world.oracle.live();
                let next_ms = world.series.sample(world.queue.now_ms(), coordinator.cluster(), live);
                world.queue.at(next_ms, Event::Sample);
            }
        }
        if self.finished_at_ms.is_none() && self.is_finished() {
            self.finished_at_ms = Some(self.world.now_ms());
        }
    }

    fn arrival(&mut self, Arrival { session, to }: Arrival) {
        let world = &mut self.world;
        let Some(link) = world.network.link(session) else { return };
        let host = self.hosts.get_mut(link.0 as usize);
        if to == Side::Host && host.as_ref().is_some_and(|host| host.is_still()) {
            // Nobody looks: it waits in the socket until the host does again.
            if let Some(host) = host {
                host.hold(Event::Arrival(Arrival { session, to }));
            }
            return;
        }
        while let Some(packet) = world.network.take(world.queue.now_ms(), session, to) {
            let bytes = codec::encode(1, &packet).unwrap_or_default();
            let source = if to == Side::Host { Source::Host(link.0) } else { Source::Coordinator };
            world.series.carried(link.0, to == Side::Coordinator, bytes.len());
            world.note(source, packet.kind(), &bytes, || format!("{packet:?}"));
            match to {
                Side::Coordinator => self.coordinator.on_packet(world, session, packet),
                Side::Host => {
                    if let Some(host) = self.hosts.get_mut(link.0 as usize) {
                        host.on_packet(world, session, packet);
                    }
                }
            }
        }
    }

    fn notice(&mut self, notice: Notice) {
        let world = &mut self.world;
        let Some(link) = world.network.link(notice.session) else { return };
        let Some(host) = self.hosts.get_mut(link.0 as usize) else { return };
        if notice.to == Side::Host && host.is_still() {
            return host.hold(Event::Notice(notice));
        }
        if !world.network.noticed(notice) {
            return;
        }
        let source = if notice.to == Side::Host { Source::Host(link.0) } else { Source::Coordinator };
        world.note(source, "session-over", &notice.session.0.to_le_bytes(), String::new);
        match notice.to {
            Side::Host => host.session_over(world, notice.session),
            Side::Coordinator => self.coordinator.session_over(world, notice.session),
        }
    }

    fn fault(&mut self, fault: Fault) {
        let world = &mut self.world;
        let Fault { kind, host: number, outage_ms } = fault;
        let payload = [u64::from(number).to_le_bytes(), outage_ms.to_le_bytes()].concat();
        world.note(Source::World, kind.name(), &payload, || format!("host {number} for {outage_ms} ms"));
        let Some(host) = self.hosts.get_mut(number as usize) else { return };
        world.counts.faults += 1;
        world.series.mark(Mark { at_ms: world.queue.now_ms(), kind: kind.name(), host: number, outage_ms });
        match kind {
            faults::Kind::HostCrash => host.crash(world, Some(outage_ms)),
            faults::Kind::HostDeath => host.crash(world, None),
            faults::Kind::WorkerRestart => host.kill_worker(world, outage_ms / 10),
            faults::Kind::WorkerPause => host.pause_worker(world, outage_ms),
            faults::Kind::HostPause => host.freeze(world, outage_ms),
            faults::Kind::Disconnect => host.disconnect(world),
            faults::Kind::Partition => {
                let link = host.link();
                for (at_ms, notice) in world.network.cut(world.queue.now_ms(), link) {
                    world.queue.at(at_ms, Event::Notice(notice));
                }
                world.in_ms(outage_ms, Event::Healed(link));
            }
            faults::Kind::CoordinatorCrash => self.coordinator.crash(world, outage_ms),
            faults::Kind::GroupRestart => self.coordinator.restart_groups(world),
        }
    }

    fn heal(&mut self, link: LinkId) {
        let (arrivals, notices) = self.world.network.heal(self.world.now_ms(), link);
        for (at_ms, arrival) in arrivals {
            self.world.queue.at(at_ms, Event::Arrival(arrival));
        }
        for (at_ms, notice) in notices {
            self.world.queue.at(at_ms, Event::Notice(notice));
        }
    }

    fn is_finished(&self) -> bool {
        self.client.done_at_ms().is_some()
            && self.coordinator.is_all_completed(u64::from(self.world.scenario.job.tasks))
    }

    /// What must hold when everything has become quiet.
    fn check_end(&mut self) {
        self.coordinator.check(&mut self.world);
        let now_ms = self.world.now_ms();
        let Some(cluster) = self.coordinator.cluster() else {
            return self.world.oracle.violated(now_ms, "everything_finishes", "no coordinator".to_owned());
        };
        self.client.check(&mut self.world.oracle, now_ms, cluster);
        self.world.oracle.check_end(now_ms, cluster);
    }
}

impl Packet {
    pub fn kind(&self) -> &'static str {
        match self {
            Packet::Resume(_) => "resume",
            Packet::Hello(_) => "hello",
            Packet::Welcome(_) => "welcome",
            Packet::FromHost(Frame::Message { message, .. }) => match message {
                HostMessage::Report { .. } => "report",
                HostMessage::Ask { .. } => "ask",
                HostMessage::Recalled { .. } => "recalled",
                HostMessage::Node { .. } => "node",
                HostMessage::NodeGone { .. } => "node-gone",
            },
            Packet::FromLeader(Frame::Message { message, .. }) => match message {
                LeaderMessage::Chunk(_) => "chunk",
                LeaderMessage::Grant(_) => "grant",
                LeaderMessage::Revoke(_) => "revoke",
                LeaderMessage::Recall { .. } => "recall",
                LeaderMessage::Kill { .. } => "kill",
                LeaderMessage::WallClock { .. } => "wall-clock",
                LeaderMessage::Clean { .. } => "clean",
                LeaderMessage::Members { .. } => "members",
            },
            Packet::FromHost(Frame::Ack { .. }) | Packet::FromLeader(Frame::Ack { .. }) => "ack",
            Packet::FromHost(Frame::Ping { .. }) | Packet::FromLeader(Frame::Ping { .. }) => "ping",
            Packet::FromHost(Frame::Lease(_)) | Packet::FromLeader(Frame::Lease(_)) => "lease",
        }
    }
}
