//! Who belongs to the cluster and where each can be reached, as members tell it to one another.
//!
//! What arrives is untrusted like everything else: [`read`] keeps what makes sense and bounds it.

use crate::network::{Multiaddr, PeerId, Role};
use serde::{Deserialize, Serialize};

/// Members of one list that are looked at; a cluster has fewer.
pub const MEMBERS_MAX: usize = 10_000;
/// Addresses of one member that are looked at.
pub const ADDRESSES_MAX: usize = 16;

/// A member as it is told to others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// libp2p peer id, as text.
    pub peer: String,
    pub role: Role,
    /// Multiaddresses; empty for a machine that only dials.
    pub addresses: Vec<String>,
    /// URL of a coordinator's Blob interface, without a final slash and without an account.
    pub storage: Option<String>,
}

/// A member of a list that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub peer: PeerId,
    pub role: Role,
    pub addresses: Vec<Multiaddr>,
}

impl Member {
    pub fn new(peer: PeerId, role: Role, addresses: &[Multiaddr]) -> Member {
        let addresses = addresses.iter().take(ADDRESSES_MAX).map(Multiaddr::to_string).collect();
        Member { peer: peer.to_string(), role, addresses, storage: None }
    }
}

/// The members that can be understood, each peer once, in the order told.
pub fn read(members: &[Member]) -> Vec<Known> {
    let mut seen = std::collections::BTreeSet::new();
    let known = |member: &Member| {
        let peer: PeerId = member.peer.parse().ok()?;
        let addresses = member.addresses.iter().take(ADDRESSES_MAX);
        let addresses = addresses.filter_map(|address| address.parse().ok()).collect();
        Some(Known { peer, role: member.role, addresses })
    };
    let understood = members.iter().take(MEMBERS_MAX).filter_map(known);
    understood.filter(|member| seen.insert(member.peer)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_left_out() {
        let [a, b] = [(); 2].map(|()| PeerId::random());
        let address: Multiaddr = "/ip4/10.0.0.1/tcp/11010".parse().unwrap();
        let good = Member::new(a, Role::Coordinator, std::slice::from_ref(&address));
        let mut odd = Member::new(b, Role::Worker, &[]);
        odd.addresses = vec!["no address".into(); 3];
        odd.addresses.extend(vec![address.to_string(); ADDRESSES_MAX]);
        let nobody = Member { peer: "nobody".into(), ..good.clone() };
        let known = read(&[good.clone(), nobody, odd, good]);
        assert_eq!(known.len(), 2);
        assert_eq!(known[0], Known { peer: a, role: Role::Coordinator, addresses: vec![address] });
        assert_eq!((known[1].peer, known[1].addresses.len()), (b, ADDRESSES_MAX - 3));
    }
}
