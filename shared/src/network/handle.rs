//! The handle that everybody else holds: start, accept, open.

use super::admission::{ACCEPTED, BUSY, NOT_ALLOWED, NOT_SERVED};
use super::behaviour::Behaviour;
use super::config::Config;
use super::driver::{Command, Driver};
use super::error::{Error, OpenError};
use super::handler::{Opened, Request};
use super::protocol::{Protocol, Role};
use super::stream::{Origin, Stream};
use super::{ConnectionEvent, MultiaddrProtocol, Shared};
use futures::AsyncReadExt as _;
use libp2p::connection_limits::ConnectionLimits;
use libp2p::{Multiaddr, PeerId, SwarmBuilder, noise, ping, tcp, yamux};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Commands that wait for the driver; a full queue makes `open` wait.
const COMMANDS_MAX: usize = 1_024;
/// Connection events kept for a slow receiver; one that falls behind sees `Lagged` and asks `connected()`.
const CONNECTION_EVENTS_MAX: usize = 1_024;
/// Streams of one connection, both directions and all protocols together.
const STREAMS_PER_CONNECTION_MAX: usize = 256;
/// Members stay connected; nothing is saved by closing what is idle.
const IDLE_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Tries of one `open` where the peer is busy or the connection breaks under it.
const TRIES_MAX: u32 = 5;
/// Wait after the first try, doubled with each, ±50 %.
const RETRY_DELAY_MS: u64 = 20;

/// A running network. Clones are cheap and mean the same network; it ends with [`Network::shutdown`], or when the
/// last clone is dropped.
#[derive(Clone)]
pub struct Network {
    peer: PeerId,
    open_timeout: Duration,
    commands: mpsc::Sender<Command>,
    events: broadcast::Sender<ConnectionEvent>,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// Streams of one protocol that peers open to us, in order of arrival. Peers of a wrong role and streams above the
/// limits never get here. Dropping it lets the protocol be accepted anew.
pub struct Incoming(mpsc::Receiver<(PeerId, Stream)>);

impl Incoming {
    /// The next stream; `None` once the network was shut down. Call it in a loop that does nothing but spawn: the
    /// queue behind it is bounded, and a full one turns peers away.
    pub async fn next(&mut self) -> Option<(PeerId, Stream)> {
        self.0.recv().await
    }
}

impl Network {
    /// Starts to listen, on the current tokio runtime. Nobody is admitted before [`Network::set_allowed`].
    pub async fn start(config: Config) -> Result<Network, Error> {
        let shared = Arc::new(Shared::default());
        let limits = ConnectionLimits::default()
            .with_max_pending_incoming(Some(config.handshakes_max))
            .with_max_pending_outgoing(Some(config.handshakes_max))
            .with_max_established(Some(config.connections_max))
            .with_max_established_per_peer(Some(config.connections_per_peer_max));
        let ping = ping::Config::new().with_interval(config.ping_interval).with_timeout(config.ping_timeout);
        let muxer = || {
            let mut muxer = yamux::Config::default();
            muxer.set_max_num_streams(STREAMS_PER_CONNECTION_MAX);
            muxer
        };
        let behaviour_shared = shared.clone();
        let mut swarm = SwarmBuilder::with_existing_identity(config.identity.keypair().clone())
            .with_tokio()
            .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, muxer)
            .map_err(|error| Error::Transport(error.to_string()))?
            .with_behaviour(|_| Behaviour::new(behaviour_shared, limits, ping))
            .map_err(|error| Error::Transport(error.to_string()))?
            .with_swarm_config(|swarm| swarm.with_idle_connection_timeout(IDLE_TIMEOUT))
            .with_connection_timeout(config.connect_timeout)
            .build();

        let mut listening = HashMap::new();
        let mut listeners = Vec::new();
        for address in config.listen {
            let failed = |reason| Error::Listen { address: address.clone(), reason };
            check_free(&address).map_err(|error| failed(error.to_string()))?;
            let listener = swarm.listen_on(address.clone()).map_err(|error| failed(error.to_string()))?;
            let (waiter, waiting) = oneshot::channel();
            listening.insert(listener, waiter);
            listeners.push((address, waiting));
        }

        let (commands, queue) = mpsc::channel(COMMANDS_MAX);
        let (events, _) = broadcast::channel(CONNECTION_EVENTS_MAX);
        let stop = CancellationToken::new();
        let peer = config.identity.peer();
        let driver = Driver {
            swarm,
            shared: shared.clone(),
            commands: queue,
            events: events.clone(),
            listening,
            dials: BTreeMap::new(),
            resolving: JoinSet::new(),
            stop: stop.clone(),
            check_interval: config.ping_interval.max(Duration::from_millis(1)),
            quiet_checks_max: quiet_checks_max(config.ping_interval, config.ping_timeout),
        };
        tokio::spawn(driver.run());
        let network = Network { peer, open_timeout: config.open_timeout, commands, events, shared, stop };

        for (address, waiting) in listeners {
            let reason = match tokio::time::timeout(LISTEN_TIMEOUT, waiting).await {
                Ok(Ok(Ok(()))) => continue,
                Ok(Ok(Err(reason))) => reason,
                Ok(Err(_)) => "the network's task ended".to_owned(),
                Err(_) => "no address within 5 s".to_owned(),
            };
            network.stop.cancel();
            return Err(Error::Listen { address, reason });
        }
        Ok(network)
    }

    /// Our own id.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Where we listen, with real ports; wildcard addresses are replaced by those of the interfaces.
    pub fn addresses(&self) -> Vec<Multiaddr> {
        self.shared.listen_addresses.lock().clone()
    }

    /// Replaces the allow-list; acts at once. Whoever is no longer on it loses streams, connection and addresses; a
    /// peer whose role changed loses its streams.
    pub fn set_allowed(&self, peers: BTreeMap<PeerId, Role>) {
        for peer in self.shared.members.replace(peers) {
            self.shared.addresses.forget(&peer);
        }
    }

    /// Remembers where a peer may be reached; IP addresses and DNS names, with or without a final `/p2p/…`.
    pub fn add_address(&self, peer: PeerId, address: Multiaddr) {
        self.shared.addresses.add(peer, address);
    }

    /// Begins to serve a protocol. There is one [`Incoming`] per protocol at a time.
    pub fn accept(&self, protocol: Protocol) -> Result<Incoming, Error> {
        let receiver = self.shared.acceptors.register(protocol).ok_or(Error::AlreadyAccepted(protocol))?;
        Ok(Incoming(receiver))
    }

    /// Opens a stream, connecting first if need be. Returns once the peer has taken it, so that an error here means
    /// that nobody at the peer saw the stream. A busy peer and a broken connection are tried again a few times.
    pub async fn open(&self, peer: PeerId, protocol: Protocol) -> Result<Stream, OpenError> {
        match tokio::time::timeout(self.open_timeout, self.open_with_retries(peer, protocol)).await {
            Ok(result) => result,
            Err(_) => Err(OpenError::Timeout),
        }
    }

    /// Tells of connections that come and go. Per peer: `Connected` with the first connection, `Disconnected` after
    /// the last.
    pub fn connections(&self) -> broadcast::Receiver<ConnectionEvent> {
        self.events.subscribe()
    }

    /// Who is connected now.
    pub fn connected(&self) -> BTreeSet<PeerId> {
        self.shared.connected.lock().clone()
    }

    /// Ends all streams and connections, and returns once the swarm is gone.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.shared.stopped.cancelled().await;
    }

    async fn open_with_retries(&self, peer: PeerId, protocol: Protocol) -> Result<Stream, OpenError> {
        let mut tries = 1;
        loop {
            match self.try_open(peer, protocol).await {
                Err(OpenError::Busy | OpenError::ConnectionLost) if tries < TRIES_MAX => {
                    let delay_ms = RETRY_DELAY_MS << tries;
                    let jittered_ms = rand::random_range(delay_ms / 2..=delay_ms * 3 / 2);
                    tokio::time::sleep(Duration::from_millis(jittered_ms)).await;
                    tries += 1;
                }
                result => return result,
            }
        }
    }

    async fn try_open(&self, peer: PeerId, protocol: Protocol) -> Result<Stream, OpenError> {
        if peer == self.peer {
            return Err(OpenError::ToSelf);
        }
        let not_allowed = OpenError::NotAllowed { peer, protocol };
        let member = self.shared.members.get(&peer).ok_or(not_allowed.clone())?;
        if !protocol.may_serve(member.role) {
            return Err(not_allowed);
        }
        // Held until the peer's answer. Streams on their way are thereby bounded on both sides: the multiplexer ends
        // the whole connection when it has too many.
        let _turn = member.take_turn().await;
        let (reply, answer) = oneshot::channel();
        let request = Request { protocol, reply };
        let command = Command::Open { peer, request };
        self.commands.send(command).await.map_err(|_| OpenError::ShutDown)?;
        // A request that was dropped was on its way to a connection that closed.
        let Opened { mut stream, cut } = match answer.await {
            Ok(result) => result?,
            Err(_) if self.shared.stopped.is_cancelled() => return Err(OpenError::ShutDown),
            Err(_) => return Err(OpenError::ConnectionLost),
        };
        let mut byte = [0];
        match stream.read(&mut byte).await {
            Ok(1) => match byte[0] {
                ACCEPTED => {
                    let origin = Origin { peer, protocol, cut, _slot: None };
                    Ok(Stream::new(stream, origin))
                }
                BUSY => Err(OpenError::Busy),
                NOT_ALLOWED => Err(OpenError::Refused { peer, protocol }),
                NOT_SERVED => Err(OpenError::NotServed),
                other => {
                    tracing::warn!(%peer, answer = other, "unknown answer to a stream");
                    Err(OpenError::NotServed)
                }
            },
            // Reset before the answer: the peer had no room, or the connection broke.
            _ => Err(OpenError::ConnectionLost),
        }
    }
}

/// Checks that span the timeout and the interval between pings.
fn quiet_checks_max(interval: Duration, timeout: Duration) -> u32 {
    let checks = timeout.as_millis().div_ceil(interval.as_millis().max(1)) + 1;
    u32::try_from(checks).unwrap_or(u32::MAX)
}

/// Fails if somebody listens at this address already. libp2p listens with `SO_REUSEPORT`, by which two processes
/// that are given the same port would silently share its connections.
fn check_free(address: &Multiaddr) -> std::io::Result<()> {
    let mut parts = address.iter();
    let ip = match parts.next() {
        Some(MultiaddrProtocol::Ip4(ip)) => IpAddr::from(ip),
        Some(MultiaddrProtocol::Ip6(ip)) => IpAddr::from(ip),
        // Left to the transport to refuse.
        _ => return Ok(()),
    };
    match parts.next() {
        Some(MultiaddrProtocol::Tcp(port)) if port != 0 => TcpListener::bind((ip, port)).map(drop),
        _ => Ok(()),
    }
}
