//! The slots of the tasks reported as running on a node never exceed the node's slots (`pools-and-nodes.md` §11), and
//! with prefetched ones they stay below the cap. Computed from the tasks, not from the node's own count.
//!
//! Not a violation: a closed attempt whose processes are still being ended takes no slot in the record; the node
//! itself keeps its slot until they are gone.

use super::super::attempts::held_slots_max;
use super::super::cluster::Cluster;
use super::super::records::TaskPlace;
use super::{Before, ensure};
use lote_shared::model::NodeKey;
use std::collections::BTreeMap;

pub(super) fn check(_: &Before, cluster: &Cluster) -> Result<(), String> {
    let mut running: BTreeMap<NodeKey, u32> = BTreeMap::new();
    let mut held: BTreeMap<NodeKey, u32> = BTreeMap::new();
    for task in cluster.all_tasks() {
        let slots = u32::from(task.slots);
        match task.place {
            TaskPlace::Running { node } => {
                *running.entry(node).or_default() += slots;
                *held.entry(node).or_default() += slots;
            }
            TaskPlace::Assigned { node, .. } | TaskPlace::Preparing { node, .. } => {
                *held.entry(node).or_default() += slots
            }
            _ => {}
        }
    }
    for (key, slots) in held {
        let node = cluster.node(key).ok_or_else(|| format!("node {key} holds tasks and does not exist"))?;
        let runs = running.get(&key).copied().unwrap_or(0);
        ensure(runs <= u32::from(node.slots), || format!("node {key} runs {runs} of {} slots", node.slots))?;
        let most = held_slots_max(node.slots);
        ensure(slots <= most, || format!("node {key} holds {slots} slots, at most {most}"))?;
    }
    Ok(())
}
