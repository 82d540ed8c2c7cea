//! The body of a request as it comes in.

use super::BlobApi;
use super::error::{Code, Error};
use actix_web::web::Payload;
use futures::StreamExt;
use lote_shared::chunks::{CHUNK, Manifest, Tap, Upload};
use md5::{Digest, Md5};
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
    payload: Payload,
    ended: bool,
}

impl Body {
    pub fn new(payload: Payload) -> Body {
        Body { payload, ended: false }
    }

    async fn next(&mut self) -> Result<Option<bytes::Bytes>, Error> {
        if self.ended {
            return Ok(None);
        }
        let incomplete = |why: String| Error::new(Code::IncompleteBody).because(why);
        match tokio::time::timeout(PAUSE, self.payload.next()).await {
            Ok(Some(Ok(bytes))) => Ok(Some(bytes)),
            Ok(None) => {
                self.ended = true;
                Ok(None)
            }
            Ok(Some(Err(error))) => {
                self.ended = true;
                Err(incomplete(error.to_string()))
            }
            Err(_) => {
                self.ended = true;
                Err(incomplete(format!("nothing came for {} s", PAUSE.as_secs())))
            }
        }
    }

    /// Writes the whole body to the chunk store; it is durable, on a second coordinator
    /// too, when this returns. Also gives its MD5, if wanted.
    /// `announced` is the length that the request's head gives.
    pub async fn store(
        &mut self,
        api: &BlobApi,
        announced: Option<u64>,
        length_max: u64,
        want_md5: bool,
    ) -> Result<(Manifest, Option<[u8; 16]>), Error> {
        if announced.is_some_and(|length| length > length_max) {
            return Err(Code::RequestBodyTooLarge.into());
        }
        let _room = room_for(api, announced).await?;
        let chunks = &api.chunks;
        let mut upload = Upload::new(chunks, Sums { md5: want_md5.then(Md5::new) });
        while let Some(bytes) = self.next().await? {
            if upload.length() + bytes.len() as u64 > length_max {
                return Err(Code::RequestBodyTooLarge.into());
            }
            upload.write(&bytes).await?;
        }
        let (manifest, sums) = upload.finish().await?;
        api.secure(&manifest).await?;
        Ok((manifest, sums.md5.map(|md5| md5.finalize().into())))
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
            match tokio::time::timeout(DRAIN_PAUSE, self.payload.next()).await {
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

struct Sums {
    md5: Option<Md5>,
}

impl Tap for Sums {
    fn data(&mut self, bytes: &[u8]) {
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
    }
}
