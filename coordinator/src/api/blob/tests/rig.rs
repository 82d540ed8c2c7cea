//! A server in the test and a client that signs by a second writing of the rules.

use super::super::{AccountAccess, Backend, BlobApi, service};
use crate::engine::Unavailable;
use crate::state::blobs::{BlobAction, Blobs};
use crate::state::{Batch, Reply, Stamp};
use actix_web::body::to_bytes;
use actix_web::dev::ServiceResponse;
use actix_web::http::header::HeaderMap;
use actix_web::http::{Method, StatusCode};
use actix_web::{App, test};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use lote_shared::chunks::ChunkStore;
use lote_shared::model::{AccountId, Producer, Timestamp};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub const ACCOUNT: &str = "acct";
pub const KEY: &[u8] = b"first key";

/// Records without log or cluster.
pub struct Local {
    blobs: Mutex<Blobs>,
    clock: Arc<AtomicU64>,
    /// Actions that are refused as if somebody had staged or appended a block meanwhile.
    pub disturb: AtomicU64,
}

#[async_trait]
impl Backend for Local {
    fn account(&self, name: &str) -> Option<AccountAccess> {
        let keys = vec![KEY.to_vec(), b"second key".to_vec()];
        (name == ACCOUNT).then(|| AccountAccess { id: AccountId(1), name: name.to_owned(), keys })
    }

    fn look(&self, look: &mut dyn FnMut(&Blobs)) {
        look(&self.blobs.lock());
    }

    async fn linearize(&self) -> Result<(), Unavailable> {
        Ok(())
    }

    async fn propose(&self, account: AccountId, action: BlobAction) -> Result<Reply, Unavailable> {
        let now = Timestamp(self.clock.load(Ordering::SeqCst));
        let mut batch = Batch::default();
        let mut blobs = self.blobs.lock();
        if matches!(action, BlobAction::Put { composed: Some(_), .. } | BlobAction::Append { .. })
            && self.disturb.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
        {
            return Ok(Err(crate::state::RefusalCode::Fenced.into()));
        }
        Ok(blobs.apply(Stamp { index: 1, now }, account, &action, &mut batch))
    }

    /// There are no attempts here.
    async fn propose_output(
        &self,
        _: AccountId,
        _: Producer,
        _: String,
        _: BlobAction,
    ) -> Result<Reply, Unavailable> {
        Ok(Err(crate::state::RefusalCode::Fenced.into()))
    }
}

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// Status and error code.
    pub fn outcome(&self) -> (u16, &str) {
        (self.status, self.header("x-ms-error-code"))
    }

    /// Texts of all elements of this name.
    pub fn texts(&self, element: &str) -> Vec<&str> {
        let text = self.text();
        let (open, close) = (format!("<{element}>"), format!("</{element}>"));
        let parts = text.split(open.as_str()).skip(1);
        parts.map(|part| part.split(close.as_str()).next().unwrap()).collect()
    }
}

pub struct Rig {
    pub api: BlobApi,
    pub local: Arc<Local>,
    pub clock: Arc<AtomicU64>,
    pub folder: tempfile::TempDir,
}

impl Rig {
    pub fn new() -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let chunks = ChunkStore::open(folder.path()).unwrap();
        let clock = Arc::new(AtomicU64::new(1_752_580_800_000));
        let local = Arc::new(Local {
            blobs: Mutex::new(Blobs::default()),
            clock: clock.clone(),
            disturb: AtomicU64::new(0),
        });
        let reading = clock.clone();
        let now = move || Timestamp(reading.load(Ordering::SeqCst));
        let api = BlobApi::new(local.clone(), chunks, ACCOUNT, now);
        Rig { api, local, clock, folder }
    }

    pub fn now(&self) -> Timestamp {
        Timestamp(self.clock.load(Ordering::SeqCst))
    }

    pub fn advance_ms(&self, ms: u64) {
        self.clock.fetch_add(ms, Ordering::SeqCst);
    }

    /// Signs with the account's key and sends. `target` is path and query.
    pub async fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let date = self.now().to_http_date();
        let length = body.len().to_string();
        let mut all: Vec<(&str, &str)> =
            vec![("x-ms-date", &date), ("x-ms-version", "2025-07-05"), ("content-length", &length)];
        all.extend_from_slice(headers);
        let signature = shared_key(method, target, &all);
        let authorization = format!("SharedKey {ACCOUNT}:{signature}");
        all.push(("authorization", &authorization));
        self.send_raw(method, target, &all, body).await
    }

    /// Sends without adding anything.
    pub async fn send_raw(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let api = self.api.clone();
        let app = test::init_service(App::new().configure(|cfg| service(cfg, api))).await;
        let mut request = test::TestRequest::default()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(target)
            .peer_addr(([127, 0, 0, 1], 999).into())
            .set_payload(body.to_vec());
        for (name, value) in headers {
            request = request.insert_header((*name, *value));
        }
        let response: ServiceResponse = test::call_service(&app, request.to_request()).await;
        let status: StatusCode = response.status();
        let headers = response.headers().clone();
        let body = to_bytes(response.into_body()).await.map(|bytes| bytes.to_vec()).unwrap_or_default();
        Answer { status: status.as_u16(), headers, body }
    }

    pub async fn get(&self, target: &str) -> Answer {
        self.send("GET", target, &[], b"").await
    }

    pub async fn create(&self, container: &str) {
        let target = format!("/{ACCOUNT}/{container}?restype=container");
        assert_eq!(self.send("PUT", &target, &[], b"").await.status, 201);
    }

    pub async fn put(&self, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut all = vec![("x-ms-blob-type", "BlockBlob")];
        all.extend_from_slice(headers);
        self.send("PUT", target, &all, body).await
    }
}

pub fn hmac(key: &[u8], text: &str) -> String {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}

/// A plain writing of WIRE.md §3, for header names that sort alike in both orders.
pub fn shared_key(method: &str, target: &str, headers: &[(&str, &str)]) -> String {
    let get = |name: &str| headers.iter().find(|(n, _)| *n == name).map_or("", |(_, v)| v);
    let length = Some(get("content-length")).filter(|l| *l != "0").unwrap_or("");
    let mut lines = vec![method.to_owned(), get("content-encoding").into(), get("content-language").into()];
    lines.extend(
        [length, get("content-md5"), get("content-type"), "", get("if-modified-since")].map(String::from),
    );
    lines.extend(["if-match", "if-none-match", "if-unmodified-since", "range"].map(|name| get(name).into()));
    let mut ms: Vec<_> = headers.iter().filter(|(name, _)| name.starts_with("x-ms-")).collect();
    ms.sort();
    lines.extend(ms.iter().map(|(name, value)| format!("{name}:{}", value.trim())));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut resource = format!("/{ACCOUNT}{path}");
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(n, v)| {
            (n.to_lowercase(), percent_encoding::percent_decode_str(v).decode_utf8().unwrap().into_owned())
        })
        .collect();
    pairs.sort();
    for (name, value) in pairs {
        resource.push_str(&format!("\n{name}:{value}"));
    }
    lines.push(resource);
    hmac(KEY, &lines.join("\n"))
}
