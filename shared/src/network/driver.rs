//! The one task that owns the swarm. It selects between the swarm's events and a bounded queue of commands, and
//! awaits nothing else.

use super::addresses::{need_resolving, resolve};
use super::behaviour::{Behaviour, BehaviourEvent};
use super::error::OpenError;
use super::handler::Request;
use super::{ConnectionEvent, Shared};
use futures::StreamExt as _;
use libp2p::core::transport::ListenerId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, ListenError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, ping};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Requests that wait for one peer to be connected.
const WAITING_PER_PEER_MAX: usize = 256;

/// What a handle asks of the driver.
pub(super) enum Command {
    Open { peer: PeerId, request: Request },
}

pub(super) struct Driver {
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) shared: Arc<Shared>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) events: broadcast::Sender<ConnectionEvent>,
    /// Listeners whose first address is not known yet, and who waits for it.
    pub(super) listening: HashMap<ListenerId, oneshot::Sender<Result<(), String>>>,
    pub(super) dials: BTreeMap<PeerId, Dial>,
    pub(super) resolving: JoinSet<(PeerId, Vec<Multiaddr>)>,
    pub(super) stop: CancellationToken,
    /// How often pings go out and silence is looked for.
    pub(super) check_interval: Duration,
    /// Checks that a connection may be silent.
    pub(super) quiet_checks_max: u32,
}

/// An attempt to connect to a peer, and who waits for it.
#[derive(Default)]
pub(super) struct Dial {
    waiting: Vec<Request>,
    /// `None` while names are being resolved.
    connection: Option<ConnectionId>,
    /// Addresses at which somebody else answered in this attempt.
    wrong: Vec<Multiaddr>,
}

impl Driver {
    /// Runs until it is told to stop or every handle is gone. Dropping the swarm then ends all connections.
    pub(super) async fn run(mut self) {
        // Fires also if this task is ended by a panic or with its runtime, so that nobody waits for it for ever.
        let _stopped = self.shared.stopped.clone().drop_guard();
        let mut check = tokio::time::interval(self.check_interval);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = self.shared.members.changed.notified() => self.cut_strangers(),
                Some(Ok((peer, addresses))) = self.resolving.join_next() => self.on_resolved(peer, addresses),
                _ = check.tick() => self.cut_silent(),
                event = self.swarm.select_next_some() => self.on_swarm_event(event),
                command = self.commands.recv() => match command {
                    Some(Command::Open { peer, request }) => self.open(peer, request),
                    None => break,
                },
            }
        }
        self.shared.acceptors.close();
        for dial in std::mem::take(&mut self.dials).into_values() {
            dial.fail(&OpenError::ShutDown);
        }
        drop(self.swarm);
    }

    fn open(&mut self, peer: PeerId, request: Request) {
        let streams = &mut self.swarm.behaviour_mut().streams;
        if streams.is_connected(&peer) {
            if let Err(request) = streams.open(peer, request) {
                request.reply.send(Err(OpenError::Busy)).ok();
            }
            return;
        }
        if let Some(dial) = self.dials.get_mut(&peer) {
            dial.waiting.retain(|other| !other.reply.is_closed());
            if dial.waiting.len() < WAITING_PER_PEER_MAX {
                dial.waiting.push(request);
            } else {
                request.reply.send(Err(OpenError::Busy)).ok();
            }
            return;
        }
        let addresses = self.shared.addresses.get(&peer);
        let dial = Dial { waiting: vec![request], ..Dial::default() };
        if need_resolving(&addresses) {
            self.dials.insert(peer, dial);
            self.resolving.spawn(async move { (peer, resolve(addresses).await) });
        } else {
            self.dial(peer, dial, addresses);
        }
    }

    fn on_resolved(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        // Without an entry the peer connected by itself in the meantime.
        if let Some(dial) = self.dials.remove(&peer) {
            self.dial(peer, dial, addresses);
        }
    }

    fn dial(&mut self, peer: PeerId, mut dial: Dial, addresses: Vec<Multiaddr>) {
        let options = DialOpts::peer_id(peer)
            // Whether a dial is needed was decided from the same events already.
            .condition(PeerCondition::Always)
            .addresses(addresses)
            // Dialling from the listening port makes two members that dial each other collide.
            .allocate_new_port()
            .build();
        dial.connection = Some(options.connection_id());
        match self.swarm.dial(options) {
            Ok(()) => {
                self.dials.insert(peer, dial);
            }
            Err(error) => dial.fail(&open_error(peer, &error)),
        }
    }

    fn on_dial_failed(&mut self, peer: PeerId, connection: ConnectionId, error: &DialError) {
        // An error of an earlier attempt says nothing about the current one.
        if self.dials.get(&peer).is_none_or(|dial| dial.connection != Some(connection)) {
            return;
        }
        let Some(mut dial) = self.dials.remove(&peer) else { return };
        if let DialError::WrongPeerId { address, .. } = error {
            // The first address that connects decides a dial; go on with the others.
            dial.wrong.push(super::addresses::bare(address.clone()));
            let mut others = self.shared.addresses.get(&peer);
            others.retain(|address| !dial.wrong.contains(address));
            if !others.is_empty() && !need_resolving(&others) {
                return self.dial(peer, dial, others);
            }
        }
        dial.fail(&open_error(peer, error));
    }

    fn on_connection(&mut self, event: ConnectionEvent) {
        tracing::debug!(?event);
        match event {
            ConnectionEvent::Connected(peer) => {
                self.shared.connected.lock().insert(peer);
                let waiting = self.dials.remove(&peer).map(|dial| dial.waiting).unwrap_or_default();
                for request in waiting {
                    self.open(peer, request);
                }
            }
            ConnectionEvent::Disconnected(peer) => {
                self.shared.connected.lock().remove(&peer);
            }
        }
        // An error means that nobody listens.
        self.events.send(event).ok();
    }

    fn on_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Streams(event)) => self.on_connection(event),
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), connection_id, error } => {
                tracing::debug!(%peer, %error, "dial failed");
                self.on_dial_failed(peer, connection_id, &error);
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => match error {
                ListenError::LocalPeerId { .. } => tracing::error!(
                    from = %send_back_addr,
                    "another machine uses a copy of this machine's identity file; it was turned away"
                ),
                error => tracing::debug!(from = %send_back_addr, %error, "inbound connection refused"),
            },
            SwarmEvent::NewListenAddr { listener_id, address } => {
                tracing::info!(%address, "listening");
                self.shared.listen_addresses.lock().push(address);
                if let Some(waiter) = self.listening.remove(&listener_id) {
                    waiter.send(Ok(())).ok();
                }
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.shared.listen_addresses.lock().retain(|other| *other != address);
            }
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                self.shared.listen_addresses.lock().retain(|other| !addresses.contains(other));
                let reason = reason.err().map_or_else(|| "closed".to_owned(), |error| error.to_string());
                match self.listening.remove(&listener_id) {
                    Some(waiter) => {
                        waiter.send(Err(reason)).ok();
                    }
                    None => tracing::error!(?addresses, %reason, "no longer listening"),
                }
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "listener"),
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event { peer, connection, result })) => {
                match result {
                    Ok(_) => self.swarm.behaviour_mut().streams.heard(peer, connection),
                    // The check for silence draws the conclusions: libp2p reports some failures late or not at all.
                    Err(error) => tracing::debug!(%peer, %error, "ping failed"),
                }
            }
            _ => {}
        }
    }

    fn cut_silent(&mut self) {
        for (peer, connection) in self.swarm.behaviour_mut().streams.give_up_silent(self.quiet_checks_max) {
            tracing::info!(%peer, "peer does not answer pings; connection closed");
            self.swarm.close_connection(connection);
        }
    }

    /// Closes the connections of everybody who is no longer a member, or a member in another role.
    fn cut_strangers(&mut self) {
        for (peer, connection) in self.swarm.behaviour_mut().streams.give_up_strangers() {
            tracing::info!(%peer, "no longer a member as it was; connection closed");
            self.swarm.close_connection(connection);
        }
    }
}

impl Dial {
    fn fail(self, error: &OpenError) {
        for request in self.waiting {
            request.reply.send(Err(error.clone())).ok();
        }
    }
}

fn open_error(peer: PeerId, error: &DialError) -> OpenError {
    match error {
        DialError::NoAddresses => OpenError::NoAddress(peer),
        DialError::LocalPeerId { .. } => OpenError::ToSelf,
        DialError::WrongPeerId { obtained, address } => {
            OpenError::WrongPeer { peer, found: *obtained, address: address.clone() }
        }
        DialError::Denied { cause } if cause.downcast_ref::<super::behaviour::Stranger>().is_some() => {
            OpenError::ConnectionLost
        }
        other => OpenError::Unreachable { peer, reason: reason_of(other) },
    }
}

/// The causes of a failed dial on one line: libp2p's own text spreads over many and hides the system's error.
fn reason_of(error: &DialError) -> String {
    match error {
        DialError::Transport(attempts) => {
            let each = attempts.iter().map(|(address, error)| format!("{address}: {}", chain(error)));
            each.collect::<Vec<_>>().join("; ")
        }
        other => chain(other),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
