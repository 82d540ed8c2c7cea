//! A host that speaks the real session over the real network and makes the processes up: a task whose command is
//! `forever` runs for ever, every other ends at once with exit code 0.

use lote_shared::model::{AttemptOutcome, AttemptRef, BootId, HostCapacity, NodeKey, Timestamp};
use lote_shared::network::{
    Config, Identity, Multiaddr, Network, PeerId, Protocol, ReceiveHalf, Role, SendHalf,
};
use lote_shared::protocol::host::{
    AttemptEnd, AttemptReport, Frame, Hello, HostMessage, LeaderMessage, NodePhase, Welcome,
};
use lote_shared::protocol::session::{Limits, Session};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const CORES: u32 = 16;
const ASK: u32 = 4;

#[derive(Debug, Default)]
struct Seen {
    sessions: AtomicU64,
    kills: AtomicU64,
}

pub struct FakeHost {
    seen: Arc<Seen>,
    task: tokio::task::JoinHandle<()>,
}

impl FakeHost {
    pub async fn start(identity: Identity, leader: PeerId, addresses: Vec<Multiaddr>) -> FakeHost {
        let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        let network = Network::start(Config::new(identity, listen)).await.unwrap();
        network.set_allowed(BTreeMap::from([(leader, Role::Coordinator)]));
        for address in addresses {
            network.add_address(leader, address);
        }
        let seen = Arc::new(Seen::default());
        let task = tokio::spawn(serve(network, leader, Arc::clone(&seen)));
        FakeHost { seen, task }
    }

    pub fn kills(&self) -> u64 {
        self.seen.kills.load(Ordering::Relaxed)
    }

    pub fn sessions(&self) -> u64 {
        self.seen.sessions.load(Ordering::Relaxed)
    }
}

impl Drop for FakeHost {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(network: Network, leader: PeerId, seen: Arc<Seen>) {
    let mut held = BTreeMap::new();
    loop {
        // A session that breaks is opened again; the tests count them.
        let _ = join(&network, leader, &seen, &mut held).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn join(network: &Network, leader: PeerId, seen: &Seen, held: &mut Held) -> Option<()> {
    let mut stream = network.open(leader, Protocol::Session).await.ok()?;
    let mut session = Session::<HostMessage>::new(Limits::default());
    stream.send(&session.offer()).await.ok()?;
    let answer = stream.receive().await.ok()??;
    session.on_answer(answer).ok()?;
    let capacity = HostCapacity { cores: CORES, memory_mib: 65_536, disk_mib: 65_536, labels: Vec::new() };
    let hello = Hello {
        name: "fake".to_owned(),
        boot: BootId(1),
        capacity,
        software: "test".to_owned(),
        address: "127.0.0.1".to_owned(),
        nodes: Vec::new(),
        attempts: held.keys().copied().collect(),
        machine: String::new(),
    };
    stream.send(&hello).await.ok()?;
    let welcome = stream.receive::<Welcome>().await.ok()??;
    seen.sessions.fetch_add(1, Ordering::Relaxed);
    let (send, receive) = stream.split();
    let mut talk = Talk { session, send, held, seen, now: welcome.now };
    talk.run(welcome, receive).await;
    Some(())
}

/// Attempts that run for ever.
type Held = BTreeMap<(NodeKey, AttemptRef), ()>;

struct Talk<'a> {
    session: Session<HostMessage>,
    send: SendHalf,
    held: &'a mut Held,
    seen: &'a Seen,
    now: Timestamp,
}

impl Talk<'_> {
    async fn run(&mut self, welcome: Welcome, mut receive: ReceiveHalf) {
        for grant in welcome.grants {
            self.ready(grant.node).await;
        }
        while let Ok(Some(frame)) = receive.receive::<Frame<LeaderMessage>>().await {
            match frame {
                Frame::Message { number, message } => {
                    self.take(message).await;
                    let _ = self.session.inbox.accept(number);
                    if let Ok(Some(up_to)) = self.session.inbox.durable(number) {
                        self.send.send(&Frame::<HostMessage>::Ack { up_to }).await.unwrap();
                    }
                }
                Frame::Ack { up_to } => self.session.outbox.ack(up_to).unwrap(),
                Frame::Lease(_) | Frame::Ping { .. } => {}
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

    async fn take(&mut self, message: LeaderMessage) {
        match message {
            LeaderMessage::Grant(grant) => self.ready(grant.node).await,
            LeaderMessage::Chunk(chunk) => {
                let node = chunk.node;
                let mut attempts = Vec::new();
                for launch in chunk.tasks {
                    let forever = launch.spec.command_line == "forever";
                    let end = AttemptEnd {
                        at: self.now,
                        outcome: AttemptOutcome::Exited { exit_code: 0, upload: None },
                    };
                    if forever {
                        self.held.insert((node, launch.attempt), ());
                    }
                    let end = (!forever).then_some(end);
                    attempts.push(AttemptReport { attempt: launch.attempt, started: Some(self.now), end });
                }
                self.say(HostMessage::Report { node, attempts }).await;
            }
            LeaderMessage::Kill { .. } => drop(self.seen.kills.fetch_add(1, Ordering::Relaxed)),
            LeaderMessage::Revoke(node) => self.say(HostMessage::NodeGone { node }).await,
            LeaderMessage::Recall { node, .. } => {
                self.say(HostMessage::Recalled { node, attempts: Vec::new() }).await;
            }
            LeaderMessage::WallClock { .. } | LeaderMessage::Clean { .. } => {}
        }
    }
}
