//! One generation of one pool's group: the parent of its dispatcher, scaler and nodes.
//!
//! It only passes on what concerns the pool and answers progress checks; since the whole group lives on one
//! arbiter thread, its answer shows that no member holds the thread.

use super::chunk::ChunkBuilder;
use super::faults::Faults;
use super::guard::{Guard, Place, signal};
use super::host_registry::{Attach, Reallocate, Undelivered};
use super::pool_dispatcher::{
    self, DispatcherStatus, NodeFreed, NodeLevel, NodeRemoved, PoolDispatcher, Wake,
};
use super::pool_scaler::{PoolChanged, PoolScaler};
use crate::engine::Engine;
use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message, Recipient, ResponseFuture};
use lote_shared::model::NodeKey;

/// What a group needs to be built.
#[derive(Debug, Clone)]
pub struct GroupParts {
    pub guard: Guard,
    pub faults: Faults,
    pub engine: Engine,
    pub builder: ChunkBuilder,
    pub registry: Recipient<Attach>,
    pub reallocate: Recipient<Reallocate>,
    pub undelivered: Recipient<Undelivered>,
}

/// Something about the pool changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub enum PoolNews {
    Dispatch,
    Changed,
    /// This node can take more than before.
    Freed(NodeKey),
    /// This node is no more.
    Removed(NodeKey),
}

/// Are you still making progress?
#[derive(Debug, Message)]
#[rtype(result = "Option<DispatcherStatus>")]
pub struct Check;

/// The generation is finished.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Stop;

#[derive(Debug)]
pub struct PoolSupervisor {
    parts: GroupParts,
    dispatcher: Option<Addr<PoolDispatcher>>,
    scaler: Option<Addr<PoolScaler>>,
}

impl PoolSupervisor {
    pub fn new(parts: GroupParts) -> PoolSupervisor {
        PoolSupervisor { parts, dispatcher: None, scaler: None }
    }
}

impl Actor for PoolSupervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let guard = self.parts.guard.clone();
        guard.step(Place::Started, self, ctx, |this, ctx| {
            this.parts.faults.strike(this.parts.guard.pool, Place::Started);
            let parts = this.parts.clone();
            let dispatcher = PoolDispatcher::new(
                parts.guard.clone(),
                parts.faults.clone(),
                parts.engine.clone(),
                parts.builder,
                parts.undelivered,
            );
            this.dispatcher = Some(dispatcher.start());
            let scaler = PoolScaler {
                guard: parts.guard.clone(),
                faults: parts.faults,
                engine: parts.engine,
                registry: parts.reallocate,
                timer: None,
            };
            this.scaler = Some(scaler.start());
            // The registry answers with the level of every node of the pool that has a session.
            let attach = Attach {
                pool: parts.guard.pool,
                generation: parts.guard.generation,
                group: ctx.address().recipient(),
            };
            parts.registry.do_send(attach);
        });
    }
}

impl Handler<PoolNews> for PoolSupervisor {
    type Result = ();
    fn handle(&mut self, news: PoolNews, ctx: &mut Context<Self>) {
        let guard = self.parts.guard.clone();
        guard.step(Place::Handler, self, ctx, |this, _| {
            let Some(dispatcher) = &this.dispatcher else { return };
            match news {
                // A full mailbox already holds a wake-up.
                PoolNews::Dispatch | PoolNews::Changed => drop(dispatcher.try_send(Wake)),
                // Both came through this actor's bounded mailbox, and the dispatcher, on the same thread, never waits.
                PoolNews::Freed(node) => signal(dispatcher, NodeFreed(node)),
                PoolNews::Removed(node) => signal(dispatcher, NodeRemoved(node)),
            }
            if let (PoolNews::Changed, Some(scaler)) = (news, &this.scaler) {
                let _ = scaler.try_send(PoolChanged);
            }
        });
    }
}

impl Handler<NodeLevel> for PoolSupervisor {
    type Result = ();
    fn handle(&mut self, level: NodeLevel, ctx: &mut Context<Self>) {
        let guard = self.parts.guard.clone();
        guard.step(Place::Handler, self, ctx, |this, _| {
            if let Some(dispatcher) = &this.dispatcher {
                // Levels must not be lost. They are few: a session hands its next one on when the registry is done
                // with the last.
                signal(dispatcher, level);
            }
        });
    }
}

impl Handler<Check> for PoolSupervisor {
    type Result = ResponseFuture<Option<DispatcherStatus>>;
    fn handle(&mut self, _: Check, _: &mut Context<Self>) -> Self::Result {
        let dispatcher = self.dispatcher.clone();
        // The dispatcher also looks although nothing happened: for lost hints, and for tasks that another node could
        // start. A full mailbox already holds a wake-up.
        dispatcher.iter().for_each(|dispatcher| drop(dispatcher.try_send(Wake)));
        Box::pin(async move { dispatcher?.send(pool_dispatcher::Status).await.ok().flatten() })
    }
}

impl Handler<Stop> for PoolSupervisor {
    type Result = ();
    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        self.dispatcher = None;
        self.scaler = None;
        ctx.stop();
    }
}
