//! A server in the test's own process, and a client that signs.

use crate::api::auth::{encode_signature, query_pairs, sign};
use crate::api::batch::files::{Content, Listing, NodeFiles};
use crate::api::batch::schema::{check, schema};
use crate::api::batch::{BatchApi, service};
use crate::api::ops::{self, Metrics, Ops};
use crate::engine::{Engine, direct};
use crate::state::testing::World;
use crate::store::{self, Store, Write};
use actix_web::dev::ServiceResponse;
use actix_web::http::Method;
use actix_web::{App, test};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use lote_shared::model::{NodeKey, Timestamp};
use lote_shared::protocol::files::{Entry, Error, Properties};
use parking_lot::RwLock;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

pub const VERSION: &str = "2025-06-01";
/// The client's clock, an hour after a [`World`] begins: 2023-11-14T23:13:20Z.
pub const NOW: Timestamp = Timestamp(1_700_003_600_000);

#[derive(Debug, Default)]
struct Rows(RwLock<BTreeMap<Vec<u8>, Vec<u8>>>);

impl Store for Rows {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, store::Error> {
        Ok(self.0.read().get(key).cloned())
    }

    fn scan(
        &self,
        _: &[u8],
        _: Option<&[u8]>,
        _: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), store::Error> {
        Ok(())
    }

    fn write(&self, batch: &[Write]) -> Result<(), store::Error> {
        let mut rows = self.0.write();
        for (key, value) in batch {
            match value {
                Some(value) => drop(rows.insert(key.clone(), value.clone())),
                None => drop(rows.remove(key)),
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), store::Error> {
        Ok(())
    }
}

/// Files by node and path from its root; a path that ends in `/` is a directory.
#[derive(Debug, Default)]
pub struct FakeFiles(pub RwLock<BTreeMap<(NodeKey, String), Vec<u8>>>);

impl FakeFiles {
    fn properties(directory: bool, length: u64) -> Properties {
        let mode = if directory { 0o040_755 } else { 0o100_644 };
        Properties { directory, length, modified: Timestamp(1_700_000_000_000), mode }
    }
}

#[async_trait]
impl NodeFiles for FakeFiles {
    async fn stat(&self, node: NodeKey, path: &str) -> Result<Properties, Error> {
        let files = self.0.read();
        if !files.keys().any(|(found, _)| *found == node) {
            return Err(Error::NodeUnavailable);
        }
        if let Some(bytes) = files.get(&(node, path.to_owned())) {
            return Ok(Self::properties(false, bytes.len() as u64));
        }
        let directory = format!("{path}/");
        let is_directory = files.keys().any(|(found, name)| *found == node && name.starts_with(&directory));
        if is_directory { Ok(Self::properties(true, 0)) } else { Err(Error::NotFound) }
    }

    async fn read(&self, node: NodeKey, path: &str, start: u64, end: Option<u64>) -> Result<Content, Error> {
        let properties = self.stat(node, path).await?;
        let length = properties.length;
        let end = end.unwrap_or(length).min(length);
        if start >= length && start > 0 {
            return Err(Error::InvalidRange { length });
        }
        let bytes = self.0.read().get(&(node, path.to_owned())).cloned().unwrap_or_default();
        let wanted = Bytes::from(bytes).slice(start as usize..end as usize);
        let length = wanted.len() as u64;
        let bytes = futures::stream::once(async { Ok(wanted) }).boxed();
        Ok(Content { properties, start, length, bytes })
    }

    async fn list(&self, node: NodeKey, listing: Listing) -> Result<(Vec<Entry>, bool), Error> {
        if !self.stat(node, &listing.path).await?.directory {
            return Err(Error::NotFound);
        }
        let below = format!("{}/", listing.path);
        let files = self.0.read();
        let mut found: BTreeMap<String, Properties> = BTreeMap::new();
        for ((owner, path), bytes) in files.iter() {
            let Some(name) = path.strip_prefix(&below).filter(|_| *owner == node) else { continue };
            let parts: Vec<&str> = name.split('/').collect();
            for depth in 1..parts.len() {
                found.insert(parts[..depth].join("/"), Self::properties(true, 0));
            }
            found.insert(name.to_owned(), Self::properties(false, bytes.len() as u64));
        }
        let mut entries = found
            .into_iter()
            .filter(|(name, _)| listing.recursive || !name.contains('/'))
            .filter(|(name, _)| name.starts_with(&listing.prefix))
            .filter(|(name, _)| listing.after.as_ref().is_none_or(|after| name > after))
            .map(|(name, properties)| Entry { name, properties });
        let page: Vec<Entry> = entries.by_ref().take(listing.max as usize).collect();
        Ok((page, entries.next().is_some()))
    }

    async fn delete(&self, node: NodeKey, path: &str, recursive: bool) -> Result<(), Error> {
        let properties = self.stat(node, path).await?;
        if properties.directory && !recursive {
            return Err(Error::NotEmpty);
        }
        let below = format!("{path}/");
        self.0
            .write()
            .retain(|(owner, name), _| *owner != node || (name != path && !name.starts_with(&below)));
        Ok(())
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Checks the status; errors are shown whole.
    #[track_caller]
    pub fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// Checks status and code.
    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Answer {
        assert_eq!((self.status, self.code().as_str()), (status, code), "{self:?}");
        self
    }
}

/// Holds an answer against the tables.
#[track_caller]
pub fn conforms(model: &str, value: &Value) {
    let complaints = check::complaints(schema(), model, value, true);
    assert!(complaints.is_empty(), "{complaints:#?}\n{value:#}");
}

pub struct Server {
    pub engine: Engine,
    pub files: Arc<FakeFiles>,
    api: BatchApi,
}

impl Server {
    /// On an empty cluster with the account `lote`.
    pub fn new() -> Server {
        Server::over(World::new())
    }

    /// On a cluster that was built before.
    pub fn over(world: World) -> Server {
        let store = Arc::new(Rows(RwLock::new(world.rows)));
        let start = world.now;
        let ticks = std::sync::atomic::AtomicU64::new(0);
        // Every command a second after the one before.
        let clock =
            move || start.plus_ms(1_000 * (1 + ticks.fetch_add(1, std::sync::atomic::Ordering::Relaxed)));
        Server::with_engine(direct::start(world.cluster, store, clock))
    }

    /// Where nobody makes anything durable any more.
    pub fn without_quorum() -> Server {
        let (engine, _) = Engine::new(World::new().cluster, Arc::new(Rows::default()));
        Server::with_engine(engine)
    }

    fn with_engine(engine: Engine) -> Server {
        let files = Arc::new(FakeFiles::default());
        let mut api = BatchApi::new(engine.clone(), files.clone(), Arc::new(Metrics::default()));
        api.clock = Arc::new(|| NOW);
        Server { engine, files, api }
    }

    /// Sends a request whose signature is that of account `lote`.
    pub async fn send(&self, method: &str, target: &str, body: &[u8], headers: &[(&str, &str)]) -> Answer {
        let glue = if target.contains('?') { '&' } else { '?' };
        let target = format!("{target}{glue}api-version={VERSION}");
        self.send_signed(method, &target, body, headers).await
    }

    /// The headers of a signed request, its signature among them.
    pub fn signed_headers(method: &str, target: &str, more: &[(&str, &str)]) -> Vec<(String, String)> {
        let date = NOW.to_http_date();
        let mut all = vec![("host", "batch.test:1"), ("ocp-date", date.as_str())];
        all.extend_from_slice(more);
        let authorization = format!("SharedKey lote:{}", signature(method, target, &all));
        all.push(("authorization", &authorization));
        all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// What the service needs, for a server on a socket.
    pub fn api(&self) -> BatchApi {
        self.api.clone()
    }

    pub async fn send_signed(
        &self,
        method: &str,
        target: &str,
        body: &[u8],
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut all = Vec::new();
        let length = body.len().to_string();
        if !body.is_empty() {
            all.extend([("content-length", length.as_str()), ("content-type", "application/json")]);
        }
        all.extend_from_slice(headers);
        let signed = Self::signed_headers(method, target, &all);
        let signed: Vec<(&str, &str)> =
            signed.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.send_raw(method, target, body, &signed).await
    }

    /// Sends exactly this.
    pub async fn send_raw(
        &self,
        method: &str,
        target: &str,
        body: &[u8],
        headers: &[(&str, &str)],
    ) -> Answer {
        let leads = crate::leadership::Leadership { is_ours: true, ..Default::default() };
        let leadership = tokio::sync::watch::channel(leads).1;
        let ops = Ops { engine: self.engine.clone(), metrics: self.api.metrics.clone(), leadership };
        let app = App::new()
            .configure(|config| ops::service(config, ops))
            .configure(|config| service(config, self.api.clone()));
        let app = test::init_service(app).await;
        let mut request =
            test::TestRequest::with_uri(target).method(Method::from_bytes(method.as_bytes()).unwrap());
        for (name, value) in headers {
            request = request.insert_header((*name, *value));
        }
        let request = request.set_payload(body.to_vec()).to_request();
        let response: ServiceResponse = test::call_service(&app, request).await;
        let status = response.status().as_u16();
        let pairs = response.headers().iter();
        let headers =
            pairs.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
        let body = test::read_body(response).await;
        Answer { status, headers, body }
    }

    pub async fn get(&self, target: &str) -> Answer {
        self.send("GET", target, b"", &[]).await
    }

    pub async fn post(&self, target: &str, body: Value) -> Answer {
        self.send("POST", target, body.to_string().as_bytes(), &[]).await
    }

    /// Follows a list to its end; the items, and how many pages there were.
    pub async fn walk(&self, target: &str) -> (Vec<Value>, usize) {
        let mut answer = self.get(target).await.expect(200).json();
        let mut items = Vec::new();
        for pages in 1.. {
            assert!(pages < 10_000, "an endless list");
            items.extend(answer["value"].as_array().unwrap().iter().cloned());
            let Some(link) = answer["odata.nextLink"].as_str() else { return (items, pages) };
            let target =
                link.strip_prefix("http://batch.test:1").expect("a link to where the client was").to_owned();
            answer = self.send_signed("GET", &target, b"", &[]).await.expect(200).json();
        }
        unreachable!()
    }
}

/// Signed as the Python client does, written down a second time so that it checks the server's own reading.
fn signature(method: &str, target: &str, headers: &[(&str, &str)]) -> String {
    let value = |name: &str| headers.iter().find(|(found, _)| *found == name).map_or("", |(_, value)| *value);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let names =
        ["content-encoding", "content-language", "content-length", "content-md5", "content-type", "date"];
    let more = ["if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range"];
    let mut lines = vec![method.to_owned()];
    lines.extend(names.iter().chain(&more).map(|name| value(name).to_owned()));
    let mut own: Vec<String> = headers
        .iter()
        .filter(|(name, _)| name.starts_with("ocp-"))
        .map(|(name, value)| format!("{name}:{value}"))
        .collect();
    own.sort();
    lines.extend(own);
    lines.push(format!("/lote{path}"));
    let mut pairs = query_pairs(query);
    pairs.sort();
    lines.extend(pairs.into_iter().map(|(name, value)| format!("{name}:{value}")));
    encode_signature(&sign(b"key", &lines.join("\n")))
}
