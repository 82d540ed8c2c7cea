//! Tells clients where a cluster is: waits until its interfaces answer, then writes `lote.env`.

use crate::folder::{Account, Folder};
use anyhow::{Context, bail};
use lote_coordinator::join::pin;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the interfaces are.
#[derive(Debug, Clone)]
pub struct Endpoints {
    pub batch: String,
    /// Ends in `/ACCOUNT`.
    pub blob: String,
    /// The certificate of the authority they are served under; `None` = plain HTTP.
    pub ca_file: Option<PathBuf>,
}

/// A client for these servers alone: over HTTPS they are known by the authority in `ca_file`.
pub fn http_client(ca_file: Option<&Path>) -> anyhow::Result<reqwest::ClientBuilder> {
    let builder = reqwest::Client::builder().no_proxy();
    let Some(path) = ca_file else { return Ok(builder) };
    let pem = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let fingerprint = crate::cluster::fingerprint_of(&pem).with_context(|| path.display().to_string())?;
    Ok(builder.use_preconfigured_tls(pin::client(fingerprint)?))
}

/// The pairs that were written.
pub async fn announce(
    folder: &Folder,
    account: &Account,
    endpoints: &Endpoints,
) -> anyhow::Result<BTreeMap<String, String>> {
    let http = http_client(endpoints.ca_file.as_deref())?.timeout(Duration::from_secs(2)).build()?;
    // The Blob interface has no health page (every path is a blob's); that it answers at all is enough.
    for url in [format!("{}/readyz", endpoints.batch), endpoints.blob.clone()] {
        let ready = async {
            while !http.get(&url).send().await.is_ok_and(|answer| !answer.status().is_server_error()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(READY_TIMEOUT, ready).await.is_err() {
            bail!("{url} did not answer within {} s; see the log (--log info)", READY_TIMEOUT.as_secs());
        }
    }
    let (name, key) = (account.name.clone(), account.key.clone());
    let protocol = if endpoints.ca_file.is_some() { "https" } else { "http" };
    let connection = format!(
        "DefaultEndpointsProtocol={protocol};AccountName={name};AccountKey={key};BlobEndpoint={};",
        endpoints.blob
    );
    let mut pairs = vec![
        ("AZURE_BATCH_ACCOUNT", name.clone()),
        ("AZURE_BATCH_ACCESS_KEY", key.clone()),
        ("AZURE_BATCH_ENDPOINT", endpoints.batch.clone()),
        ("AZURE_STORAGE_ACCOUNT", name),
        ("AZURE_STORAGE_KEY", key),
        ("AZURE_STORAGE_BLOB_ENDPOINT", endpoints.blob.clone()),
        ("AZURE_STORAGE_CONNECTION_STRING", connection),
    ];
    if let Some(path) = &endpoints.ca_file {
        let path = path.display().to_string();
        // The second is what the Python packages look at.
        pairs.push(("LOTE_CA_FILE", path.clone()));
        pairs.push(("REQUESTS_CA_BUNDLE", path));
    }
    folder.write_env(&pairs)?;
    Ok(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}
