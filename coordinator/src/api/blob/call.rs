//! [`Call`]: a request that was understood and allowed.

use super::address;
use super::backend::AccountAccess;
use super::error::{Code, Error};
use super::named::Named;
use super::operation::{Operation, Shape};
use super::{BlobApi, respond, structured};
use crate::api::auth::blob::sas::Overrides;
use crate::api::auth::blob::{self as auth, Access, Level, Verdict};
use crate::api::auth::query_pairs;
use crate::state::blobs::{BlobAction, Headers, Metadata};
use crate::state::{Condition, Outcome, RefusalCode};
use actix_web::HttpRequest;
use actix_web::http::header::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lote_shared::model::Timestamp;
use std::net::IpAddr;

/// Longest sum of metadata names and values.
pub const METADATA_MAX: usize = 8 * 1024;
/// Longest stored header.
pub const HEADER_MAX: usize = 1024;

/// What stands before the body of a request, or of a part of a batch.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    pub method: &'a str,
    /// Raw path, percent-encoding untouched.
    pub path: &'a str,
    /// Raw query, without `?`.
    pub query: &'a str,
    pub headers: &'a HeaderMap,
    pub host: Option<&'a str>,
    pub secure: bool,
    pub peer: Option<IpAddr>,
}

impl<'a> Head<'a> {
    pub fn of(request: &'a HttpRequest) -> Head<'a> {
        Head {
            method: request.method().as_str(),
            path: request.uri().path(),
            query: request.query_string(),
            headers: request.headers(),
            host: text(request.headers(), "host").or(request.uri().host()),
            secure: request.app_config().secure(),
            peer: request.peer_addr().map(|address| address.ip()),
        }
    }
}

pub struct Call<'a> {
    pub api: &'a BlobApi,
    pub head: Head<'a>,
    pub account: AccountAccess,
    /// Empty at service level.
    pub container: String,
    /// Empty above blob level.
    pub blob: String,
    verdict: Verdict,
    access: Access,
    query: Vec<(String, String)>,
}

impl<'a> Call<'a> {
    /// Finds out what is asked for and whether the caller may.
    pub async fn open(head: Head<'a>, api: &'a BlobApi) -> Result<(Operation, Call<'a>), Error> {
        let headers = head.headers;
        let named = Named::of(head, api).await?;
        let level = named.level();
        let Named { account, container, blob, access } = named;
        let access = access?;
        let query = auth::query_pairs_literal(head.query);
        let find = |name: &str| query.iter().find(|(found, _)| found == name).map(|(_, v)| v.as_str());
        let operation = Operation::of(Shape {
            method: head.method,
            level,
            restype: find("restype"),
            comp: find("comp"),
            blob_type: text(headers, "x-ms-blob-type"),
            copy_source: headers.contains_key("x-ms-copy-source"),
            is_synchronous: text(headers, "x-ms-requires-sync")
                .is_some_and(|value| value.eq_ignore_ascii_case("true")),
            past: find("snapshot").is_some() || find("versionid").is_some(),
        })?;
        let verdict = access.check(operation.needs(level))?;
        if container.as_deref().is_some_and(|name| !address::is_container_name(name)) {
            return Err(Error::new(Code::InvalidResourceName).because("This is no name of a container."));
        }
        if blob.as_deref().is_some_and(|name| !address::is_blob_name(name)) {
            return Err(Error::new(Code::InvalidResourceName).because("This is no name of a blob."));
        }
        refuse_unheard(headers, level)?;
        let call = Call {
            api,
            head,
            account,
            container: container.unwrap_or_default(),
            blob: blob.unwrap_or_default(),
            verdict,
            access,
            query,
        };
        Ok((operation, call))
    }

    /// A header's value, if it is there, is text and is not empty.
    pub fn header(&self, name: &str) -> Option<&str> {
        text(self.head.headers, name)
    }

    /// A query value, decoded; a plus is a plus.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// A query value that is text for people, in which some clients write a space as a plus.
    pub fn query_text(&self, name: &str) -> Option<String> {
        let pairs = query_pairs(self.head.query);
        pairs.into_iter().find(|(found, value)| found == name && !value.is_empty()).map(|(_, value)| value)
    }

    /// Whether the caller has the account's key.
    pub fn is_owner(&self) -> bool {
        self.access == Access::Owner
    }

    pub fn overrides(&self) -> Option<&Overrides> {
        self.access.overrides()
    }

    /// The URL of the account, as in listings.
    pub fn account_url(&self) -> String {
        let scheme = if self.head.secure { "https" } else { "http" };
        let host = self.head.host.unwrap_or("localhost");
        let path_style = self
            .head
            .path
            .trim_start_matches('/')
            .split('/')
            .next()
            .is_some_and(|first| first == self.account.name);
        match path_style {
            true => format!("{scheme}://{host}/{}/", self.account.name),
            false => format!("{scheme}://{host}/"),
        }
    }

    /// The conditional headers.
    pub fn condition(&self) -> Result<Condition, Error> {
        self.condition_of("")
    }

    /// As [`Call::condition`], on the source of a copy.
    pub fn source_condition(&self) -> Result<Condition, Error> {
        self.condition_of("x-ms-source-")
    }

    fn condition_of(&self, prefix: &str) -> Result<Condition, Error> {
        let header = |name: &str| self.header(&format!("{prefix}{name}"));
        let tags = |name: &str| {
            header(name).map(|value| {
                let tags = value.split(',').map(|tag| {
                    let tag = tag.trim();
                    tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"').to_owned()
                });
                tags.collect::<Vec<_>>()
            })
        };
        let time = |name: &str| match header(name) {
            None => Ok(None),
            Some(value) => Timestamp::parse(value).map(Some).ok_or_else(|| {
                Error::new(Code::InvalidHeaderValue).because(format!("{prefix}{name} is not a date."))
            }),
        };
        Ok(Condition {
            if_match: tags("if-match"),
            if_none_match: tags("if-none-match"),
            if_modified_since: time("if-modified-since")?,
            if_unmodified_since: time("if-unmodified-since")?,
        })
    }

    /// As [`Call::condition`], for a write of a whole blob: a signature that may only create adds its own.
    pub fn write_condition(&self) -> Result<Condition, Error> {
        let mut condition = self.condition()?;
        if self.verdict == Verdict::OnlyIfNew {
            condition.if_none_match = Some(vec!["*".to_owned()]);
        }
        Ok(condition)
    }

    /// `x-ms-meta-…` headers, sorted by name.
    pub fn metadata(&self) -> Result<Metadata, Error> {
        let mut metadata = Metadata::new();
        for (name, value) in self.head.headers {
            let Some(name) = name.as_str().strip_prefix("x-ms-meta-") else { continue };
            let mut letters = name.bytes();
            let first = letters.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
            if !first || !letters.all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                let why = format!("`{name}` must be letters, digits and `_`, and not begin with a digit.");
                return Err(Error::new(Code::InvalidMetadata).because(why));
            }
            let value = String::from_utf8_lossy(value.as_bytes()).trim().to_owned();
            metadata.push((name.to_owned(), value));
        }
        let size: usize = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
        if size > METADATA_MAX {
            return Err(Code::MetadataTooLarge.into());
        }
        metadata.sort();
        Ok(metadata)
    }

    /// The headers to store with a blob: `x-ms-blob-…`, and for Put Blob the plain ones where those are absent.
    pub fn stored_headers(&self, plain_too: bool) -> Result<Headers, Error> {
        let find = |special: &str, plain: &str| {
            let value = self.header(special).or_else(|| self.header(plain).filter(|_| plain_too));
            match value {
                Some(value) if value.len() > HEADER_MAX => {
                    Err(Error::new(Code::InvalidHeaderValue).because(format!("{special} is too long.")))
                }
                value => Ok(value.map(str::to_owned)),
            }
        };
        let content_type = find("x-ms-blob-content-type", "content-type")?;
        Ok(Headers {
            content_type: content_type.filter(|value| value != respond::DEFAULT_TYPE),
            content_encoding: find("x-ms-blob-content-encoding", "content-encoding")?,
            content_language: find("x-ms-blob-content-language", "content-language")?,
            content_disposition: find("x-ms-blob-content-disposition", "content-disposition")?,
            cache_control: find("x-ms-blob-cache-control", "cache-control")?,
            content_md5: self.md5("x-ms-blob-content-md5")?,
        })
    }

    /// An MD5 given in a header.
    pub fn md5(&self, name: &str) -> Result<Option<[u8; 16]>, Error> {
        let Some(value) = self.header(name) else { return Ok(None) };
        let bytes = STANDARD.decode(value).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Some).ok_or_else(|| Code::InvalidMd5.into())
    }

    /// A CRC-64 given in a header.
    pub fn crc64(&self, name: &str) -> Result<Option<[u8; 8]>, Error> {
        let Some(value) = self.header(name) else { return Ok(None) };
        let bytes = STANDARD.decode(value).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Some).ok_or_else(|| {
            Error::new(Code::InvalidHeaderValue).because(format!("{name} must be base64 of 8 bytes."))
        })
    }

    /// Whether the body, or that of the answer to a read, is structured.
    pub fn is_structured(&self, operation: Operation) -> Result<bool, Error> {
        let Some(value) = self.header(structured::HEADER) else { return Ok(false) };
        if !matches!(
            operation,
            Operation::GetBlob | Operation::PutBlob | Operation::PutBlock | Operation::AppendBlock
        ) {
            return Err(Error::not_implemented("a structured body of this operation"));
        }
        match value.eq_ignore_ascii_case(structured::VALUE) {
            true => Ok(true),
            false => {
                let why = format!("{} must be `{}`.", structured::HEADER, structured::VALUE);
                Err(Error::new(Code::InvalidHeaderValue).because(why))
            }
        }
    }

    /// Length announced for the content of the body; `None` if it is sent in pieces.
    pub fn content_length(&self) -> Option<u64> {
        let name = match self.header(structured::HEADER) {
            Some(_) => structured::LENGTH_HEADER,
            None => "content-length",
        };
        self.header(name)?.parse().ok()
    }

    /// Proposes; a signature that may only create is told about permission, not about existence.
    pub async fn propose(&self, action: BlobAction) -> Result<Outcome, Error> {
        let reply = self.api.backend.propose(self.account.id, action).await?;
        reply.map_err(|refusal| match refusal.code {
            RefusalCode::BlobAlreadyExists if self.verdict == Verdict::OnlyIfNew => {
                Code::AuthorizationPermissionMismatch.into()
            }
            _ => refusal.into(),
        })
    }
}

/// Headers that change what a request means, and that would be ignored here.
const UNHEARD: &[(&str, &str)] = &[
    ("x-ms-if-tags", "a condition on tags"),
    ("x-ms-source-if-tags", "a condition on tags"),
    ("x-ms-tags", "tags of a blob"),
    ("x-ms-encryption-key", "a key of the customer"),
    ("x-ms-source-encryption-key", "a key of the customer"),
    ("x-ms-immutability-policy-until-date", "an immutability policy"),
    ("x-ms-legal-hold", "a legal hold"),
    ("x-ms-copy-source-authorization", "a token for the source of a copy"),
];

fn refuse_unheard(headers: &HeaderMap, level: Level) -> Result<(), Error> {
    if let Some((_, what)) = UNHEARD.iter().find(|(name, _)| text(headers, name).is_some()) {
        return Err(Error::not_implemented(what));
    }
    if text(headers, "x-ms-lease-id").is_some() {
        return Err(match level {
            Level::Blob => Code::LeaseNotPresentWithBlobOperation.into(),
            Level::Service | Level::Container => Code::LeaseNotPresentWithContainerOperation.into(),
        });
    }
    // As of accounts that allow none, which is what new ones are in the cloud.
    match text(headers, "x-ms-blob-public-access") {
        Some(_) => Err(Code::PublicAccessNotPermitted.into()),
        None => Ok(()),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().filter(|value| !value.is_empty())
}
