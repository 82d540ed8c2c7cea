//! Joined machines (`pools-and-nodes.md` §1, §7.2, §9.5).

use super::cluster::{Cluster, Event};
use super::cursors::NodeWork;
use super::index::Host;
use super::keys;
use super::records::{HostRecord, HostState};
use super::reply::{Outcome, Refusal, RefusalCode, Reply};
use super::step::Step;
use lote_shared::model::{BootId, HostCapacity, HostKey, NodeKey};
use std::collections::BTreeSet;

/// What a host says of itself.
pub(super) struct Seen<'a> {
    pub peer: &'a str,
    pub name: &'a str,
    pub boot: BootId,
    pub capacity: &'a HostCapacity,
    pub address: &'a str,
    pub software: &'a str,
}

impl Cluster {
    /// A host joined or came back. With another boot id nothing it had runs any more: its attempts go back to the
    /// queue, uncounted, and its nodes start again.
    pub(super) fn join_host(&mut self, step: &mut Step, seen: &Seen) -> Reply {
        let key = match self.peers.get(seen.peer) {
            Some(key) => *key,
            None => {
                self.meta.last_host = self.meta.last_host.next();
                self.meta.last_host
            }
        };
        let known = self.hosts.get(&key);
        let rebooted = known.is_some_and(|host| host.record.boot != seen.boot);
        let record = HostRecord {
            key,
            peer: seen.peer.to_owned(),
            name: seen.name.to_owned(),
            address: seen.address.to_owned(),
            software: seen.software.to_owned(),
            boot: seen.boot,
            capacity: seen.capacity.clone(),
            state: HostState::Joined,
            joined: known.map_or(step.now, |host| host.record.joined),
            changed: step.now,
        };
        step.put(keys::host(key), &record);
        self.peers.insert(record.peer.clone(), key);
        match self.hosts.get_mut(&key) {
            Some(host) => host.record = record,
            None => {
                self.hosts.insert(key, Host { record, nodes: BTreeSet::new() });
            }
        }
        for node in self.nodes_of_host(key) {
            if rebooted {
                if let Some(node) = self.nodes.get_mut(&node) {
                    node.record.phase = None;
                    node.record.booted = None;
                    node.record.start_task = None;
                    node.record.errors.clear();
                }
                step.node_rows.insert(node);
                self.end_attempts_of(step, node, NodeWork::Rebooted);
            }
            step.nodes.insert(node);
        }
        step.event(Event::HostsChanged);
        Ok(Outcome::HostJoined(key))
    }

    pub(super) fn host_unknown(&mut self, step: &mut Step, key: HostKey) -> Reply {
        self.move_host(step, key, HostState::Joined, HostState::Unknown)?;
        step.nodes.extend(self.nodes_of_host(key));
        Ok(Outcome::Done)
    }

    /// The lease is over: what ran there runs elsewhere; its nodes are unusable until it returns.
    pub(super) fn host_lost(&mut self, step: &mut Step, key: HostKey) -> Reply {
        if self.move_host(step, key, HostState::Unknown, HostState::Lost).is_err() {
            self.move_host(step, key, HostState::Joined, HostState::Lost)?;
        }
        for node in self.nodes_of_host(key) {
            self.end_attempts_of(step, node, NodeWork::Lost);
            step.nodes.insert(node);
        }
        Ok(Outcome::Done)
    }

    fn move_host(
        &mut self,
        step: &mut Step,
        key: HostKey,
        from: HostState,
        to: HostState,
    ) -> Result<(), Refusal> {
        let host = self.hosts.get_mut(&key).filter(|host| host.record.state == from);
        let host = host.ok_or_else(|| Refusal::new(RefusalCode::Fenced))?;
        host.record.state = to;
        host.record.changed = step.now;
        step.put(keys::host(key), &host.record);
        step.event(Event::HostsChanged);
        Ok(())
    }

    fn nodes_of_host(&self, key: HostKey) -> Vec<NodeKey> {
        self.hosts.get(&key).map(|host| host.nodes.iter().copied().collect()).unwrap_or_default()
    }
}
