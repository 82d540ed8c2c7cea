//! The session with the leader: finds it, shakes hands, then carries messages, acknowledgements, pings and leases until
//! the stream breaks, and begins again. Whom to ask is decided in [`crate::search`].
//!
//! One task per generation of the host. It decides nothing about nodes: the host gets greetings and messages in order
//! through a bounded channel, and the keeper gets each renewed deadline at once, past the host.

use crate::attempt::own::Home;
use crate::context::HostContext;
use crate::coordinators::Coordinators;
use crate::keeper::sys::boottime_ms;
use crate::keeper::wire::Request;
use crate::outgoing::Acknowledged;
use crate::search::{Search, Try};
use lote_shared::network::{
    Multiaddr, Network, OpenError, PeerId, Protocol, ReceiveHalf, SendHalf, Stream, StreamError,
};
use lote_shared::protocol::host::{
    Answer, Directions, Frame, Greeting, Hello, HostMessage, LeaderMessage, Lease, Welcome,
};
use lote_shared::protocol::session::{self, LeaseClock};
use parking_lot::Mutex;
use rand::Rng;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};

/// A coordinator that cannot be reached in this time gives way to the next, if there is one.
const OPEN_WITHIN: Duration = Duration::from_secs(1);
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
    #[error("the coordinator did not go on with the handshake for {0} ms")]
    Slow(u64),
    #[error("the leader has not renewed the lease for too long")]
    Silence,
    #[error("this coordinator does not lead (term {}, leader {:?})", .0.term, .0.leader)]
    Elsewhere(Directions),
    #[error("the leader refuses this host: {0}")]
    Refused(String),
    #[error("the host is gone")]
    HostGone,
}

pub struct SessionTask {
    pub network: Network,
    pub coordinators: Coordinators,
    pub host: Arc<HostContext>,
    pub events: mpsc::Sender<FromSession>,
    pub lease: Arc<Mutex<LeaseClock>>,
    pub home: Home,
}

impl SessionTask {
    /// Runs until the host is gone.
    pub async fn run(self) {
        let mut search = Search::default();
        loop {
            search.set_coordinators(&self.coordinators.peers());
            // There is always one: a list that names none takes nobody away.
            let Some(next) = search.next() else { return };
            if next.pause_ms > 0 {
                let jittered_ms = rand::rng().random_range(next.pause_ms / 2..=next.pause_ms * 3 / 2);
                tokio::time::sleep(Duration::from_millis(jittered_ms)).await;
            }
            let peer = next.peer;
            let mut welcomed = false;
            let error = match self.converse(next, &mut welcomed).await {
                Err(Error::HostGone) => return,
                Err(error) => error,
                Ok(()) => Error::Closed,
            };
            match &error {
                Error::Elsewhere(_) => tracing::debug!(%peer, %error, "on to another coordinator"),
                Error::Refused(_) => tracing::error!(%peer, %error, "no session with the leader"),
                _ => tracing::info!(%peer, %error, "no session with the coordinator"),
            }
            if matches!(error, Error::Session(_)) {
                self.host.outgoing.give_up();
            }
            if welcomed {
                search.set_coordinators(&self.coordinators.peers());
                search.welcomed(peer);
                search.session_ended();
                if matches!(error, Error::Silence) {
                    search.fell_silent(peer);
                }
                if self.events.send(FromSession::Disconnected).await.is_err() {
                    return;
                }
            } else if let Error::Elsewhere(directions) = error {
                self.coordinators.heard(&directions.coordinators);
                search.set_coordinators(&self.coordinators.peers());
                search.redirected(peer, directions.leader.and_then(|leader| leader.parse().ok()));
            } else if let Error::Slow(_) = error {
                search.slow(peer);
            } else {
                search.failed(peer);
            }
        }
    }

    async fn open(&self, peer: PeerId) -> Result<Stream, Error> {
        let open = self.network.open(peer, Protocol::Session);
        if self.coordinators.peers().len() < 2 {
            return Ok(open.await?);
        }
        let opened = tokio::time::timeout(OPEN_WITHIN, open).await;
        Ok(opened.unwrap_or(Err(OpenError::Timeout))?)
    }

    async fn tell(&self, event: FromSession) -> Result<(), Error> {
        self.events.send(event).await.map_err(|_| Error::HostGone)
    }

    async fn converse(&self, Try { peer, patience_ms, .. }: Try, welcomed: &mut bool) -> Result<(), Error> {
        let stream = self.open(peer).await?;
        let (mut send, mut receive) = stream.split();
        let outgoing = &self.host.outgoing;

        send.send(&outgoing.offer()).await?;
        let resume = match answer(&mut receive, patience_ms).await? {
            Greeting::Leads(resume) => resume,
            Greeting::Elsewhere(directions) => return Err(Error::Elsewhere(directions)),
        };
        let (restarted, acknowledged) = outgoing.on_answer(resume)?;
        self.tell(FromSession::Acknowledged(acknowledged)).await?;

        let (reply, hello) = oneshot::channel();
        self.tell(FromSession::NeedHello(reply)).await?;
        let hello = hello.await.map_err(|_| Error::HostGone)?;
        let sent_ms = boottime_ms();
        self.lease.lock().asked(sent_ms);
        send.send(&hello).await?;
        let mut welcome = match answer(&mut receive, patience_ms).await? {
            Answer::Welcome(welcome) => welcome,
            Answer::Refused(why) => return Err(Error::Refused(why)),
        };
        self.coordinators.told(peer, &std::mem::take(&mut welcome.members));
        self.home.set(peer, std::mem::take(&mut welcome.storage_endpoints));
        self.home.set_coordinators(self.coordinators.peers());
        let lease_ms = welcome.lease_ms;
        // A leader watches a host from its greeting on for a whole lease, so this one is safe to take.
        self.renew(&Lease { sent_ms, lease_ms, now: welcome.now });
        *welcomed = true;
        self.tell(FromSession::Welcome { welcome, restarted }).await?;

        let level = AtomicU64::new(outgoing.received());
        let acks = Acks { level, wake: Notify::new(), asked: Notify::new() };
        tokio::select! {
            ended = self.read(peer, &mut receive, &acks, lease_ms) => ended,
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

    async fn read(
        &self,
        peer: PeerId,
        receive: &mut ReceiveHalf,
        acks: &Acks,
        lease_ms: u64,
    ) -> Result<(), Error> {
        loop {
            let patience_ms = self.lease.lock().patience(boottime_ms(), lease_ms);
            let frame = tokio::time::timeout(
                Duration::from_millis(patience_ms),
                receive.receive::<Frame<LeaderMessage>>(),
            );
            let frame = frame.await.map_err(|_| Error::Silence)??.ok_or(Error::Closed)?;
            match frame {
                Frame::Message { number, message } => {
                    let (new, level) = self.host.outgoing.on_message(number)?;
                    match message {
                        LeaderMessage::Members { members, storage_endpoints } => {
                            self.coordinators.told(peer, &members);
                            self.home.set(peer, storage_endpoints);
                            self.home.set_coordinators(self.coordinators.peers());
                        }
                        message if new => self.tell(FromSession::Message(message)).await?,
                        _ => {}
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
                Frame::Ping { .. } => acks.asked.notify_one(),
            }
        }
    }

    async fn ping(&self, send: &mut SendHalf) -> Result<(), Error> {
        let sent_ms = boottime_ms();
        self.lease.lock().asked(sent_ms);
        Ok(send.send(&Frame::<HostMessage>::Ping { sent_ms }).await?)
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
                _ = pings.tick() => self.ping(send).await?,
                () = acks.asked.notified() => self.ping(send).await?,
            }
        }
    }
}

/// What the reading half wants written.
struct Acks {
    /// What is received and to be acknowledged.
    level: AtomicU64,
    wake: Notify,
    /// The leader wants to hear of us.
    asked: Notify,
}

/// The next part of the handshake.
async fn answer<T: DeserializeOwned>(receive: &mut ReceiveHalf, patience_ms: u64) -> Result<T, Error> {
    let answer = tokio::time::timeout(Duration::from_millis(patience_ms), receive.receive()).await;
    answer.map_err(|_| Error::Slow(patience_ms))??.ok_or(Error::Closed)
}
