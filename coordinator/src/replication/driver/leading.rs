//! Who leads, as far as this member knows, and when it may say that it is itself.

use super::{Driver, Metrics, Place, Reign};
use crate::leadership::{Leader, Leadership};
use crate::replication::payload::Payload;
use crate::replication::room::Gate;
use crate::replication::types::{Member, Types};
use futures::future::BoxFuture;
use openraft::ServerState;

impl<C: Types> Driver<C> {
    pub(super) fn place(&self, metrics: &Metrics) -> Place {
        if let Some(reign) = self.settled {
            return Place::Here(reign);
        }
        match metrics.current_leader {
            Some(leader) if leader != metrics.id => Place::There((metrics.vote.leader_id.term, leader)),
            _ => Place::Nowhere,
        }
    }

    /// Whether this member should not lead, for want of room or of a right clock. Not even reads are answered then: each
    /// would be a sign of life, and keep the others from electing one of them.
    pub(super) fn steps_back(&self, metrics: &Metrics) -> bool {
        let is_told_to = self.gate.as_ref().is_some_and(Gate::steps_back);
        is_told_to && metrics.membership_config.membership().voter_ids().count() > 1
    }

    /// Puts an entry that carries nothing but the time into the log.
    pub(super) fn settle(&mut self) -> BoxFuture<'static, bool> {
        let payload = Payload::new(self.stamp(), std::iter::empty());
        let raft = self.parts.raft.clone();
        Box::pin(async move { raft.client_write(payload).await.is_ok() })
    }

    pub(super) fn on_settled(&mut self, is_settled: bool, metrics: &Metrics) {
        let Some((reign, _)) = self.settling.take() else { return };
        // Leadership may be lost by now; the next look at Raft sees to that.
        if is_settled && reign_led(metrics) == Some(reign) {
            tracing::info!(term = reign.0, "this member leads");
            self.settled = Some(reign);
        }
    }

    pub(super) fn publish(&self, metrics: &Metrics) {
        let look = Leadership {
            term: metrics.vote.leader_id.term,
            leader: metrics.current_leader.map(|member| {
                let known = metrics.membership_config.membership().get_node(&member);
                let Member { peer, addresses } = known.cloned().unwrap_or_default();
                Leader { member, peer, addresses }
            }),
            is_ours: self.settled.is_some(),
        };
        self.parts.leadership.send_if_modified(|current| {
            let is_new = *current != look;
            *current = look;
            is_new
        });
    }
}

/// The leadership that this member has won, whether or not it is announced.
pub(super) fn reign_led(metrics: &Metrics) -> Option<Reign> {
    let vote = &metrics.vote;
    let leads =
        metrics.state == ServerState::Leader && vote.committed && vote.leader_id.node_id == metrics.id;
    leads.then_some((vote.leader_id.term, metrics.id))
}
