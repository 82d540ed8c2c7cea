//! Files of nodes over the network: each operation is one substream to the node's host (`shared::protocol::files`).
//!
//! A host that is away is told at once: the state knows, and opening a stream has a bound of its own.

use crate::api::batch::files::{Content, Listing, NodeFiles};
use crate::engine::Engine;
use crate::state::HostState;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use lote_shared::model::NodeKey;
use lote_shared::network::{Network, PeerId, Protocol, Stream, StreamError};
use lote_shared::protocol::files::{Entry, Error, Operation, Properties, Request, Response};
use std::io;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

/// Within this the API says that the files are unavailable (`ARCHITECTURE.md`, hosts and leases).
const OPEN_TIMEOUT: Duration = Duration::from_millis(1_500);
/// A host that answers, but slowly: its disk may be busy.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
const READ_BUFFER: usize = 256 * 1024;

/// The way to the files of every connected host.
#[derive(Debug, Clone)]
pub struct HostFiles {
    engine: Engine,
    network: Network,
}

impl HostFiles {
    pub fn new(engine: Engine, network: Network) -> HostFiles {
        HostFiles { engine, network }
    }

    /// Sends one request; the answer, and the stream for the bytes behind it.
    async fn ask(&self, node: NodeKey, operation: Operation) -> Result<(Response, Stream), Error> {
        let peer = self.peer_of(node).ok_or(Error::NodeUnavailable)?;
        let open = self.network.open(peer, Protocol::Files);
        let mut stream = match tokio::time::timeout(OPEN_TIMEOUT, open).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(_)) | Err(_) => return Err(Error::NodeUnavailable),
        };
        let exchange = async {
            stream.send(&Request { node, operation }).await?;
            stream.receive::<Response>().await
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, exchange).await {
            Ok(Ok(Some(Response::Error(error)))) => Err(error),
            Ok(Ok(Some(response))) => Ok((response, stream)),
            Ok(Ok(None)) | Err(_) => Err(Error::NodeUnavailable),
            Ok(Err(error)) => Err(broken(&error)),
        }
    }

    fn peer_of(&self, node: NodeKey) -> Option<PeerId> {
        self.engine.read(|cluster| {
            let host = cluster.host(cluster.node(node)?.host)?;
            (host.state == HostState::Joined).then(|| host.peer.parse().ok())?
        })
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
