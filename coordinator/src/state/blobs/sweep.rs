//! Removing what is detached or too old, a bounded slice at a time.

use super::super::keys::Table;
use super::apply::Rows;
use super::{STAGED_MAX_AGE_MS, SWEEP_MAX, Space};
use lote_shared::model::Timestamp;

impl Space {
    /// Takes a set away from its blob name; its blocks are swept later.
    pub(super) fn detach_set(&mut self, key: u64, rows: &mut Rows) {
        let Some(set) = self.sets.get(&key) else { return };
        if let Some(container) = self.containers.get_mut(&set.container) {
            container.staged.remove(&set.blob);
        }
        self.by_age.remove(&(set.last, key));
        self.dead_sets.insert(key);
        rows.put(Table::Block, &[key], &set.row(true));
    }

    fn expired(&self, now: Timestamp) -> Option<u64> {
        let (last, set) = self.by_age.first()?;
        (last.plus_ms(STAGED_MAX_AGE_MS) <= now).then_some(*set)
    }

    pub(super) fn has_work(&self, now: Timestamp) -> bool {
        !self.dead_sets.is_empty() || !self.dead_containers.is_empty() || self.expired(now).is_some()
    }

    /// Whether there is more to do.
    pub(super) fn sweep(&mut self, now: Timestamp, rows: &mut Rows) -> bool {
        for _ in 0..SWEEP_MAX {
            if let Some(set) = self.dead_sets.first().copied() {
                self.sweep_set(set, rows);
            } else if let Some(container) = self.dead_containers.first().copied() {
                self.sweep_container(container, rows);
            } else if let Some(set) = self.expired(now) {
                self.detach_set(set, rows);
            } else {
                return false;
            }
        }
        self.has_work(now)
    }

    /// One row of a detached set: a block, or at the end its head.
    fn sweep_set(&mut self, key: u64, rows: &mut Rows) {
        let block = self.sets.get_mut(&key).and_then(|set| set.blocks.pop_first());
        match block {
            Some((_, block)) => rows.remove(Table::Block, &[key, block.n]),
            None => {
                self.sets.remove(&key);
                self.dead_sets.remove(&key);
                rows.remove(Table::Block, &[key]);
            }
        }
    }

    /// One row of a deleted container: a set, a blob, or at the end the container.
    fn sweep_container(&mut self, key: u64, rows: &mut Rows) {
        let Some(container) = self.containers.get_mut(&key) else {
            self.dead_containers.remove(&key);
            return;
        };
        if let Some((_, set)) = container.staged.pop_first() {
            self.detach_set(set, rows);
        } else if let Some((_, blob)) = container.blobs.pop_first() {
            rows.remove_blob(&blob);
        } else {
            if !container.policies.is_empty() {
                rows.remove(Table::Container, &[key, 0]);
            }
            self.containers.remove(&key);
            self.dead_containers.remove(&key);
            rows.remove(Table::Container, &[key]);
        }
    }
}
