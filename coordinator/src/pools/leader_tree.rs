//! The actor tree follows leadership: one [`Tree`] per term in which this member leads, none otherwise.
//!
//! A tree is built once this member leads and has applied everything of earlier terms, and dropped when leadership is
//! lost; a term that came and went unnoticed counts as lost. Both happen on a task of their own, so nobody who is
//! served waits for them: whoever needs the tree meanwhile is told that there is none, and a host comes again.

use super::cluster_supervisor::GroupStatus;
use super::faults::Faults;
use super::host_registry::HostFacts;
use super::host_session::SessionParts;
use super::{Tree, TreeParts, chunk::ChunkBuilder};
use crate::directory::Directory;
use crate::engine::Engine;
use crate::leadership::Leadership;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long a host's new session waits for a tree whose roots are being built.
const ROOTS_WITHIN: Duration = Duration::from_secs(1);

/// What trees are built from.
#[derive(Debug, Clone)]
pub struct LeaderParts {
    pub engine: Engine,
    pub builder: ChunkBuilder,
    pub faults: Faults,
    pub lease_ms: u64,
    pub members: Directory,
    /// The terms are a test's own and mean nothing to the log.
    pub terms_are_scripted: bool,
}

type Current = Option<Arc<Tree>>;

/// The tree, while there is one.
#[derive(Debug)]
pub struct LeaderTree {
    leadership: watch::Receiver<Leadership>,
    current: watch::Receiver<Current>,
    stop: watch::Sender<bool>,
    follows: Mutex<Option<JoinHandle<()>>>,
}

impl LeaderTree {
    /// Follows `leadership`; needs a running actix system.
    pub fn start(parts: LeaderParts, leadership: watch::Receiver<Leadership>) -> LeaderTree {
        let (stop, stopped) = watch::channel(false);
        let (publish, current) = watch::channel(None);
        // On the system's own thread: only there can arbiters be made.
        let follows = actix::spawn(follow(parts, leadership.clone(), publish, stopped));
        LeaderTree { leadership, current, stop, follows: Mutex::new(Some(follows)) }
    }

    /// What is known of the leadership now.
    pub fn leadership(&self) -> Leadership {
        self.leadership.borrow().clone()
    }

    /// What a new session of a host needs; `None` if this member does not lead, or its tree takes too long.
    pub async fn session_parts(&self) -> Option<SessionParts> {
        if !self.leadership.borrow().is_ours {
            return None;
        }
        let mut current = self.current.clone();
        let parts = async {
            let tree = current.wait_for(Option::is_some).await.ok()?.clone()?;
            tree.session_parts().await
        };
        tokio::time::timeout(ROOTS_WITHIN, parts).await.ok().flatten()
    }

    fn tree(&self) -> Current {
        self.current.borrow().clone()
    }

    /// The groups as people see them; none where this member does not lead.
    pub async fn inspect(&self) -> Vec<GroupStatus> {
        match self.tree() {
            Some(tree) => tree.inspect().await,
            None => Vec::new(),
        }
    }

    /// Hosts' sessions and leases; none where this member does not lead.
    pub async fn hosts(&self) -> Vec<HostFacts> {
        match self.tree() {
            Some(tree) => tree.hosts().await,
            None => Vec::new(),
        }
    }

    /// Drops the tree for good.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        let follows = self.follows.lock().take();
        if let Some(follows) = follows {
            let _ = follows.await;
        }
    }
}

/// The term whose tree there is to be.
fn wanted(leadership: &Leadership) -> Option<u64> {
    leadership.is_ours.then_some(leadership.term)
}

async fn follow(
    parts: LeaderParts,
    mut leadership: watch::Receiver<Leadership>,
    publish: watch::Sender<Current>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut term = None;
    loop {
        let next = if *stopped.borrow() { None } else { wanted(&leadership.borrow_and_update()) };
        if next != term {
            if let Some(old) = publish.send_replace(None) {
                tracing::info!(term, "no longer leads; the actor tree is dropped");
                old.stop().await;
            }
            if let Some(term) = next {
                tracing::info!(term, "leads; the actor tree is built");
                publish.send_replace(Some(Arc::new(Tree::start(tree_of(&parts, term, &leadership)))));
            }
            term = next;
            // Dropping may have taken its time.
            continue;
        }
        if *stopped.borrow() {
            return;
        }
        tokio::select! {
            _ = stopped.changed() => {}
            changed = leadership.changed() => {
                if changed.is_err() {
                    // Replication is gone, and with it whatever this member led.
                    let _ = stopped.wait_for(|stop| *stop).await;
                }
            }
        }
    }
}

fn tree_of(parts: &LeaderParts, term: u64, leadership: &watch::Receiver<Leadership>) -> TreeParts {
    TreeParts {
        engine: parts.engine.in_term(term, leadership.clone(), !parts.terms_are_scripted),
        builder: parts.builder.clone(),
        faults: parts.faults.clone(),
        lease_ms: parts.lease_ms,
        members: parts.members.clone(),
    }
}
