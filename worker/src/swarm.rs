//! Bringing large contents of the own storage to this host, from whoever the coordinator names, and giving them to others
//! (`lote_shared::protocol::swarm`).
//!
//! One download of a content at a time serves every task of the host that needs it. It holds a conversation with the
//! coordinator that welcomed this host, pulls from the first source it is told, and leaves one that falls silent, breaks
//! off, only waits or sends wrong bytes, for the next that the coordinator names. What has arrived stays.

use crate::attempt::own::failed;
use crate::attempt::transfer::Error;
use lote_shared::chunks::arriving::Arriving;
use lote_shared::chunks::fetch::{self, Get, bring};
use lote_shared::chunks::swarm::{Leave, Puller, serve_pulls};
use lote_shared::chunks::{ChunkId, ChunkStore, Manifest, Tree};
use lote_shared::network::rate::Rate;
use lote_shared::network::{Incoming, Multiaddr, Network, OpenError, Patient, PeerId, Protocol, Stream};
use lote_shared::protocol::data::{self, StreamError};
use lote_shared::protocol::swarm::{ADDRESSES_MAX, Request, Response, SOURCES_MAX, Source, Trouble};
use lote_shared::turns::Turns;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedMutexGuard, Semaphore, SemaphorePermit};

/// Smaller contents are fetched from the coordinator, if there are not many of them at once ([`Bundle`]): asking whom to
/// pull from would take as long.
pub const LEAST: u64 = 256 * 1024;
/// Downloads at once of large contents, and as many of bundles, each with a chunk or two in memory. Small files do not wait
/// for large ones.
const DOWNLOADS_MAX: usize = 8;
/// Peers that pull from here at once, each with a chunk in memory.
const PULLS_MAX: usize = 32;
/// A host that says nothing for so long is left: while it waits itself it says so.
const SILENCE: Duration = Duration::from_millis(800);
/// A host that cannot be reached in this time is left.
const OPEN_WITHIN: Duration = Duration::from_secs(1);
/// Chunks between two looks at the plan.
const PART: usize = 32;
/// Bytes between two words on how far the download is.
const TELL_EVERY: u64 = 4 * 1024 * 1024;
/// Sources that may fail one download.
const FAILURES_MAX: usize = 64;
/// How long the coordinator has to name sources.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Limits of what this host gives and takes, in bytes a second.
#[derive(Debug, Clone, Default)]
pub struct Rates {
    pub upload: Rate,
    pub download: Rate,
}

/// Clones mean the same.
#[derive(Clone)]
pub struct Swarm {
    network: Network,
    cache: ChunkStore,
    arriving: Arriving,
    rates: Rates,
    /// Longest silence of a coordinator, whose disk may be busy.
    idle: Duration,
    room: Arc<Semaphore>,
    room_of_bundles: Arc<Semaphore>,
    downloads: Arc<Turns<ChunkId>>,
}

impl Rates {
    /// By bits a second in millions; `None`: as fast as it goes.
    pub fn of_mbit(upload: Option<u64>, download: Option<u64>) -> Rates {
        let rate = |mbit: Option<u64>| Rate::new(mbit.map(|mbit| mbit.saturating_mul(1_000_000) / 8));
        Rates { upload: rate(upload), download: rate(download) }
    }
}

impl Swarm {
    pub fn new(network: Network, cache: ChunkStore, rates: Rates, idle: Duration) -> Swarm {
        Swarm {
            network,
            cache,
            arriving: Arriving::default(),
            rates,
            idle,
            room: Arc::new(Semaphore::new(DOWNLOADS_MAX)),
            room_of_bundles: Arc::new(Semaphore::new(DOWNLOADS_MAX)),
            downloads: Arc::default(),
        }
    }

    /// Gives chunks to peers until the network ends.
    pub async fn serve(self, mut incoming: Incoming) {
        let room = Arc::new(Semaphore::new(PULLS_MAX));
        while let Some((peer, mut stream)) = incoming.next().await {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
            let swarm = self.clone();
            tokio::spawn(async move {
                match swarm.answer(&mut stream).await {
                    Ok(()) => stream.close().await,
                    Err(error) => tracing::debug!(%peer, %error, "a pull broke off"),
                }
                drop(place);
            });
        }
    }

    async fn answer(&self, stream: &mut Stream) -> Result<(), StreamError> {
        let Some(first) = data::receive::<Request>(stream).await? else { return Ok(()) };
        serve_pulls(stream, &self.cache, &self.arriving, &self.rates.upload, first).await
    }

    /// Waits for the content's turn, of which there is one at a time, and for room among the downloads.
    pub async fn turn(&self, content: ChunkId) -> Result<Turn<'_>, Error> {
        self.turn_in(&self.room, content).await
    }

    /// As [`Swarm::turn`]; large contents do not hold up a bundle.
    pub async fn turn_of(&self, bundle: &Bundle) -> Result<Turn<'_>, Error> {
        self.turn_in(&self.room_of_bundles, bundle.id).await
    }

    async fn turn_in<'a>(&'a self, room: &'a Semaphore, content: ChunkId) -> Result<Turn<'a>, Error> {
        let stopped = |_| Error::Broken("the worker stops".into());
        let alone = self.downloads.of(content).lock_owned().await;
        let room = room.acquire().await.map_err(stopped)?;
        Ok(Turn { swarm: self, _alone: alone, _room: room })
    }

    /// Where peers can reach this host: at loopback only if it listens nowhere else.
    fn reachable(&self) -> Vec<String> {
        let (near, far): (Vec<String>, Vec<String>) = self
            .network
            .addresses()
            .iter()
            .map(Multiaddr::to_string)
            .partition(|address| is_loopback(address));
        let mut addresses = if far.is_empty() { near } else { far };
        addresses.truncate(ADDRESSES_MAX);
        addresses
    }
}

/// Small contents that are brought together. Whoever needs the same ones in the same order means the same bundle.
#[derive(Debug)]
pub struct Bundle {
    pub id: ChunkId,
    length: u64,
    chunks: Vec<ChunkId>,
}

impl Bundle {
    /// Of those that are small; `None` if together they are no more than one small content.
    pub fn of<'a>(contents: impl Iterator<Item = &'a Manifest>) -> Option<Bundle> {
        let mut hash = blake3::Hasher::new_derive_key("lote 2026-11 bundle of contents");
        let (mut length, mut chunks, mut seen) = (0, Vec::new(), BTreeSet::new());
        for content in contents.filter(|content| (1..LEAST).contains(&content.length)) {
            // So short a content is one chunk, unless it was put together.
            if content.tree == Tree::Chunk && seen.insert(content.root) {
                hash.update(&content.root.0);
                chunks.push(content.root);
                length += content.length;
            }
        }
        (length >= LEAST).then(|| Bundle { id: ChunkId(*hash.finalize().as_bytes()), length, chunks })
    }

    pub fn is_here(&self, cache: &ChunkStore) -> bool {
        self.chunks.iter().all(|id| cache.contains(*id))
    }
}

/// The right to bring one content here.
pub struct Turn<'a> {
    swarm: &'a Swarm,
    _alone: OwnedMutexGuard<()>,
    _room: SemaphorePermit<'a>,
}

impl Turn<'_> {
    /// Brings all of the content into the cache. False: this coordinator knows no swarm, and nothing was done.
    pub async fn bring(self, coordinator: PeerId, manifest: &Manifest) -> Result<bool, Error> {
        let bring = async |download: &mut Download| bring(&self.swarm.cache, manifest, download).await;
        self.download(coordinator, (manifest.root, manifest.length), bring).await
    }

    /// As [`Turn::bring`], of the contents of a bundle.
    pub async fn bring_bundle(self, coordinator: PeerId, bundle: &Bundle) -> Result<bool, Error> {
        let bring = async |download: &mut Download| download.get(&bundle.chunks).await;
        self.download(coordinator, (bundle.id, bundle.length), bring).await
    }

    async fn download(
        &self,
        coordinator: PeerId,
        (content, length): (ChunkId, u64),
        bring: impl AsyncFnOnce(&mut Download) -> Result<(), fetch::Error>,
    ) -> Result<bool, Error> {
        let swarm = self.swarm;
        let opened =
            tokio::time::timeout(OPEN_WITHIN * 3, swarm.network.open(coordinator, Protocol::Swarm)).await;
        let stream = match opened.unwrap_or(Err(OpenError::Timeout)) {
            Ok(stream) => stream,
            Err(OpenError::NotServed) => return Ok(false),
            Err(error) => return Err(Error::Broken(format!("no plan of a coordinator: {error}"))),
        };
        let expecting = swarm.arriving.transfer();
        let mut download = Download {
            swarm,
            coordinator,
            plan: Some(Patient::new(stream, ANSWER_WITHIN.max(swarm.idle))),
            sources: VecDeque::new(),
            current: None,
            have: 0,
            told: 0,
            failures: 0,
        };
        let addresses = swarm.reachable();
        download.ask(&Request::Want { content, length, have: 0, addresses }).await?;
        bring(&mut download).await.map_err(failed)?;
        drop(expecting);
        download.done().await;
        Ok(true)
    }
}

/// Bringing one content here.
struct Download<'a> {
    swarm: &'a Swarm,
    coordinator: PeerId,
    /// `None` once it is broken: then the sources that were named must do.
    plan: Option<Patient>,
    /// Still to be tried, best first.
    sources: VecDeque<Source>,
    current: Option<(Source, Puller<Patient>)>,
    have: u64,
    /// How far the coordinator knows that it is.
    told: u64,
    failures: usize,
}

impl Download<'_> {
    /// Asks the coordinator from whom to pull.
    async fn ask(&mut self, request: &Request) -> Result<(), Error> {
        let lost = || Error::Broken("the conversation about the plan broke off".into());
        let plan = self.plan.as_mut().ok_or_else(lost)?;
        let exchange = async {
            data::send(plan, request).await?;
            plan.flush().await?;
            data::receive::<Response>(plan).await
        };
        let error = match exchange.await {
            Ok(Some(Response::Sources(sources))) => {
                self.sources = sources.into_iter().take(SOURCES_MAX).collect();
                return Ok(());
            }
            Ok(_) => Error::Broken("the coordinator does not say from whom to pull".into()),
            Err(error) => Error::Broken(format!("no plan of a coordinator: {error}")),
        };
        self.plan = None;
        Err(error)
    }

    /// From one source after the other.
    async fn pull(&mut self, ids: &[ChunkId]) -> Result<(), fetch::Error> {
        loop {
            // What is here already needs no source.
            if ids.iter().all(|id| self.swarm.cache.contains(*id)) {
                return Ok(());
            }
            if self.current.is_none() && !self.next_source().await? {
                return Err(fetch::Error::Protocol);
            }
            let Some((source, puller)) = &mut self.current else { continue };
            let (have, swarm) = (&mut self.have, self.swarm);
            let pulled = puller
                .pull(&swarm.cache, &swarm.arriving, &swarm.rates.download, ids, &mut |bytes| *have += bytes)
                .await;
            let why = match pulled {
                Ok(()) => return Ok(()),
                // The own disk: no other source would help.
                Err(Leave::Broken(fetch::Error::Store(error))) => return Err(error.into()),
                Err(why) => why,
            };
            tracing::info!(?source, %why, "content is pulled from elsewhere");
            let (source, trouble) = (source.clone(), trouble(&why));
            self.current = None;
            self.report(source, trouble).await?;
        }
    }

    async fn report(&mut self, source: Source, why: Trouble) -> Result<(), fetch::Error> {
        self.failures += 1;
        if self.failures > FAILURES_MAX {
            return Err(fetch::Error::Protocol);
        }
        let source = match source {
            Source::Host { peer, .. } => Some(peer),
            Source::Coordinator => None,
        };
        self.tell().await;
        if let Err(error) = self.ask(&Request::Failed { source, why }).await {
            tracing::info!(%error, "the sources that were named have to do");
        }
        Ok(())
    }

    /// Opens the first source that can be reached; false if there is none.
    async fn next_source(&mut self) -> Result<bool, fetch::Error> {
        while let Some(source) = self.sources.pop_front() {
            let (peer, silence) = match &source {
                Source::Coordinator => (self.coordinator, self.swarm.idle),
                Source::Host { peer, addresses } => {
                    let Ok(peer) = peer.parse::<PeerId>() else { continue };
                    let known =
                        addresses.iter().take(ADDRESSES_MAX).filter_map(|address| address.parse().ok());
                    known.for_each(|address: Multiaddr| self.swarm.network.add_address(peer, address));
                    (peer, SILENCE)
                }
            };
            let open = self.swarm.network.open(peer, Protocol::Swarm);
            let within = if source == Source::Coordinator { OPEN_WITHIN * 3 } else { OPEN_WITHIN };
            match tokio::time::timeout(within, open).await.unwrap_or(Err(OpenError::Timeout)) {
                Ok(stream) => {
                    self.current = Some((source, Puller::new(Patient::new(stream, silence))));
                    return Ok(true);
                }
                Err(error) => {
                    tracing::info!(?source, %error, "a source cannot be reached");
                    self.report(source, Trouble::Dead).await?;
                }
            }
        }
        Ok(false)
    }

    /// Tells how far this host is, if that has become much.
    async fn tell(&mut self) {
        let Some(plan) = self.plan.as_mut().filter(|_| self.have >= self.told + TELL_EVERY) else { return };
        self.told = self.have;
        let told = async {
            data::send(plan, &Request::Progress { have: self.have }).await?;
            Ok::<_, StreamError>(plan.flush().await?)
        };
        if let Err(error) = told.await {
            tracing::info!(%error, "the conversation about the plan broke off");
            self.plan = None;
        }
    }

    async fn done(mut self) {
        if let Some((_, puller)) = self.current.take() {
            puller.end().await.into_inner().close().await;
        }
        let Some(mut plan) = self.plan else { return };
        if data::send(&mut plan, &Request::Done).await.is_ok() {
            let _ = plan.flush().await;
            plan.into_inner().close().await;
        }
    }
}

impl Get for Download<'_> {
    async fn get(&mut self, ids: &[ChunkId]) -> Result<(), fetch::Error> {
        for part in ids.chunks(PART) {
            self.pull(part).await?;
            self.tell().await;
        }
        Ok(())
    }
}

fn is_loopback(address: &str) -> bool {
    address.starts_with("/ip4/127.") || address.starts_with("/ip6/::1/")
}

fn trouble(why: &Leave) -> Trouble {
    match why {
        Leave::Broken(fetch::Error::WrongChunk { .. }) => Trouble::Lying,
        Leave::Broken(_) => Trouble::Dead,
        Leave::Slow => Trouble::Slow,
        Leave::Missing => Trouble::Missing,
    }
}
