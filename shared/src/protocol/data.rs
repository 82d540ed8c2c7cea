//! `/lote/data/1`: content between members: what a URL of our own storage names, and chunks by name.
//!
//! The caller writes one [`Request`] frame at a time, or several ahead; the other side answers each in order with one
//! [`Response`] frame. Where a frame announces bytes they follow it raw. A chunk's bytes are preceded by its trailer
//! (`chunks::seal`), whose unit values fold to the chunk's name, so every 64 KiB are verified as they arrive.
//!
//! Who may what: a URL carries its own credentials, which are checked exactly as over HTTP. Chunks are given to any
//! member that knows their name; the name is 256 bits that only the manifest tells. Only a coordinator may have chunks
//! kept without committing anything, and is answered only from what is here: it asks the others itself.
//!
//! Frames: length of four bytes, big-endian, then the codec's bytes; length 0 ends the conversation.

use super::codec;
use crate::chunks::{ChunkId, Manifest};
use crate::model::Producer;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Version of the messages.
pub const VERSION: u8 = 1;
/// Largest frame.
pub const FRAME_MAX: u32 = 1024 * 1024;
/// Most names in one [`Request::Have`].
pub const HAVE_MAX: usize = 1024;
/// Most entries of one answer to [`Request::List`].
pub const LIST_MAX: u32 = 1000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// What does this URL name? Needs the right to read.
    Resolve { url: String },
    /// The blobs of a container, by name from `from` on; needs the right to list.
    List { url: String, prefix: String, from: String, max: u32 },
    /// A chunk, please.
    Chunk { id: ChunkId },
    /// Which of these do you have? Those you have stay for a while.
    Have { ids: Vec<ChunkId> },
    /// Here is a chunk; `length` raw bytes follow.
    Put { id: ChunkId, length: u32, trailer: Vec<u8> },
    /// The blob at this URL is now this; needs the right to write. All chunks of the manifest must be there.
    Commit { url: String, manifest: Manifest, headers: BlobHeaders, metadata: Vec<(String, String)> },
    /// Put what this conversation gave, and what it was told to have, on stable storage. For coordinators: what a
    /// worker gives becomes durable with its `Commit`, which needs a signature.
    Keep,
    /// As `Commit`, but an output of this attempt of the caller's: taken only as long as a report of it would be.
    Output {
        producer: Producer,
        url: String,
        manifest: Manifest,
        headers: BlobHeaders,
        metadata: Vec<(String, String)>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    Resolved(Blob),
    /// `next` is the name at which to go on.
    Entries {
        blobs: Vec<(String, Blob)>,
        next: Option<String>,
    },
    /// `length` raw bytes follow.
    Chunk {
        length: u32,
        trailer: Vec<u8>,
    },
    /// In the order asked.
    Have(Vec<bool>),
    /// Taken; durable after the next `Commit`.
    Stored,
    Committed {
        etag: String,
    },
    Error(Error),
    Kept,
}

/// A blob as a node needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    pub manifest: Manifest,
    pub etag: String,
    pub content_md5: Option<[u8; 16]>,
}

/// Headers to store with a blob.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobHeaders {
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    pub content_language: Option<String>,
    pub content_disposition: Option<String>,
    pub cache_control: Option<String>,
    pub content_md5: Option<[u8; 16]>,
}

/// Why a request was refused; the conversation goes on, except after a `Put` whose bytes do not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Error {
    #[error("the URL is not one of this storage")]
    NotOurs,
    #[error("no such container")]
    ContainerNotFound,
    #[error("no such blob")]
    BlobNotFound,
    #[error("access denied: {0}")]
    Denied(String),
    #[error("chunk {0} is not here")]
    Missing(ChunkId),
    #[error("the request makes no sense: {0}")]
    Invalid(String),
    /// Worth another try.
    #[error("busy: {0}")]
    Busy(String),
    #[error("failed: {0}")]
    Failed(String),
    #[error("the attempt has been given up, so its output is not taken")]
    Fenced,
}

/// Why the conversation is over.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("the stream broke: {0}")]
    Io(#[from] io::Error),
    #[error("a frame of {0} bytes is too long")]
    TooLong(u32),
    #[error("bad frame: {0}")]
    Frame(#[from] codec::Error),
}

/// Writes one frame, without flushing.
pub async fn send<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
) -> Result<(), StreamError> {
    let body = codec::encode(VERSION, message)?;
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    if length > FRAME_MAX {
        return Err(StreamError::TooLong(length));
    }
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(&body).await?;
    Ok(())
}

/// Reads one frame; `None` at the end mark, or when the peer stopped between frames.
pub async fn receive<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<T>, StreamError> {
    let mut prefix = [0; 4];
    match stream.read_exact(&mut prefix).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other.map(|_| ())?,
    }
    let length = u32::from_be_bytes(prefix);
    match length {
        0 => return Ok(None),
        length if length > FRAME_MAX => return Err(StreamError::TooLong(length)),
        _ => {}
    }
    // The claimed length alone allocates nothing: the buffer grows with what arrives.
    let mut body = Vec::new();
    stream.take(u64::from(length)).read_to_end(&mut body).await?;
    if body.len() as u64 != u64::from(length) {
        return Err(StreamError::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(Some(codec::decode(VERSION, &body, u64::from(FRAME_MAX))?))
}
