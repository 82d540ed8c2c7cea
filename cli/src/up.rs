//! `lote up`: one coordinator and some workers in this process, over real sockets on loopback.

use crate::announce::{Endpoints, announce};
use crate::folder::{Account, Folder};
use crate::settings::{UpArguments, UpSettings};
use anyhow::{Context, ensure};
use lote_coordinator::service::{Coordinator, CoordinatorConfig};
use lote_coordinator::state::Admission;
use lote_shared::model::{HostCapacity, MemberRole};
use lote_shared::network::Identity;
use lote_worker::{Worker, WorkerConfig};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

/// What a stop may take before it is called a failure.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

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
            asked = crate::stop::asked() => asked.err(),
            reason = cluster.coordinator.stopped() => Some(anyhow::anyhow!("the coordinator stopped by itself: {reason}")),
        };
        println!("stopping ...");
        cluster.stop().await?;
        println!("stopped");
        failure.map_or(Ok(ExitCode::SUCCESS), Err)
    })?
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
        ensure!(
            !crate::cluster::exists(folder.path()),
            "{0} belongs to a cluster made by `lote init`; start it with `lote coordinator --data-dir {0}`",
            folder.path().display()
        );
        let mut admit = Vec::new();
        let mut homes = Vec::new();
        for number in 0..settings.workers {
            let home = folder.path().join("workers").join(number.to_string());
            std::fs::create_dir_all(&home).with_context(|| format!("making {}", home.display()))?;
            let identity = Identity::load_or_create(&home.join("identity"))?;
            admit.push(Admission {
                peer: identity.peer().to_string(),
                role: MemberRole::Worker,
                name: format!("worker-{number}"),
                addresses: Vec::new(),
                machine: lote_shared::machine::hash(),
                endpoints: None,
                replaces: None,
            });
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
            admit,
            joinable: None,
            joined: None,
            lease_ms: settings.lease_ms,
            storage: settings.storage,
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
            config.listen = "/ip4/127.0.0.1/tcp/0".parse().into_iter().collect();
            cluster.workers.push(Worker::start(config).await?);
        }
        cluster.announce().await?;
        Ok(cluster)
    }

    async fn announce(&mut self) -> anyhow::Result<()> {
        let endpoints =
            Endpoints { batch: self.batch_endpoint.clone(), blob: self.blob_endpoint.clone(), ca_file: None };
        self.env = announce(&self.folder, &self.account, &endpoints).await?;
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
pub fn keeper_command() -> anyhow::Result<Vec<OsString>> {
    let program = std::env::current_exe().context("finding this program to start keepers with")?;
    Ok(vec![program.into(), "keeper".into()])
}
