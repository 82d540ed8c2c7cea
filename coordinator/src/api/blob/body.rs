//! The body of a request as it comes in, or that of a source from which a blob is copied.

use super::BlobApi;
use super::error::{Code, Error};
use super::structured::Decoder;
use super::sums::{Sums, Wanted};
use actix_web::web::Payload;
use bytes::Bytes;
use futures::stream::LocalBoxStream;
use futures::{Stream, StreamExt};
use lote_shared::chunks::{CHUNK, Manifest, Upload};
use std::collections::VecDeque;
use std::fmt::Display;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// Most of an unwanted body that is read, so that its sender gets to see the answer.
const DRAIN_MAX: u64 = 64 * 1024 * 1024;
/// How long an unwanted body may pause.
const DRAIN_PAUSE: Duration = Duration::from_secs(2);
/// How long a wanted body may pause.
const PAUSE: Duration = Duration::from_secs(120);

/// How long a body waits for memory.
const ROOM_WAIT: Duration = Duration::from_secs(20);
/// Chunks that a long upload holds in memory: the one that fills, the one being written, and what is on the way.
const CHUNKS_HELD: u64 = 3;

pub struct Body {
    bytes: LocalBoxStream<'static, Result<Bytes, String>>,
    ended: bool,
    /// Of a structured body, with content that it has given.
    decoder: Option<Decoder>,
    decoded: VecDeque<Bytes>,
}

/// A body that was stored, and what it adds up to.
pub struct Stored {
    pub content: Manifest,
    pub sums: Sums,
}

impl Body {
    pub fn new(payload: Payload) -> Body {
        Body::of(payload)
    }

    /// Of any stream of bytes.
    pub fn of<E: Display>(stream: impl Stream<Item = Result<Bytes, E>> + 'static) -> Body {
        let bytes = stream.map(|item| item.map_err(|error| error.to_string())).boxed_local();
        Body { bytes, ended: false, decoder: None, decoded: VecDeque::new() }
    }

    /// From now on the content of the body is meant, which is structured.
    pub fn decode(&mut self) {
        self.decoder = Some(Decoder::new());
    }

    /// The next bytes of the content.
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(bytes) = self.decoded.pop_front() {
                return Ok(Some(bytes));
            }
            let bytes = self.next_sent().await?;
            match (&mut self.decoder, bytes) {
                (None, bytes) => return Ok(bytes),
                (Some(decoder), Some(bytes)) => self.decoded.extend(decoder.push(bytes)?),
                (Some(decoder), None) => return decoder.end().map(|()| None),
            }
        }
    }

    async fn next_sent(&mut self) -> Result<Option<Bytes>, Error> {
        if self.ended {
            return Ok(None);
        }
        let incomplete = |why: String| Error::new(Code::IncompleteBody).because(why);
        match tokio::time::timeout(PAUSE, self.bytes.next()).await {
            Ok(Some(Ok(bytes))) => Ok(Some(bytes)),
            Ok(None) => {
                self.ended = true;
                Ok(None)
            }
            Ok(Some(Err(error))) => {
                self.ended = true;
                Err(incomplete(error))
            }
            Err(_) => {
                self.ended = true;
                Err(incomplete(format!("nothing came for {} s", PAUSE.as_secs())))
            }
        }
    }

    /// Writes the whole body to the chunk store; it is durable, on a second coordinator
    /// too, when this returns. `announced` is the length that the request's head gives.
    pub async fn store(
        &mut self,
        api: &BlobApi,
        announced: Option<u64>,
        length_max: u64,
        wanted: Wanted,
    ) -> Result<Stored, Error> {
        if announced.is_some_and(|length| length > length_max) {
            return Err(Code::RequestBodyTooLarge.into());
        }
        let _room = room_for(api, announced).await?;
        let chunks = &api.chunks;
        let mut upload = Upload::new(chunks, wanted.begin());
        while let Some(bytes) = self.next().await? {
            if upload.length() + bytes.len() as u64 > length_max {
                return Err(Code::RequestBodyTooLarge.into());
            }
            upload.write(&bytes).await?;
        }
        let length = upload.length();
        if let Some(announced) = announced.filter(|announced| *announced != length) {
            let why = format!("{length} bytes came of the {announced} that were announced.");
            return Err(Error::new(Code::IncompleteBody).because(why));
        }
        let (content, running) = upload.finish().await?;
        api.secure(&content).await?;
        Ok(Stored { content, sums: running.end() })
    }

    /// The whole of a short body.
    pub async fn read(&mut self, length_max: usize) -> Result<Vec<u8>, Error> {
        let mut all = Vec::new();
        while let Some(bytes) = self.next().await? {
            if all.len() + bytes.len() > length_max {
                return Err(Code::RequestBodyTooLarge.into());
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }

    /// Reads on for a while without keeping anything.
    pub async fn drain(&mut self) {
        let mut left = DRAIN_MAX;
        while !self.ended && left > 0 {
            match tokio::time::timeout(DRAIN_PAUSE, self.bytes.next()).await {
                Ok(Some(Ok(bytes))) => left = left.saturating_sub(bytes.len() as u64),
                _ => return,
            }
        }
    }
}

/// Waits for memory; it is given back when the result is dropped.
async fn room_for(api: &BlobApi, announced: Option<u64>) -> Result<OwnedSemaphorePermit, Error> {
    let length = announced.unwrap_or(u64::MAX);
    let mib = length.div_ceil(CHUNK as u64).clamp(1, CHUNKS_HELD) as u32;
    let waiting = api.room.clone().acquire_many_owned(mib);
    match tokio::time::timeout(ROOM_WAIT, waiting).await {
        Ok(Ok(room)) => Ok(room),
        _ => Err(Error::new(Code::ServerBusy).because("Too many bodies are being stored.")),
    }
}
