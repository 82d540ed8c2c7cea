//! Who may do what to blobs: SharedKey and shared access signatures (blob WIRE.md §3–§6). Pure: keys, time and
//! addresses are arguments.
//!
//! [`authorise`] gives an [`Access`], from the `Authorization` header or from the query; [`Access::check`] then says
//! whether it covers an operation. What a signature may do is settled before any state is looked at, with one
//! exception: `c` allows only new blobs, which the state judges on apply ([`Verdict::OnlyIfNew`]).

pub mod sas;
pub mod shared_key;

use super::{DateError, check_date, query_pairs};
use crate::state::blobs::AccessPolicy;
use actix_web::http::header::HeaderMap;
use lote_shared::model::Timestamp;
use std::net::IpAddr;

/// The parts of a request that matter here, as they stood on the wire.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub method: &'a str,
    /// Raw path, percent-encoding untouched.
    pub path: &'a str,
    /// Raw query, without `?`.
    pub query: &'a str,
    pub headers: &'a HeaderMap,
    /// Decoded names.
    pub account: &'a str,
    pub container: Option<&'a str>,
    pub blob: Option<&'a str>,
    pub secure: bool,
    pub peer: Option<IpAddr>,
}

/// Why a request is refused; each is a 403.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// `AuthenticationFailed`.
    #[error("{0}")]
    Failed(String),
    /// `NoAuthenticationInformation` (401): neither a header nor a signature.
    #[error("the request has neither an Authorization header nor a shared access signature")]
    Missing,
    /// `AuthorizationPermissionMismatch`.
    #[error("the signature does not allow this operation")]
    Permission,
    /// `AuthorizationResourceTypeMismatch`.
    #[error("the signature does not cover this kind of resource")]
    ResourceType,
    /// `AuthorizationServiceMismatch`.
    #[error("the signature does not cover the blob service")]
    Service,
    /// `AuthorizationProtocolMismatch`.
    #[error("the signature allows https only")]
    Protocol,
    /// `AuthorizationSourceIPMismatch`.
    #[error("the signature does not allow this source address")]
    SourceAddress,
}

/// On what an operation works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Service,
    Container,
    Blob,
}

/// What an operation asks of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    pub level: Level,
    /// Any one of these letters is enough; empty: no service signature is.
    pub letters: &'static str,
    /// `c` is enough too, if the blob does not exist yet.
    pub create_if_new: bool,
    /// Only the key or an account signature will do.
    pub account_only: bool,
}

/// What a good request may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Signed with an account key: everything.
    Owner,
    Signature(sas::Grant),
}

/// Whether an operation is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Allowed,
    /// Only if the blob does not exist when the write is applied.
    OnlyIfNew,
}

impl Access {
    pub fn check(&self, needs: Needs) -> Result<Verdict, Denied> {
        match self {
            Access::Owner => Ok(Verdict::Allowed),
            Access::Signature(grant) => grant.check(needs),
        }
    }

    /// `rsc*` overrides of response headers.
    pub fn overrides(&self) -> Option<&sas::Overrides> {
        match self {
            Access::Owner => None,
            Access::Signature(grant) => Some(&grant.overrides),
        }
    }
}

/// The account that the `Authorization` header names.
pub fn claimed_account(headers: &HeaderMap) -> Option<&str> {
    let (_, rest) = headers.get("authorization")?.to_str().ok()?.split_once(' ')?;
    let (account, _) = rest.trim().split_once(':')?;
    Some(account)
}

/// The name of the stored access policy that the signature of a request goes by, once that signature is known to be one
/// of these keys: nobody else has a policy looked up.
pub fn named_policy(request: &Request, keys: &[Vec<u8>]) -> Result<Option<String>, Denied> {
    let query = query_pairs_literal(request.query);
    let value = |name: &str| query.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str());
    let is_signed = !request.headers.contains_key("authorization") && value("sig").is_some();
    match value("si").filter(|name| is_signed && !name.is_empty()) {
        Some(name) => sas::check_signature(request, &query, keys).map(|_| Some(name.to_owned())),
        None => Ok(None),
    }
}

/// Checks the credentials of a request against the account's keys, any of which is good. `policy` is the
/// [`named_policy`], if the container has it.
pub fn authorise(
    request: &Request,
    keys: &[Vec<u8>],
    policy: Option<&AccessPolicy>,
    now: Timestamp,
) -> Result<Access, Denied> {
    if request.headers.contains_key("authorization") {
        let date = header(request.headers, "x-ms-date").or_else(|| header(request.headers, "date"));
        check_date(date, now).map_err(|error| match error {
            DateError::Missing => Denied::Failed("the request has neither x-ms-date nor Date".to_owned()),
            other => Denied::Failed(other.to_string()),
        })?;
        shared_key::verify(request, keys)?;
        return Ok(Access::Owner);
    }
    let query = query_pairs_literal(request.query);
    if query.iter().any(|(name, _)| name == "sig") {
        return sas::verify(request, &query, keys, policy, now).map(Access::Signature);
    }
    Err(Denied::Missing)
}

pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Names and values percent-decoded, a plus left as it is: in signatures and block ids it is a letter of base64.
pub fn query_pairs_literal(query: &str) -> Vec<(String, String)> {
    match query.contains('+') {
        true => query_pairs(&query.replace('+', "%2B")),
        false => query_pairs(query),
    }
}

#[cfg(test)]
mod tests;
