//! A client of the interface: makes the pool, the job and the tasks, and remembers what was acknowledged. A request
//! that is not answered is made again, as the SDKs do, so an add may be applied twice.

use crate::coordinator::{Coordinator, Waiter};
use crate::oracle::Oracle;
use crate::scenario::Scenario;
use crate::simulation::{Event, World};
use crate::world::Source;
use lote_coordinator::state::command::TaskAdd;
use lote_coordinator::state::{Action, Cluster, Outcome, RefusalCode, Reply, keys};
use lote_shared::model::{
    AccountId, AllTasksAction, FillType, JobCold, JobConstraints, JobId, JobOrder, JobSpec, PoolCold, PoolId,
    PoolSpec, Span, TaskConstraints, TaskFailureAction, TaskId, TaskSpec, UserIdentity,
};
use std::collections::BTreeSet;

/// The first account.
const ACCOUNT: AccountId = AccountId(1);
const TIMEOUT_MS: u64 = 3_000;
const RETRY_MS: u64 = 250;

#[derive(Debug)]
pub enum Timer {
    Next,
    /// A request reaches the coordinator.
    Request(u64),
    Answer(u64, Box<Reply>),
    Timeout(u64),
}

#[derive(Debug)]
pub struct Client {
    steps: Vec<(AccountId, Action)>,
    at: usize,
    request: u64,
    acknowledged: BTreeSet<String>,
    done_at_ms: Option<u64>,
}

impl Client {
    pub fn new(scenario: &Scenario) -> Client {
        let (acknowledged, done_at_ms) = (BTreeSet::new(), None);
        Client { steps: steps(scenario), at: 0, request: 0, acknowledged, done_at_ms }
    }

    /// When the last request was answered.
    pub fn done_at_ms(&self) -> Option<u64> {
        self.done_at_ms
    }

    pub fn on_timer(&mut self, world: &mut World, coordinator: &mut Coordinator, timer: Timer) {
        match timer {
            Timer::Next => {
                self.request += 1;
                let way_ms = world.scenario.cluster.delay_ms.draw(&mut world.chance);
                world.in_ms(way_ms, Event::Client(Timer::Request(self.request)));
                world.in_ms(TIMEOUT_MS, Event::Client(Timer::Timeout(self.request)));
            }
            Timer::Request(request) if request == self.request => {
                if let Some((account, action)) = self.steps.get(self.at)
                    && coordinator.is_up()
                {
                    coordinator.propose(world, *account, action.clone(), Waiter::Client(request));
                }
            }
            Timer::Answer(request, reply) if request == self.request => {
                world.note(Source::Client, "answer", &request.to_le_bytes(), || format!("{reply:?}"));
                let next = self.answered(world.now_ms(), &reply);
                let wait_ms = if next { 1 } else { RETRY_MS };
                self.request += 1;
                if self.done_at_ms.is_none() {
                    world.in_ms(wait_ms, Event::Client(Timer::Next));
                }
            }
            Timer::Timeout(request) if request == self.request => {
                world.note(Source::Client, "timeout", &request.to_le_bytes(), String::new);
                world.in_ms(RETRY_MS, Event::Client(Timer::Next));
            }
            Timer::Request(_) | Timer::Answer(..) | Timer::Timeout(_) => {}
        }
    }

    /// Takes an answer; whether it goes on with the next step.
    fn answered(&mut self, now_ms: u64, reply: &Reply) -> bool {
        let there = |code: RefusalCode| {
            matches!(code, RefusalCode::PoolExists | RefusalCode::JobExists | RefusalCode::TaskExists)
        };
        let fine = match reply {
            Ok(Outcome::TasksAdded(added)) => {
                let good = |result: &Result<_, lote_coordinator::state::Refusal>| match result {
                    Ok(_) => true,
                    Err(refusal) => there(refusal.code),
                };
                let ids = added.iter().filter(|(_, result)| good(result)).map(|(id, _)| id.to_string());
                let before = self.acknowledged.len();
                self.acknowledged.extend(ids);
                self.acknowledged.len() - before == added.len()
            }
            Ok(_) => true,
            Err(refusal) => there(refusal.code),
        };
        if fine {
            self.at += 1;
            if self.at == self.steps.len() {
                self.done_at_ms = Some(now_ms);
            }
        }
        fine
    }

    /// No acknowledged add is lost.
    pub fn check(&self, oracle: &mut Oracle, now_ms: u64, cluster: &Cluster) {
        let there: BTreeSet<&str> = cluster.all_tasks().map(|task| task.id.as_str()).collect();
        let lost = self.acknowledged.iter().find(|id| !there.contains(id.as_str()));
        if let Some(id) = lost {
            oracle.violated(
                now_ms,
                "no_acknowledged_write_lost",
                format!("task `{id}` was acknowledged and is gone"),
            );
        }
        if self.done_at_ms.is_none() {
            oracle.violated(now_ms, "everything_finishes", format!("the client is at step {}", self.at));
        }
    }
}

fn steps(scenario: &Scenario) -> Vec<(AccountId, Action)> {
    let pool = PoolId::new("pool").expect("a valid name");
    let job = JobId::new("job").expect("a valid name");
    let account = Action::AccountAdd { name: "simulated".to_owned(), keys: vec![vec![7; 32]] };
    let pool_spec = PoolSpec {
        id: pool.clone(),
        vm_size: scenario.pool.vm_size.clone(),
        target_dedicated: scenario.pool.nodes,
        target_low_priority: 0,
        resize_timeout: Span::from_secs(3_600),
        task_slots_per_node: scenario.pool.slots_per_node,
        fill_type: FillType::Spread,
        job_order: JobOrder::None,
        inter_node_communication: false,
        image_servable: true,
        cold: PoolCold::default(),
    };
    let job_spec = JobSpec {
        id: job.clone(),
        pool,
        priority: 0,
        max_parallel_tasks: -1,
        constraints: JobConstraints {
            max_wall_clock: Span::UNLIMITED,
            max_task_retry_count: scenario.job.max_retry_count,
        },
        on_all_tasks_complete: AllTasksAction::NoAction,
        on_task_failure: TaskFailureAction::NoAction,
        uses_task_dependencies: false,
        allow_task_preemption: false,
        cold: JobCold::default(),
    };
    let mut steps = vec![
        (keys::CLUSTER, account),
        (ACCOUNT, Action::PoolAdd { spec: Box::new(pool_spec) }),
        (ACCOUNT, Action::JobAdd { spec: Box::new(job_spec) }),
    ];
    let numbers: Vec<u32> = (0..scenario.job.tasks).collect();
    for call in numbers.chunks(scenario.job.tasks_per_call as usize) {
        let tasks = call.iter().map(|number| task(scenario, *number)).collect();
        steps.push((ACCOUNT, Action::TasksAdd { job: job.clone(), tasks }));
    }
    steps
}

fn task(scenario: &Scenario, number: u32) -> TaskAdd {
    let spec = TaskSpec {
        id: TaskId::new(&format!("t{number:07}")).expect("a valid name"),
        display_name: None,
        command_line: "simulated".to_owned(),
        resource_files: Vec::new(),
        output_files: Vec::new(),
        environment: Vec::new(),
        user_identity: UserIdentity::default(),
        affinity_id: String::new(),
        echo: String::new(),
    };
    let wall_clock_ms = i64::try_from(scenario.job.wall_clock_ms).unwrap_or(i64::MAX);
    let max_wall_clock = if wall_clock_ms == 0 { Span::UNLIMITED } else { Span::from_ms(wall_clock_ms) };
    TaskAdd {
        spec,
        slots: 1,
        max_wall_clock,
        retention: TaskConstraints::DEFAULT_RETENTION,
        max_retry_count: None,
    }
}
