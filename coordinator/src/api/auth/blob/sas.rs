//! Shared access signatures: of the service (one container or blob) and of the account (blob WIRE.md §4, §5).
//!
//! Every form is a list of query values joined in an order that depends on `sv`. Values are signed as they were sent,
//! decoded; absent ones are empty.

use super::super::{decode_signature, encode_signature, sign, verifies};
use super::{Denied, Level, Needs, Request, Verdict};
use crate::state::blobs::AccessPolicy;
use lote_shared::model::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::net::IpAddr;

/// Version that we sign with.
const VERSION: &str = "2021-12-02";

/// What stays as it is in a query value.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Response headers that a service signature sets on GET and HEAD.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    pub cache_control: Option<String>,
    pub content_disposition: Option<String>,
    pub content_encoding: Option<String>,
    pub content_language: Option<String>,
    pub content_type: Option<String>,
}

/// What a verified signature allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub permissions: String,
    pub scope: Scope,
    pub overrides: Overrides,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// `srt` of an account signature.
    Account {
        resource_types: String,
    },
    Container,
    Blob,
}

impl Scope {
    fn is_of_service(&self) -> bool {
        match self {
            Scope::Account { .. } => false,
            Scope::Container | Scope::Blob => true,
        }
    }
}

impl Grant {
    pub(super) fn check(&self, needs: Needs) -> Result<Verdict, Denied> {
        match &self.scope {
            Scope::Account { resource_types } => {
                let letter = match needs.level {
                    Level::Service => 's',
                    Level::Container => 'c',
                    Level::Blob => 'o',
                };
                if !resource_types.contains(letter) {
                    return Err(Denied::ResourceType);
                }
            }
            Scope::Container | Scope::Blob if needs.account_only => return Err(Denied::Permission),
            Scope::Blob if needs.level != Level::Blob => return Err(Denied::Permission),
            Scope::Container | Scope::Blob => {}
        }
        if self.permissions.chars().any(|letter| needs.letters.contains(letter)) {
            return Ok(Verdict::Allowed);
        }
        if needs.create_if_new && self.permissions.contains('c') {
            return Ok(Verdict::OnlyIfNew);
        }
        Err(Denied::Permission)
    }
}

/// Values of a query by name.
struct Fields<'a>(&'a [(String, String)]);

impl<'a> Fields<'a> {
    fn find(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    fn get(&self, name: &str) -> &'a str {
        self.find(name).unwrap_or_default()
    }

    fn owned(&self, name: &str) -> Option<String> {
        self.find(name).map(str::to_owned)
    }
}

/// Whether the signature in a query is one of these keys; what it is for.
pub(super) fn check_signature(
    request: &Request,
    query: &[(String, String)],
    keys: &[Vec<u8>],
) -> Result<Scope, Denied> {
    let fields = Fields(query);
    let failed = |why: &str| Denied::Failed(why.to_owned());
    if fields.find("skoid").is_some() {
        return Err(failed("user delegation signatures need a directory service, which is not here"));
    }
    let version = fields.get("sv");
    if !is_version(version) {
        return Err(failed("sv is not a date"));
    }
    let signature =
        decode_signature(fields.get("sig")).ok_or_else(|| failed("sig is not base64 of 32 bytes"))?;
    let (scope, text) = match fields.find("sr") {
        None => {
            let scope = Scope::Account { resource_types: fields.get("srt").to_owned() };
            (scope, account_text(request.account, &fields))
        }
        Some(kind) => service_text(request, &fields, kind)?,
    };
    match keys.iter().any(|key| verifies(key, &text, &signature)) {
        true => Ok(scope),
        false => Err(Denied::Failed(format!("the signature does not match; the server signed `{text}`"))),
    }
}

/// Checks the signature in a query, and what it says.
pub(super) fn verify(
    request: &Request,
    query: &[(String, String)],
    keys: &[Vec<u8>],
    policy: Option<&AccessPolicy>,
    now: Timestamp,
) -> Result<Grant, Denied> {
    let scope = check_signature(request, query, keys)?;
    let fields = Fields(query);
    // A signature of an account does not cover si.
    let name = Some(fields.get("si")).filter(|name| !name.is_empty() && scope.is_of_service());
    let policy =
        match name {
            None => None,
            Some(name) => Some(policy.ok_or_else(|| {
                Denied::Failed(format!("the container has no stored access policy `{name}`"))
            })?),
        };
    check_times(&fields, policy, now)?;
    check_source(request, &fields)?;
    if matches!(scope, Scope::Account { .. }) && !fields.get("ss").contains('b') {
        return Err(Denied::Service);
    }
    let overrides = Overrides {
        cache_control: fields.owned("rscc"),
        content_disposition: fields.owned("rscd"),
        content_encoding: fields.owned("rsce"),
        content_language: fields.owned("rscl"),
        content_type: fields.owned("rsct"),
    };
    let stored = policy.and_then(|policy| policy.permissions.as_deref());
    let permissions = once("sp", Some(fields.get("sp")).filter(|text| !text.is_empty()), stored)?;
    Ok(Grant { permissions: permissions.unwrap_or_default().to_owned(), scope, overrides })
}

fn is_version(text: &str) -> bool {
    text.len() == 10
        && text
            .bytes()
            .enumerate()
            .all(|(i, b)| if i == 4 || i == 7 { b == b'-' } else { b.is_ascii_digit() })
}

/// What the signature says or the policy, of which only one may.
fn once<T>(name: &str, signed: Option<T>, stored: Option<T>) -> Result<Option<T>, Denied> {
    match (&signed, &stored) {
        (Some(_), Some(_)) => {
            Err(Denied::Failed(format!("{name} is in the signature and in its stored access policy")))
        }
        _ => Ok(signed.or(stored)),
    }
}

fn check_times(fields: &Fields, policy: Option<&AccessPolicy>, now: Timestamp) -> Result<(), Denied> {
    let parse = |name: &str| match fields.get(name) {
        "" => Ok(None),
        text => {
            Timestamp::parse(text).map(Some).ok_or_else(|| Denied::Failed(format!("{name} is not a time")))
        }
    };
    let expiry = once("se", parse("se")?, policy.and_then(|policy| policy.expiry))?;
    let start = once("st", parse("st")?, policy.and_then(|policy| policy.start))?;
    let expiry = expiry.ok_or_else(|| Denied::Failed("se is missing".to_owned()))?;
    if now >= expiry {
        return Err(Denied::Failed("the signature has expired".to_owned()));
    }
    if start.is_some_and(|start| now < start) {
        return Err(Denied::Failed("the signature is not valid yet".to_owned()));
    }
    Ok(())
}

fn check_source(request: &Request, fields: &Fields) -> Result<(), Denied> {
    let protocols = fields.get("spr");
    let protocol = if request.secure { "https" } else { "http" };
    if !protocols.is_empty() && !protocols.split(',').any(|allowed| allowed == protocol) {
        return Err(Denied::Protocol);
    }
    let range = fields.get("sip");
    if range.is_empty() {
        return Ok(());
    }
    let (low, high) = range.split_once('-').unwrap_or((range, range));
    let bounds = (low.trim().parse::<IpAddr>(), high.trim().parse::<IpAddr>());
    match (bounds, request.peer.map(|peer| peer.to_canonical())) {
        ((Ok(low), Ok(high)), Some(peer)) if low <= peer && peer <= high => Ok(()),
        _ => Err(Denied::SourceAddress),
    }
}

fn account_text(account: &str, fields: &Fields) -> String {
    let mut text = String::new();
    let values = ["sp", "ss", "srt", "st", "se", "sip", "spr", "sv"].map(|name| fields.get(name));
    for value in std::iter::once(account).chain(values) {
        text.push_str(value);
        text.push('\n');
    }
    if fields.get("sv") >= "2020-12-06" {
        text.push_str(fields.get("ses"));
        text.push('\n');
    }
    text
}

fn service_text(request: &Request, fields: &Fields, kind: &str) -> Result<(Scope, String), Denied> {
    let account = request.account;
    let (scope, canonical) = match (kind, request.container, request.blob) {
        ("c", Some(container), _) => (Scope::Container, format!("/blob/{account}/{container}")),
        ("b", Some(container), Some(blob)) => (Scope::Blob, format!("/blob/{account}/{container}/{blob}")),
        ("c" | "b", _, _) => return Err(Denied::ResourceType),
        _ => return Err(Denied::Failed("sr must be c or b".to_owned())),
    };
    Ok((scope, join_service(fields, &canonical)))
}

/// Joins the values in the order of the signature's version.
fn join_service(fields: &Fields, canonical: &str) -> String {
    let version = fields.get("sv");
    let mut parts = vec![fields.get("sp"), fields.get("st"), fields.get("se"), canonical];
    parts.extend(["si", "sip", "spr", "sv"].map(|name| fields.get(name)));
    if version >= "2018-11-09" {
        // The second is the snapshot's time, which we never have.
        parts.extend([fields.get("sr"), ""]);
    }
    if version >= "2020-12-06" {
        parts.push(fields.get("ses"));
    }
    parts.extend(["rscc", "rscd", "rsce", "rscl", "rsct"].map(|name| fields.get(name)));
    parts.join("\n")
}

/// What to put into a signature for a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContainerSas<'a> {
    pub account: &'a str,
    /// One of the account's keys, decoded.
    pub key: &'a [u8],
    pub container: &'a str,
    /// Letters in the service's order: `racwdl`.
    pub permissions: &'a str,
    pub expiry: Timestamp,
    /// `None` allows http and https.
    pub protocol: Option<&'a str>,
}

/// The query string, without `?`, of a service signature for a container and the blobs in it. For the
/// coordinator's own use: auto-storage containers become URLs that a node can read.
pub fn sign_container(sas: &ContainerSas) -> String {
    // Seconds are enough, and every client reads them.
    let expiry = Timestamp(sas.expiry.0 / 1000 * 1000).to_string();
    let mut query: Vec<(String, String)> = vec![
        ("sv".into(), VERSION.into()),
        ("sr".into(), "c".into()),
        ("sp".into(), sas.permissions.into()),
        ("se".into(), expiry),
    ];
    query.extend(sas.protocol.map(|protocol| ("spr".into(), protocol.to_owned())));
    let canonical = format!("/blob/{}/{}", sas.account, sas.container);
    let signature = sign(sas.key, &join_service(&Fields(&query), &canonical));
    query.push(("sig".into(), encode_signature(&signature)));
    let pairs: Vec<_> =
        query.iter().map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, QUERY))).collect();
    pairs.join("&")
}
