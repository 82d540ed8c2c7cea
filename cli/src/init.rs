//! `lote init`: makes the data folder of a cluster's first coordinator.

use crate::cluster::{self, CoordinatorFacts};
use crate::duration::Seconds;
use crate::folder::Folder;
use crate::output::Output;
use anyhow::{bail, ensure};
use lote_coordinator::clock;
use lote_coordinator::join::authority::{Authority, hex};
use lote_coordinator::join::message::check_name;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where the coordinator is to keep everything.
    #[arg(long, env = "LOTE_DATA_DIR")]
    data_dir: PathBuf,
    /// How long a host may be silent before its tasks run elsewhere; the same for the whole cluster.
    #[arg(long, default_value = "60s")]
    lease: Seconds,
    /// Name of this coordinator, for people [default: the machine's]
    #[arg(long)]
    name: Option<String>,
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub fn main(arguments: Arguments) -> anyhow::Result<ExitCode> {
    ensure!((2..=3_600).contains(&arguments.lease.0), "--lease must be 2s to 1h");
    let name = arguments.name.unwrap_or_else(cluster::machine_name);
    check_name(&name).map_err(anyhow::Error::msg)?;
    let folder = Folder::open(&arguments.data_dir)?;
    if cluster::exists(folder.path()) || folder.path().join("coordinator").exists() {
        bail!("{} holds a cluster already; choose another --data-dir", folder.path().display());
    }
    folder.account()?;
    let facts = CoordinatorFacts {
        name,
        cluster_id: uuid::Uuid::new_v4().to_string(),
        lease_ms: arguments.lease.0 * 1000,
        authority: Authority::make(clock::wall())?,
        joined: None,
    };
    // Last, because it makes the folder a cluster's.
    facts.write(&folder)?;
    let authority = hex(&facts.authority.fingerprint()?);
    match arguments.output {
        Output::Json => println!(
            "{}",
            serde_json::to_string_pretty(&json!({
                "clusterId": facts.cluster_id,
                "name": facts.name,
                "dataDir": folder.path(),
                "authority": authority,
            }))?
        ),
        Output::Text => {
            println!("cluster   {}", facts.cluster_id);
            println!("authority {authority}");
            println!(
                "The keys of the cluster are in {}; keep the folder to yourself.",
                folder.path().display()
            );
            println!(
                "Start its first coordinator with:  lote coordinator --data-dir {}",
                folder.path().display()
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}
