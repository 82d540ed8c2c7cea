//! A leader for one host, as far as the worker can tell: real network, real session, scripted decisions.

#![allow(dead_code)]
#![expect(
    clippy::disallowed_methods,
    reason = "this leader is a process of its own kind, with the machine's clock"
)]

use lote_shared::model::{
    AccountId, Attempt, AttemptOutcome, AttemptRef, HostCapacity, HostKey, NodeKey, StartTask, TaskId,
    TaskKey, TaskSpec, Timestamp, UserIdentity,
};
use lote_shared::network::{Config, Identity, Incoming, Network, PeerId, Protocol, Role, Stream};
use lote_shared::protocol::host::{
    Answer, AttemptReport, Directions, Frame, Greeting, Hello, HostMessage, JobPart, LeaderMessage, Lease,
    NodeGrant, NodePhase, TaskChunk, TaskLaunch, Welcome,
};
use lote_shared::protocol::members::Member;
use lote_shared::protocol::session::{Limits, Resume, Resumed, Session, SessionId};
use lote_worker::{Worker, WorkerConfig};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub const NODE: NodeKey = NodeKey(3);
const PATIENCE: Duration = Duration::from_secs(30);

pub fn attempt(task: u64) -> AttemptRef {
    AttemptRef { task: TaskKey(task), attempt: Attempt(1) }
}

pub fn grant(node: NodeKey, slots: u16, start_task: Option<StartTask>) -> NodeGrant {
    NodeGrant {
        node,
        node_id: format!("tvm-{node}"),
        pool_id: "pool".into(),
        account: AccountId(1),
        account_name: "local".into(),
        account_url: "http://batch".into(),
        dedicated: true,
        slots,
        cores: 2,
        start_task,
    }
}

pub fn start_task(command_line: &str) -> StartTask {
    StartTask {
        command_line: command_line.into(),
        resource_files: vec![],
        environment: vec![],
        user_identity: UserIdentity::default(),
        max_retry_count: 0,
        wait_for_success: true,
    }
}

pub fn launch(task: u64, command_line: &str) -> TaskLaunch {
    TaskLaunch {
        attempt: attempt(task),
        job: 0,
        slots: 1,
        wall_clock_ms: None,
        retention_ms: Some(3_600_000),
        last_try: true,
        spec: TaskSpec {
            id: TaskId::new(&format!("t{task}")).unwrap(),
            display_name: None,
            command_line: command_line.into(),
            resource_files: vec![],
            output_files: vec![],
            environment: vec![],
            user_identity: UserIdentity::default(),
            affinity_id: String::new(),
            echo: String::new(),
        },
    }
}

pub async fn worker(directory: &Path, leader: &Leader, identity: &Identity) -> Worker {
    worker_with(directory, leader, identity, keeper_command()).await
}

pub fn keeper_command() -> Vec<OsString> {
    match option_env!("CARGO_BIN_EXE_lote-test-keeper") {
        Some(program) => vec![program.into()],
        // In an example, which starts itself.
        None => vec![std::env::current_exe().unwrap().into(), "keeper".into()],
    }
}

pub async fn worker_with(
    directory: &Path,
    leader: &Leader,
    identity: &Identity,
    keeper: Vec<OsString>,
) -> Worker {
    let capacity = HostCapacity { cores: 2, memory_mib: 1024, disk_mib: 1024, labels: vec![] };
    let coordinator = (leader.network.peer(), leader.network.addresses());
    let mut config =
        WorkerConfig::new(directory.join("data"), "host".into(), vec![coordinator], capacity, keeper);
    config.identity = Some(identity.clone());
    config.grace = Duration::from_millis(300);
    config.retries.first_delay = Duration::from_millis(5);
    Worker::start(config).await.unwrap()
}

pub struct Leader {
    pub network: Network,
    incoming: Incoming,
    stream: Option<Stream>,
    session: Session<LeaderMessage>,
    sent: u64,
    pub lease_ms: u64,
    /// Whether pings are answered.
    pub renews: bool,
    pub grants: Vec<NodeGrant>,
    /// Attempts kept at the next greeting; `None` = all of the inventory.
    pub keep: Option<BTreeSet<AttemptRef>>,
    pub hello: Option<Hello>,
    seen: VecDeque<HostMessage>,
    /// Ends by attempt.
    pub ends: BTreeMap<AttemptRef, AttemptReport>,
    pub asked: u32,
    /// Whether messages are acknowledged.
    pub acknowledges: bool,
    pub pings: u32,
    /// Told in the welcome.
    pub members: Vec<Member>,
}

fn now() -> Timestamp {
    Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64)
}

impl Leader {
    pub async fn new(worker: PeerId) -> Leader {
        let config = Config::new(Identity::ephemeral(), vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()]);
        let network = Network::start(config).await.unwrap();
        network.set_allowed([(worker, Role::Worker)].into());
        let incoming = network.accept(Protocol::Session).unwrap();
        Leader {
            network,
            incoming,
            stream: None,
            session: Session::new(Limits::default()),
            sent: 0,
            lease_ms: 10_000,
            renews: true,
            grants: vec![],
            keep: None,
            hello: None,
            seen: VecDeque::new(),
            ends: BTreeMap::new(),
            asked: 0,
            acknowledges: true,
            pings: 0,
            members: vec![],
        }
    }

    /// Accepts the host's next stream and greets it. Returns whether a new session began.
    pub async fn greet(&mut self) -> bool {
        let (_, mut stream) =
            tokio::time::timeout(PATIENCE, self.incoming.next()).await.expect("no host came").unwrap();
        let offer: Resume = stream.receive().await.unwrap().unwrap();
        let (answer, resumed) = self.session.on_offer(offer, SessionId(rand::random())).unwrap();
        stream.send(&Greeting::Leads(answer)).await.unwrap();
        let hello: Hello = stream.receive().await.unwrap().unwrap();
        let inventory = hello.attempts.iter().map(|(_, attempt)| *attempt);
        let keep = inventory.filter(|a| self.keep.as_ref().is_none_or(|keep| keep.contains(a))).collect();
        let (grants, lease_ms) = (self.grants.clone(), self.lease_ms);
        let (storage_endpoints, members) = (vec![], self.members.clone());
        let welcome =
            Welcome { host: HostKey(1), lease_ms, now: now(), grants, keep, storage_endpoints, members };
        stream.send(&Answer::Welcome(Box::new(welcome))).await.unwrap();
        self.sent = self.session.outbox.acknowledged();
        self.stream = Some(stream);
        self.hello = Some(hello);
        resumed != Resumed::Continued
    }

    /// Accepts the host's next stream and sends it on.
    pub async fn redirect(&mut self, leader: Option<&Leader>) {
        let (_, mut stream) =
            tokio::time::timeout(PATIENCE, self.incoming.next()).await.expect("no host came").unwrap();
        let _offer: Resume = stream.receive().await.unwrap().unwrap();
        let coordinators = leader.map(Leader::member).into_iter().collect();
        let leader = leader.map(|leader| leader.network.peer().to_string());
        stream.send(&Greeting::Elsewhere(Directions { term: 2, leader, coordinators })).await.unwrap();
        stream.close().await;
    }

    /// This leader as others are told of it.
    pub fn member(&self) -> Member {
        Member::new(self.network.peer(), Role::Coordinator, &self.network.addresses())
    }

    /// Asks the host to show that it lives.
    pub async fn probe(&mut self) {
        let stream = self.stream.as_mut().unwrap();
        stream.send(&Frame::<LeaderMessage>::Ping { sent_ms: 0 }).await.unwrap();
    }

    /// Breaks the stream.
    pub fn hang_up(&mut self) {
        self.stream = None;
    }

    pub async fn say(&mut self, message: LeaderMessage) {
        self.session.outbox.push(message, 1).unwrap();
        self.send_waiting().await;
    }

    async fn send_waiting(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        while let Some(message) = self.session.outbox.get(self.sent + 1).cloned() {
            self.sent += 1;
            stream.send(&Frame::Message { number: self.sent, message }).await.unwrap();
        }
    }

    pub async fn run(&mut self, tasks: Vec<TaskLaunch>) {
        let jobs = vec![JobPart { job_id: "job".into(), environment: vec![] }];
        self.say(LeaderMessage::Chunk(TaskChunk { node: NODE, jobs, tasks })).await;
    }

    /// Reads one frame; false if the stream ended.
    pub async fn turn(&mut self) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        let frame = tokio::time::timeout(PATIENCE, stream.receive::<Frame<HostMessage>>());
        let Ok(Some(frame)) = frame.await.expect("the host is silent") else {
            self.stream = None;
            return false;
        };
        match frame {
            Frame::Message { number, message } => {
                let new = self.session.inbox.accept(number).unwrap();
                if self.acknowledges
                    && let Some(up_to) = self.session.inbox.durable(number).unwrap()
                {
                    stream.send(&Frame::<LeaderMessage>::Ack { up_to }).await.unwrap();
                }
                if new == lote_shared::protocol::session::Accept::New {
                    self.take(message);
                }
            }
            Frame::Ack { up_to } => self.session.outbox.ack(up_to).unwrap(),
            Frame::Ping { sent_ms } => {
                self.pings += 1;
                if self.renews {
                    let lease = Lease { sent_ms, lease_ms: self.lease_ms, now: now() };
                    stream.send(&Frame::<LeaderMessage>::Lease(lease)).await.unwrap();
                }
            }
            Frame::Lease(_) => panic!("a host grants no lease"),
        }
        true
    }

    fn take(&mut self, message: HostMessage) {
        if let HostMessage::Ask { slots, .. } = &message {
            self.asked = *slots;
        }
        if let HostMessage::Report { attempts, .. } = &message {
            for report in attempts.iter().filter(|report| report.end.is_some()) {
                self.ends.insert(report.attempt, report.clone());
            }
        }
        self.seen.push_back(message);
    }

    /// Goes on until something is true of what was heard.
    pub async fn until(&mut self, what: &str, done: impl Fn(&Leader) -> bool) {
        let started = Instant::now();
        while !done(self) {
            assert!(started.elapsed() < PATIENCE, "never: {what}");
            assert!(self.turn().await, "the stream ended before: {what}");
        }
    }

    pub fn heard(&self, wanted: impl Fn(&HostMessage) -> bool) -> bool {
        self.seen.iter().any(wanted)
    }

    pub fn forget_heard(&mut self) {
        self.seen.clear();
    }

    pub async fn ready(&mut self) {
        self.until("the node is ready", |leader| {
            leader.heard(|m| matches!(m, HostMessage::Node { phase: NodePhase::Ready, .. }))
        })
        .await;
    }

    pub async fn outcome(&mut self, task: u64) -> AttemptOutcome {
        let wanted = attempt(task);
        self.until(&format!("task {task} ends"), |leader| leader.ends.contains_key(&wanted)).await;
        self.ends.remove(&wanted).unwrap().end.unwrap().outcome
    }

    pub async fn started(&mut self, task: u64) {
        let wanted = attempt(task);
        self.until(&format!("task {task} is started"), |leader| {
            leader.heard(|m| match m {
                HostMessage::Report { attempts, .. } => attempts.iter().any(|r| r.attempt == wanted),
                _ => false,
            })
        })
        .await;
    }
}
