//! Responses: the headers every exchange has (blob WIRE.md §2), those of a blob, and errors.

use super::error::Error;
use super::xml;
use crate::api::auth::blob::query_pairs_literal;
use crate::api::auth::blob::sas::Overrides;
use crate::state::blobs::{Blob, Copied, Metadata};
use crate::state::reply::Version;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lote_shared::model::Timestamp;

/// Content type of blobs that were given none.
pub const DEFAULT_TYPE: &str = "application/octet-stream";
/// Answered to clients that name no version.
const DEFAULT_VERSION: &str = "2021-12-02";

/// What goes into every response.
pub struct Common {
    request_id: String,
    version: HeaderValue,
    client_request_id: Option<HeaderValue>,
}

impl Common {
    pub fn of(request: &HttpRequest) -> Common {
        let sv = || {
            let query = query_pairs_literal(request.query_string());
            let (_, value) = query.into_iter().find(|(name, _)| name == "sv")?;
            HeaderValue::from_str(&value).ok()
        };
        let version = request.headers().get("x-ms-version").cloned().or_else(sv);
        Common {
            request_id: uuid::Uuid::new_v4().to_string(),
            version: version.unwrap_or(HeaderValue::from_static(DEFAULT_VERSION)),
            client_request_id: request.headers().get("x-ms-client-request-id").cloned(),
        }
    }

    /// Completes a response.
    pub fn finish(self, mut response: HttpResponse) -> HttpResponse {
        let headers = response.headers_mut();
        set(headers, "x-ms-request-id", &self.request_id);
        headers.insert(HeaderName::from_static("x-ms-version"), self.version);
        if let Some(id) = self.client_request_id {
            headers.insert(HeaderName::from_static("x-ms-client-request-id"), id);
        }
        response
    }

    /// The response of an error; without body where there must be none.
    pub fn refuse(self, request: &HttpRequest, error: &Error, now: Timestamp) -> HttpResponse {
        let status = error.code.status();
        let mut builder = HttpResponse::build(status);
        builder.insert_header(("x-ms-error-code", error.code.name()));
        for (name, value) in &error.headers {
            builder.insert_header((*name, value.as_str()));
        }
        let empty = request.method() == Method::HEAD || status == StatusCode::NOT_MODIFIED;
        let response = match empty {
            true => builder.finish(),
            false => {
                let body = error_body(error, &self.request_id, now);
                builder.content_type("application/xml").body(body)
            }
        };
        self.finish(response)
    }
}

/// What the body of an answer says of an error.
pub fn error_body(error: &Error, request_id: &str, now: Timestamp) -> Vec<u8> {
    let mut message = error.code.sentence().to_owned();
    if !error.detail.is_empty() {
        message.push(' ');
        message.push_str(&error.detail);
    }
    message.push_str(&format!("\nRequestId:{request_id}\nTime:{now}"));
    xml::error(error.code.name(), &message)
}

/// Sets a header; a value that no header can hold is left out.
pub fn set(headers: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
        headers.insert(name, value);
    }
}

/// `ETag` and `Last-Modified`.
pub fn version_headers(headers: &mut HeaderMap, version: Version) {
    set(headers, "etag", &format!("\"{}\"", version.etag_text()));
    set(headers, "last-modified", &version.modified.to_http_date());
}

/// A builder for the answer to a write.
pub fn written(status: StatusCode, version: Option<Version>) -> HttpResponse {
    let mut response = HttpResponseBuilder::new(status).finish();
    let headers = response.headers_mut();
    set(headers, "x-ms-request-server-encrypted", "true");
    if let Some(version) = version {
        version_headers(headers, version);
    }
    response
}

pub fn metadata_headers(headers: &mut HeaderMap, metadata: &[(String, String)]) {
    for (name, value) in metadata {
        let name = HeaderName::from_bytes(format!("x-ms-meta-{name}").as_bytes());
        // Values may hold any bytes above the control characters.
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
            headers.insert(name, value);
        }
    }
}

/// Of a copy that is complete: its bytes of all of them.
pub fn progress(copied: &Copied) -> String {
    format!("{0}/{0}", copied.bytes)
}

/// What a response says of a blob; a copy of its record without the name.
#[derive(Debug, Clone)]
pub struct BlobFacts {
    pub created: Timestamp,
    pub version: Version,
    pub length: u64,
    pub headers: crate::state::blobs::Headers,
    pub metadata: Metadata,
    /// Blocks of an append blob.
    pub appended: Option<u32>,
    pub copied: Option<Copied>,
}

impl BlobFacts {
    pub fn of(blob: &Blob) -> BlobFacts {
        BlobFacts {
            created: blob.created,
            version: blob.version,
            length: blob.content.length,
            headers: blob.headers(),
            metadata: blob.metadata.to_vec(),
            appended: blob.appended(),
            copied: blob.copied().cloned(),
        }
    }

    /// `BlockBlob` or `AppendBlob`.
    pub fn blob_type(&self) -> &'static str {
        match self.appended {
            Some(_) => "AppendBlob",
            None => "BlockBlob",
        }
    }

    /// Headers of GET and HEAD. `part`: only a range is sent, so the MD5 of the whole has a name of its own.
    pub fn write(&self, headers: &mut HeaderMap, overrides: Option<&Overrides>, part: bool) {
        version_headers(headers, self.version);
        set(headers, "accept-ranges", "bytes");
        set(headers, "x-ms-blob-type", self.blob_type());
        if let Some(blocks) = self.appended {
            set(headers, "x-ms-blob-committed-block-count", &blocks.to_string());
        }
        if let Some(copied) = &self.copied {
            set(headers, "x-ms-copy-id", &copied.id);
            set(headers, "x-ms-copy-source", &copied.source);
            set(headers, "x-ms-copy-status", "success");
            set(headers, "x-ms-copy-progress", &progress(copied));
            set(headers, "x-ms-copy-completion-time", &copied.completed.to_http_date());
        }
        set(headers, "x-ms-creation-time", &self.created.to_http_date());
        set(headers, "x-ms-lease-status", "unlocked");
        set(headers, "x-ms-lease-state", "available");
        set(headers, "x-ms-server-encrypted", "true");
        metadata_headers(headers, &self.metadata);
        let none = Overrides::default();
        let over = overrides.unwrap_or(&none);
        let stored = &self.headers;
        let content_type = over.content_type.as_deref().or(stored.content_type.as_deref());
        set(headers, "content-type", content_type.unwrap_or(DEFAULT_TYPE));
        let others = [
            ("content-encoding", &over.content_encoding, &stored.content_encoding),
            ("content-language", &over.content_language, &stored.content_language),
            ("content-disposition", &over.content_disposition, &stored.content_disposition),
            ("cache-control", &over.cache_control, &stored.cache_control),
        ];
        for (name, over, stored) in others {
            if let Some(value) = over.as_deref().or(stored.as_deref()) {
                set(headers, name, value);
            }
        }
        if let Some(md5) = stored.content_md5 {
            set(headers, if part { "x-ms-blob-content-md5" } else { "content-md5" }, &STANDARD.encode(md5));
        }
    }
}
