//! Shell of [`Dispatcher`]: asks it what to assign, proposes that, and hands what was committed to the nodes.
//!
//! A chunk leaves only after its `Assign` is committed, so whatever a node runs is in the state first. Wake-ups are
//! coalesced: however many arrive, one plan is made.

use super::chunk::ChunkBuilder;
use super::faults::Faults;
use super::guard::{Guard, Place};
use super::host_registry::Undelivered;
use super::host_session::SessionHandle;
use super::node_actor::{NodeActor, Send, SessionChanged};
use crate::engine::{Engine, Unavailable};
use crate::scheduling::{Decision, Dispatcher};
use crate::state::{Action, Command, IdempotencyKey, Outcome, Refusal};
use actix::{Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, Recipient, WrapFuture};
use lote_shared::model::{AttemptRef, NodeKey, TaskKey};
use lote_shared::protocol::host::LeaderMessage;
use std::collections::BTreeMap;
use std::time::Duration;

/// Something may be dispatchable.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Wake;

/// A node can take more than before.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct NodeFreed(pub NodeKey);

/// A node is no more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct NodeRemoved(pub NodeKey);

/// How much a node wants to hold in all, and the session to its host; `None` once the session is gone.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct NodeLevel {
    pub node: NodeKey,
    pub slots: u32,
    pub session: Option<SessionHandle>,
}

/// What the dispatcher is doing, for people.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct DispatcherStatus {
    pub nodes: usize,
    pub proposals_in_flight: usize,
    pub assigned: u64,
}

/// Asks for a [`DispatcherStatus`].
#[derive(Debug, Message)]
#[rtype(result = "Option<DispatcherStatus>")]
pub struct Status;

/// How long to wait before planning again after the engine could not take a proposal.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// Proposals of one pool under way at once; more would only queue in the engine.
const PROPOSALS_MAX: usize = 8;

#[derive(Debug)]
pub struct PoolDispatcher {
    pub guard: Guard,
    pub faults: Faults,
    pub engine: Engine,
    pub builder: ChunkBuilder,
    pub undelivered: Recipient<Undelivered>,
    pub core: Dispatcher,
    pub nodes: BTreeMap<NodeKey, Addr<NodeActor>>,
    pub plan_due: bool,
    pub proposals: usize,
    pub assigned: u64,
}

/// How one proposal ended, with the chunk if there is one to send.
struct Assigned {
    node: NodeKey,
    asked: Vec<TaskKey>,
    result: Result<Vec<AttemptRef>, AssignError>,
    message: Option<LeaderMessage>,
}

enum AssignError {
    Unavailable(Unavailable),
    Refused(Refusal),
}

impl PoolDispatcher {
    pub fn new(
        guard: Guard,
        faults: Faults,
        engine: Engine,
        builder: ChunkBuilder,
        undelivered: Recipient<Undelivered>,
    ) -> PoolDispatcher {
        let core = Dispatcher::new(guard.pool);
        PoolDispatcher {
            guard,
            faults,
            engine,
            builder,
            undelivered,
            core,
            nodes: BTreeMap::new(),
            plan_due: false,
            proposals: 0,
            assigned: 0,
        }
    }

    fn wake(&mut self, ctx: &mut Context<Self>) {
        if !self.plan_due {
            self.plan_due = true;
            ctx.notify(Plan);
        }
    }

    fn plan(&mut self, ctx: &mut Context<Self>) {
        self.plan_due = false;
        if self.proposals >= PROPOSALS_MAX {
            return; // The next answer plans again.
        }
        let now = crate::clock::wall();
        let core = &mut self.core;
        let decisions = self.engine.read(|cluster| core.plan(now, cluster));
        for decision in decisions {
            match decision {
                Decision::Assign { node, tasks } => self.propose(node, tasks, ctx),
                Decision::Recall { node, attempts } => {
                    if let Some(actor) = self.nodes.get(&node) {
                        let _ = actor.try_send(Send(LeaderMessage::Recall { node, attempts }));
                    }
                }
            }
        }
    }

    fn propose(&mut self, node: NodeKey, tasks: Vec<TaskKey>, ctx: &mut Context<Self>) {
        let engine = self.engine.clone();
        let builder = self.builder.clone();
        self.proposals += 1;
        let work = async move {
            let result = assign(&engine, node, tasks.clone()).await;
            let message = match &result {
                Ok(attempts) if !attempts.is_empty() => builder.build(&engine, node, attempts.clone()).await,
                _ => None,
            };
            Assigned { node, asked: tasks, result, message }
        };
        ctx.spawn(work.into_actor(self).map(|done, this, ctx| {
            let guard = this.guard.clone();
            guard.step(Place::Handler, this, ctx, |this, ctx| this.assigned(done, ctx));
        }));
    }

    fn assigned(&mut self, done: Assigned, ctx: &mut Context<Self>) {
        self.proposals -= 1;
        let attempts = done.result.as_ref().map(Vec::as_slice).unwrap_or_default();
        self.assigned += attempts.len() as u64;
        self.core.on_assign_result(done.node, &done.asked);
        if let Some(message) = done.message {
            let handed_over =
                self.nodes.get(&done.node).is_some_and(|actor| actor.try_send(Send(message)).is_ok());
            if !handed_over {
                self.undelivered.do_send(Undelivered(done.node));
            }
        }
        match done.result {
            Ok(_) => self.wake(ctx),
            Err(AssignError::Refused(refusal)) => {
                tracing::debug!(node = %done.node, %refusal, "assignment refused");
                self.wake(ctx);
            }
            Err(AssignError::Unavailable(error)) => {
                tracing::debug!(node = %done.node, %error, "assignment not taken");
                ctx.notify_later(Wake, RETRY_AFTER);
            }
        }
    }
}

/// Proposes until there is an answer, each time with the same key: a proposal that timed out may have been applied,
/// and then its attempts must reach the node. Ends with the actor.
async fn assign(engine: &Engine, node: NodeKey, tasks: Vec<TaskKey>) -> Result<Vec<AttemptRef>, AssignError> {
    let account = engine.read(|cluster| cluster.node(node).map(|node| node.account));
    let Some(account) = account else { return Ok(Vec::new()) };
    let key = IdempotencyKey(uuid::Uuid::new_v4().as_u128());
    let command = Command { account, key, action: Action::Assign { node, tasks } };
    loop {
        match engine.propose_command(command.clone()).await {
            Ok(Ok(Outcome::Assigned(attempts))) => return Ok(attempts),
            Ok(Ok(_)) => return Ok(Vec::new()),
            Ok(Err(refusal)) => return Err(AssignError::Refused(refusal)),
            Err(error @ (Unavailable::TooLarge { .. } | Unavailable::NotYet { .. })) => {
                return Err(AssignError::Unavailable(error));
            }
            Err(Unavailable::Busy | Unavailable::NoQuorum) => tokio::time::sleep(RETRY_AFTER).await,
        }
    }
}

/// Make a plan now; sent by the dispatcher to itself.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Plan;

impl Actor for PoolDispatcher {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let guard = self.guard.clone();
        guard.step(Place::Started, self, ctx, |this, ctx| this.wake(ctx));
    }
}

impl Handler<Wake> for PoolDispatcher {
    type Result = ();
    fn handle(&mut self, _: Wake, ctx: &mut Context<Self>) {
        let guard = self.guard.clone();
        guard.step(Place::Handler, self, ctx, |this, ctx| this.wake(ctx));
    }
}

impl Handler<Plan> for PoolDispatcher {
    type Result = ();
    fn handle(&mut self, _: Plan, ctx: &mut Context<Self>) {
        let guard = self.guard.clone();
        guard.step(Place::Handler, self, ctx, |this, ctx| {
            this.faults.strike(this.guard.pool, Place::Handler);
            this.plan(ctx);
        });
    }
}

impl Handler<NodeFreed> for PoolDispatcher {
    type Result = ();
    fn handle(&mut self, freed: NodeFreed, ctx: &mut Context<Self>) {
        let guard = self.guard.clone();
        guard.step(Place::Handler, self, ctx, |this, ctx| {
            this.core.on_node_changed(freed.0);
            this.wake(ctx);
        });
    }
}

impl Handler<NodeRemoved> for PoolDispatcher {
    type Result = ();
    fn handle(&mut self, removed: NodeRemoved, ctx: &mut Context<Self>) {
        let guard = self.guard.clone();
        guard.step(Place::Handler, self, ctx, |this, _| {
            this.core.on_node_gone(removed.0);
            this.nodes.remove(&removed.0);
        });
    }
}

impl Handler<NodeLevel> for PoolDispatcher {
    type Result = ();
    fn handle(&mut self, level: NodeLevel, ctx: &mut Context<Self>) {
        let guard = self.guard.clone();
        guard.step(Place::Handler, self, ctx, |this, ctx| {
            if level.session.is_none() {
                this.core.on_node_gone(level.node);
                this.nodes.remove(&level.node);
                return;
            }
            let (guard, undelivered) = (&this.guard, &this.undelivered);
            let actor = this.nodes.entry(level.node).or_insert_with(|| {
                let undelivered = undelivered.clone();
                NodeActor { node: level.node, guard: guard.clone(), session: None, undelivered }.start()
            });
            let _ = actor.try_send(SessionChanged(level.session));
            this.core.on_ask(level.node, level.slots);
            this.wake(ctx);
        });
    }
}

impl Handler<Status> for PoolDispatcher {
    type Result = Option<DispatcherStatus>;
    fn handle(&mut self, _: Status, _: &mut Context<Self>) -> Option<DispatcherStatus> {
        Some(DispatcherStatus {
            nodes: self.nodes.len(),
            proposals_in_flight: self.proposals,
            assigned: self.assigned,
        })
    }
}
