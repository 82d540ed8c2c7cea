//! Runs the steps of actors so that a panic becomes a message to the parent instead of a silent end, and passes
//! signals between parents and children.

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Context, Handler, Message, Recipient};
use lote_shared::model::PoolKey;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Which step of an actor ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Started,
    Handler,
    Timer,
}

/// Told to the parent once a step of a group panicked; the generation it names is finished.
#[derive(Debug, Clone, actix::Message)]
#[rtype(result = "()")]
pub struct GroupFailed {
    pub pool: PoolKey,
    pub generation: u64,
    pub place: Place,
    pub reason: String,
}

/// Whom an actor of a group tells about its failure.
#[derive(Debug, Clone)]
pub struct Guard {
    pub pool: PoolKey,
    pub generation: u64,
    pub parent: Recipient<GroupFailed>,
}

impl Guard {
    /// Runs one step. After a panic the actor's own state is not looked at again: the parent is told and drops
    /// the generation.
    pub fn step<A: Actor<Context = Context<A>>>(
        &self,
        place: Place,
        actor: &mut A,
        ctx: &mut Context<A>,
        work: impl FnOnce(&mut A, &mut Context<A>),
    ) {
        if let Err(reason) = contain(|| work(actor, ctx)) {
            self.report(place, reason);
        }
    }

    fn report(&self, place: Place, reason: String) {
        let failed = GroupFailed { pool: self.pool, generation: self.generation, place, reason };
        // At most one message per failed step, and a failed generation is dropped: a natural bound.
        self.parent.do_send(failed);
    }
}

/// Puts a signal between a parent and its child into the mailbox, full or not. Only for signals that must not be
/// lost and whose number something else bounds; the caller says what. Whatever a host or a client can send as often
/// as it likes goes by `send(..).await`, which waits until it is handled.
#[expect(clippy::disallowed_methods, reason = "the number of these signals is bounded by something else")]
pub fn signal<A, M>(to: &Addr<A>, message: M)
where
    A: Handler<M>,
    A::Context: ToEnvelope<A, M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    to.do_send(message);
}

/// Runs `work`; a panic becomes its message.
pub fn contain<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_message() {
        assert_eq!(contain(|| 7), Ok(7));
        assert_eq!(contain(|| -> u8 { panic!("no {}", "luck") }), Err("no luck".to_owned()));
    }
}
