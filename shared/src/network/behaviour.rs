//! What the swarm composes: admission and streams of our own, connection limits, pings.

use super::Shared;
use super::handler::{Handler, Request};
use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{PeerId, connection_limits, ping};
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

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
            streams: Streams { shared, connections: BTreeMap::new(), requests: VecDeque::new() },
            limits: connection_limits::Behaviour::new(limits),
            ping: ping::Behaviour::new(ping),
        }
    }
}

/// The peer is not on the allow-list.
#[derive(Debug, thiserror::Error)]
#[error("peer `{0}` is not a member")]
pub(super) struct Stranger(PeerId);

/// Refuses strangers and brings requests for streams to connections.
pub(super) struct Streams {
    shared: Arc<Shared>,
    /// Of each connected peer, in the order of arrival.
    connections: BTreeMap<PeerId, Vec<ConnectionId>>,
    requests: VecDeque<(PeerId, ConnectionId, Request)>,
}

impl Streams {
    pub(super) fn is_connected(&self, peer: &PeerId) -> bool {
        self.connections.contains_key(peer)
    }

    pub(super) fn connected(&self) -> impl Iterator<Item = &PeerId> {
        self.connections.keys()
    }

    /// Passes the request to the peer's newest connection: if there is an older one, it may be dead and not known
    /// to be. Gives the request back if the peer is not connected or too much is waiting.
    ///
    /// Called only by the swarm's task, which polls the swarm right after; so no waker is needed.
    pub(super) fn open(&mut self, peer: PeerId, request: Request) -> Result<(), Request> {
        let newest = self.connections.get(&peer).and_then(|connections| connections.last());
        match newest {
            Some(connection) if self.requests.len() < REQUESTS_MAX => {
                self.requests.push_back((peer, *connection, request));
                Ok(())
            }
            _ => Err(request),
        }
    }

    fn handler(&self, peer: PeerId) -> Result<Handler, ConnectionDenied> {
        if !self.shared.members.contains(&peer) {
            return Err(ConnectionDenied::new(Stranger(peer)));
        }
        Ok(Handler::new(peer, self.shared.clone()))
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handler(peer)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handler(peer)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, connection_id, .. }) => {
                self.connections.entry(peer_id).or_default().push(connection_id);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                if let Some(connections) = self.connections.get_mut(&peer_id) {
                    connections.retain(|other| *other != connection_id);
                    if connections.is_empty() {
                        self.connections.remove(&peer_id);
                    }
                }
                // Dropping a request tells its opener that the connection is gone.
                self.requests.retain(|(_, connection, _)| *connection != connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
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
