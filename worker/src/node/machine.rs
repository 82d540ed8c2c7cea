//! One node of this host, as a pure state machine: from the grant to the wiped directory.
//!
//! ```text
//! grant ─► directories ─► start task ─► Ready ─► chunks: queue ─► slots ─► reports
//!                 │            └─ failed: StartTaskFailed       revoke ─► end all ─► wipe ─► NodeGone
//!                 └─ failed: Unusable
//! ```
//!
//! It owns: the queue of prefetched tasks, which attempts hold slots, reports that the leader has not yet
//! acknowledged, how far the start task is, and which directories are kept until when. The shell (`node::actor`)
//! gives it messages, results and the time, and carries the effects out in order.
//!
//! After a restart of the worker the shell makes it anew from the grant and what `memory` kept, and hands it the
//! attempts the keeper still has. Queued attempts are then unknown here, which the leader sees in the inventory.

mod effects;

pub use effects::{Effect, Note, Now, Work};

use super::prefetch::{Prefetch, worth_telling};
use super::retention::{Kept, Place, Retention};
use super::start::{StartProgress, Verdict};
use lote_shared::model::{AttemptOutcome, AttemptRef, NodeError, StartTaskState, TaskResult};
use lote_shared::protocol::host::{
    AttemptEnd, AttemptReport, HostMessage, JobPart, KillReason, NodeGrant, NodePhase, TaskChunk,
    TaskDirectory,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// A start is reported by itself only for tasks that live longer than this.
const SHORT_TASK_MS: u64 = 50;
/// Reports are gathered this long after the last message of reports, ...
const FLUSH_AFTER_MS: u64 = 2;
/// ... or so long while queued tasks keep the slots busy (a message saved is then worth more than its milliseconds),
const FLUSH_AFTER_BUSY_MS: u64 = 8;
/// or until there are so many.
const FLUSH_AT_COUNT: usize = 256;
/// Expired directories are looked for at most this often, and removed so many at a time.
const SWEEP_EVERY_MS: u64 = 10_000;
const SWEEP_MAX: usize = 256;
/// How often a prefetch is looked at while nothing else happens.
const ASK_AGAIN_MS: u64 = 120;
/// More queued tasks than any ask can bring are a fault of the leader.
const QUEUE_MAX: usize = 8_192;

/// An attempt that holds slots.
#[derive(Debug)]
struct Running {
    slots: u16,
    started: Now,
    retention_ms: Option<u64>,
    place: Place,
    start_reported: bool,
    /// Nothing of it is to be told.
    fenced: bool,
    /// The directory goes with it.
    clean: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    No,
    /// Waits for everything to end.
    Ending,
    Wiping,
    Gone,
}

#[derive(Debug)]
pub struct NodeMachine {
    grant: NodeGrant,
    phase: NodePhase,
    errors: Vec<NodeError>,
    start: Option<StartProgress>,
    start_again_ms: Option<u64>,
    queue: VecDeque<Work>,
    running: BTreeMap<AttemptRef, Running>,
    /// Attempts whose start has not been reported, by the time it is due.
    starts_due: BTreeSet<(u64, AttemptRef)>,
    /// Final reports the leader has not acknowledged.
    unacknowledged: BTreeMap<AttemptRef, AttemptReport>,
    /// Reports for the next message.
    pending: Vec<AttemptReport>,
    flushed_ms: u64,
    notes: Vec<Note>,
    prefetch: Prefetch,
    told_slots: u32,
    /// When the level was last worked out.
    asked_ms: u64,
    retention: Retention,
    swept_ms: u64,
    leaving: Leaving,
    stopping: bool,
}

impl NodeMachine {
    /// A new node.
    pub fn grant(grant: NodeGrant, now: Now) -> (NodeMachine, Vec<Effect>) {
        let machine = NodeMachine::new(grant, now);
        let effects = vec![machine.tell_phase(), Effect::MakeDirectories];
        (machine, effects)
    }

    /// A node that was here before the worker was restarted, with what `memory` kept. A start task that had
    /// completed does not run again; one that was running is adopted if `start_running` gives its run, else it
    /// runs again.
    pub fn resume(
        grant: NodeGrant,
        notes: Vec<Note>,
        start_running: Option<u32>,
        now: Now,
    ) -> (NodeMachine, Vec<Effect>) {
        let mut machine = NodeMachine::new(grant, now);
        for note in notes {
            match note {
                Note::StartTask { run, info } => {
                    if let Some(start) = &mut machine.start {
                        (start.run, start.info) = (run, info);
                    }
                }
                Note::Kept(place, kept) => machine.retention.keep(place, kept),
                Note::Removed(place) => {
                    machine.retention.forget(&place);
                }
            }
        }
        if let (Some(start), Some(run)) = (&mut machine.start, start_running) {
            start.info.state = StartTaskState::Running;
            start.run = run;
            start.active = true;
        }
        let effects = vec![machine.tell_phase(), Effect::MakeDirectories];
        (machine, effects)
    }

    fn new(grant: NodeGrant, now: Now) -> NodeMachine {
        let start = grant.start_task.clone().map(|task| StartProgress::new(task, now.time));
        NodeMachine {
            grant,
            phase: NodePhase::Starting,
            errors: Vec::new(),
            start,
            start_again_ms: None,
            queue: VecDeque::new(),
            running: BTreeMap::new(),
            starts_due: BTreeSet::new(),
            unacknowledged: BTreeMap::new(),
            pending: Vec::new(),
            flushed_ms: 0,
            notes: Vec::new(),
            prefetch: Prefetch::default(),
            told_slots: 0,
            asked_ms: now.ms,
            retention: Retention::default(),
            swept_ms: now.ms,
            leaving: Leaving::No,
            stopping: false,
        }
    }

    pub fn grant_of(&self) -> &NodeGrant {
        &self.grant
    }

    /// The latest run of the start task.
    pub fn start_run(&self) -> Option<u32> {
        self.start.as_ref().map(|start| start.run).filter(|run| *run > 0)
    }

    pub fn phase(&self) -> NodePhase {
        self.phase
    }

    /// Every attempt the node holds: queued, running, or ended and not acknowledged.
    pub fn inventory(&self) -> Vec<AttemptRef> {
        let queued = self.queue.iter().map(|work| work.launch.attempt);
        let all: BTreeSet<AttemptRef> =
            queued.chain(self.running.keys().copied()).chain(self.unacknowledged.keys().copied()).collect();
        all.into_iter().collect()
    }

    /// Whether anything still runs or waits for its acknowledgement.
    pub fn is_quiet(&self) -> bool {
        let start = self.start.as_ref().is_some_and(|start| start.active);
        self.running.is_empty() && self.unacknowledged.is_empty() && self.pending.is_empty() && !start
    }

    /// When [`NodeMachine::on_time`] is wanted.
    pub fn next_time_ms(&self, now: Now) -> Option<u64> {
        let flush = (!self.pending.is_empty() || !self.notes.is_empty()).then(|| self.flush_due_ms());
        let start = self.starts_due.first().map(|(due, _)| *due);
        let sweep = self.retention.next_expiry().map(|expiry| {
            let at = now.ms.saturating_add(expiry.since_ms(now.time));
            at.max(self.swept_ms + SWEEP_EVERY_MS)
        });
        // A prefetch is looked at again while tasks run: they may have become longer.
        let prefetching = self.told_slots > u32::from(self.grant.slots) && !self.running.is_empty();
        let ask = prefetching.then_some(self.asked_ms + ASK_AGAIN_MS);
        [flush, start, sweep, ask, self.start_again_ms].into_iter().flatten().min()
    }

    // ---- life of the node ----

    pub fn on_directories(&mut self, now: Now, result: Result<(), NodeError>) -> Vec<Effect> {
        if self.leaving != Leaving::No {
            return Vec::new();
        }
        if let Err(error) = result {
            self.errors = vec![error];
            self.phase = NodePhase::Unusable;
            return self.out(now, vec![self.tell_phase()]);
        }
        let mut effects = Vec::new();
        self.phase = match &self.start {
            None => NodePhase::Ready,
            Some(start) if start.is_completed() => match start.info.result {
                Some(TaskResult::Failure) if start.task.wait_for_success => NodePhase::StartTaskFailed,
                _ => NodePhase::Ready,
            },
            Some(start) if start.task.wait_for_success => NodePhase::WaitingForStartTask,
            Some(_) => NodePhase::Ready,
        };
        if let Some(start) = &mut self.start
            && !start.is_completed()
            && !start.active
        {
            let run = start.begin(now.time);
            effects.push(Effect::RunStartTask { run });
        }
        effects.push(self.tell_phase());
        self.out(now, effects)
    }

    pub fn on_start_task_ended(&mut self, now: Now, outcome: AttemptOutcome) -> Vec<Effect> {
        let Some(start) = &mut self.start else { return Vec::new() };
        let verdict = start.end(now.time, outcome);
        if self.leaving != Leaving::No || self.stopping {
            return self.out(now, Vec::new());
        }
        let waits = start.task.wait_for_success;
        let Some(verdict) = verdict else { return Vec::new() };
        match verdict {
            Verdict::Again { delay_ms } => self.start_again_ms = Some(now.ms + delay_ms),
            Verdict::Succeeded => self.phase = NodePhase::Ready,
            Verdict::Failed if waits => self.phase = NodePhase::StartTaskFailed,
            Verdict::Failed => {}
        }
        if start.is_completed() {
            self.notes.push(Note::StartTask { run: start.run, info: start.info.clone() });
        }
        let tell = self.tell_phase();
        self.out(now, vec![tell])
    }

    /// The node's slots, addresses or start task as the leader now has them. Directories and tasks stay; a new
    /// start task counts from the next restart of the node.
    pub fn on_grant(&mut self, now: Now, grant: NodeGrant) -> Vec<Effect> {
        let start_task = self.grant.start_task.take();
        self.grant = NodeGrant { start_task, ..grant };
        self.out(now, Vec::new())
    }

    /// The leader takes the node back.
    pub fn on_revoke(&mut self, now: Now) -> Vec<Effect> {
        if self.leaving != Leaving::No {
            return Vec::new();
        }
        self.leaving = Leaving::Ending;
        self.queue.clear();
        self.start_again_ms = None;
        let kill = |attempt: &AttemptRef| Effect::Kill { attempt: *attempt, reason: KillReason::Requeued };
        let mut effects: Vec<Effect> = self.running.keys().map(kill).collect();
        if self.start.is_some() {
            effects.push(Effect::EndStartTask);
        }
        self.out(now, effects)
    }

    pub fn on_wiped(&mut self) -> Vec<Effect> {
        self.leaving = Leaving::Gone;
        vec![Effect::Tell(HostMessage::NodeGone { node: self.grant.node }), Effect::Gone]
    }

    /// The worker shuts down: everything is handed back, uncounted.
    pub fn on_host_stopping(&mut self, now: Now) -> Vec<Effect> {
        if std::mem::replace(&mut self.stopping, true) {
            return Vec::new();
        }
        let queued: Vec<Work> = self.queue.drain(..).collect();
        for work in queued {
            self.report_unstarted(now, work.launch.attempt, lost("host stopping"));
        }
        self.start_again_ms = None;
        let stop = |attempt: &AttemptRef| Effect::HostStopping { attempt: *attempt };
        let mut effects: Vec<Effect> = self.running.keys().map(stop).collect();
        if self.start.is_some() {
            effects.push(Effect::EndStartTask);
        }
        self.out(now, effects)
    }

    /// A new session with a leader began, or went on. `keep` are those attempts of our inventory that the state
    /// still gives to us. In a restarted session everything that may be news is told again.
    pub fn on_session(&mut self, now: Now, keep: &BTreeSet<AttemptRef>, restarted: bool) -> Vec<Effect> {
        self.queue.retain(|work| keep.contains(&work.launch.attempt));
        let mut effects = Vec::new();
        for (attempt, running) in &mut self.running {
            if !keep.contains(attempt) && !running.fenced {
                running.fenced = true;
                effects.push(Effect::Kill { attempt: *attempt, reason: KillReason::Fenced });
            }
            if restarted && running.start_reported {
                running.start_reported = false;
                self.starts_due.insert((now.ms, *attempt));
            }
        }
        let forgotten: Vec<AttemptRef> =
            self.unacknowledged.keys().filter(|attempt| !keep.contains(attempt)).copied().collect();
        for attempt in &forgotten {
            self.unacknowledged.remove(attempt);
        }
        self.pending.retain(|report| keep.contains(&report.attempt));
        if !forgotten.is_empty() {
            effects.push(Effect::Forget(forgotten));
        }
        if restarted {
            let waiting: BTreeSet<AttemptRef> = self.pending.iter().map(|report| report.attempt).collect();
            let again = self.unacknowledged.values().filter(|report| !waiting.contains(&report.attempt));
            let again: Vec<AttemptReport> = again.cloned().collect();
            self.pending.extend(again);
            self.told_slots = 0;
            effects.push(self.tell_phase());
        }
        self.out(now, effects)
    }

    // ---- tasks ----

    pub fn on_chunk(&mut self, now: Now, chunk: TaskChunk) -> Vec<Effect> {
        let jobs: Vec<Arc<JobPart>> = chunk.jobs.into_iter().map(Arc::new).collect();
        let known: BTreeSet<AttemptRef> = self.inventory().into_iter().collect();
        for launch in chunk.tasks {
            let attempt = launch.attempt;
            // A new leader sends again what it does not know to have arrived.
            if known.contains(&attempt) || self.leaving != Leaving::No {
                continue;
            }
            let job = usize::try_from(launch.job).ok().and_then(|index| jobs.get(index));
            let refusal = match job {
                None => Some("the task chunk is malformed"),
                Some(_) if self.stopping => Some("host stopping"),
                Some(_) if self.phase == NodePhase::Unusable => Some("the node is unusable"),
                Some(_) if launch.slots > self.grant.slots => {
                    Some("the task needs more slots than the node has")
                }
                Some(_) if self.queue.len() >= QUEUE_MAX => Some("the node was given more than it asked for"),
                Some(_) => None,
            };
            match (job, refusal) {
                // What takes no slot waits for none, and others wait for it.
                (Some(job), None) if launch.slots == 0 => {
                    self.queue.push_front(Work { job: Arc::clone(job), launch });
                }
                (Some(job), None) => self.queue.push_back(Work { job: Arc::clone(job), launch }),
                (_, reason) => self.report_unstarted(now, attempt, lost(reason.unwrap_or_default())),
            }
        }
        self.out(now, Vec::new())
    }

    /// An attempt whose process the keeper kept over a restart of the worker.
    pub fn on_adopted(&mut self, work: &Work, started: Now) {
        let running = Running {
            slots: work.launch.slots,
            started,
            retention_ms: work.launch.retention_ms,
            place: work.place(),
            start_reported: true,
            fenced: false,
            clean: false,
        };
        self.running.insert(work.launch.attempt, running);
    }

    /// The attempt has ended, uploads included; its slots are free.
    pub fn on_attempt_ended(
        &mut self,
        now: Now,
        attempt: AttemptRef,
        outcome: AttemptOutcome,
        survivors: u32,
    ) -> Vec<Effect> {
        let Some(running) = self.running.remove(&attempt) else { return Vec::new() };
        if !self.starts_due.remove(&(running.started.ms + SHORT_TASK_MS, attempt)) {
            self.starts_due.retain(|(_, due)| *due != attempt);
        }
        // How soon an attempt was killed or refused says nothing of how long tasks are; a host whose lease had run
        // out would ask for hundreds.
        if !matches!(outcome, AttemptOutcome::Killed { .. } | AttemptOutcome::Lost { .. }) {
            self.prefetch.observe(now.ms.saturating_sub(running.started.ms));
        }
        let mut effects = Vec::new();
        if running.clean {
            effects.push(Effect::RemoveDirectories(vec![running.place.clone()]));
        } else {
            let expires = running.retention_ms.map(|retention_ms| now.time.plus_ms(retention_ms));
            let kept = Kept { task: attempt.task, expires };
            self.retention.keep(running.place.clone(), kept);
            self.notes.push(Note::Kept(running.place, kept));
        }
        if running.fenced {
            effects.push(Effect::Forget(vec![attempt]));
        } else {
            let end = AttemptEnd { at: now.time.max(running.started.time), outcome };
            self.report(AttemptReport { attempt, started: Some(running.started.time), end: Some(end) });
        }
        if survivors > 0 && self.phase != NodePhase::Unusable {
            self.phase = NodePhase::Unusable;
            self.errors.push(NodeError {
                code: "UnkillableProcess".into(),
                message: format!("{survivors} processes of a task did not end when killed"),
                details: vec![("Attempt".into(), attempt.to_string())],
            });
            effects.push(self.tell_phase());
        }
        self.out(now, effects)
    }

    pub fn on_recall(&mut self, now: Now, attempts: Vec<AttemptRef>) -> Vec<Effect> {
        let asked: BTreeSet<AttemptRef> = attempts.into_iter().collect();
        let mut recalled = Vec::new();
        self.queue.retain(|work| {
            let back = asked.contains(&work.launch.attempt);
            if back {
                recalled.push(work.launch.attempt);
            }
            !back
        });
        let tell = HostMessage::Recalled { node: self.grant.node, attempts: recalled };
        self.out(now, vec![Effect::Tell(tell)])
    }

    pub fn on_kill(&mut self, now: Now, attempt: AttemptRef, reason: KillReason) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some(running) = self.running.get_mut(&attempt) {
            running.fenced |= reason == KillReason::Fenced;
            effects.push(Effect::Kill { attempt, reason });
        } else if !self.unacknowledged.contains_key(&attempt) {
            // Queued, or unknown since a restart of the worker: either way it has not run and will not.
            self.queue.retain(|work| work.launch.attempt != attempt);
            if reason != KillReason::Fenced {
                self.report_unstarted(now, attempt, AttemptOutcome::Killed { exit_code: None });
            }
        }
        self.out(now, effects)
    }

    pub fn on_wall_clock(
        &mut self,
        now: Now,
        attempt: AttemptRef,
        wall_clock_ms: Option<u64>,
    ) -> Vec<Effect> {
        if let Some(work) = self.queue.iter_mut().find(|work| work.launch.attempt == attempt) {
            work.launch.wall_clock_ms = wall_clock_ms;
        }
        let known = self.running.contains_key(&attempt);
        let effects = known.then_some(Effect::WallClock { attempt, wall_clock_ms });
        self.out(now, effects.into_iter().collect())
    }

    /// The tasks are deleted: their directories go, but not while they run, and not if another task of the same
    /// name has them now.
    pub fn on_clean(&mut self, now: Now, directories: Vec<TaskDirectory>) -> Vec<Effect> {
        let mut removed = Vec::new();
        for TaskDirectory { job_id, task_id, task } in directories {
            let place = Place { job_id, task_id };
            let mut in_use = false;
            for (attempt, running) in self.running.iter_mut().filter(|(_, running)| running.place == place) {
                in_use = true;
                running.clean |= attempt.task == task;
            }
            if !in_use && self.retention.belongs_to(&place, task) {
                self.retention.forget(&place);
                self.notes.push(Note::Removed(place.clone()));
                removed.push(place);
            }
        }
        let effects = if removed.is_empty() { vec![] } else { vec![Effect::RemoveDirectories(removed)] };
        self.out(now, effects)
    }

    /// The leader has these final reports for good.
    pub fn on_acknowledged(&mut self, now: Now, attempts: &[AttemptRef]) -> Vec<Effect> {
        let known: Vec<AttemptRef> = attempts
            .iter()
            .filter(|attempt| self.unacknowledged.remove(attempt).is_some())
            .copied()
            .collect();
        let effects = if known.is_empty() { vec![] } else { vec![Effect::Forget(known)] };
        self.out(now, effects)
    }

    pub fn on_time(&mut self, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        while let Some((due, attempt)) = self.starts_due.first().copied().filter(|(due, _)| *due <= now.ms) {
            self.starts_due.remove(&(due, attempt));
            if let Some(running) = self.running.get_mut(&attempt).filter(|running| !running.fenced) {
                running.start_reported = true;
                let started = Some(running.started.time);
                self.report(AttemptReport { attempt, started, end: None });
            }
        }
        if self.start_again_ms.is_some_and(|at| at <= now.ms) {
            self.start_again_ms = None;
            if let Some(start) = &mut self.start {
                let run = start.begin(now.time);
                effects.push(Effect::RunStartTask { run });
                effects.push(self.tell_phase());
            }
        }
        if now.ms >= self.swept_ms + SWEEP_EVERY_MS {
            self.swept_ms = now.ms;
            let expired = self.retention.expired(now.time, SWEEP_MAX);
            if !expired.is_empty() {
                self.notes.extend(expired.iter().cloned().map(Note::Removed));
                effects.push(Effect::RemoveDirectories(expired));
            }
        }
        self.out(now, effects)
    }

    // ---- helpers ----

    fn report(&mut self, report: AttemptReport) {
        if report.end.is_some() {
            self.unacknowledged.insert(report.attempt, report.clone());
        }
        self.pending.push(report);
    }

    /// The end of an attempt that never held a slot.
    fn report_unstarted(&mut self, now: Now, attempt: AttemptRef, outcome: AttemptOutcome) {
        let end = Some(AttemptEnd { at: now.time, outcome });
        self.report(AttemptReport { attempt, started: None, end });
    }

    fn tell_phase(&self) -> Effect {
        let info = self.start.as_ref().filter(|start| start.run > 0 || start.is_completed());
        Effect::Tell(HostMessage::Node {
            node: self.grant.node,
            phase: self.phase,
            start_task: info.map(|start| start.info.clone()),
            errors: self.errors.clone(),
        })
    }

    /// Closes a step: starts what fits, reports what is due, asks for more.
    fn out(&mut self, now: Now, mut effects: Vec<Effect>) -> Vec<Effect> {
        self.start_queued(now, &mut effects);
        self.flush(now, &mut effects);
        self.ask(now, &mut effects);
        let start_active = self.start.as_ref().is_some_and(|start| start.active);
        if self.leaving == Leaving::Ending && self.running.is_empty() && !start_active {
            self.leaving = Leaving::Wiping;
            effects.push(Effect::Wipe);
        }
        effects
    }

    fn slots_held(&self) -> u32 {
        self.running.values().map(|running| u32::from(running.slots)).sum()
    }

    /// In the order of arrival, which is the leader's order of priority; a large task at the head is not overtaken.
    fn start_queued(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.phase != NodePhase::Ready || self.stopping || self.leaving != Leaving::No {
            return;
        }
        let mut held = self.slots_held();
        while let Some(work) = self.queue.front() {
            let slots = work.launch.slots;
            // An attempt of the same task may still be on its way out: they share a directory.
            let place = work.place();
            let shared = self.running.values().any(|running| running.place == place);
            if held + u32::from(slots) > u32::from(self.grant.slots) || shared {
                break;
            }
            let Some(work) = self.queue.pop_front() else { break };
            held += u32::from(slots);
            let attempt = work.launch.attempt;
            self.retention.forget(&place);
            self.starts_due.insert((now.ms + SHORT_TASK_MS, attempt));
            let running = Running {
                slots,
                started: now,
                retention_ms: work.launch.retention_ms,
                place,
                start_reported: false,
                fenced: false,
                clean: false,
            };
            self.running.insert(attempt, running);
            effects.push(Effect::Start(Box::new(work)));
        }
    }

    fn flush_due_ms(&self) -> u64 {
        self.flushed_ms + if self.queue.is_empty() { FLUSH_AFTER_MS } else { FLUSH_AFTER_BUSY_MS }
    }

    /// At once after a pause, else gathered for a moment.
    fn flush(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let due = now.ms >= self.flush_due_ms() || self.leaving == Leaving::Ending;
        if self.pending.is_empty() && (self.notes.is_empty() || !due) {
            return;
        }
        if !due && self.pending.len() < FLUSH_AT_COUNT {
            return;
        }
        self.flushed_ms = now.ms;
        if !self.notes.is_empty() {
            effects.push(Effect::Remember(std::mem::take(&mut self.notes)));
        }
        let mut reports = std::mem::take(&mut self.pending);
        while !reports.is_empty() {
            let rest = reports.split_off(reports.len().min(FLUSH_AT_COUNT));
            effects.push(Effect::Tell(HostMessage::Report { node: self.grant.node, attempts: reports }));
            reports = rest;
        }
    }

    fn ask(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.asked_ms = now.ms;
        let node_slots = u32::from(self.grant.slots);
        let open = self.phase == NodePhase::Ready && !self.stopping && self.leaving == Leaving::No;
        let level = if open {
            let youngest_ms = self.running.values().map(|r| now.ms.saturating_sub(r.started.ms)).min();
            let busy = self.slots_held() >= node_slots;
            self.prefetch.level(node_slots, youngest_ms.filter(|_| busy))
        } else {
            0
        };
        if worth_telling(self.told_slots, level, node_slots) {
            self.told_slots = level;
            effects.push(Effect::Tell(HostMessage::Ask { node: self.grant.node, slots: level }));
        }
    }
}

fn lost(reason: &str) -> AttemptOutcome {
    AttemptOutcome::Lost { reason: reason.to_owned() }
}

#[cfg(test)]
mod tests;
