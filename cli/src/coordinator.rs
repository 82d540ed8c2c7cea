//! `lote coordinator`: one coordinator of a cluster, founding it or joining it.

use crate::announce::{Endpoints, announce};
use crate::cluster::{self, CA_FILE, CoordinatorFacts, Joined};
use crate::folder::{Account, Folder};
use crate::member_settings::{CoordinatorArguments, CoordinatorSettings};
use anyhow::{Context, bail, ensure};
use lote_coordinator::join::client::{self, Newcomer};
use lote_coordinator::join::message::check_name;
use lote_coordinator::join::token::Token;
use lote_coordinator::join::{Joinable, base_url};
use lote_coordinator::service::{Coordinator, CoordinatorConfig};
use lote_shared::model::MemberRole;
use lote_shared::network::Identity;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

const STOP_TIMEOUT: Duration = Duration::from_secs(60);

pub fn main(arguments: CoordinatorArguments) -> anyhow::Result<ExitCode> {
    let settings = arguments.resolve()?;
    crate::block_on(run(settings))?
}

async fn run(mut settings: CoordinatorSettings) -> anyhow::Result<ExitCode> {
    if settings.advertise.is_none() && settings.p2p_bind.ip().is_unspecified() {
        settings.advertise = Some(cluster::outward_address().to_string());
    }
    let token = settings.join.as_deref().map(Token::parse).transpose()?;
    let folder = Folder::open(&settings.data_dir)?;
    folder.remove_env()?;
    let facts = match (cluster::facts::<CoordinatorFacts>(folder.path())?, token) {
        (Some(facts), _) => facts,
        (None, Some(token)) => join(&settings, &folder, &token).await?,
        (None, None) => bail!(
            "{} belongs to no cluster; make one with `lote init --data-dir {0}`, or join one with --join TOKEN",
            folder.path().display()
        ),
    };
    let account = folder.account()?;
    let joinable = joinable(&settings, &folder, &facts)?;
    let coordinator = Coordinator::start(CoordinatorConfig {
        data_dir: folder.path().join("coordinator"),
        account_name: account.name.clone(),
        account_key: account.key_bytes()?,
        batch_bind: settings.batch_bind,
        blob_bind: settings.blob_bind,
        p2p_bind: settings.p2p_bind,
        admit: Vec::new(),
        joinable: Some(joinable.clone()),
        joined: facts.joined.as_ref().map(Joined::seat),
        lease_ms: facts.lease_ms,
        storage: settings.storage,
        faults: Default::default(),
    })
    .await?;
    let endpoints = Endpoints {
        batch: base_url(Some(&joinable), coordinator.batch_address()),
        blob: format!("{}/{}", base_url(Some(&joinable), coordinator.blob_address()), account.name),
        ca_file: settings.https.then(|| folder.path().join(CA_FILE)),
    };
    announce(&folder, &account, &endpoints).await?;
    println!("coordinator {} of cluster {} is up", facts.name, facts.cluster_id);
    println!("  batch     {}", endpoints.batch);
    println!("  blob      {}", endpoints.blob);
    if let Some(address) = coordinator.join_address() {
        println!("  join      {}", joinable.join_address(address));
    }
    println!("  settings  {}", folder.env_path().display());
    println!("Let a worker in with:  lote token create --data-dir {}", folder.path().display());
    let failure = tokio::select! {
        asked = crate::stop::asked() => asked.err(),
        reason = coordinator.stopped() => Some(anyhow::anyhow!("the coordinator stopped by itself: {reason}")),
    };
    println!("stopping ...");
    folder.remove_env()?;
    tokio::time::timeout(STOP_TIMEOUT, coordinator.shutdown())
        .await
        .with_context(|| format!("the coordinator did not stop within {} s", STOP_TIMEOUT.as_secs()))?;
    println!("stopped");
    failure.map_or(Ok(ExitCode::SUCCESS), Err)
}

fn joinable(
    settings: &CoordinatorSettings,
    folder: &Folder,
    facts: &CoordinatorFacts,
) -> anyhow::Result<Joinable> {
    let bound = [settings.batch_bind, settings.blob_bind, settings.p2p_bind, settings.join_bind];
    let names = cluster::certificate_names(settings.advertise.as_deref(), &bound);
    Ok(Joinable {
        settings: facts.settings(),
        name: facts.name.clone(),
        authority: Arc::new(facts.authority.clone()),
        tls: facts.tls(folder, &names)?,
        https: settings.https,
        bind: settings.join_bind,
        advertise: settings.advertise.clone(),
    })
}

/// Becomes a member, and writes down what makes this folder one.
async fn join(
    settings: &CoordinatorSettings,
    folder: &Folder,
    token: &Token,
) -> anyhow::Result<CoordinatorFacts> {
    ensure!(
        token.role == MemberRole::Coordinator,
        "the token is for a {}; make one with `lote token create --role coordinator`",
        token.role
    );
    let name = settings.name.clone().unwrap_or_else(cluster::machine_name);
    check_name(&name).map_err(anyhow::Error::msg)?;
    let port = settings.p2p_bind.port();
    ensure!(port != 0, "a coordinator that joins needs a fixed port: --p2p-bind ADDRESS:PORT");
    let host = settings.advertise.clone().unwrap_or_else(|| settings.p2p_bind.ip().to_string());
    let home = folder.path().join("coordinator");
    std::fs::create_dir_all(&home).with_context(|| format!("making {}", home.display()))?;
    let identity = Identity::load_or_create(&home.join("identity"))?;
    let newcomer = Newcomer {
        name: name.clone(),
        addresses: vec![multiaddress(&host, port)],
        machine: lote_shared::machine::hash(),
        replaces: settings.replace.clone(),
    };
    let answer = client::join(token, &identity, &newcomer).await?;
    let (Some(member), Some(authority), Some(account)) = (answer.member, answer.authority, answer.account)
    else {
        bail!("the cluster's answer lacks what a coordinator needs; is it of another version?");
    };
    folder.keep_account(&Account { name: account.name, key: account.key })?;
    let facts = CoordinatorFacts {
        name,
        cluster_id: answer.cluster_id,
        lease_ms: answer.lease_ms,
        authority,
        joined: Some(Joined { member, coordinators: answer.members }),
    };
    facts.write(folder)?;
    Ok(facts)
}

fn multiaddress(host: &str, port: u16) -> String {
    match format!("{host}:{port}").parse::<SocketAddr>() {
        Ok(SocketAddr::V4(address)) => format!("/ip4/{}/tcp/{port}", address.ip()),
        _ => match host.parse::<std::net::Ipv6Addr>() {
            Ok(ip) => format!("/ip6/{ip}/tcp/{port}"),
            Err(_) => format!("/dns/{host}/tcp/{port}"),
        },
    }
}
