//! Watches one pool's resize: when its time is up, or something about it changed, the allocation is run again.
//!
//! The decision itself (what to grant, revoke, or give up) is the cluster-wide `Allocator`'s, because pools compete
//! for the same hosts; this actor owns only the timer.

use super::faults::Faults;
use super::guard::{Guard, Place};
use super::host_registry::Reallocate;
use crate::engine::Engine;
use actix::{Actor, AsyncContext, Context, Handler, Message, Recipient, SpawnHandle};
use lote_shared::model::AllocationState;
use std::time::Duration;

/// The pool's record changed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct PoolChanged;

#[derive(Debug)]
pub struct PoolScaler {
    pub guard: Guard,
    pub faults: Faults,
    pub engine: Engine,
    pub registry: Recipient<Reallocate>,
    pub timer: Option<SpawnHandle>,
}

impl PoolScaler {
    fn watch(&mut self, ctx: &mut Context<Self>) {
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        let pool = self.guard.pool;
        let due = self.engine.read(|cluster| {
            let pool = cluster.pool(pool)?;
            let resizing = pool.allocation != AllocationState::Steady;
            let limit_ms = pool.resize_timeout.as_limit_ms()?;
            resizing.then(|| pool.allocation_changed.plus_ms(limit_ms))
        });
        let Some(due) = due else { return };
        let wait_ms = due.since_ms(crate::clock::wall()) + 1;
        self.timer = Some(ctx.run_later(Duration::from_millis(wait_ms), |this, ctx| {
            let guard = this.guard.clone();
            guard.step(Place::Timer, this, ctx, |this, ctx| {
                this.faults.strike(this.guard.pool, Place::Timer);
                this.registry.do_send(Reallocate);
                // A clock that runs ahead of the leader's stamps finds the resize still open: look again.
                this.timer = Some(ctx.notify_later(PoolChanged, Duration::from_millis(500)));
            });
        }));
    }
}

impl Actor for PoolScaler {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let guard = self.guard.clone();
        guard.step(Place::Started, self, ctx, |this, ctx| this.watch(ctx));
    }
}

impl Handler<PoolChanged> for PoolScaler {
    type Result = ();
    fn handle(&mut self, _: PoolChanged, ctx: &mut Context<Self>) {
        let guard = self.guard.clone();
        guard.step(Place::Handler, self, ctx, |this, ctx| {
            this.registry.do_send(Reallocate);
            this.watch(ctx);
        });
    }
}
