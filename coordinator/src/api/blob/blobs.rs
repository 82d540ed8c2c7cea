//! Operations on blobs, without block lists.

use super::body::{Body, Stored};
use super::call::Call;
use super::error::{Code, Error};
use super::range;
use super::respond::{self, BlobFacts};
use super::structured::{self, Encoder};
use super::sums::{Sums, Wanted};
use crate::state::blobs::{BlobAction, Headers, Metadata, Unmet, check};
use crate::state::reply::Version;
use crate::state::{Condition, Outcome};
use actix_web::HttpResponse;
use actix_web::body::SizedStream;
use actix_web::http::StatusCode;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use lote_shared::chunks::{Manifest, read};
use std::ops::Range;

/// Largest body of Put Blob: 5 000 MiB.
pub const PUT_MAX: u64 = 5_000 * 1024 * 1024;

/// Longest range that is sent with its checksum.
const SUMMED_MAX: u64 = 4 * 1024 * 1024;

/// Refuses early what the state would refuse after the whole body has come: a container that is missing, and a
/// condition that does not hold. The state has the last word.
pub async fn check_target(call: &Call<'_>, condition: Option<&Condition>) -> Result<(), Error> {
    call.api.backend.linearize().await?;
    let found = call.api.backend.read(|blobs| {
        blobs.container(call.account.id, &call.container)?;
        Ok::<_, Error>(blobs.blob(call.account.id, &call.container, &call.blob).ok().map(|b| b.version))
    });
    let version = found.unwrap_or_else(|| Err(Code::InternalError.into()))?;
    let Some(condition) = condition else { return Ok(()) };
    match check(condition, version) {
        Ok(()) => Ok(()),
        // Let the state choose between the codes: it knows nothing more, but there is one table.
        Err(_) if condition.if_none_match.is_some() => Ok(()),
        Err(_) => Err(Code::ConditionNotMet.into()),
    }
}

pub async fn put(call: &Call<'_>, body: &mut Body) -> Result<HttpResponse, Error> {
    let condition = call.write_condition()?;
    let mut headers = call.stored_headers(true)?;
    let metadata = call.metadata()?;
    let expected = Sums::of_body(call)?;
    check_target(call, Some(&condition)).await?;
    let wanted = Wanted { md5: true, ..expected.wanted() };
    let Stored { content, sums } = body.store(call.api, call.content_length(), PUT_MAX, wanted).await?;
    expected.check(&sums)?;
    headers.content_md5 = headers.content_md5.or(sums.md5);
    let action = whole(call, condition, content, headers, metadata);
    let outcome = call.propose(action).await?;
    let mut response = respond::written(StatusCode::CREATED, version_of(&outcome));
    sums.write(response.headers_mut());
    Ok(response)
}

/// The write of a whole block blob.
pub fn whole(
    call: &Call,
    condition: Condition,
    content: Manifest,
    headers: Headers,
    metadata: Metadata,
) -> BlobAction {
    BlobAction::Put {
        container: call.container.clone(),
        blob: call.blob.clone(),
        condition,
        content,
        headers,
        metadata,
        composed: None,
    }
}

pub fn version_of(outcome: &Outcome) -> Option<Version> {
    match outcome {
        Outcome::Blob(version) | Outcome::Record(version) => Some(*version),
        _ => None,
    }
}

/// The record, once the condition of a read holds.
async fn find(call: &Call<'_>) -> Result<(BlobFacts, Manifest), Error> {
    let condition = call.condition()?;
    call.api.backend.linearize().await?;
    let found = call.api.backend.read(|blobs| {
        let blob = blobs.blob(call.account.id, &call.container, &call.blob)?;
        match check(&condition, Some(blob.version)) {
            Ok(()) => Ok((BlobFacts::of(blob), blob.content)),
            Err(Unmet::Changed) => Err(Error::new(Code::ConditionNotMet)),
            Err(Unmet::NotChanged) => Err(Error::new(Code::NotModified)
                .with_header("etag", format!("\"{}\"", blob.version.etag_text()))
                .with_header("last-modified", blob.version.modified.to_http_date())),
        }
    });
    found.unwrap_or_else(|| Err(Code::InternalError.into()))
}

pub async fn get(call: &Call<'_>) -> Result<HttpResponse, Error> {
    let (facts, content) = find(call).await?;
    let wanted = call.header("x-ms-range").or_else(|| call.header("range"));
    let size = facts.length;
    let range = range::resolve(wanted, size).map_err(|_| {
        Error::new(Code::InvalidRange).with_header("content-range", format!("bytes */{size}"))
    })?;
    let part = range.is_some();
    let bytes = range.unwrap_or(0..size);
    let is_structured = call.header(structured::HEADER).is_some();
    if let Some(wanted) = sums_of_range(call) {
        if is_structured {
            let why = "A structured body has its checksums; ask for no other.";
            return Err(Error::new(Code::InvalidHeaderValue).because(why));
        }
        return summed_range(call, &facts, content, part.then_some(bytes), wanted).await;
    }
    let status = if part { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let length = bytes.end - bytes.start;
    let stream = read::stream(call.api.chunks.clone(), content, bytes.clone());
    // A damaged or missing chunk breaks the connection off: the length was promised already.
    let stream = stream.inspect_err(|error| tracing::error!(%error, "a blob could not be read"));
    let stream = stream.map_err(std::io::Error::other);
    let mut builder = HttpResponse::build(status);
    let mut response = match is_structured {
        true => {
            let mut encoder = Encoder::new(length);
            let (encoded_length, begin) = (encoder.encoded_length(), encoder.begin());
            let pieces =
                |pieces: Vec<Bytes>| futures::stream::iter(pieces.into_iter().map(Ok::<_, std::io::Error>));
            let rest = stream.map_ok(move |bytes| pieces(encoder.push(bytes))).try_flatten();
            builder.body(SizedStream::new(encoded_length, pieces(begin).chain(rest)))
        }
        false => builder.body(SizedStream::new(length, stream)),
    };
    let headers = response.headers_mut();
    if is_structured {
        respond::set(headers, structured::LENGTH_HEADER, &length.to_string());
    }
    facts.write(headers, call.overrides(), part);
    if part {
        respond::set(headers, "content-range", &content_range(&bytes, size));
    }
    Ok(response)
}

fn content_range(bytes: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", bytes.start, bytes.end - 1)
}

/// What `x-ms-range-get-content-…` asks for.
fn sums_of_range(call: &Call) -> Option<Wanted> {
    let asks = |name: &str| call.header(name).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let wanted =
        Wanted { md5: asks("x-ms-range-get-content-md5"), crc64: asks("x-ms-range-get-content-crc64") };
    (wanted != Wanted::default()).then_some(wanted)
}

/// A short range with its sums, which come before it.
async fn summed_range(
    call: &Call<'_>,
    facts: &BlobFacts,
    content: Manifest,
    range: Option<Range<u64>>,
    wanted: Wanted,
) -> Result<HttpResponse, Error> {
    let Some(bytes) = range.filter(|range| range.end - range.start <= SUMMED_MAX) else {
        let why = "Checksums of a range need a range of at most 4 MiB.";
        return Err(Error::new(Code::OutOfRangeInput).because(why));
    };
    let stream = read::stream(call.api.chunks.clone(), content, bytes.clone());
    let body = stream.try_fold(Vec::new(), |mut all, piece| async move {
        all.extend_from_slice(&piece);
        Ok(all)
    });
    let body = body.await?;
    let sums = Sums::of(&body, wanted);
    let mut response = HttpResponse::PartialContent().body(body);
    let headers = response.headers_mut();
    facts.write(headers, call.overrides(), true);
    respond::set(headers, "content-range", &content_range(&bytes, facts.length));
    sums.write(headers);
    Ok(response)
}

pub async fn properties(call: &Call<'_>) -> Result<HttpResponse, Error> {
    let (facts, _) = find(call).await?;
    // The length of a body that is not sent.
    let nothing = futures::stream::empty::<Result<Bytes, std::io::Error>>();
    let is_head = call.head.method == "HEAD";
    let length = if is_head { facts.length } else { 0 };
    let mut response = HttpResponse::Ok().body(SizedStream::new(length, nothing));
    let headers = response.headers_mut();
    facts.write(headers, call.overrides(), false);
    respond::set(headers, "x-ms-access-tier", "Hot");
    respond::set(headers, "x-ms-access-tier-inferred", "true");
    Ok(response)
}

pub async fn delete(call: &Call<'_>) -> Result<HttpResponse, Error> {
    let action = BlobAction::Delete {
        container: call.container.clone(),
        blob: call.blob.clone(),
        condition: call.condition()?,
    };
    call.propose(action).await?;
    let mut response = respond::written(StatusCode::ACCEPTED, None);
    respond::set(response.headers_mut(), "x-ms-delete-type-permanent", "true");
    Ok(response)
}

pub async fn set_metadata(call: &Call<'_>) -> Result<HttpResponse, Error> {
    let action = BlobAction::SetMetadata {
        container: call.container.clone(),
        blob: call.blob.clone(),
        condition: call.condition()?,
        metadata: call.metadata()?,
    };
    let outcome = call.propose(action).await?;
    Ok(respond::written(StatusCode::OK, version_of(&outcome)))
}

pub async fn set_properties(call: &Call<'_>) -> Result<HttpResponse, Error> {
    let action = BlobAction::SetHeaders {
        container: call.container.clone(),
        blob: call.blob.clone(),
        condition: call.condition()?,
        headers: call.stored_headers(false)?,
    };
    let outcome = call.propose(action).await?;
    Ok(respond::written(StatusCode::OK, version_of(&outcome)))
}
