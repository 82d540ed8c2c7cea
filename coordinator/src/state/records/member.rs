//! Members, join tokens, and what the cluster is.

use lote_shared::model::{MemberRole, Timestamp, TokenId};
use serde::{Deserialize, Serialize};

/// Where a coordinator serves clients and newcomers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// URLs without a final slash.
    pub batch: String,
    pub blob: String,
    /// `host:port` of the join port; `None` where nobody can join.
    pub join: Option<String>,
}

/// Somebody who belongs to the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// libp2p peer id, as text.
    pub peer: String,
    pub role: MemberRole,
    /// For people; need not be unique.
    pub name: String,
    /// Multiaddresses at which it listens; empty for one that only dials.
    pub addresses: Vec<String>,
    /// Where a coordinator serves; `None` until it has said so, and of workers.
    pub endpoints: Option<Endpoints>,
    /// A coordinator's number in replication. Never given twice.
    pub member: Option<u64>,
    /// Hash that stands for the machine it was admitted on; empty = any.
    pub machine: String,
    pub admitted: Timestamp,
    /// What it was admitted with; `None` = by the operator.
    pub token: Option<TokenId>,
}

/// Leave to become a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    pub id: TokenId,
    /// BLAKE3 of the secret; the secret itself is kept nowhere.
    pub secret_hash: [u8; 32],
    pub role: MemberRole,
    pub made: Timestamp,
    pub expires: Timestamp,
    pub uses_left: u32,
    pub revoked: bool,
    /// For people.
    pub note: String,
}

/// What all members agree on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSettings {
    /// A UUID, as text.
    pub cluster_id: String,
    /// Length of a host's lease in milliseconds.
    pub lease_ms: u64,
    /// Certificate of the cluster's authority, PEM.
    pub ca_certificate: String,
}
