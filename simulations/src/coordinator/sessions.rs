//! The leader's end of the sessions: hello, welcome, numbered messages, leases.
//!
//! Every connection begins a new session: what the leader had to say is in the state, and the host's inventory tells
//! what of it is missing. Two points of order keep anything from falling between two sessions of one host:
//!
//! * As soon as a host says hello, its old session is no longer spoken to.
//! * What it lacks is worked out in the very step that makes the new session the current one. Whatever is given to
//!   the host before that step is seen by the comparison, whatever comes after goes over the new session.

use super::{Coordinator, Timer, Waiter, parcel};
use crate::sabotage::Sabotage;
use crate::simulation::{Packet, World};
use crate::world::{SessionId, Side};
use lote_coordinator::scheduling::reconcile::{MissingEnd, Reconciliation};
use lote_coordinator::state::{Action, Outcome, Reply, keys};
use lote_shared::model::{AttemptOutcome, AttemptRef, HostKey, NodeKey};
use lote_shared::protocol::host::{
    AttemptEnd, AttemptReport, Frame, Hello, HostMessage, LeaderMessage, Lease, Welcome,
};
use lote_shared::protocol::session::{self, Accept, Limits, Resume, Session};

/// How long a session may live on after its end was decided; one in twenty is slow.
const END_MS: u64 = 10;
const SLOW_END: u32 = 50_000;
const SLOW_END_MS: u64 = 3_000;

#[derive(Debug)]
pub(super) struct Connection {
    /// Number of the host's machine; its peer id.
    peer: u32,
    stage: Stage,
    session: Session<LeaderMessage>,
}

#[derive(Debug)]
enum Stage {
    /// Nothing is known of the host yet.
    Greeting,
    /// Its `HostJoined` is on its way.
    Joining(Box<Hello>),
    /// What it no longer has is being settled; so many proposals are to be answered.
    Settling {
        hello: Box<Hello>,
        host: HostKey,
        left: usize,
        early: Option<Box<Reconciliation>>,
    },
    Open {
        host: HostKey,
    },
}

fn peer_id(peer: u32) -> String {
    format!("peer-{peer}")
}

impl Coordinator {
    /// A host's connection.
    pub fn accept(&mut self, session: SessionId, peer: u32) {
        if let Some(leader) = &mut self.leader {
            let connection =
                Connection { peer, stage: Stage::Greeting, session: Session::new(Limits::default()) };
            leader.connections.insert(session, connection);
        }
    }

    pub fn on_packet(&mut self, world: &mut World, id: SessionId, packet: Packet) {
        match packet {
            Packet::Resume(offer) => self.resumed(world, id, offer),
            Packet::Hello(hello) => self.hello(world, id, hello),
            Packet::FromHost(Frame::Ping { sent_ms }) => self.ping(world, id, sent_ms),
            Packet::FromHost(Frame::Message { number, message }) => self.message(world, id, number, message),
            Packet::FromHost(Frame::Ack { up_to }) => {
                let connection = self.leader.as_mut().and_then(|leader| leader.connections.get_mut(&id));
                if let Some(connection) = connection
                    && connection.session.outbox.ack(up_to).is_err()
                {
                    self.end(world, id);
                }
            }
            Packet::FromHost(Frame::Lease(_)) | Packet::Welcome(_) | Packet::FromLeader(_) => {
                self.end(world, id)
            }
        }
    }

    fn resumed(&mut self, world: &mut World, id: SessionId, offer: Resume) {
        let fresh = session::SessionId(world.chance.number());
        let connection = self.leader.as_mut().and_then(|leader| leader.connections.get_mut(&id));
        match connection.map(|connection| connection.session.on_offer(offer, fresh)) {
            Some(Ok((answer, _))) => world.send(id, Side::Coordinator, Packet::Resume(answer)),
            Some(Err(_)) => self.end(world, id),
            None => {}
        }
    }

    fn hello(&mut self, world: &mut World, id: SessionId, hello: Box<Hello>) {
        world.counts.sessions += 1;
        let Some(leader) = &mut self.leader else { return };
        let Some(connection) = leader.connections.get_mut(&id) else { return };
        let peer = peer_id(connection.peer);
        let joined = Action::HostJoined {
            peer: peer.clone(),
            name: hello.name.clone(),
            boot: hello.boot,
            capacity: hello.capacity.clone(),
            address: hello.address.clone(),
            software: hello.software.clone(),
        };
        connection.stage = Stage::Joining(hello);
        let known = leader.cluster.host_by_peer(&peer).map(|host| host.key);
        if let Some(host) = known {
            if !world.is_sabotaged(Sabotage::LoseWhoJoins) {
                // It is here, so it is not to be lost while its `HostJoined` is on the way: a `HostLost` behind that
                // would give away what the host is about to be welcomed with.
                leader.leases.renew(host, world.queue.now_ms(), world.queue.now_ms());
            }
            if !world.is_sabotaged(Sabotage::ReconcileTooEarly) {
                self.forget(world, host, true);
            }
        }
        self.propose(world, keys::CLUSTER, joined, Waiter::Joined(id));
    }

    pub(super) fn joined(&mut self, world: &mut World, id: SessionId, reply: Reply) {
        let Some(leader) = &mut self.leader else { return };
        let Some(connection) = leader.connections.get_mut(&id) else { return };
        let stage = std::mem::replace(&mut connection.stage, Stage::Greeting);
        let (Stage::Joining(hello), Ok(Outcome::HostJoined(host))) = (stage, reply) else {
            return self.end(world, id);
        };
        let plan = Reconciliation::of(&leader.cluster, host, &hello.attempts);
        let proposals = settle_missing(&plan, world.now());
        let left = proposals.len();
        let early = world.is_sabotaged(Sabotage::ReconcileTooEarly).then(|| Box::new(plan));
        connection.stage = Stage::Settling { hello, host, left, early };
        for (node, action) in proposals {
            let account = self.account_of(node);
            self.propose(world, account, action, Waiter::Settled(id));
        }
        if left == 0 && world.is_sabotaged(Sabotage::ReconcileTooEarly) {
            // Time passes between the comparison and the moment the session is the current one.
            let delay_ms = world.scenario.cluster.commit_ms.draw(&mut world.chance);
            self.timer(world, delay_ms, Timer::Open(id));
        } else if left == 0 {
            self.open(world, id);
        }
    }

    pub(super) fn settled(&mut self, world: &mut World, id: SessionId) {
        let connection = self.leader.as_mut().and_then(|leader| leader.connections.get_mut(&id));
        let Some(Connection { stage: Stage::Settling { left, .. }, .. }) = connection else { return };
        *left -= 1;
        if *left == 0 {
            self.open(world, id);
        }
    }

    /// Welcomes a host: from here on this is its session.
    pub(super) fn open(&mut self, world: &mut World, id: SessionId) {
        let now_ms = world.now_ms();
        let Some(leader) = &mut self.leader else { return };
        let Some(connection) = leader.connections.get_mut(&id) else { return };
        let stage = std::mem::replace(&mut connection.stage, Stage::Greeting);
        let Stage::Settling { hello, host, early, .. } = stage else { return };
        connection.stage = Stage::Open { host };
        let plan = match early {
            Some(plan) => *plan,
            None => Reconciliation::of(&leader.cluster, host, &hello.attempts),
        };
        // What went missing after it was looked for: the next session will find it.
        let complete = plan.missing.is_empty() || world.is_sabotaged(Sabotage::ReconcileTooEarly);
        leader.leases.renew(host, now_ms, now_ms);
        let welcome = Welcome {
            host,
            lease_ms: world.scenario.cluster.lease_ms,
            now: world.now(),
            grants: plan.nodes.iter().filter_map(|node| parcel::grant(&leader.cluster, *node)).collect(),
            keep: plan.keep.clone(),
            storage_endpoints: Vec::new(),
            members: Vec::new(),
        };
        let chunks: Vec<LeaderMessage> = plan
            .resend
            .iter()
            .filter_map(|(node, attempts)| parcel::chunk(&leader.cluster, &self.disk, *node, attempts))
            .map(LeaderMessage::Chunk)
            .collect();
        if let Some(old) = leader.current.insert(host, id)
            && old != id
        {
            self.end(world, old);
        }
        world.send(id, Side::Coordinator, Packet::Welcome(Box::new(welcome)));
        world.counts.chunks_sent_again += chunks.len() as u64;
        for message in chunks.into_iter().chain(plan.repeat) {
            self.say(world, id, message);
        }
        if !complete {
            self.end(world, id);
        }
        self.allocate(world);
    }

    fn ping(&mut self, world: &mut World, id: SessionId, sent_ms: u64) {
        let now_ms = world.now_ms();
        let Some(leader) = &mut self.leader else { return };
        let Some(Connection { stage: Stage::Open { host }, .. }) = leader.connections.get(&id) else {
            return;
        };
        let host = *host;
        if leader.current.get(&host) != Some(&id) {
            return;
        }
        if let Some(lease_ms) = leader.leases.renew(host, now_ms, now_ms) {
            let lease = Lease { sent_ms, lease_ms, now: world.now() };
            world.send(id, Side::Coordinator, Packet::FromLeader(Frame::Lease(lease)));
        }
    }

    fn message(&mut self, world: &mut World, id: SessionId, number: u64, message: HostMessage) {
        let Some(leader) = &mut self.leader else { return };
        let Some(connection) = leader.connections.get_mut(&id) else { return };
        let Stage::Open { host } = connection.stage else { return self.end(world, id) };
        match connection.session.inbox.accept(number) {
            Err(_) => return self.end(world, id),
            Ok(Accept::Duplicate) => return,
            Ok(Accept::New) => {}
        }
        let node = match &message {
            HostMessage::Report { node, .. }
            | HostMessage::Ask { node, .. }
            | HostMessage::Recalled { node, .. }
            | HostMessage::Node { node, .. }
            | HostMessage::NodeGone { node } => *node,
        };
        // Whatever it says of nodes that are not its own (any more) does not count.
        let owned = leader.cluster.node(node).filter(|record| record.host == host);
        let Some((account, pool)) = owned.map(|record| (record.account, record.pool)) else {
            return self.durable(world, id, number);
        };
        let action = match message {
            HostMessage::Ask { node, slots } => {
                if leader.current.get(&host) == Some(&id) {
                    leader.levels.insert(node, slots);
                    if let Some(group) = leader.groups.get_mut(&pool) {
                        group.dispatcher.on_ask(node, slots);
                    }
                    self.wake(world, pool);
                }
                return self.durable(world, id, number);
            }
            HostMessage::Report { node, mut attempts } => {
                let cluster = &leader.cluster;
                let latest = |attempt: AttemptRef| cluster.task(attempt.task).map(|task| task.attempt);
                let old =
                    attempts.iter().filter(|report| latest(report.attempt) != Some(report.attempt.attempt));
                world.counts.fenced += old.count() as u64;
                if world.is_sabotaged(Sabotage::SkipFence) {
                    for report in &mut attempts {
                        if let Some(task) = leader.cluster.task(report.attempt.task) {
                            report.attempt.attempt = task.attempt;
                        }
                    }
                    let latest = attempts.first().and_then(|report| leader.cluster.task(report.attempt.task));
                    let node = latest.and_then(|task| task.last_node).unwrap_or(node);
                    Action::Report { node, attempts }
                } else {
                    Action::Report { node, attempts }
                }
            }
            HostMessage::Recalled { node, attempts } => Action::Recalled { node, attempts },
            HostMessage::Node { node, phase, start_task, errors } => {
                Action::NodeReport { node, phase, start_task, errors }
            }
            HostMessage::NodeGone { node } => Action::NodeGone { node },
        };
        if world.is_sabotaged(Sabotage::AcknowledgeBeforeDurable) {
            self.durable(world, id, number);
        }
        self.propose(world, account, action, Waiter::Report(id, number));
    }

    /// A host's message has had its effect for good.
    pub(super) fn durable(&mut self, world: &mut World, id: SessionId, number: u64) {
        let connection = self.leader.as_mut().and_then(|leader| leader.connections.get_mut(&id));
        let Some(connection) = connection else { return };
        match connection.session.inbox.durable(number) {
            Ok(Some(up_to)) => world.send(id, Side::Coordinator, Packet::FromLeader(Frame::Ack { up_to })),
            Ok(None) => {}
            Err(_) => self.end(world, id),
        }
    }

    /// Says something to the host of a node over its current session. Without one nothing is lost: the next
    /// inventory shows what is missing.
    pub(super) fn tell(&mut self, world: &mut World, node: NodeKey, message: LeaderMessage) {
        let Some(leader) = &self.leader else { return };
        let host = leader.cluster.node(node).map(|node| node.host);
        if let Some(session) = host.and_then(|host| leader.current.get(&host).copied()) {
            self.say(world, session, message);
        }
    }

    fn say(&mut self, world: &mut World, id: SessionId, message: LeaderMessage) {
        let connection = self.leader.as_mut().and_then(|leader| leader.connections.get_mut(&id));
        let Some(connection) = connection else { return };
        match connection.session.outbox.push(message.clone(), 0) {
            Ok(number) => {
                world.send(id, Side::Coordinator, Packet::FromLeader(Frame::Message { number, message }));
            }
            Err(_) => self.end(world, id),
        }
    }

    /// The leader ends a session.
    pub(super) fn end(&mut self, world: &mut World, id: SessionId) {
        world.close(id, Side::Coordinator, false);
        self.session_over(world, id);
    }

    /// A session is over, for whatever reason.
    pub fn session_over(&mut self, world: &mut World, id: SessionId) {
        let Some(leader) = &mut self.leader else { return };
        let Some(connection) = leader.connections.remove(&id) else { return };
        let Stage::Open { host } = connection.stage else { return };
        if leader.current.get(&host) == Some(&id) {
            self.forget(world, host, false);
            self.propose(world, keys::CLUSTER, Action::HostUnknown { host }, Waiter::Nobody);
        }
    }

    /// The host is not spoken to until its next session; what its nodes asked for is void.
    pub(super) fn forget(&mut self, world: &mut World, host: HostKey, close: bool) {
        let Some(leader) = &mut self.leader else { return };
        if let Some(session) = leader.current.remove(&host)
            && close
        {
            // The session is a task of its own: until it hears of it, it takes what its host says.
            let late_ms = if world.chance.chance(SLOW_END) { SLOW_END_MS } else { END_MS };
            let delay_ms = world.chance.between(0, late_ms);
            self.timer(world, delay_ms, Timer::End(session));
        }
        let Some(leader) = &mut self.leader else { return };
        for node in leader.cluster.nodes_on_host(host) {
            if leader.levels.remove(&node.key).is_some()
                && let Some(group) = leader.groups.get_mut(&node.pool)
            {
                group.dispatcher.on_node_gone(node.key);
            }
        }
    }
}

/// What is to be proposed for attempts that the host no longer has.
fn settle_missing(plan: &Reconciliation, now: lote_shared::model::Timestamp) -> Vec<(NodeKey, Action)> {
    let mut proposals = Vec::new();
    for (node, missing) in &plan.missing {
        let node = *node;
        let is_recalled = |end: &MissingEnd| *end == MissingEnd::Recalled;
        let recalled: Vec<AttemptRef> =
            missing.iter().filter(|(_, end)| is_recalled(end)).map(|(attempt, _)| *attempt).collect();
        if !recalled.is_empty() {
            proposals.push((node, Action::Recalled { node, attempts: recalled }));
        }
        let ended = missing.iter().filter(|(_, end)| !is_recalled(end)).map(|(attempt, end)| {
            let outcome = match end {
                MissingEnd::Killed | MissingEnd::Recalled => AttemptOutcome::Killed { exit_code: None },
                MissingEnd::Lost => {
                    AttemptOutcome::Lost { reason: "the host no longer has the attempt".to_owned() }
                }
            };
            AttemptReport { attempt: *attempt, started: None, end: Some(AttemptEnd { at: now, outcome }) }
        });
        let ended: Vec<AttemptReport> = ended.collect();
        if !ended.is_empty() {
            proposals.push((node, Action::Report { node, attempts: ended }));
        }
    }
    proposals
}
