//! Content on more than one coordinator: chunks are given to a second one before a record that names them is proposed,
//! and fetched from the others where they are missing (`docs/decisions/0005-a-cluster-of-coordinators.md`, 8).
//!
//! A write is acknowledged when its chunks are on stable storage on min(2, coordinators) of them. So with one
//! coordinator nothing happens here, and where no other can be reached the write is refused as busy: a cluster that
//! accepted it could lose it with one disk. Which coordinators hold a chunk is not recorded; whoever looks for one asks
//! the others in turn. A commit that composes old content gives its second coordinator what that one lacks.

use lote_shared::chunks::fetch::{self, Client};
use lote_shared::chunks::seal::Seal;
use lote_shared::chunks::store::Elsewhere;
use lote_shared::chunks::{ChunkId, ChunkStore, Manifest};
use lote_shared::network::{Network, OpenError, Patient, PeerId, Protocol};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// Conversations at once: half of what one peer admits. Each holds one chunk in memory.
const CONVERSATIONS_MAX: usize = 8;
/// How long a write waits for its turn.
const TURN_WITHIN: Duration = Duration::from_secs(20);
/// A coordinator that cannot be reached in this time is down, as far as a write is concerned.
const OPEN_WITHIN: Duration = Duration::from_secs(3);
/// Longest silence of a coordinator: its disk may be busy.
const IDLE: Duration = Duration::from_secs(10);

/// Why a second copy was not made. Worth another try later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("too much content waits to be copied to another coordinator")]
    Busy,
    #[error("none of the {0} other coordinators could take a second copy of the content")]
    NoSecond(usize),
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Fetch(#[from] fetch::Error),
}

/// Names the coordinators but this one.
pub type Others = Arc<dyn Fn() -> Vec<PeerId> + Send + Sync>;

/// The way to the chunks of the other coordinators; clone freely.
#[derive(Clone)]
pub struct Replicas {
    network: Network,
    others: Others,
    giving: Arc<Semaphore>,
    fetching: Arc<Semaphore>,
    runtime: Handle,
}

impl fmt::Debug for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replicas").field("others", &(self.others)()).finish_non_exhaustive()
    }
}

impl Replicas {
    /// Must be made on the runtime that carries the network.
    pub fn new(network: Network, others: Others) -> Replicas {
        let room = || Arc::new(Semaphore::new(CONVERSATIONS_MAX));
        Replicas { network, others, giving: room(), fetching: room(), runtime: Handle::current() }
    }

    /// Whether this peer may have chunks kept.
    pub fn is_coordinator(&self, peer: PeerId) -> bool {
        (self.others)().contains(&peer)
    }

    /// Those that are connected first: they answer at once, or fail at once.
    fn in_order(&self) -> Vec<PeerId> {
        let connected = self.network.connected();
        let mut others = (self.others)();
        others.sort_by_key(|peer| !connected.contains(peer));
        others
    }

    /// Returns once every chunk of the content, which is on stable storage here, is so on a second coordinator, too;
    /// at once if there is no other.
    pub async fn secure(&self, store: &ChunkStore, content: &Manifest) -> Result<(), Error> {
        let others = self.in_order();
        if others.is_empty() || content.length == 0 {
            return Ok(());
        }
        let turn = tokio::time::timeout(TURN_WITHIN, self.giving.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(Error::Busy) };
        for peer in &others {
            match self.give(*peer, store, content).await {
                Ok(()) => return Ok(()),
                Err(error) => tracing::warn!(%peer, %error, "content was not copied to this coordinator"),
            }
        }
        Err(Error::NoSecond(others.len()))
    }

    async fn give(&self, peer: PeerId, store: &ChunkStore, content: &Manifest) -> Result<(), Trouble> {
        let mut client = self.open(peer).await?;
        client.give(store, content).await?;
        client.keep().await?;
        end(client).await;
        Ok(())
    }

    async fn open(&self, peer: PeerId) -> Result<Client<Patient>, Trouble> {
        let open = self.network.open(peer, Protocol::Data);
        let stream = tokio::time::timeout(OPEN_WITHIN, open).await.unwrap_or(Err(OpenError::Timeout))?;
        Ok(Client::new(Patient::new(stream, IDLE)))
    }

    /// Asks the others in turn.
    pub async fn find(&self, id: ChunkId) -> Option<(Vec<u8>, Seal)> {
        let _turn = self.fetching.acquire().await.ok()?;
        for peer in self.in_order() {
            let asked = async {
                let mut client = self.open(peer).await?;
                let chunk = client.chunk(id).await?;
                end(client).await;
                Ok::<_, Trouble>(chunk)
            };
            match asked.await {
                Ok(chunk) => return Some(chunk),
                Err(error) => tracing::debug!(chunk = %id, %peer, %error, "not from this coordinator"),
            }
        }
        None
    }
}

async fn end(mut client: Client<Patient>) {
    client.end().await;
    client.into_inner().into_inner().close().await;
}

impl Elsewhere for Replicas {
    fn fetch(&self, id: ChunkId) -> Option<(Vec<u8>, Seal)> {
        // Reads of the store are made on threads that may block.
        self.runtime.block_on(self.find(id))
    }
}

#[cfg(test)]
mod tests;
