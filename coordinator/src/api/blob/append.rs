//! Append blobs: made empty, then grown at the end, block by block.
//!
//! A block is composed with what is there, as the blocks of a list are. Appends to one blob take turns here; one that
//! another coordinator was quicker with is refused by the state, and composed again.

use super::blobs::{check_target, version_of};
use super::body::{Body, Stored};
use super::call::Call;
use super::copy;
use super::error::{Code, Error};
use super::respond;
use super::sums::Sums;
use crate::state::RefusalCode;
use crate::state::blobs::{BlobAction, BlobExtra, check};
use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use lote_shared::chunks::Manifest;
use lote_shared::chunks::compose::{Part, compose};

/// Largest block: 100 MiB.
const BLOCK_MAX: u64 = 100 * 1024 * 1024;
const BLOCKS_MAX: u32 = 50_000;
/// How often a block is composed before the client is told to come back.
const ATTEMPTS_MAX: usize = 5;

pub async fn create(call: &Call<'_>, body: &mut Body) -> Result<HttpResponse, Error> {
    let condition = call.write_condition()?;
    let (headers, metadata) = (call.stored_headers(true)?, call.metadata()?);
    if !body.read(0).await.is_ok_and(|body| body.is_empty()) {
        let why = "An append blob is made without content.";
        return Err(Error::new(Code::InvalidHeaderValue).because(why));
    }
    check_target(call, Some(&condition)).await?;
    let action = BlobAction::PutWith {
        container: call.container.clone(),
        blob: call.blob.clone(),
        condition,
        content: Manifest::empty(),
        headers,
        metadata,
        extras: vec![BlobExtra::Append { blocks: 0 }],
    };
    let outcome = call.propose(action).await?;
    Ok(respond::written(StatusCode::CREATED, version_of(&outcome)))
}

pub async fn append(call: &Call<'_>, body: &mut Body) -> Result<HttpResponse, Error> {
    let expected = Sums::of_body(call)?;
    call.api.backend.linearize().await?;
    look(call)?;
    let stored = body.store(call.api, call.content_length(), BLOCK_MAX, expected.wanted()).await?;
    expected.check(&stored.sums)?;
    grow(call, stored).await
}

pub async fn append_from_url(call: &Call<'_>) -> Result<HttpResponse, Error> {
    call.api.backend.linearize().await?;
    look(call)?;
    let source = copy::bring(call, call.header("x-ms-source-range"), BLOCK_MAX).await?;
    grow(call, source.stored).await
}

/// The blob as it is.
struct Known {
    etag: u64,
    content: Manifest,
    blocks: u32,
}

fn look(call: &Call) -> Result<Known, Error> {
    let condition = call.condition()?;
    let found = call.api.backend.read(|blobs| {
        let blob = blobs.blob(call.account.id, &call.container, &call.blob)?;
        let blocks = blob.appended().ok_or(Code::InvalidBlobType)?;
        check(&condition, Some(blob.version)).map_err(|_| Code::ConditionNotMet)?;
        Ok(Known { etag: blob.version.etag, content: blob.content, blocks })
    });
    found.unwrap_or_else(|| Err(Code::InternalError.into()))
}

/// Adds a block.
async fn grow(call: &Call<'_>, block: Stored) -> Result<HttpResponse, Error> {
    let length = block.content.length;
    if length == 0 {
        return Err(Error::new(Code::InvalidHeaderValue).because("A block has at least one byte."));
    }
    let position = number(call, "x-ms-blob-condition-appendpos")?;
    let size_max = number(call, "x-ms-blob-condition-maxsize")?;
    let key = (call.account.id, call.container.clone(), call.blob.clone());
    let _turn = call.api.appending.of(key).lock_owned().await;
    for _ in 0..ATTEMPTS_MAX {
        let known = look(call)?;
        let offset = known.content.length;
        if position.is_some_and(|position| position != offset) {
            return Err(Code::AppendPositionConditionNotMet.into());
        }
        if size_max.is_some_and(|max| offset.saturating_add(length) > max) {
            return Err(Code::MaxBlobSizeConditionNotMet.into());
        }
        if known.blocks >= BLOCKS_MAX {
            return Err(Code::BlockCountExceedsLimit.into());
        }
        let (chunks, parts) = (call.api.chunks.clone(), [known.content, block.content].map(Part::whole));
        let composed = tokio::task::spawn_blocking(move || compose(&chunks, &parts)).await;
        let content = composed.map_err(|_| Error::new(Code::InternalError))??;
        call.api.secure(&content).await?;
        let action = BlobAction::Append {
            container: call.container.clone(),
            blob: call.blob.clone(),
            condition: call.condition()?,
            base: known.etag,
            content,
        };
        match call.propose(action).await {
            Err(error) if error == Error::from(RefusalCode::Fenced) => {}
            Err(error) => return Err(error),
            Ok(outcome) => {
                let mut response = respond::written(StatusCode::CREATED, version_of(&outcome));
                let headers = response.headers_mut();
                block.sums.write(headers);
                respond::set(headers, "x-ms-blob-append-offset", &offset.to_string());
                let blocks = known.blocks.saturating_add(1);
                respond::set(headers, "x-ms-blob-committed-block-count", &blocks.to_string());
                return Ok(response);
            }
        }
        // Somebody else was quicker; what they wrote has to be seen.
        call.api.backend.linearize().await?;
    }
    Err(Error::new(Code::ServerBusy).because("The blob grew during every attempt to append to it."))
}

fn number(call: &Call, name: &str) -> Result<Option<u64>, Error> {
    let Some(value) = call.header(name) else { return Ok(None) };
    value.parse().map(Some).map_err(|_| {
        Error::new(Code::InvalidHeaderValue).because(format!("{name} must be a number, not `{value}`."))
    })
}
