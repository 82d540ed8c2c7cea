//! Which tasks of a job wait for others (`jobs-and-tasks.md` §6.1).
//!
//! A job keeps what has been *satisfied*: integers as runs, other ids one by one; that is sticky. A waiting task
//! *watches* one unsatisfied dependency, the last of its list, because tasks tend to be added and to end in order; when
//! that is satisfied it goes on to the one before. Nothing counts edges, so memory is that of tasks and listed ids, and
//! a task that depends on a million others costs as much as one that depends on two.
//!
//! Many tasks may watch the same dependency. Its satisfaction is *delivered* to them in the order of their keys, as far
//! as the budget of an apply goes, and on by `Continue`. Until it is delivered to a task, the dependency counts as not
//! satisfied for it ([`Dependencies::is_open`]), so that who watches what follows from the stored rows alone.

use super::cluster::{Cluster, LoadError};
use super::command::CursorKey;
use super::cursors::{CursorRecord, Work};
use super::intervals::Intervals;
use super::keys;
use super::records::TaskPlace;
use super::step::{ROW_VERSION, Step};
use super::version::ClusterVersion;
use lote_shared::model::{AccountId, DependsOn, JobKey, TaskId, TaskKey, TaskTies};
use lote_shared::protocol::codec;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

/// One thing a task waits for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Dependency {
    /// Any task whose id is this integer, leading zeros aside.
    Number(i32),
    /// The task of exactly this id.
    Id(TaskId),
}

impl fmt::Display for Dependency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dependency::Number(number) => write!(f, "task {number}"),
            Dependency::Id(id) => write!(f, "task `{id}`"),
        }
    }
}

/// The integer whose shortest form the id is.
fn canonical(id: &TaskId) -> Option<i32> {
    id.number().filter(|number| number.to_string() == id.as_str())
}

/// A fact as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum SatisfiedRow {
    /// A run of integers of which some task each satisfied, in whatever form its id was written.
    Numbers(i32, i32),
    /// A run of integers whose shortest form is the id of a task that satisfied.
    Canonical(i32, i32),
    Id(TaskId),
}

impl SatisfiedRow {
    fn key(&self, account: AccountId, job: JobKey) -> Vec<u8> {
        match self {
            SatisfiedRow::Numbers(start, _) => keys::satisfied_run(account, job, 0, *start),
            SatisfiedRow::Canonical(start, _) => keys::satisfied_run(account, job, 1, *start),
            SatisfiedRow::Id(id) => keys::satisfied_id(account, job, id),
        }
    }
}

/// What tasks of a job have satisfied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Satisfied {
    numbers: Intervals,
    canonical: Intervals,
    ids: BTreeSet<TaskId>,
}

impl Satisfied {
    fn has_id(&self, id: &TaskId) -> bool {
        match canonical(id) {
            Some(number) => self.canonical.contains(number),
            None => self.ids.contains(id),
        }
    }

    /// Takes any fact out; `None` if there is none left.
    fn pop(&mut self) -> Option<SatisfiedRow> {
        let number = |run: (i32, i32)| SatisfiedRow::Numbers(run.0, run.1);
        let canonical = |run: (i32, i32)| SatisfiedRow::Canonical(run.0, run.1);
        let first = self.numbers.pop().map(number).or_else(|| self.canonical.pop().map(canonical));
        first.or_else(|| self.ids.pop_first().map(SatisfiedRow::Id))
    }
}

/// What a task watches, and where that stands in its list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Watched {
    dependency: Dependency,
    /// Ids first, then ranges; everything behind it is satisfied.
    position: usize,
}

/// A satisfaction on its way to those who watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Delivery {
    /// The last task that knows.
    upto: TaskKey,
    /// Whether there is a row of it.
    stored: bool,
}

/// The dependencies of one job's tasks.
#[derive(Debug, Default)]
pub(super) struct Dependencies {
    ties: BTreeMap<TaskKey, Arc<TaskTies>>,
    /// The same ties of many tasks are kept once.
    shared: BTreeSet<Arc<TaskTies>>,
    satisfied: Satisfied,
    watched: BTreeMap<TaskKey, Watched>,
    watchers: BTreeMap<Dependency, BTreeSet<TaskKey>>,
    deliveries: BTreeMap<Dependency, Delivery>,
}

impl Dependencies {
    pub fn ties(&self, task: TaskKey) -> Option<&Arc<TaskTies>> {
        self.ties.get(&task)
    }

    /// What a waiting task watches.
    pub fn watched(&self, task: TaskKey) -> Option<&Dependency> {
        self.watched.get(&task).map(|watched| &watched.dependency)
    }

    fn enter(&mut self, task: TaskKey, ties: TaskTies) {
        let ties = Arc::new(ties);
        let ties = match self.shared.get(&ties) {
            Some(shared) => shared.clone(),
            None => {
                self.shared.insert(ties.clone());
                ties
            }
        };
        self.ties.insert(task, ties);
    }

    fn forget(&mut self, task: TaskKey) -> bool {
        self.unwatch(task);
        let Some(ties) = self.ties.remove(&task) else { return false };
        // Ours and the set's.
        if Arc::strong_count(&ties) == 2 {
            self.shared.remove(&ties);
        }
        true
    }

    /// Whether a task still has to wait for this one.
    fn is_open(&self, task: TaskKey, dependency: &Dependency) -> bool {
        let satisfied = match dependency {
            Dependency::Number(number) => self.satisfied.numbers.contains(*number),
            Dependency::Id(id) => self.satisfied.has_id(id),
        };
        !satisfied || self.deliveries.get(dependency).is_some_and(|delivery| delivery.upto < task)
    }

    /// The greatest number of a range for which a task still has to wait.
    fn open_number(&self, task: TaskKey, start: i32, end: i32) -> Option<i32> {
        if start > end {
            return None;
        }
        let gap = self.satisfied.numbers.last_gap(start, end);
        let bounds = Dependency::Number(start)..=Dependency::Number(end);
        let on_its_way = self.deliveries.range(bounds).rev().find(|(_, delivery)| delivery.upto < task);
        let on_its_way = on_its_way.and_then(|(dependency, _)| match dependency {
            Dependency::Number(number) => Some(*number),
            Dependency::Id(_) => None,
        });
        gap.max(on_its_way)
    }

    /// The last open dependency of a list, looked for from `position` downwards.
    fn last_open(&self, task: TaskKey, list: &DependsOn, position: usize) -> Option<Watched> {
        (0..=position.min((list.ids.len() + list.ranges.len()).checked_sub(1)?)).rev().find_map(|position| {
            let dependency = match position.checked_sub(list.ids.len()) {
                Some(range) => {
                    let range = list.ranges.get(range)?;
                    Dependency::Number(self.open_number(task, range.start, range.end)?)
                }
                None => {
                    let id = Dependency::Id(list.ids.get(position)?.clone());
                    Some(id).filter(|id| self.is_open(task, id))?
                }
            };
            Some(Watched { dependency, position })
        })
    }

    /// Has a task watch its last open dependency, if it has any.
    fn watch(&mut self, task: TaskKey, from: usize) -> bool {
        let Some(ties) = self.ties.get(&task) else { return false };
        let Some(watched) = self.last_open(task, &ties.depends_on, from) else { return false };
        self.watchers.entry(watched.dependency.clone()).or_default().insert(task);
        self.watched.insert(task, watched);
        true
    }

    /// Where it stood in its list.
    fn unwatch(&mut self, task: TaskKey) -> Option<usize> {
        let watched = self.watched.remove(&task)?;
        if let Some(watchers) = self.watchers.get_mut(&watched.dependency) {
            watchers.remove(&task);
            if watchers.is_empty() {
                self.watchers.remove(&watched.dependency);
            }
        }
        Some(watched.position)
    }

    /// Notes that a task of this id satisfied. Gives the rows that changed.
    fn satisfy(&mut self, id: &TaskId) -> Vec<(SatisfiedRow, bool)> {
        let mut rows = Vec::new();
        if let Some(number) = id.number()
            && let Some(grown) = self.satisfied.numbers.insert(number)
        {
            rows.extend(grown.swallowed.map(|old| (SatisfiedRow::Numbers(old, old), false)));
            rows.push((SatisfiedRow::Numbers(grown.run.0, grown.run.1), true));
            self.begin_delivery(Dependency::Number(number));
        }
        if let Some(number) = canonical(id) {
            if let Some(grown) = self.satisfied.canonical.insert(number) {
                rows.extend(grown.swallowed.map(|old| (SatisfiedRow::Canonical(old, old), false)));
                rows.push((SatisfiedRow::Canonical(grown.run.0, grown.run.1), true));
                self.begin_delivery(Dependency::Id(id.clone()));
            }
        } else if self.satisfied.ids.insert(id.clone()) {
            rows.push((SatisfiedRow::Id(id.clone()), true));
            self.begin_delivery(Dependency::Id(id.clone()));
        }
        rows
    }

    fn begin_delivery(&mut self, dependency: Dependency) {
        if self.watchers.contains_key(&dependency) {
            self.deliveries.insert(dependency, Delivery { upto: TaskKey(0), stored: false });
        }
    }

    /// The next task that is to hear of a delivery under way, or the delivery that has reached everybody.
    fn next_hearer(&self) -> Option<(Dependency, Option<TaskKey>)> {
        let (dependency, delivery) = self.deliveries.first_key_value()?;
        let after = (Bound::Excluded(delivery.upto), Bound::Unbounded);
        let next = self.watchers.get(dependency).and_then(|watchers| watchers.range(after).next());
        Some((dependency.clone(), next.copied()))
    }

    /// Everything, for the digest.
    pub(super) fn shown(&self) -> impl fmt::Debug {
        let deliveries = self.deliveries.iter().map(|(dependency, delivery)| (dependency, delivery.upto));
        (&self.ties, &self.satisfied, &self.watched, &self.watchers, deliveries.collect::<Vec<_>>())
    }

    /// What is left when everything has been said of who waits for what: for [`super::invariants`].
    pub(super) fn open_by_definition(&self, task: TaskKey) -> bool {
        let Some(ties) = self.ties.get(&task) else { return false };
        let list = &ties.depends_on;
        let id = list.ids.iter().any(|id| self.is_open(task, &Dependency::Id(id.clone())));
        id || list.ranges.iter().any(|range| self.open_number(task, range.start, range.end).is_some())
    }
}

impl Cluster {
    /// Notes what a new task is tied to; where it starts its life.
    pub(super) fn tie_task(
        &mut self,
        step: &mut Step,
        job: JobKey,
        task: TaskKey,
        ties: Option<&TaskTies>,
    ) -> TaskPlace {
        let ties = ties.filter(|ties| !ties.is_empty());
        let (Some(ties), Some(record)) = (ties, self.jobs.get_mut(&job)) else { return TaskPlace::Ready };
        step.put(keys::task_ties(step.account, task), ties);
        record.dependencies.enter(task, ties.clone());
        self.place_by_dependencies(job, task)
    }

    /// Where a task stands that is to run, for the first time or again: its dependencies may still be open.
    pub(super) fn place_by_dependencies(&mut self, job: JobKey, task: TaskKey) -> TaskPlace {
        let waits = self.jobs.get_mut(&job).is_some_and(|job| job.dependencies.watch(task, usize::MAX));
        if waits { TaskPlace::Dependent } else { TaskPlace::Ready }
    }

    /// A task that waited does not any more.
    pub(super) fn unwatch(&mut self, job: JobKey, task: TaskKey) {
        if let Some(job) = self.jobs.get_mut(&job) {
            job.dependencies.unwatch(task);
        }
    }

    /// Forgets what a task was tied to.
    pub(super) fn untie_task(&mut self, step: &mut Step, job: JobKey, account: AccountId, task: TaskKey) {
        if self.jobs.get_mut(&job).is_some_and(|job| job.dependencies.forget(task)) {
            step.delete(keys::task_ties(account, task));
        }
    }

    /// A task ended so that those which depend on it may start.
    pub(super) fn satisfy(&mut self, step: &mut Step, job_key: JobKey, task: TaskKey) {
        if self.version() < ClusterVersion::V2 {
            // Nothing can depend on it yet, and other builds know no such rows.
            return;
        }
        let depending = self.jobs.get_mut(&job_key).filter(|job| job.record.uses_task_dependencies);
        let (Some(job), Some(task)) = (depending, self.tasks.get(task)) else { return };
        let account = job.record.account;
        for (row, stays) in job.dependencies.satisfy(&task.id) {
            let key = row.key(account, job_key);
            if stays { step.put(key, &row) } else { step.delete(key) }
        }
        if !job.dependencies.deliveries.is_empty() {
            step.deliveries.insert(job_key);
        }
    }

    /// Has those who watch hear of what was satisfied, as far as the budget goes. Whether all have heard.
    pub(super) fn deliver(&mut self, step: &mut Step, job_key: JobKey) -> bool {
        loop {
            let Some(job) = self.jobs.get_mut(&job_key) else { return true };
            let account = job.record.account;
            let all = &mut job.dependencies;
            let Some((dependency, hearer)) = all.next_hearer() else { return true };
            let Some(task) = hearer else {
                if all.deliveries.remove(&dependency).is_some_and(|delivery| delivery.stored) {
                    step.delete(keys::delivery(account, job_key, &dependency));
                }
                continue;
            };
            if !step.spend() {
                self.store_deliveries(step, job_key);
                return false;
            }
            if let Some(delivery) = all.deliveries.get_mut(&dependency) {
                delivery.upto = task;
            }
            let position = all.unwatch(task).unwrap_or(usize::MAX);
            if !all.watch(task, position) {
                self.change_task(step, task, |task| task.place = TaskPlace::Ready);
            }
        }
    }

    /// Writes what is under way, to be found again after a restart.
    fn store_deliveries(&mut self, step: &mut Step, job_key: JobKey) {
        let Some(job) = self.jobs.get_mut(&job_key) else { return };
        let account = job.record.account;
        for (dependency, delivery) in &mut job.dependencies.deliveries {
            if !delivery.stored || delivery.upto > TaskKey(0) {
                delivery.stored = true;
                step.put(keys::delivery(account, job_key, dependency), &(dependency, delivery.upto));
            }
        }
    }

    /// Delivers, and leaves a cursor if there is more.
    pub(super) fn settle_deliveries(&mut self, step: &mut Step, job: JobKey) {
        let key = CursorKey::Deliveries(job);
        if self.cursors.contains_key(&key) {
            // Its turn comes.
            self.store_deliveries(step, job);
        } else {
            self.advance(step, CursorRecord { key, position: 0, work: Work::Deliver });
        }
    }

    /// Removes facts of a job that goes, as far as the budget does. Whether none is left.
    pub(super) fn forget_satisfied(&mut self, step: &mut Step, job_key: JobKey) -> bool {
        let Some(job) = self.jobs.get_mut(&job_key) else { return true };
        let account = job.record.account;
        while let Some((dependency, delivery)) = job.dependencies.deliveries.pop_first() {
            if delivery.stored {
                step.delete(keys::delivery(account, job_key, &dependency));
            }
            if !step.spend() {
                return false;
            }
        }
        while let Some(row) = job.dependencies.satisfied.pop() {
            step.delete(row.key(account, job_key));
            if !step.spend() {
                return false;
            }
        }
        true
    }

    /// Takes a stored row back. All tasks must be in their table.
    pub(super) fn load_tie(&mut self, tie: StoredTie) -> Result<(), LoadError> {
        let task_job = |task| self.tasks.get(task).map(|task| task.job);
        let job = match &tie {
            StoredTie::Ties(task, _) => task_job(*task),
            StoredTie::Satisfied(job, _) | StoredTie::Delivery(job, ..) => Some(*job),
        };
        let Some(all) = job.and_then(|job| self.jobs.get_mut(&job)).map(|job| &mut job.dependencies) else {
            return Err(LoadError::Inconsistent(format!("nothing is there that this is about: {tie:?}")));
        };
        let loaded = match tie {
            StoredTie::Satisfied(_, SatisfiedRow::Numbers(start, end)) => {
                all.satisfied.numbers.load(start, end)
            }
            StoredTie::Satisfied(_, SatisfiedRow::Canonical(start, end)) => {
                all.satisfied.canonical.load(start, end)
            }
            StoredTie::Satisfied(_, SatisfiedRow::Id(id)) => {
                all.satisfied.ids.insert(id);
                Ok(())
            }
            StoredTie::Delivery(_, dependency, upto) => {
                all.deliveries.insert(dependency, Delivery { upto, stored: true });
                Ok(())
            }
            StoredTie::Ties(task, ties) => {
                all.enter(task, ties);
                Ok(())
            }
        };
        loaded.map_err(LoadError::Inconsistent)
    }

    /// Has a task that was loaded watch again what it watched.
    pub(super) fn enter_dependent(&mut self, job: JobKey, task: TaskKey) -> Result<(), LoadError> {
        if self.place_by_dependencies(job, task) == TaskPlace::Dependent {
            return Ok(());
        }
        Err(LoadError::Inconsistent(format!("task {task} waits for others and has nothing to wait for")))
    }
}

/// A row about dependencies on its way back into memory.
#[derive(Debug)]
pub(super) enum StoredTie {
    Ties(TaskKey, TaskTies),
    Satisfied(JobKey, SatisfiedRow),
    Delivery(JobKey, Dependency, TaskKey),
}

impl StoredTie {
    /// `rest` = the key behind account and table.
    pub fn read(table: keys::Table, rest: &[u8], value: &[u8]) -> Result<StoredTie, String> {
        if table == keys::Table::TaskTies {
            let task = rest.try_into().map_err(|_| "a key of the wrong length".to_owned())?;
            return Ok(StoredTie::Ties(TaskKey(u64::from_be_bytes(task)), decode(value)?));
        }
        let (job, _) = rest.split_first_chunk().ok_or("a key of the wrong length")?;
        let job = JobKey(u32::from_be_bytes(*job));
        if table == keys::Table::Satisfied {
            return Ok(StoredTie::Satisfied(job, decode(value)?));
        }
        let (dependency, upto) = decode(value)?;
        Ok(StoredTie::Delivery(job, dependency, upto))
    }
}

fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    codec::decode(ROW_VERSION, value, codec::LIMIT_DEFAULT).map_err(|error| error.to_string())
}
