//! How a machine becomes a member: the cluster's certificate authority, join tokens, and the one HTTPS call between
//! a newcomer and any coordinator (`docs/decisions/0005-a-cluster-of-coordinators.md`, 3).
//!
//! ```text
//!  lote token create ──► TokenAdd (hash of the secret) ──► token text, carried by a person
//!  newcomer: client ── HTTPS, pinned to the CA named in the token, request signed by its own identity ──►
//!            server ──► MemberAdmit (judged and counted in the state) ──► members, cluster, member number
//! ```
//!
//! Whether somebody may join is decided by the state when the command is applied; this module carries, proves and
//! explains. It keeps nothing but a bounded memory of callers that failed.

pub mod authority;
pub mod client;
pub mod message;
pub mod pin;
pub mod server;
pub mod throttle;
pub mod token;

use crate::state::ClusterSettings;
use authority::Authority;
use libp2p::{Multiaddr, multiaddr};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What a coordinator of a cluster that others can join is started with.
#[derive(Clone)]
pub struct Joinable {
    pub settings: ClusterSettings,
    /// Of this coordinator, for people.
    pub name: String,
    pub authority: Arc<Authority>,
    /// Serves under a certificate of the authority.
    pub tls: Arc<rustls::ServerConfig>,
    /// Whether the Batch and Blob interfaces are HTTPS as well.
    pub https: bool,
    /// Where the join port listens.
    pub bind: SocketAddr,
    /// The name or address by which others reach this machine; `None`: what the ports are bound to.
    pub advertise: Option<String>,
}

impl std::fmt::Debug for Joinable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Joinable").field("settings", &self.settings).field("name", &self.name).finish()
    }
}

impl Joinable {
    /// `host:port` of the join port, for tokens.
    pub fn join_address(&self, bound: SocketAddr) -> String {
        public(self.advertise.as_deref(), bound)
    }

    /// Where members dial this one, from where it listens.
    pub fn p2p_addresses(&self, listening: &[Multiaddr]) -> Vec<String> {
        let Some(advertise) = self.advertise.as_deref() else {
            return listening.iter().map(Multiaddr::to_string).collect();
        };
        let port = listening.iter().flat_map(|address| address.iter()).find_map(|part| match part {
            multiaddr::Protocol::Tcp(port) => Some(port),
            _ => None,
        });
        let address = match advertise.parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) => format!("/ip4/{ip}"),
            Ok(IpAddr::V6(ip)) => format!("/ip6/{ip}"),
            Err(_) => format!("/dns/{advertise}"),
        };
        port.map(|port| format!("{address}/tcp/{port}")).into_iter().collect()
    }
}

/// The URL of an interface that is bound there.
pub fn base_url(joinable: Option<&Joinable>, bound: SocketAddr) -> String {
    let scheme = if joinable.is_some_and(|joinable| joinable.https) { "https" } else { "http" };
    let advertise = joinable.and_then(|joinable| joinable.advertise.as_deref());
    format!("{scheme}://{}", public(advertise, bound))
}

fn public(advertise: Option<&str>, bound: SocketAddr) -> String {
    // What is bound to this machine alone is not reached by its name.
    let advertise = advertise.filter(|_| !bound.ip().is_loopback());
    match advertise.map(|host| (host, host.parse::<IpAddr>())) {
        None => bound.to_string(),
        Some((_, Ok(ip))) => SocketAddr::new(ip, bound.port()).to_string(),
        Some((host, Err(_))) => format!("{host}:{}", bound.port()),
    }
}

#[cfg(test)]
mod tests;
