//! The core of the state machine: the struct, the order of one apply, and the rebuild from stored rows.
//!
//! An apply has three parts. The action itself changes records through `change_*` helpers that write the row and
//! move the index entries. Then *settling* looks at every job, node and pool that was touched and draws the
//! consequences (a job without live tasks becomes disabled or completed, a drained node leaves, a pool at its target
//! becomes steady), until nothing more follows. At last the counters are written. So each rule of the kind "as soon
//! as" stands in one place, whatever led there.

use super::blobs::Blobs;
use super::command::{Action, CursorKey, ScheduleChange};
use super::cursors::CursorRecord;
use super::dependencies::StoredTie;
use super::idempotency::Answers;
use super::index::{Account, Deadline, Host, Job, Node, Pool, Schedule, Standing};
use super::members::{Membership, Replacing};
use super::records::{ChoreRecord, JobRecord, NodeRecord, PoolRecord, ScheduleRecord, TaskRecord};
use super::reply::{Outcome, Refusal, RefusalCode, Version};
use super::step::{ROW_VERSION, Step};
use super::table::TaskTable;
use super::version::{self, Unsupported, Upgrade};
use super::{Command, Reply, keys};
use lote_shared::model::{
    AccountId, AttemptRef, HostKey, JobKey, NodeKey, PoolId, PoolKey, ScheduleKey, TaskKey, Timestamp,
};
use lote_shared::protocol::codec;
use lote_shared::protocol::host::{KillReason, TaskDirectory};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Where in the log, and when by the leader's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Index of the Raft entry; several commands share one.
    pub index: u64,
    pub now: Timestamp,
}

/// What one entry changes: rows for the store (later ones win) and events for the shells.
#[derive(Debug, Default)]
pub struct Batch {
    /// `None` deletes.
    pub writes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    pub events: Vec<Event>,
}

/// Something a shell on the leader may want to act on. Hints only: everything can be found again from the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    PoolAdded(PoolKey),
    PoolChanged(PoolKey),
    PoolRemoved(PoolKey),
    HostsChanged,
    /// Something in this pool may be dispatchable now: tasks became ready or slots free.
    Dispatch(PoolKey),
    JobChanged(JobKey),
    ScheduleChanged(ScheduleKey),
    /// A cursor wants `Continue`.
    CursorPending(CursorKey),
    /// The host of this node should end an attempt, started or not, and report it.
    Kill {
        node: NodeKey,
        attempt: AttemptRef,
        reason: KillReason,
    },
    WallClock {
        node: NodeKey,
        attempt: AttemptRef,
        wall_clock_ms: Option<u64>,
    },
    Clean {
        node: NodeKey,
        directory: TaskDirectory,
    },
    NodeGranted(NodeKey),
    /// The node's host is to be told to give it up now.
    NodeLeaving(NodeKey),
    RetryAt {
        task: TaskKey,
        at: Timestamp,
    },
    /// The host should give this attempt back if it has not started it.
    Recall {
        node: NodeKey,
        attempt: AttemptRef,
    },
    /// This node can take more than before (a task ended there, or it became ready): for its pool's dispatcher.
    NodeFreed {
        pool: PoolKey,
        node: NodeKey,
    },
    /// The node is no more.
    NodeRemoved {
        pool: PoolKey,
        node: NodeKey,
    },
    /// Who belongs to the cluster is to be looked up again.
    MembersChanged,
    /// The host of this node is to be sent these attempts.
    Launch {
        node: NodeKey,
        attempts: Vec<AttemptRef>,
    },
}

/// Why rows could not be taken back into memory.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("row {key}: {why}")]
    Row { key: String, why: String },
    #[error("{0}")]
    Inconsistent(String),
    /// Nothing is wrong with the rows.
    #[error(transparent)]
    Version(#[from] Unsupported),
}

/// Counters and clock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    /// The latest time that was applied.
    pub clock: Timestamp,
    pub last_account: AccountId,
    pub last_host: HostKey,
    pub last_pool: PoolKey,
    pub last_node: NodeKey,
    pub last_job: JobKey,
    pub last_task: TaskKey,
    pub last_etag: u64,
}

/// A node that went: its names stay known for `nodeInfo` of the tasks that ran there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DepartedNode {
    pub pool: PoolId,
    pub id: String,
}

/// The replicated state.
#[derive(Debug, Default)]
pub struct Cluster {
    pub(super) meta: Meta,
    pub(super) accounts: BTreeMap<AccountId, Account>,
    pub(super) hosts: BTreeMap<HostKey, Host>,
    pub(super) peers: BTreeMap<String, HostKey>,
    pub(super) pools: BTreeMap<PoolKey, Pool>,
    pub(super) nodes: BTreeMap<NodeKey, Node>,
    /// The latest [`super::nodes::DEPARTED_MAX`] of them.
    pub(super) departed: BTreeMap<NodeKey, DepartedNode>,
    pub(super) jobs: BTreeMap<JobKey, Job>,
    pub(super) schedules: BTreeMap<ScheduleKey, Schedule>,
    /// The last number given to one.
    pub(super) last_schedule: ScheduleKey,
    pub(super) tasks: TaskTable,
    /// Preparations and releases, of all jobs.
    pub(super) chores: BTreeMap<TaskKey, ChoreRecord>,
    pub(super) cursors: BTreeMap<CursorKey, CursorRecord>,
    pub(super) deadlines: BTreeSet<(Timestamp, Deadline)>,
    pub(super) answers: Answers,
    /// Gives jobs their turns; a hint that is not stored.
    pub(super) turns: u64,
    /// Where the last batch has the counters; a hint that is not stored.
    meta_at: usize,
    pub(super) blobs: Blobs,
    pub(super) membership: Membership,
    pub(super) upgrade: Upgrade,
    /// Whoever votes in Raft as of the last entry; see [`Cluster::set_voters`].
    pub(super) voters: Vec<BTreeSet<u64>>,
}

impl Cluster {
    pub fn new() -> Cluster {
        Cluster::default()
    }

    /// Containers, blobs and staged blocks.
    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Applies one committed command. Total: never panics, never touches more than
    /// [`RECORDS_MAX`](super::step::RECORDS_MAX) records. Commands of one account must not name records of another:
    /// names are looked up inside the command's account; keys are what our own shells were given.
    pub fn apply(&mut self, stamp: Stamp, command: &Command, batch: &mut Batch) -> Reply {
        self.meta.clock = self.meta.clock.max(stamp.now);
        let now = self.meta.clock;
        if let Some(reply) = self.answers.find(command) {
            self.write_meta(batch);
            return reply;
        }
        let mut step = Step::new(now, stamp.index, command.account, batch);
        let reply = self.act(&mut step, &command.action);
        self.settle(&mut step);
        self.answers.remember(&mut step, command, &reply);
        self.write_meta(batch);
        reply
    }

    fn act(&mut self, step: &mut Step, action: &Action) -> Reply {
        self.check_since(action)?;
        match action {
            Action::AccountAdd { name, keys } => self.add_account(step, name, keys),
            Action::PoolAdd { spec } => self.add_pool(step, spec, &[]),
            Action::PoolAddWith { spec, extras } => self.add_pool(step, spec, extras),
            Action::PoolPatchWith { pool, condition, patch, packages } => {
                self.patch_pool_with(step, pool, condition, patch, packages)
            }
            Action::ApplicationChange { application, change } => {
                self.change_application(step, application, change)
            }
            Action::PoolPatch { pool, condition, patch } => self.patch_pool(step, pool, condition, patch),
            Action::PoolResize { pool, condition, dedicated, low_priority, timeout, option } => {
                let targets = (*dedicated, *low_priority);
                self.resize_pool(step, pool, condition, targets, *timeout, *option)
            }
            Action::PoolStopResize { pool, condition } => self.stop_resize(step, pool, condition),
            Action::PoolDelete { pool, condition } => self.delete_pool(step, pool, condition),
            Action::PoolSettled { pool, errors } => self.settled_pool(step, *pool, errors),
            Action::HostJoined { peer, name, boot, capacity, address, software } => {
                let seen = super::hosts::Seen { peer, name, boot: *boot, capacity, address, software };
                self.join_host(step, &seen)
            }
            Action::HostUnknown { host } => self.host_unknown(step, *host),
            Action::HostLost { host } => self.host_lost(step, *host),
            Action::NodeGrant { pool, host, node_id, dedicated } => {
                self.grant_node(step, *pool, *host, node_id, *dedicated)
            }
            Action::NodeRevoke { node, option } => self.revoke_node(step, *node, *option),
            Action::NodeGone { node } => self.node_gone(step, *node),
            Action::NodeReport { node, phase, start_task, errors } => {
                self.report_node(step, *node, *phase, start_task.as_ref(), errors)
            }
            Action::JobAdd { spec } => self.add_job(step, spec, &[]),
            Action::JobAddWith { spec, extras } => self.add_job(step, spec, extras),
            Action::JobPatchWith { job, condition, patch, auto_pool } => {
                self.patch_job_with(step, job, condition, patch, auto_pool)
            }
            Action::JobPatch { job, condition, patch } => self.patch_job(step, job, condition, patch),
            Action::JobDisable { job, condition, tasks } => self.disable_job(step, job, condition, *tasks),
            Action::JobEnable { job, condition } => self.enable_job(step, job, condition),
            Action::JobTerminate { job, condition, reason, force } => {
                self.terminate_job(step, job, condition, reason.as_deref(), *force)
            }
            Action::JobDelete { job, condition, force: _ } => self.delete_job(step, job, condition),
            Action::JobExpire { job } => self.expire_job(step, *job),
            Action::JobCheckComplete { job } => self.check_empty_job(step, *job),
            Action::TasksAdd { job, tasks } => {
                self.add_tasks(step, job, tasks.iter().map(|task| (task, None, &[][..])))
            }
            Action::TaskPut { job, task, condition, max_wall_clock, retention, max_retry_count } => {
                let limits = (*max_wall_clock, *retention, *max_retry_count);
                self.put_task(step, job, task, condition, limits)
            }
            Action::TaskTerminate { job, task, condition } => self.terminate_task(step, job, task, condition),
            Action::TaskReactivate { job, task, condition } => {
                self.reactivate_task(step, job, task, condition)
            }
            Action::TaskDelete { job, task, condition } => self.delete_task(step, job, task, condition),
            Action::Assign { node, tasks } => self.assign(step, *node, tasks),
            Action::Recalled { node, attempts } => self.recalled(step, *node, attempts),
            Action::Report { node, attempts } => self.report(step, *node, attempts),
            Action::RetryDue { tasks } => self.retry_due(step, tasks),
            Action::Continue { cursor } => self.proceed(step, *cursor),
            Action::Blob(action) => {
                let stamp = Stamp { index: step.index, now: step.now };
                self.blobs.apply(stamp, step.account, action, step.batch)
            }
            Action::ClusterInit { settings } => self.init_cluster(step, settings),
            Action::TokenAdd { token, secret_hash, role, expires, uses, note } => {
                let record = super::TokenRecord {
                    id: *token,
                    secret_hash: *secret_hash,
                    role: *role,
                    made: step.now,
                    expires: *expires,
                    uses_left: *uses,
                    revoked: false,
                    note: note.clone(),
                };
                self.add_token(step, record)
            }
            Action::TokenRevoke { token } => self.revoke_token(step, *token),
            Action::MemberAdmit { token, admission } => {
                self.admit_member(step, token.as_ref(), admission, Replacing::AtOnce)
            }
            Action::MemberRemove { peer } => self.remove_member(step, peer),
            Action::HostPresented { peer, name, boot, capacity, address, software, machine } => {
                self.check_host(peer, machine)?;
                let seen = super::hosts::Seen { peer, name, boot: *boot, capacity, address, software };
                self.join_host(step, &seen)
            }
            Action::CoordinatorFounded { admission, member } => self.found_alone(step, admission, *member),
            Action::ScheduleAdd { spec } => self.add_schedule(step, spec, &[]),
            Action::ScheduleAddWith { spec, extras } => self.add_schedule(step, spec, extras),
            Action::SchedulePatchWith { schedule, condition, patch, extras } => {
                let change = ScheduleChange::Patch(patch.clone());
                self.change_schedule_named(step, schedule, condition, &change, extras)
            }
            Action::ScheduleChange { schedule, condition, change } => {
                self.change_schedule_named(step, schedule, condition, change, &[])
            }
            Action::ScheduleCheck { schedule } => self.check_schedule(step, *schedule),
            Action::TiedTasksAdd { job, tasks } => {
                self.add_tasks(step, job, tasks.iter().map(|(task, ties)| (task, Some(ties), &[][..])))
            }
            Action::TasksAddWith { job, tasks } => {
                let tasks = tasks.iter().map(|(task, ties, extras)| (task, Some(ties), extras.as_slice()));
                self.add_tasks(step, job, tasks)
            }
            Action::VersionRaise { to, witnesses } => self.raise_version(step, *to, witnesses),
            Action::VersionHold => self.hold_version(step),
            Action::VersionRelease => self.release_version(step),
            #[cfg(feature = "next-version")]
            Action::Rehearse { software } => self.rehearse(step, software),
            Action::CoordinatorLeave { peer } => self.leave_coordinator(step, peer),
            Action::CoordinatorLeft { peer } => self.coordinator_left(step, peer),
            Action::HostDrain { peer, forced } => self.drain_host(step, peer, *forced),
            Action::MemberReplace { token, admission } => {
                self.admit_member(step, token.as_ref(), admission, Replacing::InTwoSteps)
            }
            Action::Output { producer, peer, put } => {
                self.check_producer(producer, peer)?;
                if !matches!(**put, super::blobs::BlobAction::Put { .. }) {
                    return Err(RefusalCode::InvalidPropertyValue.into());
                }
                let stamp = Stamp { index: step.index, now: step.now };
                self.blobs.apply(stamp, step.account, put, step.batch)
            }
        }
    }

    /// Draws the consequences for everything that was touched, until nothing more follows.
    fn settle(&mut self, step: &mut Step) {
        loop {
            if let Some(job) = step.managers.pop_first() {
                self.manager_ended(step, job);
            } else if let Some((job, action)) = step.exits.pop_first() {
                self.exit_job(step, job, action);
            } else if let Some(job) = step.deliveries.pop_first() {
                self.settle_deliveries(step, job);
            } else if let Some(job) = step.jobs.pop_first() {
                self.settle_job(step, job);
            } else if let Some(schedule) = step.schedules.pop_first() {
                self.settle_schedule(step, schedule);
            } else if let Some(node) = step.nodes.pop_first() {
                self.settle_node(step, node);
            } else if let Some(pool) = step.pools.pop_first() {
                self.settle_pool(step, pool);
            } else {
                break;
            }
        }
        for node in std::mem::take(&mut step.node_rows) {
            if let Some(node) = self.nodes.get(&node) {
                step.put(keys::node(node.record.account, node.record.key), &node.record);
            }
        }
        for (node, pool) in std::mem::take(&mut step.freed) {
            step.event(Event::NodeFreed { pool, node });
            step.dispatch.insert(pool);
        }
        for pool in std::mem::take(&mut step.dispatch) {
            step.event(Event::Dispatch(pool));
        }
    }

    /// Writes the counters, over those of an earlier command of the same entry. Where those stand is only a hint from
    /// the last write; it is believed if the row there is theirs.
    fn write_meta(&mut self, batch: &mut Batch) {
        let Ok(bytes) = codec::encode(ROW_VERSION, &self.meta) else { return };
        let row = (keys::meta(), Some(bytes));
        match batch.writes.get_mut(self.meta_at) {
            Some(earlier) if earlier.0 == row.0 => *earlier = row,
            _ => {
                self.meta_at = batch.writes.len();
                batch.writes.push(row);
            }
        }
    }

    /// The next version of some record.
    pub(super) fn next_version(&mut self, step: &Step) -> Version {
        self.meta.last_etag += self.etag_step();
        Version { etag: self.meta.last_etag, modified: step.now }
    }

    fn add_account(&mut self, step: &mut Step, name: &str, keys: &[Vec<u8>]) -> Reply {
        if self.account_by_name(name).is_some() {
            return Ok(Outcome::Done);
        }
        self.meta.last_account = self.meta.last_account.next();
        let id = self.meta.last_account;
        let record = super::AccountRecord { name: name.to_owned(), keys: keys.to_vec() };
        step.put(keys::account(id), &record);
        self.accounts.insert(id, Account::new(record));
        Ok(Outcome::Done)
    }

    pub(super) fn account_mut(&mut self, id: AccountId) -> Result<&mut Account, Refusal> {
        self.accounts.get_mut(&id).ok_or_else(|| Refusal::new(RefusalCode::AccountNotFound))
    }

    /// Changes a task: writes its row, moves its index entries, and has its job and node looked at again.
    pub(super) fn change_task(
        &mut self,
        step: &mut Step,
        key: TaskKey,
        change: impl FnOnce(&mut TaskRecord),
    ) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        let before = Standing::of(task);
        change(task);
        let after = Standing::of(task);
        let job = task.job;
        step.put(keys::task(task.account, key), &*task);
        if before.dependent && !after.dependent {
            self.unwatch(job, key);
        }
        self.move_standing(key, job, Some(before), Some(after));
        self.touch_around(step, job, before.held.map(|(node, _)| node), after.held.map(|(node, _)| node));
    }

    /// Has a job and the nodes its task left or came to looked at again.
    pub(super) fn touch_around(
        &self,
        step: &mut Step,
        job: JobKey,
        left: Option<NodeKey>,
        came: Option<NodeKey>,
    ) {
        step.jobs.insert(job);
        step.nodes.extend(came);
        let Some(node) = left else { return };
        step.nodes.insert(node);
        if left != came
            && let Some(record) = self.nodes.get(&node)
        {
            step.freed.insert(node, record.record.pool);
        }
    }
}

/// A row on its way back into memory.
struct Row<'a> {
    key: &'a [u8],
    value: &'a [u8],
}

impl Row<'_> {
    fn error(&self, why: impl ToString) -> LoadError {
        LoadError::Row { key: format!("{:02x?}", self.key), why: why.to_string() }
    }

    fn decode<T: DeserializeOwned>(&self) -> Result<T, LoadError> {
        codec::decode(ROW_VERSION, self.value, codec::LIMIT_DEFAULT).map_err(|error| self.error(error))
    }
}

impl Cluster {
    /// Rebuilds memory from hot rows, in any order. Those of a version that this build does not support are refused.
    pub fn load(rows: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) -> Result<Cluster, LoadError> {
        let mut cluster = Cluster::default();
        let mut pools: BTreeMap<PoolKey, Pool> = BTreeMap::new();
        let mut jobs: BTreeMap<JobKey, Job> = BTreeMap::new();
        let mut pool_cold = BTreeMap::new();
        let mut job_cold = BTreeMap::new();
        let mut ties = Vec::new();
        let mut schedules: Vec<ScheduleRecord> = Vec::new();
        let mut schedule_cold = BTreeMap::new();
        let mut job_extras = BTreeMap::new();
        let mut schedule_extras = BTreeMap::new();
        let mut chores = Vec::new();
        let mut pool_extras = BTreeMap::new();
        let mut applications = Vec::new();
        for (key, value) in rows {
            let row = Row { key: &key, value: &value };
            let (account, table, rest) = keys::split(&key).ok_or_else(|| row.error("no such table"))?;
            let number = |row: &Row| {
                let bytes: Option<[u8; 4]> = rest.try_into().ok();
                bytes.map(u32::from_be_bytes).ok_or_else(|| row.error("a key of the wrong length"))
            };
            match table {
                keys::Table::Meta => match rest {
                    [0] => cluster.meta = row.decode()?,
                    [3] => cluster.last_schedule = row.decode()?,
                    [1, sequence @ ..] => {
                        let sequence: [u8; 8] =
                            sequence.try_into().map_err(|_| row.error("a key of the wrong length"))?;
                        cluster.answers.load(u64::from_be_bytes(sequence), row.decode()?);
                    }
                    [2, node @ ..] => {
                        let node: [u8; 4] =
                            node.try_into().map_err(|_| row.error("a key of the wrong length"))?;
                        cluster.departed.insert(NodeKey(u32::from_be_bytes(node)), row.decode()?);
                    }
                    _ => return Err(row.error("no such row")),
                },
                keys::Table::Account => {
                    cluster.accounts.insert(AccountId(number(&row)?), Account::new(row.decode()?));
                }
                keys::Table::Host => {
                    let host = Host { record: row.decode()?, nodes: BTreeSet::new() };
                    cluster.peers.insert(host.record.peer.clone(), host.record.key);
                    cluster.hosts.insert(host.record.key, host);
                }
                keys::Table::Pool => {
                    let record: PoolRecord = row.decode()?;
                    pools.insert(record.key, Pool::new(record, Default::default(), Vec::new()));
                }
                keys::Table::PoolCold => {
                    pool_cold.insert(PoolKey(number(&row)?), row.decode()?);
                }
                keys::Table::Node => {
                    let record: NodeRecord = row.decode()?;
                    cluster.nodes.insert(record.key, Node::new(record));
                }
                keys::Table::Schedule => {
                    schedules.push(row.decode()?);
                }
                keys::Table::ScheduleCold => {
                    schedule_cold.insert(ScheduleKey(number(&row)?), row.decode()?);
                }
                keys::Table::Job => {
                    let record: JobRecord = row.decode()?;
                    jobs.insert(record.key, Job::new(record, Default::default(), Vec::new()));
                }
                keys::Table::JobCold => {
                    job_cold.insert(JobKey(number(&row)?), row.decode()?);
                }
                keys::Table::JobExtras => {
                    job_extras.insert(JobKey(number(&row)?), row.decode()?);
                }
                keys::Table::ScheduleExtras => {
                    schedule_extras.insert(ScheduleKey(number(&row)?), row.decode()?);
                }
                keys::Table::PoolExtras => {
                    pool_extras.insert(PoolKey(number(&row)?), row.decode()?);
                }
                keys::Table::Application => applications.push(row.decode()?),
                keys::Table::Chore => chores.push(row.decode()?),
                keys::Table::Task => cluster.tasks.insert(row.decode()?),
                keys::Table::Cursor => {
                    let record: CursorRecord = row.decode()?;
                    cluster.cursors.insert(record.key, record);
                }
                keys::Table::Container | keys::Table::Blob | keys::Table::Block => {
                    cluster.blobs.load(account, table, rest, &value).map_err(|why| row.error(why))?;
                }
                keys::Table::Membership => {
                    if !cluster.upgrade.load(rest, &value).map_err(|why| row.error(why))? {
                        cluster.membership.load(rest, &value).map_err(|why| row.error(why))?;
                    }
                }
                keys::Table::TaskTies | keys::Table::Satisfied | keys::Table::Delivery => {
                    ties.push(StoredTie::read(table, rest, &value).map_err(|why| row.error(why))?);
                }
                keys::Table::TaskCold
                | keys::Table::TaskExtras
                | keys::Table::PastAttempt
                | keys::Table::Applied => {}
            }
        }
        version::SUPPORTED.check(version::SOFTWARE, cluster.version())?;
        for application in applications {
            cluster.enter_application(application)?;
        }
        for (key, mut pool) in pools {
            pool.cold = pool_cold.remove(&key).unwrap_or_default();
            pool.extras = pool_extras.remove(&key).unwrap_or_default();
            cluster.enter_pool(pool)?;
        }
        for node in cluster.nodes.keys().copied().collect::<Vec<_>>() {
            cluster.enter_node(node)?;
        }
        for record in schedules {
            let cold = schedule_cold.remove(&record.key).ok_or_else(|| {
                LoadError::Inconsistent(format!("schedule {} does not say what its jobs are", record.key))
            })?;
            let extras = schedule_extras.remove(&record.key).unwrap_or_default();
            cluster.enter_schedule(record, cold, extras)?;
        }
        for (key, mut job) in jobs {
            job.cold = job_cold.remove(&key).unwrap_or_default();
            job.extras = job_extras.remove(&key).unwrap_or_default();
            cluster.enter_job(job)?;
        }
        for tie in ties {
            cluster.load_tie(tie)?;
        }
        for chore in chores {
            cluster.load_chore(chore)?;
        }
        cluster.enter_tasks()?;
        Ok(cluster)
    }

    fn enter_tasks(&mut self) -> Result<(), LoadError> {
        let tasks: Vec<_> =
            self.tasks.iter().map(|task| (task.key, task.job, task.id.clone(), Standing::of(task))).collect();
        for (key, job, id, standing) in tasks {
            let Some(record) = self.jobs.get_mut(&job) else {
                return Err(LoadError::Inconsistent(format!(
                    "task {key} belongs to job {job}, which is missing"
                )));
            };
            record.note_manager(&id, key);
            record.tasks.insert(id, key);
            if standing.dependent {
                self.enter_dependent(job, key)?;
            }
            self.move_standing(key, job, None, Some(standing));
        }
        for job in self.jobs.keys().copied().collect::<Vec<_>>() {
            self.requeue_job(job);
        }
        Ok(())
    }
}
