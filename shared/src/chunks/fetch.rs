//! The calling side of `/lote/data/1`: bringing content here, and giving content away.
//!
//! Works over any stream, one conversation at a time. Everything that arrives is verified, unit by unit, before it
//! is stored; a peer that sends anything else is an error and its chunk is not kept. What is here already is not
//! asked for again, so a fetch that broke off goes on where it was.

use super::list::Node;
use super::manifest::Manifest;
use super::seal::{self, Seal};
use super::store::Group;
use super::tree::{CHUNK, ChunkId, UNIT};
use super::{ChunkStore, read};
use crate::model::Producer;
use crate::protocol::codec;
use crate::protocol::data::{self, BlobHeaders, Request, Response, StreamError};
use std::collections::VecDeque;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Chunks asked for ahead on one stream.
const WINDOW: usize = 4;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Store(#[from] super::Error),
    /// The peer refused.
    #[error(transparent)]
    Refused(data::Error),
    /// The peer sent bytes that do not belong to the chunk that was asked for: it is wrong or worse.
    #[error("the peer sent a wrong chunk {id}: {why}")]
    WrongChunk { id: ChunkId, why: &'static str },
    #[error("the peer answered out of turn or stopped")]
    Protocol,
    #[error("the manifest is not possible")]
    BadManifest,
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        Error::Stream(StreamError::Io(error))
    }
}

/// One conversation with a peer.
#[derive(Debug)]
pub struct Client<S> {
    stream: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub fn new(stream: S) -> Client<S> {
        Client { stream }
    }

    /// Tells the peer that this was all; the stream may be closed then.
    pub async fn end(&mut self) {
        let _ = self.stream.write_all(&codec::END_MARK).await;
        let _ = self.stream.flush().await;
    }

    /// Gives the stream back, to be ended in its own way.
    pub fn into_inner(self) -> S {
        self.stream
    }

    async fn ask(&mut self, request: &Request) -> Result<Response, Error> {
        data::send(&mut self.stream, request).await?;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<Response, Error> {
        self.stream.flush().await?;
        match data::receive(&mut self.stream).await?.ok_or(Error::Protocol)? {
            Response::Error(error) => Err(Error::Refused(error)),
            response => Ok(response),
        }
    }

    /// What a URL of the peer's storage names.
    pub async fn resolve(&mut self, url: &str) -> Result<data::Blob, Error> {
        match self.ask(&Request::Resolve { url: url.to_owned() }).await? {
            Response::Resolved(blob) if blob.manifest.is_plausible() => Ok(blob),
            Response::Resolved(_) => Err(Error::BadManifest),
            _ => Err(Error::Protocol),
        }
    }

    /// A page of a container's blobs, and the name at which the next one starts.
    pub async fn list(
        &mut self,
        url: &str,
        prefix: &str,
        from: &str,
        max: u32,
    ) -> Result<(Vec<(String, data::Blob)>, Option<String>), Error> {
        let (url, prefix, from) = (url.to_owned(), prefix.to_owned(), from.to_owned());
        match self.ask(&Request::List { url, prefix, from, max }).await? {
            Response::Entries { blobs, next } => Ok((blobs, next)),
            _ => Err(Error::Protocol),
        }
    }

    /// Asks for a chunk unless it is here or on its way; takes in older answers to keep the window.
    async fn want(&mut self, wanted: &mut Wanted, id: ChunkId) -> Result<(), Error> {
        if wanted.store.contains(id) || wanted.asked.contains(&id) {
            return Ok(());
        }
        self.drain(wanted, WINDOW - 1).await?;
        data::send(&mut self.stream, &Request::Chunk { id }).await?;
        wanted.asked.push_back(id);
        Ok(())
    }

    /// Takes in answers until only so many are outstanding.
    async fn drain(&mut self, wanted: &mut Wanted, left: usize) -> Result<(), Error> {
        while wanted.asked.len() > left {
            let Some(id) = wanted.asked.front().copied() else { break };
            let Response::Chunk { length, trailer } = self.answer().await? else {
                return Err(Error::Protocol);
            };
            let (bytes, seal) = receive_chunk(&mut self.stream, id, length, &trailer).await?;
            wanted.asked.pop_front();
            wanted.store(id, seal, bytes).await?;
        }
        Ok(())
    }

    /// Gives every chunk of a manifest that the peer lacks to it.
    pub async fn give(&mut self, store: &ChunkStore, manifest: &Manifest) -> Result<(), Error> {
        let (reading, manifest) = (store.clone(), *manifest);
        let list = move || {
            let mut ids = Vec::new();
            read::references(&reading, &manifest, &mut |id| ids.push(id)).map(|()| ids)
        };
        let ids = tokio::task::spawn_blocking(list).await.map_err(|_| super::Error::Stopped)??;
        for part in ids.chunks(data::HAVE_MAX) {
            let Response::Have(have) = self.ask(&Request::Have { ids: part.to_vec() }).await? else {
                return Err(Error::Protocol);
            };
            if have.len() != part.len() {
                return Err(Error::Protocol);
            }
            let missing = part.iter().zip(have).filter(|(_, have)| !have).map(|(id, _)| *id);
            for id in missing {
                self.put(store, id).await?;
            }
        }
        Ok(())
    }

    async fn put(&mut self, store: &ChunkStore, id: ChunkId) -> Result<(), Error> {
        let reading = store.clone();
        let read = tokio::task::spawn_blocking(move || reading.read(id));
        let (bytes, seal) = read.await.map_err(|_| super::Error::Stopped)??;
        let request = Request::Put { id, length: bytes.len() as u32, trailer: seal.encode() };
        data::send(&mut self.stream, &request).await?;
        self.stream.write_all(&bytes).await?;
        match self.answer().await? {
            Response::Stored => Ok(()),
            _ => Err(Error::Protocol),
        }
    }

    /// Has everything that was given, and everything that was there already, put on stable storage.
    pub async fn keep(&mut self) -> Result<(), Error> {
        match self.ask(&Request::Keep).await? {
            Response::Kept => Ok(()),
            _ => Err(Error::Protocol),
        }
    }

    /// One chunk, verified.
    pub async fn chunk(&mut self, id: ChunkId) -> Result<(Vec<u8>, Seal), Error> {
        match self.ask(&Request::Chunk { id }).await? {
            Response::Chunk { length, trailer } => {
                receive_chunk(&mut self.stream, id, length, &trailer).await
            }
            _ => Err(Error::Protocol),
        }
    }

    /// Makes the content the blob at a URL, after [`Client::give`]; as the output of an attempt only while that is the
    /// latest one. Gives its ETag.
    pub async fn commit(
        &mut self,
        url: &str,
        manifest: &Manifest,
        headers: BlobHeaders,
        metadata: Vec<(String, String)>,
        producer: Option<Producer>,
    ) -> Result<String, Error> {
        let (url, manifest) = (url.to_owned(), *manifest);
        let request = match producer {
            None => Request::Commit { url, manifest, headers, metadata },
            Some(producer) => Request::Output { producer, url, manifest, headers, metadata },
        };
        match self.ask(&request).await? {
            Response::Committed { etag } => Ok(etag),
            _ => Err(Error::Protocol),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Client<S> {
    /// Brings every chunk of the manifest into the store, as a cache that may be lost in a power failure.
    pub async fn fetch(&mut self, store: &ChunkStore, manifest: &Manifest) -> Result<(), Error> {
        bring(store, manifest, &mut Fetch { client: self, store }).await
    }
}

/// Brings chunks out of one conversation.
struct Fetch<'a, S> {
    client: &'a mut Client<S>,
    store: &'a ChunkStore,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Get for Fetch<'_, S> {
    async fn get(&mut self, ids: &[ChunkId]) -> Result<(), Error> {
        let mut wanted = Wanted::new(self.store, self.store.cache_group());
        for id in ids {
            self.client.want(&mut wanted, *id).await?;
        }
        self.client.drain(&mut wanted, 0).await?;
        wanted.commit().await
    }
}

/// Whoever can bring chunks of these names into the store, in this order; those that are there may be passed over.
pub trait Get {
    fn get(&mut self, ids: &[ChunkId]) -> impl Future<Output = Result<(), Error>> + Send;
}

/// Walks over a content from its beginning and has every chunk of it brought here, those of one list node together, in the
/// order of the file.
pub async fn bring(store: &ChunkStore, manifest: &Manifest, from: &mut impl Get) -> Result<(), Error> {
    if !manifest.is_plausible() {
        return Err(Error::BadManifest);
    }
    let Some((top, depth)) = manifest.list() else {
        return if manifest.length == 0 { Ok(()) } else { from.get(&[manifest.root]).await };
    };
    let mut nodes = vec![(top, depth, manifest.length)];
    while let Some((id, depth, length)) = nodes.pop() {
        from.get(&[id]).await?;
        let node = read_node(store.clone(), id, depth, length).await?;
        if depth == 1 {
            let ids: Vec<ChunkId> = node.entries.iter().map(|entry| entry.id).collect();
            from.get(&ids).await?;
        } else {
            nodes.extend(node.entries.into_iter().rev().map(|entry| (entry.id, depth - 1, entry.length)));
        }
    }
    Ok(())
}

/// Chunks asked for and those that arrived.
struct Wanted {
    store: ChunkStore,
    asked: VecDeque<ChunkId>,
    group: Option<Group>,
}

impl Wanted {
    fn new(store: &ChunkStore, group: Group) -> Wanted {
        Wanted { store: store.clone(), asked: VecDeque::new(), group: Some(group) }
    }

    async fn with_group(
        &mut self,
        work: impl FnOnce(&mut Group) -> Result<(), super::Error> + Send + 'static,
    ) -> Result<(), Error> {
        let mut group = self.group.take().ok_or(super::Error::Stopped)?;
        let task = tokio::task::spawn_blocking(move || work(&mut group).map(|()| group));
        self.group = Some(task.await.map_err(|_| super::Error::Stopped)??);
        Ok(())
    }

    async fn store(&mut self, id: ChunkId, seal: Seal, bytes: Vec<u8>) -> Result<(), Error> {
        self.with_group(move |group| group.add_sealed(id, &seal, &bytes)).await
    }

    async fn commit(&mut self) -> Result<(), Error> {
        self.with_group(Group::commit).await
    }
}

async fn read_node(store: ChunkStore, id: ChunkId, depth: u8, length: u64) -> Result<Node, Error> {
    let work = move || {
        let (bytes, _) = store.read(id)?;
        Node::decode(&bytes, depth, length).map_err(|why| super::Error::BadList { id, why })
    };
    Ok(tokio::task::spawn_blocking(work).await.map_err(|_| super::Error::Stopped)??)
}

/// Reads the bytes of a chunk from a stream, verifying each unit as it arrives. Used by both sides.
pub async fn receive_chunk(
    stream: &mut (impl AsyncRead + Unpin),
    id: ChunkId,
    length: u32,
    trailer: &[u8],
) -> Result<(Vec<u8>, Seal), Error> {
    let seal = announced(id, length, trailer)?;
    let mut bytes = Vec::with_capacity(seal.length.min(UNIT));
    for index in 0..seal.units.len() {
        let range = seal.unit_range(index);
        bytes.resize(range.end, 0);
        stream.read_exact(&mut bytes[range.clone()]).await?;
        if !seal.check_unit(index, &bytes[range]) {
            return Err(Error::WrongChunk { id, why: "a unit does not have its value" });
        }
    }
    Ok((bytes, seal))
}

/// The seal of a chunk that a peer announces with these words; the units are still to be checked.
pub(super) fn announced(id: ChunkId, length: u32, trailer: &[u8]) -> Result<Seal, Error> {
    let wrong = |why| Error::WrongChunk { id, why };
    let length = length as usize;
    if length > CHUNK || trailer.len() > seal::MAX {
        return Err(wrong("longer than a chunk"));
    }
    let seal = Seal::decode(id, trailer, (length + trailer.len()) as u64).map_err(wrong)?;
    match seal.length == length {
        true => Ok(seal),
        false => Err(wrong("another length than announced")),
    }
}
