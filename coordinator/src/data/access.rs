//! Judging a URL of our own storage that came by another way than HTTP.

use crate::api::auth::blob::{self as auth, Access, Level, Verdict};
use crate::api::blob::BlobApi;
use crate::api::blob::address::{self, Address, Hints, Parts};
use crate::api::blob::operation::Operation;
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
    let hints = Hints { host: Some(host), claimed: None, default: &api.default_account };
    let is_account = |name: &str| api.backend.account(name).is_some();
    let Address { account, container, blob } = address::locate(path, hints, is_account)
        .map_err(|_| Error::Invalid("the path is not UTF-8".into()))?;
    let keys = api.backend.account(&account).ok_or(Error::NotOurs)?;
    let headers = HeaderMap::new();
    let request = auth::Request {
        method: "GET",
        path,
        query,
        headers: &headers,
        account: &account,
        container: container.as_deref(),
        blob: blob.as_deref(),
        secure: true,
        peer,
    };
    let denied = |denied: auth::Denied| Error::Denied(denied.to_string());
    let named = auth::named_policy(&request, &keys.keys).map_err(denied)?;
    let policy = api.policy(keys.id, container.as_deref(), named).await;
    let policy = policy.map_err(|error| Error::Busy(error.to_string()))?;
    let access: Access =
        auth::authorise(&request, &keys.keys, policy.as_ref(), (api.clock)()).map_err(denied)?;
    let level = match (&container, &blob) {
        (None, _) => Level::Service,
        (_, None) => Level::Container,
        _ => Level::Blob,
    };
    let needs = operation.needs(level);
    let verdict = access.check(needs).map_err(denied)?;
    if level != needs.level
        || container.as_deref().is_some_and(|name| !address::is_container_name(name))
        || blob.as_deref().is_some_and(|name| !address::is_blob_name(name))
    {
        return Err(Error::Invalid("the URL does not name what the operation is for".into()));
    }
    Ok(Target {
        account: keys.id,
        container: container.unwrap_or_default(),
        blob: blob.unwrap_or_default(),
        only_if_new: verdict == Verdict::OnlyIfNew,
    })
}
