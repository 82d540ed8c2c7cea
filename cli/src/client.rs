//! A small signed client of the two REST interfaces, for the demo and `lote status`.
//!
//! There is no kept Azure Batch crate, and the Azure storage crate takes no shared key; so the two signatures
//! (`azure-batch/WIRE.md` §3, `azure-blob/WIRE.md` §3) are made here and everything else is `reqwest`.

use crate::folder;
use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{Method, Response};
use serde_json::Value;
use sha2::Sha256;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use tokio_util::io::ReaderStream;

const API_VERSION: &str = "2024-02-01.19.0";
const BLOB_VERSION: &str = "2023-11-03";
const JSON: &str = "application/json; odata=minimalmetadata; charset=utf-8";

/// Where a cluster is and who we are there.
#[derive(Debug, Clone)]
pub struct Client {
    pub batch_endpoint: String,
    /// Ends in `/ACCOUNT`.
    pub blob_endpoint: String,
    pub account: String,
    key: Vec<u8>,
    http: reqwest::Client,
}

/// What is uploaded.
struct Content {
    body: reqwest::Body,
    length: u64,
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Content {
        Content { length: bytes.len() as u64, body: bytes.into() }
    }
}

/// An answer that was not a success.
#[derive(Debug, thiserror::Error)]
#[error("{method} {path}: {status} {code}: {message}")]
pub struct Refused {
    method: Method,
    path: String,
    pub status: u16,
    pub code: String,
    message: String,
}

impl Client {
    /// The client of the cluster whose `lote.env` this is.
    pub fn from_env_file(path: &Path) -> anyhow::Result<Client> {
        Self::from_env(&folder::read_env(path)?)
    }

    pub fn from_env(env: &BTreeMap<String, String>) -> anyhow::Result<Client> {
        let get =
            |name: &str| env.get(name).cloned().with_context(|| format!("{name} is missing in lote.env"));
        Ok(Client {
            batch_endpoint: get("AZURE_BATCH_ENDPOINT")?,
            blob_endpoint: get("AZURE_STORAGE_BLOB_ENDPOINT")?,
            account: get("AZURE_BATCH_ACCOUNT")?,
            key: STANDARD.decode(get("AZURE_BATCH_ACCESS_KEY")?).context("the access key is not base64")?,
            http: crate::announce::http_client(env.get("LOTE_CA_FILE").map(Path::new))?.build()?,
        })
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let bytes = self.batch(Method::GET, path, None).await?.bytes().await?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    pub async fn get_bytes(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        Ok(self.batch(Method::GET, path, None).await?.bytes().await?.to_vec())
    }

    /// Writes the answer to a file, which is on stable storage when this returns.
    pub async fn get_to_file(&self, path: &str, file: &Path) -> anyhow::Result<()> {
        let mut response = self.batch(Method::GET, path, None).await?;
        let at = || format!("writing {}", file.display());
        let mut out = std::fs::File::create_new(file).with_context(at)?;
        while let Some(piece) = response.chunk().await? {
            out.write_all(&piece).with_context(at)?;
        }
        out.sync_all().with_context(at)
    }

    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Vec<u8>> {
        Ok(self.batch(Method::POST, path, Some(serde_json::to_vec(body)?)).await?.bytes().await?.to_vec())
    }

    pub async fn delete(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        Ok(self.batch(Method::DELETE, path, None).await?.bytes().await?.to_vec())
    }

    /// One signed Batch call; `path` starts with `/` and may carry a query whose values need no encoding.
    async fn batch(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> anyhow::Result<Response> {
        let (resource, query) = path.split_once('?').unwrap_or((path, ""));
        let mut parameters: BTreeMap<&str, &str> =
            query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        parameters.insert("api-version", API_VERSION);
        let date = httpdate();
        let length = match (&body, &method) {
            (Some(body), _) => body.len().to_string(),
            (None, &Method::GET) => String::new(),
            (None, _) => "0".to_owned(),
        };
        let content_type = if body.is_some() { JSON } else { "" };
        let mut text = format!(
            "{method}\n\n\n{length}\n\n{content_type}\n\n\n\n\n\n\nocp-date:{date}\n/{}{resource}",
            self.account
        );
        for (name, value) in &parameters {
            text.push_str(&format!("\n{name}:{value}"));
        }
        let pairs: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let url = format!("{}{resource}?{}", self.batch_endpoint, pairs.join("&"));
        let mut request = self
            .http
            .request(method.clone(), url)
            .header("ocp-date", date)
            .header("authorization", self.authorization(&text));
        if body.is_some() {
            request = request.header("content-type", JSON);
        }
        if !length.is_empty() {
            request = request.header("content-length", length);
        }
        let response =
            request.body(body.unwrap_or_default()).send().await.with_context(|| {
                format!("{} does not answer; is the cluster running?", self.batch_endpoint)
            })?;
        check(method, path, response).await
    }

    pub async fn create_container(&self, name: &str) -> anyhow::Result<()> {
        self.blob(Method::PUT, &format!("/{name}"), &[("restype", "container")], None).await.map(drop)
    }

    /// Makes a container unless it is there.
    pub async fn ensure_container(&self, name: &str) -> anyhow::Result<()> {
        match self.create_container(name).await {
            Err(error) if error.downcast_ref::<Refused>().is_some_and(|refused| refused.status == 409) => {
                Ok(())
            }
            result => result,
        }
    }

    pub async fn delete_blob(&self, container: &str, name: &str) -> anyhow::Result<()> {
        self.blob(Method::DELETE, &format!("/{container}/{name}"), &[], None).await.map(drop)
    }

    /// Uploads a file of this length, with a bar for those who watch.
    pub async fn put_blob_file(
        &self,
        container: &str,
        name: &str,
        file: &Path,
        length: u64,
    ) -> anyhow::Result<()> {
        let bar = ProgressBar::new(length);
        bar.set_style(ProgressStyle::with_template("{bar:40} {binary_bytes} of {binary_total_bytes}")?);
        let open = tokio::fs::File::open(file).await;
        let reader = ReaderStream::new(
            bar.wrap_async_read(open.with_context(|| format!("reading {}", file.display()))?),
        );
        let content = Content { body: reqwest::Body::wrap_stream(reader), length };
        self.blob(Method::PUT, &format!("/{container}/{name}"), &[], Some(content)).await?;
        bar.finish_and_clear();
        Ok(())
    }

    pub async fn put_blob(&self, container: &str, name: &str, content: Vec<u8>) -> anyhow::Result<()> {
        self.blob(Method::PUT, &format!("/{container}/{name}"), &[], Some(content.into())).await.map(drop)
    }

    pub async fn get_blob(&self, container: &str, name: &str) -> anyhow::Result<Vec<u8>> {
        let response = self.blob(Method::GET, &format!("/{container}/{name}"), &[], None).await?;
        Ok(response.bytes().await?.to_vec())
    }

    pub async fn delete_container(&self, name: &str) -> anyhow::Result<()> {
        self.blob(Method::DELETE, &format!("/{name}"), &[("restype", "container")], None).await.map(drop)
    }

    /// One signed Blob call; `path` is relative to the account and needs no encoding.
    async fn blob(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<Content>,
    ) -> anyhow::Result<Response> {
        let url = format!("{}{path}", self.blob_endpoint);
        let raw_path = reqwest::Url::parse(&url)?.path().to_owned();
        let date = httpdate();
        let length = body.as_ref().map_or(0, |content| content.length);
        let length_line = if length == 0 { String::new() } else { length.to_string() };
        let blob_type = if body.is_some() { "x-ms-blob-type:BlockBlob\n" } else { "" };
        let mut text = format!(
            "{method}\n\n\n{length_line}\n\n\n\n\n\n\n\n\n{blob_type}x-ms-date:{date}\nx-ms-version:{BLOB_VERSION}\n/{}{raw_path}",
            self.account
        );
        for (name, value) in query {
            text.push_str(&format!("\n{name}:{value}"));
        }
        let mut request = self
            .http
            .request(method.clone(), url)
            .query(query)
            .header("x-ms-date", date)
            .header("x-ms-version", BLOB_VERSION)
            .header("authorization", self.authorization(&text));
        if body.is_some() {
            request = request.header("x-ms-blob-type", "BlockBlob");
        }
        let body = body.map_or_else(reqwest::Body::default, |content| content.body);
        let response = request.header("content-length", length).body(body).send().await;
        check(method, path, response.with_context(|| format!("{} does not answer", self.blob_endpoint))?)
            .await
    }

    fn authorization(&self, text: &str) -> String {
        format!("SharedKey {}:{}", self.account, sign(&self.key, text))
    }

    pub fn key(&self) -> &[u8] {
        &self.key
    }
}

fn sign(key: &[u8], text: &str) -> String {
    // HMAC takes a key of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return String::new() };
    mac.update(text.as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}

fn httpdate() -> String {
    lote_coordinator::clock::wall().to_http_date()
}

async fn check(method: Method, path: &str, response: Response) -> anyhow::Result<Response> {
    let status = response.status().as_u16();
    if (200..300).contains(&status) {
        return Ok(response);
    }
    let text = response.text().await.unwrap_or_default();
    let body: Value = serde_json::from_str(&text).unwrap_or_default();
    let code = body["code"].as_str().unwrap_or("").to_owned();
    let message =
        body["message"]["value"].as_str().map_or(text.clone(), |m| m.lines().next().unwrap_or("").to_owned());
    bail!(Refused { method, path: path.to_owned(), status, code, message });
}
