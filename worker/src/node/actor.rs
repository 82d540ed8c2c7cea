//! The shell of a node: carries out what [`NodeMachine`] wants, and is the parent of the node's attempts.
//!
//! Every step runs under `catch_unwind`; a panic is told to the host, which drops the whole generation and builds
//! the next from what keeper and disk hold. Running processes don't notice.

use super::machine::{Effect, NodeMachine, Now, Work};
use super::memory::Memory;
use super::retention::Place;
use crate::attempt::actor::{AttemptActor, Done, Feed, Name, Subject, key, unnameable};
use crate::attempt::directories::remove_tree;
use crate::attempt::machine::{Input, ProcessEnd};
use crate::context::{HostContext, NodeContext, guarded, signal};
use crate::files::Roots;
use crate::keeper::wire::Request;
use crate::layout::{NODE_DIRECTORIES, NodeLayout};
use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, SpawnHandle,
    WrapFuture,
};
use lote_shared::model::{AttemptOutcome, AttemptRef, NodeError, NodeKey};
use lote_shared::protocol::host::{KillReason, LeaderMessage, NodeGrant};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// A tree that something still writes into is removed again so often.
const WIPE_TRIES: u32 = 25;
const WIPE_PAUSE: Duration = Duration::from_millis(200);
/// An idle node looks at its clock this often anyway.
const TICK_MAX_MS: u64 = 60_000;

/// What a node tells its host.
#[derive(Debug)]
pub enum Signal {
    Gone(NodeKey),
    Crashed { node: NodeKey, fault: String },
}

/// What the host tells a node.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum ToNode {
    Leader(LeaderMessage),
    Acknowledged(Vec<AttemptRef>),
    Session { keep: Arc<BTreeSet<AttemptRef>>, restarted: bool },
    Process { name: Name, end: ProcessEnd },
    HostStopping { grace_ms: u64 },
}

/// The node's attempts, for the session's greeting.
#[derive(Debug, Message)]
#[rtype(result = "Vec<AttemptRef>")]
pub struct Inventory;

/// Whether nothing runs and nothing waits for its acknowledgement.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub struct IsQuiet;

/// An attempt the keeper had.
#[derive(Debug)]
pub struct Adopted {
    pub subject: Subject,
    pub started: Now,
    /// How the process ended, if it has.
    pub end: Option<ProcessEnd>,
}

pub struct NodeActor {
    machine: NodeMachine,
    host: Arc<HostContext>,
    context: Arc<NodeContext>,
    memory: Option<Memory>,
    attempts: BTreeMap<AttemptRef, Addr<AttemptActor>>,
    start: Option<(u32, Addr<AttemptActor>)>,
    signals: mpsc::UnboundedSender<Signal>,
    roots: Roots,
    first: Vec<Effect>,
    adopted: Vec<Adopted>,
    tick: Option<(u64, SpawnHandle)>,
    stop_grace_ms: u64,
}

impl NodeActor {
    /// `made`: the machine with its first effects.
    pub fn new(
        host: Arc<HostContext>,
        made: (NodeMachine, Vec<Effect>),
        memory: Option<Memory>,
        adopted: Vec<Adopted>,
        signals: mpsc::UnboundedSender<Signal>,
        roots: Roots,
    ) -> NodeActor {
        let (machine, first) = made;
        let grant = machine.grant_of().clone();
        let layout = NodeLayout::new(host.node_directory(&grant.node_id).join("root"));
        NodeActor {
            machine,
            stop_grace_ms: host.grace_ms,
            host,
            context: Arc::new(NodeContext { grant, layout }),
            memory,
            attempts: BTreeMap::new(),
            start: None,
            signals,
            roots,
            first,
            adopted,
            tick: None,
        }
    }

    fn node(&self) -> NodeKey {
        self.context.grant.node
    }

    fn step(&mut self, ctx: &mut Context<Self>, step: impl FnOnce(&mut NodeMachine, Now) -> Vec<Effect>) {
        let now = self.host.clock.now();
        let stepped = guarded(|| {
            let effects = step(&mut self.machine, now);
            self.carry_out(effects, ctx);
        });
        if let Err(fault) = stepped {
            self.crash(fault, ctx);
        }
    }

    fn crash(&mut self, fault: String, ctx: &mut Context<Self>) {
        let _ = self.signals.send(Signal::Crashed { node: self.node(), fault });
        ctx.stop();
    }

    fn carry_out(&mut self, effects: Vec<Effect>, ctx: &mut Context<Self>) {
        let mut queue: VecDeque<Effect> = effects.into();
        while let Some(effect) = queue.pop_front() {
            match effect {
                Effect::Tell(message) => self.host.outgoing.push(message),
                Effect::Start(work) => self.start_task(work, ctx),
                Effect::RunStartTask { run } => self.run_start_task(run, ctx),
                Effect::EndStartTask => self.end_start_task(),
                Effect::Kill { attempt, reason } => self.feed(attempt, Input::Kill(reason)),
                Effect::WallClock { attempt, wall_clock_ms } => {
                    self.feed(attempt, Input::WallClock { wall_clock_ms });
                }
                Effect::HostStopping { attempt } => {
                    self.feed(attempt, Input::HostStopping { grace_ms: self.stop_grace_ms });
                }
                Effect::Forget(attempts) => {
                    for attempt in attempts {
                        self.forget(Name::Task(attempt));
                    }
                }
                Effect::Remember(notes) => {
                    if let Some(memory) = &mut self.memory
                        && let Err(error) = memory.append(notes)
                    {
                        tracing::warn!(node = %self.context.grant.node_id, %error, "the node's memory is not written");
                    }
                }
                Effect::MakeDirectories => self.make_directories(ctx),
                Effect::RemoveDirectories(places) => self.remove_directories(places),
                Effect::Wipe => self.wipe(ctx),
                Effect::Gone => {
                    let _ = self.signals.send(Signal::Gone(self.node()));
                    ctx.stop();
                }
            }
        }
        self.arm(ctx);
    }

    fn feed(&self, attempt: AttemptRef, input: Input) {
        if let Some(actor) = self.attempts.get(&attempt) {
            signal(actor, Feed(input));
        }
    }

    /// The keeper need not hold this exit any longer.
    fn forget(&self, name: Name) {
        self.host.ask_keeper(Request::Acknowledge { key: key(self.node(), name) });
    }

    fn start_task(&mut self, work: Box<Work>, ctx: &mut Context<Self>) {
        let attempt = work.launch.attempt;
        let parent = ctx.address().recipient();
        let (host, context) = (Arc::clone(&self.host), Arc::clone(&self.context));
        match AttemptActor::new(host, context, Subject::Task(work), self.host.clock.now(), parent) {
            Some(actor) => {
                self.attempts.insert(attempt, actor.start());
            }
            None => ctx.notify(Done { name: Name::Task(attempt), outcome: unnameable(), survivors: 0 }),
        }
    }

    fn run_start_task(&mut self, run: u32, ctx: &mut Context<Self>) {
        let Some(task) = self.context.grant.start_task.clone() else { return };
        let subject = Subject::Start { task: Box::new(task), run };
        let parent = ctx.address().recipient();
        let (host, context) = (Arc::clone(&self.host), Arc::clone(&self.context));
        let actor = AttemptActor::new(host, context, subject, self.host.clock.now(), parent);
        self.start = actor.map(|actor| (run, actor.start()));
    }

    /// Its run, and the services a finished run left.
    fn end_start_task(&mut self) {
        if let Some((_, actor)) = &self.start {
            signal(actor, Feed(Input::Kill(KillReason::Requeued)));
        }
        if let Some(run) = self.machine.start_run() {
            let key = key(self.node(), Name::Start(run));
            self.host.ask_keeper(Request::End { key, grace_ms: self.stop_grace_ms });
        }
    }

    fn make_directories(&mut self, ctx: &mut Context<Self>) {
        let root = self.context.layout.root.clone();
        let adopted = std::mem::take(&mut self.adopted);
        let work = tokio::task::spawn_blocking(move || make(&root));
        let work = async move { work.await.unwrap_or_else(|fault| Err(io::Error::other(fault))) };
        self.adopt(adopted, ctx);
        ctx.spawn(work.into_actor(self).map(|result, actor, ctx| {
            if result.is_ok() {
                actor.roots.insert(actor.node(), actor.context.layout.root.clone());
            }
            let result = result.map_err(|error| NodeError {
                code: "NodeDirectoriesFailed".into(),
                message: format!("the node's directories cannot be made: {error}"),
                details: vec![("Path".into(), actor.context.layout.root.display().to_string())],
            });
            actor.step(ctx, |machine, now| machine.on_directories(now, result));
        }));
    }

    fn adopt(&mut self, adopted: Vec<Adopted>, ctx: &mut Context<Self>) {
        for Adopted { subject, started, end } in adopted {
            let parent = ctx.address().recipient();
            let (host, context) = (Arc::clone(&self.host), Arc::clone(&self.context));
            let Some(actor) = AttemptActor::adopt(host, context, subject.clone(), started, parent) else {
                continue;
            };
            let actor = actor.start();
            if let Some(end) = end {
                signal(&actor, Feed(Input::Process(end)));
            }
            match subject {
                Subject::Task(work) => {
                    self.machine.on_adopted(&work, started);
                    self.attempts.insert(work.launch.attempt, actor);
                }
                Subject::Start { run, .. } => self.start = Some((run, actor)),
            }
        }
    }

    /// Removal is never waited for. What cannot be removed is left to the next sweep of the same name, or the wipe.
    fn remove_directories(&self, places: Vec<Place>) {
        let directories: Vec<_> = places
            .iter()
            .filter_map(|place| self.context.layout.task(&place.job_id, &place.task_id))
            .collect();
        tokio::task::spawn_blocking(move || {
            for task in directories {
                if let Err(error) = remove_tree(&task.directory) {
                    tracing::warn!(directory = %task.directory.display(), %error, "a task directory is not removed");
                }
                // The job's directory goes with its last task, the schedule's with its last job.
                for parent in task.directory.ancestors().skip(1).take(2) {
                    if std::fs::remove_dir(parent).is_err() {
                        break;
                    }
                }
            }
        });
    }

    fn wipe(&mut self, ctx: &mut Context<Self>) {
        self.roots.remove(self.node());
        self.memory = None;
        let directory = self.host.node_directory(&self.context.grant.node_id);
        let work = async move {
            for tries in 1.. {
                let path = directory.clone();
                let removed = tokio::task::spawn_blocking(move || remove_tree(&path)).await;
                match removed {
                    Ok(Ok(())) => return,
                    _ if tries >= WIPE_TRIES => {
                        tracing::error!(directory = %directory.display(), "a node's directory is not removed");
                        return;
                    }
                    _ => tokio::time::sleep(WIPE_PAUSE).await,
                }
            }
        };
        ctx.spawn(
            work.into_actor(self).map(|(), actor, ctx| actor.step(ctx, |machine, _| machine.on_wiped())),
        );
    }

    /// One timer at a time. One that goes off early costs less than setting it anew with every task.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        let now = self.host.clock.now();
        let at = self.machine.next_time_ms(now).unwrap_or(u64::MAX).min(now.ms + TICK_MAX_MS);
        if let Some((armed, handle)) = self.tick.take() {
            if armed <= at {
                self.tick = Some((armed, handle));
                return;
            }
            ctx.cancel_future(handle);
        }
        let wait = Duration::from_millis(at.saturating_sub(now.ms));
        let handle = ctx.run_later(wait, |actor, ctx| {
            actor.tick = None;
            actor.step(ctx, NodeMachine::on_time);
        });
        self.tick = Some((at, handle));
    }

    fn on_grant(&mut self, grant: NodeGrant) {
        let kept = NodeGrant { start_task: self.context.grant.start_task.clone(), ..grant };
        if kept == self.context.grant {
            return;
        }
        if let Some(memory) = &mut self.memory
            && let Err(error) = memory.set_grant(&kept)
        {
            tracing::warn!(node = %kept.node_id, %error, "the node's memory is not written");
        }
        self.context = Arc::new(NodeContext { grant: kept, layout: self.context.layout.clone() });
    }
}

fn make(root: &Path) -> io::Result<()> {
    for name in NODE_DIRECTORIES {
        std::fs::create_dir_all(root.join(name))?;
    }
    Ok(())
}

impl Actor for NodeActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Attempts stop by themselves; what they report must never find the box full.
        ctx.set_mailbox_capacity(4_096);
        let first = std::mem::take(&mut self.first);
        self.step(ctx, |_, _| first);
    }
}

impl Handler<ToNode> for NodeActor {
    type Result = ();

    fn handle(&mut self, message: ToNode, ctx: &mut Self::Context) {
        match message {
            ToNode::Leader(LeaderMessage::Chunk(chunk)) => self.step(ctx, |m, now| m.on_chunk(now, chunk)),
            ToNode::Leader(LeaderMessage::Grant(grant)) => {
                self.on_grant(grant.clone());
                self.step(ctx, |m, now| m.on_grant(now, grant));
            }
            ToNode::Leader(LeaderMessage::Revoke(_)) => self.step(ctx, NodeMachine::on_revoke),
            ToNode::Leader(LeaderMessage::Recall { attempts, .. }) => {
                self.step(ctx, |m, now| m.on_recall(now, attempts));
            }
            ToNode::Leader(LeaderMessage::Kill { attempt, reason, .. }) => {
                self.step(ctx, |m, now| m.on_kill(now, attempt, reason));
            }
            ToNode::Leader(LeaderMessage::WallClock { attempt, wall_clock_ms, .. }) => {
                self.step(ctx, |m, now| m.on_wall_clock(now, attempt, wall_clock_ms));
            }
            ToNode::Leader(LeaderMessage::Clean { directories, .. }) => {
                self.step(ctx, |m, now| m.on_clean(now, directories));
            }
            // The session deals with it.
            ToNode::Leader(LeaderMessage::Members { .. }) => {}
            ToNode::Acknowledged(attempts) => self.step(ctx, |m, now| m.on_acknowledged(now, &attempts)),
            ToNode::Session { keep, restarted } => {
                self.step(ctx, |m, now| m.on_session(now, &keep, restarted));
            }
            ToNode::Process { name: Name::Task(attempt), end } => match self.attempts.get(&attempt) {
                Some(actor) => signal(actor, Feed(Input::Process(end))),
                // Its actor failed, and the leader may have heard of it already.
                None => self.forget(Name::Task(attempt)),
            },
            ToNode::Process { name: Name::Start(run), end } => match &self.start {
                Some((current, actor)) if *current == run => signal(actor, Feed(Input::Process(end))),
                _ => self.forget(Name::Start(run)),
            },
            ToNode::HostStopping { grace_ms } => {
                self.stop_grace_ms = grace_ms;
                self.step(ctx, NodeMachine::on_host_stopping);
            }
        }
    }
}

impl Handler<Done> for NodeActor {
    type Result = ();

    fn handle(&mut self, done: Done, ctx: &mut Self::Context) {
        match done.name {
            Name::Task(attempt) => {
                self.attempts.remove(&attempt);
                self.step(ctx, |m, now| m.on_attempt_ended(now, attempt, done.outcome, done.survivors));
            }
            Name::Start(run) => {
                self.start = None;
                self.forget(Name::Start(run));
                if !matches!(done.outcome, AttemptOutcome::Exited { exit_code: 0, .. }) {
                    // Services stay only after success.
                    let key = key(self.node(), Name::Start(run));
                    self.host.ask_keeper(Request::End { key, grace_ms: self.host.grace_ms });
                }
                self.step(ctx, |m, now| m.on_start_task_ended(now, done.outcome));
            }
        }
    }
}

impl Handler<Inventory> for NodeActor {
    type Result = Vec<AttemptRef>;

    fn handle(&mut self, _: Inventory, _: &mut Self::Context) -> Vec<AttemptRef> {
        self.machine.inventory()
    }
}

impl Handler<IsQuiet> for NodeActor {
    type Result = bool;

    fn handle(&mut self, _: IsQuiet, _: &mut Self::Context) -> bool {
        self.machine.is_quiet()
    }
}
