//! [`Source`] and [`Sink`] over HTTP(S): any URL by GET, containers by the Blob REST interface with a SAS.
//!
//! Works for host-style (`https://account.blob…/container?sas`) and path-style (`http://host/account/container?sas`)
//! addresses alike, since only the path is appended to and only the query extended. Requests carry nothing but what
//! the URL carries.

use super::transfer::{Error, Listed, Page, Sink, Source, Wanted};
use base64::Engine;
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt, stream};
use lote_shared::model::Producer;
use md5::{Digest, Md5};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use quick_xml::events::Event;
use reqwest::{Client, Method, Response, StatusCode, Url, redirect};
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, BufWriter};
use tokio_util::io::ReaderStream;

/// Redirects followed (`files-and-storage.md` §4).
const REDIRECTS_MAX: usize = 5;
/// Blob REST version of our requests.
const API_VERSION: &str = "2021-12-02";
/// A part of a container's list is not longer than this.
const LIST_LIMIT_BYTES: usize = 32 * 1024 * 1024;
const LIST_PAGE_BLOBS: usize = 5_000;
/// Blocks a blob may have.
const BLOCKS_MAX: u64 = 50_000;
const BUFFER_BYTES: usize = 128 * 1024;
/// Blocks of one file on their way at the same time.
const BLOCKS_AT_ONCE: usize = 3;

/// Everything but unreserved characters and `/`.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// Limits of time and size; the defaults are for production.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub connect: Duration,
    /// Longest silence of the other side.
    pub idle: Duration,
    /// Files up to this size go up in one request.
    pub single_bytes: u64,
    pub block_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connect: Duration::from_secs(15),
            idle: Duration::from_secs(60),
            single_bytes: 16 * 1024 * 1024,
            block_bytes: 8 * 1024 * 1024,
        }
    }
}

/// A shared HTTP client. Cheap to clone.
#[derive(Debug, Clone)]
pub struct HttpStore {
    client: Client,
    limits: Limits,
}

impl HttpStore {
    pub fn new(limits: Limits) -> Result<HttpStore, Error> {
        // Refused if a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let redirects = redirect::Policy::custom(|attempt| {
            let downgrade = attempt.previous().last().is_some_and(|url| url.scheme() == "https")
                && attempt.url().scheme() != "https";
            if downgrade {
                attempt.error("a redirect from https to http is refused")
            } else if attempt.previous().len() > REDIRECTS_MAX {
                attempt.error("more than 5 redirects")
            } else {
                attempt.follow()
            }
        });
        let client = Client::builder()
            .redirect(redirects)
            .connect_timeout(limits.connect)
            .read_timeout(limits.idle)
            .user_agent(concat!("lote/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(failed)?;
        Ok(HttpStore { client, limits })
    }

    async fn get(&self, url: Url) -> Result<Response, Error> {
        let request = self.client.get(url).header("x-ms-version", API_VERSION);
        check(request.send().await.map_err(failed)?)
    }

    async fn fetch_file(&self, url: &str, target: &Path, mode: u32) -> Result<u64, Error> {
        // Neither the header nor any other hint of a plain download may depend on the Blob interface.
        let mut response = check(self.client.get(parse(url)?).send().await.map_err(failed)?)?;
        let announced = response.content_length();
        let digest = response
            .headers()
            .get("content-md5")
            .and_then(|value| base64::engine::general_purpose::STANDARD.decode(value.as_bytes()).ok());
        let file = create(target, mode).await?;
        let mut file = BufWriter::with_capacity(BUFFER_BYTES, file);
        let mut hash = digest.is_some().then(Md5::new);
        let mut length = 0_u64;
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if let Some(hash) = &mut hash {
                hash.update(&chunk);
            }
            length += chunk.len() as u64;
            file.write_all(&chunk).await.map_err(Error::Write)?;
        }
        file.flush().await.map_err(Error::Write)?;
        if announced.is_some_and(|announced| announced != length) {
            return Err(Error::Broken(format!("{length} bytes came instead of {}", announced.unwrap_or(0))));
        }
        if let (Some(digest), Some(hash)) = (digest, hash)
            && hash.finalize().as_slice() != digest
        {
            return Err(Error::Broken("the content does not have the MD5 that was announced".into()));
        }
        Ok(length)
    }

    async fn list_page(&self, container: &str, prefix: &str, marker: Option<&str>) -> Result<Page, Error> {
        let mut url = parse(container)?;
        {
            let mut query = url.query_pairs_mut();
            query.append_pair("restype", "container").append_pair("comp", "list");
            query.append_pair("maxresults", &LIST_PAGE_BLOBS.to_string());
            if !prefix.is_empty() {
                query.append_pair("prefix", prefix);
            }
            if let Some(marker) = marker {
                query.append_pair("marker", marker);
            }
        }
        let mut response = self.get(url).await?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > LIST_LIMIT_BYTES {
                return Err(Error::Refused("the container's list is too long".into()));
            }
            body.extend_from_slice(&chunk);
        }
        parse_list(&body)
    }

    /// One request with a part of a file as its body.
    async fn put(
        &self,
        url: Url,
        path: &Path,
        range: (u64, u64),
        headers: &[(String, String)],
        block: bool,
    ) -> Result<(), Error> {
        let (start, length) = range;
        let mut file = File::open(path).await.map_err(Error::Read)?;
        file.seek(io::SeekFrom::Start(start)).await.map_err(Error::Read)?;
        let body = ReaderStream::with_capacity(file.take(length), BUFFER_BYTES);
        let mut request = self
            .client
            .request(Method::PUT, url)
            .header("x-ms-version", API_VERSION)
            .header("content-length", length)
            .body(reqwest::Body::wrap_stream(body));
        if !block {
            request = request.header("x-ms-blob-type", "BlockBlob");
            for (name, value) in headers {
                request = request.header(name, value);
            }
        }
        check(request.send().await.map_err(failed)?)?;
        Ok(())
    }

    async fn upload_file(
        &self,
        container: &str,
        name: &str,
        path: &Path,
        headers: &[(String, String)],
    ) -> Result<u64, Error> {
        let url = parse(&self.blob_url(container, name)?)?;
        let length = tokio::fs::metadata(path).await.map_err(Error::Read)?.len();
        if length <= self.limits.single_bytes {
            self.put(url, path, (0, length), headers, false).await?;
            return Ok(length);
        }
        let block_bytes = self.limits.block_bytes.max(length.div_ceil(BLOCKS_MAX));
        let ids: Vec<String> = (0..length.div_ceil(block_bytes))
            .map(|n| base64::engine::general_purpose::STANDARD.encode(format!("{n:08}")))
            .collect();
        let blocks: Vec<(Url, (u64, u64))> = (0..)
            .zip(&ids)
            .map(|(n, id): (u64, &String)| {
                let mut url = url.clone();
                url.query_pairs_mut().append_pair("comp", "block").append_pair("blockid", id);
                let start = n * block_bytes;
                (url, (start, block_bytes.min(length - start)))
            })
            .collect();
        let blocks = blocks.into_iter().map(|(url, part)| self.put(url, path, part, &[], true));
        stream::iter(blocks).buffer_unordered(BLOCKS_AT_ONCE).try_collect::<()>().await?;
        let list: String = ids.iter().map(|id| format!("<Latest>{id}</Latest>")).collect();
        let mut commit = url;
        commit.query_pairs_mut().append_pair("comp", "blocklist");
        let mut request = self.client.put(commit).header("x-ms-version", API_VERSION);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let body = format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{list}</BlockList>");
        check(request.header("content-type", "application/xml").body(body).send().await.map_err(failed)?)?;
        Ok(length)
    }
}

impl Source for HttpStore {
    fn fetch<'a>(
        &'a self,
        file: &'a Wanted,
        target: &'a Path,
        mode: u32,
    ) -> BoxFuture<'a, Result<u64, Error>> {
        let url = file.url.as_str();
        Box::pin(self.fetch_file(url, target, mode))
    }

    fn list<'a>(
        &'a self,
        container: &'a str,
        prefix: &'a str,
        marker: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Page, Error>> {
        Box::pin(self.list_page(container, prefix, marker))
    }

    fn blob_url(&self, container: &str, name: &str) -> Result<String, Error> {
        parse(container)?;
        let bare = container.split('#').next().unwrap_or_default();
        let (address, query) = bare.split_once('?').unwrap_or((bare, ""));
        let mut text = format!("{}/{}", address.trim_end_matches('/'), utf8_percent_encode(name, PATH));
        if !query.is_empty() {
            text.push('?');
            text.push_str(query);
        }
        Ok(text)
    }
}

impl Sink for HttpStore {
    fn upload<'a>(
        &'a self,
        container: &'a str,
        name: &'a str,
        file: &'a Path,
        headers: &'a [(String, String)],
        // No server of this kind knows of attempts.
        _producer: Option<Producer>,
    ) -> BoxFuture<'a, Result<u64, Error>> {
        Box::pin(self.upload_file(container, name, file, headers))
    }
}

/// The new or emptied file, never through a link.
pub(super) async fn create(target: &Path, mode: u32) -> Result<File, Error> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode & 0o7777)
        .custom_flags(libc::O_NOFOLLOW)
        .open(target)
        .await
        .map_err(Error::Create)?;
    // The file may have been there, and the process's mask may have taken bits away.
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode & 0o7777);
    file.set_permissions(permissions).await.map_err(Error::Create)?;
    Ok(file)
}

fn parse(url: &str) -> Result<Url, Error> {
    let url = Url::parse(url).map_err(|error| Error::Refused(format!("the URL is malformed: {error}")))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        other => Err(Error::Refused(format!("`{other}` URLs are not supported"))),
    }
}

fn check(response: Response) -> Result<Response, Error> {
    let status = response.status();
    match status {
        _ if status.is_success() => Ok(response),
        StatusCode::NOT_FOUND => Err(Error::NotFound),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Error::Denied(status.as_u16())),
        StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => Err(Error::Conflict(status.as_u16())),
        _ => Err(Error::Status(status.as_u16())),
    }
}

/// The client's errors name the URL, which may hold a signature: it is taken out before anything is kept.
fn failed(error: reqwest::Error) -> Error {
    let error = error.without_url();
    if error.is_timeout() {
        return Error::TimedOut;
    }
    let mut text = error.to_string();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    if error.is_redirect() || error.is_builder() { Error::Refused(text) } else { Error::Broken(text) }
}

/// Reads the answer of List Blobs.
fn parse_list(xml: &[u8]) -> Result<Page, Error> {
    let broken = |what: String| Error::Broken(format!("the container's list cannot be read: {what}"));
    let text = std::str::from_utf8(xml).map_err(|error| broken(error.to_string()))?;
    let mut reader = quick_xml::Reader::from_str(text.trim_start_matches('\u{feff}'));
    let mut page = Page::default();
    let mut path: Vec<Vec<u8>> = Vec::new();
    let (mut value, mut encoded) = (String::new(), false);
    let (mut name, mut length) = (None, 0);
    loop {
        match reader.read_event().map_err(|error| broken(error.to_string()))? {
            Event::Eof => break,
            Event::Start(start) => {
                value.clear();
                encoded = start
                    .attributes()
                    .flatten()
                    .any(|a| a.key.as_ref() == b"Encoded" && &*a.value == b"true");
                path.push(start.name().as_ref().to_vec());
            }
            Event::Text(part) => value.push_str(&part.decode().map_err(|error| broken(error.to_string()))?),
            Event::CData(part) => value.push_str(&part.decode().map_err(|error| broken(error.to_string()))?),
            Event::GeneralRef(reference) => {
                let reference = reference.decode().map_err(|error| broken(error.to_string()))?;
                let escaped = format!("&{reference};");
                value.push_str(
                    &quick_xml::escape::unescape(&escaped).map_err(|error| broken(error.to_string()))?,
                );
            }
            Event::End(_) => {
                let element: Vec<&[u8]> = path.iter().skip(1).map(Vec::as_slice).collect();
                match element.as_slice() {
                    [b"Blobs", b"Blob", b"Name"] if encoded => {
                        let decoded = percent_decode_str(&value).decode_utf8();
                        name = Some(decoded.map_err(|error| broken(error.to_string()))?.into_owned());
                    }
                    [b"Blobs", b"Blob", b"Name"] => name = Some(std::mem::take(&mut value)),
                    [b"Blobs", b"Blob", b"Properties", b"Content-Length"] => {
                        length = value.trim().parse().map_err(|_| broken(format!("length `{value}`")))?;
                    }
                    [b"Blobs", b"Blob"] => {
                        let name = name.take().ok_or_else(|| broken("a blob without a name".into()))?;
                        page.blobs.push(Listed { name, length: std::mem::take(&mut length), content: None });
                    }
                    [b"NextMarker"] => {
                        page.next = Some(value.trim().to_owned()).filter(|next| !next.is_empty())
                    }
                    _ => {}
                }
                path.pop();
            }
            _ => {}
        }
    }
    if path.is_empty() { Ok(page) } else { Err(broken("it ends in the middle".into())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_with_their_encodings() {
        let xml = br#"<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="x" ContainerName="c">
            <MaxResults>2</MaxResults><Blobs>
            <Blob><Name>a/b &amp; c&#xe4;.txt</Name><Properties><Content-Length>12</Content-Length><Etag>1</Etag></Properties></Blob>
            <Blob><Name Encoded="true">x%EF%BF%BEy</Name><Properties><Content-Length>0</Content-Length></Properties></Blob>
            </Blobs><NextMarker>2!8</NextMarker></EnumerationResults>"#;
        let listed = |name: &str, length| Listed { name: name.into(), length, content: None };
        let page = parse_list(xml).unwrap();
        assert_eq!(page.blobs, [listed("a/b & c\u{e4}.txt", 12), listed("x\u{fffe}y", 0)]);
        assert_eq!(page.next.as_deref(), Some("2!8"));
        assert_eq!(
            parse_list(b"<EnumerationResults><Blobs/><NextMarker/></EnumerationResults>").unwrap(),
            Page::default()
        );
        for bad in ["<EnumerationResults><Blobs>", "<a><b></a>", "\u{1}\u{fffd}<"] {
            assert!(parse_list(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn blob_urls_are_made_in_both_styles() {
        let store = HttpStore::new(Limits::default()).unwrap();
        for (container, name, expected) in [
            (
                "https://acc.blob.x/c?sv=1&sig=a%2Bb",
                "d/e f.txt",
                "https://acc.blob.x/c/d/e%20f.txt?sv=1&sig=a%2Bb",
            ),
            ("http://127.0.0.1:11001/acc/c/?sig=x", "ü#?", "http://127.0.0.1:11001/acc/c/%C3%BC%23%3F?sig=x"),
            ("http://h/c", "../x", "http://h/c/../x"),
        ] {
            assert_eq!(store.blob_url(container, name).unwrap(), expected);
        }
        assert!(store.blob_url("ftp://h/c", "x").is_err());
        assert!(store.blob_url("no url", "x").is_err());
    }
}
