//! How far the state has been brought: stored with every applied entry, in the same batch as its rows.

use super::log::EntryId;
use super::types::{Member, MemberId, MembershipRow, from_id, stored_membership};
use crate::state::{Batch, keys};
use lote_shared::model::Timestamp;
use lote_shared::protocol::codec;
use openraft::{LogId, SnapshotMeta, StoredMembership};
use serde::{Deserialize, Serialize};

const VERSION: u8 = 1;
const SIZE_MAX: u64 = 4 * 1024 * 1024;

/// Position, time, membership and running hash after an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// The last entry; `None` before the first one.
    pub id: Option<EntryId>,
    /// Its time; entries without commands keep the one before.
    pub now: Timestamp,
    pub membership_id: Option<EntryId>,
    pub membership: MembershipRow,
    /// Hash over all rows written by all entries so far, in order: equal on all replicas at the same entry.
    pub hash: [u8; 32],
}

/// As it is stored.
#[derive(Serialize, Deserialize)]
struct Row {
    id: Option<(u64, u64, u64)>,
    now_ms: u64,
    membership_id: Option<(u64, u64, u64)>,
    membership: MembershipRow,
    hash: [u8; 32],
}

fn parts(id: EntryId) -> (u64, u64, u64) {
    (id.term, id.node, id.index)
}

fn whole((term, node, index): (u64, u64, u64)) -> EntryId {
    EntryId { term, node, index }
}

impl Applied {
    /// The key of its row.
    pub fn key() -> Vec<u8> {
        keys::key(keys::CLUSTER, keys::Table::Applied, b"position")
    }

    pub fn encode(&self) -> Result<Vec<u8>, codec::Error> {
        let row = Row {
            id: self.id.map(parts),
            now_ms: self.now.0,
            membership_id: self.membership_id.map(parts),
            membership: self.membership.clone(),
            hash: self.hash,
        };
        codec::encode(VERSION, &row)
    }

    pub fn decode(bytes: &[u8]) -> Result<Applied, codec::Error> {
        let row: Row = codec::decode(VERSION, bytes, SIZE_MAX)?;
        Ok(Applied {
            id: row.id.map(whole),
            now: Timestamp(row.now_ms),
            membership_id: row.membership_id.map(whole),
            membership: row.membership,
            hash: row.hash,
        })
    }

    pub fn index(&self) -> Option<u64> {
        self.id.map(|id| id.index)
    }

    pub fn log_id(&self) -> Option<LogId<MemberId>> {
        self.id.map(from_id)
    }

    pub fn stored_membership(&self) -> StoredMembership<MemberId, Member> {
        stored_membership(self.membership_id, &self.membership)
    }

    /// The hash after an entry that wrote these rows.
    pub fn hash_after(&self, index: u64, batch: &Batch) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.hash);
        hasher.update(&index.to_le_bytes());
        for (key, value) in &batch.writes {
            hasher.update(&(key.len() as u64).to_le_bytes());
            hasher.update(key);
            let length = value.as_ref().map_or(u64::MAX, |value| value.len() as u64);
            hasher.update(&length.to_le_bytes());
            hasher.update(value.as_deref().unwrap_or_default());
        }
        *hasher.finalize().as_bytes()
    }

    /// What a snapshot at this position is called.
    pub fn name(&self) -> String {
        match self.id {
            None => "empty".to_owned(),
            Some(id) => format!("{:016x}-{}-{}", id.index, id.term, id.node),
        }
    }

    pub fn snapshot_meta(&self) -> SnapshotMeta<MemberId, Member> {
        SnapshotMeta {
            last_log_id: self.log_id(),
            last_membership: self.stored_membership(),
            snapshot_id: self.name(),
        }
    }

    #[cfg(test)]
    pub fn at_index(index: u64) -> Applied {
        Applied { id: Some(EntryId { term: 1, node: 1, index }), now: Timestamp(index), ..Applied::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_from_its_bytes() {
        let applied = Applied {
            membership_id: Some(EntryId { term: 1, node: 2, index: 3 }),
            hash: [9; 32],
            ..Applied::at_index(70)
        };
        assert_eq!(Applied::decode(&applied.encode().unwrap()).unwrap(), applied);
        assert_eq!(Applied::decode(&Applied::default().encode().unwrap()).unwrap(), Applied::default());
        assert!(Applied::decode(&[]).is_err());
    }

    #[test]
    fn the_hash_tells_rows_positions_and_their_order_apart() {
        let batch = |writes: &[(&str, Option<&str>)]| {
            let mut batch = Batch::default();
            let rows = writes
                .iter()
                .map(|(key, value)| (key.as_bytes().to_vec(), value.map(|v| v.as_bytes().to_vec())));
            batch.writes = rows.collect();
            batch
        };
        let start = Applied::default();
        let hashes = [
            start.hash_after(1, &batch(&[])),
            start.hash_after(2, &batch(&[])),
            start.hash_after(1, &batch(&[("a", None)])),
            start.hash_after(1, &batch(&[("a", Some(""))])),
            start.hash_after(1, &batch(&[("a", Some("b")), ("c", None)])),
            start.hash_after(1, &batch(&[("c", None), ("a", Some("b"))])),
            start.hash_after(1, &batch(&[("ab", Some("")), ("c", None)])),
        ];
        for (n, hash) in hashes.iter().enumerate() {
            assert!(!hashes[..n].contains(hash), "{n}");
        }
    }
}
