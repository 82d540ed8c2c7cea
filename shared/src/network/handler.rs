//! The part of the network that lives in each connection's own task: it negotiates streams.
//!
//! This stands in for the `libp2p-stream` crate. That crate's accept queue has no buffer and resets a stream that
//! meets a full one, drops a dial request that meets another, and keeps a channel for every connection there ever
//! was; and it hands streams out before anybody could look at the peer's role.

use super::Shared;
use super::admission::greet;
use super::error::OpenError;
use super::protocol::Protocol;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, StreamUpgradeError, SubstreamProtocol};
use libp2p::{PeerId, Stream};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Inbound streams of one connection that wait for their answer to be written. Any above this are reset, which the
/// opener takes for "busy".
const GREETINGS_MAX: usize = 64;

/// Where the opened stream, or the reason why there is none, is to go.
pub(super) type Reply = oneshot::Sender<Result<Opened, OpenError>>;

/// A stream, and what fires when its connection is given up.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) stream: Stream,
    pub(super) cut: CancellationToken,
}

/// Somebody here wants a stream.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) protocol: Protocol,
    pub(super) reply: Reply,
}

pub(super) struct Handler {
    peer: PeerId,
    shared: Arc<Shared>,
    cut: CancellationToken,
    requests: VecDeque<Request>,
    greetings: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl Handler {
    pub(super) fn new(peer: PeerId, shared: Arc<Shared>, cut: CancellationToken) -> Self {
        Self { peer, shared, cut, requests: VecDeque::new(), greetings: FuturesUnordered::new() }
    }

    fn on_inbound(&mut self, stream: Stream, protocol: Protocol) {
        if self.greetings.len() >= GREETINGS_MAX {
            tracing::debug!(peer = %self.peer, %protocol, "too many streams at once; one was reset");
            return;
        }
        let (shared, peer, cut) = (self.shared.clone(), self.peer, self.cut.clone());
        self.greetings.push(Box::pin(async move {
            greet(&shared.members, &shared.acceptors, peer, protocol, stream, cut).await;
        }));
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Request;
    type ToBehaviour = Infallible;
    type InboundProtocol = Negotiation;
    type OutboundProtocol = Negotiation;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Reply;

    fn listen_protocol(&self) -> SubstreamProtocol<Negotiation, ()> {
        // All of them, for every role: the answer byte says why a stream is refused, a failed negotiation does not.
        SubstreamProtocol::new(Negotiation(&Protocol::ALL), ())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Negotiation, Reply, Infallible>> {
        while let Poll::Ready(Some(())) = self.greetings.poll_next_unpin(cx) {}
        // The connection polls again after each request it is given, so no waker is needed for this queue.
        while let Some(Request { protocol, reply }) = self.requests.pop_front() {
            if reply.is_closed() {
                continue;
            }
            let offer = match protocol {
                Protocol::Session => &[Protocol::Session],
                Protocol::Files => &[Protocol::Files],
                Protocol::Data => &[Protocol::Data],
                Protocol::Raft => &[Protocol::Raft],
                Protocol::Snapshot => &[Protocol::Snapshot],
                Protocol::Engine => &[Protocol::Engine],
                Protocol::Build => &[Protocol::Build],
                Protocol::Output => &[Protocol::Output],
                Protocol::Swarm => &[Protocol::Swarm],
                Protocol::Storage => &[Protocol::Storage],
            };
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(Negotiation(offer), reply),
            });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, request: Request) {
        self.requests.push_back(request);
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<Negotiation, Negotiation, (), Reply>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol),
                ..
            }) => self.on_inbound(stream, protocol),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (stream, _),
                info: reply,
            }) => {
                // An opener that gave up drops the stream, which resets it.
                reply.send(Ok(Opened { stream, cut: self.cut.clone() })).ok();
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: reply, error }) => {
                let error = match error {
                    StreamUpgradeError::Timeout => OpenError::Timeout,
                    StreamUpgradeError::NegotiationFailed => OpenError::NotServed,
                    StreamUpgradeError::Io(error) => {
                        tracing::debug!(peer = %self.peer, %error, "opening a stream failed");
                        OpenError::ConnectionLost
                    }
                };
                reply.send(Err(error)).ok();
            }
            _ => {}
        }
    }
}

/// Agrees on one of these protocols and gives out the stream as it is.
pub(super) struct Negotiation(&'static [Protocol]);

/// A protocol as the negotiation sees it.
#[derive(Clone, Copy)]
pub(super) struct Name(Protocol);

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        self.0.name()
    }
}

impl UpgradeInfo for Negotiation {
    type Info = Name;
    type InfoIter = std::vec::IntoIter<Name>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.iter().copied().map(Name).collect::<Vec<_>>().into_iter()
    }
}

impl InboundUpgrade<Stream> for Negotiation {
    type Output = (Stream, Protocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, name: Name) -> Self::Future {
        ready(Ok((stream, name.0)))
    }
}

impl OutboundUpgrade<Stream> for Negotiation {
    type Output = (Stream, Protocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, name: Name) -> Self::Future {
        ready(Ok((stream, name.0)))
    }
}
