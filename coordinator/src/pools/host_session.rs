//! One host's session with the leader: hello and welcome, then numbered frames both ways.
//!
//! A session proposes what its host reports by itself and acknowledges a report only once it is durable, so
//! reports never depend on a pool's actors. Everything the host should do can be found in the state, so a session
//! that falls behind is simply ended: the host reconnects, and inventory against state shows what is missing.

use super::chunk::ChunkBuilder;
use super::host_registry::{AskLevel, HostRegistry, Renew, SessionDown, SessionOf, SessionUp};
use crate::clock;
use crate::directory::Directory;
use crate::engine::{Engine, Unavailable};
use crate::scheduling::reconcile::{MissingEnd, Reconciliation};
use crate::state::{Action, Outcome, Reply};
use actix::Addr;
use futures::stream::{FuturesUnordered, StreamExt};
use lote_shared::model::{AccountId, AttemptOutcome, AttemptRef, BootId, HostKey, NodeKey};
use lote_shared::network::{ReceiveHalf, SendHalf, Stream};
use lote_shared::protocol::host::{
    Answer, AttemptEnd, AttemptReport, Directions, Frame, Greeting, Hello, HostMessage, LeaderMessage, Lease,
    Welcome,
};
use lote_shared::protocol::session::{self, Accept, Inbox, Limits, Outbox, Resume, Session, SessionId};
use rand::Rng;
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};

/// Messages that may wait for a slow host before its session is ended.
const QUEUE_MAX: usize = 4_096;
/// Reports of one host on their way into the log; reading stops above it.
const PROPOSALS_MAX: usize = 256;
/// One command touches at most 1 000 records, a report a few for each attempt.
const ATTEMPTS_PER_COMMAND: usize = 300;
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
const BUSY_WAIT: Duration = Duration::from_millis(20);
/// How long the host behind an open session has to show that it lives, when another says it is the same host.
const ALIVE_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the host said nothing for {} s after connecting", HELLO_TIMEOUT.as_secs())]
    Silent,
    #[error("the host closed the stream")]
    Closed,
    #[error("the stream failed: {0}")]
    Stream(#[from] lote_shared::network::StreamError),
    #[error("the state did not take it: {0}")]
    Unavailable(#[from] Unavailable),
    #[error("the host was refused: {0}")]
    Refused(#[from] crate::state::Refusal),
    #[error("the host broke the session's rules: {0}")]
    Rules(#[from] session::Error),
    #[error("the host does not settle what it is sent")]
    Slow,
    #[error("the session was ended by the leader")]
    Ended,
    #[error("this coordinator does not lead any more")]
    Deposed,
    #[error("another machine uses the same identity, and lives")]
    Copied,
}

/// The way to a connected host; clone freely.
#[derive(Debug, Clone)]
pub struct SessionHandle {
    pub host: HostKey,
    /// Tells sessions of one host apart; later ones are greater.
    pub session: u64,
    pub boot: BootId,
    queue: mpsc::Sender<LeaderMessage>,
    end: Arc<watch::Sender<bool>>,
    probe: Arc<Notify>,
    /// Frames heard from the host.
    heard: watch::Receiver<u64>,
}

impl SessionHandle {
    /// Hands a message over. A host that does not keep up loses its session, never a message: the next session
    /// starts from its inventory.
    pub fn send(&self, message: LeaderMessage) {
        if self.queue.try_send(message).is_err() {
            self.end();
        }
    }

    pub fn end(&self) {
        self.end.send_replace(true);
    }

    /// Whether the host says anything when asked to. A machine that was started anew has no process that could, and
    /// its kernel resets what is sent to the old connection.
    async fn is_alive(&self) -> bool {
        let mut heard = self.heard.clone();
        heard.mark_unchanged();
        self.probe.notify_one();
        matches!(tokio::time::timeout(ALIVE_WITHIN, heard.changed()).await, Ok(Ok(())))
    }
}

/// What a session needs.
#[derive(Debug, Clone)]
pub struct SessionParts {
    pub engine: Engine,
    pub builder: ChunkBuilder,
    pub registry: Addr<HostRegistry>,
    pub lease_ms: u64,
    pub members: Directory,
    /// Turns true when the tree is dropped.
    pub over: watch::Receiver<bool>,
}

/// Serves one session stream until it ends, at the latest with the leadership.
pub async fn serve(parts: SessionParts, peer: String, mut stream: Stream) {
    let mut over = parts.over.clone();
    let session = async {
        let greeting = tokio::time::timeout(HELLO_TIMEOUT, greet(&mut stream)).await;
        let (session, hello) = greeting.map_err(|_| Error::Silent)??;
        welcome_and_run(&parts, &peer, session, hello, stream).await
    };
    let outcome = tokio::select! {
        outcome = session => outcome,
        _ = over.wait_for(|over| *over) => Err(Error::Deposed),
    };
    if let Err(error) = outcome {
        tracing::info!(%peer, %error, "session ended");
    }
}

/// Tells a host that came to the wrong coordinator where to go.
pub async fn redirect(directions: Directions, mut stream: Stream) {
    let exchange = async {
        stream.receive::<Resume>().await?.ok_or(Error::Closed)?;
        stream.send(&Greeting::Elsewhere(directions)).await?;
        stream.close().await;
        Ok::<_, Error>(())
    };
    // Whatever goes wrong here, the host comes again.
    let _ = tokio::time::timeout(HELLO_TIMEOUT, exchange).await;
}

/// Every stream begins a new session here: what the leader had to say is in the state, and the host's inventory
/// tells what of it is missing.
async fn greet(stream: &mut Stream) -> Result<(Session<LeaderMessage>, Hello), Error> {
    let offer: Resume = stream.receive().await?.ok_or(Error::Closed)?;
    let mut session = Session::new(Limits::default());
    let (answer, _) = session.on_offer(offer, SessionId(rand::rng().random()))?;
    stream.send(&Greeting::Leads(answer)).await?;
    let hello: Hello = stream.receive().await?.ok_or(Error::Closed)?;
    Ok((session, hello))
}

/// Whether another machine runs with this host's identity: one with another boot that has a session and answers. A
/// host that was started anew has another boot, too, but nobody answers on its old connection; its worker alone
/// started anew keeps the boot, which its keeper drew.
async fn is_copied(parts: &SessionParts, peer: &str, hello: &Hello) -> bool {
    let known = parts.engine.read(|cluster| cluster.host_by_peer(peer).map(|host| host.key));
    let Some(host) = known else { return false };
    match parts.registry.send(SessionOf(host)).await {
        Ok(Some(open)) if open.boot != hello.boot => open.is_alive().await,
        _ => false,
    }
}

async fn welcome_and_run(
    parts: &SessionParts,
    peer: &str,
    session: Session<LeaderMessage>,
    hello: Hello,
    mut stream: Stream,
) -> Result<(), Error> {
    static NEXT_SESSION: AtomicU64 = AtomicU64::new(1);
    if is_copied(parts, peer, &hello).await {
        tracing::error!(%peer, name = %hello.name, "a second machine with the identity of a living host; refused");
        stream.send(&Answer::Refused(Error::Copied.to_string())).await?;
        stream.close().await;
        return Err(Error::Copied);
    }
    let joined = Action::HostPresented {
        peer: peer.to_owned(),
        name: hello.name.clone(),
        boot: hello.boot,
        capacity: hello.capacity.clone(),
        address: hello.address.clone(),
        software: hello.software.clone(),
        machine: hello.machine.clone(),
    };
    let host = match parts.engine.propose(crate::state::keys::CLUSTER, joined).await? {
        Ok(Outcome::HostJoined(host)) => host,
        Ok(_) => return Err(Error::Ended),
        Err(refusal) => {
            // Whoever looks at that host has to learn it there.
            stream.send(&Answer::Refused(refusal.to_string())).await?;
            stream.close().await;
            return Err(refusal.into());
        }
    };
    let plan = parts.engine.read(|cluster| Reconciliation::of(cluster, host, &hello.attempts));
    settle_missing(&parts.engine, &plan).await?;
    let resent = plan.resend.iter().flat_map(|(_, attempts)| attempts);
    let attempts: BTreeSet<AttemptRef> = plan.keep.iter().chain(resent).copied().collect();
    let mut members = parts.members.clone();
    let welcome = Welcome {
        host,
        lease_ms: parts.lease_ms,
        now: clock::wall(),
        grants: plan.nodes.iter().filter_map(|node| parts.builder.grant(&parts.engine, *node)).collect(),
        keep: plan.keep,
        storage_endpoints: parts.builder.storage_endpoints(&parts.engine),
        members: members.see().to_vec(),
    };
    stream.send(&Answer::Welcome(Box::new(welcome))).await?;

    let (queue, messages) = mpsc::channel(QUEUE_MAX);
    let (end, ended) = watch::channel(false);
    let number = NEXT_SESSION.fetch_add(1, Ordering::Relaxed);
    let (hears, heard) = watch::channel(0);
    let probe = Arc::new(Notify::new());
    let handle =
        SessionHandle { host, session: number, boot: hello.boot, queue, end: Arc::new(end), probe, heard };
    for (node, attempts) in plan.resend {
        if let Some(chunk) = parts.builder.build(&parts.engine, node, attempts).await {
            handle.send(chunk);
        }
    }
    for message in plan.repeat {
        handle.send(message);
    }
    // Whatever a host can bring about waits until the registry has handled it: that is the host's back-pressure. An
    // error means that there is no registry (any more), which is then in nobody's way.
    let up = SessionUp { handle: handle.clone(), nodes: plan.nodes, attempts };
    let _ = parts.registry.send(up).await;
    tracing::info!(%peer, host = %host, name = %hello.name, "host joined");
    let outcome = tokio::select! {
        outcome = converse(parts, &handle, session, stream, messages, ended, hears) => outcome,
        // Never ends by itself.
        () = tell_members(parts, members, &handle) => Err(Error::Ended),
    };
    let _ = parts.registry.send(SessionDown { host, session: number }).await;
    outcome
}

async fn tell_members(parts: &SessionParts, mut members: Directory, handle: &SessionHandle) {
    while members.changed().await {
        let (members, storage_endpoints) =
            (members.see().to_vec(), parts.builder.storage_endpoints(&parts.engine));
        handle.send(LeaderMessage::Members { members, storage_endpoints });
    }
    std::future::pending().await
}

/// Reports the end of attempts that the host no longer has.
async fn settle_missing(engine: &Engine, plan: &Reconciliation) -> Result<(), Error> {
    let now = clock::wall();
    for (node, missing) in &plan.missing {
        let (node, account) = (*node, account_of(engine, *node));
        let recalled: Vec<AttemptRef> = missing
            .iter()
            .filter(|(_, end)| *end == MissingEnd::Recalled)
            .map(|(attempt, _)| *attempt)
            .collect();
        for attempts in recalled.chunks(ATTEMPTS_PER_COMMAND) {
            note(engine.propose(account, Action::Recalled { node, attempts: attempts.to_vec() }).await?);
        }
        let ended = missing.iter().filter_map(|(attempt, end)| {
            let outcome = match end {
                MissingEnd::Recalled => return None,
                MissingEnd::Killed => AttemptOutcome::Killed { exit_code: None },
                MissingEnd::Lost => {
                    AttemptOutcome::Lost { reason: "the host no longer has the attempt".to_owned() }
                }
            };
            let end = Some(AttemptEnd { at: now, outcome });
            Some(AttemptReport { attempt: *attempt, started: None, end })
        });
        let ended: Vec<AttemptReport> = ended.collect();
        for attempts in ended.chunks(ATTEMPTS_PER_COMMAND) {
            note(engine.propose(account, Action::Report { node, attempts: attempts.to_vec() }).await?);
        }
    }
    Ok(())
}

fn note(reply: Reply) {
    if let Err(refusal) = reply {
        tracing::debug!(%refusal, "attempts of a returned host were settled meanwhile");
    }
}

fn account_of(engine: &Engine, node: NodeKey) -> AccountId {
    engine.read(|cluster| cluster.node(node).map(|node| node.account)).unwrap_or(crate::state::keys::CLUSTER)
}

/// What the writer deals with beside the leader's messages.
enum Control {
    Ack(u64),
    Lease(Lease),
    /// The host settled our messages up to this number.
    Acknowledged(u64),
}

async fn converse(
    parts: &SessionParts,
    handle: &SessionHandle,
    session: Session<LeaderMessage>,
    stream: Stream,
    messages: mpsc::Receiver<LeaderMessage>,
    mut ended: watch::Receiver<bool>,
    hears: watch::Sender<u64>,
) -> Result<(), Error> {
    let (mut send, mut receive) = stream.split();
    let (control, controls) = mpsc::channel(64);
    let Session { outbox, inbox, .. } = session;
    let reader = read(parts, handle, inbox, &mut receive, control, hears);
    let writer = write(&mut send, outbox, messages, controls, &handle.probe);
    tokio::select! {
        outcome = reader => outcome,
        outcome = writer => outcome,
        _ = ended.wait_for(|end| *end) => Err(Error::Ended),
    }
}

/// Leases and acknowledgements go before task chunks: they are small and must not wait behind bulk.
async fn write(
    send: &mut SendHalf,
    mut outbox: Outbox<LeaderMessage>,
    mut messages: mpsc::Receiver<LeaderMessage>,
    mut controls: mpsc::Receiver<Control>,
    probe: &Notify,
) -> Result<(), Error> {
    loop {
        tokio::select! {
            biased;
            control = controls.recv() => match control.ok_or(Error::Ended)? {
                Control::Ack(up_to) => send.send(&Frame::<LeaderMessage>::Ack { up_to }).await?,
                Control::Lease(lease) => send.send(&Frame::<LeaderMessage>::Lease(lease)).await?,
                Control::Acknowledged(up_to) => outbox.ack(up_to)?,
            },
            () = probe.notified() => {
                let sent_ms = clock::monotonic_ms();
                send.send(&Frame::<LeaderMessage>::Ping { sent_ms }).await?;
            }
            message = messages.recv() => {
                let message = message.ok_or(Error::Ended)?;
                let number = outbox.push(message.clone(), 0).map_err(|_| Error::Slow)?;
                send.send(&Frame::Message { number, message }).await?;
            }
        }
    }
}

type Pending = Pin<Box<dyn Future<Output = (u64, Result<Reply, Unavailable>)> + Send>>;

async fn read(
    parts: &SessionParts,
    handle: &SessionHandle,
    mut inbox: Inbox,
    receive: &mut ReceiveHalf,
    control: mpsc::Sender<Control>,
    hears: watch::Sender<u64>,
) -> Result<(), Error> {
    let host = handle.host;
    let mut pending: FuturesUnordered<Pending> = FuturesUnordered::new();
    loop {
        let frame = tokio::select! {
            done = pending.next(), if !pending.is_empty() => {
                if let Some((number, reply)) = done {
                    settle(&mut inbox, number, reply, &control).await?;
                }
                continue;
            }
            frame = receive.receive::<Frame<HostMessage>>(), if pending.len() < PROPOSALS_MAX => {
                frame?.ok_or(Error::Closed)?
            }
        };
        hears.send_modify(|count| *count += 1);
        match frame {
            Frame::Ping { sent_ms } => answer_ping(parts, handle, sent_ms, &control).await?,
            Frame::Message { number, message } => match inbox.accept(number)? {
                Accept::Duplicate => {}
                Accept::New => {
                    if let Some(work) = take(parts, host, number, message).await? {
                        pending.push(work);
                    } else {
                        settle(&mut inbox, number, Ok(Ok(Outcome::Done)), &control).await?;
                    }
                }
            },
            Frame::Ack { up_to } => {
                control.send(Control::Acknowledged(up_to)).await.map_err(|_| Error::Ended)?;
            }
            Frame::Lease(_) => {}
        }
    }
}

/// A report that is durable, or that the state refused for good, is acknowledged; one that may be lost ends the
/// session, and the host says it again.
async fn settle(
    inbox: &mut Inbox,
    number: u64,
    reply: Result<Reply, Unavailable>,
    control: &mpsc::Sender<Control>,
) -> Result<(), Error> {
    if let Err(refusal) = reply? {
        tracing::debug!(%refusal, "a host's message no longer fits");
    }
    if let Some(up_to) = inbox.durable(number)? {
        control.send(Control::Ack(up_to)).await.map_err(|_| Error::Ended)?;
    }
    Ok(())
}

/// Renews the lease, counted from before the quorum was asked: the engine of a tree asks whether *this* member still
/// leads in the tree's term, by a round that goes out after the question, so the reading taken here is older than the
/// round's send time. A leader that is cut off, or was deposed, gets no answer and grants nothing.
async fn answer_ping(
    parts: &SessionParts,
    handle: &SessionHandle,
    sent_ms: u64,
    control: &mpsc::Sender<Control>,
) -> Result<(), Error> {
    let confirmed_ms = clock::monotonic_ms();
    if parts.engine.linearize().await.is_err() {
        return Ok(()); // No quorum, no renewal.
    }
    let renew = Renew { host: handle.host, session: handle.session, confirmed_ms };
    let Ok(Some(lease_ms)) = parts.registry.send(renew).await else { return Ok(()) };
    let lease = Lease { sent_ms, lease_ms, now: clock::wall() };
    control.send(Control::Lease(lease)).await.map_err(|_| Error::Ended)
}

/// Hands one message on; what goes into the log is submitted here, in order, and awaited by the caller.
async fn take(
    parts: &SessionParts,
    host: HostKey,
    number: u64,
    message: HostMessage,
) -> Result<Option<Pending>, Error> {
    let (node, actions) = match message {
        HostMessage::Ask { node, slots } => {
            let _ = parts.registry.send(AskLevel { host, node, slots }).await;
            return Ok(None);
        }
        HostMessage::Report { node, attempts } => {
            let part = |attempts: &[AttemptReport]| Action::Report { node, attempts: attempts.to_vec() };
            (node, attempts.chunks(ATTEMPTS_PER_COMMAND).map(part).collect())
        }
        HostMessage::Recalled { node, attempts } => {
            let part = |attempts: &[AttemptRef]| Action::Recalled { node, attempts: attempts.to_vec() };
            (node, attempts.chunks(ATTEMPTS_PER_COMMAND).map(part).collect())
        }
        HostMessage::Node { node, phase, start_task, errors } => {
            (node, vec![Action::NodeReport { node, phase, start_task, errors }])
        }
        HostMessage::NodeGone { node } => (node, vec![Action::NodeGone { node }]),
    };
    let owned = parts.engine.read(|cluster| cluster.node(node).map(|record| (record.host, record.account)));
    let Some((_, account)) = owned.filter(|(owner, _)| *owner == host) else {
        return Ok(None); // Not this host's node (any more): nothing it says of it counts.
    };
    let mut waits = Vec::new();
    for action in actions {
        waits.push(submit(parts, account, action).await?);
    }
    Ok(Some(Box::pin(async move {
        let mut last = Ok(Ok(Outcome::Done));
        for wait in waits {
            last = wait.await;
            if last.is_err() {
                break; // Not all of it is durable; the host says the whole again.
            }
        }
        (number, last)
    })))
}

/// Waits for room in the engine's queue: the pressure reaches the host, whose stream is not read meanwhile.
async fn submit(
    parts: &SessionParts,
    account: AccountId,
    action: Action,
) -> Result<impl Future<Output = Result<Reply, Unavailable>> + Send + use<>, Error> {
    loop {
        match parts.engine.submit_action(account, action.clone()) {
            Ok(wait) => return Ok(wait),
            Err(Unavailable::Busy) => tokio::time::sleep(BUSY_WAIT).await,
            Err(error) => return Err(error.into()),
        }
    }
}
