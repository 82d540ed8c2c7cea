//! A running coordinator: replica, network, actor tree and the two HTTP servers, started and stopped as one.

use crate::api::batch::BatchApi;
use crate::api::blob::BlobApi;
use crate::api::ops::status::{self, Watch};
use crate::api::ops::{Metrics, Ops};
use crate::clock;
use crate::data::serve::conversation;
use crate::engine::{Engine, Unavailable};
use crate::join::{self, Joinable};
use crate::members;
use crate::node_files::HostFiles;
use crate::pools::chunk::ChunkBuilder;
use crate::pools::faults::Faults;
use crate::pools::{GroupStatus, Tree, TreeParts, host_session};
use crate::replication::{self, Replica};
use crate::state::{Action, Admission, keys};
use actix_web::dev::ServerHandle;
use actix_web::{App, HttpServer};
use libp2p::{Multiaddr, PeerId};
use lote_shared::chunks::ChunkStore;
use lote_shared::network::{self, Identity, Incoming, Network, Protocol};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
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
    pub lease_ms: u64,
    /// Empty but in tests.
    pub faults: Faults,
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
    tree: Arc<Tree>,
    servers: Vec<ServerHandle>,
    batch_address: SocketAddr,
    blob_address: SocketAddr,
    join_address: Option<SocketAddr>,
    sweeper: JoinHandle<()>,
    members: JoinHandle<()>,
}

impl Coordinator {
    /// Opens the data, becomes leader, and serves. Needs a running actix system.
    pub async fn start(config: CoordinatorConfig) -> Result<Coordinator, Error> {
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

        let (engine, replica) = replication::open(replication::Config::new(config.data_dir.clone())).await?;
        let account =
            Action::AccountAdd { name: config.account_name.clone(), keys: vec![config.account_key.clone()] };
        if let Err(refusal) = engine.propose(keys::CLUSTER, account).await? {
            tracing::warn!(%refusal, "the account was not added");
        }

        let identity = Identity::load_or_create(&config.data_dir.join("identity"))?;
        let listen = multiaddr(config.p2p_bind);
        let network = Network::start(network::Config::new(identity, vec![listen])).await?;
        members::found(&engine, &network, config.joinable.as_ref(), &config.admit).await?;
        let members = members::Keeper::start(engine.clone(), network.clone());

        let url = |address| join::base_url(config.joinable.as_ref(), address);
        let builder = ChunkBuilder::new(&url(batch_address), &url(blob_address));
        let parts = TreeParts {
            engine: engine.clone(),
            builder,
            faults: config.faults.clone(),
            lease_ms: config.lease_ms,
        };
        let tree = Arc::new(Tree::start(parts));
        tokio::spawn(accept_sessions(network.accept(Protocol::Session)?, Arc::clone(&tree)));

        let chunks = ChunkStore::open(&config.data_dir.join("chunks"))?;
        let files = Arc::new(HostFiles::new(engine.clone(), network.clone()));
        let metrics = Arc::new(Metrics::default());
        let ops = Ops { engine: engine.clone(), metrics: Arc::clone(&metrics) };
        let batch_api = BatchApi::new(engine.clone(), files, metrics);
        let replica = Arc::new(replica);
        let watch = Watch { engine: engine.clone(), replica: Arc::clone(&replica), tree: Arc::clone(&tree) };
        let blob_api = BlobApi::new(Arc::new(engine.clone()), chunks, &config.account_name, clock::wall);
        let sweeper = tokio::spawn(crate::data::sweeper::run(blob_api.clone(), || true));
        tokio::spawn(accept_data(network.accept(Protocol::Data)?, blob_api.clone()));
        let tls =
            config.joinable.as_ref().filter(|joinable| joinable.https).map(|joinable| joinable.tls.clone());
        let doors = join_address.zip(config.joinable.as_ref()).map(|(address, joinable)| {
            let authority = joinable.authority.clone();
            join::server::Doors {
                engine: engine.clone(),
                authority,
                addresses: joinable.join_addresses(address),
            }
        });
        let admin = crate::api::ops::members::Admin { engine: engine.clone(), doors: doors.clone() };
        let mut servers = vec![
            serve(batch, tls.clone(), move |cfg| {
                // The pages come first: the Batch interface takes every other path.
                crate::api::ops::service(cfg, ops.clone());
                status::service(cfg, watch.clone());
                crate::api::ops::members::service(cfg, admin.clone());
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
            tree,
            servers,
            batch_address,
            blob_address,
            join_address,
            sweeper,
            members,
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

    /// Stops serving, then the actors, then the log.
    pub async fn shutdown(self) {
        for server in &self.servers {
            server.stop(true).await;
        }
        self.sweeper.abort();
        self.members.abort();
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

async fn accept_sessions(mut incoming: Incoming, tree: Arc<Tree>) {
    let room = Arc::new(tokio::sync::Semaphore::new(SESSIONS_MAX));
    while let Some((peer, stream)) = incoming.next().await {
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
            tracing::warn!(%peer, "too many sessions; refused");
            continue;
        };
        let Some(parts) = tree.session_parts().await else { return };
        tokio::spawn(async move {
            host_session::serve(parts, peer.to_string(), stream).await;
            drop(place);
        });
    }
}

async fn accept_data(mut incoming: Incoming, api: BlobApi) {
    let room = Arc::new(tokio::sync::Semaphore::new(CONVERSATIONS_MAX));
    while let Some((peer, mut stream)) = incoming.next().await {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let api = api.clone();
        tokio::spawn(async move {
            // A signature that is bound to addresses cannot be judged here, where members have ids.
            match conversation(&mut stream, &api, None).await {
                Ok(()) => stream.close().await,
                Err(error) => tracing::debug!(%peer, %error, "a conversation about content broke off"),
            }
            drop(place);
        });
    }
}
