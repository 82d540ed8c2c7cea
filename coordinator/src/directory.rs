//! Who belongs to the cluster and where, as everything sees it that has to find a member: the network's allow-list,
//! hosts that look for the leader, coordinators that keep chunks for one another.
//!
//! One list, replaced as a whole when it changes; whoever holds a [`Directory`] sees the newest.

use lote_shared::network::{Network, PeerId, Role};
use lote_shared::protocol::members::{self, Member};
use std::sync::Arc;
use tokio::sync::watch;

/// The newest list of members; clone freely.
#[derive(Debug, Clone)]
pub struct Directory(watch::Receiver<Arc<Vec<Member>>>);

/// Where a new list is put in place of the old.
#[derive(Debug)]
pub struct Publisher(watch::Sender<Arc<Vec<Member>>>);

impl Directory {
    pub fn new(members: Vec<Member>) -> (Publisher, Directory) {
        let (sender, receiver) = watch::channel(Arc::new(members));
        (Publisher(sender), Directory(receiver))
    }

    pub fn members(&self) -> Arc<Vec<Member>> {
        self.0.borrow().clone()
    }

    pub fn coordinators(&self) -> Vec<Member> {
        let members = self.0.borrow();
        members.iter().filter(|member| member.role == Role::Coordinator).cloned().collect()
    }

    /// The coordinators but `own`, in the order of the list.
    pub fn other_coordinators(&self, own: PeerId) -> Vec<PeerId> {
        let others = members::read(&self.coordinators());
        others.into_iter().map(|member| member.peer).filter(|peer| *peer != own).collect()
    }

    /// Waits until the list is another than the one seen last through this handle; false if it never will be.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }

    /// The list, which then counts as seen.
    pub fn see(&mut self) -> Arc<Vec<Member>> {
        self.0.borrow_and_update().clone()
    }
}

impl Publisher {
    pub fn publish(&self, members: Vec<Member>) {
        self.0.send_if_modified(|current| {
            let differs = **current != members;
            if differs {
                *current = Arc::new(members);
            }
            differs
        });
    }
}

/// Keeps the network's allow-list and addresses those of the directory, until nobody can change it any more.
pub async fn admit(network: Network, mut directory: Directory) {
    loop {
        apply(&network, &directory.see());
        if !directory.changed().await {
            return;
        }
    }
}

/// Makes the list the network's.
pub fn apply(network: &Network, list: &[Member]) {
    let known = members::read(list).into_iter().filter(|member| member.peer != network.peer());
    let known: Vec<_> = known.collect();
    network.set_allowed(known.iter().map(|member| (member.peer, member.role)).collect());
    for member in known {
        for address in member.addresses {
            network.add_address(member.peer, address);
        }
    }
}
