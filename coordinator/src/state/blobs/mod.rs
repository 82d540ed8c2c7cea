//! Containers, blobs and staged blocks: the part of the state behind the Blob interface.
//!
//! Bytes are not here but in the chunk store; a record carries the [`Manifest`] that finds them. Whoever proposes
//! an action has made the chunks durable first, so an applied action is an acknowledged one.
//!
//! ```text
//!   account ─► container (by name) ─► blob (by name, ordered for listing)
//!                   └─────────────► set of staged blocks (by blob name) ─► block (by id)
//! ```
//!
//! *Long work is detached, then swept.* Deleting a container or committing a block list takes one step: the
//! container loses its name, the set its blob. What is detached is seen by nobody and goes away by
//! [`BlobAction::Sweep`], at most [`SWEEP_MAX`] rows a time. Sets nobody added to for [`STAGED_MAX_AGE_MS`] are
//! detached by the same action.
//!
//! Rows: `Container` `[]` the account's counter, `[container]` a container, `[container][0]` its policies if it has any;
//! `Blob` `[blob]`, `[blob][0]` its extras if it has any; `Block` `[set]` the head of a set, `[set][n]` its blocks. Keys are counted and never used again, so a container of an old name is never
//! confused with its predecessor.

mod apply;
mod condition;
mod listing;
mod manifests;
mod records;
mod sweep;

pub use condition::{Unmet, check};
pub use listing::{Item, Page};
pub use manifests::Place;
pub use records::{AccessPolicy, Blob, BlobExtra, Block, BlockSet, Container, Copied, Headers, Metadata};

use super::keys::Table;
use super::reply::{RefusalCode, Reply};
use super::version::ClusterVersion;
use super::{Batch, Condition, Stamp};
use lote_shared::chunks::Manifest;
use lote_shared::model::{AccountId, Timestamp};
use records::{BlobRow, BlockRow, ContainerRow, ExtrasRow, SetRow};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Most rows that one sweep removes.
pub const SWEEP_MAX: usize = 900;
/// Staged blocks are dropped when none was added for this long: 7 days.
pub const STAGED_MAX_AGE_MS: u64 = 7 * 24 * 3600 * 1000;
/// Most staged blocks of one blob.
pub const STAGED_MAX: usize = 100_000;

/// Changes to containers and blobs. Grows only at the end.
#[allow(clippy::large_enum_variant, reason = "an action travels boxed, inside a command")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlobAction {
    ContainerCreate {
        name: String,
        metadata: Metadata,
    },
    ContainerDelete {
        name: String,
        condition: Condition,
    },
    ContainerMetadata {
        name: String,
        condition: Condition,
        metadata: Metadata,
    },
    /// Makes or replaces a blob and drops its staged blocks.
    Put {
        container: String,
        blob: String,
        condition: Condition,
        content: Manifest,
        headers: Headers,
        metadata: Metadata,
        /// Set when the content was composed from staged or committed blocks.
        composed: Option<Composed>,
    },
    /// Stages a block; one of the same id is replaced.
    Stage {
        container: String,
        blob: String,
        id: String,
        content: Manifest,
    },
    Delete {
        container: String,
        blob: String,
        condition: Condition,
    },
    SetMetadata {
        container: String,
        blob: String,
        condition: Condition,
        metadata: Metadata,
    },
    /// Replaces all of the headers.
    SetHeaders {
        container: String,
        blob: String,
        condition: Condition,
        headers: Headers,
    },
    /// The next slice of removing what is detached or too old, in the command's account.
    Sweep,
    /// Replaces the stored access policies of a container.
    ContainerPolicies {
        name: String,
        condition: Condition,
        policies: Vec<AccessPolicy>,
    },
    /// As `Put` without `composed`, of a blob that is more than its record says.
    PutWith {
        container: String,
        blob: String,
        condition: Condition,
        content: Manifest,
        headers: Headers,
        metadata: Metadata,
        extras: Vec<BlobExtra>,
    },
    /// Adds a block at the end of an append blob; refused as [`RefusalCode::Fenced`] if its ETag is no longer `base`.
    Append {
        container: String,
        blob: String,
        condition: Condition,
        base: u64,
        /// Of the whole blob, as composed by the proposer.
        content: Manifest,
    },
}

impl BlobAction {
    /// The cluster version from which on this may be proposed ([`super::Action::since`]).
    pub fn since(&self) -> ClusterVersion {
        match self {
            BlobAction::ContainerCreate { .. }
            | BlobAction::ContainerDelete { .. }
            | BlobAction::ContainerMetadata { .. }
            | BlobAction::Put { .. }
            | BlobAction::Stage { .. }
            | BlobAction::Delete { .. }
            | BlobAction::SetMetadata { .. }
            | BlobAction::SetHeaders { .. }
            | BlobAction::Sweep => ClusterVersion::V1,
            BlobAction::ContainerPolicies { .. } | BlobAction::PutWith { .. } | BlobAction::Append { .. } => {
                ClusterVersion::V4
            }
        }
    }
}

/// What a block list was composed from; a commit of anything else is refused as [`RefusalCode::Fenced`], and the
/// proposer composes again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Composed {
    /// [`BlockSet::generation`], 0 if nothing was staged.
    pub generation: u64,
    /// ETag of the blob whose committed blocks were used.
    pub base: Option<u64>,
    /// File with the committed block list.
    pub list: Manifest,
}

/// The containers and blobs of one account.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Space {
    /// The next key, ETag or generation. Stored, so that it never repeats.
    next: u64,
    containers: BTreeMap<u64, Container>,
    /// Containers that are not being deleted.
    names: BTreeMap<Box<str>, u64>,
    sets: BTreeMap<u64, BlockSet>,
    /// Sets with a blob name, by the time of their last block.
    by_age: BTreeSet<(Timestamp, u64)>,
    dead_containers: BTreeSet<u64>,
    dead_sets: BTreeSet<u64>,
}

/// All containers and blobs of all accounts.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Blobs {
    spaces: BTreeMap<AccountId, Space>,
}

impl Blobs {
    /// Total and bounded: touches at most [`SWEEP_MAX`] rows and a few.
    pub fn apply(
        &mut self,
        stamp: Stamp,
        account: AccountId,
        action: &BlobAction,
        batch: &mut Batch,
    ) -> Reply {
        let space = self.spaces.entry(account).or_default();
        let reply = space.apply(account, stamp.now, action, batch);
        // An account that never had anything leaves no trace, here as in the rows.
        if space.next == 0 {
            self.spaces.remove(&account);
        }
        reply
    }

    /// Takes one hot row of this part back into memory. `key` is what follows account and table. Rows must come in
    /// key order.
    pub fn load(&mut self, account: AccountId, table: Table, key: &[u8], value: &[u8]) -> Result<(), String> {
        let space = self.spaces.entry(account).or_default();
        let (numbers, rest) = key.as_chunks::<8>();
        let numbers: Vec<u64> = numbers.iter().map(|bytes| u64::from_be_bytes(*bytes)).collect();
        match (table, numbers.as_slice(), rest) {
            (Table::Container, [], []) => {
                space.next = records::decode(value)?;
                Ok(())
            }
            (Table::Container, [key], []) => space.load_container(*key, records::decode(value)?),
            (Table::Container, [key, 0], []) => {
                let container = space.containers.get_mut(key).ok_or("policies without container")?;
                container.policies = records::decode(value)?;
                Ok(())
            }
            (Table::Blob, [key], []) => space.load_blob(*key, records::decode(value)?),
            (Table::Blob, [key, 0], []) => space.load_extras(*key, records::decode(value)?),
            (Table::Block, [set], []) => space.load_set(*set, records::decode(value)?),
            (Table::Block, [set, n], []) => space.load_block(*set, *n, records::decode(value)?),
            _ => Err("not a key of this table".to_owned()),
        }
    }

    pub fn container(&self, account: AccountId, name: &str) -> Result<&Container, RefusalCode> {
        let space = self.spaces.get(&account).ok_or(RefusalCode::ContainerNotFound)?;
        let key = space.names.get(name).ok_or(RefusalCode::ContainerNotFound)?;
        space.containers.get(key).ok_or(RefusalCode::ContainerNotFound)
    }

    pub fn blob(&self, account: AccountId, container: &str, blob: &str) -> Result<&Blob, RefusalCode> {
        self.container(account, container)?.blobs.get(blob).ok_or(RefusalCode::BlobNotFound)
    }

    /// The staged blocks of a blob name, if there are any.
    pub fn staged(
        &self,
        account: AccountId,
        container: &str,
        blob: &str,
    ) -> Result<Option<&BlockSet>, RefusalCode> {
        let set = self.container(account, container)?.staged.get(blob);
        Ok(set.and_then(|set| self.spaces.get(&account)?.sets.get(set)))
    }

    /// Accounts with something for [`BlobAction::Sweep`] to do.
    pub fn to_sweep(&self, now: Timestamp) -> Vec<AccountId> {
        let due = self.spaces.iter().filter(|(_, space)| space.has_work(now));
        due.map(|(account, _)| *account).collect()
    }

    /// Number of live containers and blobs of all accounts, for metrics.
    pub fn counts(&self) -> (usize, usize) {
        let containers = self.spaces.values().map(|space| space.names.len()).sum();
        let live = |space: &Space| -> usize {
            space.names.values().filter_map(|key| space.containers.get(key)).map(|c| c.blobs.len()).sum()
        };
        (containers, self.spaces.values().map(live).sum())
    }

    /// Bytes of all blobs that have a name, whatever content they share.
    pub fn bytes(&self) -> u64 {
        let live = |space: &Space| -> u64 {
            let containers = space.names.values().filter_map(|key| space.containers.get(key));
            let blobs = containers.flat_map(|container| container.blobs.values());
            blobs.map(|blob| blob.content.length).fold(0, u64::saturating_add)
        };
        self.spaces.values().map(live).fold(0, u64::saturating_add)
    }

    /// Calls `each` for every manifest that is referred to. For whoever has the state for itself; the upkeep of chunks
    /// goes by [`Blobs::manifests`].
    pub fn for_each_manifest(&self, mut each: impl FnMut(&Manifest)) {
        for space in self.spaces.values() {
            let blocks = space.sets.values().flat_map(|set| set.blocks.values());
            blocks.for_each(|block| each(&block.content));
            for blob in space.containers.values().flat_map(|container| container.blobs.values()) {
                each(&blob.content);
                blob.blocks.iter().for_each(|list| each(list));
            }
        }
    }
}

impl Space {
    fn load_container(&mut self, key: u64, row: ContainerRow) -> Result<(), String> {
        match row.deleted {
            true => {
                self.dead_containers.insert(key);
            }
            false => {
                if self.names.insert(row.name.clone(), key).is_some() {
                    return Err(format!("two containers are named `{}`", row.name));
                }
            }
        }
        self.containers.insert(key, row.into());
        Ok(())
    }

    fn load_blob(&mut self, key: u64, row: BlobRow) -> Result<(), String> {
        let container = self.containers.get_mut(&row.container).ok_or("a blob without container")?;
        let name = row.name.clone();
        match container.blobs.insert(name, row.into_blob(key)) {
            Some(_) => Err("two blobs of one name".to_owned()),
            None => Ok(()),
        }
    }

    fn load_extras(&mut self, key: u64, row: ExtrasRow) -> Result<(), String> {
        let container = self.containers.get_mut(&row.container).ok_or("extras without container")?;
        let blob = container.blobs.get_mut(&row.name).filter(|blob| blob.key == key);
        blob.ok_or("extras without blob")?.extras = row.extras.into();
        Ok(())
    }

    fn load_set(&mut self, key: u64, row: SetRow) -> Result<(), String> {
        if row.dead {
            self.dead_sets.insert(key);
        } else {
            let container = self.containers.get_mut(&row.container).ok_or("blocks without container")?;
            container.staged.insert(row.blob.clone(), key);
            self.by_age.insert((row.last, key));
        }
        self.sets.insert(key, row.into());
        Ok(())
    }

    fn load_block(&mut self, set: u64, n: u64, row: BlockRow) -> Result<(), String> {
        let set = self.sets.get_mut(&set).ok_or("a block without set")?;
        set.blocks.insert(row.id, Block { n, content: row.content });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
