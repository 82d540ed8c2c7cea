//! [`Source`] and [`Sink`] for the cluster's own storage: chunks over `/lote/data/1` instead of HTTP.
//!
//! A URL below one of the endpoints that coordinators named in their welcomes is resolved at the last of them, or at
//! another that can be reached, with the signature it carries; the chunks come into a cache that all tasks of the host
//! share, and the file is laid down from it, so a retry or the next task transfers only what is not here. Outputs are cut into chunks in the same cache, and only
//! those the coordinator lacks are given before the blob is committed. Every other URL goes over HTTP. Once an
//! endpoint is known nothing below it falls back to HTTP: where no coordinator can be reached, or a stream breaks, it is a
//! transient fault like any other. Before the first welcome of a process (only a task adopted from an earlier one can be
//! so early) files are fetched over HTTP, and outputs wait.
//!
//! An output that goes this way is committed in the name of its attempt, and refused once that has been given up: it never
//! replaces what the next attempt wrote. At other URLs nobody can see to that.
//!
//! The cache survives crashes, but nothing depends on it: a torn or missing chunk is noticed and fetched again.

use super::http::{self, HttpStore};
use super::transfer::{Error, Listed, Page, Sink, Source, Wanted};
use crate::cache;
use crate::swarm::{self, Bundle, Swarm};
use base64::Engine;
use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use lote_shared::chunks::fetch::{self, Client};
use lote_shared::chunks::{self, ChunkStore, FileWriter, Manifest, Tap, Walk};
use lote_shared::model::Producer;
use lote_shared::network::{Network, OpenError, Patient, PeerId, Protocol, Stream};
use lote_shared::protocol::data::{self, BlobHeaders, LIST_MAX, StreamError};
use md5::{Digest, Md5};
use parking_lot::Mutex;
use reqwest::Url;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// Conversations at once, half of what a peer admits; each holds a few chunks in memory.
const CONVERSATIONS_MAX: usize = 8;

/// A coordinator that cannot be reached in this time gives way to the next.
const OPEN_WITHIN: Duration = Duration::from_secs(3);
/// An output waits so long for the first welcome of its worker before it is tried again.
const WELCOME_WITHIN: Duration = Duration::from_secs(60);
/// A file that is laid down while it comes is looked at as often.
const LOOK_AGAIN: Duration = Duration::from_millis(25);
/// Endpoints remembered; each coordinator names one per account.
const ENDPOINTS_MAX: usize = 256;

/// Where the own storage is: told by the coordinators that welcomed this host. Clones mean the same.
#[derive(Debug, Clone, Default)]
pub struct Home {
    told: Arc<Mutex<Option<Told>>>,
    /// Whether anybody has told.
    known: Arc<watch::Sender<bool>>,
}

#[derive(Debug)]
struct Told {
    /// Who welcomed this host last.
    peer: PeerId,
    /// Asked when it cannot be reached.
    others: Vec<PeerId>,
    /// Newest first. A task that an earlier leader gave out names that one's endpoint, and every coordinator serves
    /// every blob, so none is forgotten while there is room.
    endpoints: Vec<String>,
}

impl Home {
    /// Who else can be asked.
    pub fn set_coordinators(&self, peers: Vec<PeerId>) {
        if let Some(told) = &mut *self.told.lock() {
            told.others = peers;
        }
    }

    /// `endpoints` are URLs without a final slash.
    pub fn set(&self, peer: PeerId, mut endpoints: Vec<String>) {
        let mut home = self.told.lock();
        let (before, others) = home.take().map(|told| (told.endpoints, told.others)).unwrap_or_default();
        let before = before.into_iter().filter(|end| !endpoints.contains(end)).collect::<Vec<_>>();
        endpoints.extend(before);
        endpoints.truncate(ENDPOINTS_MAX);
        *home = Some(Told { peer, others, endpoints });
        self.known.send_replace(true);
    }

    /// Waits until somebody has said which storage is the own; false if nobody does for so long.
    async fn is_known(&self, within: Duration) -> bool {
        // The sender is here, so the wait ends with a value.
        tokio::time::timeout(within, self.known.subscribe().wait_for(|known| *known)).await.is_ok()
    }

    /// Whom to ask for this URL, in this order, if it is one of the own storage, and the URL as HTTP would send it.
    fn of(&self, url: &str) -> Option<(Vec<PeerId>, String)> {
        let url = String::from(Url::parse(url).ok()?);
        let home = self.told.lock();
        let Told { peer, others, endpoints } = home.as_ref()?;
        let is_below =
            |end: &String| url.strip_prefix(end.as_str()).is_some_and(|rest| rest.starts_with('/'));
        let peers =
            || std::iter::once(peer).chain(others.iter().filter(|other| *other != peer)).copied().collect();
        endpoints.iter().any(is_below).then(|| (peers(), url.clone()))
    }
}

/// The own storage, with all others behind it. Cheap to clone.
#[derive(Clone)]
pub struct OwnStore {
    network: Network,
    home: Home,
    cache: ChunkStore,
    others: HttpStore,
    /// Longest silence of the coordinator.
    idle: Duration,
    room: Arc<Semaphore>,
    swarm: Swarm,
}

type Conversation = Client<Patient>;

impl OwnStore {
    pub fn new(
        network: Network,
        cache: ChunkStore,
        others: HttpStore,
        idle: Duration,
        swarm: Swarm,
    ) -> OwnStore {
        let room = Arc::new(Semaphore::new(CONVERSATIONS_MAX));
        OwnStore { network, home: Home::default(), cache, others, idle, room, swarm }
    }

    pub fn home(&self) -> Home {
        self.home.clone()
    }

    /// The first that can be reached: any coordinator serves every blob.
    async fn open(&self, peers: &[PeerId], protocol: Protocol) -> Result<Stream, OpenError> {
        let (last, before) = peers.split_last().ok_or(OpenError::NotServed)?;
        for peer in before {
            let open = self.network.open(*peer, protocol);
            match tokio::time::timeout(OPEN_WITHIN, open).await.unwrap_or(Err(OpenError::Timeout)) {
                // Whoever serves is as good as any other, and so is what it does not serve.
                found @ (Ok(_) | Err(OpenError::NotServed)) => return found,
                Err(error) => tracing::debug!(%peer, %error, "content is asked of another coordinator"),
            }
        }
        self.network.open(*last, protocol).await
    }

    /// Holds one conversation and ends it in good order if nothing broke.
    async fn converse<T>(
        &self,
        peers: &[PeerId],
        talk: impl AsyncFnOnce(&mut Conversation) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let _place = self.room.acquire().await.map_err(|_| Error::Broken("the worker stops".into()))?;
        self.talk(self.open(peers, Protocol::Data).await, talk).await
    }

    async fn talk<T>(
        &self,
        stream: Result<Stream, OpenError>,
        talk: impl AsyncFnOnce(&mut Conversation) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let stream = stream.map_err(|error| match error {
            OpenError::Timeout => Error::TimedOut,
            error => Error::Broken(format!("no stream to a coordinator: {error}")),
        })?;
        let mut client = Client::new(Patient::new(stream, self.idle));
        let result = talk(&mut client).await;
        // After an error the stream may be in the middle of something; dropping it tells the peer.
        if result.is_ok() {
            client.end().await;
            client.into_inner().into_inner().close().await;
        }
        result
    }

    async fn resolve(&self, peers: &[PeerId], url: &str) -> Result<Manifest, Error> {
        let resolve = async |client: &mut Conversation| {
            client.resolve(url).await.map_err(failed).map(|blob| blob.manifest)
        };
        self.converse(peers, resolve).await
    }

    /// What is known of files, and the small ones among them here: those that many hosts may need come as one content from
    /// whoever the coordinator names, as a large one does.
    async fn gather_files(&self, mut files: Vec<Wanted>) -> Vec<Wanted> {
        let owned: Vec<_> = files.iter().map(|file| self.home.of(&file.url)).collect();
        // A list may be readable where what it lists is not, and its signature is good for all of it or for none.
        let listed = files.iter().zip(&owned).find_map(|(file, own)| file.content.and(own.as_ref()));
        if let Some((peers, url)) = listed
            && let Err(error) = self.resolve(peers, url).await
        {
            tracing::debug!(%error, "files that were listed cannot be read");
            files.iter_mut().for_each(|file| file.content = None);
            return files;
        }
        let unknown = files.iter().zip(&owned).enumerate().filter_map(|(at, (file, own))| {
            let (peers, url) = own.as_ref().filter(|_| file.content.is_none())?;
            Some(async move { (at, self.resolve(peers, url).await.ok()) })
        });
        // One alone is resolved where it is fetched.
        let resolved: Vec<_> = match files.len() {
            0 | 1 => Vec::new(),
            _ => stream::iter(unknown.collect::<Vec<_>>()).buffered(CONVERSATIONS_MAX).collect().await,
        };
        for (at, content) in resolved {
            files[at].content = content;
        }
        let small = files.iter().zip(&owned).filter(|(_, own)| own.is_some());
        let bundle = Bundle::of(small.filter_map(|(file, _)| file.content.as_ref()));
        let peers = owned.iter().flatten().next().map(|(peers, _)| peers.as_slice());
        if let (Some(bundle), Some([coordinator, ..])) = (bundle, peers)
            && !bundle.is_here(&self.cache)
        {
            let brought = match self.swarm.turn_of(&bundle).await {
                Ok(turn) => turn.bring_bundle(*coordinator, &bundle).await,
                Err(error) => Err(error),
            };
            if let Err(error) = brought {
                tracing::info!(%error, "the swarm did not bring all files; a coordinator is asked for the rest");
            }
        }
        files
    }

    async fn fetch_blob(
        &self,
        peers: &[PeerId],
        url: &str,
        content: Option<Manifest>,
        target: &Path,
        mode: u32,
    ) -> Result<u64, Error> {
        // What is touched below stays until the file is laid down.
        let _hold = self.cache.hold();
        // A large one comes from whoever the coordinator names; the conversation is over by then, so that it holds up
        // nobody.
        let manifest = match content {
            Some(manifest) => manifest,
            None => {
                let find = async |client: &mut Conversation| {
                    let manifest = client.resolve(url).await.map_err(failed)?.manifest;
                    if manifest.length < swarm::LEAST {
                        client.fetch(&self.cache, &manifest).await.map_err(failed)?;
                    }
                    Ok(manifest)
                };
                self.converse(peers, find).await?
            }
        };
        if manifest.length >= swarm::LEAST && self.follow(peers, &manifest, target, mode).await? {
            return Ok(manifest.length);
        }
        if !self.touch(manifest).await? {
            // The swarm did not bring all of it, or something that was here went before it was touched.
            let fetch =
                async |client: &mut Conversation| client.fetch(&self.cache, &manifest).await.map_err(failed);
            self.converse(peers, fetch).await?;
            self.touch(manifest).await?;
        }
        let file = http::create(target, mode).await?.into_std().await;
        let cache = self.cache.clone();
        blocking(move || lay_down(&cache, &manifest, file, &Coming::over())).await?;
        Ok(manifest.length)
    }

    /// By way of the swarm, the file laid down while it comes; false if not all of it came, whatever the reason.
    async fn follow(
        &self,
        peers: &[PeerId],
        manifest: &Manifest,
        target: &Path,
        mode: u32,
    ) -> Result<bool, Error> {
        let Some(coordinator) = peers.first() else { return Ok(false) };
        // Whoever lays down holds a thread as long as the content comes, so there are no more than that come at once.
        let turn = self.swarm.turn(manifest.root).await?;
        let file = http::create(target, mode).await?.into_std().await;
        let coming = Coming::new();
        let (cache, content, seen) = (self.cache.clone(), *manifest, coming.seen());
        let laying = tokio::task::spawn_blocking(move || lay_down(&cache, &content, file, &seen));
        let brought = turn.bring(*coordinator, manifest).await;
        if let Err(error) = &brought {
            tracing::info!(%error, "the swarm did not bring a file; a coordinator is asked for the rest");
        }
        if matches!(brought, Ok(true)) {
            self.touch(*manifest).await?;
        }
        drop(coming);
        match laying.await.unwrap_or_else(|error| Err(Error::Broken(error.to_string()))) {
            Ok(()) => Ok(true),
            // The disk of the task: no other way helps.
            Err(error @ Error::Write(_)) => Err(error),
            Err(error) => {
                tracing::debug!(%error, "a file was not laid down while it came");
                Ok(false)
            }
        }
    }

    async fn touch(&self, manifest: Manifest) -> Result<bool, Error> {
        let cache = self.cache.clone();
        blocking(move || Ok(cache::touch(&cache, &manifest))).await
    }

    async fn list_blobs(
        &self,
        peers: &[PeerId],
        url: &str,
        prefix: &str,
        from: Option<&str>,
    ) -> Result<Page, Error> {
        let from = from.unwrap_or_default();
        let (blobs, next) = self
            .converse(peers, async |client| client.list(url, prefix, from, LIST_MAX).await.map_err(failed))
            .await?;
        let listed = |(name, blob): (String, data::Blob)| Listed {
            name,
            length: blob.manifest.length,
            content: Some(blob.manifest).filter(Manifest::is_plausible),
        };
        Ok(Page { blobs: blobs.into_iter().map(listed).collect(), next })
    }

    async fn upload_file(
        &self,
        peers: &[PeerId],
        url: &str,
        file: &Path,
        headers: &[(String, String)],
        producer: Option<Producer>,
    ) -> Result<u64, Error> {
        let (mut headers, metadata) = blob_headers(headers)?;
        let _hold = self.cache.hold();
        let (cache, file) = (self.cache.clone(), file.to_owned());
        let (manifest, digest) = blocking(move || {
            let file = std::fs::File::open(file).map_err(Error::Read)?;
            FileWriter::cached(&cache, Digester(Md5::new())).copy_from(file).map_err(|error| match error {
                chunks::Error::Io { source, .. } => Error::Read(source),
                error => Error::Broken(error.to_string()),
            })
        })
        .await?;
        headers.content_md5.get_or_insert_with(|| digest.0.finalize().into());
        let _place = self.room.acquire().await.map_err(|_| Error::Broken("the worker stops".into()))?;
        let (stream, producer) = match producer {
            None => (self.open(peers, Protocol::Data).await, None),
            Some(producer) => match self.open(peers, Protocol::Output).await {
                // A build that judges no attempts takes outputs as it always did.
                Err(OpenError::NotServed) => (self.open(peers, Protocol::Data).await, None),
                stream => (stream, Some(producer)),
            },
        };
        self.talk(stream, async |client| {
            client.give(&self.cache, &manifest).await.map_err(failed)?;
            client.commit(url, &manifest, headers, metadata, producer).await.map_err(failed)?;
            Ok(manifest.length)
        })
        .await
    }
}

impl Source for OwnStore {
    fn gather(&self, files: Vec<Wanted>) -> BoxFuture<'_, Vec<Wanted>> {
        Box::pin(self.gather_files(files))
    }

    fn fetch<'a>(
        &'a self,
        file: &'a Wanted,
        target: &'a Path,
        mode: u32,
    ) -> BoxFuture<'a, Result<u64, Error>> {
        match self.home.of(&file.url) {
            Some((peers, url)) => {
                Box::pin(async move { self.fetch_blob(&peers, &url, file.content, target, mode).await })
            }
            None => self.others.fetch(file, target, mode),
        }
    }

    fn list<'a>(
        &'a self,
        container: &'a str,
        prefix: &'a str,
        marker: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Page, Error>> {
        match self.home.of(container) {
            Some((peers, url)) => {
                Box::pin(async move { self.list_blobs(&peers, &url, prefix, marker).await })
            }
            None => self.others.list(container, prefix, marker),
        }
    }

    fn blob_url(&self, container: &str, name: &str) -> Result<String, Error> {
        self.others.blob_url(container, name)
    }
}

impl Sink for OwnStore {
    fn upload<'a>(
        &'a self,
        container: &'a str,
        name: &'a str,
        file: &'a Path,
        headers: &'a [(String, String)],
        producer: Option<Producer>,
    ) -> BoxFuture<'a, Result<u64, Error>> {
        Box::pin(async move {
            // An adopted task may end before its worker is welcomed. Over HTTP nobody would judge its attempt.
            if producer.is_some() && !self.home.is_known(WELCOME_WITHIN).await {
                return Err(Error::Broken("no coordinator has said yet which storage is its own".into()));
            }
            let own = self.blob_url(container, name).ok().and_then(|url| self.home.of(&url));
            match own {
                Some((peers, url)) => self.upload_file(&peers, &url, file, headers, producer).await,
                None => self.others.upload(container, name, file, headers, producer).await,
            }
        })
    }
}

/// Whether what is missing may still come; over when it is dropped, so that a download that is given up leaves no thread.
struct Coming(Arc<AtomicBool>);

/// The other end of [`Coming`].
struct Seen(Arc<AtomicBool>);

impl Coming {
    fn new() -> Coming {
        Coming(Arc::new(AtomicBool::new(true)))
    }

    fn seen(&self) -> Seen {
        Seen(Arc::clone(&self.0))
    }

    /// Everything is here.
    fn over() -> Seen {
        Coming::new().seen()
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Writes a content into a file as far as it is here; waits for the rest as long as it is coming.
fn lay_down(
    cache: &ChunkStore,
    manifest: &Manifest,
    mut file: std::fs::File,
    coming: &Seen,
) -> Result<(), Error> {
    // What is missing or damaged now is fetched by the next try.
    let broken = |error: chunks::Error| Error::Broken(format!("the cache of chunks: {error}"));
    let mut written = 0;
    loop {
        // Asked before the cache is: what came last is here when it is over.
        let is_coming = coming.0.load(Ordering::Acquire);
        match lay_down_from(cache, manifest, &mut file, &mut written) {
            Ok(()) => return Ok(()),
            Err(Laying::Write(error)) => return Err(Error::Write(error)),
            Err(Laying::Read(chunks::Error::Missing(_))) if is_coming => std::thread::sleep(LOOK_AGAIN),
            Err(Laying::Read(error)) => return Err(broken(error)),
        }
    }
}

enum Laying {
    Read(chunks::Error),
    Write(io::Error),
}

fn lay_down_from(
    cache: &ChunkStore,
    manifest: &Manifest,
    file: &mut std::fs::File,
    written: &mut u64,
) -> Result<(), Laying> {
    let mut walk = Walk::new(cache, manifest, *written..manifest.length).map_err(Laying::Read)?;
    while let Some(bytes) = walk.next_bytes().map_err(Laying::Read)? {
        file.write_all(&bytes).map_err(Laying::Write)?;
        *written += bytes.len() as u64;
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Error::Broken(error.to_string())))
}

struct Digester(Md5);

impl Tap for Digester {
    fn data(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

type Metadata = Vec<(String, String)>;

/// What Put Blob would make of these headers: `x-ms-blob-…` goes before the plain one.
fn blob_headers(headers: &[(String, String)]) -> Result<(BlobHeaders, Metadata), Error> {
    let find = |name: &str| {
        let value = |wanted: &str| {
            headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.clone())
        };
        value(&format!("x-ms-blob-{name}")).or_else(|| value(name))
    };
    let digest = |text: String| {
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok();
        bytes.and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()).ok_or(Error::Status(400))
    };
    let metadata = headers.iter().filter_map(|(name, value)| {
        let name = name.to_ascii_lowercase();
        Some((name.strip_prefix("x-ms-meta-")?.to_owned(), value.clone()))
    });
    let blob = BlobHeaders {
        content_type: find("content-type"),
        content_encoding: find("content-encoding"),
        content_language: find("content-language"),
        content_disposition: find("content-disposition"),
        cache_control: find("cache-control"),
        content_md5: find("content-md5").map(digest).transpose()?,
    };
    Ok((blob, metadata.collect()))
}

/// A refusal in the terms of HTTP, so that the same failure codes come out.
pub(crate) fn failed(error: fetch::Error) -> Error {
    match error {
        fetch::Error::Refused(refusal) => match refusal {
            data::Error::ContainerNotFound | data::Error::BlobNotFound => Error::NotFound,
            data::Error::Denied(_) => Error::Denied(403),
            data::Error::Invalid(_) => Error::Status(400),
            data::Error::Busy(_) => Error::Status(503),
            data::Error::Failed(_) => Error::Status(500),
            data::Error::NotOurs | data::Error::Fenced => Error::Refused(refusal.to_string()),
            data::Error::Missing(_) => Error::Broken(refusal.to_string()),
        },
        fetch::Error::Stream(StreamError::Io(error)) if error.kind() == io::ErrorKind::TimedOut => {
            Error::TimedOut
        }
        fetch::Error::Store(chunks::Error::Io { source, .. }) => Error::Write(source),
        error => Error::Broken(error.to_string()),
    }
}
