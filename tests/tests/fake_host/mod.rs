//! A host that speaks the real session over the real network and makes the processes up: a task whose command is
//! `forever` runs for ever, one whose command is `gap` ends once [`FakeHost::end_gap_tasks`] was called, every other
//! ends at once with exit code 0.

#![allow(dead_code)]

use lote_shared::model::{AttemptOutcome, AttemptRef, BootId, HostCapacity, NodeKey, Timestamp};
use lote_shared::network::{
    Config, Identity, Multiaddr, Network, PeerId, Protocol, ReceiveHalf, Role, SendHalf,
};
use lote_shared::protocol::host::{
    Answer, AttemptEnd, AttemptReport, Directions, Frame, Greeting, Hello, HostMessage, LeaderMessage,
    NodePhase, Welcome,
};
use lote_shared::protocol::members::{self, Member};
use lote_shared::protocol::session::{Limits, Session};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

const CORES: u32 = 16;
const ASK: u32 = 4;
const PING_EVERY: Duration = Duration::from_millis(300);

/// What the tests look at.
#[derive(Debug, Default)]
struct Seen {
    sessions: u64,
    kills: u64,
    /// Coordinators that answered that they do not lead.
    redirects: Vec<Directions>,
    /// Every attempt that was given to this host, as often as it was begun.
    begun: Vec<AttemptRef>,
    refused: Option<String>,
    members: Vec<Member>,
}

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Seen>,
    /// Attempts that run.
    held: Mutex<BTreeMap<(NodeKey, AttemptRef), Kind>>,
    ended: Mutex<BTreeSet<(NodeKey, AttemptRef)>>,
    wake: Notify,
    frozen: AtomicBool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Forever,
    Gap,
}

pub struct FakeHost {
    shared: Arc<Shared>,
    pub network: Network,
    task: tokio::task::JoinHandle<()>,
}

impl FakeHost {
    pub async fn start(identity: Identity, leader: PeerId, addresses: Vec<Multiaddr>) -> FakeHost {
        FakeHost::with_boot(identity, 1, vec![(leader, addresses)]).await
    }

    /// With another boot id it is another machine, or the same one started anew.
    pub async fn with_boot(
        identity: Identity,
        boot: u64,
        coordinators: Vec<(PeerId, Vec<Multiaddr>)>,
    ) -> FakeHost {
        let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        let network = Network::start(Config::new(identity, listen)).await.unwrap();
        network.set_allowed(coordinators.iter().map(|(peer, _)| (*peer, Role::Coordinator)).collect());
        for (peer, addresses) in &coordinators {
            for address in addresses {
                network.add_address(*peer, address.clone());
            }
        }
        let shared = Arc::new(Shared::default());
        let peers = coordinators.into_iter().map(|(peer, _)| peer).collect();
        let task = tokio::spawn(serve(network.clone(), peers, BootId(boot), Arc::clone(&shared)));
        FakeHost { shared, network, task }
    }

    pub fn kills(&self) -> u64 {
        self.shared.seen.lock().kills
    }

    pub fn sessions(&self) -> u64 {
        self.shared.seen.lock().sessions
    }

    pub fn redirects(&self) -> Vec<Directions> {
        self.shared.seen.lock().redirects.clone()
    }

    pub fn begun(&self) -> Vec<AttemptRef> {
        self.shared.seen.lock().begun.clone()
    }

    pub fn refused(&self) -> Option<String> {
        self.shared.seen.lock().refused.clone()
    }

    pub fn members(&self) -> Vec<Member> {
        self.shared.seen.lock().members.clone()
    }

    /// Every `gap` task ends now, whether or not there is a session to say it in.
    pub fn end_gap_tasks(&self) {
        let mut ended = self.shared.ended.lock();
        for (key, kind) in self.shared.held.lock().iter() {
            if *kind == Kind::Gap {
                ended.insert(*key);
            }
        }
        drop(ended);
        self.shared.wake.notify_one();
    }

    /// Stops reading and answering, but leaves its streams open, as a frozen machine does.
    pub fn freeze(&self) {
        self.shared.frozen.store(true, Ordering::Relaxed);
        self.shared.wake.notify_one();
    }
}

impl Drop for FakeHost {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(network: Network, mut coordinators: Vec<PeerId>, boot: BootId, shared: Arc<Shared>) {
    loop {
        // A session that breaks is opened again; the tests count them.
        let directed = join(&network, coordinators[0], boot, &shared).await;
        match directed.and_then(|directions| directions.leader?.parse().ok()) {
            Some(leader) => coordinators.insert(0, leader),
            None => coordinators.rotate_left(1),
        }
        coordinators.truncate(8);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Directions, if it was the wrong coordinator.
async fn join(network: &Network, peer: PeerId, boot: BootId, shared: &Shared) -> Option<Directions> {
    let mut stream = network.open(peer, Protocol::Session).await.ok()?;
    let mut session = Session::<HostMessage>::new(Limits::default());
    stream.send(&session.offer()).await.ok()?;
    let answer = match stream.receive().await.ok()?? {
        Greeting::Leads(answer) => answer,
        Greeting::Elsewhere(directions) => {
            let known = members::read(&directions.coordinators);
            network.set_allowed(known.iter().map(|member| (member.peer, member.role)).collect());
            for member in known {
                member.addresses.into_iter().for_each(|address| network.add_address(member.peer, address));
            }
            shared.seen.lock().redirects.push(directions.clone());
            return Some(directions);
        }
    };
    session.on_answer(answer).ok()?;
    let capacity = HostCapacity { cores: CORES, memory_mib: 65_536, disk_mib: 65_536, labels: Vec::new() };
    let held = shared.held.lock().keys().copied().collect();
    let hello = Hello {
        name: "fake".to_owned(),
        boot,
        capacity,
        software: "test".to_owned(),
        address: "127.0.0.1".to_owned(),
        nodes: Vec::new(),
        attempts: held,
        machine: String::new(),
    };
    stream.send(&hello).await.ok()?;
    let welcome = match stream.receive().await.ok()?? {
        Answer::Welcome(welcome) => welcome,
        Answer::Refused(why) => {
            shared.seen.lock().refused = Some(why);
            return None;
        }
    };
    {
        let mut seen = shared.seen.lock();
        seen.sessions += 1;
        seen.members = welcome.members.clone();
    }
    let (send, receive) = stream.split();
    let mut talk = Talk { session, send, shared, now: welcome.now };
    talk.run(*welcome, receive).await;
    None
}

struct Talk<'a> {
    session: Session<HostMessage>,
    send: SendHalf,
    shared: &'a Shared,
    now: Timestamp,
}

impl Talk<'_> {
    async fn run(&mut self, welcome: Welcome, mut receive: ReceiveHalf) {
        for grant in welcome.grants {
            self.ready(grant.node).await;
        }
        loop {
            if self.shared.frozen.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            self.report_ended().await;
            let frame = tokio::select! {
                frame = receive.receive::<Frame<LeaderMessage>>() => frame,
                () = self.shared.wake.notified() => continue,
                () = tokio::time::sleep(PING_EVERY) => {
                    let _ = self.send.send(&Frame::<HostMessage>::Ping { sent_ms: 1 }).await;
                    continue;
                }
            };
            match frame {
                Ok(Some(Frame::Message { number, message })) => {
                    self.take(message).await;
                    let _ = self.session.inbox.accept(number);
                    if let Ok(Some(up_to)) = self.session.inbox.durable(number) {
                        let _ = self.send.send(&Frame::<HostMessage>::Ack { up_to }).await;
                    }
                }
                Ok(Some(Frame::Ack { up_to })) => self.session.outbox.ack(up_to).unwrap(),
                Ok(Some(Frame::Ping { .. })) => {
                    let _ = self.send.send(&Frame::<HostMessage>::Ping { sent_ms: 1 }).await;
                }
                Ok(Some(Frame::Lease(_))) => {}
                _ => return,
            }
        }
    }

    async fn say(&mut self, message: HostMessage) {
        let number = self.session.outbox.push(message.clone(), 0).expect("room for a message");
        let _ = self.send.send(&Frame::Message { number, message }).await;
    }

    async fn ready(&mut self, node: NodeKey) {
        self.say(HostMessage::Node { node, phase: NodePhase::Ready, start_task: None, errors: Vec::new() })
            .await;
        self.say(HostMessage::Ask { node, slots: ASK }).await;
    }

    /// A report is repeated in each session: an end that was not acknowledged is said again.
    async fn report_ended(&mut self) {
        let ended: Vec<_> = self.shared.ended.lock().iter().copied().collect();
        for (node, attempt) in ended {
            let reports = vec![AttemptReport { attempt, started: Some(self.now), end: Some(self.exited()) }];
            self.say(HostMessage::Report { node, attempts: reports }).await;
            self.shared.ended.lock().remove(&(node, attempt));
            self.shared.held.lock().remove(&(node, attempt));
        }
    }

    fn exited(&self) -> AttemptEnd {
        AttemptEnd { at: self.now, outcome: AttemptOutcome::Exited { exit_code: 0, upload: None } }
    }

    async fn take(&mut self, message: LeaderMessage) {
        match message {
            LeaderMessage::Grant(grant) => self.ready(grant.node).await,
            LeaderMessage::Chunk(chunk) => {
                let node = chunk.node;
                let mut attempts = Vec::new();
                for launch in chunk.tasks {
                    let kind = match launch.spec.command_line.as_str() {
                        "forever" => Some(Kind::Forever),
                        "gap" => Some(Kind::Gap),
                        _ => None,
                    };
                    self.shared.seen.lock().begun.push(launch.attempt);
                    if let Some(kind) = kind {
                        self.shared.held.lock().insert((node, launch.attempt), kind);
                    }
                    let end = kind.is_none().then(|| self.exited());
                    attempts.push(AttemptReport { attempt: launch.attempt, started: Some(self.now), end });
                }
                self.say(HostMessage::Report { node, attempts }).await;
            }
            LeaderMessage::Kill { .. } => self.shared.seen.lock().kills += 1,
            LeaderMessage::Revoke(node) => self.say(HostMessage::NodeGone { node }).await,
            LeaderMessage::Recall { node, .. } => {
                self.say(HostMessage::Recalled { node, attempts: Vec::new() }).await;
            }
            LeaderMessage::Members { members, .. } => self.shared.seen.lock().members = members,
            LeaderMessage::WallClock { .. } | LeaderMessage::Clean { .. } => {}
        }
    }
}
