//! What the swarm composes: admission and streams of our own, connection limits, pings.

use super::handler::{Handler, Request};
use super::{ConnectionEvent, Shared};
use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished, DialFailure, ListenFailure};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{PeerId, connection_limits, ping};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio_util::sync::CancellationToken;

/// Requests for streams that wait for their connections' tasks.
const REQUESTS_MAX: usize = 4_096;

/// The order matters: a stranger is turned away by `streams` before any other part sees the connection.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub(super) streams: Streams,
    limits: connection_limits::Behaviour,
    ping: ping::Behaviour,
}

impl Behaviour {
    pub(super) fn new(
        shared: Arc<Shared>,
        limits: connection_limits::ConnectionLimits,
        ping: ping::Config,
    ) -> Self {
        Self {
            streams: Streams::new(shared),
            limits: connection_limits::Behaviour::new(limits),
            ping: ping::Behaviour::new(ping),
        }
    }
}

/// The peer is not on the allow-list.
#[derive(Debug, thiserror::Error)]
#[error("peer `{0}` is not a member")]
pub(super) struct Stranger(PeerId);

/// Refuses strangers, brings requests for streams to connections, and knows which connections are of use.
///
/// A connection can be *given up* before it is closed: closing writes a farewell, and to a peer that is gone or does
/// not read that may take until the system's own timeout. From the moment it is given up its streams fail, requests
/// go elsewhere, and the peer counts as disconnected if it was the last.
pub(super) struct Streams {
    shared: Arc<Shared>,
    /// Of handshakes that were just let in, until they count as established or failed.
    admitted: BTreeMap<ConnectionId, CancellationToken>,
    /// Of each connected peer, in the order of arrival; never empty.
    connections: BTreeMap<PeerId, Vec<Connection>>,
    requests: VecDeque<(PeerId, ConnectionId, Request)>,
    events: VecDeque<ConnectionEvent>,
}

struct Connection {
    id: ConnectionId,
    /// Fires when it is given up, or with the end of the peer's stay.
    cut: CancellationToken,
    /// Checks since its last answered ping.
    quiet_checks: u32,
}

impl Streams {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            admitted: BTreeMap::new(),
            connections: BTreeMap::new(),
            requests: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    pub(super) fn is_connected(&self, peer: &PeerId) -> bool {
        self.connections.contains_key(peer)
    }

    /// Passes the request to the peer's newest connection: if there is an older one, it may be dead and not known
    /// to be. Gives the request back if the peer is not connected or too much is waiting.
    ///
    /// Called only by the swarm's task, which polls the swarm right after; so no waker is needed.
    pub(super) fn open(&mut self, peer: PeerId, request: Request) -> Result<(), Request> {
        let newest = self.connections.get(&peer).and_then(|connections| connections.last());
        match newest {
            Some(connection) if self.requests.len() < REQUESTS_MAX => {
                self.requests.push_back((peer, connection.id, request));
                Ok(())
            }
            _ => Err(request),
        }
    }

    /// Gives up one connection, if that has not been done.
    fn give_up(&mut self, peer: PeerId, id: ConnectionId) {
        let Some(connections) = self.connections.get_mut(&peer) else { return };
        connections.retain(|connection| {
            if connection.id == id {
                connection.cut.cancel();
            }
            connection.id != id
        });
        if connections.is_empty() {
            self.connections.remove(&peer);
            self.events.push_back(ConnectionEvent::Disconnected(peer));
        }
        // Dropping a request tells its opener that the connection is gone.
        self.requests.retain(|(_, connection, _)| *connection != id);
    }

    /// Gives up every connection of a stay that has ended, and returns them to be closed.
    pub(super) fn give_up_strangers(&mut self) -> Vec<(PeerId, ConnectionId)> {
        self.give_up_where(|connection| connection.cut.is_cancelled())
    }

    /// A ping on this connection was answered.
    pub(super) fn heard(&mut self, peer: PeerId, id: ConnectionId) {
        let connections = self.connections.get_mut(&peer).into_iter().flatten();
        for connection in connections.filter(|connection| connection.id == id) {
            connection.quiet_checks = 0;
        }
    }

    /// Called at even intervals: gives up the connections without an answered ping in the last `checks_max`, and
    /// returns them to be closed. Checks are counted rather than time, so that a pause of this process (which
    /// delays its own checks as well) is not taken for the silence of everybody else.
    pub(super) fn give_up_silent(&mut self, checks_max: u32) -> Vec<(PeerId, ConnectionId)> {
        for connection in self.connections.values_mut().flatten() {
            connection.quiet_checks = connection.quiet_checks.saturating_add(1);
        }
        self.give_up_where(|connection| connection.quiet_checks > checks_max)
    }

    fn give_up_where(&mut self, matches: impl Fn(&Connection) -> bool) -> Vec<(PeerId, ConnectionId)> {
        let mut given_up = Vec::new();
        for (peer, connections) in &self.connections {
            let ids = connections.iter().filter(|connection| matches(connection));
            given_up.extend(ids.map(|connection| (*peer, connection.id)));
        }
        for (peer, id) in &given_up {
            self.give_up(*peer, *id);
        }
        given_up
    }

    fn handler(&mut self, peer: PeerId, id: ConnectionId) -> Result<Handler, ConnectionDenied> {
        let member = self.shared.members.get(&peer).ok_or_else(|| ConnectionDenied::new(Stranger(peer)))?;
        let cut = member.left().child_token();
        self.admitted.insert(id, cut.clone());
        Ok(Handler::new(peer, self.shared.clone(), cut))
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = ConnectionEvent;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handler(peer, id)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handler(peer, id)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, connection_id, .. }) => {
                let Some(cut) = self.admitted.remove(&connection_id) else { return };
                if cut.is_cancelled() {
                    // The stay ended in the meantime, and the sweep for strangers may have been before this.
                    self.shared.members.changed.notify_one();
                }
                let connections = self.connections.entry(peer_id).or_default();
                if connections.is_empty() {
                    self.events.push_back(ConnectionEvent::Connected(peer_id));
                }
                connections.push(Connection { id: connection_id, cut, quiet_checks: 0 });
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                self.give_up(peer_id, connection_id);
            }
            // Another part of the behaviour, say a limit, denied what was let in here.
            FromSwarm::DialFailure(DialFailure { connection_id, .. })
            | FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => {
                self.admitted.remove(&connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<ConnectionEvent, THandlerInEvent<Self>>> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(ToSwarm::GenerateEvent(event));
        }
        match self.requests.pop_front() {
            Some((peer_id, connection, event)) => Poll::Ready(ToSwarm::NotifyHandler {
                peer_id,
                handler: NotifyHandler::One(connection),
                event,
            }),
            None => Poll::Pending,
        }
    }
}
