//! The tasks, by key. Keys count up and never come back, so they are kept in a map of dense leaves: about eight
//! bytes a task beside the record itself, where a tree of single records would spend sixty.

use super::records::TaskRecord;
use lote_shared::model::TaskKey;
use std::collections::BTreeMap;

const LEAF: usize = 64;

#[derive(Debug)]
struct Leaf {
    used: usize,
    slots: [Option<Box<TaskRecord>>; LEAF],
}

/// All tasks of all jobs.
#[derive(Debug, Default)]
pub(super) struct TaskTable {
    leaves: BTreeMap<u64, Box<Leaf>>,
    len: usize,
}

fn split(key: TaskKey) -> (u64, usize) {
    (key.0 / LEAF as u64, (key.0 % LEAF as u64) as usize)
}

impl TaskTable {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn get(&self, key: TaskKey) -> Option<&TaskRecord> {
        let (leaf, slot) = split(key);
        self.leaves.get(&leaf)?.slots[slot].as_deref()
    }

    pub fn get_mut(&mut self, key: TaskKey) -> Option<&mut TaskRecord> {
        let (leaf, slot) = split(key);
        self.leaves.get_mut(&leaf)?.slots[slot].as_deref_mut()
    }

    /// Puts a task in; one of the same key is replaced.
    pub fn insert(&mut self, task: TaskRecord) {
        let (leaf, slot) = split(task.key);
        let leaf = self
            .leaves
            .entry(leaf)
            .or_insert_with(|| Box::new(Leaf { used: 0, slots: [const { None }; LEAF] }));
        if leaf.slots[slot].replace(Box::new(task)).is_none() {
            leaf.used += 1;
            self.len += 1;
        }
    }

    pub fn remove(&mut self, key: TaskKey) -> Option<Box<TaskRecord>> {
        let (number, slot) = split(key);
        let leaf = self.leaves.get_mut(&number)?;
        let task = leaf.slots[slot].take()?;
        leaf.used -= 1;
        self.len -= 1;
        if leaf.used == 0 {
            self.leaves.remove(&number);
        }
        Some(task)
    }

    /// All tasks in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = &TaskRecord> {
        self.leaves.values().flat_map(|leaf| leaf.slots.iter().filter_map(|slot| slot.as_deref()))
    }
}
