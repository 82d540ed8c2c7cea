//! `lote up`: one coordinator and some workers in this process, over real sockets on loopback.

use crate::folder::{Account, Folder};
use crate::settings::{UpArguments, UpSettings};
use anyhow::{Context, bail};
use lote_coordinator::service::{Coordinator, CoordinatorConfig};
use lote_shared::model::HostCapacity;
use lote_shared::network::{Identity, Role};
use lote_worker::{Worker, WorkerConfig};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// What a stop may take before it is called a failure.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
const READY_TIMEOUT: Duration = Duration::from_secs(30);

pub fn main(arguments: UpArguments) -> anyhow::Result<ExitCode> {
    let settings = arguments.resolve()?;
    crate::block_on(async move {
        let cluster = Cluster::start(&settings).await?;
        println!("lote is up");
        println!("  batch     {}", cluster.batch_endpoint);
        println!("  blob      {}", cluster.blob_endpoint);
        println!("  account   {}", cluster.account.name);
        println!("  settings  {}", cluster.folder.env_path().display());
        println!("Point a client at it with:  set -a; . {}; set +a", cluster.folder.env_path().display());
        println!("Stop it with Ctrl-C.");
        let failure = tokio::select! {
            asked = wait_for_stop() => asked.err(),
            reason = cluster.coordinator.stopped() => Some(anyhow::anyhow!("the coordinator stopped by itself: {reason}")),
        };
        println!("stopping ...");
        cluster.stop().await?;
        println!("stopped");
        failure.map_or(Ok(ExitCode::SUCCESS), Err)
    })?
}

async fn wait_for_stop() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// A running embedded cluster.
pub struct Cluster {
    pub folder: Folder,
    pub account: Account,
    pub batch_endpoint: String,
    /// Ends in `/ACCOUNT`.
    pub blob_endpoint: String,
    pub env: BTreeMap<String, String>,
    coordinator: Coordinator,
    workers: Vec<Worker>,
    grace: Duration,
}

impl Cluster {
    pub async fn start(settings: &UpSettings) -> anyhow::Result<Cluster> {
        let folder = Folder::open(&settings.data_dir)?;
        folder.remove_env()?;
        let account = folder.account()?;
        let mut allowed = BTreeMap::new();
        let mut homes = Vec::new();
        for number in 0..settings.workers {
            let home = folder.path().join("workers").join(number.to_string());
            std::fs::create_dir_all(&home).with_context(|| format!("making {}", home.display()))?;
            let identity = Identity::load_or_create(&home.join("identity"))?;
            allowed.insert(identity.peer(), Role::Worker);
            homes.push((home, identity));
        }
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let coordinator = Coordinator::start(CoordinatorConfig {
            data_dir: folder.path().join("coordinator"),
            account_name: account.name.clone(),
            account_key: account.key_bytes()?,
            batch_bind: loopback(settings.batch_port),
            blob_bind: loopback(settings.blob_port),
            p2p_bind: loopback(settings.p2p_port),
            allowed,
            lease_ms: settings.lease_ms,
            faults: Default::default(),
        })
        .await?;
        let mut cluster = Cluster {
            batch_endpoint: format!("http://{}", coordinator.batch_address()),
            blob_endpoint: format!("http://{}/{}", coordinator.blob_address(), account.name),
            env: BTreeMap::new(),
            coordinator,
            workers: Vec::new(),
            grace: Duration::from_millis(settings.grace_ms),
            folder,
            account,
        };
        for (number, (home, identity)) in homes.into_iter().enumerate() {
            let share = settings.cores / settings.workers
                + u32::from((number as u32) < settings.cores % settings.workers);
            let coordinator = (cluster.coordinator.peer(), cluster.coordinator.p2p_addresses());
            let mut config = WorkerConfig::new(
                home,
                format!("worker-{number}"),
                vec![coordinator],
                capacity(share),
                keeper_command()?,
            );
            config.identity = Some(identity);
            config.grace = cluster.grace;
            cluster.workers.push(Worker::start(config).await?);
        }
        cluster.announce().await?;
        Ok(cluster)
    }

    /// Waits until both ports answer, then tells clients.
    async fn announce(&mut self) -> anyhow::Result<()> {
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build()?;
        // The Blob interface has no health page (every path is a blob's); that it answers at all is enough.
        for url in [format!("{}/readyz", self.batch_endpoint), self.blob_endpoint.clone()] {
            let ready = async {
                while !http.get(&url).send().await.is_ok_and(|answer| !answer.status().is_server_error()) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            if tokio::time::timeout(READY_TIMEOUT, ready).await.is_err() {
                bail!("{url} did not answer within {} s; see the log (--log info)", READY_TIMEOUT.as_secs());
            }
        }
        let (name, key) = (self.account.name.clone(), self.account.key.clone());
        let connection = format!(
            "DefaultEndpointsProtocol=http;AccountName={name};AccountKey={key};BlobEndpoint={};",
            self.blob_endpoint
        );
        let pairs = [
            ("AZURE_BATCH_ACCOUNT", name.clone()),
            ("AZURE_BATCH_ACCESS_KEY", key.clone()),
            ("AZURE_BATCH_ENDPOINT", self.batch_endpoint.clone()),
            ("AZURE_STORAGE_ACCOUNT", name),
            ("AZURE_STORAGE_KEY", key),
            ("AZURE_STORAGE_BLOB_ENDPOINT", self.blob_endpoint.clone()),
            ("AZURE_STORAGE_CONNECTION_STRING", connection),
        ];
        self.folder.write_env(&pairs)?;
        self.env = pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Ok(())
    }

    /// Ends tasks with grace, then everything else.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.folder.remove_env()?;
        let stop = async {
            let workers = self.workers.into_iter().map(|worker| worker.shutdown(self.grace));
            futures::future::join_all(workers).await;
            self.coordinator.shutdown().await;
        };
        tokio::time::timeout(STOP_TIMEOUT, stop)
            .await
            .with_context(|| format!("the cluster did not stop within {} s", STOP_TIMEOUT.as_secs()))
    }
}

/// What one embedded worker offers. Cores are logical: embedded clusters overcommit (`ARCHITECTURE.md`).
fn capacity(cores: u32) -> HostCapacity {
    const MEMORY_MIB_PER_CORE: u64 = 4 * 1024;
    HostCapacity {
        cores,
        memory_mib: u64::from(cores) * MEMORY_MIB_PER_CORE,
        disk_mib: u64::from(cores) * 10 * 1024,
        labels: Vec::new(),
    }
}

/// The keeper is this very binary.
fn keeper_command() -> anyhow::Result<Vec<OsString>> {
    let program = std::env::current_exe().context("finding this program to start keepers with")?;
    Ok(vec![program.into(), "keeper".into()])
}
