//! The cluster version, between the replicated state and the coordinators: who supports what, and the raise.
//!
//! Every coordinator tells every other which build it is ([`serve`]) and asks them every now and then ([`Versions`]).
//! The answers are soft: they show in `lote status`, and the leader proposes a raise on the strength of them, naming
//! them, so that the state can judge. What is decided is in [`crate::state::version`].

use crate::engine::Engine;
use crate::leadership::Leadership;
use crate::replication;
use crate::state::version::{self, Prospect, Supported, prospect};
use crate::state::{Action, ClusterVersion, keys};
use futures::future::join_all;
use lote_shared::network::{Incoming, Network, OpenError, PeerId, Protocol};
use lote_shared::protocol::build::Build;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Between two rounds of questions. A raise waits about so long after the last coordinator has changed its build.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// A coordinator that takes longer is silent.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// A build that somebody runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub software: String,
    pub supported: Supported,
}

/// What the coordinators have told of their builds in the last round, by peer id; whoever was silent is missing.
#[derive(Debug, Clone)]
pub struct Versions {
    engine: Engine,
    own: String,
    told: Arc<Mutex<BTreeMap<String, Told>>>,
}

impl Versions {
    pub fn new(engine: Engine, own: PeerId) -> Versions {
        let own = own.to_string();
        let told = Told { software: version::SOFTWARE.to_owned(), supported: version::SUPPORTED };
        let told = Arc::new(Mutex::new(BTreeMap::from([(own.clone(), told)])));
        Versions { engine, own, told }
    }

    pub fn told(&self) -> BTreeMap<String, Told> {
        self.told.lock().clone()
    }

    /// What the version comes to, as far as is known here.
    pub fn prospect(&self) -> Prospect {
        let said = self.told().into_iter().map(|(peer, told)| (peer, told.supported)).collect();
        self.engine.read(|cluster| {
            let coordinators = cluster.coordinators().map(|member| member.peer.as_str());
            prospect(cluster.version(), cluster.version_held().is_some(), coordinators, &said)
        })
    }

    /// Asks the others, and while this coordinator leads has the version raised when its time has come; notes in the
    /// data folder, for builds that do not support it, what it has come to. Runs until dropped.
    pub async fn keep(self, network: Network, leadership: watch::Receiver<Leadership>, folder: PathBuf) {
        let mut noted = None;
        loop {
            self.ask(&network).await;
            if leadership.borrow().is_ours {
                self.raise().await;
            }
            let version = Some(self.engine.version());
            if noted != version {
                noted = version.filter(|version| note(&folder, *version));
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    async fn ask(&self, network: &Network) {
        let others: Vec<String> = self.engine.read(|cluster| {
            let others = cluster.coordinators().filter(|member| member.peer != self.own);
            others.map(|member| member.peer.clone()).collect()
        });
        let answers = join_all(others.iter().map(|peer| ask_one(network, peer))).await;
        let mut told = self.told.lock();
        told.retain(|peer, _| *peer == self.own);
        told.extend(others.into_iter().zip(answers).filter_map(|(peer, answer)| Some((peer, answer?))));
    }

    /// Has the version raised if everybody is ready for it.
    pub async fn raise(&self) {
        if let Prospect::Raise { to, witnesses } = self.prospect() {
            match self.engine.propose(keys::CLUSTER, Action::VersionRaise { to, witnesses }).await {
                Ok(Ok(_)) => tracing::info!(version = to.0, "the cluster version is raised"),
                Ok(Err(refusal)) => tracing::info!(%refusal, "the cluster version is not raised"),
                Err(error) => tracing::debug!(%error, "the cluster version is not raised yet"),
            }
        }
        #[cfg(feature = "next-version")]
        self.rehearse().await;
    }

    /// The build for tests notes that it was here, with a command that older builds do not know.
    #[cfg(feature = "next-version")]
    async fn rehearse(&self) {
        let is_due = self
            .engine
            .read(|cluster| cluster.version() >= ClusterVersion::NEXT && cluster.rehearsed().is_none());
        if is_due {
            let software = version::SOFTWARE.to_owned();
            if let Err(error) = self.engine.propose(keys::CLUSTER, Action::Rehearse { software }).await {
                tracing::debug!(%error, "nothing is noted yet");
            }
        }
    }
}

/// What another coordinator says; `None` if it is silent.
async fn ask_one(network: &Network, peer: &str) -> Option<Told> {
    let id: PeerId = peer.parse().ok()?;
    let asked = async {
        match network.open(id, Protocol::Build).await {
            Ok(mut stream) => match stream.receive::<Build>().await {
                Ok(Some(build)) => {
                    let read = version::read_build(&build);
                    if read.is_none() {
                        tracing::warn!(peer, ?build, "a coordinator names a build that makes no sense");
                    }
                    let (software, supported) = read?;
                    Some(Told { software, supported })
                }
                Ok(None) | Err(_) => None,
            },
            // Nobody there knows this protocol: a build of before there were versions.
            Err(OpenError::NotServed) => {
                Some(Told { software: "unknown".to_owned(), supported: version::UNTOLD })
            }
            Err(error) => {
                tracing::debug!(peer, %error, "a coordinator does not say which build it is");
                None
            }
        }
    };
    tokio::time::timeout(ANSWER_WITHIN, asked).await.ok().flatten()
}

/// Tells whoever asks which build this is.
pub async fn serve(mut incoming: Incoming) {
    while let Some((peer, mut stream)) = incoming.next().await {
        let answering = async move {
            if let Err(error) = stream.send(&version::build()).await {
                tracing::debug!(%peer, %error, "a coordinator was not told which build this is");
            }
            stream.close().await;
        };
        tokio::spawn(async move {
            let _ = tokio::time::timeout(ANSWER_WITHIN, answering).await;
        });
    }
}

/// The state says it as well; this says it earlier and better. False if it could not be written.
fn note(folder: &Path, version: ClusterVersion) -> bool {
    let noted = replication::folder::note_version(folder, version);
    noted.inspect_err(|error| tracing::warn!(%error, "the cluster version could not be noted")).is_ok()
}
