//! Judging a URL of our own storage that came by another way than HTTP.

use crate::api::auth::blob::{Denied, Verdict};
use crate::api::blob::address::{self, Parts};
use crate::api::blob::named::{Named, Unnamed};
use crate::api::blob::operation::Operation;
use crate::api::blob::{BlobApi, Head};
use actix_web::http::header::HeaderMap;
use lote_shared::model::AccountId;
use lote_shared::protocol::data::Error;
use std::net::IpAddr;

/// What a URL names, for a caller who may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub account: AccountId,
    pub container: String,
    /// Empty for a container.
    pub blob: String,
    /// The write is allowed only if the blob is new.
    pub only_if_new: bool,
}

/// Checks the signature in the URL's query for one operation. `peer` is where the caller connects from, for
/// signatures that are bound to addresses. The way between members is encrypted and counts as https.
pub async fn open(
    api: &BlobApi,
    url: &str,
    operation: Operation,
    peer: Option<IpAddr>,
) -> Result<Target, Error> {
    let Parts { host, path, query, .. } = address::split(url).ok_or(Error::NotOurs)?;
    let headers = HeaderMap::new();
    let head = Head { method: "GET", path, query, headers: &headers, host: Some(host), secure: true, peer };
    let named = Named::of(head, api).await.map_err(|unnamed| match unnamed {
        Unnamed::NotText => Error::Invalid(unnamed.to_string()),
        Unnamed::NoAccount(_) => Error::NotOurs,
        Unnamed::Unavailable(unavailable) => Error::Busy(unavailable.to_string()),
    })?;
    let level = named.level();
    let Named { account, container, blob, access } = named;
    let denied = |denied: Denied| Error::Denied(denied.to_string());
    let access = access.map_err(denied)?;
    let needs = operation.needs(level);
    let verdict = access.check(needs).map_err(denied)?;
    if level != needs.level
        || container.as_deref().is_some_and(|name| !address::is_container_name(name))
        || blob.as_deref().is_some_and(|name| !address::is_blob_name(name))
    {
        return Err(Error::Invalid("the URL does not name what the operation is for".into()));
    }
    Ok(Target {
        account: account.id,
        container: container.unwrap_or_default(),
        blob: blob.unwrap_or_default(),
        only_if_new: verdict == Verdict::OnlyIfNew,
    })
}
