//! The coordinator's side of `/lote/swarm/1`: hosts are told from whom to pull ([`super::plan`] decides), and chunks are
//! given to those who are told to pull from here.
//!
//! A host is known as long as it is connected. What it says of itself is believed only as far as it can do no harm:
//! whoever pulls from it verifies what it sends.

use super::plan::{DistributionPlan, Source};
use crate::clock;
use lote_shared::chunks::arriving::Arriving;
use lote_shared::chunks::swarm::serve_pulls;
use lote_shared::chunks::{ChunkId, ChunkStore};
use lote_shared::network::rate::Rate;
use lote_shared::network::{ConnectionEvent, Incoming, Network, PeerId, Stream};
use lote_shared::protocol::data::{self, StreamError};
use lote_shared::protocol::swarm::{
    self as wire, ADDRESS_MAX, ADDRESSES_MAX, Request, Response, SOURCES_MAX,
};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::sync::broadcast::error::RecvError;

/// Conversations at once; each of those that pull holds a chunk in memory.
const CONVERSATIONS_MAX: usize = 512;

#[derive(Debug, Default)]
struct State {
    plan: DistributionPlan,
    /// Where hosts can be reached, as they say.
    addresses: BTreeMap<PeerId, Vec<String>>,
}

/// The plan and who is in it. Clones mean the same.
#[derive(Debug, Clone)]
pub struct Swarm {
    state: Arc<Mutex<State>>,
    store: ChunkStore,
}

impl Swarm {
    /// `store` may fetch what is not here from other coordinators.
    pub fn new(store: ChunkStore) -> Swarm {
        Swarm { state: Arc::default(), store }
    }

    /// Bytes of a content that a host holds.
    pub fn held(&self, content: ChunkId, host: PeerId) -> u64 {
        self.state.lock().plan.held(content, host)
    }

    /// Accepts until the network ends.
    pub async fn accept(self, mut incoming: Incoming) {
        let room = Arc::new(Semaphore::new(CONVERSATIONS_MAX));
        while let Some((peer, mut stream)) = incoming.next().await {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
            let swarm = self.clone();
            tokio::spawn(async move {
                match swarm.converse(peer, &mut stream).await {
                    Ok(()) => stream.close().await,
                    Err(error) => tracing::debug!(%peer, %error, "a conversation of the swarm broke off"),
                }
                drop(place);
            });
        }
    }

    /// Forgets hosts whose connection ends.
    pub async fn watch(self, network: Network) {
        let mut events = network.connections();
        loop {
            match events.recv().await {
                Ok(ConnectionEvent::Disconnected(peer)) => self.forget(peer),
                Ok(ConnectionEvent::Connected(_)) => {}
                Err(RecvError::Lagged(_)) => {
                    let connected = network.connected();
                    let known: Vec<PeerId> = self.state.lock().addresses.keys().copied().collect();
                    known
                        .into_iter()
                        .filter(|peer| !connected.contains(peer))
                        .for_each(|peer| self.forget(peer));
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn forget(&self, peer: PeerId) {
        let mut state = self.state.lock();
        state.addresses.remove(&peer);
        state.plan.gone(peer);
    }

    async fn converse(&self, peer: PeerId, stream: &mut Stream) -> Result<(), StreamError> {
        match data::receive::<Request>(stream).await? {
            None => Ok(()),
            Some(Request::Want { content, length, have, addresses }) => {
                self.learn(peer, addresses);
                let mut is_done = false;
                let sources = self.with_plan(|plan, now_ms| plan.want(now_ms, content, length, peer, have));
                let told = self.tell(stream, &sources).await;
                let outcome = match told {
                    Ok(()) => self.follow(peer, stream, content, &mut is_done).await,
                    error => error,
                };
                if !is_done {
                    self.with_plan(|plan, _| plan.gave_up(content, peer));
                }
                outcome
            }
            Some(request) => {
                // Nothing is on its way here that somebody could wait for.
                serve_pulls(stream, &self.store, &Arriving::default(), &Rate::default(), request).await
            }
        }
    }

    /// The rest of a conversation about one content.
    async fn follow(
        &self,
        peer: PeerId,
        stream: &mut Stream,
        content: ChunkId,
        is_done: &mut bool,
    ) -> Result<(), StreamError> {
        while let Some(request) = data::receive::<Request>(stream).await? {
            match request {
                Request::Progress { have } => self.with_plan(|plan, _| plan.progress(content, peer, have)),
                Request::Done => {
                    self.with_plan(|plan, _| plan.done(content, peer));
                    *is_done = true;
                }
                Request::Failed { source, why } => {
                    let source = source.and_then(|source| source.parse().ok());
                    let source = source.map_or(Source::Coordinator, Source::Host);
                    tracing::debug!(%peer, ?source, ?why, %content, "a source failed a host");
                    let sources =
                        self.with_plan(|plan, now_ms| plan.failed(now_ms, content, peer, source, why));
                    self.tell(stream, &sources).await?;
                }
                Request::Want { .. } | Request::Pull { .. } => {
                    let why = "this conversation is about one content".to_owned();
                    data::send(stream, &Response::Invalid(why)).await?;
                    tokio::io::AsyncWriteExt::flush(stream).await?;
                }
            }
        }
        Ok(())
    }

    fn learn(&self, peer: PeerId, mut addresses: Vec<String>) {
        addresses.retain(|address| address.len() <= ADDRESS_MAX);
        addresses.truncate(ADDRESSES_MAX);
        self.state.lock().addresses.insert(peer, addresses);
    }

    fn with_plan<T>(&self, ask: impl FnOnce(&mut DistributionPlan, u64) -> T) -> T {
        ask(&mut self.state.lock().plan, clock::monotonic_ms())
    }

    async fn tell(&self, stream: &mut Stream, sources: &[Source]) -> Result<(), StreamError> {
        let sources = {
            let state = self.state.lock();
            let source = |source: &Source| match source {
                Source::Coordinator => wire::Source::Coordinator,
                Source::Host(peer) => wire::Source::Host {
                    peer: peer.to_string(),
                    addresses: state.addresses.get(peer).cloned().unwrap_or_default(),
                },
            };
            sources.iter().take(SOURCES_MAX).map(source).collect()
        };
        data::send(stream, &Response::Sources(sources)).await?;
        Ok(tokio::io::AsyncWriteExt::flush(stream).await?)
    }
}
