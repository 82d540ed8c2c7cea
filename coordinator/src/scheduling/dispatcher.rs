//! The dispatcher of one pool: which ready task goes to which node (`jobs-and-tasks.md` §7).
//!
//! It reads ready queues and node loads from the state, where every replica keeps them, and remembers only levels
//! (what each node asked for) and proposals in flight. Three facts keep a step as cheap as what it decides:
//!
//! * Nodes are looked at again only when told (an ask, a load that fell, an answer), and only those with room are kept,
//!   in order of free slots. Once a second all of them are looked at, should a hint have been lost.
//! * Jobs come from the state already in order; those with proposals in flight are merged in as they come.
//! * A job's tasks stand in classes by the slots they need. A class that fits on no node is left out as a whole, so
//!   wide tasks in front of a queue do not have to be skipped one by one.

mod choosy;
mod rebalance;

use crate::state::query::{ReadyJob, ReadyPool};
use crate::state::{Cluster, Needs, held_slots_max};
use lote_shared::model::{AttemptRef, FillType, JobKey, JobOrder, NodeKey, PoolKey, TaskKey, Timestamp};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, btree_set};
use std::iter::Peekable;

/// Tasks of one `Assign`.
pub const CHUNK_MAX: usize = 256;
/// Tasks that may be proposed and unanswered.
pub const IN_FLIGHT_MAX: usize = 4_096;
/// Attempts asked back in one step.
const RECALL_MAX: usize = 256;
const RESYNC_MS: u64 = 1_000;
/// Local turns sort behind every turn the state has given.
const LOCAL_TURN: u64 = 1 << 63;

/// What the shell is to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Propose `Assign`; answer with [`Dispatcher::on_assign_result`], whatever came of it.
    Assign { node: NodeKey, tasks: Vec<TaskKey> },
    /// Ask the node's host for attempts it has not started: to make room for tasks of higher priority, or because
    /// another node could start them now.
    Recall { node: NodeKey, attempts: Vec<AttemptRef> },
}

#[derive(Debug)]
struct Flight {
    node: NodeKey,
    job: JobKey,
    slots: u16,
}

/// A node that wants more.
#[derive(Debug, Clone, Copy)]
struct Room {
    /// Slots that neither a running nor a prefetched task has; negative while it prefetches.
    free: i64,
    /// Slots' worth it still asks for.
    wants: u32,
    slots: u16,
}

impl Room {
    fn takes(&self, needs: u16) -> bool {
        self.slots >= needs && self.wants >= u32::from(needs)
    }
}

#[derive(Debug)]
pub struct Dispatcher {
    pool: PoolKey,
    asks: BTreeMap<NodeKey, u32>,
    /// Nodes whose room must be looked at again.
    dirty: BTreeSet<NodeKey>,
    rooms: BTreeMap<NodeKey, Room>,
    /// The same nodes, most free slots first, then lowest key.
    by_free: BTreeSet<(Reverse<i64>, NodeKey)>,
    flights: BTreeMap<TaskKey, Flight>,
    slots_to_node: BTreeMap<NodeKey, u32>,
    /// Tasks and slots in flight.
    of_job: BTreeMap<JobKey, (u64, u64)>,
    resynced: Option<Timestamp>,
    turns: u64,
    /// Attempts asked back and not seen to be gone.
    recalls: BTreeSet<AttemptRef>,
    /// No prefetched task has a lower priority than this.
    lowest_given: i16,
    /// When nodes were last asked for what others could start.
    rebalanced: Option<Timestamp>,
    /// Tasks looked at, for tests of the cost.
    looked_at: u64,
}

/// Where a job stands in one step.
type JobPlace = (Reverse<i16>, u64, u64, JobKey);

/// A job's ready tasks during one step.
struct Walk<'a> {
    classes: Vec<(u16, Peekable<btree_set::Iter<'a, TaskKey>>)>,
    /// Its manager, if that comes before the others now.
    manager: Option<(TaskKey, Needs)>,
    /// Whether not every node will do.
    is_choosy: bool,
    /// Tasks it may still start.
    left: u64,
}

impl Dispatcher {
    pub fn new(pool: PoolKey) -> Dispatcher {
        Dispatcher {
            pool,
            asks: BTreeMap::new(),
            dirty: BTreeSet::new(),
            rooms: BTreeMap::new(),
            by_free: BTreeSet::new(),
            flights: BTreeMap::new(),
            slots_to_node: BTreeMap::new(),
            of_job: BTreeMap::new(),
            resynced: None,
            turns: LOCAL_TURN,
            recalls: BTreeSet::new(),
            lowest_given: i16::MIN,
            rebalanced: None,
            looked_at: 0,
        }
    }

    /// A node wants to hold so many slots' worth of tasks in all.
    pub fn on_ask(&mut self, node: NodeKey, slots: u32) {
        self.asks.insert(node, slots);
        self.dirty.insert(node);
    }

    /// A node's load fell or its state changed (`Event::NodeFreed`).
    pub fn on_node_changed(&mut self, node: NodeKey) {
        self.dirty.insert(node);
    }

    /// The session of a node's host broke, or the node is no more: nothing for it until it asks again.
    pub fn on_node_gone(&mut self, node: NodeKey) {
        self.asks.remove(&node);
        self.dirty.remove(&node);
        self.forget_room(node);
    }

    /// An `Assign` was answered or given up; what was taken shows in the state.
    pub fn on_assign_result(&mut self, node: NodeKey, tasks: &[TaskKey]) {
        for task in tasks {
            let Some(flight) = self.flights.remove(task) else { continue };
            if let Some(slots) = self.slots_to_node.get_mut(&flight.node) {
                *slots = slots.saturating_sub(u32::from(flight.slots));
                if *slots == 0 {
                    self.slots_to_node.remove(&flight.node);
                }
            }
            if let Some((count, slots)) = self.of_job.get_mut(&flight.job) {
                *count = count.saturating_sub(1);
                *slots = slots.saturating_sub(u64::from(flight.slots));
                if *count == 0 {
                    self.of_job.remove(&flight.job);
                }
            }
        }
        self.dirty.insert(node);
    }

    /// Tasks proposed and not answered.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// What each node asked for, for `lote inspect`.
    pub fn asks(&self) -> impl Iterator<Item = (NodeKey, u32)> {
        self.asks.iter().map(|(node, slots)| (*node, *slots))
    }

    /// Decides what to give out now.
    pub fn plan(&mut self, now: Timestamp, cluster: &Cluster) -> Vec<Decision> {
        let Some(view) = cluster.pool_ready(self.pool) else { return Vec::new() };
        if self.resynced.is_none_or(|at| now.since_ms(at) >= RESYNC_MS) {
            self.resynced = Some(now);
            self.dirty.extend(self.asks.keys().copied());
        }
        for node in std::mem::take(&mut self.dirty) {
            self.look_at_node(cluster, node);
        }
        let mut decisions = Vec::new();
        let waiting = match view.pool.job_order {
            _ if view.is_empty() => None,
            JobOrder::None => self.assign(cluster, &view, view.jobs_by_use(), true, &mut decisions),
            JobOrder::CreationTime => self.assign(cluster, &view, view.jobs_by_age(), false, &mut decisions),
        };
        if let Some((priority, slots)) = waiting {
            self.recall(cluster, priority, slots, &mut decisions);
        }
        if decisions.is_empty() && self.flights.is_empty() {
            self.rebalance(now, cluster, &mut decisions);
        }
        decisions
    }

    fn look_at_node(&mut self, cluster: &Cluster, key: NodeKey) {
        self.forget_room(key);
        let Some(asked) = self.asks.get(&key).copied() else { return };
        let Some(node) = cluster.node(key).filter(|node| node.pool == self.pool && cluster.node_accepts(key))
        else {
            return;
        };
        let in_flight = self.slots_to_node.get(&key).copied().unwrap_or(0);
        let held = cluster.node_load(key).slots().saturating_add(in_flight);
        let wants = asked.min(held_slots_max(node.slots)).saturating_sub(held);
        if wants > 0 {
            let free = i64::from(node.slots) - i64::from(held);
            self.keep_room(key, Room { free, wants, slots: node.slots });
        }
    }

    fn keep_room(&mut self, key: NodeKey, room: Room) {
        self.by_free.insert((Reverse(room.free), key));
        self.rooms.insert(key, room);
    }

    fn forget_room(&mut self, key: NodeKey) {
        if let Some(room) = self.rooms.remove(&key) {
            self.by_free.remove(&(Reverse(room.free), key));
        }
    }

    /// Gives out tasks in the order of `jobs` (which must be ascending in what `place` makes of them). Answers with
    /// the priority and slots of the first job that has tasks which found no room.
    fn assign<'a>(
        &mut self,
        cluster: &Cluster,
        view: &ReadyPool<'a>,
        jobs: impl Iterator<Item = ReadyJob>,
        by_use: bool,
        decisions: &mut Vec<Decision>,
    ) -> Option<(i16, u64)> {
        let mut jobs = jobs.peekable();
        let mut places: BTreeSet<JobPlace> = BTreeSet::new();
        let mut walks: BTreeMap<JobKey, Walk<'a>> = BTreeMap::new();
        let mut chunks: BTreeMap<NodeKey, Vec<TaskKey>> = BTreeMap::new();
        // The smallest number of slots that fits nowhere; nothing larger does either.
        let mut too_wide = u32::MAX;
        let mut waiting = None;
        while self.flights.len() < IN_FLIGHT_MAX {
            while let Some(next) = jobs.peek() {
                let place: JobPlace = (Reverse(next.priority), next.used_slots, next.turn, next.job);
                if places.first().is_some_and(|first| *first < place) {
                    break;
                }
                let (count, slots) = self.of_job.get(&next.job).copied().unwrap_or_default();
                let classes = view.tasks(next.job).map(|(slots, tasks)| (slots, tasks.iter().peekable()));
                let left = view.parallel_left(next.job).saturating_sub(count);
                let manager = view.manager(next.job);
                let is_choosy = manager.is_some() || view.prepares(next.job);
                walks.insert(next.job, Walk { classes: classes.collect(), manager, is_choosy, left });
                let used = if by_use { next.used_slots.saturating_add(slots) } else { 0 };
                places.insert((place.0, used, place.2, next.job));
                jobs.next();
            }
            let Some((priority, used, _, job)) = places.pop_first() else { break };
            let Some(walk) = walks.get_mut(&job) else { continue };
            let Some((task, slots)) = self.next_task(walk, too_wide) else {
                if waiting.is_none() && walk.left > 0 && self.lowest_given < priority.0 {
                    waiting = self.slots_wanted(walk).map(|slots| (priority.0, slots));
                }
                walks.remove(&job);
                if too_wide <= 1 {
                    break;
                }
                continue;
            };
            let wish = cluster.task(task).and_then(|task| task.wish());
            let (is_choosy, needs) = (walk.is_choosy, walk.needs(slots));
            let node = match is_choosy {
                true => self.find_node_for(cluster, view, job, needs, wish),
                false => self.find_node(view.pool.fill_type, slots, wish),
            };
            let Some(node) = node else {
                if is_choosy {
                    // What it does not find others may.
                    walks.remove(&job);
                    continue;
                }
                too_wide = too_wide.min(u32::from(slots));
                places.insert((priority, used, 0, job));
                continue;
            };
            walk.take(slots);
            let slots = self.rooms.get(&node).map_or(slots, |room| needs.slots(room.slots));
            self.take(task, job, node, slots, priority.0);
            let chunk = chunks.entry(node).or_default();
            chunk.push(task);
            if chunk.len() >= CHUNK_MAX {
                decisions.push(Decision::Assign { node, tasks: std::mem::take(chunk) });
            }
            self.turns = self.turns.wrapping_add(1).max(LOCAL_TURN);
            let used = if by_use { used.saturating_add(u64::from(slots)) } else { 0 };
            places.insert((priority, used, if by_use { self.turns } else { 0 }, job));
        }
        let rest = chunks.into_iter().filter(|(_, tasks)| !tasks.is_empty());
        decisions.extend(rest.map(|(node, tasks)| Decision::Assign { node, tasks }));
        waiting
    }

    /// The job's oldest task that is not in flight and narrow enough.
    fn next_task(&mut self, walk: &mut Walk, too_wide: u32) -> Option<(TaskKey, u16)> {
        if walk.left == 0 {
            return None;
        }
        if let Some((task, needs)) = walk.manager {
            return Some((task, needs.slots)).filter(|_| !self.flights.contains_key(&task));
        }
        let mut best: Option<(TaskKey, u16)> = None;
        for (slots, tasks) in &mut walk.classes {
            if u32::from(*slots) >= too_wide {
                continue;
            }
            while tasks.next_if(|task| self.flights.contains_key(task)).is_some() {
                self.looked_at += 1;
            }
            self.looked_at += 1;
            if let Some(task) = tasks.peek()
                && best.is_none_or(|(oldest, _)| **task < oldest)
            {
                best = Some((**task, *slots));
            }
        }
        best
    }

    /// Slots of a job's tasks that wait; at most what one recall can free matters.
    fn slots_wanted(&self, walk: &Walk) -> Option<u64> {
        let mut wanted = 0_u64;
        for (slots, tasks) in &walk.classes {
            let waiting =
                tasks.clone().filter(|task| !self.flights.contains_key(task)).take(RECALL_MAX).count();
            wanted = wanted.saturating_add(u64::from(*slots) * waiting as u64);
        }
        (wanted > 0).then_some(wanted)
    }

    /// The node a task goes to: the wished one if it has free slots, else by fill type; prefetching only where no node
    /// has free slots.
    fn find_node(&self, fill: FillType, needs: u16, wish: Option<NodeKey>) -> Option<NodeKey> {
        let free = |room: &Room| room.free >= i64::from(needs) && room.takes(needs);
        let wished = wish.and_then(|node| Some((node, self.rooms.get(&node)?)));
        if let Some((node, room)) = wished
            && free(room)
        {
            return Some(node);
        }
        let takes =
            |place: &&(Reverse<i64>, NodeKey)| self.rooms.get(&place.1).is_some_and(|room| room.takes(needs));
        if fill == FillType::Pack {
            let enough = (Reverse(i64::from(needs)), NodeKey(u32::MAX));
            if let Some((fullest, _)) = self.by_free.range(..=enough).rev().find(takes) {
                let alike = (*fullest, NodeKey(0))..=(*fullest, NodeKey(u32::MAX));
                return self.by_free.range(alike).find(takes).map(|place| place.1);
            }
        }
        let best = self.by_free.iter().find(takes)?.1;
        // Nobody has free slots: then the wish may as well queue where it belongs.
        let queued = self.rooms.get(&best).is_some_and(|room| room.free < i64::from(needs));
        match wished {
            Some((node, room)) if queued && room.takes(needs) => Some(node),
            _ => Some(best),
        }
    }

    fn take(&mut self, task: TaskKey, job: JobKey, node: NodeKey, slots: u16, priority: i16) {
        if let Some(mut room) = self.rooms.get(&node).copied() {
            self.forget_room(node);
            room.free -= i64::from(slots);
            room.wants = room.wants.saturating_sub(u32::from(slots));
            if room.wants > 0 {
                self.keep_room(node, room);
            }
        }
        *self.slots_to_node.entry(node).or_default() += u32::from(slots);
        let of_job = self.of_job.entry(job).or_default();
        *of_job = (of_job.0 + 1, of_job.1 + u64::from(slots));
        self.flights.insert(task, Flight { node, job, slots });
        self.lowest_given = self.lowest_given.min(priority);
    }

    /// Asks back prefetched tasks of lower priority, youngest first, to make that much room.
    fn recall(&mut self, cluster: &Cluster, priority: i16, slots: u64, decisions: &mut Vec<Decision>) {
        if self.lowest_given >= priority {
            return;
        }
        let mut lowest = i16::MAX;
        let mut still_out = BTreeSet::new();
        let mut wanted = slots;
        let mut count = 0;
        for node in self.asks.keys() {
            let mut attempts = Vec::new();
            let prefetched = cluster.attempts_on(*node).filter(|held| !held.started && held.ending.is_none());
            for held in prefetched.collect::<Vec<_>>().into_iter().rev() {
                let job = cluster.task(held.attempt.task).and_then(|task| cluster.job(task.job));
                let Some(job) = job.filter(|job| job.priority < priority) else { continue };
                if self.recalls.contains(&held.attempt) {
                    still_out.insert(held.attempt);
                    wanted = wanted.saturating_sub(u64::from(held.slots));
                } else if wanted > 0 && count < RECALL_MAX {
                    wanted = wanted.saturating_sub(u64::from(held.slots));
                    count += 1;
                    still_out.insert(held.attempt);
                    attempts.push(held.attempt);
                } else {
                    lowest = lowest.min(job.priority);
                }
            }
            if !attempts.is_empty() {
                decisions.push(Decision::Recall { node: *node, attempts });
            }
        }
        self.recalls = still_out;
        // Proposals in flight are not on their nodes yet; they are looked at by the next step.
        let flying =
            self.flights.values().filter_map(|flight| cluster.job(flight.job)).map(|job| job.priority);
        self.lowest_given = flying.min().unwrap_or(i16::MAX).min(lowest);
    }
}

impl Walk<'_> {
    fn needs(&self, slots: u16) -> Needs {
        let task = Needs { slots, is_alone: false, dedicated: false };
        self.manager.map_or(task, |(_, needs)| needs)
    }

    /// Removes the head of a class, or the manager.
    fn take(&mut self, slots: u16) {
        if self.manager.take().is_some() {
            self.left = 0;
            return;
        }
        if let Some((_, tasks)) = self.classes.iter_mut().find(|(class, _)| *class == slots) {
            tasks.next();
        }
        self.left = self.left.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests;
