//! Answers of handlers, and how they become responses: the headers that are always there, bodies of every kind, and
//! errors (WIRE.md §5, §6, §11).

use super::errors::Error;
use super::json::Select;
use crate::state::reply::Version;
use actix_web::body::SizedStream;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use bytes::Bytes;
use futures::stream::BoxStream;
use lote_shared::model::Timestamp;

const JSON: &str = "application/json; odata=minimalmetadata";

/// What a handler answers.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Body,
}

/// The body of an answer.
pub enum Body {
    Empty,
    Json(Vec<u8>),
    /// Exactly so many bytes of a file; for HEAD the length alone.
    File {
        length: u64,
        bytes: BoxStream<'static, Result<Bytes, std::io::Error>>,
    },
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Body::Empty => f.write_str("Empty"),
            Body::Json(bytes) => write!(f, "Json({})", String::from_utf8_lossy(bytes)),
            Body::File { length, .. } => write!(f, "File({length})"),
        }
    }
}

impl Answer {
    pub fn empty(status: u16) -> Answer {
        Answer { status, headers: Vec::new(), body: Body::Empty }
    }

    pub fn json(status: u16, body: Vec<u8>) -> Answer {
        Answer { status, headers: Vec::new(), body: Body::Json(body) }
    }

    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Answer {
        self.headers.push((name, value.into()));
        self
    }

    /// `ETag` and `Last-Modified`.
    #[must_use]
    pub fn version(self, version: Version) -> Answer {
        self.header("etag", version.etag_text()).header("last-modified", version.modified.to_http_date())
    }
}

/// One member of a list, trimmed to what was selected.
pub fn row(select: Option<&Select>, fill: impl FnOnce(&mut super::json::Object)) -> Vec<u8> {
    super::json::object(select, fill)
}

/// What every response of one request carries.
#[derive(Debug)]
pub struct Stamp<'a> {
    pub base: &'a str,
    pub request: &'a HttpRequest,
    pub now: Timestamp,
}

impl Stamp<'_> {
    pub fn answer(&self, answer: Answer) -> HttpResponse {
        let mut builder = self.begin(answer.status, &request_id());
        for (name, value) in answer.headers {
            if let Ok(value) = HeaderValue::try_from(value) {
                builder.insert_header((HeaderName::from_static(name), value));
            }
        }
        match answer.body {
            Body::Empty => builder.finish(),
            Body::Json(bytes) => builder.content_type(JSON).body(bytes),
            Body::File { length, bytes } => builder.body(SizedStream::new(length, bytes)),
        }
    }

    /// The error's body; HEAD and 304 have none.
    pub fn refuse(&self, error: &Error) -> HttpResponse {
        let id = request_id();
        let mut builder = self.begin(error.status, &id);
        if let Some(seconds) = error.retry_after_s() {
            builder.insert_header(("retry-after", seconds.to_string()));
        }
        if self.request.method() == Method::HEAD || error.status == 304 {
            return builder.finish();
        }
        builder.content_type(JSON).body(error.body(self.base, &id, self.now))
    }

    fn begin(&self, status: u16, request_id: &str) -> HttpResponseBuilder {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut builder = HttpResponse::build(status);
        builder.insert_header(("request-id", request_id)).insert_header(("dataserviceversion", "3.0"));
        let headers = self.request.headers();
        let wants_id = headers
            .get("return-client-request-id")
            .is_some_and(|value| value.to_str().is_ok_and(|text| text.trim().eq_ignore_ascii_case("true")));
        if let Some(id) = headers.get("client-request-id").filter(|_| wants_id) {
            builder.insert_header(("client-request-id", id.clone()));
        }
        builder
    }
}

fn request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}
