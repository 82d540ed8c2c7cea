//! The leader's actor tree as a whole, for one term: rebuilt if its root fails, dropped with the term
//! ([`super::LeaderTree`] decides when).
//!
//! The roots ([`ClusterSupervisor`], [`HostRegistry`]) have nobody above them inside actix, so a plain task watches
//! them: should one end, both are dropped and built again from the state. Hosts then reconnect by themselves.

use super::chunk::ChunkBuilder;
use super::cluster_supervisor::{ClusterSupervisor, GroupStatus, Inspect, News, Settings};
use super::faults::Faults;
use super::host_registry::{HostFacts, HostRegistry, Look};
use super::host_session::SessionParts;
use super::job_keeper;
use crate::directory::Directory;
use crate::engine::Engine;
use crate::state::Event;
use actix::{Actor, Addr, Arbiter};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Threads the pools' groups share.
const ARBITERS: usize = 4;
const WATCH_EVERY: Duration = Duration::from_millis(200);

/// What the tree is built from.
#[derive(Debug, Clone)]
pub struct TreeParts {
    /// Bound to the term of the tree.
    pub engine: Engine,
    pub builder: ChunkBuilder,
    pub faults: Faults,
    pub lease_ms: u64,
    pub members: Directory,
}

#[derive(Debug, Clone)]
struct Roots {
    supervisor: Addr<ClusterSupervisor>,
    registry: Addr<HostRegistry>,
}

/// A running tree.
#[derive(Debug)]
pub struct Tree {
    parts: TreeParts,
    roots: watch::Receiver<Option<Roots>>,
    stop: watch::Sender<bool>,
    keeper: JoinHandle<()>,
    watched: Mutex<Option<JoinHandle<()>>>,
}

impl Tree {
    /// Builds the tree; needs a running actix system.
    pub fn start(parts: TreeParts) -> Tree {
        let (stop, stopped) = watch::channel(false);
        let (publish, roots) = watch::channel(None);
        let keeper = tokio::spawn(job_keeper::run(parts.engine.clone(), stopped.clone()));
        // On the system's own thread: only there can arbiters be made.
        let watched = actix::spawn(keep_roots(parts.clone(), publish, stopped));
        Tree { parts, roots, stop, keeper, watched: Mutex::new(Some(watched)) }
    }

    /// What a new session of a host needs, once the roots are up.
    pub async fn session_parts(&self) -> Option<SessionParts> {
        let mut roots = self.roots.clone();
        let current = roots.wait_for(Option::is_some).await.ok()?.clone()?;
        Some(SessionParts {
            engine: self.parts.engine.clone(),
            builder: self.parts.builder.clone(),
            registry: current.registry,
            lease_ms: self.parts.lease_ms,
            members: self.parts.members.clone(),
            over: self.stop.subscribe(),
        })
    }

    /// The groups as people see them.
    pub async fn inspect(&self) -> Vec<GroupStatus> {
        let supervisor = self.roots.borrow().as_ref().map(|roots| roots.supervisor.clone());
        match supervisor {
            Some(supervisor) => supervisor.send(Inspect).await.unwrap_or_default(),
            None => Vec::new(),
        }
    }

    /// Hosts' sessions and leases.
    pub async fn hosts(&self) -> Vec<HostFacts> {
        let registry = self.roots.borrow().as_ref().map(|roots| roots.registry.clone());
        match registry {
            Some(registry) => registry.send(Look).await.unwrap_or_default(),
            None => Vec::new(),
        }
    }

    /// Ends the sessions, the actors and the keeper of jobs; what they were about is in the state. The keeper may be
    /// waiting for a quorum and is not waited for: whatever it proposed is fenced like everything else of the tree.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        self.keeper.abort();
        let watched = self.watched.lock().take();
        if let Some(watched) = watched {
            let _ = watched.await;
        }
    }
}

async fn keep_roots(
    parts: TreeParts,
    publish: watch::Sender<Option<Roots>>,
    mut stopped: watch::Receiver<bool>,
) {
    while !*stopped.borrow() {
        let arbiter = Arbiter::new();
        // Before the roots look at the state for the first time, so that they miss nothing and nobody has to be told
        // to look again, which would end the sessions that came meanwhile.
        let events = parts.engine.events();
        let roots = build(&parts, &arbiter);
        let mut pump = tokio::spawn(pump(events, roots.clone()));
        publish.send_replace(Some(roots.clone()));
        loop {
            tokio::select! {
                _ = stopped.changed() => break,
                _ = &mut pump => break,
                () = tokio::time::sleep(WATCH_EVERY) => {}
            }
            if !roots.supervisor.connected() || !roots.registry.connected() {
                tracing::error!("the root of the actor tree ended; building it again");
                break;
            }
        }
        pump.abort();
        publish.send_replace(None);
        arbiter.stop();
    }
}

fn build(parts: &TreeParts, arbiter: &Arbiter) -> Roots {
    let (engine, builder, lease_ms) = (parts.engine.clone(), parts.builder.clone(), parts.lease_ms);
    let registry = HostRegistry::start_in_arbiter(&arbiter.handle(), move |_| {
        HostRegistry::new(engine, builder, lease_ms)
    });
    let settings = Settings {
        engine: parts.engine.clone(),
        builder: parts.builder.clone(),
        faults: parts.faults.clone(),
        registry: registry.clone().recipient(),
        reallocate: registry.clone().recipient(),
        undelivered: registry.clone().recipient(),
        arbiters: ARBITERS,
    };
    let supervisor =
        ClusterSupervisor::start_in_arbiter(&arbiter.handle(), move |_| ClusterSupervisor::new(settings));
    Roots { supervisor, registry }
}

/// Passes events on; after a gap the roots look at the state anew.
async fn pump(mut events: Receiver<Arc<Vec<Event>>>, roots: Roots) {
    loop {
        match events.recv().await {
            Ok(batch) => deliver(&roots, Some(batch)).await,
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "the actor tree fell behind and looks at the state anew");
                deliver(&roots, None).await;
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// Waits for room in both mailboxes: the bound is the engine's event channel behind this.
async fn deliver(roots: &Roots, batch: Option<Arc<Vec<Event>>>) {
    let _ = roots.supervisor.send(News(batch.clone())).await;
    let _ = roots.registry.send(News(batch)).await;
}
