//! What a host's inventory means against the state. Pure: the session's shell and the simulator both use it.
//!
//! After every reconnect the host says what it holds and the state knows what it should hold; the differences are
//! everything that was lost on the way, in either direction ([`crate::state::query::HeldAttempt`] has the table).

use crate::state::{Cluster, Ending};
use lote_shared::model::{AttemptRef, HostKey, NodeKey};
use lote_shared::protocol::host::{KillReason, LeaderMessage};
use std::collections::BTreeSet;

/// What to propose for an attempt that the host no longer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingEnd {
    /// It was asked back before it started, and that is what happened.
    Recalled,
    /// It was to be ended, and it is.
    Killed,
    /// It had started and is gone.
    Lost,
}

/// The differences.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reconciliation {
    /// The nodes the host is to carry.
    pub nodes: Vec<NodeKey>,
    /// Attempts of the inventory that stand.
    pub keep: Vec<AttemptRef>,
    /// Given to the host but unknown there: their chunk was lost and is sent again with the same numbers.
    pub resend: Vec<(NodeKey, Vec<AttemptRef>)>,
    /// Known here, gone there: to be proposed before the welcome.
    pub missing: Vec<(NodeKey, Vec<(AttemptRef, MissingEnd)>)>,
    /// Kills and recalls that may have been lost.
    pub repeat: Vec<LeaderMessage>,
}

impl Reconciliation {
    pub fn of(cluster: &Cluster, host: HostKey, inventory: &[(NodeKey, AttemptRef)]) -> Reconciliation {
        let inventory: BTreeSet<(NodeKey, AttemptRef)> = inventory.iter().copied().collect();
        let mut plan = Reconciliation::default();
        for record in cluster.nodes_on_host(host) {
            let node = record.key;
            let (mut resend, mut missing) = (Vec::new(), Vec::new());
            for held in cluster.attempts_on(node) {
                let attempt = held.attempt;
                if inventory.contains(&(node, attempt)) {
                    plan.keep.push(attempt);
                    plan.repeat.extend(held.ending.map(|ending| repeat(node, attempt, ending)));
                    continue;
                }
                match held.ending {
                    Some(Ending::Recall) => missing.push((attempt, MissingEnd::Recalled)),
                    Some(_) => missing.push((attempt, MissingEnd::Killed)),
                    None if held.started => missing.push((attempt, MissingEnd::Lost)),
                    None => resend.push(attempt),
                }
            }
            if !resend.is_empty() {
                plan.resend.push((node, resend));
            }
            if !missing.is_empty() {
                plan.missing.push((node, missing));
            }
            // A node that is to be given up is not granted again: its host wipes it and says so.
            if !cluster.node_wants_revoke(node) {
                plan.nodes.push(node);
            }
        }
        plan
    }
}

fn repeat(node: NodeKey, attempt: AttemptRef, ending: Ending) -> LeaderMessage {
    match ending {
        Ending::Recall => LeaderMessage::Recall { node, attempts: vec![attempt] },
        Ending::Closed => LeaderMessage::Kill { node, attempt, reason: KillReason::Ended },
        Ending::Requeue | Ending::Recover | Ending::Lost => {
            LeaderMessage::Kill { node, attempt, reason: KillReason::Requeued }
        }
    }
}
