//! Many deletions in one request (blob WIRE.md §9): a body of parts, each of them a request of its own with its own
//! credentials, answered one by one.

use super::blobs;
use super::body::Body;
use super::call::{Call, Head};
use super::error::{Code, Error};
use super::operation::Operation;
use super::respond;
use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use futures::StreamExt;
use std::fmt::Write as _;

/// Parts of one request.
const PARTS_MAX: usize = 256;
const BODY_MAX: usize = 4 * 1024 * 1024;
/// Parts that are done at once.
const TOGETHER: usize = 32;

/// One request of a batch.
#[derive(Debug)]
struct Part {
    content_id: Option<String>,
    method: String,
    path: String,
    query: String,
    headers: HeaderMap,
}

pub async fn run(call: &Call<'_>, body: &mut Body) -> Result<HttpResponse, Error> {
    let boundary = call.header("content-type").and_then(boundary).ok_or_else(|| {
        Error::new(Code::InvalidHeaderValue).because("Content-Type must be multipart/mixed with a boundary.")
    })?;
    let parts = parse(&boundary, &body.read(BODY_MAX).await?)?;
    let answers = futures::stream::iter(&parts).map(|part| async move {
        let mut answer = String::new();
        match delete(call, part).await {
            Ok(response) => {
                line(&mut answer, "HTTP/1.1 202 Accepted");
                for (name, value) in response.headers() {
                    header(&mut answer, name.as_str(), value.to_str().unwrap_or_default());
                }
                line(&mut answer, "");
            }
            Err(error) => {
                let status = error.code.status();
                let reason = status.canonical_reason().unwrap_or_default();
                line(&mut answer, &format!("HTTP/1.1 {} {reason}", status.as_u16()));
                header(&mut answer, "x-ms-error-code", error.code.name());
                for (name, value) in &error.headers {
                    header(&mut answer, name, value);
                }
                let request_id = uuid::Uuid::new_v4().to_string();
                header(&mut answer, "x-ms-request-id", &request_id);
                let text = respond::error_body(&error, &request_id, (call.api.clock)());
                header(&mut answer, "Content-Type", "application/xml");
                header(&mut answer, "Content-Length", &text.len().to_string());
                line(&mut answer, "");
                line(&mut answer, &String::from_utf8_lossy(&text));
            }
        }
        (part.content_id.as_deref(), answer)
    });
    let mut answers = answers.buffered(TOGETHER);
    let mut all = String::new();
    while let Some((content_id, answer)) = answers.next().await {
        line(&mut all, &format!("--{boundary}"));
        header(&mut all, "Content-Type", "application/http");
        if let Some(id) = content_id {
            header(&mut all, "Content-ID", id);
        }
        line(&mut all, "");
        all.push_str(&answer);
    }
    line(&mut all, &format!("--{boundary}--"));
    let content_type = format!("multipart/mixed; boundary={boundary}");
    Ok(HttpResponse::build(StatusCode::ACCEPTED).content_type(content_type).body(all))
}

async fn delete(batch: &Call<'_>, part: &Part) -> Result<HttpResponse, Error> {
    let head = Head {
        method: &part.method,
        path: &part.path,
        query: &part.query,
        headers: &part.headers,
        ..batch.head
    };
    let (operation, call) = Call::open(head, batch.api).await?;
    let invalid = |why: &str| Err(Error::new(Code::InvalidInput).because(why));
    if operation != Operation::DeleteBlob {
        return invalid("A batch can delete blobs, and nothing else here.");
    }
    let elsewhere = !batch.container.is_empty() && call.container != batch.container;
    if call.account.id != batch.account.id || elsewhere {
        return invalid("This blob does not belong to what the batch is for.");
    }
    blobs::delete(&call).await
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push_str("\r\n");
}

fn header(text: &mut String, name: &str, value: &str) {
    // Writing to a string has no errors.
    let _ = write!(text, "{name}: {value}\r\n");
}

/// The boundary that a content type names; of letters that need no care in an answer.
fn boundary(content_type: &str) -> Option<String> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/mixed") {
        return None;
    }
    let mut parameters = parameters.split(';').filter_map(|parameter| parameter.trim().split_once('='));
    let (_, value) = parameters.find(|(name, _)| name.eq_ignore_ascii_case("boundary"))?;
    let value = value.trim_matches('"');
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&b);
    ((1..=70).contains(&value.len()) && value.bytes().all(is_plain)).then(|| value.to_owned())
}

fn parse(boundary: &str, body: &[u8]) -> Result<Vec<Part>, Error> {
    let bad = |why: &str| Error::new(Code::InvalidInput).because(why);
    let text = std::str::from_utf8(body).map_err(|_| bad("The body is not UTF-8."))?;
    let delimiter = format!("--{boundary}");
    let mut parts = Vec::new();
    // Before the first delimiter is nothing, after the last two hyphens.
    for section in text.split(delimiter.as_str()).skip(1) {
        if section.starts_with("--") {
            return match parts.is_empty() {
                true => Err(bad("The batch has no parts.")),
                false => Ok(parts),
            };
        }
        if parts.len() == PARTS_MAX {
            return Err(bad("The batch has more than 256 parts."));
        }
        parts.push(parse_part(section).ok_or_else(|| bad("A part is no request."))?);
    }
    Err(bad("The last delimiter is missing."))
}

fn parse_part(section: &str) -> Option<Part> {
    let mut lines = section.lines();
    // What is left of the delimiter's line.
    lines.next()?;
    let outer = headers(&mut lines)?;
    let content_id = outer.get("content-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let mut words = lines.next()?.split_ascii_whitespace();
    let (method, target) = (words.next()?, words.next()?);
    if !words.next()?.starts_with("HTTP/") || !target.starts_with('/') {
        return None;
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Some(Part {
        content_id,
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: headers(&mut lines)?,
    })
}

/// Up to the empty line, or the end.
fn headers<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
        headers.insert(name, HeaderValue::from_str(value.trim()).ok()?);
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries() {
        assert_eq!(boundary("multipart/mixed; boundary=batch_1-2"), Some("batch_1-2".to_owned()));
        assert_eq!(boundary("Multipart/Mixed; x=y; Boundary=\"a b\""), None);
        assert_eq!(boundary("multipart/mixed;boundary=\"ab\""), Some("ab".to_owned()));
        for bad in ["multipart/mixed", "text/plain; boundary=a", "multipart/mixed; boundary="] {
            assert_eq!(boundary(bad), None, "{bad}");
        }
    }

    #[test]
    fn parts_are_read() {
        let body = "--b\r\nContent-Type: application/http\r\nContent-ID: 0\r\n\r\n\
            DELETE /a/c/x%20y? HTTP/1.1\r\nx-ms-date: now\r\nContent-Length: 0\r\n\r\n\
            --b\nContent-ID: 1\n\nDELETE /a/c/z?sv=1 HTTP/1.1\n\n--b--";
        let parts = parse("b", body.as_bytes()).unwrap();
        assert_eq!(parts.len(), 2);
        assert_eq!((parts[0].path.as_str(), parts[0].query.as_str()), ("/a/c/x%20y", ""));
        assert_eq!(parts[0].headers.get("x-ms-date").unwrap(), "now");
        assert_eq!((parts[1].content_id.as_deref(), parts[1].query.as_str()), (Some("1"), "sv=1"));
        let many = format!("{}--b--", "--b\n\nDELETE /a/c/z HTTP/1.1\n\n".repeat(PARTS_MAX + 1));
        for bad in ["", "--b--", "--b\n\nDELETE /a HTTP/1.1\n\n", "--b\n\nDELETE a HTTP/1.1\n--b--", &many] {
            assert_eq!(parse("b", bad.as_bytes()).unwrap_err().code, Code::InvalidInput, "{bad:.40}");
        }
    }
}
