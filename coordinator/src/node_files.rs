//! Files of nodes over the network: each operation is one substream to the node's host (`shared::protocol::files`).
//!
//! Any coordinator answers: one that has no connection to the host asks the leader, which has the host's session, and
//! passes on what comes ([`serve`]). Bytes go through at the pace of the slowest reader; nothing gathers.
//!
//! A host that is away is told at once: the state knows, and opening a stream has a bound of its own.

use crate::api::batch::files::{Content, Listing, NodeFiles};
use crate::engine::Engine;
use crate::leadership::Leadership;
use crate::state::HostState;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use lote_shared::model::NodeKey;
use lote_shared::network::{Incoming, Network, PeerId, Protocol, Stream, StreamError};
use lote_shared::protocol::files::{Entry, Error, Operation, Properties, Request, Response};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::{Semaphore, watch};
use tokio_util::io::ReaderStream;

/// Within these two the API says that the files are unavailable, at most 2 s in all (`ARCHITECTURE.md`, hosts and
/// leases): the way to the leader, and the way from there, or from here, to the host.
const RELAY_TIMEOUT: Duration = Duration::from_millis(500);
const OPEN_TIMEOUT: Duration = Duration::from_millis(1_300);
/// A coordinator that opens a stream says quickly what it wants.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests passed on at once; further ones wait, and then the network refuses them as busy.
const RELAYED_MAX: usize = 64;
/// A host that answers, but slowly: its disk may be busy.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
const READ_BUFFER: usize = 256 * 1024;

/// The way to the files of every connected host.
#[derive(Debug, Clone)]
pub struct HostFiles {
    engine: Engine,
    network: Network,
    leadership: watch::Receiver<Leadership>,
}

impl HostFiles {
    pub fn new(engine: Engine, network: Network, leadership: watch::Receiver<Leadership>) -> HostFiles {
        HostFiles { engine, network, leadership }
    }

    /// Who has the host's session, if it is not this coordinator.
    fn leader(&self) -> Option<PeerId> {
        let leadership = self.leadership.borrow();
        let leader = leadership.leader.as_ref().filter(|_| !leadership.is_ours)?;
        leader.peer.parse().ok().filter(|peer| *peer != self.network.peer())
    }

    /// Opens a stream to whoever can answer for this host.
    async fn open(&self, host: PeerId) -> Result<Stream, Error> {
        let is_here = self.network.connected().contains(&host);
        let (peer, within) = match self.leader() {
            Some(leader) if !is_here => (leader, RELAY_TIMEOUT),
            _ => (host, OPEN_TIMEOUT),
        };
        self.open_to(peer, within).await
    }

    async fn open_to(&self, peer: PeerId, within: Duration) -> Result<Stream, Error> {
        let open = self.network.open(peer, Protocol::Files);
        match tokio::time::timeout(within, open).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(_)) | Err(_) => Err(Error::NodeUnavailable),
        }
    }

    /// Answers another coordinator: its request goes to the host, and the host's answer back, bytes and all. It is not
    /// sent on to a third, so no request goes round in circles.
    async fn relay(&self, mut asking: Stream) -> Result<(), StreamError> {
        let request = tokio::time::timeout(REQUEST_TIMEOUT, asking.receive::<Request>()).await;
        let Ok(Some(request)) = request.unwrap_or(Ok(None)) else { return Ok(()) };
        let asked = async {
            let host = self.peer_of(request.node).ok_or(Error::NodeUnavailable)?;
            let stream = self.open_to(host, OPEN_TIMEOUT).await?;
            exchange(stream, &request).await
        };
        let (response, stream) = match asked.await {
            Ok((response, stream)) => (response, Some(stream)),
            Err(error) => (Response::Error(error), None),
        };
        asking.send(&response).await?;
        if let (Response::Content { length, .. }, Some(stream)) = (&response, stream) {
            let mut content = BufReader::with_capacity(READ_BUFFER, stream.take(*length));
            if tokio::io::copy_buf(&mut content, &mut asking).await? < *length {
                // Dropped without an end: the reader sees that bytes are missing.
                return Ok(());
            }
            asking.flush().await?;
        }
        asking.close().await;
        Ok(())
    }

    /// Sends one request; the answer, and the stream for the bytes behind it.
    async fn ask(&self, node: NodeKey, operation: Operation) -> Result<(Response, Stream), Error> {
        let peer = self.peer_of(node).ok_or(Error::NodeUnavailable)?;
        let stream = self.open(peer).await?;
        exchange(stream, &Request { node, operation }).await
    }

    fn peer_of(&self, node: NodeKey) -> Option<PeerId> {
        self.engine.read(|cluster| {
            let host = cluster.host(cluster.node(node)?.host)?;
            (host.state == HostState::Joined).then(|| host.peer.parse().ok())?
        })
    }
}

async fn exchange(mut stream: Stream, request: &Request) -> Result<(Response, Stream), Error> {
    let answered = async {
        stream.send(request).await?;
        stream.receive::<Response>().await
    };
    match tokio::time::timeout(ANSWER_TIMEOUT, answered).await {
        Ok(Ok(Some(Response::Error(error)))) => Err(error),
        Ok(Ok(Some(response))) => Ok((response, stream)),
        Ok(Ok(None)) | Err(_) => Err(Error::NodeUnavailable),
        Ok(Err(error)) => Err(broken(&error)),
    }
}

/// Answers other coordinators until the network ends.
pub async fn serve(mut incoming: Incoming, files: Arc<HostFiles>) {
    let room = Arc::new(Semaphore::new(RELAYED_MAX));
    while let Some((peer, stream)) = incoming.next().await {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let files = Arc::clone(&files);
        tokio::spawn(async move {
            if let Err(error) = files.relay(stream).await {
                tracing::debug!(%peer, %error, "a file was not passed on");
            }
            drop(place);
        });
    }
}

fn broken(error: &StreamError) -> Error {
    tracing::debug!(%error, "a file stream broke");
    Error::NodeUnavailable
}

/// An answer that does not belong to the question.
fn unexpected() -> Error {
    Error::Io("the host answered something else".to_owned())
}

#[async_trait]
impl NodeFiles for HostFiles {
    async fn stat(&self, node: NodeKey, path: &str) -> Result<Properties, Error> {
        match self.ask(node, Operation::Stat { path: path.to_owned() }).await?.0 {
            Response::Properties(properties) => Ok(properties),
            _ => Err(unexpected()),
        }
    }

    async fn read(&self, node: NodeKey, path: &str, start: u64, end: Option<u64>) -> Result<Content, Error> {
        let (response, stream) =
            self.ask(node, Operation::Read { path: path.to_owned(), start, end }).await?;
        let Response::Content { properties, start, length } = response else { return Err(unexpected()) };
        // A stream that ends early must not look like a short file.
        let bytes = exact(ReaderStream::with_capacity(stream.take(length), READ_BUFFER), length);
        Ok(Content { properties, start, length, bytes: bytes.boxed() })
    }

    async fn list(&self, node: NodeKey, listing: Listing) -> Result<(Vec<Entry>, bool), Error> {
        let Listing { path, prefix, recursive, after, max } = listing;
        match self.ask(node, Operation::List { path, prefix, recursive, after, max }).await?.0 {
            Response::Entries { entries, more } => Ok((entries, more)),
            _ => Err(unexpected()),
        }
    }

    async fn delete(&self, node: NodeKey, path: &str, recursive: bool) -> Result<(), Error> {
        match self.ask(node, Operation::Delete { path: path.to_owned(), recursive }).await?.0 {
            Response::Deleted => Ok(()),
            _ => Err(unexpected()),
        }
    }
}

/// The same pieces, and an error at the end if they are not `length` bytes in all.
fn exact(
    pieces: impl futures::Stream<Item = io::Result<Bytes>>,
    length: u64,
) -> impl futures::Stream<Item = io::Result<Bytes>> {
    let end = futures::stream::once(async { Ok(Bytes::new()) });
    pieces.chain(end).scan((0_u64, false), move |(seen, done), piece| {
        let item = match piece {
            _ if *done => None,
            Ok(piece) if piece.is_empty() => {
                *done = true;
                let short = *seen < length;
                short.then(|| {
                    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the host ended the file early"))
                })
            }
            Ok(piece) => {
                *seen += piece.len() as u64;
                Some(Ok(piece))
            }
            Err(error) => {
                *done = true;
                Some(Err(error))
            }
        };
        futures::future::ready(item)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn collect(pieces: Vec<io::Result<Bytes>>, length: u64) -> Vec<Result<usize, io::ErrorKind>> {
        let pieces = exact(futures::stream::iter(pieces), length);
        pieces.map(|piece| piece.map(|p| p.len()).map_err(|e| e.kind())).collect().await
    }

    #[tokio::test]
    async fn a_file_that_ends_early_is_an_error() {
        let piece = |n: usize| Ok(Bytes::from(vec![7; n]));
        assert_eq!(collect(vec![piece(3), piece(4)], 7).await, [Ok(3), Ok(4)]);
        assert_eq!(collect(vec![piece(3)], 7).await, [Ok(3), Err(io::ErrorKind::UnexpectedEof)]);
        assert_eq!(collect(vec![], 0).await, []);
        let broken = || Err(io::Error::from(io::ErrorKind::ConnectionReset));
        assert_eq!(collect(vec![piece(1), broken()], 7).await, [Ok(1), Err(io::ErrorKind::ConnectionReset)]);
    }
}
