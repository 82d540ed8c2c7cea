//! The allow-list: who is a member, in which role, and what each member holds open to us.
//!
//! Written by [`super::Network::set_allowed`], read by every connection before it hands out a stream. Replacing the
//! list acts at once: streams of a member that left, or whose role changed, fail from that moment, whether or not
//! the connection below them can still be closed in good order.

use super::protocol::{Protocol, Role};
use libp2p::PeerId;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

/// Streams to one peer that wait for its answer at a time; further ones wait for their turn.
const OPENING_MAX: usize = 32;

/// The current allow-list.
#[derive(Default)]
pub(super) struct Members {
    current: RwLock<BTreeMap<PeerId, Arc<Member>>>,
    /// Tells the swarm's task to close connections of those who left.
    pub(super) changed: Notify,
}

/// One stay of one peer on the list.
pub(super) struct Member {
    pub(super) role: Role,
    /// Streams this peer may still open to us, by [`Protocol::index`].
    slots: [Arc<Semaphore>; Protocol::ALL.len()],
    /// Bounds the streams to this peer that wait for its answer.
    opening: Semaphore,
    /// Fires when the stay ends; parent of the tokens of this peer's connections.
    left: CancellationToken,
}

impl Member {
    fn new(role: Role) -> Self {
        let slots = Protocol::ALL.map(|protocol| Arc::new(Semaphore::new(protocol.streams_per_peer_max())));
        Self { role, slots, opening: Semaphore::new(OPENING_MAX), left: CancellationToken::new() }
    }

    /// Takes one of the inbound streams this peer may have; it is given back on drop.
    pub(super) fn take_slot(&self, protocol: Protocol) -> Option<OwnedSemaphorePermit> {
        self.slots[protocol.index()].clone().try_acquire_owned().ok()
    }

    /// Waits for the turn to open a stream to this peer. (The semaphore is never closed; `None` does not occur.)
    pub(super) async fn take_turn(&self) -> Option<SemaphorePermit<'_>> {
        self.opening.acquire().await.ok()
    }

    pub(super) fn left(&self) -> &CancellationToken {
        &self.left
    }
}

impl Members {
    pub(super) fn get(&self, peer: &PeerId) -> Option<Arc<Member>> {
        self.current.read().get(peer).cloned()
    }

    /// Replaces the list and returns who is no longer on it.
    pub(super) fn replace(&self, peers: BTreeMap<PeerId, Role>) -> Vec<PeerId> {
        let mut current = self.current.write();
        let mut before = std::mem::take(&mut *current);
        for (peer, role) in peers {
            let member = match before.remove(&peer) {
                Some(member) if member.role == role => member,
                Some(member) => {
                    member.left.cancel();
                    Arc::new(Member::new(role))
                }
                None => Arc::new(Member::new(role)),
            };
            current.insert(peer, member);
        }
        drop(current);
        for member in before.values() {
            member.left.cancel();
        }
        self.changed.notify_one();
        before.into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaving_and_changing_role_end_the_old_stay() {
        let members = Members::default();
        let [a, b, c] = [(); 3].map(|()| PeerId::random());
        members.replace([(a, Role::Worker), (b, Role::Worker), (c, Role::Worker)].into());
        let [old_a, old_b, old_c] = [a, b, c].map(|peer| members.get(&peer).unwrap());

        let left = members.replace([(a, Role::Worker), (b, Role::Coordinator)].into());

        assert_eq!(left, [c]);
        let has_ended = [old_a.clone(), old_b, old_c].map(|stay| stay.left().is_cancelled());
        assert_eq!(has_ended, [false, true, true]);
        assert!(Arc::ptr_eq(&old_a, &members.get(&a).unwrap()), "an unchanged member keeps its counts");
        assert_eq!(members.get(&b).unwrap().role, Role::Coordinator);
        assert!(members.get(&c).is_none());
    }

    #[test]
    fn slots_are_counted_per_protocol_and_given_back() {
        let member = Member::new(Role::Worker);
        let held: Vec<_> = (0..4).map(|_| member.take_slot(Protocol::Session).unwrap()).collect();
        assert!(member.take_slot(Protocol::Session).is_none());
        assert!(member.take_slot(Protocol::Data).is_some());
        drop(held);
        assert!(member.take_slot(Protocol::Session).is_some());
    }
}
