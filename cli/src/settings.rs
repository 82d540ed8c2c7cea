//! Settings of `lote up`: flags beat environment beats file (`ARCHITECTURE.md`, interface choices).

use anyhow::Context;
use lote_coordinator::data::upkeep;
use serde::Deserialize;
use std::path::{Path, PathBuf};

const DEFAULT_DATA_DIR: &str = ".lote";
const DEFAULT_WORKERS: u32 = 2;
const DEFAULT_CORES: u32 = 64;
const DEFAULT_BATCH_PORT: u16 = 11_000;
const DEFAULT_BLOB_PORT: u16 = 11_001;
const DEFAULT_P2P_PORT: u16 = 11_010;
const DEFAULT_LEASE_SECONDS: u64 = 60;
const DEFAULT_GRACE_SECONDS: u64 = 5;

#[derive(Debug, Clone, Default, clap::Args)]
pub struct UpArguments {
    /// Settings file (TOML); the keys are the long flags with `_`.
    #[arg(long, env = "LOTE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where everything is kept [default: ./.lote]
    #[arg(long, env = "LOTE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Worker hosts in this process [default: 2]
    #[arg(long, env = "LOTE_WORKERS")]
    pub workers: Option<u32>,
    /// Logical cores all workers offer together; may exceed the machine's [default: 64]
    #[arg(long, env = "LOTE_CORES")]
    pub cores: Option<u32>,
    /// Port of the Batch interface, 0 = any free [default: 11000]
    #[arg(long, env = "LOTE_BATCH_PORT")]
    pub batch_port: Option<u16>,
    /// Port of the Blob interface, 0 = any free [default: 11001]
    #[arg(long, env = "LOTE_BLOB_PORT")]
    pub blob_port: Option<u16>,
    /// Port between coordinator and workers, 0 = any free [default: 11010]
    #[arg(long, env = "LOTE_P2P_PORT")]
    pub p2p_port: Option<u16>,
    /// Length of a host's lease in seconds [default: 60]
    #[arg(long, env = "LOTE_LEASE_SECONDS")]
    pub lease_seconds: Option<u64>,
    /// Seconds between SIGTERM and SIGKILL of a task's processes [default: 5]
    #[arg(long, env = "LOTE_GRACE_SECONDS")]
    pub grace_seconds: Option<u64>,
    /// Seconds that content without a file is kept before it is removed; less than 600 is for tests [default: 3600]
    #[arg(long, env = "LOTE_STORAGE_GRACE_SECONDS")]
    pub storage_grace_seconds: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    data_dir: Option<PathBuf>,
    workers: Option<u32>,
    cores: Option<u32>,
    batch_port: Option<u16>,
    blob_port: Option<u16>,
    p2p_port: Option<u16>,
    lease_seconds: Option<u64>,
    grace_seconds: Option<u64>,
    storage_grace_seconds: Option<u64>,
}

/// What an embedded cluster is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpSettings {
    pub data_dir: PathBuf,
    pub workers: u32,
    pub cores: u32,
    pub batch_port: u16,
    pub blob_port: u16,
    pub p2p_port: u16,
    pub lease_ms: u64,
    pub grace_ms: u64,
    /// How chunks are looked after.
    pub storage: upkeep::Settings,
}

impl UpArguments {
    pub fn resolve(self) -> anyhow::Result<UpSettings> {
        let file: File = self.config.as_deref().map(read_file).transpose()?.unwrap_or_default();
        let settings = UpSettings {
            data_dir: self.data_dir.or(file.data_dir).unwrap_or_else(|| DEFAULT_DATA_DIR.into()),
            workers: self.workers.or(file.workers).unwrap_or(DEFAULT_WORKERS),
            cores: self.cores.or(file.cores).unwrap_or(DEFAULT_CORES),
            batch_port: self.batch_port.or(file.batch_port).unwrap_or(DEFAULT_BATCH_PORT),
            blob_port: self.blob_port.or(file.blob_port).unwrap_or(DEFAULT_BLOB_PORT),
            p2p_port: self.p2p_port.or(file.p2p_port).unwrap_or(DEFAULT_P2P_PORT),
            lease_ms: self
                .lease_seconds
                .or(file.lease_seconds)
                .unwrap_or(DEFAULT_LEASE_SECONDS)
                .saturating_mul(1000),
            grace_ms: self
                .grace_seconds
                .or(file.grace_seconds)
                .unwrap_or(DEFAULT_GRACE_SECONDS)
                .saturating_mul(1000),
            storage: crate::member_settings::storage(
                self.storage_grace_seconds.or(file.storage_grace_seconds),
            )?,
        };
        settings.check()?;
        Ok(settings)
    }
}

impl UpSettings {
    /// A cluster on any free ports, for the demo.
    pub fn embedded(data_dir: &Path) -> UpSettings {
        UpSettings {
            data_dir: data_dir.to_owned(),
            workers: DEFAULT_WORKERS,
            cores: DEFAULT_CORES,
            batch_port: 0,
            blob_port: 0,
            p2p_port: 0,
            lease_ms: DEFAULT_LEASE_SECONDS * 1000,
            grace_ms: DEFAULT_GRACE_SECONDS * 1000,
            storage: upkeep::Settings::default(),
        }
    }

    fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!((1..=64).contains(&self.workers), "--workers {} must be 1 to 64", self.workers);
        anyhow::ensure!(
            self.cores >= self.workers && self.cores <= 65_536,
            "--cores {} must be at least one per worker ({}) and at most 65536",
            self.cores,
            self.workers
        );
        anyhow::ensure!(
            (2_000..=3_600_000).contains(&self.lease_ms),
            "--lease-seconds {} must be 2 to 3600",
            self.lease_ms / 1000
        );
        anyhow::ensure!(self.grace_ms <= 60_000, "--grace-seconds {} must be 0 to 60", self.grace_ms / 1000);
        let ports = [self.batch_port, self.blob_port, self.p2p_port];
        let fixed = ports.iter().filter(|port| **port != 0);
        let distinct: std::collections::BTreeSet<_> = fixed.clone().collect();
        anyhow::ensure!(distinct.len() == fixed.count(), "the three ports must differ: {ports:?}");
        Ok(())
    }
}

/// Reads a settings file; a key that is none is an error.
pub fn read_file<T: serde::de::DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{} is not a settings file of lote", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_beat_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lote.toml");
        std::fs::write(&path, "workers = 3\nbatch_port = 12000\n").unwrap();
        let arguments = UpArguments { config: Some(path), workers: Some(5), ..UpArguments::default() };
        let settings = arguments.resolve().unwrap();
        assert_eq!((settings.workers, settings.batch_port, settings.blob_port), (5, 12_000, 11_001));
    }

    #[test]
    fn nonsense_is_named() {
        let with = |edit: fn(&mut UpArguments)| {
            let mut arguments = UpArguments::default();
            edit(&mut arguments);
            arguments.resolve().unwrap_err().to_string()
        };
        assert!(with(|a| a.workers = Some(0)).contains("--workers 0"));
        assert!(with(|a| a.cores = Some(1)).contains("--cores 1"));
        assert!(with(|a| a.blob_port = Some(11_000)).contains("must differ"));
        assert!(with(|a| a.lease_seconds = Some(1)).contains("--lease-seconds 1"));
    }
}
