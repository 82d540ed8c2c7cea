//! Settings of `lote coordinator` and `lote worker`: flags beat environment beats file.

use crate::settings::read_file;
use anyhow::ensure;
use lote_coordinator::data::upkeep;
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

const BATCH_BIND: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 11_000);
const BLOB_BIND: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 11_001);
const P2P_BIND: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 11_010);
const JOIN_PORT: u16 = 11_012;

#[derive(Debug, Clone, Default, clap::Args)]
pub struct CoordinatorArguments {
    /// Settings file (TOML); the keys are the long flags with `_`.
    #[arg(long, env = "LOTE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where everything is kept; made by `lote init`, or by `--join`.
    #[arg(long, env = "LOTE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Join the cluster of this token (`lote token create --role coordinator`).
    #[arg(long, env = "LOTE_JOIN")]
    pub join: Option<String>,
    /// Take the place of this coordinator, by name, number or peer id.
    #[arg(long, requires = "join")]
    pub replace: Option<String>,
    /// Name of this coordinator when it joins [default: the machine's]
    #[arg(long, env = "LOTE_NAME")]
    pub name: Option<String>,
    /// Address of the Batch interface [default: 127.0.0.1:11000]
    #[arg(long, env = "LOTE_BATCH_BIND")]
    pub batch_bind: Option<SocketAddr>,
    /// Address of the Blob interface [default: 127.0.0.1:11001]
    #[arg(long, env = "LOTE_BLOB_BIND")]
    pub blob_bind: Option<SocketAddr>,
    /// Address between members [default: 0.0.0.0:11010]
    #[arg(long, env = "LOTE_P2P_BIND")]
    pub p2p_bind: Option<SocketAddr>,
    /// Address at which others join [default: the one between members, port 11012]
    #[arg(long, env = "LOTE_JOIN_BIND")]
    pub join_bind: Option<SocketAddr>,
    /// Name or address by which others reach this machine [default: what is bound, or the address towards others]
    #[arg(long, env = "LOTE_ADVERTISE")]
    pub advertise: Option<String>,
    /// Serve Batch and Blob in the clear beyond this machine.
    #[arg(long, env = "LOTE_INSECURE_HTTP")]
    pub insecure_http: bool,
    /// Seconds that content without a file is kept before it is removed; less than 600 is for tests [default: 3600]
    #[arg(long, env = "LOTE_STORAGE_GRACE_SECONDS")]
    pub storage_grace_seconds: Option<u64>,
}

#[derive(Debug, Clone, Default, clap::Args)]
pub struct WorkerArguments {
    /// Settings file (TOML); the keys are the long flags with `_`.
    #[arg(long, env = "LOTE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where identity, nodes and tasks are kept.
    #[arg(long, env = "LOTE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Join the cluster of this token (`lote token create`); needed once.
    #[arg(long, env = "LOTE_JOIN")]
    pub join: Option<String>,
    /// Name of this host [default: the machine's]
    #[arg(long, env = "LOTE_NAME")]
    pub name: Option<String>,
    /// Cores to offer [default: all]
    #[arg(long, env = "LOTE_CORES")]
    pub cores: Option<u32>,
    /// Memory to offer, in MiB [default: all]
    #[arg(long, env = "LOTE_MEMORY")]
    pub memory: Option<u64>,
    /// Address at which other hosts may dial this one for content [default: any free port of every interface]
    #[arg(long, env = "LOTE_P2P_BIND")]
    pub p2p_bind: Option<SocketAddr>,
    /// Address at which tasks here can be reached, as nodes show it.
    #[arg(long, env = "LOTE_ADVERTISE")]
    pub advertise: Option<String>,
    /// Seconds between SIGTERM and SIGKILL of a task's processes [default: 5]
    #[arg(long, env = "LOTE_GRACE_SECONDS")]
    pub grace_seconds: Option<u64>,
    /// Largest size of the cache of fetched content, in MiB [default: a tenth of the disk, 1024 to 20480]
    #[arg(long, env = "LOTE_CACHE_SIZE")]
    pub cache_size: Option<u64>,
    /// Most that other machines may pull of large files from this one, in Mbit/s [default: no limit]
    #[arg(long, env = "LOTE_UPLOAD_MBIT", value_parser = clap::value_parser!(u64).range(1..))]
    pub upload_mbit: Option<u64>,
    /// Most at which this one pulls large files, in Mbit/s [default: no limit]
    #[arg(long, env = "LOTE_DOWNLOAD_MBIT", value_parser = clap::value_parser!(u64).range(1..))]
    pub download_mbit: Option<u64>,
}

/// One file may serve both.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    data_dir: Option<PathBuf>,
    join: Option<String>,
    name: Option<String>,
    batch_bind: Option<SocketAddr>,
    blob_bind: Option<SocketAddr>,
    p2p_bind: Option<SocketAddr>,
    join_bind: Option<SocketAddr>,
    advertise: Option<String>,
    insecure_http: Option<bool>,
    cores: Option<u32>,
    memory: Option<u64>,
    grace_seconds: Option<u64>,
    storage_grace_seconds: Option<u64>,
    cache_size: Option<u64>,
    upload_mbit: Option<u64>,
    download_mbit: Option<u64>,
}

/// What a coordinator is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoordinatorSettings {
    pub data_dir: PathBuf,
    pub join: Option<String>,
    pub replace: Option<String>,
    pub name: Option<String>,
    pub batch_bind: SocketAddr,
    pub blob_bind: SocketAddr,
    pub p2p_bind: SocketAddr,
    pub join_bind: SocketAddr,
    pub advertise: Option<String>,
    /// Whether Batch and Blob are served over HTTPS: beyond this machine they are, unless the operator says not to.
    pub https: bool,
    /// How chunks are looked after.
    pub storage: upkeep::Settings,
}

/// What a worker is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerSettings {
    pub data_dir: PathBuf,
    pub join: Option<String>,
    pub name: Option<String>,
    pub cores: Option<u32>,
    pub memory_mib: Option<u64>,
    pub p2p_bind: Option<SocketAddr>,
    pub advertise: Option<String>,
    pub grace_ms: u64,
    pub cache_mib: Option<u64>,
    pub upload_mbit: Option<u64>,
    pub download_mbit: Option<u64>,
}

/// How chunks are looked after, by the grace period in seconds.
pub fn storage(grace_seconds: Option<u64>) -> anyhow::Result<upkeep::Settings> {
    let seconds = grace_seconds.unwrap_or(upkeep::GRACE.as_secs());
    ensure!((1..=31_536_000).contains(&seconds), "--storage-grace-seconds {seconds} must be 1 to 31536000");
    Ok(upkeep::Settings::of_grace(Duration::from_secs(seconds)))
}

const NO_FOLDER: &str = "no data folder is given; choose one with --data-dir";

impl CoordinatorArguments {
    pub fn resolve(self) -> anyhow::Result<CoordinatorSettings> {
        let file: File = self.config.as_deref().map(read_file).transpose()?.unwrap_or_default();
        let p2p_bind = self.p2p_bind.or(file.p2p_bind).unwrap_or(P2P_BIND);
        let batch_bind = self.batch_bind.or(file.batch_bind).unwrap_or(BATCH_BIND);
        let blob_bind = self.blob_bind.or(file.blob_bind).unwrap_or(BLOB_BIND);
        let on_this_machine = batch_bind.ip().is_loopback() && blob_bind.ip().is_loopback();
        let insecure = self.insecure_http || file.insecure_http.unwrap_or(false);
        let Some(data_dir) = self.data_dir.or(file.data_dir) else { anyhow::bail!(NO_FOLDER) };
        let settings = CoordinatorSettings {
            data_dir,
            join: self.join.or(file.join),
            replace: self.replace,
            name: self.name.or(file.name),
            batch_bind,
            blob_bind,
            p2p_bind,
            join_bind: self.join_bind.or(file.join_bind).unwrap_or(SocketAddr::new(p2p_bind.ip(), JOIN_PORT)),
            advertise: self.advertise.or(file.advertise),
            https: !on_this_machine && !insecure,
            storage: storage(self.storage_grace_seconds.or(file.storage_grace_seconds))?,
        };
        let binds = [batch_bind, blob_bind, p2p_bind, settings.join_bind];
        let fixed = binds.iter().filter(|bind| bind.port() != 0);
        let distinct: std::collections::BTreeSet<u16> = fixed.clone().map(SocketAddr::port).collect();
        ensure!(distinct.len() == fixed.count(), "the four ports must differ: {binds:?}");
        Ok(settings)
    }
}

impl WorkerArguments {
    pub fn resolve(self) -> anyhow::Result<WorkerSettings> {
        let file: File = self.config.as_deref().map(read_file).transpose()?.unwrap_or_default();
        let Some(data_dir) = self.data_dir.or(file.data_dir) else { anyhow::bail!(NO_FOLDER) };
        let settings = WorkerSettings {
            data_dir,
            join: self.join.or(file.join),
            name: self.name.or(file.name),
            cores: self.cores.or(file.cores),
            memory_mib: self.memory.or(file.memory),
            p2p_bind: self.p2p_bind.or(file.p2p_bind),
            advertise: self.advertise.or(file.advertise),
            grace_ms: self.grace_seconds.or(file.grace_seconds).unwrap_or(5).saturating_mul(1000),
            cache_mib: self.cache_size.or(file.cache_size),
            upload_mbit: self.upload_mbit.or(file.upload_mbit),
            download_mbit: self.download_mbit.or(file.download_mbit),
        };
        let cores = settings.cores.unwrap_or(1);
        ensure!((1..=65_536).contains(&cores), "--cores {cores} must be 1 to 65536");
        for (option, mbit) in [("upload", settings.upload_mbit), ("download", settings.download_mbit)] {
            ensure!(mbit != Some(0), "--{option}-mbit 0 would let nothing pass; leave it out for no limit");
        }
        ensure!(settings.memory_mib != Some(0), "--memory 0 leaves nothing for tasks; it is in MiB");
        ensure!(settings.grace_ms <= 60_000, "--grace-seconds {} must be 0 to 60", settings.grace_ms / 1000);
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments() -> CoordinatorArguments {
        CoordinatorArguments { data_dir: Some("d".into()), ..CoordinatorArguments::default() }
    }

    #[test]
    fn beyond_this_machine_it_is_https_unless_told_otherwise() {
        let outside: SocketAddr = "10.0.0.1:443".parse().unwrap();
        assert!(!arguments().resolve().unwrap().https);
        let open = CoordinatorArguments { batch_bind: Some(outside), ..arguments() };
        assert!(open.clone().resolve().unwrap().https);
        assert!(!CoordinatorArguments { insecure_http: true, ..open }.resolve().unwrap().https);
    }

    #[test]
    fn flags_beat_the_file_and_the_join_port_follows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lote.toml");
        std::fs::write(&path, "name = 'n'\np2p_bind = '10.0.0.1:7'\nadvertise = 'a.example'\n").unwrap();
        let given = CoordinatorArguments { config: Some(path), name: Some("m".to_owned()), ..arguments() };
        let settings = given.resolve().unwrap();
        assert_eq!((settings.name.as_deref(), settings.advertise.as_deref()), (Some("m"), Some("a.example")));
        assert_eq!(settings.join_bind, "10.0.0.1:11012".parse().unwrap());
    }

    #[test]
    fn nonsense_is_named() {
        let twice =
            CoordinatorArguments { join_bind: Some("127.0.0.1:11000".parse().unwrap()), ..arguments() };
        assert!(twice.resolve().unwrap_err().to_string().contains("must differ"));
        assert!(CoordinatorArguments::default().resolve().unwrap_err().to_string().contains("--data-dir"));
        let worker = WorkerArguments { data_dir: Some("d".into()), ..WorkerArguments::default() };
        assert!(worker.clone().resolve().is_ok());
        let none = WorkerArguments { cores: Some(0), ..worker };
        assert!(none.resolve().unwrap_err().to_string().contains("--cores 0"));
    }
}
