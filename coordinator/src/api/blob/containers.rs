//! Operations on the account and on containers.

use super::blobs::version_of;
use super::call::Call;
use super::error::{Code, Error};
use super::respond::{self, BlobFacts};
use super::xml::{self, ContainerEntry, ListQuery};
use crate::state::Outcome;
use crate::state::blobs::{BlobAction, Container, Item};
use crate::state::reply::Version;
use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Most entries of a page.
const PAGE_MAX: usize = 5_000;

pub fn account_info() -> Result<HttpResponse, Error> {
    let mut response = HttpResponse::Ok().finish();
    let headers = response.headers_mut();
    respond::set(headers, "x-ms-sku-name", "Standard_LRS");
    respond::set(headers, "x-ms-account-kind", "StorageV2");
    respond::set(headers, "x-ms-is-hns-enabled", "false");
    Ok(response)
}

pub fn service_properties() -> Result<HttpResponse, Error> {
    Ok(xml_body(xml::service_properties()))
}

pub async fn create(call: &Call<'_>) -> Result<HttpResponse, Error> {
    let action = BlobAction::ContainerCreate { name: call.container.clone(), metadata: call.metadata()? };
    answer(StatusCode::CREATED, call.propose(action).await?)
}

pub async fn delete(call: &Call<'_>) -> Result<HttpResponse, Error> {
    let condition = call.condition()?;
    let action = BlobAction::ContainerDelete { name: call.container.clone(), condition };
    answer(StatusCode::ACCEPTED, call.propose(action).await?)
}

pub async fn set_metadata(call: &Call<'_>) -> Result<HttpResponse, Error> {
    let (name, condition, metadata) = (call.container.clone(), call.condition()?, call.metadata()?);
    let action = BlobAction::ContainerMetadata { name, condition, metadata };
    answer(StatusCode::OK, call.propose(action).await?)
}

pub fn answer(status: StatusCode, outcome: Outcome) -> Result<HttpResponse, Error> {
    Ok(respond::written(status, version_of(&outcome)))
}

/// The container's version and what `look` finds in it.
pub async fn find<T>(call: &Call<'_>, look: impl FnOnce(&Container) -> T) -> Result<(Version, T), Error> {
    call.api.backend.linearize().await?;
    let found = call.api.backend.read(|blobs| {
        let container = blobs.container(call.account.id, &call.container)?;
        Ok::<_, Error>((container.version, look(container)))
    });
    found.unwrap_or_else(|| Err(Code::InternalError.into()))
}

pub async fn properties(call: &Call<'_>) -> Result<HttpResponse, Error> {
    let (version, metadata) = find(call, |container| container.metadata.clone()).await?;
    let mut response = HttpResponse::Ok().finish();
    let headers = response.headers_mut();
    respond::version_headers(headers, version);
    respond::metadata_headers(headers, &metadata);
    let fixed = [
        ("x-ms-lease-status", "unlocked"),
        ("x-ms-lease-state", "available"),
        ("x-ms-has-immutability-policy", "false"),
        ("x-ms-has-legal-hold", "false"),
        ("x-ms-default-encryption-scope", "$account-encryption-key"),
        ("x-ms-deny-encryption-scope-override", "false"),
    ];
    fixed.into_iter().for_each(|(name, value)| respond::set(headers, name, value));
    Ok(response)
}

pub async fn list(call: &Call<'_>) -> Result<HttpResponse, Error> {
    let query = list_query(call)?;
    let (prefix, marker, max) = page_of(&query)?;
    call.api.backend.linearize().await?;
    let found = call.api.backend.read(|blobs| {
        let page = blobs.list_containers(call.account.id, prefix, &marker, max);
        let entry = |container: &&Container| ContainerEntry {
            name: container.name.to_string(),
            version: container.version,
            metadata: container.metadata.clone(),
        };
        (page.items.iter().map(entry).collect::<Vec<_>>(), page.next)
    });
    let (entries, next) = found.ok_or(Code::InternalError)?;
    let next = next.map(|name| URL_SAFE_NO_PAD.encode(name)).unwrap_or_default();
    Ok(xml_body(xml::containers(&call.account_url(), &query, &entries, &next)))
}

pub async fn list_blobs(call: &Call<'_>) -> Result<HttpResponse, Error> {
    let query = list_query(call)?;
    let (prefix, marker, max) = page_of(&query)?;
    call.api.backend.linearize().await?;
    let found = call.api.backend.read(|blobs| {
        let delimiter = query.delimiter.as_deref();
        let page = blobs.list_blobs(call.account.id, &call.container, prefix, delimiter, &marker, max)?;
        let entry = |item: &Item| match item {
            Item::Blob(name, blob) => ((*name).to_owned(), Some(BlobFacts::of(blob))),
            Item::Prefix(name) => ((*name).to_owned(), None),
        };
        Ok::<_, Error>((page.items.iter().map(entry).collect::<Vec<_>>(), page.next))
    });
    let (entries, next) = found.unwrap_or_else(|| Err(Code::InternalError.into()))?;
    let next = next.map(|name| URL_SAFE_NO_PAD.encode(name)).unwrap_or_default();
    Ok(xml_body(xml::blobs(&call.account_url(), &call.container, &query, &entries, &next)))
}

fn list_query(call: &Call) -> Result<ListQuery, Error> {
    let max_results = match call.query("maxresults").filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => match text.parse::<usize>() {
            Ok(0) => return Err(Code::OutOfRangeQueryParameterValue.into()),
            Ok(max) => Some(max),
            Err(_) => {
                return Err(Error::new(Code::InvalidQueryParameterValue).because("maxresults is no number."));
            }
        },
    };
    let include = call.query("include").unwrap_or_default();
    let include: Vec<String> = include.split(',').map(|what| what.trim().to_ascii_lowercase()).collect();
    if include.iter().any(|what| what == "uncommittedblobs") {
        return Err(Error::not_implemented("a listing of uncommitted blobs"));
    }
    // Whatever else can be included (snapshots, versions, tags …), no blob has any of it.
    let includes = |what: &str| include.iter().any(|included| included == what);
    Ok(ListQuery {
        prefix: call.query_text("prefix"),
        marker: call.query("marker").filter(|marker| !marker.is_empty()).map(str::to_owned),
        delimiter: call.query_text("delimiter"),
        max_results,
        with_metadata: includes("metadata"),
        with_copy: includes("copy"),
    })
}

/// Prefix, name to start at, and size of the page.
fn page_of(query: &ListQuery) -> Result<(&str, String, usize), Error> {
    let start = match &query.marker {
        None => String::new(),
        Some(marker) => {
            URL_SAFE_NO_PAD.decode(marker).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(
                || Error::new(Code::InvalidQueryParameterValue).because("This marker is not ours."),
            )?
        }
    };
    let max = query.max_results.unwrap_or(PAGE_MAX).min(PAGE_MAX);
    Ok((query.prefix.as_deref().unwrap_or_default(), start, max))
}

pub fn xml_body(body: Vec<u8>) -> HttpResponse {
    HttpResponse::Ok().content_type("application/xml").body(body)
}
