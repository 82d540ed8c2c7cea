//! Staging blocks and committing block lists.
//!
//! A commit is composed here and judged by the state: if a block was staged or the blob was written meanwhile, the
//! state refuses and the list is composed again (`docs/decisions/0003-blob-extents.md`).

use super::blobs::{check_target, version_of};
use super::body::{Body, Stored};
use super::call::Call;
use super::containers::xml_body;
use super::copy;
use super::error::{Code, Error};
use super::respond;
use super::sums::Sums;
use super::xml::{self, Source};
use crate::state::RefusalCode;
use crate::state::blobs::{BlobAction, Composed};
use crate::state::reply::Version;
use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lote_shared::chunks::compose::{Part, compose};
use lote_shared::chunks::{ChunkStore, FileWriter, Manifest, read};
use lote_shared::protocol::codec;
use std::collections::BTreeMap;

/// Largest block: 4 000 MiB.
const BLOCK_MAX: u64 = 4_000 * 1024 * 1024;
/// Longest body of a commit.
const LIST_BODY_MAX: usize = 16 * 1024 * 1024;
/// Longest stored list of committed blocks.
const LIST_MAX: u64 = 16 * 1024 * 1024;
/// Version of the encoding of that list.
const LIST_VERSION: u8 = 1;
/// Block ids have at most 64 bytes before base64.
const ID_MAX: usize = 64;
/// How often a commit is composed before the client is told to come back.
const ATTEMPTS_MAX: usize = 5;

/// Ids and lengths in content order.
type BlockLengths = Vec<(String, u64)>;

pub async fn put(call: &Call<'_>, body: &mut Body) -> Result<HttpResponse, Error> {
    let id = block_id(call)?;
    let expected = Sums::of_body(call)?;
    check_target(call, None).await?;
    let stored = body.store(call.api, call.content_length(), BLOCK_MAX, expected.wanted()).await?;
    expected.check(&stored.sums)?;
    stage(call, id, stored).await
}

pub async fn put_from_url(call: &Call<'_>) -> Result<HttpResponse, Error> {
    let id = block_id(call)?;
    check_target(call, None).await?;
    let source = copy::bring(call, call.header("x-ms-source-range"), BLOCK_MAX).await?;
    stage(call, id, source.stored).await
}

fn block_id(call: &Call) -> Result<String, Error> {
    let id = call.query("blockid").unwrap_or_default();
    if !STANDARD.decode(id).is_ok_and(|bytes| (1..=ID_MAX).contains(&bytes.len())) {
        let why = "blockid must be base64 of 1 to 64 bytes.";
        return Err(Error::new(Code::InvalidQueryParameterValue).because(why));
    }
    Ok(id.to_owned())
}

async fn stage(call: &Call<'_>, id: String, stored: Stored) -> Result<HttpResponse, Error> {
    let (container, blob) = (call.container.clone(), call.blob.clone());
    call.propose(BlobAction::Stage { container, blob, id, content: stored.content }).await?;
    let mut response = respond::written(StatusCode::CREATED, None);
    stored.sums.write(response.headers_mut());
    Ok(response)
}

/// What a commit is composed from, as the state had it at one moment.
struct Known {
    generation: u64,
    /// Staged blocks that the list names.
    staged: BTreeMap<String, Manifest>,
    committed: Option<Committed>,
}

/// The blob as it is.
struct Committed {
    version: Version,
    content: Manifest,
    /// File with the list of its blocks, if it was made from blocks.
    list: Option<Manifest>,
}

pub async fn commit(call: &Call<'_>, body: &mut Body) -> Result<HttpResponse, Error> {
    let condition = call.write_condition()?;
    let headers = call.stored_headers(false)?;
    let metadata = call.metadata()?;
    let expected = Sums::of_body(call)?;
    let text = body.read(LIST_BODY_MAX).await?;
    expected.check(&Sums::of(&text, expected.wanted()))?;
    let wanted = xml::parse_block_list(&text)?;
    check_target(call, Some(&condition)).await?;
    for _ in 0..ATTEMPTS_MAX {
        let known = look(call, &wanted)?;
        let (generation, chunks) = (known.generation, call.api.chunks.clone());
        let (list, used) = (wanted.clone(), known);
        let work = move || compose_list(&chunks, &list, used);
        let result = tokio::task::spawn_blocking(work).await;
        let (content, list, base) = result.map_err(|_| Error::new(Code::InternalError))??;
        call.api.secure(&content).await?;
        call.api.secure(&list).await?;
        let action = BlobAction::Put {
            container: call.container.clone(),
            blob: call.blob.clone(),
            condition: condition.clone(),
            content,
            headers: headers.clone(),
            metadata: metadata.clone(),
            composed: Some(Composed { generation, base, list }),
        };
        match call.propose(action).await {
            Err(error) if error == Error::from(RefusalCode::Fenced) => {}
            Err(error) => return Err(error),
            Ok(outcome) => return Ok(respond::written(StatusCode::CREATED, version_of(&outcome))),
        }
    }
    Err(Error::new(Code::ServerBusy)
        .because("The blob's blocks changed during every attempt to commit them."))
}

fn look(call: &Call, wanted: &[(Source, String)]) -> Result<Known, Error> {
    let found = call.api.backend.read(|blobs| {
        let (account, container, blob) = (call.account.id, &call.container, &call.blob);
        let set = blobs.staged(account, container, blob)?;
        let mut staged = BTreeMap::new();
        if let Some(set) = set {
            for (_, id) in wanted {
                if let Some(block) = set.blocks.get(id.as_str()) {
                    staged.insert(id.clone(), block.content);
                }
            }
        }
        let committed = blobs.blob(account, container, blob).ok().map(|blob| Committed {
            version: blob.version,
            content: blob.content,
            list: blob.blocks.as_deref().copied(),
        });
        Ok(Known { generation: set.map_or(0, |set| set.generation), staged, committed })
    });
    found.unwrap_or_else(|| Err(Code::InternalError.into()))
}

/// The blob's content, the file with its block list, and the ETag it depends on.
fn compose_list(
    chunks: &ChunkStore,
    wanted: &[(Source, String)],
    known: Known,
) -> Result<(Manifest, Manifest, Option<u64>), Error> {
    let mut base = None;
    let mut ranges = None;
    let mut parts = Vec::with_capacity(wanted.len());
    let mut lengths = BlockLengths::with_capacity(wanted.len());
    for (source, id) in wanted {
        let staged = known.staged.get(id).filter(|_| *source != Source::Committed);
        let part = match (staged, &known.committed) {
            (Some(content), _) => Part::whole(*content),
            (None, Some(committed)) if *source != Source::Uncommitted => {
                base = Some(committed.version.etag);
                let ranges = match &ranges {
                    Some(ranges) => ranges,
                    None => ranges.insert(committed_ranges(chunks, committed)?),
                };
                let range = ranges.get(id).cloned().ok_or_else(|| unknown_block(id))?;
                Part { manifest: committed.content, range }
            }
            _ => return Err(unknown_block(id)),
        };
        lengths.push((id.clone(), part.range.end - part.range.start));
        parts.push(part);
    }
    let content = compose(chunks, &parts)?;
    let bytes = codec::encode(LIST_VERSION, &lengths).map_err(|_| Error::new(Code::BlockListTooLong))?;
    let (list, ()) = FileWriter::new(chunks, ()).copy_from(bytes.as_slice())?;
    Ok((content, list, base))
}

fn unknown_block(id: &str) -> Error {
    Error::new(Code::InvalidBlockList).because(format!("There is no block `{id}`."))
}

/// Where each committed block lies in the blob. An id that was used twice names its last place.
fn committed_ranges(
    chunks: &ChunkStore,
    committed: &Committed,
) -> Result<BTreeMap<String, std::ops::Range<u64>>, Error> {
    let mut start = 0;
    let lengths = committed_lengths(chunks, committed.list.as_ref())?;
    Ok(lengths
        .into_iter()
        .map(|(id, length)| {
            let range = start..start + length;
            start = range.end;
            (id, range)
        })
        .collect())
}

fn committed_lengths(chunks: &ChunkStore, list: Option<&Manifest>) -> Result<BlockLengths, Error> {
    let Some(list) = list else { return Ok(BlockLengths::new()) };
    let bytes = read::read_all(chunks, list, LIST_MAX)?;
    codec::decode(LIST_VERSION, &bytes, LIST_MAX).map_err(|error| {
        tracing::error!(%error, "a committed block list cannot be read");
        Code::InternalError.into()
    })
}

pub async fn list(call: &Call<'_>) -> Result<HttpResponse, Error> {
    let kind = call.query("blocklisttype").unwrap_or("committed").to_ascii_lowercase();
    let (want_committed, want_staged) = match kind.as_str() {
        "committed" => (true, false),
        "uncommitted" => (false, true),
        "all" => (true, true),
        _ => return Err(Error::new(Code::InvalidQueryParameterValue).because("blocklisttype is unknown.")),
    };
    call.api.backend.linearize().await?;
    let found = call.api.backend.read(|blobs| {
        let (account, container, blob) = (call.account.id, &call.container, &call.blob);
        let set = blobs.staged(account, container, blob)?;
        let blob = match blobs.blob(account, container, blob) {
            Err(missing) if set.is_none() => return Err(Error::from(missing)),
            other => other.ok(),
        };
        let staged: BlockLengths = set
            .filter(|_| want_staged)
            .map(|set| set.blocks.iter().map(|(id, b)| (id.to_string(), b.content.length)).collect())
            .unwrap_or_default();
        Ok((blob.map(|blob| (blob.version, blob.content.length, blob.blocks.as_deref().copied())), staged))
    });
    let (blob, staged) = found.unwrap_or_else(|| Err(Code::InternalError.into()))?;
    let list = blob.and_then(|(_, _, list)| list).filter(|_| want_committed);
    let chunks = call.api.chunks.clone();
    let read = tokio::task::spawn_blocking(move || committed_lengths(&chunks, list.as_ref()));
    let committed = read.await.map_err(|_| Error::new(Code::InternalError))??;
    let mut response = xml_body(xml::block_list(
        want_committed.then_some(committed.as_slice()),
        want_staged.then_some(staged.as_slice()),
    ));
    let headers = response.headers_mut();
    if let Some((version, _, _)) = blob {
        respond::version_headers(headers, version);
    }
    let length = blob.map_or(0, |(_, length, _)| length);
    respond::set(headers, "x-ms-blob-content-length", &length.to_string());
    Ok(response)
}
