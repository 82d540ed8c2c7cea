//! What a network needs to start.

use super::identity::Identity;
use libp2p::Multiaddr;
use std::time::Duration;

/// Settings of a [`super::Network`]; start from [`Config::new`].
#[derive(Clone)]
pub struct Config {
    pub identity: Identity,
    /// Where to listen, e.g. `/ip4/0.0.0.0/tcp/11010`; port 0 = any free. May be empty for a machine that only
    /// dials.
    pub listen: Vec<Multiaddr>,
    /// Established connections in all.
    pub connections_max: u32,
    /// Connections to one peer. More than one, because two members may dial each other at the same time and a
    /// broken connection may linger until a ping fails.
    pub connections_per_peer_max: u32,
    /// Handshakes under way, in each direction.
    pub handshakes_max: u32,
    /// Pings keep silence from going unnoticed; must be above zero.
    pub ping_interval: Duration,
    /// A peer that leaves a ping unanswered this long is cut off, up to two intervals later.
    pub ping_timeout: Duration,
    /// Bound of one attempt to connect, handshakes included.
    pub connect_timeout: Duration,
    /// Bound of one [`super::Network::open`] with all its attempts.
    pub open_timeout: Duration,
}

impl Config {
    pub fn new(identity: Identity, listen: Vec<Multiaddr>) -> Self {
        Self {
            identity,
            listen,
            connections_max: 8_192,
            connections_per_peer_max: 8,
            handshakes_max: 256,
            ping_interval: Duration::from_secs(5),
            ping_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            open_timeout: Duration::from_secs(15),
        }
    }
}
