//! The session with the leader: finds a coordinator, shakes hands, then carries messages, acknowledgements, pings and
//! leases until the stream breaks, and begins again.
//!
//! One task per generation of the host. It decides nothing about nodes: the host gets greetings and messages in order
//! through a bounded channel, and the keeper gets each renewed deadline at once, past the host.

use crate::attempt::own::Home;
use crate::context::HostContext;
use crate::keeper::sys::boottime_ms;
use crate::keeper::wire::Request;
use crate::outgoing::Acknowledged;
use lote_shared::network::{
    Multiaddr, Network, OpenError, PeerId, Protocol, ReceiveHalf, SendHalf, StreamError,
};
use lote_shared::protocol::host::{Frame, Hello, HostMessage, LeaderMessage, Lease, Welcome};
use lote_shared::protocol::session::{self, LeaseClock, Resume};
use parking_lot::Mutex;
use rand::Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};

/// A coordinator has this long for each part of the handshake.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// Pauses between attempts to connect.
const PAUSE_FIRST_MS: u64 = 20;
const PAUSE_MAX_MS: u64 = 1_000;
/// A stream on which nothing came for a lease, but at least so long, is given up.
const SILENCE_MIN_MS: u64 = 3_000;
const FRAMES_AT_ONCE: usize = 64;

/// A coordinator and where it may be reached.
pub type Coordinator = (PeerId, Vec<Multiaddr>);

/// What the session tells the host, in order.
#[derive(Debug)]
pub enum FromSession {
    /// A stream is open: the host's inventory is wanted.
    NeedHello(oneshot::Sender<Hello>),
    Welcome {
        welcome: Box<Welcome>,
        restarted: bool,
    },
    Message(LeaderMessage),
    Acknowledged(Acknowledged),
    Disconnected,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("the leader broke the rules of the session: {0}")]
    Session(#[from] session::Error),
    #[error("the coordinator closed the stream")]
    Closed,
    #[error("nothing was heard of the coordinator for {0} ms")]
    Silence(u64),
    #[error("the host is gone")]
    HostGone,
}

pub struct SessionTask {
    pub network: Network,
    pub coordinators: Vec<Coordinator>,
    pub host: Arc<HostContext>,
    pub events: mpsc::Sender<FromSession>,
    pub lease: Arc<Mutex<LeaseClock>>,
    pub home: Home,
}

impl SessionTask {
    /// Runs until the host is gone.
    pub async fn run(self) {
        let mut pause_ms = PAUSE_FIRST_MS;
        let mut next = 0;
        loop {
            let Some((peer, _)) = self.coordinators.get(next % self.coordinators.len().max(1)) else {
                return;
            };
            let mut welcomed = false;
            let error = match self.converse(*peer, &mut welcomed).await {
                Err(Error::HostGone) => return,
                Err(error) => error,
                Ok(()) => Error::Closed,
            };
            tracing::info!(%peer, %error, "no session with the coordinator");
            if matches!(error, Error::Session(_)) {
                self.host.outgoing.give_up();
            }
            if welcomed {
                pause_ms = PAUSE_FIRST_MS;
                if self.events.send(FromSession::Disconnected).await.is_err() {
                    return;
                }
            } else {
                next += 1;
            }
            let jittered_ms = rand::rng().random_range(pause_ms / 2..=pause_ms * 3 / 2);
            tokio::time::sleep(Duration::from_millis(jittered_ms)).await;
            pause_ms = (pause_ms * 2).min(PAUSE_MAX_MS);
        }
    }

    async fn tell(&self, event: FromSession) -> Result<(), Error> {
        self.events.send(event).await.map_err(|_| Error::HostGone)
    }

    async fn converse(&self, peer: PeerId, welcomed: &mut bool) -> Result<(), Error> {
        let stream = self.network.open(peer, Protocol::Session).await?;
        let (mut send, mut receive) = stream.split();
        let outgoing = &self.host.outgoing;

        send.send(&outgoing.offer()).await?;
        let resume: Resume = answer(&mut receive).await?;
        let (restarted, acknowledged) = outgoing.on_answer(resume)?;
        self.tell(FromSession::Acknowledged(acknowledged)).await?;

        let (reply, hello) = oneshot::channel();
        self.tell(FromSession::NeedHello(reply)).await?;
        let hello = hello.await.map_err(|_| Error::HostGone)?;
        let sent_ms = boottime_ms();
        self.lease.lock().asked(sent_ms);
        send.send(&hello).await?;
        let mut welcome: Welcome = answer(&mut receive).await?;
        self.home.set(peer, std::mem::take(&mut welcome.storage_endpoints));
        let lease_ms = welcome.lease_ms;
        // A leader watches a host from its greeting on for a whole lease, so this one is safe to take.
        self.renew(&Lease { sent_ms, lease_ms, now: welcome.now });
        *welcomed = true;
        self.tell(FromSession::Welcome { welcome: Box::new(welcome), restarted }).await?;

        let acks = Acks { level: AtomicU64::new(outgoing.received()), wake: Notify::new() };
        tokio::select! {
            ended = self.read(&mut receive, &acks, lease_ms) => ended,
            ended = self.write(&mut send, &acks, lease_ms) => ended,
        }
    }

    fn renew(&self, lease: &Lease) {
        self.host.clock.heard(lease.now);
        let mut clock = self.lease.lock();
        if clock.renewed(lease)
            && let Some(at_ms) = clock.deadline_ms()
        {
            self.host.ask_keeper(Request::Deadline { at_ms, lease_ms: lease.lease_ms });
        }
    }

    async fn read(&self, receive: &mut ReceiveHalf, acks: &Acks, lease_ms: u64) -> Result<(), Error> {
        let patience_ms = lease_ms.max(SILENCE_MIN_MS);
        loop {
            let frame = tokio::time::timeout(
                Duration::from_millis(patience_ms),
                receive.receive::<Frame<LeaderMessage>>(),
            );
            let frame = frame.await.map_err(|_| Error::Silence(patience_ms))??.ok_or(Error::Closed)?;
            match frame {
                Frame::Message { number, message } => {
                    let (new, level) = self.host.outgoing.on_message(number)?;
                    if new {
                        self.tell(FromSession::Message(message)).await?;
                    }
                    if let Some(level) = level {
                        acks.level.fetch_max(level, Ordering::Relaxed);
                        acks.wake.notify_one();
                    }
                }
                Frame::Ack { up_to } => {
                    let acknowledged = self.host.outgoing.on_ack(up_to)?;
                    if !acknowledged.is_empty() {
                        self.tell(FromSession::Acknowledged(acknowledged)).await?;
                    }
                }
                Frame::Lease(lease) => self.renew(&lease),
                // Only hosts ping.
                Frame::Ping { .. } => {}
            }
        }
    }

    async fn write(&self, send: &mut SendHalf, acks: &Acks, lease_ms: u64) -> Result<(), Error> {
        let mut pings = tokio::time::interval(Duration::from_millis(LeaseClock::ping_interval_ms(lease_ms)));
        pings.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut acknowledged = 0;
        loop {
            let frames = self.host.outgoing.take(FRAMES_AT_ONCE);
            if !frames.is_empty() {
                for frame in frames {
                    send.send(&frame).await?;
                }
                continue;
            }
            let level = acks.level.load(Ordering::Relaxed);
            if level > acknowledged {
                acknowledged = level;
                send.send(&Frame::<HostMessage>::Ack { up_to: level }).await?;
                continue;
            }
            tokio::select! {
                () = self.host.outgoing.pushed() => {}
                () = acks.wake.notified() => {}
                _ = pings.tick() => {
                    let sent_ms = boottime_ms();
                    self.lease.lock().asked(sent_ms);
                    send.send(&Frame::<HostMessage>::Ping { sent_ms }).await?;
                }
            }
        }
    }
}

/// What is received and to be acknowledged.
struct Acks {
    level: AtomicU64,
    wake: Notify,
}

async fn answer<T: serde::de::DeserializeOwned>(receive: &mut ReceiveHalf) -> Result<T, Error> {
    let answer = tokio::time::timeout(HANDSHAKE_WITHIN, receive.receive()).await;
    answer.map_err(|_| Error::Silence(HANDSHAKE_WITHIN.as_millis() as u64))??.ok_or(Error::Closed)
}
