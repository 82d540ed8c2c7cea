//! Where peers can be reached: addresses given by the token, the members, or a setting.
//!
//! Names are resolved at each dial, so that a machine that moved is found again.

use super::MultiaddrProtocol;
use libp2p::{Multiaddr, PeerId};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

/// Addresses kept for one peer; the oldest is forgotten first.
const ADDRESSES_PER_PEER_MAX: usize = 8;
/// Peers with addresses. Members are far fewer; this only bounds a faulty caller.
const PEERS_MAX: usize = 65_536;
/// Results taken from one name.
const RESOLVED_PER_NAME_MAX: usize = 8;
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Known addresses, newest first.
#[derive(Default)]
pub(super) struct AddressBook(Mutex<BTreeMap<PeerId, VecDeque<Multiaddr>>>);

impl AddressBook {
    /// Remembers an address; one that is known already becomes the newest. A final `/p2p/…` part is taken off.
    pub(super) fn add(&self, peer: PeerId, address: Multiaddr) {
        let Some(address) = without_peer(peer, address) else { return };
        let mut book = self.0.lock();
        if book.len() >= PEERS_MAX && !book.contains_key(&peer) {
            tracing::warn!(%peer, "address book is full; address not kept");
            return;
        }
        let known = book.entry(peer).or_default();
        known.retain(|other| *other != address);
        known.push_front(address);
        known.truncate(ADDRESSES_PER_PEER_MAX);
    }

    pub(super) fn get(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.0.lock().get(peer).map(|known| known.iter().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn forget(&self, peer: &PeerId) {
        self.0.lock().remove(peer);
    }
}

/// `None` if the address says that it belongs to somebody else.
fn without_peer(peer: PeerId, address: Multiaddr) -> Option<Multiaddr> {
    match address.iter().last() {
        Some(MultiaddrProtocol::P2p(named)) if named != peer => {
            tracing::warn!(%peer, %address, "address names another peer; not kept");
            None
        }
        _ => Some(bare(address)),
    }
}

/// The address without a final `/p2p/…` part.
pub(super) fn bare(mut address: Multiaddr) -> Multiaddr {
    if let Some(MultiaddrProtocol::P2p(_)) = address.iter().last() {
        address.pop();
    }
    address
}

/// The name a resolver has to look up, if the address starts with one.
fn name_of(address: &Multiaddr) -> Option<String> {
    match address.iter().next() {
        Some(
            MultiaddrProtocol::Dns(name) | MultiaddrProtocol::Dns4(name) | MultiaddrProtocol::Dns6(name),
        ) => Some(name.into_owned()),
        _ => None,
    }
}

pub(super) fn need_resolving(addresses: &[Multiaddr]) -> bool {
    addresses.iter().any(|address| name_of(address).is_some())
}

/// Replaces each name by the addresses it stands for; names that cannot be resolved are left out.
pub(super) async fn resolve(addresses: Vec<Multiaddr>) -> Vec<Multiaddr> {
    let mut resolved = Vec::new();
    for address in addresses {
        let Some(name) = name_of(&address) else {
            resolved.push(address);
            continue;
        };
        match tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((name.as_str(), 0))).await {
            Ok(Ok(found)) => {
                let ips = found.map(|socket| socket.ip()).filter(|ip| fits(&address, *ip));
                resolved.extend(ips.take(RESOLVED_PER_NAME_MAX).filter_map(|ip| with_ip(&address, ip)));
            }
            Ok(Err(error)) => tracing::debug!(%name, %error, "name was not resolved"),
            Err(_) => tracing::debug!(%name, "resolving the name took too long"),
        }
    }
    resolved
}

fn fits(address: &Multiaddr, ip: IpAddr) -> bool {
    match address.iter().next() {
        Some(MultiaddrProtocol::Dns4(_)) => ip.is_ipv4(),
        Some(MultiaddrProtocol::Dns6(_)) => ip.is_ipv6(),
        _ => true,
    }
}

fn with_ip(address: &Multiaddr, ip: IpAddr) -> Option<Multiaddr> {
    address.replace(0, |_| Some(ip.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn newest_first_without_repeats_and_bounded() {
        let book = AddressBook::default();
        let peer = PeerId::random();
        for port in 1..=9 {
            book.add(peer, address(&format!("/ip4/10.0.0.1/tcp/{port}")));
        }
        book.add(peer, address(&format!("/ip4/10.0.0.1/tcp/5/p2p/{peer}")));
        let ports: Vec<String> = book.get(&peer).iter().map(|a| a.to_string()).collect();
        let expected = [5, 9, 8, 7, 6, 4, 3, 2].map(|port| format!("/ip4/10.0.0.1/tcp/{port}"));
        assert_eq!(ports, expected);
    }

    #[test]
    fn an_address_of_somebody_else_is_not_kept() {
        let book = AddressBook::default();
        let peer = PeerId::random();
        book.add(peer, address(&format!("/ip4/10.0.0.1/tcp/5/p2p/{}", PeerId::random())));
        assert!(book.get(&peer).is_empty());
    }

    #[tokio::test]
    async fn names_become_addresses() {
        let given = vec![address("/dns4/localhost/tcp/7"), address("/ip4/10.0.0.1/tcp/5")];
        assert!(need_resolving(&given) && !need_resolving(&given[1..]));
        let resolved = resolve(given).await;
        assert_eq!(resolved, [address("/ip4/127.0.0.1/tcp/7"), address("/ip4/10.0.0.1/tcp/5")]);
    }
}
