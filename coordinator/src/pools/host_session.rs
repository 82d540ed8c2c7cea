//! One host's session with the leader: hello and welcome, then numbered frames both ways.
//!
//! A session proposes what its host reports by itself and acknowledges a report only once it is durable, so
//! reports never depend on a pool's actors. Everything the host should do can be found in the state, so a session
//! that falls behind is simply ended: the host reconnects, and inventory against state shows what is missing.

use super::chunk::ChunkBuilder;
use super::host_registry::{AskLevel, HostRegistry, Renewed, SessionDown, SessionUp};
use crate::clock;
use crate::engine::{Engine, Unavailable};
use crate::state::{Action, Outcome, Reply};
use actix::Addr;
use futures::stream::{FuturesUnordered, StreamExt};
use lote_shared::model::{
    AccountId, AttemptOutcome, AttemptRef, HostKey, NodeKey, Timestamp,
};
use lote_shared::network::{ReceiveHalf, SendHalf, Stream};
use lote_shared::protocol::host::{
    AttemptEnd, AttemptReport, Frame, Hello, HostMessage, Lease, LeaderMessage, Welcome,
};
use lote_shared::protocol::session::{Inbox, Received};
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Messages that may wait for a slow host before its session is ended.
const QUEUE_MAX: usize = 4_096;
/// Reports of one host on their way into the log; reading stops above it.
const PROPOSALS_MAX: usize = 256;
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
const BUSY_WAIT: Duration = Duration::from_millis(20);

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
    #[error("message {number} arrived after a gap")]
    Gap { number: u64 },
    #[error("the session was ended by the leader")]
    Ended,
}

/// The way to a connected host; clone freely.
#[derive(Debug, Clone)]
pub struct SessionHandle {
    pub host: HostKey,
    /// Tells sessions of one host apart; later ones are greater.
    pub session: u64,
    queue: mpsc::Sender<LeaderMessage>,
    end: Arc<watch::Sender<bool>>,
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
}

/// What a session needs.
#[derive(Debug, Clone)]
pub struct SessionParts {
    pub engine: Engine,
    pub builder: ChunkBuilder,
    pub registry: Addr<HostRegistry>,
    pub lease_ms: u64,
}

/// Serves one session stream until it ends.
pub async fn serve(parts: SessionParts, peer: String, mut stream: Stream) {
    let hello = tokio::time::timeout(HELLO_TIMEOUT, stream.receive::<Hello>()).await;
    let outcome = match hello {
        Err(_) => Err(Error::Silent),
        Ok(Err(error)) => Err(error.into()),
        Ok(Ok(None)) => Err(Error::Closed),
        Ok(Ok(Some(hello))) => welcome_and_run(&parts, &peer, hello, stream).await,
    };
    if let Err(error) = outcome {
        tracing::info!(%peer, %error, "session ended");
    }
}

async fn welcome_and_run(parts: &SessionParts, peer: &str, hello: Hello, mut stream: Stream) -> Result<(), Error> {
    static NEXT_SESSION: AtomicU64 = AtomicU64::new(1);
    let joined = Action::HostJoined {
        peer: peer.to_owned(),
        name: hello.name.clone(),
        boot: hello.boot,
        capacity: hello.capacity.clone(),
        address: hello.address.clone(),
        software: hello.software.clone(),
    };
    let Outcome::HostJoined(host) = parts.engine.propose(crate::state::keys::CLUSTER, joined).await?? else {
        return Err(Error::Ended);
    };
    let plan = Reconciliation::of(&parts.engine, host, &hello);
    for (node, lost) in plan.lost {
        report_lost(&parts.engine, node, lost).await?;
    }
    let welcome = Welcome {
        host,
        lease_ms: parts.lease_ms,
        now: clock::wall(),
        grants: plan.nodes.iter().filter_map(|node| parts.builder.grant(&parts.engine, *node)).collect(),
        keep: plan.keep,
    };
    stream.send(&welcome).await?;

    let (queue, messages) = mpsc::channel(QUEUE_MAX);
    let (end, ended) = watch::channel(false);
    let session = NEXT_SESSION.fetch_add(1, Ordering::Relaxed);
    let handle = SessionHandle { host, session, queue, end: Arc::new(end) };
    for (node, attempts) in plan.resend {
        let engine = parts.engine.clone();
        if let Some(chunk) = parts.builder.build(&engine, node, attempts).await {
            handle.send(chunk);
        }
    }
    parts.registry.do_send(SessionUp { handle: handle.clone(), nodes: plan.nodes });
    tracing::info!(%peer, host = %host, name = %hello.name, "host joined");
    let outcome = converse(parts, host, session, stream, messages, ended).await;
    parts.registry.do_send(SessionDown { host, session });
    outcome
}

/// What a host's inventory means against the state (`ARCHITECTURE.md`, hosts and leases).
#[derive(Debug, Default, PartialEq, Eq)]
struct Reconciliation {
    nodes: Vec<NodeKey>,
    keep: Vec<AttemptRef>,
    /// Assigned here, not known there: the chunk was lost, sent again with the same numbers.
    resend: Vec<(NodeKey, Vec<AttemptRef>)>,
    /// Reported as started here, but the host no longer has it.
    lost: Vec<(NodeKey, Vec<AttemptRef>)>,
}

impl Reconciliation {
    fn of(engine: &Engine, host: HostKey, hello: &Hello) -> Reconciliation {
        let held: BTreeSet<(NodeKey, AttemptRef)> = hello.attempts.iter().copied().collect();
        let mut plan = Reconciliation::default();
        engine.read(|cluster| {
            for node in cluster.nodes_of_host(host) {
                let mut resend = Vec::new();
                let mut lost = Vec::new();
                let mut busy = false;
                for (attempt, started) in cluster.attempts_on(node.key) {
                    busy = true;
                    match (held.contains(&(node.key, attempt)), started) {
                        (true, _) => plan.keep.push(attempt),
                        (false, false) => resend.push(attempt),
                        (false, true) => lost.push(attempt),
                    }
                }
                if !resend.is_empty() {
                    plan.resend.push((node.key, resend));
                }
                if !lost.is_empty() {
                    plan.lost.push((node.key, lost));
                }
                // A node that leaves and has nothing left to do is not granted again; its host wipes it.
                if busy || node.leaving.is_none() {
                    plan.nodes.push(node.key);
                }
            }
        });
        plan
    }
}

async fn report_lost(engine: &Engine, node: NodeKey, attempts: Vec<AttemptRef>) -> Result<(), Error> {
    let now = clock::wall();
    let outcome = || AttemptOutcome::Lost { reason: "the host no longer has the attempt".to_owned() };
    let report = |attempt| AttemptReport { attempt, started: None, end: Some(AttemptEnd { at: now, outcome: outcome() }) };
    let attempts = attempts.into_iter().map(report).collect();
    let account = account_of(engine, node);
    if let Err(refusal) = engine.propose(account, Action::Report { node, attempts }).await? {
        tracing::debug!(%refusal, "lost attempts were settled meanwhile");
    }
    Ok(())
}

fn account_of(engine: &Engine, node: NodeKey) -> AccountId {
    engine.read(|cluster| cluster.node_by_key(node).map(|node| node.account)).unwrap_or(crate::state::keys::CLUSTER)
}

/// What the writer sends beside the leader's messages.
enum Control {
    Ack(u64),
    Lease(Lease),
}

async fn converse(
    parts: &SessionParts,
    host: HostKey,
    session: u64,
    stream: Stream,
    messages: mpsc::Receiver<LeaderMessage>,
    mut ended: watch::Receiver<bool>,
) -> Result<(), Error> {
    let (mut send, mut receive) = stream.split();
    let (control, controls) = mpsc::channel(64);
    let reader = read(parts, host, session, &mut receive, control);
    let writer = write(&mut send, messages, controls);
    tokio::select! {
        outcome = reader => outcome,
        outcome = writer => outcome,
        _ = ended.wait_for(|end| *end) => Err(Error::Ended),
    }
}

/// Leases and acknowledgements go before task chunks: they are small and must not wait behind bulk.
async fn write(
    send: &mut SendHalf,
    mut messages: mpsc::Receiver<LeaderMessage>,
    mut controls: mpsc::Receiver<Control>,
) -> Result<(), Error> {
    let mut number = 0;
    loop {
        let frame = tokio::select! {
            biased;
            control = controls.recv() => match control.ok_or(Error::Ended)? {
                Control::Ack(up_to) => Frame::Ack { up_to },
                Control::Lease(lease) => Frame::Lease(lease),
            },
            message = messages.recv() => {
                number += 1;
                Frame::Message { number, message: message.ok_or(Error::Ended)? }
            }
        };
        send.send(&frame).await?;
    }
}

type Pending = Pin<Box<dyn Future<Output = (u64, Result<Reply, Unavailable>)> + Send>>;

async fn read(
    parts: &SessionParts,
    host: HostKey,
    session: u64,
    receive: &mut ReceiveHalf,
    control: mpsc::Sender<Control>,
) -> Result<(), Error> {
    let mut inbox = Inbox::new();
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
        match frame {
            Frame::Ping { sent_ms } => answer_ping(parts, host, session, sent_ms, &control).await?,
            Frame::Message { number, message } => match inbox.received(number) {
                Received::Duplicate => {}
                Received::Gap { .. } => return Err(Error::Gap { number }),
                Received::New => {
                    if let Some(work) = take(parts, host, number, message).await? {
                        pending.push(work);
                    } else {
                        settle(&mut inbox, number, Ok(Ok(Outcome::Done)), &control).await?;
                    }
                }
            },
            // The leader's messages are not kept: an inventory replaces a resend.
            Frame::Ack { .. } | Frame::Lease(_) => {}
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
    if let Some(up_to) = inbox.durable(number) {
        control.send(Control::Ack(up_to)).await.map_err(|_| Error::Ended)?;
    }
    Ok(())
}

/// Renews the lease, counted from before the quorum was asked.
async fn answer_ping(
    parts: &SessionParts,
    host: HostKey,
    session: u64,
    sent_ms: u64,
    control: &mpsc::Sender<Control>,
) -> Result<(), Error> {
    let confirmed_ms = clock::monotonic_ms();
    if parts.engine.linearize().await.is_err() {
        return Ok(()); // No quorum, no renewal.
    }
    parts.registry.do_send(Renewed { host, session, confirmed_ms });
    let lease = Lease { sent_ms, lease_ms: parts.lease_ms, now: clock::wall() };
    control.send(Control::Lease(lease)).await.map_err(|_| Error::Ended)
}

/// Hands one message on; what goes into the log is submitted here, in order, and awaited by the caller.
async fn take(parts: &SessionParts, host: HostKey, number: u64, message: HostMessage) -> Result<Option<Pending>, Error> {
    let (node, action) = match message {
        HostMessage::Ask { node, slots } => {
            parts.registry.do_send(AskLevel { host, node, slots });
            return Ok(None);
        }
        HostMessage::Report { node, attempts } => (node, Action::Report { node, attempts }),
        HostMessage::Recalled { node, attempts } => (node, Action::Recalled { node, attempts }),
        HostMessage::Node { node, phase, start_task, errors } => {
            (node, Action::NodeReport { node, phase, start_task, errors })
        }
        HostMessage::NodeGone { node } => (node, Action::NodeGone { node }),
    };
    let owned = parts.engine.read(|cluster| cluster.node_by_key(node).map(|record| (record.host, record.account)));
    let Some((_, account)) = owned.filter(|(owner, _)| *owner == host) else {
        return Ok(None); // Not this host's node (any more): nothing it says of it counts.
    };
    loop {
        match parts.engine.submit_action(account, action.clone()) {
            Ok(wait) => return Ok(Some(Box::pin(async move { (number, wait.await) }))),
            Err(Unavailable::Busy) => tokio::time::sleep(BUSY_WAIT).await,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Cluster time for whoever needs it beside a session.
pub fn now() -> Timestamp {
    clock::wall()
}
