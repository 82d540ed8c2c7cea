//! How a worker goes, so that nothing it runs is ever run twice at once.
//!
//! A host that is *draining* gets no node any more and is to give up those it has: their tasks are ended and go back to
//! the queue, as with any node that is taken away with `requeue` (`pools-and-nodes.md` §6.3), and the pools fill up
//! elsewhere. Each node that its host has wiped is its word that nothing runs there. After the last one the member is
//! gone, decided here and by nobody who would have to live so long. A host that does not answer gives its nodes up when
//! its lease is over, as any lost one.
//!
//! *Forced*, the member is gone and cut off at once. Its tasks wait for the end of the lease all the same: until then
//! they may still run there.

use super::cluster::{Cluster, Event};
use super::keys;
use super::members::refuse;
use super::reply::{MembershipCode as Code, Outcome, Reply};
use super::step::Step;
use lote_shared::model::{DeallocationOption, HostKey, MemberRole, Timestamp};
use serde::{Deserialize, Serialize};

/// A host that is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Draining {
    since: Timestamp,
    /// It is no member any more.
    forced: bool,
}

impl Cluster {
    /// Whether this host is on its way out, as a member or as one that was.
    pub fn is_draining(&self, host: HostKey) -> bool {
        self.membership.draining.contains_key(&host)
    }

    pub(super) fn drain_host(&mut self, step: &mut Step, peer: &str, forced: bool) -> Reply {
        let unknown = || refuse(Code::MemberNotFound, format!("no member has the peer id `{peer}`"));
        let member = self.member(peer).ok_or_else(unknown)?;
        if member.role != MemberRole::Worker {
            let detail =
                format!("`{}` is a coordinator; it carries no nodes that could be drained", member.name);
            return Err(refuse(Code::MemberRoleMismatch, detail));
        }
        let host = self.peers.get(peer).and_then(|key| Some((*key, self.hosts.get(key)?)));
        let nodes: Vec<_> = host.iter().flat_map(|(_, host)| host.nodes.iter().copied()).collect();
        let Some((key, _)) = host.filter(|_| !nodes.is_empty()) else {
            self.drop_member(step, peer);
            return Ok(Outcome::Done);
        };
        let draining = Draining { since: step.now, forced };
        step.put(keys::draining(key), &draining);
        self.membership.draining.insert(key, draining);
        step.event(Event::HostsChanged);
        if forced {
            self.forget_member(step, peer);
        }
        for node in nodes {
            if let Some(pool) = self.nodes.get(&node).map(|node| node.record.pool) {
                self.refill_pool(step, pool);
            }
            // The node is there.
            let _ = self.revoke_node(step, node, DeallocationOption::Requeue);
        }
        Ok(Outcome::Done)
    }

    /// A node of this host is gone: after its last one a host that is draining is no member any more.
    pub(super) fn after_node(&mut self, step: &mut Step, host: HostKey) {
        let Some(draining) = self.membership.draining.get(&host).copied() else { return };
        let Some(record) =
            self.hosts.get(&host).filter(|host| host.nodes.is_empty()).map(|host| &host.record)
        else {
            return;
        };
        let peer = record.peer.clone();
        self.forget_draining(step, host);
        // One that was forced out may have been admitted anew by now.
        if !draining.forced {
            self.drop_member(step, &peer);
        }
        step.event(Event::HostsChanged);
    }

    pub(super) fn forget_draining(&mut self, step: &mut Step, host: HostKey) {
        if self.membership.draining.remove(&host).is_some() {
            step.delete(keys::draining(host));
        }
    }
}
