//! The worker: runs tasks on a machine for a cluster.
//!
//! * [`keeper`]: the small process that owns task processes and outlives this one.
//! * [`attempt`]: one run of a task, from its directory to its report.
//! * [`node`]: a slice of the host granted to a pool: slots, start task, directories.
//! * [`host`]: keeper, nodes and the session with the leader, supervised as generations.
//! * [`swarm`]: content from host to host.
//! * [`files`]: reading the nodes' files for the API.
//!
//! ```text
//!  leader ◄─ session ─► Host ─► NodeActor ─► AttemptActor ─► keeper ─► process
//!                                (NodeMachine) (AttemptMachine)
//! ```
//!
//! For now tasks run as the user of the worker process, whatever their `userIdentity`; users of their own are the
//! matter of `isolation/`.

pub mod attempt;
pub mod cache;
mod clock;
mod context;
mod coordinators;
pub mod files;
pub mod host;
mod journal;
pub mod keeper;
pub mod layout;
pub mod node;
mod outgoing;
mod search;
mod session;
#[cfg(test)]
mod small_disk;
pub mod swarm;

pub use session::Coordinator;

use attempt::http::{HttpStore, Limits};
use attempt::own::OwnStore;
use attempt::transfer::{self, Retries};
use coordinators::Coordinators;
use files::Roots;
use host::{Control, Supervisor};
use lote_shared::chunks::{self, ChunkStore};
use lote_shared::model::{HostCapacity, PACKAGES_LABEL};
use lote_shared::network::{self, Identity, Multiaddr, Network, PeerId, Protocol};
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;
use swarm::{Rates, Swarm};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Config(&'static str),
    #[error("the data directory `{}` cannot be used: {source}", path.display())]
    DataDir { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Identity(#[from] network::identity::Error),
    #[error(transparent)]
    Network(#[from] network::Error),
    #[error("the HTTP client cannot be made: {0}")]
    Http(#[from] transfer::Error),
    #[error("the cache of chunks cannot be opened: {0}")]
    Cache(#[from] chunks::Error),
    #[error("the worker's thread cannot be started: {0}")]
    Thread(io::Error),
}

/// How a worker runs; start from [`WorkerConfig::new`].
#[derive(Clone)]
pub struct WorkerConfig {
    /// Holds identity, keeper, nodes and the cache of chunks.
    pub data_dir: PathBuf,
    /// The host's name, for people.
    pub name: String,
    /// Tried in turn until one welcomes this host, together with those that the data directory remembers.
    pub coordinators: Vec<Coordinator>,
    pub capacity: HostCapacity,
    /// Program and first arguments that start the keeper; `--dir <data dir>/keeper` is added.
    pub keeper_command: Vec<OsString>,
    /// Where tasks of this host can be reached, as nodes show it.
    pub address: String,
    /// Where to listen for peers; empty = only dial.
    pub listen: Vec<Multiaddr>,
    /// `None`: kept in `<data dir>/identity`.
    pub identity: Option<Identity>,
    /// Stands for this machine; see [`lote_shared::machine`].
    pub machine: String,
    /// Between SIGTERM and SIGKILL for tasks that are ended.
    pub grace: Duration,
    pub transfers: Limits,
    /// Limits of the large contents that go to and from other machines.
    pub rates: Rates,
    pub retries: Retries,
    /// `USER` and `LOGNAME` of tasks.
    pub user: String,
    /// `AZ_BATCH_TASK_RESERVED_EPHEMERAL_DISK_SPACE_BYTES`; 0 = a tenth of the disk.
    pub reserved_disk_bytes: u64,
    /// Largest size of the cache of chunks; `None` = [`cache::default_size`].
    pub cache_bytes: Option<u64>,
}

/// A running worker. Dropping it without [`Worker::shutdown`] is like a crash: tasks run on under the keeper until
/// the lease ends, and a worker started on the same directory finds them again.
pub struct Worker {
    control: mpsc::Sender<Control>,
    thread: Option<JoinHandle<()>>,
    network: Network,
    /// Aborted with the worker.
    _sweeper: JoinSet<()>,
}

impl Worker {
    /// Starts the keeper, if none runs, and the session with a coordinator; returns at once, the rest goes on in a
    /// thread of its own. Must be called on a tokio runtime, which carries the network.
    ///
    /// The coordinators must admit this host's peer id ([`Worker::peer`], the id of [`WorkerConfig::identity`]).
    pub async fn start(mut config: WorkerConfig) -> Result<Worker, Error> {
        config.check()?;
        let unusable = |path: PathBuf| move |source| Error::DataDir { path, source };
        std::fs::create_dir_all(&config.data_dir).map_err(unusable(config.data_dir.clone()))?;
        config.data_dir = config.data_dir.canonicalize().map_err(unusable(config.data_dir.clone()))?;
        if config.data_dir.to_str().is_none() {
            return Err(Error::Config("the data directory's name must be UTF-8"));
        }
        let disk = rustix::fs::statvfs(&config.data_dir)
            .map(|disk| disk.f_blocks.saturating_mul(disk.f_frsize))
            .map_err(|source| unusable(config.data_dir.clone())(source.into()))?;
        if config.reserved_disk_bytes == 0 {
            config.reserved_disk_bytes = disk / 10;
        }
        let label = PACKAGES_LABEL;
        config.capacity.labels.push((label.0.to_owned(), label.1.to_owned()));
        let identity = match config.identity.clone() {
            Some(identity) => identity,
            None => Identity::load_or_create(&config.data_dir.join("identity"))?,
        };
        let network = Network::start(network::Config::new(identity, config.listen.clone())).await?;
        let coordinators = Coordinators::open(&config.data_dir, network.clone(), &config.coordinators);
        let roots = Roots::default();
        tokio::spawn(files::serve(network.accept(Protocol::Files)?, roots.clone()));
        let cache_bytes = config.cache_bytes.unwrap_or_else(|| cache::default_size(disk));
        let cache = ChunkStore::open(&config.data_dir.join("chunks"))?;
        let mut sweeper = JoinSet::new();
        sweeper.spawn(cache::keep(cache.clone(), cache_bytes));
        let idle = config.transfers.idle;
        let swarm = Swarm::new(network.clone(), cache.clone(), config.rates.clone(), idle);
        tokio::spawn(swarm.clone().serve(network.accept(Protocol::Swarm)?));
        let store = OwnStore::new(network.clone(), cache, HttpStore::new(config.transfers)?, idle, swarm);
        let (control, receiver) = mpsc::channel(1);
        let network_of_session = network.clone();
        let supervisor =
            Supervisor { config, network: network_of_session, coordinators, roots, store, control: receiver };
        let thread = std::thread::Builder::new()
            .name("lote-worker".to_owned())
            .spawn(move || supervisor.run())
            .map_err(Error::Thread)?;
        Ok(Worker { control, thread: Some(thread), network, _sweeper: sweeper })
    }

    /// This host's id in the network.
    pub fn peer(&self) -> PeerId {
        self.network.peer()
    }

    /// Ends every task within `grace` (they are reported as lost, so that they run again elsewhere, uncounted),
    /// stops the keeper, and leaves nothing running.
    pub async fn shutdown(mut self, grace: Duration) {
        let (done, stopped) = oneshot::channel();
        if self.control.send(Control::Stop { grace, done }).await.is_ok() {
            let _ = stopped.await;
        }
        if let Some(thread) = self.thread.take() {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        self.network.shutdown().await;
    }

    /// Stops this worker and leaves its tasks to the keeper, as an upgrade does: the next worker on the same
    /// directory finds them again.
    pub async fn detach(mut self) {
        let (control, _) = mpsc::channel(1);
        self.control = control;
        if let Some(thread) = self.thread.take() {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        self.network.shutdown().await;
    }
}
