//! The host: keeper below, leader above, nodes between. And the supervisor that begins again when any of it fails.
//!
//! ```text
//!  HostSupervisor (thread) ── generation ──► Host loop ── NodeActor × n ── AttemptActor × m
//!                                             ▲    ▲
//!                              SessionTask ───┘    └─── keeper's events
//! ```
//!
//! A **generation** is everything between one connection to the keeper and its end. A lost keeper connection, a panic
//! in the loop or in a node drops the generation whole, and the next is built from what keeper and disk hold: running
//! processes are found again with their context, ended ones are collected and reported, queued tasks and unfinished
//! downloads are missing from the inventory, which the leader answers by giving them out anew. So a restart of the
//! worker, a fault in it and an upgrade are all the same thing. Failures back off from 0.1 to 30 s.

use crate::attempt::actor::{Kept, Name, Subject, key, parse_key};
use crate::attempt::http::Limits;
use crate::attempt::machine::ProcessEnd;
use crate::attempt::own::OwnStore;
use crate::attempt::transfer::Retries;
use crate::clock::Clock;
use crate::context::{HostContext, signal};
use crate::coordinators::Coordinators;
use crate::files::Roots;
use crate::keeper::client::{self, Connection};
use crate::keeper::wire::{Event, Exit, Request};
use crate::node::actor::{Adopted, Inventory, IsQuiet, NodeActor, Signal, ToNode};
use crate::node::machine::{NodeMachine, Now, Work};
use crate::node::memory::Memory;
use crate::outgoing::Outgoing;
use crate::session::{Coordinator, FromSession, SessionTask};
use crate::{Error, WorkerConfig};
use actix::{Actor, Addr};
use lote_shared::model::{AttemptRef, BootId, HostCapacity, NodeKey, Timestamp};
use lote_shared::network::Network;
use lote_shared::protocol::host::{Hello, HostMessage, LeaderMessage, NodeGrant, Welcome};
use lote_shared::protocol::session::LeaseClock;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

const BACK_OFF_FIRST: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(30);
/// A generation that lived this long was a good one: the next failure starts the back-off anew.
const GOOD_AFTER: Duration = Duration::from_secs(60);
const SESSION_EVENTS_MAX: usize = 256;
/// After the tasks' grace: for the last reports to be acknowledged.
const FAREWELL: Duration = Duration::from_secs(3);
const QUIET_LOOK: Duration = Duration::from_millis(10);

/// What the owner of the worker asks for.
#[derive(Debug)]
pub(crate) enum Control {
    Stop { grace: Duration, done: oneshot::Sender<()> },
}

/// Why a generation ended.
enum End {
    Stopped,
    /// The worker was dropped: tasks are left to the keeper.
    Dropped,
    Failed(String),
}

/// What lives through all generations.
pub(crate) struct Supervisor {
    pub config: WorkerConfig,
    pub network: Network,
    pub coordinators: Coordinators,
    pub roots: Roots,
    pub store: OwnStore,
    pub control: mpsc::Receiver<Control>,
}

impl Supervisor {
    /// Runs generations until told to stop. Blocks its thread.
    pub fn run(mut self) {
        let clock = Clock::new();
        let lease = Arc::new(Mutex::new(LeaseClock::new()));
        let mut back_off = Duration::ZERO;
        loop {
            let began_ms = clock.now().ms;
            let generation = || {
                let system = actix_rt::System::new();
                system.block_on(self.generation(back_off, clock.clone(), Arc::clone(&lease)))
            };
            let reason = match catch_unwind(AssertUnwindSafe(generation)) {
                Ok(End::Stopped | End::Dropped) => return,
                Ok(End::Failed(reason)) => reason,
                Err(_) => "the host's loop panicked".to_owned(),
            };
            self.roots.clear();
            tracing::error!(reason, "the host begins again");
            let good = Duration::from_millis(clock.now().ms.saturating_sub(began_ms)) > GOOD_AFTER;
            back_off =
                if good || back_off.is_zero() { BACK_OFF_FIRST } else { (back_off * 2).min(BACK_OFF_MAX) };
        }
    }

    async fn generation(&mut self, back_off: Duration, clock: Clock, lease: Arc<Mutex<LeaseClock>>) -> End {
        let keeper = client::Config {
            directory: self.config.data_dir.join("keeper"),
            command: self.config.keeper_command.clone(),
        };
        if !back_off.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(back_off) => {}
                control = self.control.recv() => return given_up(control, client::find(&keeper)).await,
            }
        }
        let mut connecting = std::pin::pin!(client::connect(&keeper));
        let connection = tokio::select! {
            connection = &mut connecting => match connection {
                Ok(connection) => connection,
                Err(error) => return End::Failed(error.to_string()),
            },
            // A keeper may just have been started, and would stay.
            control = self.control.recv() => return given_up(control, connecting).await,
        };
        let Connection { boot, running, exited, link, events } = connection;
        let home = self.store.home();
        let store = Arc::new(self.store.clone());
        let context = Arc::new(HostContext {
            data_dir: self.config.data_dir.clone(),
            boot: BootId(boot),
            clock,
            keeper: link,
            outgoing: Outgoing::new(),
            source: store.clone(),
            sink: store,
            retries: self.config.retries,
            grace_ms: u64::try_from(self.config.grace.as_millis()).unwrap_or(u64::MAX),
            user: self.config.user.clone(),
            reserved_disk_bytes: self.config.reserved_disk_bytes,
        });
        // A lease that still runs holds for the keeper, too, should it be a new one.
        if let Some(at_ms) = lease.lock().deadline_ms() {
            context.ask_keeper(Request::Deadline { at_ms, lease_ms: 60_000 });
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "a node sends one signal, its last word, so there are never more of them than nodes"
        )]
        let (signal_sender, signals) = mpsc::unbounded_channel();
        let (session_sender, session) = mpsc::channel(SESSION_EVENTS_MAX);
        let mut host = Host {
            config: self.config.clone(),
            context: Arc::clone(&context),
            roots: self.roots.clone(),
            nodes: BTreeMap::new(),
            waiting: Vec::new(),
            signals: signal_sender,
        };
        if let Err(error) = host.load(running, exited) {
            return End::Failed(format!("the nodes' directories cannot be read: {error}"));
        }
        let task = SessionTask {
            network: self.network.clone(),
            coordinators: self.coordinators.clone(),
            host: context,
            events: session_sender,
            lease,
            home,
        };
        actix_rt::spawn(task.run());
        host.run(events, session, signals, &mut self.control).await
    }
}

/// Asked to stop before there was a connection: the keeper goes as well, once it is found.
async fn given_up(
    control: Option<Control>,
    keeper: impl Future<Output = Result<Connection, client::Error>>,
) -> End {
    let Some(Control::Stop { grace, done }) = control else { return End::Dropped };
    match keeper.await {
        Ok(Connection { link, mut events, .. }) => {
            let _ = link.send(shutdown(grace));
            keeper_gone(&mut events, grace).await;
        }
        Err(error) => tracing::debug!(%error, "no keeper to end"),
    }
    let _ = done.send(());
    End::Stopped
}

fn shutdown(grace: Duration) -> Request {
    Request::Shutdown { grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX) }
}

/// Waits until a keeper that was told to end has ended.
async fn keeper_gone(events: &mut mpsc::Receiver<Vec<Event>>, grace: Duration) {
    let gone = async { while events.recv().await.is_some() {} };
    if tokio::time::timeout(grace + FAREWELL, gone).await.is_err() {
        tracing::error!("the keeper does not end");
    }
}

struct Node {
    actor: Addr<NodeActor>,
    node_id: String,
    leaving: bool,
}

struct Host {
    config: WorkerConfig,
    context: Arc<HostContext>,
    roots: Roots,
    nodes: BTreeMap<NodeKey, Node>,
    /// Grants whose directory is still being wiped for another node.
    waiting: Vec<NodeGrant>,
    /// Bounded by the nodes: each sends at most once.
    signals: mpsc::UnboundedSender<Signal>,
}

impl Host {
    /// Finds the nodes on disk and gives them what the keeper holds.
    fn load(
        &mut self,
        running: Vec<crate::keeper::wire::Running>,
        exited: Vec<(Exit, Vec<u8>)>,
    ) -> std::io::Result<()> {
        let mut adopted: BTreeMap<NodeKey, Vec<(Name, Adopted)>> = BTreeMap::new();
        let mut held: Vec<(String, Vec<u8>, Option<Exit>)> =
            running.into_iter().map(|running| (running.key, running.context, None)).collect();
        held.extend(exited.into_iter().map(|(exit, context)| (exit.key.clone(), context, Some(exit))));

        let directory = self.config.data_dir.join("nodes");
        std::fs::create_dir_all(&directory)?;
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            match Memory::open(&path, self.context.boot) {
                Ok(Some((memory, node))) => {
                    found.insert(node.grant.node, (memory, node));
                }
                Ok(None) => {
                    tracing::warn!(path = %path.display(), "a directory that belongs to no node is removed");
                    let _ = crate::attempt::directories::remove_tree(&path);
                }
                Err(error) => tracing::warn!(path = %path.display(), %error, "a node cannot be read"),
            }
        }
        for (key, context, exit) in held {
            let known = parse_key(&key).filter(|(node, _)| found.contains_key(node));
            let subject = known.and_then(|(node, name)| {
                let grant = &found.get(&node)?.1.grant;
                let (subject, started_ms) = subject(name, Kept::decode(&context)?, grant)?;
                Some((node, name, subject, started_ms))
            });
            let Some((node, name, subject, started_ms)) = subject else {
                // Nothing we could go on with: no node, or an exit an earlier keeper saw.
                self.context.ask_keeper(Request::End { key: key.clone(), grace_ms: self.context.grace_ms });
                self.context.ask_keeper(Request::Acknowledge { key });
                continue;
            };
            let now = self.context.clock.now();
            let time = Timestamp(now.time.0.saturating_sub(now.ms.saturating_sub(started_ms)));
            let end = exit.map(exited_end);
            let started = Now { ms: started_ms, time };
            adopted.entry(node).or_default().push((name, Adopted { subject, started, end }));
        }
        for (node, (memory, found)) in found {
            let adopted = adopted.remove(&node).unwrap_or_default();
            let start_run = adopted.iter().find_map(|(name, _)| match name {
                Name::Start(run) => Some(*run),
                Name::Task(_) => None,
            });
            let adopted = adopted.into_iter().map(|(_, adopted)| adopted).collect();
            let now = self.context.clock.now();
            let made = NodeMachine::resume(found.grant.clone(), found.notes, start_run, now);
            self.start_node(&found.grant, made, Some(memory), adopted);
        }
        Ok(())
    }

    fn start_node(
        &mut self,
        grant: &NodeGrant,
        made: (NodeMachine, Vec<crate::node::machine::Effect>),
        memory: Option<Memory>,
        adopted: Vec<Adopted>,
    ) {
        let (context, roots) = (Arc::clone(&self.context), self.roots.clone());
        let actor = NodeActor::new(context, made, memory, adopted, self.signals.clone(), roots).start();
        self.nodes.insert(grant.node, Node { actor, node_id: grant.node_id.clone(), leaving: false });
    }

    async fn run(
        mut self,
        mut events: mpsc::Receiver<Vec<Event>>,
        mut session: mpsc::Receiver<FromSession>,
        mut signals: mpsc::UnboundedReceiver<Signal>,
        control: &mut mpsc::Receiver<Control>,
    ) -> End {
        let mut stop: Option<(oneshot::Sender<()>, tokio::time::Instant, Duration)> = None;
        let mut look = tokio::time::interval(QUIET_LOOK);
        loop {
            tokio::select! {
                batch = events.recv() => match batch {
                    Some(batch) => batch.into_iter().for_each(|event| self.on_keeper(event)),
                    None => return End::Failed("the connection to the keeper was lost".to_owned()),
                },
                event = session.recv() => match event {
                    Some(event) => self.on_session(event).await,
                    None => return End::Failed("the session's task ended".to_owned()),
                },
                signal = signals.recv() => match signal {
                    Some(Signal::Gone(node)) => self.on_gone(node),
                    Some(Signal::Crashed { node, fault }) => {
                        return End::Failed(format!("node {node} failed: {fault}"));
                    }
                    None => {}
                },
                command = control.recv(), if stop.is_none() => match command {
                    Some(Control::Stop { grace, done }) => {
                        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
                        for node in self.nodes.values() {
                            signal(&node.actor, ToNode::HostStopping { grace_ms });
                        }
                        stop = Some((done, tokio::time::Instant::now() + grace + FAREWELL, grace));
                    }
                    None => return End::Dropped,
                },
                _ = look.tick(), if stop.is_some() => {
                    let over = stop.as_ref().is_some_and(|(_, until, _)| tokio::time::Instant::now() >= *until);
                    if (over || self.is_quiet().await) && let Some((done, _, grace)) = stop.take() {
                        self.stop_keeper(&mut events, grace).await;
                        let _ = done.send(());
                        return End::Stopped;
                    }
                }
            }
        }
    }

    async fn is_quiet(&self) -> bool {
        for node in self.nodes.values() {
            if !node.actor.send(IsQuiet).await.unwrap_or(true) {
                return false;
            }
        }
        true
    }

    /// Ends the keeper with whatever it still holds, and waits until it is gone.
    async fn stop_keeper(&self, events: &mut mpsc::Receiver<Vec<Event>>, grace: Duration) {
        self.context.ask_keeper(shutdown(grace));
        keeper_gone(events, grace).await;
    }

    fn on_keeper(&self, event: Event) {
        let (key, end) = match event {
            Event::Exited(exit) => (exit.key.clone(), exited_end(exit)),
            Event::NotSpawned { key, error, message } => (key, ProcessEnd::NotSpawned { error, message }),
            Event::Hello { .. } | Event::Listing { .. } | Event::Bye => return,
        };
        let node = parse_key(&key).and_then(|(node, name)| Some((self.nodes.get(&node)?, name)));
        match node {
            Some((node, name)) => signal(&node.actor, ToNode::Process { name, end }),
            None => self.context.ask_keeper(Request::Acknowledge { key }),
        }
    }

    async fn on_session(&mut self, event: FromSession) {
        match event {
            FromSession::NeedHello(reply) => {
                let hello = self.hello().await;
                let _ = reply.send(hello);
            }
            FromSession::Welcome { welcome, restarted } => self.on_welcome(*welcome, restarted),
            FromSession::Message(message) => self.on_leader(message),
            FromSession::Acknowledged(acknowledged) => {
                for (node, attempts) in acknowledged {
                    if let Some(node) = self.nodes.get(&node) {
                        signal(&node.actor, ToNode::Acknowledged(attempts));
                    } else {
                        for attempt in attempts {
                            let key = key(node, Name::Task(attempt));
                            self.context.ask_keeper(Request::Acknowledge { key });
                        }
                    }
                }
            }
            FromSession::Disconnected => {}
        }
    }

    async fn hello(&self) -> Hello {
        let mut attempts: Vec<(NodeKey, AttemptRef)> = Vec::new();
        for (key, node) in &self.nodes {
            let held = node.actor.send(Inventory).await.unwrap_or_default();
            attempts.extend(held.into_iter().map(|attempt| (*key, attempt)));
        }
        Hello {
            name: self.config.name.clone(),
            boot: self.context.boot,
            capacity: self.config.capacity.clone(),
            software: env!("CARGO_PKG_VERSION").to_owned(),
            address: self.config.address.clone(),
            nodes: self.nodes.keys().copied().collect(),
            attempts,
            machine: self.config.machine.clone(),
        }
    }

    fn on_welcome(&mut self, welcome: Welcome, restarted: bool) {
        let keep: Arc<BTreeSet<AttemptRef>> = Arc::new(welcome.keep.into_iter().collect());
        for node in self.nodes.values() {
            signal(&node.actor, ToNode::Session { keep: Arc::clone(&keep), restarted });
        }
        let granted: BTreeSet<NodeKey> = welcome.grants.iter().map(|grant| grant.node).collect();
        self.waiting.retain(|grant| granted.contains(&grant.node));
        let unwanted: Vec<NodeKey> =
            self.nodes.keys().filter(|node| !granted.contains(node)).copied().collect();
        for node in unwanted {
            self.on_leader(LeaderMessage::Revoke(node));
        }
        for grant in welcome.grants {
            self.on_grant(grant);
        }
    }

    fn on_leader(&mut self, message: LeaderMessage) {
        let node = match &message {
            LeaderMessage::Grant(_) | LeaderMessage::Members { .. } => None,
            LeaderMessage::Chunk(chunk) => Some(chunk.node),
            LeaderMessage::Revoke(node)
            | LeaderMessage::Recall { node, .. }
            | LeaderMessage::Kill { node, .. }
            | LeaderMessage::WallClock { node, .. }
            | LeaderMessage::Clean { node, .. } => Some(*node),
        };
        match message {
            LeaderMessage::Grant(grant) => self.on_grant(grant),
            message => {
                let Some(key) = node else { return };
                let revoked = matches!(message, LeaderMessage::Revoke(_));
                match self.nodes.get_mut(&key) {
                    Some(node) => {
                        node.leaving |= revoked;
                        signal(&node.actor, ToNode::Leader(message));
                    }
                    None if revoked => {
                        self.waiting.retain(|grant| grant.node != key);
                        self.context.outgoing.push(HostMessage::NodeGone { node: key });
                    }
                    None => tracing::warn!(node = %key, "a message for a node that is not here"),
                }
            }
        }
    }

    fn on_grant(&mut self, grant: NodeGrant) {
        if let Some(node) = self.nodes.get(&grant.node)
            && !node.leaving
        {
            signal(&node.actor, ToNode::Leader(LeaderMessage::Grant(grant)));
            return;
        }
        let taken = self.nodes.values().any(|node| node.node_id == grant.node_id);
        if taken || self.nodes.contains_key(&grant.node) {
            self.waiting.retain(|waiting| waiting.node != grant.node);
            self.waiting.push(grant);
            return;
        }
        if !is_directory_name(&grant.node_id) {
            tracing::error!(node = %grant.node, id = grant.node_id, "a node's id cannot name its directory");
            return;
        }
        // Whatever lies there is nobody's: its node would be among ours.
        let directory = self.context.node_directory(&grant.node_id);
        let memory = crate::attempt::directories::remove_tree(&directory)
            .and_then(|()| Memory::create(&directory, self.context.boot, &grant));
        let memory = memory.map_err(|error| tracing::error!(%error, "the node's memory is not written")).ok();
        let made = NodeMachine::grant(grant.clone(), self.context.clock.now());
        self.start_node(&grant, made, memory, Vec::new());
    }

    fn on_gone(&mut self, node: NodeKey) {
        self.nodes.remove(&node);
        for grant in std::mem::take(&mut self.waiting) {
            self.on_grant(grant);
        }
    }
}

fn exited_end(exit: Exit) -> ProcessEnd {
    ProcessEnd::Exited { exit_code: exit.exit_code, cause: exit.cause, survivors: exit.survivors }
}

/// What the keeper's context says about an attempt.
fn subject(name: Name, kept: Kept, grant: &NodeGrant) -> Option<(Subject, u64)> {
    match (name, kept) {
        (Name::Task(attempt), Kept::Task { started_ms, job, launch }) if launch.attempt == attempt => {
            Some((Subject::Task(Box::new(Work { job: Arc::new(job), launch: *launch })), started_ms))
        }
        (Name::Start(run), Kept::Start { started_ms }) => {
            let task = Box::new(grant.start_task.clone()?);
            Some((Subject::Start { task, run }, started_ms))
        }
        _ => None,
    }
}

/// Node ids come over the wire and become directories.
fn is_directory_name(id: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=128).contains(&id.len()) && id.chars().all(plain) && !id.starts_with('.')
}

/// Defaults of a worker that only its caller can set.
impl WorkerConfig {
    /// A configuration with the usual limits.
    pub fn new(
        data_dir: std::path::PathBuf,
        name: String,
        coordinators: Vec<Coordinator>,
        capacity: HostCapacity,
        keeper_command: Vec<std::ffi::OsString>,
    ) -> WorkerConfig {
        WorkerConfig {
            data_dir,
            name,
            coordinators,
            capacity,
            keeper_command,
            address: "127.0.0.1".to_owned(),
            listen: Vec::new(),
            identity: None,
            machine: lote_shared::machine::hash(),
            grace: Duration::from_secs(5),
            transfers: Limits::default(),
            rates: crate::swarm::Rates::default(),
            retries: Retries::default(),
            user: user_name(),
            reserved_disk_bytes: 0,
            cache_bytes: None,
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.coordinators.is_empty() {
            return Err(Error::Config("no coordinator is given"));
        }
        if self.keeper_command.is_empty() {
            return Err(Error::Config("no command that starts the keeper is given"));
        }
        Ok(())
    }
}

/// The user this process runs as, by name if the system knows one.
fn user_name() -> String {
    let id = rustix::process::getuid().as_raw();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let by_id = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    });
    by_id.unwrap_or_else(|| id.to_string())
}
