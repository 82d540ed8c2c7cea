//! What the state keeps beside its records to find things fast: names, ready queues, counts, what each node holds.
//!
//! Every entry is a function of the records alone ([`Standing`] of a task, [`JobStanding`] of a job, …). A change of
//! a record compares its standing before and after and moves the entries that differ, so nothing here is stored and
//! [`super::Cluster::load`] rebuilds it by entering every record once.

use super::dependencies::Dependencies;
use super::extras::ScheduleExtras;
use super::records::{
    AccountRecord, ApplicationRecord, ChoreKind, Ending, HostRecord, JobRecord, NodeRecord, PoolRecord,
    TaskCounts,
};
use super::records::{ScheduleRecord, TaskPlace, TaskRecord};
use lote_shared::model::{
    ApplicationId, JobCold, JobExtra, JobId, JobKey, JobState, NodeKey, NodeState, PoolCold, PoolExtra,
    PoolId, PoolKey, ScheduleCold, ScheduleId, ScheduleKey, TaskId, TaskKey, TaskResult, Timestamp,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Something that is due at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Deadline {
    /// Propose `JobExpire`.
    JobWallClock(JobKey),
    /// Propose `JobCheckComplete`.
    JobEmptyGrace(JobKey),
    /// Propose `RetryDue`.
    Retry(TaskKey),
    /// Propose `ScheduleCheck`.
    Schedule(ScheduleKey),
}

#[derive(Debug)]
pub(super) struct Account {
    pub record: AccountRecord,
    pub pools: BTreeMap<PoolId, PoolKey>,
    pub pools_in_order: BTreeSet<PoolKey>,
    pub jobs: BTreeMap<JobId, JobKey>,
    pub schedules: BTreeMap<ScheduleId, ScheduleKey>,
    pub applications: BTreeMap<ApplicationId, ApplicationRecord>,
    /// Jobs and schedules that count for the quota; a job of a schedule goes with it.
    pub jobs_active: u32,
    /// What may start, by the name of the pool the jobs wait for; the pool need not exist.
    pub queues: BTreeMap<PoolId, Queue>,
}

impl Account {
    pub fn new(record: AccountRecord) -> Account {
        Account {
            record,
            pools: BTreeMap::new(),
            pools_in_order: BTreeSet::new(),
            jobs: BTreeMap::new(),
            schedules: BTreeMap::new(),
            applications: BTreeMap::new(),
            jobs_active: 0,
            queues: BTreeMap::new(),
        }
    }
}

/// Jobs of one pool that have a task which may start now, in both orders a pool can ask for.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub by_age: BTreeSet<(Reverse<i16>, JobKey)>,
    /// Fewest slots in use first, then who was served longest ago.
    pub by_use: BTreeSet<(Reverse<i16>, u64, u64, JobKey)>,
}

/// Where a job stands in its pool's queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QueueEntry {
    pub pool: PoolId,
    pub priority: i16,
    pub used_slots: u64,
    pub turn: u64,
}

#[derive(Debug)]
pub(super) struct Host {
    pub record: HostRecord,
    pub nodes: BTreeSet<NodeKey>,
}

/// How many nodes are in each state, in the order of [`NodeState::ALL`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeCounts {
    pub dedicated: [u32; NodeState::ALL.len()],
    pub low_priority: [u32; NodeState::ALL.len()],
}

impl NodeCounts {
    pub fn of(&self, dedicated: bool, state: NodeState) -> u32 {
        self.kind(dedicated)[state as usize]
    }

    pub fn total(&self, dedicated: bool) -> u32 {
        self.kind(dedicated).iter().sum()
    }

    fn kind(&self, dedicated: bool) -> &[u32; NodeState::ALL.len()] {
        if dedicated { &self.dedicated } else { &self.low_priority }
    }

    pub(super) fn shift(&mut self, dedicated: bool, state: NodeState, by: i32) {
        let kind = if dedicated { &mut self.dedicated } else { &mut self.low_priority };
        let count = &mut kind[state as usize];
        *count = count.saturating_add_signed(by);
    }
}

#[derive(Debug)]
pub(super) struct Pool {
    pub record: PoolRecord,
    pub cold: PoolCold,
    pub extras: Vec<PoolExtra>,
    pub nodes: BTreeSet<NodeKey>,
    pub by_name: BTreeMap<String, NodeKey>,
    /// The order of lists: by allocation, then id.
    pub in_order: BTreeMap<(Timestamp, String), NodeKey>,
    pub counts: NodeCounts,
    /// Nodes on their way out, by kind: dedicated, low priority.
    pub leaving: [u32; 2],
}

impl Pool {
    pub fn new(record: PoolRecord, cold: PoolCold, extras: Vec<PoolExtra>) -> Pool {
        Pool {
            record,
            cold,
            extras,
            nodes: BTreeSet::new(),
            by_name: BTreeMap::new(),
            in_order: BTreeMap::new(),
            counts: NodeCounts::default(),
            leaving: [0; 2],
        }
    }

    /// Nodes of a kind, those on their way out included.
    pub fn current(&self, dedicated: bool) -> u32 {
        self.counts.total(dedicated)
    }

    pub fn leaving(&self, dedicated: bool) -> u32 {
        self.leaving[usize::from(!dedicated)]
    }

    pub fn target(&self, dedicated: bool) -> u32 {
        if dedicated { self.record.target_dedicated } else { self.record.target_low_priority }
    }
}

#[derive(Debug)]
pub(super) struct Node {
    pub record: NodeRecord,
    pub held: BTreeSet<TaskKey>,
    pub load: NodeLoad,
    /// Preparations and releases that it runs or is to run.
    pub open_chores: BTreeSet<TaskKey>,
}

/// What a node carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeLoad {
    /// Tasks given to it that were not reported as started, and the slots they need.
    pub assigned: u32,
    pub assigned_slots: u32,
    pub running: u32,
    pub running_slots: u32,
    /// Attempts whose record is closed and whose end it has not confirmed.
    pub closing: u32,
}

impl NodeLoad {
    /// Slots given away, started or not.
    pub fn slots(&self) -> u32 {
        self.assigned_slots.saturating_add(self.running_slots)
    }

    /// Attempts that have a place there.
    pub fn tasks(&self) -> u32 {
        self.assigned.saturating_add(self.running)
    }
}

/// What the indexes know of a job's manager task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Manager {
    pub task: TaskKey,
    pub ready: bool,
    /// It has started once, or is completed.
    pub began: bool,
}

impl Manager {
    pub fn new(task: TaskKey) -> Manager {
        Manager { task, ready: false, began: false }
    }
}

/// What a task needs of the node it goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    pub slots: u16,
    /// No other task may be there, and none comes: it takes all slots.
    pub is_alone: bool,
    /// Not a node of low priority.
    pub dedicated: bool,
}

impl Needs {
    /// The slots it takes of a node that has so many.
    pub fn slots(self, of_node: u16) -> u16 {
        if self.is_alone { of_node } else { self.slots }
    }

    /// Whether a node of this kind, with this load, is for it, slots aside.
    pub fn allows(self, dedicated: bool, load: NodeLoad) -> bool {
        (dedicated || !self.dedicated) && (!self.is_alone || (load.tasks() == 0 && load.closing == 0))
    }
}

/// What a job has to give out.
#[derive(Debug, Clone, Copy)]
pub(super) enum Offered<'a> {
    Manager(TaskKey),
    Nothing,
    Tasks(&'a BTreeMap<u16, BTreeSet<TaskKey>>),
}

#[derive(Debug)]
pub(super) struct Job {
    pub record: JobRecord,
    pub cold: JobCold,
    pub extras: Vec<JobExtra>,
    pub tasks: BTreeMap<TaskId, TaskKey>,
    /// Its manager task, while that is there.
    pub manager: Option<Manager>,
    /// Tasks that may be given out, by the slots they need, each in the order of adding.
    pub ready: BTreeMap<u16, BTreeSet<TaskKey>>,
    /// Tasks with an attempt on some node: assigned, running, or closed and not confirmed.
    pub held: BTreeSet<TaskKey>,
    pub dependencies: Dependencies,
    /// Its preparations and releases.
    pub chores: BTreeMap<(ChoreKind, NodeKey), TaskKey>,
    pub open_chores: BTreeSet<TaskKey>,
    /// Nodes on which its release has to run.
    pub owed_releases: BTreeSet<NodeKey>,
    /// Tasks assigned or running, and their slots.
    pub live: u64,
    pub used_slots: u64,
    /// When it was last served. A hint for fairness among equals: not stored, zero after a load.
    pub turn: u64,
    /// Its entry in the queue of its pool.
    pub queued: Option<QueueEntry>,
}

impl Job {
    pub fn new(record: JobRecord, cold: JobCold, extras: Vec<JobExtra>) -> Job {
        Job {
            record,
            cold,
            extras,
            tasks: BTreeMap::new(),
            manager: None,
            ready: BTreeMap::new(),
            held: BTreeSet::new(),
            dependencies: Dependencies::default(),
            chores: BTreeMap::new(),
            open_chores: BTreeSet::new(),
            owed_releases: BTreeSet::new(),
            live: 0,
            used_slots: 0,
            turn: 0,
            queued: None,
        }
    }

    /// Whether one more task may be given out.
    pub fn below_parallel_limit(&self, more: u64) -> bool {
        u64::try_from(self.record.max_parallel_tasks).map_or(true, |max| self.live.saturating_add(more) < max)
    }

    /// Tasks that may be given out now, by the slots they need. While the manager waits for its place it has the first
    /// claim, and until it has started once it has the only one (`jobs-and-tasks.md` §7.1).
    pub fn offered(&self) -> Offered<'_> {
        match &self.manager {
            Some(manager) if manager.ready => Offered::Manager(manager.task),
            Some(manager) if !manager.began => Offered::Nothing,
            _ => Offered::Tasks(&self.ready),
        }
    }

    fn has_ready(&self) -> bool {
        match self.offered() {
            Offered::Manager(_) => true,
            Offered::Nothing => false,
            Offered::Tasks(ready) => !ready.is_empty(),
        }
    }

    /// What a task of this job needs of its node.
    pub fn needs(&self, task: &TaskRecord) -> Needs {
        let is_manager = self.manager.is_some_and(|manager| manager.task == task.key);
        let manager = JobExtra::manager(&self.extras).filter(|_| is_manager);
        match manager {
            None => Needs { slots: task.slots, is_alone: false, dedicated: false },
            Some(manager) => Needs {
                slots: manager.slots,
                is_alone: manager.run_exclusive,
                dedicated: !manager.allow_low_priority_node,
            },
        }
    }

    /// Whether this task may be given out as far as the manager is concerned.
    pub fn offers(&self, task: TaskKey) -> bool {
        match self.offered() {
            Offered::Manager(manager) => manager == task,
            Offered::Nothing => false,
            Offered::Tasks(_) => true,
        }
    }

    /// The entry it should have in the queue of its pool.
    pub fn queue_entry(&self) -> Option<QueueEntry> {
        let may_start =
            self.record.state == JobState::Active && self.has_ready() && self.below_parallel_limit(0);
        may_start.then(|| QueueEntry {
            pool: self.record.pool.clone(),
            priority: self.record.priority,
            used_slots: self.used_slots,
            turn: self.turn,
        })
    }
}

#[derive(Debug)]
pub(super) struct Schedule {
    pub record: ScheduleRecord,
    pub cold: ScheduleCold,
    pub extras: ScheduleExtras,
    /// The jobs it made that are still there.
    pub jobs: BTreeSet<JobKey>,
}

/// How a node holds an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    Assigned,
    Running,
    Closing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Active,
    Running,
    Succeeded,
    Failed,
}

/// Everything the indexes know of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    pub slots: u16,
    pub shown: Shown,
    pub ready: bool,
    /// Has started once, or is completed.
    pub began: bool,
    /// Waits for other tasks.
    pub dependent: bool,
    pub held: Option<(NodeKey, Hold)>,
    pub due: Option<Timestamp>,
}

impl Standing {
    pub fn of(task: &TaskRecord) -> Standing {
        let closing = task.ending == Some(Ending::Closed);
        let mut standing = Standing {
            slots: task.slots,
            shown: Shown::Active,
            ready: false,
            began: task.started.is_some(),
            dependent: task.place == TaskPlace::Dependent,
            held: task.last_node.filter(|_| closing).map(|node| (node, Hold::Closing)),
            due: None,
        };
        match task.place {
            TaskPlace::Ready => standing.ready = !closing,
            TaskPlace::Dependent => {}
            // What waits for ever is due never.
            TaskPlace::Waiting { until } => {
                standing.due = Some(until).filter(|until| *until < Timestamp::MAX)
            }
            TaskPlace::Assigned { node, .. } => standing.held = Some((node, Hold::Assigned)),
            TaskPlace::Preparing { node, .. } => {
                standing.shown = Shown::Running;
                standing.held = Some((node, Hold::Assigned));
            }
            TaskPlace::Running { node } => {
                standing.shown = Shown::Running;
                standing.held = Some((node, Hold::Running));
            }
            TaskPlace::Completed { result: TaskResult::Success } => standing.shown = Shown::Succeeded,
            TaskPlace::Completed { result: TaskResult::Failure } => standing.shown = Shown::Failed,
        }
        standing.began |= matches!(task.place, TaskPlace::Completed { .. });
        standing
    }
}

impl TaskCounts {
    pub(super) fn shift(&mut self, shown: Shown, slots: u16, enter: bool) {
        let (tasks, needs) = match shown {
            Shown::Active => (&mut self.active, &mut self.active_slots),
            Shown::Running => (&mut self.running, &mut self.running_slots),
            Shown::Succeeded => (&mut self.succeeded, &mut self.succeeded_slots),
            Shown::Failed => (&mut self.failed, &mut self.failed_slots),
        };
        if enter {
            *tasks += 1;
            *needs += u64::from(slots);
        } else {
            *tasks = tasks.saturating_sub(1);
            *needs = needs.saturating_sub(u64::from(slots));
        }
    }

    pub fn completed(&self) -> u64 {
        self.succeeded + self.failed
    }
}

impl Job {
    /// Adds or removes a task's part of the indexes of its job.
    fn shift(&mut self, key: TaskKey, standing: &Standing, enter: bool) {
        self.record.counts.shift(standing.shown, standing.slots, enter);
        if let Some(manager) = self.manager.as_mut().filter(|manager| manager.task == key) {
            if enter {
                let Standing { ready, began, .. } = *standing;
                *manager = Manager { task: key, ready, began };
            }
        } else if standing.ready {
            if enter {
                self.ready.entry(standing.slots).or_default().insert(key);
            } else if let Some(class) = self.ready.get_mut(&standing.slots) {
                class.remove(&key);
                if class.is_empty() {
                    self.ready.remove(&standing.slots);
                }
            }
        }
        let Some((_, hold)) = standing.held else { return };
        let slots = u64::from(standing.slots);
        if enter {
            self.held.insert(key);
        } else {
            self.held.remove(&key);
        }
        if hold != Hold::Closing {
            self.live = if enter { self.live + 1 } else { self.live.saturating_sub(1) };
            self.used_slots =
                if enter { self.used_slots + slots } else { self.used_slots.saturating_sub(slots) };
        }
    }
}

impl Node {
    pub fn new(record: NodeRecord) -> Node {
        Node { record, held: BTreeSet::new(), load: NodeLoad::default(), open_chores: BTreeSet::new() }
    }

    fn shift(&mut self, key: TaskKey, hold: Hold, slots: u16, enter: bool) {
        if enter {
            self.held.insert(key);
        } else {
            self.held.remove(&key);
        }
        let slots = u32::from(slots);
        let load = &mut self.load;
        let (tasks, needs) = match hold {
            Hold::Assigned => (&mut load.assigned, Some(&mut load.assigned_slots)),
            Hold::Running => (&mut load.running, Some(&mut load.running_slots)),
            Hold::Closing => (&mut load.closing, None),
        };
        *tasks = if enter { tasks.saturating_add(1) } else { tasks.saturating_sub(1) };
        if let Some(needs) = needs {
            *needs = if enter { needs.saturating_add(slots) } else { needs.saturating_sub(slots) };
        }
    }
}

impl super::Cluster {
    /// Moves a task's index entries from one standing to another; `None` = not there.
    pub(super) fn move_standing(
        &mut self,
        key: TaskKey,
        job: JobKey,
        before: Option<Standing>,
        after: Option<Standing>,
    ) {
        if before == after {
            return;
        }
        if let Some(job) = self.jobs.get_mut(&job) {
            if let Some(before) = &before {
                job.shift(key, before, false);
            }
            if let Some(after) = &after {
                job.shift(key, after, true);
            }
        }
        for (standing, enter) in [(before, false), (after, true)] {
            let Some(standing) = standing else { continue };
            if let Some((node, hold)) = standing.held
                && let Some(node) = self.nodes.get_mut(&node)
            {
                node.shift(key, hold, standing.slots, enter);
            }
            if let Some(due) = standing.due {
                if enter {
                    self.deadlines.insert((due, Deadline::Retry(key)));
                } else {
                    self.deadlines.remove(&(due, Deadline::Retry(key)));
                }
            }
        }
    }

    /// Brings a job's entry in the queue of its pool up to date.
    pub(super) fn requeue_job(&mut self, key: JobKey) {
        let Some(job) = self.jobs.get_mut(&key) else { return };
        let entry = job.queue_entry();
        if entry == job.queued {
            return;
        }
        let old = std::mem::replace(&mut job.queued, entry.clone());
        let Some(account) = self.accounts.get_mut(&job.record.account) else { return };
        account.leave_queue(key, old);
        if let Some(entry) = entry {
            let queue = account.queues.entry(entry.pool).or_default();
            queue.by_age.insert((Reverse(entry.priority), key));
            queue.by_use.insert((Reverse(entry.priority), entry.used_slots, entry.turn, key));
        }
    }
}

impl Account {
    pub fn leave_queue(&mut self, key: JobKey, entry: Option<QueueEntry>) {
        let Some(entry) = entry else { return };
        let Some(queue) = self.queues.get_mut(&entry.pool) else { return };
        queue.by_age.remove(&(Reverse(entry.priority), key));
        queue.by_use.remove(&(Reverse(entry.priority), entry.used_slots, entry.turn, key));
        if queue.by_age.is_empty() {
            self.queues.remove(&entry.pool);
        }
    }
}
