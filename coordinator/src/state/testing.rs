//! Test support, not for production code: clusters with pools, nodes, jobs and tasks in a line each.
//!
//! A [`World`] owns a [`Cluster`], the rows a store would hold, the log of applied commands, and a clock that only
//! moves when told. Its helpers panic on refusals, because a test that expects one calls [`World::act`].

use super::command::{Action, Admission, Command, Condition, IdempotencyKey, TaskAdd};
use super::version::NEWEST;
use super::{Batch, Cluster, Event, NodeRecord, Outcome, RefusalCode, Reply, Stamp, TaskRecord};
use lote_shared::model::*;
use lote_shared::protocol::host::{AttemptEnd, AttemptReport, NodePhase};
use std::collections::BTreeMap;

/// The account all helpers use.
pub const ACCOUNT: AccountId = AccountId(1);
pub const START: Timestamp = Timestamp(1_700_000_000_000);

/// A cluster, its rows, its log.
#[derive(Debug)]
pub struct World {
    pub cluster: Cluster,
    pub now: Timestamp,
    pub rows: BTreeMap<Vec<u8>, Vec<u8>>,
    pub log: Vec<(Stamp, Command)>,
    /// Events since they were last taken.
    pub events: Vec<Event>,
}

impl Default for World {
    fn default() -> Self {
        World::new()
    }
}

pub fn pool_id(id: &str) -> PoolId {
    PoolId::new(id).expect("a pool id")
}

pub fn job_id(id: &str) -> JobId {
    JobId::new(id).expect("a job id")
}

pub fn task_id(id: &str) -> TaskId {
    TaskId::new(id).expect("a task id")
}

/// A pool as most tests want it: no nodes yet, `slots` per node.
pub fn pool_spec(id: &str, target: u32, slots: u16) -> PoolSpec {
    PoolSpec {
        id: pool_id(id),
        vm_size: "standard_a1_v2".to_owned(),
        target_dedicated: target,
        target_low_priority: 0,
        resize_timeout: Span::from_secs(900),
        task_slots_per_node: slots,
        fill_type: FillType::Spread,
        job_order: JobOrder::None,
        inter_node_communication: false,
        image_servable: true,
        cold: PoolCold::default(),
    }
}

pub fn job_spec(id: &str, pool: &str) -> JobSpec {
    JobSpec {
        id: job_id(id),
        pool: pool_id(pool),
        priority: 0,
        max_parallel_tasks: -1,
        constraints: JobConstraints::default(),
        on_all_tasks_complete: AllTasksAction::NoAction,
        on_task_failure: TaskFailureAction::NoAction,
        uses_task_dependencies: false,
        allow_task_preemption: false,
        cold: JobCold::default(),
    }
}

/// A task that needs one slot and runs `true`.
pub fn task_add(id: &str) -> TaskAdd {
    TaskAdd {
        spec: TaskSpec {
            id: task_id(id),
            display_name: None,
            command_line: "true".to_owned(),
            resource_files: Vec::new(),
            output_files: Vec::new(),
            environment: Vec::new(),
            user_identity: UserIdentity::default(),
            affinity_id: String::new(),
            echo: String::new(),
        },
        slots: 1,
        max_wall_clock: Span::UNLIMITED,
        retention: TaskConstraints::DEFAULT_RETENTION,
        max_retry_count: None,
    }
}

/// The admission of a worker on any machine.
pub fn worker(peer: &str) -> Admission {
    Admission {
        peer: peer.to_owned(),
        role: MemberRole::Worker,
        name: peer.to_owned(),
        addresses: Vec::new(),
        endpoints: None,
        machine: String::new(),
        replaces: None,
    }
}

/// The admission of a coordinator.
pub fn coordinator(peer: &str) -> Admission {
    let addresses = vec!["/ip4/10.0.0.1/tcp/11010".to_owned()];
    Admission { role: MemberRole::Coordinator, addresses, ..worker(peer) }
}

pub fn capacity(cores: u32) -> HostCapacity {
    HostCapacity { cores, memory_mib: u64::from(cores) * 2_048, disk_mib: 100_000, labels: Vec::new() }
}

pub fn exited(code: i32) -> AttemptOutcome {
    AttemptOutcome::Exited { exit_code: code, upload: None }
}

pub fn killed() -> AttemptOutcome {
    AttemptOutcome::Killed { exit_code: Some(143) }
}

/// The code of a refusal.
pub fn code(reply: Reply) -> RefusalCode {
    reply.expect_err("a refusal").code
}

impl World {
    /// A cluster with the account `lote`, as one that was founded by this build.
    pub fn new() -> World {
        let mut world = World::before_versions();
        world.ok(Action::VersionRaise { to: NEWEST, witnesses: Vec::new() });
        world
    }

    /// As a build left it that knew nothing of versions.
    pub fn before_versions() -> World {
        let mut world = World {
            cluster: Cluster::new(),
            now: START,
            rows: BTreeMap::new(),
            log: Vec::new(),
            events: Vec::new(),
        };
        world.ok(Action::AccountAdd { name: "lote".to_owned(), keys: vec![b"key".to_vec()] });
        world
    }

    /// Applies a command of its own entry with a fresh idempotency key.
    pub fn act(&mut self, action: Action) -> Reply {
        let key = IdempotencyKey(self.log.len() as u128 + 1);
        self.apply(Command { account: ACCOUNT, key, action })
    }

    pub fn apply(&mut self, command: Command) -> Reply {
        let stamp = Stamp { index: self.log.len() as u64 + 1, now: self.now };
        let mut batch = Batch::default();
        let reply = self.cluster.apply(stamp, &command, &mut batch);
        for (key, value) in batch.writes {
            match value {
                Some(value) => self.rows.insert(key, value),
                None => self.rows.remove(&key),
            };
        }
        self.events.extend(batch.events);
        self.log.push((stamp, command));
        reply
    }

    /// Applies and expects success.
    pub fn ok(&mut self, action: Action) -> Outcome {
        let shown = format!("{action:?}");
        self.act(action).unwrap_or_else(|refusal| panic!("{shown} was refused: {refusal}"))
    }

    pub fn pass_ms(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
    }

    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// A joined host of that name; its boot id is 1.
    pub fn host(&mut self, name: &str, cores: u32) -> HostKey {
        self.join(name, cores, 1)
    }

    pub fn join(&mut self, name: &str, cores: u32, boot: u64) -> HostKey {
        let peer = format!("peer-{name}");
        if self.cluster.member(&peer).is_none() {
            self.ok(Action::MemberAdmit { token: None, admission: Box::new(worker(&peer)) });
        }
        let action = Action::HostPresented {
            peer,
            name: name.to_owned(),
            boot: BootId(boot),
            capacity: capacity(cores),
            address: "127.0.0.1".to_owned(),
            software: "0.1.0".to_owned(),
            machine: String::new(),
        };
        match self.ok(action) {
            Outcome::HostJoined(key) => key,
            other => panic!("{other:?}"),
        }
    }

    /// A pool with `nodes` ready nodes, each on a host of its own.
    pub fn pool(&mut self, id: &str, nodes: u32, slots: u16) -> PoolKey {
        self.pool_with(pool_spec(id, nodes, slots))
    }

    /// As [`World::pool`]; the nodes follow the specification's targets.
    pub fn pool_with(&mut self, spec: PoolSpec) -> PoolKey {
        let id = spec.id.clone();
        let (dedicated, low) = (spec.target_dedicated, spec.target_low_priority);
        self.ok(Action::PoolAdd { spec: Box::new(spec) });
        let key = self.pool_key(id.as_str());
        for n in 0..dedicated + low {
            let host = self.host(&format!("{id}-host-{n}"), 4);
            let node = self.grant(key, host, n < dedicated);
            self.ready(node);
        }
        key
    }

    pub fn grant(&mut self, pool: PoolKey, host: HostKey, dedicated: bool) -> NodeKey {
        let number = self.cluster.pool(pool).map_or(0, |pool| pool.next_node_number);
        let node_id = format!("tvm-{pool}_{number}-20231114t221320z");
        match self.ok(Action::NodeGrant { pool, host, node_id, dedicated }) {
            Outcome::NodeGranted(key) => key,
            other => panic!("{other:?}"),
        }
    }

    pub fn phase(&mut self, node: NodeKey, phase: NodePhase) {
        self.ok(Action::NodeReport { node, phase, start_task: None, errors: Vec::new() });
    }

    pub fn ready(&mut self, node: NodeKey) {
        self.phase(node, NodePhase::Starting);
        self.phase(node, NodePhase::Ready);
    }

    pub fn pool_key(&self, id: &str) -> PoolKey {
        self.cluster.pool_by_id(ACCOUNT, &pool_id(id)).expect("the pool").key
    }

    /// Nodes of a pool in list order.
    pub fn nodes(&self, pool: &str) -> Vec<NodeKey> {
        self.cluster.nodes_of(self.pool_key(pool), None).map(|node| node.key).collect()
    }

    pub fn node(&self, key: NodeKey) -> &NodeRecord {
        self.cluster.node(key).expect("the node")
    }

    pub fn job(&mut self, id: &str, pool: &str) -> JobKey {
        self.job_with(job_spec(id, pool))
    }

    pub fn job_with(&mut self, spec: JobSpec) -> JobKey {
        let id = spec.id.clone();
        self.ok(Action::JobAdd { spec: Box::new(spec) });
        self.cluster.job_by_id(ACCOUNT, &id).expect("the job").key
    }

    pub fn job_record(&self, id: &str) -> &super::JobRecord {
        self.cluster.job_by_id(ACCOUNT, &job_id(id)).expect("the job")
    }

    /// Adds a task of one slot.
    pub fn task(&mut self, job: &str, id: &str) -> TaskKey {
        self.task_with(job, task_add(id))
    }

    pub fn task_with(&mut self, job: &str, task: TaskAdd) -> TaskKey {
        let id = task.spec.id.clone();
        match self.ok(Action::TasksAdd { job: job_id(job), tasks: vec![task] }) {
            Outcome::TasksAdded(results) => assert!(results.iter().all(|(_, r)| r.is_ok()), "{results:?}"),
            other => panic!("{other:?}"),
        }
        self.task_named(job, id.as_str()).key
    }

    /// Adds tasks `t0` … in batches of 100.
    pub fn tasks(&mut self, job: &str, count: usize) -> Vec<TaskKey> {
        let adds: Vec<_> = (0..count).map(|n| task_add(&format!("t{n}"))).collect();
        for chunk in adds.chunks(100) {
            self.ok(Action::TasksAdd { job: job_id(job), tasks: chunk.to_vec() });
        }
        (0..count).map(|n| self.task_named(job, &format!("t{n}")).key).collect()
    }

    pub fn task_named(&self, job: &str, id: &str) -> &TaskRecord {
        let job = self.job_record(job).key;
        self.cluster.task_by_id(job, &task_id(id)).expect("the task")
    }

    pub fn record(&self, task: TaskKey) -> &TaskRecord {
        self.cluster.task(task).expect("the task")
    }

    /// Gives tasks to a node; answers those that were taken.
    pub fn assign(&mut self, node: NodeKey, tasks: &[TaskKey]) -> Vec<AttemptRef> {
        match self.ok(Action::Assign { node, tasks: tasks.to_vec() }) {
            Outcome::Assigned(given) => given,
            other => panic!("{other:?}"),
        }
    }

    /// Reports one attempt.
    pub fn report(&mut self, node: NodeKey, attempt: AttemptRef, started: bool, end: Option<AttemptOutcome>) {
        let at = self.now;
        let report = AttemptReport {
            attempt,
            started: started.then_some(at),
            end: end.map(|outcome| AttemptEnd { at, outcome }),
        };
        self.ok(Action::Report { node, attempts: vec![report] });
    }

    /// Gives a task to a node and has it start there.
    pub fn run(&mut self, node: NodeKey, task: TaskKey) -> AttemptRef {
        let given = self.assign(node, &[task]);
        assert_eq!(
            given.len(),
            1,
            "task {task} was not given to node {node}: {:?}",
            self.cluster.explain_task(task)
        );
        self.report(node, given[0], true, None);
        given[0]
    }

    pub fn end(&mut self, node: NodeKey, attempt: AttemptRef, outcome: AttemptOutcome) {
        self.report(node, attempt, false, Some(outcome));
    }

    pub fn exit(&mut self, node: NodeKey, attempt: AttemptRef, exit_code: i32) {
        self.end(node, attempt, exited(exit_code));
    }

    /// Has every node do what the events since the last call asked: ended attempts are reported as killed, unstarted
    /// ones given back, leaving nodes wiped; and runs every cursor to its end.
    pub fn obey(&mut self) {
        loop {
            let cursors: Vec<_> = self.cluster.cursors().collect();
            for cursor in &cursors {
                self.ok(Action::Continue { cursor: *cursor });
            }
            let events = self.take_events();
            if events.is_empty() && cursors.is_empty() {
                return;
            }
            for event in events {
                match event {
                    Event::Kill { node, attempt, .. } if self.cluster.node(node).is_some() => {
                        self.end(node, attempt, killed());
                    }
                    Event::Recall { node, attempt } => {
                        self.ok(Action::Recalled { node, attempts: vec![attempt] });
                    }
                    Event::NodeLeaving(node) if self.cluster.node(node).is_some() => {
                        self.ok(Action::NodeGone { node });
                    }
                    _ => {}
                }
            }
        }
    }

    pub fn disable(&mut self, job: &str, tasks: DisableTasks) -> Reply {
        self.act(Action::JobDisable { job: job_id(job), condition: Condition::default(), tasks })
    }

    pub fn enable(&mut self, job: &str) -> Reply {
        self.act(Action::JobEnable { job: job_id(job), condition: Condition::default() })
    }

    pub fn terminate(&mut self, job: &str) -> Reply {
        let condition = Condition::default();
        self.act(Action::JobTerminate { job: job_id(job), condition, reason: None, force: false })
    }

    pub fn delete(&mut self, job: &str) -> Reply {
        self.act(Action::JobDelete { job: job_id(job), condition: Condition::default(), force: false })
    }

    pub fn terminate_task(&mut self, job: &str, task: &str) -> Reply {
        let condition = Condition::default();
        self.act(Action::TaskTerminate { job: job_id(job), task: task_id(task), condition })
    }

    pub fn reactivate(&mut self, job: &str, task: &str) -> Reply {
        let condition = Condition::default();
        self.act(Action::TaskReactivate { job: job_id(job), task: task_id(task), condition })
    }

    pub fn resize(&mut self, pool: &str, dedicated: u32, option: DeallocationOption) -> Reply {
        self.act(Action::PoolResize {
            pool: pool_id(pool),
            condition: Condition::default(),
            dedicated: Some(dedicated),
            low_priority: None,
            timeout: Span::from_secs(900),
            option,
        })
    }

    /// The same cluster rebuilt from the rows.
    pub fn reload(&self) -> Cluster {
        let rows = self.rows.iter().map(|(key, value)| (key.clone(), value.clone()));
        Cluster::load(rows).expect("rows that load")
    }
}
