//! Asking tasks back from nodes that hold more than they can run, while others have free slots.
//!
//! A node's prefetch follows the tasks it saw. One that saw very short ones asks for many, and may then hold long ones
//! that idle nodes could run. So when nothing is left to give out, attempts beyond a node's slots go back, youngest
//! first, as far as others have room.
//!
//! This cannot go to and fro: a node keeps as many slots' worth as it has slots, so it has none free when the task is
//! given out again, and free slots go first; whoever takes it has the slots to start it. And only what waited for
//! [`REBALANCE_MS`] at its node is asked back, so a task moves at most once in that time, and short tasks, of which a
//! node rightly holds many, are left alone.

use super::{Decision, Dispatcher, RECALL_MAX, Room};
use crate::state::{Cluster, TaskPlace};
use lote_shared::model::{AttemptRef, NodeKey, Timestamp};
use std::collections::BTreeMap;

/// How long an attempt must have waited at its node, and how far apart two looks are.
pub(super) const REBALANCE_MS: u64 = 1_000;

/// Slots that could start something now, by node.
struct Free(BTreeMap<NodeKey, u32>);

impl Free {
    /// What a node can start of what it wants.
    fn of(room: &Room) -> u32 {
        u32::try_from(room.free).unwrap_or(0).min(room.wants)
    }

    /// Takes slots of one node, the one with the most free; whether there was one.
    fn take(&mut self, slots: u16) -> bool {
        let best = self.0.iter_mut().max_by_key(|(_, free)| **free);
        let Some((_, free)) = best.filter(|(_, free)| **free >= u32::from(slots)) else { return false };
        *free -= u32::from(slots);
        true
    }
}

impl Dispatcher {
    /// To be asked when nothing was given out and nothing is in flight.
    pub(super) fn rebalance(&mut self, now: Timestamp, cluster: &Cluster, decisions: &mut Vec<Decision>) {
        if self.rebalanced.is_some_and(|at| now.since_ms(at) < REBALANCE_MS) {
            return;
        }
        let free = self.rooms.iter().map(|(node, room)| (*node, Free::of(room)));
        let mut free = Free(free.filter(|(_, free)| *free > 0).collect());
        if free.0.is_empty() {
            return;
        }
        self.rebalanced = Some(now);
        let mut left = RECALL_MAX;
        for node in self.asks.keys().copied() {
            let attempts = beyond_its_slots(now, cluster, node, left, &mut free);
            left -= attempts.len();
            if !attempts.is_empty() {
                decisions.push(Decision::Recall { node, attempts });
            }
        }
    }
}

/// Attempts that a node cannot start now and that waited long enough, youngest first, as far as `free` has room.
fn beyond_its_slots(
    now: Timestamp,
    cluster: &Cluster,
    key: NodeKey,
    count_max: usize,
    free: &mut Free,
) -> Vec<AttemptRef> {
    let mut attempts = Vec::new();
    let Some(node) = cluster.node(key) else { return attempts };
    let mut beyond = cluster.node_load(key).slots().saturating_sub(u32::from(node.slots));
    if beyond == 0 {
        return attempts;
    }
    let waiting = cluster.attempts_on(key).filter(|held| !held.started && held.ending.is_none());
    let waiting = waiting.filter(|held| {
        let place = cluster.task(held.attempt.task).map(|task| task.place);
        matches!(place, Some(TaskPlace::Assigned { at, .. }) if now.since_ms(at) >= REBALANCE_MS)
    });
    for held in waiting.collect::<Vec<_>>().into_iter().rev() {
        if attempts.len() >= count_max || beyond < u32::from(held.slots) {
            break;
        }
        if !free.take(held.slots) {
            continue; // A narrower one may fit.
        }
        beyond -= u32::from(held.slots);
        attempts.push(held.attempt);
    }
    attempts
}
