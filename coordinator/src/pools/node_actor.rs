//! One node's end of the dispatch: hands task chunks and recalls to the session of the node's host.
//!
//! Soft state only: the session. What cannot be handed over stays in the state as *assigned*, and the registry is told,
//! so that the host's next inventory brings it there with the same attempt numbers.

use super::guard::{Guard, Place};
use super::host_registry::Undelivered;
use super::host_session::SessionHandle;
use actix::{Actor, Context, Handler, Message, Recipient};
use lote_shared::model::NodeKey;
use lote_shared::protocol::host::LeaderMessage;

/// The session of this node's host changed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SessionChanged(pub Option<SessionHandle>);

/// Something for the node's host.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Send(pub LeaderMessage);

#[derive(Debug)]
pub struct NodeActor {
    pub node: NodeKey,
    pub guard: Guard,
    pub session: Option<SessionHandle>,
    pub undelivered: Recipient<Undelivered>,
}

impl Actor for NodeActor {
    type Context = Context<Self>;
}

impl Handler<SessionChanged> for NodeActor {
    type Result = ();
    fn handle(&mut self, message: SessionChanged, ctx: &mut Context<Self>) {
        let guard = self.guard.clone();
        guard.step(Place::Handler, self, ctx, |this, _| this.session = message.0);
    }
}

impl Handler<Send> for NodeActor {
    type Result = ();
    fn handle(&mut self, message: Send, ctx: &mut Context<Self>) {
        let guard = self.guard.clone();
        guard.step(Place::Handler, self, ctx, |this, _| match &this.session {
            Some(session) => session.send(message.0),
            None => this.undelivered.do_send(Undelivered(this.node)),
        });
    }
}
