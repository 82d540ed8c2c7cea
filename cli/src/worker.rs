//! `lote worker`: one host of a cluster.
//!
//! Started the first time with a token, it joins and keeps who it is and whom it belongs to in its data folder; from
//! then on it needs none. SIGTERM ends this process and leaves tasks to the keeper, so that the next one finds them
//! again, as an upgrade wants it; Ctrl-C ends the tasks as well.

use crate::cluster::{self, WorkerFacts};
use crate::folder::Folder;
use crate::member_settings::{WorkerArguments, WorkerSettings};
use crate::stop::{self, Stop};
use anyhow::{Context, bail, ensure};
use lote_coordinator::join::client::{self, Newcomer};
use lote_coordinator::join::message::{Member, check_name};
use lote_coordinator::join::token::Token;
use lote_shared::model::{HostCapacity, MemberRole};
use lote_shared::network::{Identity, Multiaddr, PeerId};
use lote_worker::swarm::Rates;
use lote_worker::{Worker, WorkerConfig};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

const STOP_TIMEOUT: Duration = Duration::from_secs(90);

pub fn main(arguments: WorkerArguments) -> anyhow::Result<ExitCode> {
    let settings = arguments.resolve()?;
    crate::block_on(run(settings))?
}

async fn run(settings: WorkerSettings) -> anyhow::Result<ExitCode> {
    let token = settings.join.as_deref().map(Token::parse).transpose()?;
    let folder = Folder::open(&settings.data_dir)?;
    let identity = Identity::load_or_create(&folder.path().join("identity"))?;
    let known = cluster::facts::<WorkerFacts>(folder.path())?;
    let facts = match (known, token) {
        (Some(facts), None) => facts,
        (Some(facts), Some(token)) if facts.token == token.id.to_string() => facts,
        (known, Some(token)) => join(&settings, &folder, &identity, &token, known.as_ref()).await?,
        (None, None) => bail!(
            "{} belongs to no cluster; join one with --join TOKEN (`lote token create` on a coordinator)",
            folder.path().display()
        ),
    };
    let coordinators = facts.coordinators.iter().map(coordinator).collect::<anyhow::Result<Vec<_>>>()?;
    let mut config = WorkerConfig::new(
        folder.path().to_owned(),
        settings.name.clone().unwrap_or_else(|| facts.name.clone()),
        coordinators,
        capacity(&settings, folder.path())?,
        crate::up::keeper_command()?,
    );
    config.address = address(&settings, &config.coordinators);
    config.listen = vec![multiaddr(settings.p2p_bind.unwrap_or_else(|| any_port(&config.address)))];
    config.grace = Duration::from_millis(settings.grace_ms);
    config.identity = Some(identity);
    config.cache_bytes = settings.cache_mib.map(|mib| mib.saturating_mul(1 << 20));
    config.rates = Rates::of_mbit(settings.upload_mbit, settings.download_mbit);
    let grace = config.grace;
    let worker = Worker::start(config).await?;
    println!("worker {} ({}) of cluster {} is up", facts.name, worker.peer(), facts.cluster_id);
    let how = stop::signal().await?;
    let stopped = async {
        match how {
            Stop::Interrupt => {
                println!("ending tasks ...");
                worker.shutdown(grace).await;
            }
            Stop::Terminate => {
                println!("leaving tasks to the keeper ...");
                worker.detach().await;
            }
        }
    };
    tokio::time::timeout(STOP_TIMEOUT, stopped)
        .await
        .with_context(|| format!("the worker did not stop within {} s", STOP_TIMEOUT.as_secs()))?;
    println!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Becomes a member, and writes down of what.
async fn join(
    settings: &WorkerSettings,
    folder: &Folder,
    identity: &Identity,
    token: &Token,
    known: Option<&WorkerFacts>,
) -> anyhow::Result<WorkerFacts> {
    ensure!(
        token.role == MemberRole::Worker,
        "the token is for a {}; make one with `lote token create --role worker`",
        token.role
    );
    let name = settings.name.clone().unwrap_or_else(cluster::machine_name);
    check_name(&name).map_err(anyhow::Error::msg)?;
    let newcomer =
        Newcomer { name: name.clone(), machine: lote_shared::machine::hash(), ..Newcomer::default() };
    let answer = client::join(token, identity, &newcomer).await?;
    if let Some(known) = known.filter(|known| known.cluster_id != answer.cluster_id) {
        bail!(
            "{} belongs to cluster {}, the token to {}; choose another --data-dir",
            folder.path().display(),
            known.cluster_id,
            answer.cluster_id
        );
    }
    let facts = WorkerFacts {
        name,
        cluster_id: answer.cluster_id,
        coordinators: answer.members,
        token: token.id.to_string(),
    };
    facts.write(folder)?;
    Ok(facts)
}

fn coordinator(member: &Member) -> anyhow::Result<(PeerId, Vec<Multiaddr>)> {
    let peer = member.peer.parse().with_context(|| format!("`{}` is no peer id", member.peer))?;
    Ok((peer, member.addresses.iter().filter_map(|address| address.parse().ok()).collect()))
}

/// Peers dial this host for content; on the coordinator's machine nobody else has to.
fn any_port(address: &str) -> SocketAddr {
    let is_near = address.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    let ip = if is_near { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
    SocketAddr::from((ip, 0))
}

fn multiaddr(address: SocketAddr) -> Multiaddr {
    let kind = if address.is_ipv4() { "ip4" } else { "ip6" };
    let text = format!("/{kind}/{}/tcp/{}", address.ip(), address.port());
    text.parse().unwrap_or_else(|_| Multiaddr::empty())
}

/// As nodes show it: on the machine of its coordinator a host is at loopback.
fn address(settings: &WorkerSettings, coordinators: &[(PeerId, Vec<Multiaddr>)]) -> String {
    let all: Vec<String> =
        coordinators.iter().flat_map(|(_, known)| known).map(Multiaddr::to_string).collect();
    let near = !all.is_empty() && all.iter().all(|address| address.starts_with("/ip4/127."));
    let here = || if near { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { cluster::outward_address() };
    settings.advertise.clone().unwrap_or_else(|| here().to_string())
}

/// What this machine offers: what it has, or less if told so.
fn capacity(settings: &WorkerSettings, folder: &Path) -> anyhow::Result<HostCapacity> {
    let cores =
        std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
    let disk = rustix::fs::statvfs(folder).with_context(|| format!("looking at {}", folder.display()))?;
    Ok(HostCapacity {
        cores: settings.cores.unwrap_or(cores),
        memory_mib: settings.memory_mib.unwrap_or_else(memory_mib),
        disk_mib: disk.f_bavail.saturating_mul(disk.f_frsize) / (1024 * 1024),
        labels: Vec::new(),
    })
}

/// All of this machine's; a gigabyte where it does not say.
fn memory_mib() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = info.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.map_or(1024, |kib| kib / 1024)
}
