//! The engine: the door between whoever wants something changed or read and the replicated state.
//!
//! [`Engine`] is a cheap handle with two sides. *Proposals* go through a bounded queue to a driver that makes
//! them durable and has them applied (the Raft driver of [`crate::replication`]; [`direct`] without a log, for
//! tests). *Reads* look at [`Cluster`] under a read lock, after [`Engine::linearize`] where a client could compare
//! the answer with its own writes. Cold rows come straight from the store.
//!
//! The write lock is held by exactly one thread, the one that applies.

use crate::leadership::Leadership;
use crate::state::{
    Action, Batch, Cluster, ClusterVersion, Command, Event, IdempotencyKey, Reply, Stamp, version,
};
use crate::store::{self, Store};
use lote_shared::model::{AccountId, Timestamp};
use parking_lot::RwLock;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot, watch};

/// Commands that may wait for the driver before callers are told to come back.
pub const QUEUE_MAX: usize = 8_192;
/// Bytes of encoded commands that may wait for the driver.
pub const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Events that a slow listener may lag behind before it must look at the state anew.
const EVENTS_MAX: usize = 16_384;

/// Why a proposal or a linearizable read was not answered. The command may still be applied later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    #[error("too many requests are waiting")]
    Busy,
    #[error("the cluster has no quorum or this coordinator is stopping")]
    NoQuorum,
    #[error("the command has {size} bytes; the limit is {limit}")]
    TooLarge { size: u64, limit: u64 },
    /// There are coordinators that would not understand it.
    #[error(
        "this needs cluster version {needs}, and the cluster is at {has} until every coordinator runs a build that \
         supports {needs}; see `lote upgrade status`"
    )]
    NotYet { needs: ClusterVersion, has: ClusterVersion },
}

/// One command on its way to the log.
#[derive(Debug)]
pub struct Proposal {
    pub command: Command,
    /// `Command::encode` of it.
    pub bytes: Vec<u8>,
    pub answer: oneshot::Sender<Result<Reply, Unavailable>>,
    /// It may enter the log only while this member leads in this term: otherwise it is answered `NoQuorum`, and
    /// neither forwarded nor sent again ([`Engine::in_term`]).
    pub term: Option<u64>,
    /// Its share of [`QUEUE_BYTES_MAX`], given back when the driver has taken the command.
    pub waiting: OwnedSemaphorePermit,
}

type Answer = oneshot::Receiver<Result<Reply, Unavailable>>;

/// What the driver is asked. Nearly all requests are proposals, so their size is no waste.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)]
pub enum Request {
    Propose(Proposal),
    /// Answer once this member has applied everything that was committed when this was asked.
    Linearize(oneshot::Sender<Result<(), Unavailable>>),
    /// As `Linearize`, but only if this member itself leads in this term: a quorum must have said so to a round that
    /// was sent after this was asked. Never forwarded.
    Confirm {
        term: u64,
        answer: oneshot::Sender<Result<(), Unavailable>>,
    },
}

#[derive(Debug)]
struct Shared {
    cluster: RwLock<Cluster>,
    store: Arc<dyn Store>,
    events: broadcast::Sender<Arc<Vec<Event>>>,
}

/// Handle to the state; clone freely.
#[derive(Debug, Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    waiting_bytes: Arc<Semaphore>,
    fence: Option<Fence>,
}

/// What a handle of [`Engine::in_term`] is bound to.
#[derive(Debug, Clone)]
struct Fence {
    term: u64,
    leadership: watch::Receiver<Leadership>,
    in_log: bool,
}

impl Fence {
    fn check(&self) -> Result<(), Unavailable> {
        let now = self.leadership.borrow();
        (now.is_ours && now.term == self.term).then_some(()).ok_or(Unavailable::NoQuorum)
    }
}

impl Engine {
    /// The handle, and the queue for the driver.
    pub fn new(cluster: Cluster, store: Arc<dyn Store>) -> (Engine, mpsc::Receiver<Request>) {
        let (requests, queue) = mpsc::channel(QUEUE_MAX);
        let (events, _) = broadcast::channel(EVENTS_MAX);
        let shared = Shared { cluster: RwLock::new(cluster), store, events };
        let waiting_bytes = Arc::new(Semaphore::new(QUEUE_BYTES_MAX));
        (Engine { shared: Arc::new(shared), requests, waiting_bytes, fence: None }, queue)
    }

    /// A handle for what only the leader of one term does. Its proposals enter the log in that term or not at all,
    /// and [`Engine::linearize`] of it says that this member still led in it when asked.
    ///
    /// Why: a leader that was deposed learns of it late, and a follower's proposals are forwarded. Without the fence
    /// its tree could still say `HostLost` of a host that the next leader talks to, `HostUnknown` when it drops a
    /// session whose host has long said hello elsewhere, or `Assign` tasks whose chunk nobody would then send; and it
    /// could renew leases on the word of the next leader's quorum. With it, all the tree of a term ever did lies
    /// before the first entry of the next term, which its leader applies before it builds its own tree.
    ///
    /// `in_log`: the log knows the term. A test that scripts leadership says no, and is fenced by `leadership` alone.
    pub fn in_term(&self, term: u64, leadership: watch::Receiver<Leadership>, in_log: bool) -> Engine {
        Engine { fence: Some(Fence { term, leadership, in_log }), ..self.clone() }
    }

    /// Has a command made durable on a quorum and applied, also on this member; the reply is the state's. Waits up to
    /// 10 s for a cluster that is finding a leader ([`crate::replication::GIVE_UP_AFTER`]).
    pub async fn propose(&self, account: AccountId, action: Action) -> Result<Reply, Unavailable> {
        let key = IdempotencyKey(uuid::Uuid::new_v4().as_u128());
        self.propose_command(Command { account, key, action }).await
    }

    /// As [`Engine::propose`] with the caller's own idempotency key.
    pub async fn propose_command(&self, command: Command) -> Result<Reply, Unavailable> {
        self.submit_command(command)?.await.map_err(|_| Unavailable::NoQuorum)?
    }

    fn submit_command(&self, command: Command) -> Result<Answer, Unavailable> {
        self.fence.as_ref().map_or(Ok(()), Fence::check)?;
        self.check_version(&command.action)?;
        let bytes = command.encode().map_err(|error| match error {
            lote_shared::protocol::codec::Error::TooLarge { size, limit } => {
                Unavailable::TooLarge { size, limit }
            }
            _ => Unavailable::TooLarge { size: u64::MAX, limit: crate::state::command::SIZE_MAX },
        })?;
        // A command is far smaller than 4 GiB.
        let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let waiting = self.waiting_bytes.clone().try_acquire_many_owned(size);
        let waiting = waiting.map_err(|_| Unavailable::Busy)?;
        let (answer, wait) = oneshot::channel();
        let term = self.fence.as_ref().filter(|fence| fence.in_log).map(|fence| fence.term);
        self.submit(Request::Propose(Proposal { command, bytes, answer, term, waiting }))?;
        Ok(wait)
    }

    /// An older build among the coordinators would stop at a command that it cannot decode. What this member has
    /// applied may lag, but the version is only ever raised.
    fn check_version(&self, action: &Action) -> Result<(), Unavailable> {
        let needs = action.since();
        // Nearly everything; the lock is then left alone.
        if needs <= version::OLDEST {
            return Ok(());
        }
        let has = self.version();
        if needs <= has { Ok(()) } else { Err(Unavailable::NotYet { needs, has }) }
    }

    /// Which rules hold, as far as this member has applied.
    pub fn version(&self) -> ClusterVersion {
        self.read(Cluster::version)
    }

    /// Submits at once, so that calls made one after another are proposed in that order; the answer is awaited
    /// apart.
    pub fn submit_action(
        &self,
        account: AccountId,
        action: Action,
    ) -> Result<impl Future<Output = Result<Reply, Unavailable>> + Send + use<>, Unavailable> {
        let key = IdempotencyKey(uuid::Uuid::new_v4().as_u128());
        let wait = self.submit_command(Command { account, key, action })?;
        Ok(async move { wait.await.map_err(|_| Unavailable::NoQuorum)? })
    }

    /// Waits until reads here see every write that any member acknowledged before this call.
    pub async fn linearize(&self) -> Result<(), Unavailable> {
        let (answer, wait) = oneshot::channel();
        self.fence.as_ref().map_or(Ok(()), Fence::check)?;
        self.submit(match &self.fence {
            Some(Fence { term, in_log: true, .. }) => Request::Confirm { term: *term, answer },
            _ => Request::Linearize(answer),
        })?;
        wait.await.map_err(|_| Unavailable::NoQuorum)?
    }

    fn submit(&self, request: Request) -> Result<(), Unavailable> {
        self.requests.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Unavailable::Busy,
            mpsc::error::TrySendError::Closed(_) => Unavailable::NoQuorum,
        })
    }

    /// Looks at the state. Keep it short: applying waits meanwhile.
    pub fn read<T>(&self, look: impl FnOnce(&Cluster) -> T) -> T {
        look(&self.shared.cluster.read())
    }

    /// A cold row.
    pub fn cold(&self, key: &[u8]) -> Result<Option<Vec<u8>>, store::Error> {
        self.shared.store.get(key)
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.shared.store
    }

    /// Events from now on, a batch per applied entry. A lagging receiver must look at the state anew.
    pub fn events(&self) -> broadcast::Receiver<Arc<Vec<Event>>> {
        self.shared.events.subscribe()
    }

    /// For the driver alone: applies one entry's commands under one write lock and stores the rows as one batch
    /// together with `more` (the applied position). A raise of the version beyond what this build supports is an error,
    /// and nothing is stored: this member has to stop there, and a newer build goes on.
    pub fn apply(
        &self,
        stamp: Stamp,
        commands: &[Command],
        more: impl FnOnce(&Batch) -> Vec<store::Write>,
    ) -> Result<Vec<Reply>, store::Error> {
        let mut batch = Batch::default();
        let replies = {
            let mut cluster = self.shared.cluster.write();
            let mut replies = Vec::with_capacity(commands.len());
            for command in commands {
                replies.push(cluster.apply(stamp, command, &mut batch));
                // The next command has rules that this build does not know, and nothing may be stored of it.
                version::SUPPORTED.check(version::SOFTWARE, cluster.version())?;
            }
            replies
        };
        let extra = more(&batch);
        batch.writes.extend(extra);
        self.shared.store.write(&batch.writes)?;
        if !batch.events.is_empty() {
            let _ = self.shared.events.send(Arc::new(batch.events));
        }
        Ok(replies)
    }

    /// For the driver alone: a handle that cannot propose, so that the queue closes with the last other handle.
    pub fn for_driver(&self) -> Engine {
        Engine {
            shared: self.shared.clone(),
            requests: mpsc::channel(1).0,
            waiting_bytes: self.waiting_bytes.clone(),
            fence: None,
        }
    }

    /// For the driver alone: who votes as of the entry that was applied last.
    pub fn set_voters(&self, voters: Vec<BTreeSet<u64>>) {
        self.shared.cluster.write().set_voters(voters);
    }

    /// For the driver alone: puts another state in place, after a snapshot was installed.
    pub fn replace(&self, cluster: Cluster) {
        *self.shared.cluster.write() = cluster;
    }
}

/// A driver without a log: applies in memory, for tests of everything above the engine.
pub mod direct {
    use super::*;

    /// An engine on an in-memory store whose time is `clock()`.
    pub fn start(
        cluster: Cluster,
        store: Arc<dyn Store>,
        clock: impl Fn() -> Timestamp + Send + 'static,
    ) -> Engine {
        let (engine, mut queue) = Engine::new(cluster, store);
        let driver = engine.for_driver();
        tokio::spawn(async move {
            let mut index = 0;
            while let Some(request) = queue.recv().await {
                match request {
                    Request::Linearize(answer) | Request::Confirm { answer, .. } => {
                        let _ = answer.send(Ok(()));
                    }
                    Request::Propose(proposal) => {
                        index += 1;
                        let stamp = Stamp { index, now: clock() };
                        let commands = std::slice::from_ref(&proposal.command);
                        let reply = driver.apply(stamp, commands, |_| Vec::new());
                        let reply = reply.ok().and_then(|mut replies| replies.pop());
                        let _ = proposal.answer.send(reply.ok_or(Unavailable::NoQuorum));
                    }
                }
            }
        });
        engine
    }
}
