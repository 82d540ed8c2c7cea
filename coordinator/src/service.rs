//! A running coordinator: replica, network, actor tree and the two HTTP servers, started and stopped as one.

use crate::api::batch::BatchApi;
use crate::api::blob::BlobApi;
use crate::api::ops::status::{self, Watch};
use crate::api::ops::{Metrics, Ops};
use crate::api::ops::{applications, backup, inspect, storage, upgrade};
use crate::clock;
use crate::data::replicas::{Others, Replicas};
use crate::data::serve::{Caller, conversation};
use crate::data::swarm::Swarm;
use crate::data::upkeep::{self, Upkeep, asking};
use crate::directory::{self, Directory};
use crate::engine::{Engine, Unavailable};
use crate::join::{self, Joinable};
use crate::leadership::Leadership;
use crate::members::{self, Joined, Seat};
use crate::node_files::{self, HostFiles};
use crate::pools::chunk::ChunkBuilder;
use crate::pools::faults::Faults;
use crate::pools::{GroupStatus, LeaderParts, LeaderTree, host_session};
use crate::replication::{self, Replica};
use crate::state::{Admission, Endpoints};
use crate::versions::{self, Versions};
use actix_web::dev::ServerHandle;
use actix_web::{App, HttpServer};
use libp2p::{Multiaddr, PeerId};
use lote_shared::chunks::ChunkStore;
use lote_shared::network::{self, Identity, Incoming, Network, Protocol, Role};
use lote_shared::protocol::host::Directions;
use lote_shared::protocol::members::Member;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// HTTP worker threads of each of the two servers.
const HTTP_WORKERS: usize = 2;
/// Sessions being opened or served at once, above which new ones are refused.
const SESSIONS_MAX: usize = 10_000;
/// Conversations about content served at once; each holds about one chunk in memory. Further ones wait, and then
/// the network refuses them as busy.
const CONVERSATIONS_MAX: usize = 256;

/// What a coordinator is started with.
#[derive(Debug)]
pub struct CoordinatorConfig {
    pub data_dir: PathBuf,
    pub account_name: String,
    pub account_key: Vec<u8>,
    pub batch_bind: SocketAddr,
    pub blob_bind: SocketAddr,
    pub p2p_bind: SocketAddr,
    /// Members admitted without a token because whoever starts this owns them, as the workers of `lote up`.
    pub admit: Vec<Admission>,
    /// What a cluster that others can join has more; `None` for an embedded one.
    pub joinable: Option<Joinable>,
    /// What this coordinator was told when it joined; `None` for the one that founds the cluster.
    pub joined: Option<Joined>,
    pub lease_ms: u64,
    /// How chunks are looked after.
    pub storage: upkeep::Settings,
    /// Empty but in tests.
    pub faults: Faults,
}

/// What a coordinator otherwise gets from its own replica and configuration, put in its place by tests.
#[derive(Debug, Default)]
pub struct Seams {
    /// Who leads. The log underneath knows nothing of the terms told here.
    pub leadership: Option<watch::Receiver<Leadership>>,
    /// Who belongs to the cluster.
    pub directory: Option<Directory>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("port {port} is taken; choose another with {flag} (0 = any free)")]
    PortTaken { port: u16, flag: &'static str },
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("{}: {source}", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Replication(#[from] replication::Error),
    #[error(transparent)]
    Identity(#[from] network::identity::Error),
    #[error(transparent)]
    Network(#[from] network::Error),
    #[error(transparent)]
    Chunks(#[from] lote_shared::chunks::Error),
    #[error("the coordinator cannot be a member of this cluster: {0}")]
    Refused(#[from] crate::state::Refusal),
    #[error("the first write failed: {0}")]
    Unavailable(#[from] Unavailable),
}

/// A running coordinator.
#[derive(Debug)]
pub struct Coordinator {
    engine: Engine,
    replica: Arc<Replica>,
    network: Network,
    files: Arc<HostFiles>,
    tree: Arc<LeaderTree>,
    servers: Vec<ServerHandle>,
    batch_address: SocketAddr,
    blob_address: SocketAddr,
    join_address: Option<SocketAddr>,
    sweeper: JoinHandle<()>,
    upkeep: Upkeep,
    members: Option<JoinHandle<()>>,
    versions: JoinHandle<()>,
}

impl Coordinator {
    /// Opens the data and serves; leads when it is this member's turn. Needs a running actix system.
    pub async fn start(config: CoordinatorConfig) -> Result<Coordinator, Error> {
        Coordinator::start_with(config, Seams::default()).await
    }

    /// As [`Coordinator::start`], with some of what is above replication given.
    pub async fn start_with(config: CoordinatorConfig, seams: Seams) -> Result<Coordinator, Error> {
        let batch = bind(config.batch_bind, "--batch-port")?;
        let blob = bind(config.blob_bind, "--blob-port")?;
        // The network layer binds by itself later; asking here gives the same clear error.
        drop(bind(config.p2p_bind, "--p2p-port")?);
        let join_port =
            config.joinable.as_ref().map(|joinable| bind(joinable.bind, "--join-bind")).transpose()?;
        let folder = |source| Error::Folder { path: config.data_dir.clone(), source };
        std::fs::create_dir_all(&config.data_dir).map_err(folder)?;
        let batch_address = batch.local_addr().map_err(folder)?;
        let blob_address = blob.local_addr().map_err(folder)?;
        let join_address = join_port.as_ref().map(TcpListener::local_addr).transpose().map_err(folder)?;

        let identity = Identity::load_or_create(&config.data_dir.join("identity"))?;
        let listen = multiaddr(config.p2p_bind);
        let network = Network::start(network::Config::new(identity, vec![listen])).await?;
        let url = |address| join::base_url(config.joinable.as_ref(), address);
        let endpoints = Endpoints {
            batch: url(batch_address),
            blob: url(blob_address),
            join: join_address
                .zip(config.joinable.as_ref())
                .map(|(bound, joinable)| joinable.join_address(bound)),
        };
        let seat = Seat::new(&network, config.joinable.as_ref(), endpoints.clone(), config.joined.clone());
        let (publisher, members) = match seams.directory {
            Some(directory) => (None, directory),
            None => {
                let (publisher, directory) = Directory::new(seat.known());
                (Some(publisher), directory)
            }
        };
        // Before Raft starts: the others may call at once.
        directory::apply(&network, &members.members());
        tokio::spawn(directory::admit(network.clone(), members.clone()));

        let folder = replication::Config::new(config.data_dir.clone());
        let (engine, replica) = replication::open_member(folder, seat.start(), Some(network.clone())).await?;
        let versions = Versions::new(engine.clone(), network.peer());
        tokio::spawn(versions::serve(network.accept(Protocol::Build)?));
        if replica.leadership().borrow().is_ours {
            // The only voter. What it says now is the first thing that a new cluster knows.
            members::found(&engine, &seat, &config, replica.only_voter()).await?;
            // A cluster of one is at its newest version from the start, unless that is held.
            versions.raise().await;
        } else {
            tokio::spawn(members::announce(engine.clone(), seat.admission()));
        }
        // Not before: after a recovery the state names members that Raft must not look for.
        replica.keep_membership(members::Coordinators {
            engine: engine.clone(),
            leadership: replica.leadership(),
        });
        let keeper = publisher.map(|publisher| members::Keeper::start(engine.clone(), seat, publisher));

        let builder = ChunkBuilder::new(&endpoints.batch, &endpoints.blob);
        let parts = LeaderParts {
            engine: engine.clone(),
            builder,
            faults: config.faults.clone(),
            lease_ms: config.lease_ms,
            members: members.clone(),
            terms_are_scripted: seams.leadership.is_some(),
        };
        let leadership = seams.leadership.unwrap_or_else(|| replica.leadership());
        let tree = Arc::new(LeaderTree::start(parts, leadership.clone()));
        let keeping = versions.clone().keep(network.clone(), leadership.clone(), config.data_dir.clone());
        let keeping = tokio::spawn(keeping);
        let sessions = network.accept(Protocol::Session)?;
        tokio::spawn(accept_sessions(sessions, Arc::clone(&tree), members.clone()));

        let chunks = ChunkStore::open(&config.data_dir.join("chunks"))?;
        let files = Arc::new(HostFiles::new(engine.clone(), network.clone(), leadership.clone()));
        tokio::spawn(node_files::serve(network.accept(Protocol::Files)?, Arc::clone(&files)));
        let metrics = Arc::new(Metrics::default());
        let ops =
            Ops { engine: engine.clone(), metrics: Arc::clone(&metrics), leadership: leadership.clone() };
        let batch_api = BatchApi::new(engine.clone(), Arc::clone(&files) as _, metrics);
        let replica = Arc::new(replica);
        let watch = Watch {
            engine: engine.clone(),
            replica: Arc::clone(&replica),
            tree: Arc::clone(&tree),
            versions,
        };
        let own = network.peer();
        let others: Others = Arc::new(move || members.other_coordinators(own));
        let replicas = Replicas::new(network.clone(), Arc::clone(&others));
        let blob_api = BlobApi::new(Arc::new(engine.clone()), chunks, &config.account_name, clock::wall)
            .with_replicas(replicas.clone());
        let is_leader = move || leadership.borrow().is_ours;
        let sweeper = tokio::spawn(crate::data::sweeper::run(blob_api.clone(), is_leader));
        let upkeep = Upkeep::start(blob_api.clone(), network.clone(), Arc::clone(&others), config.storage);
        tokio::spawn(asking::serve(network.accept(Protocol::Storage)?, upkeep.clone()));
        let sources = backup::Sources {
            folder: config.data_dir.clone(),
            chunks: blob_api.chunks.clone(),
            upkeep: upkeep.clone(),
        };
        let stores = storage::Stores {
            engine: engine.clone(),
            network: network.clone(),
            others,
            upkeep: upkeep.clone(),
        };
        for protocol in [Protocol::Data, Protocol::Output] {
            tokio::spawn(accept_data(network.accept(protocol)?, blob_api.clone(), replicas.clone()));
        }
        let swarm = Swarm::new(blob_api.chunks.clone());
        tokio::spawn(swarm.clone().accept(network.accept(Protocol::Swarm)?));
        tokio::spawn(swarm.watch(network.clone()));
        let tls =
            config.joinable.as_ref().filter(|joinable| joinable.https).map(|joinable| joinable.tls.clone());
        let doors = endpoints.join.zip(config.joinable.as_ref()).map(|(address, joinable)| {
            let authority = joinable.authority.clone();
            join::server::Doors { engine: engine.clone(), authority, address }
        });
        let admin = crate::api::ops::members::Admin {
            engine: engine.clone(),
            doors: doors.clone(),
            peer: network.peer().to_string(),
        };
        let mut servers = vec![
            serve(batch, tls.clone(), move |cfg| {
                // The pages come first: the Batch interface takes every other path.
                crate::api::ops::service(cfg, ops.clone());
                status::service(cfg, watch.clone());
                inspect::service(cfg);
                backup::service(cfg, sources.clone());
                crate::api::ops::members::service(cfg, admin.clone());
                upgrade::service(cfg);
                applications::service(cfg);
                storage::service(cfg, stores.clone());
                crate::api::batch::service(cfg, batch_api.clone());
            })?,
            serve(blob, tls, move |cfg| crate::api::blob::service(cfg, blob_api.clone()))?,
        ];
        if let (Some(listener), Some(doors), Some(joinable)) = (join_port, doors, &config.joinable) {
            let tls = Some(joinable.tls.clone());
            servers.push(serve(listener, tls, move |cfg| join::server::service(cfg, doors.clone()))?);
        }
        Ok(Coordinator {
            engine,
            replica,
            network,
            files,
            tree,
            servers,
            batch_address,
            blob_address,
            join_address,
            sweeper,
            upkeep,
            members: keeper,
            versions: keeping,
        })
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    pub fn peer(&self) -> PeerId {
        self.network.peer()
    }

    pub fn p2p_addresses(&self) -> Vec<Multiaddr> {
        self.network.addresses()
    }

    pub fn batch_address(&self) -> SocketAddr {
        self.batch_address
    }

    pub fn blob_address(&self) -> SocketAddr {
        self.blob_address
    }

    /// Where others join; `None` for an embedded cluster.
    pub fn join_address(&self) -> Option<SocketAddr> {
        self.join_address
    }

    /// Ends when this member stops by itself (its disk failed, or an entry could not be applied), with the reason.
    /// The process must end then: what is in memory may be half of an entry.
    pub async fn stopped(&self) -> String {
        self.replica.stopped().await
    }

    /// The pools' groups as people see them.
    pub async fn inspect(&self) -> Vec<GroupStatus> {
        self.tree.inspect().await
    }

    /// The files of nodes, as the Batch interface serves them.
    pub fn files(&self) -> Arc<HostFiles> {
        Arc::clone(&self.files)
    }

    /// Whether a host has a session here.
    pub async fn has_session(&self, host: u32) -> bool {
        self.tree.hosts().await.iter().any(|facts| facts.host == host && facts.session.is_some())
    }

    /// Stops serving, then the actors, then the log.
    pub async fn shutdown(self) {
        for server in &self.servers {
            server.stop(true).await;
        }
        self.sweeper.abort();
        self.upkeep.stop();
        self.versions.abort();
        if let Some(members) = &self.members {
            members.abort();
        }
        self.network.shutdown().await;
        self.tree.stop().await;
        self.replica.shutdown().await;
    }
}

fn bind(address: SocketAddr, flag: &'static str) -> Result<TcpListener, Error> {
    TcpListener::bind(address).map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => Error::PortTaken { port: address.port(), flag },
        _ => Error::Listen { address, source },
    })
}

fn multiaddr(address: SocketAddr) -> Multiaddr {
    Multiaddr::from(address.ip()).with(libp2p::multiaddr::Protocol::Tcp(address.port()))
}

fn serve(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    configure: impl Fn(&mut actix_web::web::ServiceConfig) + Clone + Send + 'static,
) -> Result<ServerHandle, Error> {
    let address = listener.local_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
    let server = HttpServer::new(move || App::new().configure(configure.clone()))
        .workers(HTTP_WORKERS)
        .disable_signals()
        .shutdown_timeout(5);
    let listening = match tls {
        Some(tls) => server.listen_rustls_0_23(listener, rustls::ServerConfig::clone(&tls)),
        None => server.listen(listener),
    };
    let server = listening.map_err(|source| Error::Listen { address, source })?.run();
    let handle = server.handle();
    actix::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, %address, "an HTTP server ended");
        }
    });
    Ok(handle)
}

async fn accept_sessions(mut incoming: Incoming, tree: Arc<LeaderTree>, members: Directory) {
    let room = Arc::new(tokio::sync::Semaphore::new(SESSIONS_MAX));
    while let Some((peer, stream)) = incoming.next().await {
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
            tracing::warn!(%peer, "too many sessions; refused");
            continue;
        };
        let (tree, members) = (Arc::clone(&tree), members.clone());
        tokio::spawn(async move {
            match tree.session_parts().await {
                Some(parts) => host_session::serve(parts, peer.to_string(), stream).await,
                None => host_session::redirect(directions(&tree.leadership(), &members), stream).await,
            }
            drop(place);
        });
    }
}

fn directions(leadership: &Leadership, members: &Directory) -> Directions {
    let mut coordinators = members.coordinators();
    // A leader whose tree is not up yet sends nobody to itself.
    let leader = leadership.leader.as_ref().filter(|leader| !leadership.is_ours && !leader.peer.is_empty());
    if let Some(leader) = leader
        && !coordinators.iter().any(|member| member.peer == leader.peer)
    {
        let (peer, addresses) = (leader.peer.clone(), leader.addresses.clone());
        coordinators.push(Member { peer, role: Role::Coordinator, addresses, storage: None });
    }
    Directions { term: leadership.term, leader: leader.map(|leader| leader.peer.clone()), coordinators }
}

async fn accept_data(mut incoming: Incoming, api: BlobApi, replicas: Replicas) {
    let room = Arc::new(tokio::sync::Semaphore::new(CONVERSATIONS_MAX));
    while let Some((peer, mut stream)) = incoming.next().await {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let api = api.clone();
        // A signature that is bound to addresses cannot be judged here, where members have ids.
        let is_coordinator = replicas.is_coordinator(peer);
        let caller = Caller { peer: Some(peer), address: None, is_coordinator };
        tokio::spawn(async move {
            match conversation(&mut stream, &api, caller).await {
                Ok(()) => stream.close().await,
                Err(error) => tracing::debug!(%peer, %error, "a conversation about content broke off"),
            }
            drop(place);
        });
    }
}
