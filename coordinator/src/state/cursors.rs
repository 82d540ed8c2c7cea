//! Long work in slices. Whatever may touch more than one apply's worth of records runs as a cursor: the first slice
//! at once, the rest by `Continue` commands that the leader proposes between other traffic.
//!
//! A cursor is stored with its position, so it outlives its leader. What it does to a job follows from the job's
//! state, so a stronger wish (delete during a disable) simply restarts it.

use super::cluster::{Cluster, Event};
use super::command::CursorKey;
use super::exits::FinalEnd;
use super::keys;
use super::records::{Ending, TaskPlace};
use super::reply::{Outcome, Reply};
use super::step::Step;
use lote_shared::model::{DeallocationOption, DisableTasks, JobKey, JobState, NodeKey, PoolKey, TaskKey};
use serde::{Deserialize, Serialize};
use std::ops::Bound;

/// Why the attempts of a node end; where two meet, the later in this order wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum NodeWork {
    /// It leaves; its `leaving` option says what happens.
    Leaving,
    /// It reported that it cannot work.
    Unusable,
    /// The lease of its host ran out.
    Lost,
    /// Its host came back with another boot id.
    Rebooted,
    /// It is wiped, and removed when this is done.
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Work {
    /// What the job's state asks for; `force` = do not wait for nodes to confirm.
    Job {
        force: bool,
    },
    /// All its nodes leave.
    PoolDelete,
    /// Nodes that still wait for their tasks stay.
    PoolKeepNodes,
    Node(NodeWork),
    /// Tasks hear of what was satisfied.
    Deliver,
    /// All its jobs are deleted.
    ScheduleDelete,
    /// Nodes get the release of a job that ends.
    Release,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CursorRecord {
    pub key: CursorKey,
    /// The last task or node that is done.
    pub position: u64,
    pub work: Work,
}

impl Cluster {
    pub(super) fn proceed(&mut self, step: &mut Step, key: CursorKey) -> Reply {
        if let Some(record) = self.cursors.get(&key).copied() {
            self.advance(step, record);
        }
        Ok(Outcome::Continued { more: self.cursors.contains_key(&key) })
    }

    pub(super) fn start_job_cursor(&mut self, step: &mut Step, job: JobKey, force: bool) {
        self.advance(step, CursorRecord { key: CursorKey::Job(job), position: 0, work: Work::Job { force } });
    }

    pub(super) fn start_pool_cursor(&mut self, step: &mut Step, pool: PoolKey, work: Work) {
        self.advance(step, CursorRecord { key: CursorKey::Pool(pool), position: 0, work });
    }

    /// Ends or takes back what a node holds.
    pub(super) fn end_attempts_of(&mut self, step: &mut Step, node: NodeKey, work: NodeWork) {
        let key = CursorKey::Node(node);
        let running = match self.cursors.get(&key).map(|cursor| cursor.work) {
            Some(Work::Node(running)) => work.max(running),
            _ => work,
        };
        self.advance(step, CursorRecord { key, position: 0, work: Work::Node(running) });
    }

    pub(super) fn drop_cursor(&mut self, step: &mut Step, key: CursorKey) {
        if self.cursors.remove(&key).is_some() {
            step.delete(keys::cursor(key));
        }
    }

    /// Runs a slice; keeps the cursor if the budget ended first.
    pub(super) fn advance(&mut self, step: &mut Step, mut record: CursorRecord) {
        let done = match (record.key, record.work) {
            (CursorKey::Job(job), _) => self.job_slice(step, job, &mut record.position),
            (CursorKey::Pool(pool), work) => self.pool_slice(step, pool, work, &mut record.position),
            (CursorKey::Node(node), Work::Node(work)) => {
                self.node_slice(step, node, work, &mut record.position)
            }
            (CursorKey::Node(_), _) => true,
            (CursorKey::Deliveries(job), _) => self.deliver(step, job),
            (CursorKey::Schedule(schedule), _) => self.schedule_slice(step, schedule, &mut record.position),
            (CursorKey::Releases(job), _) => self.release_slice(step, job),
        };
        if done {
            self.drop_cursor(step, record.key);
            self.finish_cursor(step, record);
        } else {
            step.put(keys::cursor(record.key), &record);
            self.cursors.insert(record.key, record);
            step.event(Event::CursorPending(record.key));
        }
    }

    fn finish_cursor(&mut self, step: &mut Step, record: CursorRecord) {
        match (record.key, record.work) {
            (CursorKey::Job(job), work) => {
                if work == (Work::Job { force: true }) {
                    self.complete_terminating(step, job);
                }
                step.jobs.insert(job);
            }
            (CursorKey::Releases(job), _) => {
                step.jobs.insert(job);
            }
            (CursorKey::Pool(pool), _) => {
                step.pools.insert(pool);
            }
            (CursorKey::Deliveries(_), _) => {}
            (CursorKey::Schedule(schedule), _) => {
                step.schedules.insert(schedule);
            }
            (CursorKey::Node(node), Work::Node(NodeWork::Gone)) => self.remove_node(step, node),
            (CursorKey::Node(node), _) => {
                step.nodes.insert(node);
                if let Some(record) = self.nodes.get(&node) {
                    step.freed.insert(node, record.record.pool);
                }
            }
        }
    }

    /// The next tasks of a job's or node's held set, at most one more than the budget allows.
    fn next_of(set: &std::collections::BTreeSet<TaskKey>, after: u64, budget: usize) -> Vec<TaskKey> {
        let start = (Bound::Excluded(TaskKey(after)), Bound::Unbounded);
        set.range(start).take(budget.saturating_add(1)).copied().collect()
    }

    fn job_slice(&mut self, step: &mut Step, key: JobKey, position: &mut u64) -> bool {
        let Some(job) = self.jobs.get(&key) else { return true };
        let (state, option) = (job.record.state, job.record.disable_tasks.unwrap_or(DisableTasks::Wait));
        if matches!(state, JobState::Terminating | JobState::Deleting) && !self.end_preparations(step, key) {
            return false;
        }
        let Some(job) = self.jobs.get(&key) else { return true };
        // While it owes releases its tasks end first, and are removed when those have run.
        if state == JobState::Deleting && !self.has_releases(job) {
            let tasks: Vec<_> = job.tasks.values().take(step.budget.saturating_add(1)).copied().collect();
            for task in tasks {
                if !step.spend() {
                    return false;
                }
                self.remove_task(step, task);
            }
            return self.forget_satisfied(step, key) && self.forget_chores(step, key);
        }
        for task in Self::next_of(&job.held, *position, step.budget) {
            if !step.spend() {
                return false;
            }
            match (state, option) {
                (JobState::Disabling, DisableTasks::Wait) => self.recall_task(step, task),
                (JobState::Disabling, DisableTasks::Requeue) => self.want_back(step, task, Ending::Requeue),
                (JobState::Disabling, DisableTasks::Terminate) => {
                    self.end_if_running(step, task, FinalEnd::Stopped)
                }
                (JobState::Terminating | JobState::Deleting, _) => {
                    self.end_if_running(step, task, FinalEnd::Ended);
                }
                _ => return true,
            }
            *position = task.0;
        }
        true
    }

    fn pool_slice(&mut self, step: &mut Step, key: PoolKey, work: Work, position: &mut u64) -> bool {
        let Some(pool) = self.pools.get(&key) else { return true };
        let after = u32::try_from(*position).map_or(NodeKey(u32::MAX), NodeKey);
        let start = (Bound::Excluded(after), Bound::Unbounded);
        let nodes: Vec<_> = pool.nodes.range(start).take(step.budget.saturating_add(1)).copied().collect();
        for node in nodes {
            if !step.spend() {
                return false;
            }
            if work == Work::PoolDelete {
                // The node is there; a node that leaves already is not an error.
                let _ = self.revoke_node(step, node, DeallocationOption::Requeue);
            } else {
                self.keep_node(step, node);
            }
            *position = u64::from(node.0);
        }
        true
    }

    fn node_slice(&mut self, step: &mut Step, key: NodeKey, work: NodeWork, position: &mut u64) -> bool {
        let Some(node) = self.nodes.get(&key) else { return true };
        let leaving = node.record.leaving;
        let stays = work == NodeWork::Leaving
            && !matches!(leaving, Some(DeallocationOption::Requeue | DeallocationOption::Terminate));
        if !stays && !self.end_chores_of(step, key, work == NodeWork::Rebooted) {
            return false;
        }
        let Some(node) = self.nodes.get(&key) else { return true };
        for task in Self::next_of(&node.held, *position, step.budget) {
            if !step.spend() {
                return false;
            }
            match (work, leaving) {
                (NodeWork::Leaving, Some(DeallocationOption::Requeue)) => {
                    self.want_back(step, task, Ending::Requeue);
                }
                (NodeWork::Leaving, Some(DeallocationOption::Terminate)) => {
                    self.end_if_running(step, task, FinalEnd::Stopped);
                }
                (NodeWork::Leaving, Some(_)) => self.recall_task(step, task),
                (NodeWork::Leaving, None) => return true,
                (NodeWork::Unusable, _) => self.want_back(step, task, Ending::Recover),
                (NodeWork::Lost, _) => self.attempt_is_dead(step, task, false, true),
                (NodeWork::Rebooted, _) => self.attempt_is_dead(step, task, false, false),
                (NodeWork::Gone, _) => {
                    let asked = leaving == Some(DeallocationOption::Requeue);
                    self.attempt_is_dead(step, task, asked, false);
                }
            }
            *position = task.0;
        }
        true
    }

    /// Ends a running task for good; one that was not seen to start goes back to the queue.
    fn end_if_running(&mut self, step: &mut Step, key: TaskKey, end: FinalEnd) {
        match self.tasks.get(key).map(|task| task.place) {
            Some(TaskPlace::Running { .. }) => self.end_task(step, key, end),
            Some(TaskPlace::Assigned { .. } | TaskPlace::Preparing { .. }) => {
                self.want_back(step, key, Ending::Requeue);
            }
            _ => {}
        }
    }
}
