//! Accounts and joined machines.

use lote_shared::model::{BootId, HostCapacity, HostKey, Timestamp};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountRecord {
    pub name: String,
    /// Decoded shared keys; either is good.
    pub keys: Vec<Vec<u8>>,
}

/// What the state knows of a host's connection. Leases are the leader's soft state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostState {
    /// A session with the leader.
    Joined,
    /// Not heard of; its attempts may still run.
    Unknown,
    /// Its lease is over; nothing of it runs any more.
    Lost,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    pub key: HostKey,
    /// libp2p peer id, as text.
    pub peer: String,
    pub name: String,
    pub address: String,
    pub software: String,
    pub boot: BootId,
    pub capacity: HostCapacity,
    pub state: HostState,
    pub joined: Timestamp,
    pub changed: Timestamp,
}
