//! What the actors of a host share. Nothing in here is state of a node or an attempt.

use crate::attempt::transfer::{Retries, Sink, Source};
use crate::clock::Clock;
use crate::keeper::client::Link;
use crate::keeper::wire::Request;
use crate::layout::NodeLayout;
use crate::outgoing::Outgoing;
use actix::dev::ToEnvelope;
use actix::{Addr, Handler, Message};
use lote_shared::model::BootId;
use lote_shared::protocol::host::NodeGrant;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

/// One generation of the host: made when the keeper is connected, dropped as a whole when anything in it fails.
pub struct HostContext {
    pub data_dir: PathBuf,
    pub boot: BootId,
    pub clock: Clock,
    pub keeper: Link,
    pub outgoing: Outgoing,
    pub source: Arc<dyn Source>,
    pub sink: Arc<dyn Sink>,
    pub retries: Retries,
    /// Between SIGTERM and SIGKILL.
    pub grace_ms: u64,
    /// The user tasks run as: ours.
    pub user: String,
    pub reserved_disk_bytes: u64,
}

impl HostContext {
    /// A request to the keeper. If its connection is gone the generation is about to end, and the next one finds
    /// out what the keeper holds.
    pub fn ask_keeper(&self, request: Request) {
        if let Err(error) = self.keeper.send(request) {
            tracing::warn!(%error, "the keeper did not take a request");
        }
    }

    pub fn node_directory(&self, node_id: &str) -> PathBuf {
        self.data_dir.join("nodes").join(node_id)
    }
}

/// What an attempt has to know of its node.
#[derive(Debug, Clone)]
pub struct NodeContext {
    pub grant: NodeGrant,
    pub layout: NodeLayout,
}

/// Runs a step; a panic in it is an error with the panic's message.
pub fn guarded<T>(step: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(step)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panicked".to_owned())
    })
}

/// Puts a signal between a parent and its child into the mailbox, full or not. Only for signals that must not be
/// lost and whose number something else bounds: the processes the keeper holds, the attempts of a node, or what the
/// leader sends, whom the host trusts and who sends tasks only as far as the node has asked for them.
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
