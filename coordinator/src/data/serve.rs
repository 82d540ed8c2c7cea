//! The answering side of `/lote/data/1` (`lote_shared::protocol::data`).
//!
//! One call of [`conversation`] per stream. It holds at most one chunk in memory, and the chunks given but not yet
//! committed as files on the disk; a conversation that breaks off leaves those for the collector. Requests are
//! answered in order, so a slow reader slows only itself down.

use super::access::{self, Target};
use crate::api::blob::BlobApi;
use crate::api::blob::operation::Operation;
use crate::state::blobs::{self, BlobAction, Headers, Item};
use crate::state::{Condition, Outcome, RefusalCode};
use lote_shared::chunks::check::check;
use lote_shared::chunks::fetch::{self, receive_chunk};
use lote_shared::chunks::seal::Seal;
use lote_shared::chunks::store::{Group, Hold};
use lote_shared::chunks::{self, ChunkId, Manifest};
use lote_shared::model::Producer;
use lote_shared::network::PeerId;
use lote_shared::protocol::data::{
    self, Blob, BlobHeaders, Error, HAVE_MAX, LIST_MAX, Request, Response, StreamError,
};
use std::net::IpAddr;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

/// Longest sum of metadata names and values, as over HTTP.
const METADATA_MAX: usize = 8 * 1024;
/// Longest stored header, as over HTTP.
const HEADER_MAX: usize = 1024;

/// Who is at the other end.
#[derive(Debug, Clone, Copy, Default)]
pub struct Caller {
    /// Who it is; outputs are taken only from the host that ran the attempt.
    pub peer: Option<PeerId>,
    /// Its address, for signatures bound to one.
    pub address: Option<IpAddr>,
    /// Another coordinator: it may have chunks kept, and is not sent on to itself for those that are not here.
    pub is_coordinator: bool,
}

/// Answers until the peer ends the conversation.
pub async fn conversation<S>(stream: &mut S, api: &BlobApi, caller: Caller) -> Result<(), fetch::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut server = Server { api, caller, group: None, hold: None };
    while let Some(request) = data::receive::<Request>(stream).await? {
        let (response, bytes) = server.answer(stream, request).await?;
        data::send(stream, &response).await?;
        if let Some(bytes) = bytes {
            stream.write_all(&bytes).await.map_err(StreamError::Io)?;
        }
        stream.flush().await.map_err(StreamError::Io)?;
    }
    Ok(())
}

struct Server<'a> {
    api: &'a BlobApi,
    caller: Caller,
    /// Chunks given since the last commit.
    group: Option<Group>,
    /// From the first chunk that was given or asked about to the end of the conversation.
    hold: Option<Hold>,
}

/// A response, and the raw bytes that follow it.
type Answer = (Response, Option<Vec<u8>>);

impl Server<'_> {
    /// Only a `Put` whose bytes cannot be trusted ends the conversation; all else is answered.
    async fn answer<S>(&mut self, stream: &mut S, request: Request) -> Result<Answer, fetch::Error>
    where
        S: AsyncRead + Unpin,
    {
        let response = match request {
            Request::Chunk { id } => match self.chunk(id).await {
                Ok((seal, bytes)) => {
                    let (length, trailer) = (bytes.len() as u32, seal.encode());
                    return Ok((Response::Chunk { length, trailer }, Some(bytes)));
                }
                Err(error) => Err(error),
            },
            Request::Put { id, length, trailer } => {
                let (bytes, seal) = receive_chunk(stream, id, length, &trailer).await?;
                self.with_group(move |group| group.add_sealed(id, &seal, &bytes))
                    .await
                    .map(|()| Response::Stored)
            }
            Request::Have { ids } => self.have(ids).await,
            Request::Resolve { url } => self.resolve(&url).await,
            Request::List { url, prefix, from, max } => self.list(&url, &prefix, &from, max).await,
            Request::Commit { url, manifest, headers, metadata } => {
                self.commit(&url, manifest, headers, metadata, None).await
            }
            Request::Keep => self.keep().await,
            Request::Output { producer, url, manifest, headers, metadata } => {
                self.commit(&url, manifest, headers, metadata, Some(producer)).await
            }
        };
        Ok((response.unwrap_or_else(Response::Error), None))
    }

    async fn chunk(&self, id: ChunkId) -> Result<(Seal, Vec<u8>), Error> {
        let local = self.caller.is_coordinator;
        let store = if local { self.api.chunks.local() } else { self.api.chunks.clone() };
        let (bytes, seal) = blocking(move || store.read(id)).await?;
        Ok((seal, bytes))
    }

    /// Works with the group on another thread.
    async fn with_group<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Group) -> Result<T, chunks::Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.hold.get_or_insert_with(|| self.api.chunks.hold());
        let mut group = self.group.take().unwrap_or_else(|| self.api.chunks.local().group());
        let (result, group) = blocking(move || Ok((work(&mut group), group))).await?;
        self.group = Some(group);
        result.map_err(store_error)
    }

    async fn have(&mut self, ids: Vec<ChunkId>) -> Result<Response, Error> {
        if ids.len() > HAVE_MAX {
            return Err(Error::Invalid(format!("at most {HAVE_MAX} names at a time")));
        }
        // Those that are here are taken into the group, so that nothing collects them before the commit.
        let adopt = move |group: &mut Group| Ok(ids.into_iter().map(|id| group.adopt(id).is_ok()).collect());
        self.with_group(adopt).await.map(Response::Have)
    }

    async fn keep(&mut self) -> Result<Response, Error> {
        if !self.caller.is_coordinator {
            return Err(Error::Denied("only coordinators have chunks kept without a commit".into()));
        }
        self.with_group(Group::commit).await.map(|()| Response::Kept)
    }

    async fn linearize(&self) -> Result<(), Error> {
        self.api.backend.linearize().await.map_err(|error| Error::Busy(error.to_string()))
    }

    async fn resolve(&self, url: &str) -> Result<Response, Error> {
        let target = access::open(self.api, url, Operation::GetBlob, self.caller.address).await?;
        self.linearize().await?;
        let found = self.api.backend.read(|blobs| {
            blobs.blob(target.account, &target.container, &target.blob).map(blob_of).map_err(refused)
        });
        found.unwrap_or_else(|| Err(Error::Failed("the state was not read".into()))).map(Response::Resolved)
    }

    async fn list(&self, url: &str, prefix: &str, from: &str, max: u32) -> Result<Response, Error> {
        let target = access::open(self.api, url, Operation::ListBlobs, self.caller.address).await?;
        self.linearize().await?;
        let max = max.clamp(1, LIST_MAX) as usize;
        let found = self.api.backend.read(|blobs| {
            let page = blobs.list_blobs(target.account, &target.container, prefix, None, from, max);
            let page = page.map_err(refused)?;
            let entry = |item: &Item| match item {
                Item::Blob(name, blob) => Some(((*name).to_owned(), blob_of(blob))),
                Item::Prefix(_) => None,
            };
            let blobs = page.items.iter().filter_map(entry).collect();
            Ok(Response::Entries { blobs, next: page.next })
        });
        found.unwrap_or_else(|| Err(Error::Failed("the state was not read".into())))
    }

    async fn commit(
        &mut self,
        url: &str,
        manifest: Manifest,
        headers: BlobHeaders,
        metadata: Vec<(String, String)>,
        producer: Option<Producer>,
    ) -> Result<Response, Error> {
        let Target { account, container, blob, only_if_new } =
            access::open(self.api, url, Operation::PutBlob, self.caller.address).await?;
        let headers = checked_headers(headers)?;
        check_metadata(&metadata)?;
        let store = self.api.chunks.clone();
        // The chunks of this conversation get their names first, then all of the manifest's are looked at.
        self.with_group(move |group| {
            group.commit()?;
            check(&store, group, &manifest)?;
            group.commit()
        })
        .await?;
        self.api.secure(&manifest).await.map_err(|error| Error::Busy(error.to_string()))?;
        let condition =
            Condition { if_none_match: only_if_new.then(|| vec!["*".to_owned()]), ..Condition::default() };
        let action = BlobAction::Put {
            container,
            blob,
            condition,
            content: manifest,
            headers,
            metadata,
            composed: None,
        };
        let reply = match (producer, self.caller.peer) {
            (None, _) => self.api.backend.propose(account, action).await,
            (Some(producer), Some(peer)) => {
                self.api.backend.propose_output(account, producer, peer.to_string(), action).await
            }
            (Some(_), None) => return Err(Error::Denied("an output comes from a host".into())),
        };
        match reply.map_err(|error| Error::Busy(error.to_string()))? {
            Ok(Outcome::Blob(version)) => Ok(Response::Committed { etag: version.etag_text() }),
            Ok(_) => Err(Error::Failed("an unexpected outcome".into())),
            Err(refusal) if refusal.code == RefusalCode::BlobAlreadyExists => {
                Err(Error::Denied("the signature allows only new blobs".into()))
            }
            Err(refusal) => Err(refused(refusal.code)),
        }
    }
}

fn blob_of(blob: &blobs::Blob) -> Blob {
    Blob { manifest: blob.content, etag: blob.version.etag_text(), content_md5: blob.headers().content_md5 }
}

fn checked_headers(headers: BlobHeaders) -> Result<Headers, Error> {
    let texts = [
        &headers.content_type,
        &headers.content_encoding,
        &headers.content_language,
        &headers.content_disposition,
        &headers.cache_control,
    ];
    if texts.into_iter().flatten().any(|text| text.len() > HEADER_MAX || text.contains(['\r', '\n', '\0'])) {
        return Err(Error::Invalid("a header is too long or has a line break".into()));
    }
    Ok(Headers {
        content_type: headers.content_type,
        content_encoding: headers.content_encoding,
        content_language: headers.content_language,
        content_disposition: headers.content_disposition,
        cache_control: headers.cache_control,
        content_md5: headers.content_md5,
    })
}

fn check_metadata(metadata: &[(String, String)]) -> Result<(), Error> {
    let size: usize = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    let is_name = |name: &str| {
        name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            && name.bytes().next().is_some_and(|b| !b.is_ascii_digit())
    };
    match size <= METADATA_MAX && metadata.iter().all(|(name, _)| is_name(name)) {
        true => Ok(()),
        false => Err(Error::Invalid("the metadata are too long or badly named".into())),
    }
}

fn refused(code: RefusalCode) -> Error {
    match code {
        RefusalCode::ContainerNotFound => Error::ContainerNotFound,
        RefusalCode::BlobNotFound => Error::BlobNotFound,
        RefusalCode::Fenced => Error::Fenced,
        other => Error::Failed(format!("{other:?}")),
    }
}

fn store_error(error: chunks::Error) -> Error {
    match error {
        chunks::Error::Missing(id) => Error::Missing(id),
        chunks::Error::BadList { .. } => Error::Invalid(error.to_string()),
        other => Error::Failed(other.to_string()),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, chunks::Error> + Send + 'static,
) -> Result<T, Error> {
    let task = tokio::task::spawn_blocking(work);
    task.await.unwrap_or(Err(chunks::Error::Stopped)).map_err(store_error)
}

#[cfg(test)]
mod tests;
