//! What others may ask of the state: the API for its answers, the shells for what to do next.
//!
//! Iterations take a position to go on after and cost what they yield, so a page of a list is cheap wherever it
//! lies. Nothing here changes anything.

use super::chores::Readiness;
use super::cluster::{Cluster, DepartedNode};
use super::command::CursorKey;
use super::dependencies::Dependency;
use super::index::{Deadline, Job, Needs, NodeCounts, NodeLoad, Offered};
use super::records::{
    AccountRecord, ChorePlace, Ending, HostRecord, JobRecord, NodeRecord, PoolRecord, ScheduleRecord,
    TaskPlace, TaskRecord,
};
use lote_shared::model::{
    AccountId, AllocationState, AttemptRef, HostKey, JobCold, JobExtra, JobId, JobKey, JobState, NodeKey,
    PoolCold, PoolId, PoolKey, PoolState, ScheduleCold, ScheduleId, ScheduleKey, TaskId, TaskKey, TaskState,
    TaskTies, Timestamp,
};
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

fn after<K>(position: Option<K>) -> (Bound<K>, Bound<K>) {
    (position.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
}

/// An attempt that a node holds, as the state sees it. After a reconnect the leader compares these with the host's
/// inventory:
///
/// | here | inventory has it | it has not |
/// |---|---|---|
/// | `ending` is `Requeue`, `Recover`, `Closed` | send `Kill` again | propose a report that it was killed |
/// | `ending` is `Recall` | send `Recall` again | propose `Recalled` |
/// | not started | nothing | send its chunk again |
/// | started | nothing | propose a report that it was lost |
///
/// An attempt in the inventory that is not here is to be ended as fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldAttempt {
    pub attempt: AttemptRef,
    pub slots: u16,
    pub started: bool,
    pub ending: Option<Ending>,
}

/// Why an active task does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitReason {
    JobNotActive {
        state: JobState,
    },
    /// Its retry is due then.
    Backoff {
        until: Timestamp,
    },
    /// It depends on another task, of which this is known.
    Dependency {
        on: Dependency,
        state: Option<TaskState>,
    },
    /// Older than a task may be to start.
    TooOld,
    /// Its node has not confirmed that the run before has ended.
    PreviousRunEnding {
        node: NodeKey,
    },
    ParallelLimit {
        limit: i32,
    },
    /// A node has it and will start it.
    Assigned {
        node: NodeKey,
    },
    NoPool {
        pool: PoolId,
    },
    PoolDeleting,
    /// None of the pool's nodes takes tasks now.
    NoReadyNode {
        nodes: u32,
        /// How many the pool is being resized to, while it is.
        resizing_to: Option<u32>,
    },
    /// No node of the pool has that many slots.
    TooLarge {
        needs: u16,
        largest: u16,
    },
    NoFreeSlots {
        needs: u16,
        free: u32,
    },
    /// Its job's manager comes first.
    Manager,
    /// The preparation of its job runs there.
    Preparing {
        node: NodeKey,
    },
    /// The preparation of its job failed on every node that could take it.
    PreparationFailed {
        nodes: u32,
    },
    /// It is a manager that runs alone, or not on nodes of low priority, and there is no such node.
    NoNodeForManager,
    /// It will be given out next.
    Dispatching,
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitReason::JobNotActive { state } => write!(f, "its job is {}", state.as_str()),
            WaitReason::Backoff { until } => write!(f, "its retry is due at {until}"),
            WaitReason::Dependency { on, state: None } => write!(f, "it depends on {on}, which is not there"),
            WaitReason::Dependency { on, state: Some(TaskState::Completed) } => {
                write!(f, "it depends on {on}, whose end does not satisfy what depends on it")
            }
            WaitReason::Dependency { on, state: Some(state) } => {
                write!(f, "it depends on {on}, which is {}", state.as_str())
            }
            WaitReason::TooOld => f.write_str("it was added more than 180 days ago"),
            WaitReason::PreviousRunEnding { node } => {
                write!(f, "node {node} has not confirmed that its previous run has ended")
            }
            WaitReason::ParallelLimit { limit } => {
                write!(f, "its job runs maxParallelTasks = {limit} already")
            }
            WaitReason::Assigned { node } => write!(f, "node {node} has it and will start it"),
            WaitReason::NoPool { pool } => write!(f, "there is no pool `{pool}`"),
            WaitReason::NoReadyNode { nodes: 0, resizing_to: None } => f.write_str("its pool has no nodes"),
            WaitReason::NoReadyNode { nodes, resizing_to: None } => {
                write!(f, "none of the {nodes} nodes of its pool takes tasks")
            }
            WaitReason::NoReadyNode { nodes, resizing_to: Some(target) } => {
                write!(
                    f,
                    "none of the {nodes} nodes of its pool takes tasks; it is being resized to {target}"
                )
            }
            WaitReason::PoolDeleting => f.write_str("its pool is being deleted"),
            WaitReason::TooLarge { needs, largest } => {
                write!(f, "needs {needs} slots, the largest node has {largest}")
            }
            WaitReason::NoFreeSlots { needs, free } => {
                write!(f, "needs {needs} slots, largest free node has {free}")
            }
            WaitReason::Manager => {
                f.write_str("its job's manager task has not started, or waits to start again")
            }
            WaitReason::Preparing { node } => {
                write!(f, "node {node} has it and runs its job's preparation task first")
            }
            WaitReason::PreparationFailed { nodes } => {
                write!(f, "its job's preparation task failed on all {nodes} nodes that could take it")
            }
            WaitReason::NoNodeForManager => f.write_str(
                "it is a manager task, and no node is free of other tasks and of the kind it may use",
            ),
            WaitReason::Dispatching => f.write_str("it is about to be given to a node"),
        }
    }
}

/// Accounts, pools, nodes, hosts.
impl Cluster {
    /// The latest time that was applied.
    pub fn clock(&self) -> Timestamp {
        self.meta.clock
    }

    /// Commands whose answers are remembered.
    pub fn answers_remembered(&self) -> usize {
        self.answers.len()
    }

    pub fn account(&self, id: AccountId) -> Option<&AccountRecord> {
        self.accounts.get(&id).map(|account| &account.record)
    }

    pub fn account_by_name(&self, name: &str) -> Option<(AccountId, &AccountRecord)> {
        let (id, account) = self.accounts.iter().find(|(_, account)| account.record.name == name)?;
        Some((*id, &account.record))
    }

    pub fn accounts(&self) -> impl Iterator<Item = (AccountId, &AccountRecord)> {
        self.accounts.iter().map(|(id, account)| (*id, &account.record))
    }

    pub fn pool(&self, key: PoolKey) -> Option<&PoolRecord> {
        self.pools.get(&key).map(|pool| &pool.record)
    }

    /// By name, without regard to case.
    pub fn pool_by_id(&self, account: AccountId, id: &PoolId) -> Option<&PoolRecord> {
        self.pool(*self.accounts.get(&account)?.pools.get(id)?)
    }

    /// What reads of the pool echo, and its start task.
    pub fn pool_cold(&self, key: PoolKey) -> Option<&PoolCold> {
        self.pools.get(&key).map(|pool| &pool.cold)
    }

    /// Pools of an account in the order of creation.
    pub fn pools(
        &self,
        account: AccountId,
        position: Option<PoolKey>,
    ) -> impl Iterator<Item = &PoolRecord> + use<'_> {
        let order = self.accounts.get(&account).map(|account| account.pools_in_order.range(after(position)));
        order.into_iter().flatten().filter_map(|key| self.pool(*key))
    }

    /// Pools of all accounts.
    pub fn all_pools(&self) -> impl Iterator<Item = &PoolRecord> {
        self.pools.values().map(|pool| &pool.record)
    }

    /// Nodes of a pool by kind and state; those on their way out included.
    pub fn node_counts(&self, pool: PoolKey) -> NodeCounts {
        self.pools.get(&pool).map(|pool| pool.counts).unwrap_or_default()
    }

    /// Nodes of a kind that leave, whatever state they show.
    pub fn nodes_leaving(&self, pool: PoolKey, dedicated: bool) -> u32 {
        self.pools.get(&pool).map_or(0, |pool| pool.leaving(dedicated))
    }

    pub fn node(&self, key: NodeKey) -> Option<&NodeRecord> {
        self.nodes.get(&key).map(|node| &node.record)
    }

    pub fn node_by_id(&self, pool: PoolKey, id: &str) -> Option<&NodeRecord> {
        self.node(*self.pools.get(&pool)?.by_name.get(id)?)
    }

    /// Nodes of a pool by allocation time, then id; the position is the last node's time and id.
    pub fn nodes_of(
        &self,
        pool: PoolKey,
        position: Option<(Timestamp, String)>,
    ) -> impl Iterator<Item = &NodeRecord> + use<'_> {
        let order = self.pools.get(&pool).map(|pool| pool.in_order.range(after(position)));
        order.into_iter().flatten().filter_map(|(_, key)| self.node(*key))
    }

    /// Nodes of all pools.
    pub fn all_nodes(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.values().map(|node| &node.record)
    }

    /// The name of a node that went, while it is remembered.
    pub fn departed_node(&self, key: NodeKey) -> Option<&DepartedNode> {
        self.departed.get(&key)
    }

    /// What a node carries now.
    pub fn node_load(&self, key: NodeKey) -> NodeLoad {
        self.nodes.get(&key).map(|node| node.load).unwrap_or_default()
    }

    /// Whether new tasks may be given to a node.
    pub fn node_accepts(&self, key: NodeKey) -> bool {
        self.nodes.get(&key).is_some_and(|node| self.accepts(node))
    }

    /// Whether the host is to be told to give this node up.
    pub fn node_wants_revoke(&self, key: NodeKey) -> bool {
        self.nodes.get(&key).is_some_and(|node| super::nodes::wants_revoke(&node.record, node.load))
    }

    /// Attempts a node holds, preparations and releases among them; the leader's session compares them with the host's inventory.
    pub fn attempts_on(&self, node: NodeKey) -> impl Iterator<Item = HeldAttempt> + use<'_> {
        let node = self.nodes.get(&node);
        let tasks = node.map(|node| node.held.iter()).into_iter().flatten().filter_map(|key| {
            let task = self.tasks.get(*key)?;
            let started = match task.place {
                TaskPlace::Preparing { launched: false, .. } => return None,
                TaskPlace::Preparing { .. } | TaskPlace::Assigned { .. } => false,
                _ => true,
            };
            Some(HeldAttempt { attempt: task.attempt_ref(), slots: task.slots, started, ending: task.ending })
        });
        let chores = node.map(|node| node.open_chores.iter()).into_iter().flatten().filter_map(|key| {
            let chore = self.chores.get(key).filter(|chore| chore.is_out())?;
            let started = chore.place == ChorePlace::Running;
            Some(HeldAttempt { attempt: chore.attempt_ref(), slots: 0, started, ending: None })
        });
        tasks.chain(chores)
    }

    pub fn host(&self, key: HostKey) -> Option<&HostRecord> {
        self.hosts.get(&key).map(|host| &host.record)
    }

    pub fn host_by_peer(&self, peer: &str) -> Option<&HostRecord> {
        self.host(*self.peers.get(peer)?)
    }

    pub fn hosts(&self) -> impl Iterator<Item = &HostRecord> {
        self.hosts.values().map(|host| &host.record)
    }

    pub fn nodes_on_host(&self, host: HostKey) -> impl Iterator<Item = &NodeRecord> + use<'_> {
        let nodes = self.hosts.get(&host).map(|host| host.nodes.iter());
        nodes.into_iter().flatten().filter_map(|key| self.node(*key))
    }
}

/// Jobs and tasks.
impl Cluster {
    pub fn job(&self, key: JobKey) -> Option<&JobRecord> {
        self.jobs.get(&key).map(|job| &job.record)
    }

    /// By name, without regard to case.
    pub fn job_by_id(&self, account: AccountId, id: &JobId) -> Option<&JobRecord> {
        self.job(*self.accounts.get(&account)?.jobs.get(id)?)
    }

    /// What reads of the job echo, and its common environment.
    pub fn job_cold(&self, key: JobKey) -> Option<&JobCold> {
        self.jobs.get(&key).map(|job| &job.cold)
    }

    /// Jobs of an account by id.
    pub fn jobs<'a>(
        &'a self,
        account: AccountId,
        position: Option<&'a JobId>,
    ) -> impl Iterator<Item = &'a JobRecord> {
        let order =
            self.accounts.get(&account).map(|account| account.jobs.range::<JobId, _>(after(position)));
        order.into_iter().flatten().filter_map(|(_, key)| self.job(*key))
    }

    /// Jobs of all accounts.
    pub fn all_jobs(&self) -> impl Iterator<Item = &JobRecord> {
        self.jobs.values().map(|job| &job.record)
    }

    pub fn schedule(&self, key: ScheduleKey) -> Option<(&ScheduleRecord, &ScheduleCold)> {
        self.schedules.get(&key).map(|schedule| (&schedule.record, &schedule.cold))
    }

    /// By name, without regard to case.
    pub fn schedule_by_id(&self, account: AccountId, id: &ScheduleId) -> Option<ScheduleKey> {
        self.accounts.get(&account)?.schedules.get(id).copied()
    }

    /// Schedules of an account by id.
    pub fn schedules<'a>(
        &'a self,
        account: AccountId,
        position: Option<&'a ScheduleId>,
    ) -> impl Iterator<Item = &'a ScheduleRecord> {
        let order = self
            .accounts
            .get(&account)
            .map(|account| account.schedules.range::<ScheduleId, _>(after(position)));
        order.into_iter().flatten().filter_map(|(_, key)| Some(self.schedule(*key)?.0))
    }

    /// The jobs that a schedule made, in the order of making.
    pub fn jobs_of_schedule(
        &self,
        schedule: ScheduleKey,
        position: Option<JobKey>,
    ) -> impl Iterator<Item = &JobRecord> + use<'_> {
        let order = self.schedules.get(&schedule).map(|schedule| schedule.jobs.range(after(position)));
        order.into_iter().flatten().filter_map(|key| self.job(*key))
    }

    pub fn task(&self, key: TaskKey) -> Option<&TaskRecord> {
        self.tasks.get(key)
    }

    /// By name, without regard to case.
    pub fn task_by_id(&self, job: JobKey, id: &TaskId) -> Option<&TaskRecord> {
        self.task(*self.jobs.get(&job)?.tasks.get(id)?)
    }

    /// Tasks of a job by id.
    pub fn tasks_of<'a>(
        &'a self,
        job: JobKey,
        position: Option<&'a TaskId>,
    ) -> impl Iterator<Item = &'a TaskRecord> {
        let order = self.jobs.get(&job).map(|job| job.tasks.range::<TaskId, _>(after(position)));
        order.into_iter().flatten().filter_map(|(_, key)| self.task(*key))
    }

    /// Tasks of a job, whatever their state.
    pub fn task_count(&self, job: JobKey) -> usize {
        self.jobs.get(&job).map_or(0, |job| job.tasks.len())
    }

    /// All tasks of all jobs, in the order of adding.
    pub fn all_tasks(&self) -> impl Iterator<Item = &TaskRecord> {
        self.tasks.iter()
    }

    /// How many there are.
    pub fn all_tasks_count(&self) -> usize {
        self.tasks.len()
    }

    /// Why an active task does not run; `None` if it is not active.
    pub fn explain_task(&self, key: TaskKey) -> Option<WaitReason> {
        let task = self.tasks.get(key)?;
        let job = self.jobs.get(&task.job)?;
        match task.place {
            TaskPlace::Running { .. } | TaskPlace::Completed { .. } => return None,
            TaskPlace::Assigned { node, .. } | TaskPlace::Preparing { node, launched: true, .. } => {
                return Some(WaitReason::Assigned { node });
            }
            TaskPlace::Preparing { node, .. } => return Some(WaitReason::Preparing { node }),
            TaskPlace::Waiting { until: Timestamp::MAX } => return Some(WaitReason::TooOld),
            _ if job.record.state != JobState::Active => {
                return Some(WaitReason::JobNotActive { state: job.record.state });
            }
            TaskPlace::Waiting { until } => return Some(WaitReason::Backoff { until }),
            TaskPlace::Dependent => return self.explain_dependency(job, key),
            TaskPlace::Ready => {}
        }
        if let Some(node) = task.held_by() {
            return Some(WaitReason::PreviousRunEnding { node });
        }
        if !job.below_parallel_limit(0) {
            return Some(WaitReason::ParallelLimit { limit: job.record.max_parallel_tasks });
        }
        if !job.offers(key) {
            return Some(WaitReason::Manager);
        }
        Some(self.explain_place(job, job.needs(task)))
    }

    fn explain_dependency(&self, job: &Job, task: TaskKey) -> Option<WaitReason> {
        let on = job.dependencies.watched(task)?.clone();
        let id = match &on {
            Dependency::Id(id) => Some(id.clone()),
            Dependency::Number(number) => TaskId::new(&number.to_string()).ok(),
        };
        let other = id.and_then(|id| job.tasks.get(&id)).and_then(|key| self.task(*key));
        Some(WaitReason::Dependency { on, state: other.map(TaskRecord::state) })
    }

    /// What a task is tied to, if to anything.
    pub fn task_ties(&self, task: &TaskRecord) -> Option<&Arc<TaskTies>> {
        self.jobs.get(&task.job)?.dependencies.ties(task.key)
    }

    fn explain_place(&self, job: &Job, wants: Needs) -> WaitReason {
        let needs = wants.slots;
        let pool =
            self.accounts.get(&job.record.account).and_then(|account| account.pools.get(&job.record.pool));
        let Some(pool) = pool.and_then(|key| self.pools.get(key)) else {
            return WaitReason::NoPool { pool: job.record.pool.clone() };
        };
        let accepting =
            || pool.nodes.iter().filter_map(|key| self.nodes.get(key)).filter(|n| self.accepts(n));
        let Some(largest) = accepting().map(|node| node.record.slots).max() else {
            if pool.record.state == PoolState::Deleting {
                return WaitReason::PoolDeleting;
            }
            let resizing = pool.record.allocation == AllocationState::Resizing;
            let target = pool.record.target_dedicated.saturating_add(pool.record.target_low_priority);
            return WaitReason::NoReadyNode {
                nodes: u32::try_from(pool.nodes.len()).unwrap_or(u32::MAX),
                resizing_to: resizing.then_some(target),
            };
        };
        if largest < needs {
            return WaitReason::TooLarge { needs, largest };
        }
        let mut unbarred = accepting().filter(|node| self.readiness(job, node) != Readiness::Barred);
        if unbarred.next().is_none() {
            let nodes = u32::try_from(accepting().count()).unwrap_or(u32::MAX);
            return WaitReason::PreparationFailed { nodes };
        }
        if !accepting().any(|node| wants.allows(node.record.dedicated, node.load)) {
            return WaitReason::NoNodeForManager;
        }
        let free =
            accepting().map(|node| u32::from(node.record.slots).saturating_sub(node.load.slots())).max();
        match free.unwrap_or(0) {
            free if free < u32::from(needs) => WaitReason::NoFreeSlots { needs, free },
            _ => WaitReason::Dispatching,
        }
    }
}

/// What is due.
impl Cluster {
    /// Cursors that want `Continue`.
    pub fn cursors(&self) -> impl Iterator<Item = CursorKey> {
        self.cursors.keys().copied()
    }

    /// Everything that is due at some time, soonest first.
    pub fn deadlines(&self) -> impl Iterator<Item = (Timestamp, Deadline)> {
        self.deadlines.iter().copied()
    }

    /// What may start in a pool: the dispatcher's view.
    pub fn pool_ready(&self, pool: PoolKey) -> Option<ReadyPool<'_>> {
        let pool = &self.pools.get(&pool)?.record;
        Some(ReadyPool { cluster: self, pool })
    }
}

/// A job that has tasks which may start, in a dispatcher's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadyJob {
    pub job: JobKey,
    pub priority: i16,
    /// Slots of its tasks that are assigned or running.
    pub used_slots: u64,
    /// Rises with every task given out in the cluster; smaller = served longer ago.
    pub turn: u64,
}

/// The dispatcher's view of its pool.
#[derive(Debug, Clone, Copy)]
pub struct ReadyPool<'a> {
    cluster: &'a Cluster,
    pub pool: &'a PoolRecord,
}

impl<'a> ReadyPool<'a> {
    fn queue(&self) -> Option<&'a super::index::Queue> {
        self.cluster.accounts.get(&self.pool.account)?.queues.get(&self.pool.id)
    }

    /// Whether nothing can start.
    pub fn is_empty(&self) -> bool {
        self.queue().is_none()
    }

    /// Jobs by priority, then fewest slots in use, then served longest ago.
    pub fn jobs_by_use(&self) -> impl Iterator<Item = ReadyJob> + use<'a> {
        let jobs = self.queue().map(|queue| queue.by_use.iter());
        jobs.into_iter().flatten().map(|(priority, used_slots, turn, job)| ReadyJob {
            job: *job,
            priority: priority.0,
            used_slots: *used_slots,
            turn: *turn,
        })
    }

    /// Jobs by priority, then age.
    pub fn jobs_by_age(&self) -> impl Iterator<Item = ReadyJob> + use<'a> {
        let jobs = self.queue().map(|queue| queue.by_age.iter());
        jobs.into_iter().flatten().map(|(priority, job)| ReadyJob {
            job: *job,
            priority: priority.0,
            used_slots: 0,
            turn: 0,
        })
    }

    /// Ready tasks of a job by the slots they need, each class in the order of adding.
    pub fn tasks(&self, job: JobKey) -> impl Iterator<Item = (u16, &'a BTreeSet<TaskKey>)> + use<'a> {
        let ready = self.cluster.jobs.get(&job).and_then(|job| match job.offered() {
            Offered::Tasks(ready) => Some(ready.iter()),
            Offered::Manager(_) | Offered::Nothing => None,
        });
        ready.into_iter().flatten().map(|(slots, tasks)| (*slots, tasks))
    }

    /// The job's manager, while it waits for its place: nothing else of the job is given out before it.
    pub fn manager(&self, job: JobKey) -> Option<(TaskKey, Needs)> {
        let job = self.cluster.jobs.get(&job)?;
        let Offered::Manager(task) = job.offered() else { return None };
        Some((task, job.needs(self.cluster.tasks.get(task)?)))
    }

    fn readiness(&self, job: JobKey, node: NodeKey) -> Option<Readiness> {
        let (job, node) = (self.cluster.jobs.get(&job)?, self.cluster.nodes.get(&node)?);
        Some(self.cluster.readiness(job, node))
    }

    /// Whether the job's preparation failed on the node, so that its tasks go elsewhere.
    pub fn is_barred(&self, job: JobKey, node: NodeKey) -> bool {
        self.readiness(job, node) == Some(Readiness::Barred)
    }

    /// Whether tasks of the job may start on the node at once.
    pub fn is_prepared(&self, job: JobKey, node: NodeKey) -> bool {
        self.readiness(job, node) == Some(Readiness::Ready)
    }

    /// Whether nodes have to be made ready for the job's tasks.
    pub fn prepares(&self, job: JobKey) -> bool {
        JobExtra::preparation(self.cluster.job_extras(job)).is_some()
    }

    /// How many more tasks of a job may be given out by its `maxParallelTasks`.
    pub fn parallel_left(&self, job: JobKey) -> u64 {
        let Some(job) = self.cluster.jobs.get(&job) else { return 0 };
        u64::try_from(job.record.max_parallel_tasks).map_or(u64::MAX, |max| max.saturating_sub(job.live))
    }

    pub fn nodes(&self) -> impl Iterator<Item = NodeKey> + use<'a> {
        let pool = self.cluster.pools.get(&self.pool.key);
        pool.into_iter().flat_map(|pool| pool.nodes.iter().copied())
    }
}
