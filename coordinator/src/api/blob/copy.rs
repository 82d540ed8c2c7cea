//! Copies: of whole blobs, and of ranges that become blocks.
//!
//! A source at the host the request came to is a blob of this cluster: its content gets another name, and no byte is
//! moved. Any other source is fetched while the request waits, with whatever its URL carries as credentials. So every
//! copy is complete when it is answered.

use super::address::{self, Parts};
use super::blobs::{PUT_MAX, check_target, version_of, whole};
use super::body::{Body, Stored};
use super::call::{Call, Head};
use super::error::{Code, Error};
use super::named::{Named, Unnamed};
use super::operation::Operation;
use super::range;
use super::respond::{self, BlobFacts};
use super::sums::{Sums, Wanted};
use crate::api::auth::blob::{self as auth, Level};
use crate::state::blobs::{BlobAction, BlobExtra, Copied, Headers, Metadata, check};
use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::HeaderMap;
use futures::TryStreamExt;
use lote_shared::chunks::compose::{Part, compose};
use lote_shared::chunks::fetch::{self as transfer, Get};
use lote_shared::chunks::{ChunkId, ChunkStore, Error as ChunkError, Manifest, read};
use std::sync::LazyLock;
use std::time::Duration;

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Longest URL of a source.
const URL_MAX: usize = 2_048;

/// What was copied, durable here and on a second coordinator.
pub struct Source {
    pub stored: Stored,
    headers: Headers,
    metadata: Metadata,
    /// Blocks of an append blob.
    appended: Option<u32>,
}

/// Copy Blob, and Copy Blob From URL.
pub async fn copy(call: &Call<'_>) -> Result<HttpResponse, Error> {
    // These two operations tell the conditions apart by their codes.
    let on_target = |error: Error| match error.code {
        Code::ConditionNotMet => Error { code: Code::TargetConditionNotMet, ..error },
        _ => error,
    };
    let condition = call.write_condition()?;
    check_target(call, Some(&condition)).await.map_err(on_target)?;
    let given = call.metadata()?;
    let source = bring(call, None, PUT_MAX).await?;
    let copied = Copied {
        id: uuid::Uuid::new_v4().to_string(),
        source: source_url(call)?.split('?').next().unwrap_or_default().to_owned(),
        completed: (call.api.clock)(),
        bytes: source.stored.content.length,
    };
    let mut extras = vec![BlobExtra::Copied(copied.clone())];
    extras.extend(source.appended.map(|blocks| BlobExtra::Append { blocks }));
    let action = BlobAction::PutWith {
        container: call.container.clone(),
        blob: call.blob.clone(),
        condition,
        content: source.stored.content,
        headers: source.headers,
        metadata: if given.is_empty() { source.metadata } else { given },
        extras,
    };
    let outcome = call.propose(action).await.map_err(on_target)?;
    let mut response = respond::written(StatusCode::ACCEPTED, version_of(&outcome));
    let headers = response.headers_mut();
    source.stored.sums.write(headers);
    respond::set(headers, "x-ms-copy-id", &copied.id);
    respond::set(headers, "x-ms-copy-status", "success");
    Ok(response)
}

/// Put Blob From URL: a block blob that does not know where it came from.
pub async fn put(call: &Call<'_>) -> Result<HttpResponse, Error> {
    let condition = call.write_condition()?;
    let (given, metadata) = (call.stored_headers(false)?, call.metadata()?);
    check_target(call, Some(&condition)).await?;
    let source = bring(call, None, PUT_MAX).await?;
    let keeps = call.header("x-ms-copy-source-blob-properties") != Some("false");
    let of_source = if keeps { source.headers } else { Headers::default() };
    let sums = source.stored.sums;
    let headers = Headers {
        content_type: given.content_type.or(of_source.content_type),
        content_encoding: given.content_encoding.or(of_source.content_encoding),
        content_language: given.content_language.or(of_source.content_language),
        content_disposition: given.content_disposition.or(of_source.content_disposition),
        cache_control: given.cache_control.or(of_source.cache_control),
        content_md5: given.content_md5.or(sums.md5),
    };
    let action = whole(call, condition, source.stored.content, headers, metadata);
    let outcome = call.propose(action).await?;
    let mut response = respond::written(StatusCode::CREATED, version_of(&outcome));
    sums.write(response.headers_mut());
    Ok(response)
}

fn source_url<'a>(call: &'a Call<'_>) -> Result<&'a str, Error> {
    let missing = || Error::new(Code::MissingRequiredHeader).because("x-ms-copy-source is missing.");
    let url = call.header("x-ms-copy-source").ok_or_else(missing)?;
    match url.len() > URL_MAX {
        true => Err(Error::new(Code::InvalidHeaderValue)
            .because(format!("x-ms-copy-source has more than {URL_MAX} bytes."))),
        false => Ok(url),
    }
}

/// Brings the source of a request, or a range of it, here.
pub async fn bring(call: &Call<'_>, range: Option<&str>, length_max: u64) -> Result<Source, Error> {
    let url = source_url(call)?;
    let parts = address::split(url).filter(|parts| matches!(parts.scheme, "http" | "https"));
    let parts = parts.ok_or_else(|| {
        Error::new(Code::InvalidHeaderValue).because("x-ms-copy-source must be a URL of http or https.")
    })?;
    let expected = Sums::of_source(call)?;
    let source = match is_here(call, parts) {
        true => bring_own(call, parts, range, length_max, expected.wanted()).await?,
        false => fetch(call, url, range, length_max, expected.wanted()).await?,
    };
    expected.check(&source.stored.sums)?;
    Ok(source)
}

/// Whether the source is a blob of this cluster: at the host of the request, or, without a signature and therefore of the
/// caller's own account, where the public cloud would have it (which is where `az storage blob copy start` has it).
fn is_here(call: &Call, parts: Parts) -> bool {
    let same_host = call.head.host.is_some_and(|host| host.eq_ignore_ascii_case(parts.host));
    let own = parts.host.strip_prefix(call.account.name.as_str());
    same_host || (parts.query.is_empty() && own.is_some_and(|rest| rest.starts_with(".blob.")))
}

fn unverified(why: impl Into<String>) -> Error {
    Error::new(Code::CannotVerifyCopySource).because(why)
}

async fn bring_own(
    call: &Call<'_>,
    parts: Parts<'_>,
    range: Option<&str>,
    length_max: u64,
    wanted: Wanted,
) -> Result<Source, Error> {
    let (facts, content) = find(call, parts).await?;
    let size = content.length;
    let part = range::resolve(range, size)
        .map_err(|_| Error::new(Code::InvalidRange).because(format!("The source has {size} bytes.")))?;
    let is_whole = part.is_none();
    let part = Part { manifest: content, range: part.unwrap_or(0..size) };
    if part.range.end - part.range.start > length_max {
        return Err(Code::RequestBodyTooLarge.into());
    }
    let chunks = call.api.chunks.clone();
    let composed = tokio::task::spawn_blocking(move || compose(&chunks, &[part])).await;
    let content = composed.map_err(|_| Error::new(Code::InternalError))??;
    let kept = transfer::bring(&call.api.chunks, &content, &mut Keeping(&call.api.chunks)).await;
    kept.map_err(|error| {
        tracing::error!(%error, "the source of a copy could not be kept");
        Error::from(Code::InternalError)
    })?;
    call.api.secure(&content).await?;
    let sums = match wanted == Wanted::default() {
        true => Sums { md5: facts.headers.content_md5.filter(|_| is_whole), crc64: None },
        false => sum(&call.api.chunks, content, wanted).await?,
    };
    Ok(Source {
        stored: Stored { content, sums },
        headers: facts.headers,
        metadata: facts.metadata,
        appended: facts.appended,
    })
}

/// A blob of this cluster that the caller may read.
async fn find(call: &Call<'_>, parts: Parts<'_>) -> Result<(BlobFacts, Manifest), Error> {
    let api = call.api;
    let none = HeaderMap::new();
    let Parts { host, path, query, .. } = parts;
    let head = Head { method: "GET", path, query, headers: &none, host: Some(host), ..call.head };
    let named = Named::of(head, api).await.map_err(|unnamed| match unnamed {
        Unnamed::Unavailable(unavailable) => unavailable.into(),
        other => unverified(other.to_string()),
    })?;
    let Named { account, container: Some(container), blob: Some(blob), access } = named else {
        return Err(unverified("The source is no blob."));
    };
    match access.and_then(|access| access.check(Operation::GetBlob.needs(Level::Blob))) {
        Ok(_) => {}
        // Who has the account's key needs no signature for its blobs.
        Err(auth::Denied::Missing) if call.is_owner() && account.id == call.account.id => {}
        Err(denied) => return Err(unverified(denied.to_string())),
    }
    if auth::query_pairs_literal(parts.query)
        .iter()
        .any(|(name, _)| name == "snapshot" || name == "versionid")
    {
        return Err(Error::not_implemented("a snapshot or version of a blob"));
    }
    let condition = call.source_condition()?;
    api.backend.linearize().await?;
    let found = api.backend.read(|blobs| {
        let blob = blobs.blob(account.id, &container, &blob);
        let blob = blob.map_err(|_| unverified("The source does not exist."))?;
        check(&condition, Some(blob.version)).map_err(|_| Code::SourceConditionNotMet)?;
        Ok((BlobFacts::of(blob), blob.content))
    });
    found.unwrap_or_else(|| Err(Code::InternalError.into()))
}

/// Sums up a content that is here.
async fn sum(chunks: &ChunkStore, content: Manifest, wanted: Wanted) -> Result<Sums, Error> {
    let running = wanted.begin();
    let stream = read::stream(chunks.clone(), content, 0..content.length);
    let running = stream.try_fold(running, |mut running, piece| async move {
        lote_shared::chunks::Tap::data(&mut running, &piece);
        Ok(running)
    });
    Ok(running.await?.end())
}

/// Has chunks lie here as if they had just been written, so that no collector takes them under their new name; those that
/// are not here are brought.
struct Keeping<'a>(&'a ChunkStore);

impl Get for Keeping<'_> {
    async fn get(&mut self, ids: &[ChunkId]) -> Result<(), transfer::Error> {
        let (store, ids) = (self.0.clone(), ids.to_vec());
        let keep = move || {
            let mut group = store.local().group();
            for id in ids {
                match group.adopt(id) {
                    Ok(_) => {}
                    Err(ChunkError::Missing(_) | ChunkError::Damaged { .. }) => {
                        store.read(id)?;
                        group.adopt(id)?;
                    }
                    Err(error) => return Err(error),
                }
            }
            group.commit()
        };
        Ok(tokio::task::spawn_blocking(keep).await.map_err(|_| ChunkError::Stopped)??)
    }
}

/// Connections are not kept, and redirects are not followed: a source is what its URL says.
static CLIENT: LazyLock<Result<reqwest::Client, reqwest::Error>> = LazyLock::new(|| {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_WITHIN)
        .pool_max_idle_per_host(0)
        .user_agent(concat!("lote/", env!("CARGO_PKG_VERSION")))
        .build()
});

/// Fetches a source that is not here.
async fn fetch(
    call: &Call<'_>,
    url: &str,
    range: Option<&str>,
    length_max: u64,
    wanted: Wanted,
) -> Result<Source, Error> {
    let client = CLIENT.as_ref().map_err(|error| {
        tracing::error!(%error, "the HTTP client cannot be made");
        Error::from(Code::InternalError)
    })?;
    let mut request = client.get(url);
    if let Some(range) = range {
        request = request.header("range", range);
    }
    for name in ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since"] {
        if let Some(value) = call.header(&format!("x-ms-source-{name}")) {
            request = request.header(name, value);
        }
    }
    // The URL may hold a signature.
    let response = request.send().await.map_err(|error| unverified(root_cause(&error.without_url())))?;
    match response.status().as_u16() {
        200 if range.is_none() => {}
        206 if range.is_some() => {}
        200 => return Err(unverified("The source's server does not serve ranges.")),
        304 | 412 => return Err(Code::SourceConditionNotMet.into()),
        416 => return Err(Code::InvalidRange.into()),
        other => return Err(unverified(format!("The source's server answered {other}."))),
    }
    let (headers, metadata) = described(&response);
    let length = response.content_length();
    let wanted = Wanted { md5: true, ..wanted };
    let mut body = Body::of(response.bytes_stream());
    let stored =
        body.store(call.api, length, length_max, wanted).await.map_err(|error| match error.code {
            Code::IncompleteBody => unverified(error.detail),
            _ => error,
        })?;
    let headers = Headers { content_md5: headers.content_md5.or(stored.sums.md5), ..headers };
    Ok(Source { stored, headers, metadata, appended: None })
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    format!("The source cannot be reached: {cause}.")
}

/// What an answer says of its body.
fn described(response: &reqwest::Response) -> (Headers, Metadata) {
    let value = |name: &str| {
        let value = response.headers().get(name)?.to_str().ok()?;
        (!value.is_empty() && value.len() <= super::call::HEADER_MAX).then(|| value.to_owned())
    };
    let headers = Headers {
        content_type: value("content-type").filter(|kind| kind != respond::DEFAULT_TYPE),
        content_encoding: value("content-encoding"),
        content_language: value("content-language"),
        content_disposition: value("content-disposition"),
        cache_control: value("cache-control"),
        content_md5: None,
    };
    let named = response.headers().iter().filter_map(|(name, value)| {
        let name = name.as_str().strip_prefix("x-ms-meta-")?;
        Some((name.to_owned(), value.to_str().ok()?.to_owned()))
    });
    let mut metadata: Metadata = named.collect();
    metadata.sort();
    let size: usize = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > super::call::METADATA_MAX {
        metadata.clear();
    }
    (headers, metadata)
}
