//! The closed loop: state, allocator and dispatcher against hosts that run, fail, restart and forget, with proposals
//! that get lost. Whatever happens, every task ends, nothing runs twice, and pools reach their targets.

use super::{Allocation, Allocator, Decision, Dispatcher};
use crate::state::command::{Action, TaskAdd};
use crate::state::invariants::Watch;
use crate::state::testing::*;
use crate::state::{Deadline, Event, Outcome};
use lote_shared::model::*;
use std::collections::{BTreeMap, VecDeque};

/// Small numbers from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// What a host really does: per node the attempts it queues and runs.
#[derive(Default)]
struct FakeNode {
    queue: VecDeque<(AttemptRef, u32)>,
    running: Vec<(AttemptRef, u32)>,
}

struct Loop {
    w: World,
    dispatcher: Dispatcher,
    allocator: Allocator,
    nodes: BTreeMap<NodeKey, FakeNode>,
    dice: Dice,
    watch: Watch,
    boots: u64,
    /// How often each task ran to its end.
    ends: BTreeMap<TaskKey, u32>,
}

const HOSTS: u64 = 3;
const SLOTS: u16 = 3;

impl Loop {
    fn new(seed: u64) -> Loop {
        let mut w = World::new();
        w.ok(Action::PoolAdd { spec: Box::new(pool_spec("p", 5, SLOTS)) });
        for n in 0..HOSTS {
            w.host(&n.to_string(), 2);
        }
        Loop {
            dispatcher: Dispatcher::new(w.pool_key("p")),
            w,
            allocator: Allocator::default(),
            nodes: BTreeMap::new(),
            dice: Dice(seed),
            watch: Watch::every_step(),
            boots: 1,
            ends: BTreeMap::new(),
        }
    }

    fn act(&mut self, action: Action) -> crate::state::Reply {
        let reply = self.w.act(action);
        self.watch.look(&self.w.cluster).unwrap();
        reply
    }

    fn allocate(&mut self) {
        for decision in self.allocator.plan(self.w.now, &self.w.cluster) {
            let lost = self.dice.below(5) == 0;
            match decision {
                Allocation::Grant { pool, host, node_id, dedicated } => {
                    self.allocator.on_grant_result(pool, host, dedicated);
                    let grant = Action::NodeGrant { pool, host, node_id, dedicated };
                    if !lost && let Ok(Outcome::NodeGranted(node)) = self.act(grant) {
                        self.nodes.insert(node, FakeNode::default());
                        self.ready(node);
                    }
                }
                Allocation::Revoke { node, option } => {
                    self.allocator.on_revoke_result(node);
                    if !lost {
                        let _ = self.act(Action::NodeRevoke { node, option });
                    }
                }
                Allocation::Settle { pool, errors } => {
                    self.allocator.on_settle_result(pool);
                    let _ = self.act(Action::PoolSettled { pool, errors });
                }
            }
        }
    }

    fn ready(&mut self, node: NodeKey) {
        self.w.ready(node);
        let prefetch = self.dice.below(6) as u32;
        self.dispatcher.on_ask(node, u32::from(SLOTS) + prefetch);
    }

    fn dispatch(&mut self) {
        for decision in self.dispatcher.plan(self.w.now, &self.w.cluster) {
            match decision {
                Decision::Assign { node, tasks } => {
                    // Lost before, or answered; an answer may be lost as well, then the host gets the chunk later.
                    if self.dice.below(6) > 0
                        && let Ok(Outcome::Assigned(given)) =
                            self.act(Action::Assign { node, tasks: tasks.clone() })
                    {
                        for attempt in given {
                            let slots = self.w.record(attempt.task).slots;
                            let fake = self.nodes.get_mut(&node).expect("a node that exists");
                            fake.queue.push_back((attempt, u32::from(slots)));
                        }
                    }
                    self.dispatcher.on_assign_result(node, &tasks);
                }
                Decision::Recall { node, attempts } => {
                    for attempt in attempts {
                        self.recall(node, attempt);
                    }
                }
            }
        }
    }

    fn recall(&mut self, node: NodeKey, attempt: AttemptRef) {
        let Some(fake) = self.nodes.get_mut(&node) else { return };
        let before = fake.queue.len();
        fake.queue.retain(|(queued, _)| *queued != attempt);
        if fake.queue.len() < before {
            let _ = self.act(Action::Recalled { node, attempts: vec![attempt] });
        }
    }

    fn kill(&mut self, node: NodeKey, attempt: AttemptRef) {
        let Some(fake) = self.nodes.get_mut(&node) else { return };
        let known = |(held, _): &(AttemptRef, u32)| *held == attempt;
        if fake.queue.iter().any(known) || fake.running.iter().any(known) {
            fake.queue.retain(|held| !known(held));
            fake.running.retain(|held| !known(held));
            self.w.end(node, attempt, killed());
        }
    }

    /// Nodes start what fits and end some of what runs.
    fn work(&mut self) {
        for node in self.nodes.keys().copied().collect::<Vec<_>>() {
            loop {
                let fake = self.nodes.get_mut(&node).expect("a node");
                let used: u32 = fake.running.iter().map(|(_, slots)| slots).sum();
                let fits = fake.queue.front().is_some_and(|(_, slots)| used + slots <= u32::from(SLOTS));
                let Some(next) = fake.queue.pop_front_if(|_| fits) else { break };
                fake.running.push(next);
                self.w.report(node, next.0, true, None);
            }
            while self.dice.below(3) > 0 {
                let Some((attempt, _)) = self.nodes.get_mut(&node).and_then(|fake| fake.running.pop()) else {
                    break;
                };
                let outcome = match self.dice.below(10) {
                    0 => exited(1),
                    1 => AttemptOutcome::Lost { reason: "fault".to_owned() },
                    _ => exited(0),
                };
                if outcome == exited(0) {
                    *self.ends.entry(attempt.task).or_default() += 1;
                }
                self.w.end(node, attempt, outcome);
            }
        }
    }

    /// Hosts restart or are away for a while; sometimes the leader changes.
    fn trouble(&mut self) {
        let n = self.dice.below(HOSTS);
        let host = HostKey(n as u32 + 1);
        let nodes: Vec<_> = self.w.cluster.nodes_on_host(host).map(|node| node.key).collect();
        match self.dice.below(20) {
            0 => {
                self.boots += 1;
                self.w.join(&n.to_string(), 2, self.boots);
                for node in nodes {
                    self.nodes.insert(node, FakeNode::default());
                    self.ready(node);
                }
            }
            1 => {
                // Its keeper ended everything at the deadline.
                let _ = self.act(Action::HostUnknown { host });
                let _ = self.act(Action::HostLost { host });
                let boot = self.w.cluster.host(host).expect("a host").boot.0;
                self.w.join(&n.to_string(), 2, boot);
                for node in nodes {
                    self.nodes.insert(node, FakeNode::default());
                }
            }
            2 => {
                self.w.cluster = self.w.reload();
                self.dispatcher = Dispatcher::new(self.w.pool_key("p"));
                self.allocator = Allocator::default();
                for node in self.w.nodes("p") {
                    self.dispatcher.on_ask(node, u32::from(SLOTS) + 2);
                }
            }
            _ => {}
        }
    }

    fn listen(&mut self) {
        for event in self.w.take_events() {
            match event {
                Event::Kill { node, attempt, .. } => self.kill(node, attempt),
                Event::Recall { node, attempt } => self.recall(node, attempt),
                Event::NodeFreed { node, .. } => self.dispatcher.on_node_changed(node),
                Event::NodeLeaving(node) => {
                    self.nodes.remove(&node);
                    self.dispatcher.on_node_gone(node);
                    let _ = self.act(Action::NodeGone { node });
                }
                _ => {}
            }
        }
        let due: Vec<_> = self.w.cluster.deadlines().take_while(|(at, _)| *at <= self.w.now).collect();
        for (_, deadline) in due {
            if let Deadline::Retry(task) = deadline {
                let _ = self.act(Action::RetryDue { tasks: vec![task] });
            }
        }
        for cursor in self.w.cluster.cursors().collect::<Vec<_>>() {
            let _ = self.act(Action::Continue { cursor });
        }
        self.watch.look(&self.w.cluster).unwrap();
    }

    fn step(&mut self, calm: bool) {
        self.w.pass_ms(self.dice.below(700));
        self.allocate();
        self.dispatch();
        self.work();
        if !calm {
            self.trouble();
        }
        self.listen();
    }
}

fn run(seed: u64) {
    let mut l = Loop::new(seed);
    for (job, priority) in [("a", 0), ("b", 0), ("c", 5)] {
        let max_parallel_tasks = if job == "b" { 4 } else { -1 };
        l.w.job_with(JobSpec {
            priority,
            max_parallel_tasks,
            on_all_tasks_complete: AllTasksAction::TerminateJob,
            ..job_spec(job, "p")
        });
    }
    for n in 0..60 {
        let job = ["a", "b", "c"][n % 3];
        let slots = 1 + l.dice.below(u64::from(SLOTS)) as u16;
        l.w.task_with(job, TaskAdd { slots, max_retry_count: Some(-1), ..task_add(&format!("t{n}")) });
    }
    for n in 0..80 {
        if n == 20 {
            let _ = l.w.resize("p", 3, DeallocationOption::Requeue);
        }
        if n == 40 {
            let _ = l.w.resize("p", 5, DeallocationOption::Requeue);
        }
        l.step(false);
    }
    let mut steps = 0;
    while l.w.cluster.all_jobs().any(|job| job.state != JobState::Completed) {
        l.step(true);
        steps += 1;
        let stuck = || {
            let waiting = l.w.cluster.all_tasks().filter(|task| task.state() != TaskState::Completed);
            waiting
                .map(|task| format!("{task:?}: {:?}", l.w.cluster.explain_task(task.key)))
                .collect::<Vec<_>>()
        };
        assert!(steps < 1_000, "seed {seed} is stuck:\n{}", stuck().join("\n"));
    }
    for task in l.w.cluster.all_tasks() {
        let faults =
            task.failure.as_ref().is_some_and(|failure| failure.code == "MaxInternalRetryCountReached");
        assert!(task.exit_code == Some(0) || faults, "seed {seed}: {task:?}");
        // A result that was told before its task was lost is final; only what was not told may run again.
        let ends = l.ends.get(&task.key).copied().unwrap_or(0);
        assert!(ends == 1 || faults, "seed {seed}: task {} ran {ends} times to its end", task.key);
    }
    let pool = l.w.cluster.pool(l.w.pool_key("p")).expect("the pool");
    assert_eq!(pool.allocation, AllocationState::Steady, "seed {seed}");
    assert_eq!(l.w.cluster.node_counts(pool.key).total(true), pool.target_dedicated, "seed {seed}");
    assert_eq!(l.dispatcher.in_flight(), 0);
}

#[test]
fn every_task_ends_once_whatever_hosts_and_proposals_do() {
    for seed in 0..40 {
        run(seed);
    }
}
