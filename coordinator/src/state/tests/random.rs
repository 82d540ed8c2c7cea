//! Random histories, sensible and nonsensical: the state never panics, the invariants hold after every command, what is
//! rebuilt from the rows equals what was there, and the same log gives the same rows.

use crate::state::command::{
    Action, Admission, Command, Condition, CursorKey, IdempotencyKey, JobPatch, PackageChange, PoolPatch,
    ScheduleChange, SchedulePatch, TaskAdd, TokenClaim,
};
use crate::state::invariants::Watch;
use crate::state::testing::*;
use crate::state::version::{self, Witness};
use crate::state::{
    Batch, ChoreKind, ChorePlace, Cluster, ClusterSettings, ClusterVersion, Ending, MemberRecord, TaskPlace,
    TaskRecord,
};
use lote_shared::model::*;
use lote_shared::protocol::host::{AttemptEnd, AttemptReport, NodePhase};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Numbers that an action is made of; taken modulo what there is, with a little room for what there is not.
type Op = (u8, u16, u16, u16);

const OPTIONS: [DeallocationOption; 4] = [
    DeallocationOption::Requeue,
    DeallocationOption::Terminate,
    DeallocationOption::TaskCompletion,
    DeallocationOption::RetainedData,
];
const DISABLES: [DisableTasks; 3] = [DisableTasks::Wait, DisableTasks::Requeue, DisableTasks::Terminate];
const PHASES: [NodePhase; 8] = [
    NodePhase::Starting,
    NodePhase::WaitingForStartTask,
    NodePhase::StartTaskFailed,
    NodePhase::Unusable,
    NodePhase::Ready,
    NodePhase::Ready,
    NodePhase::Ready,
    NodePhase::Ready,
];

fn pick<T: Copy>(from: &[T], n: u16) -> T {
    from[usize::from(n) % from.len()]
}

fn outcome(n: u16) -> AttemptOutcome {
    match n % 8 {
        0 | 1 => exited(0),
        2 | 3 => exited(1),
        4 => AttemptOutcome::NotStarted(FailureInfo::user("BlobNotFound", "gone")),
        5 => AttemptOutcome::WallClock { exit_code: Some(137) },
        6 => killed(),
        _ => AttemptOutcome::Lost { reason: "test".to_owned() },
    }
}

/// Attempts to speak of: mostly those that nodes hold.
fn attempts(cluster: &Cluster, node: NodeKey, a: u16, b: u16) -> Vec<AttemptRef> {
    let held: Vec<_> = cluster.attempts_on(node).map(|held| held.attempt).collect();
    let count = usize::from(b % 4) + 1;
    let mut out: Vec<_> =
        held.iter().cycle().skip(usize::from(a)).take(count.min(held.len())).copied().collect();
    if b.is_multiple_of(5) {
        out.push(AttemptRef { task: TaskKey(u64::from(a % 40)), attempt: Attempt(u32::from(b % 4)) });
    }
    out
}

/// Members come and go. Workers mostly stay, or nothing would ever run.
fn membership(cluster: &Cluster, a: u16, b: u16, c: u16) -> Action {
    let token = TokenId(u64::from(c % 5));
    let coordinator = format!("c-{}", a % 9);
    match b % 13 {
        0..=5 => {
            let worker_wanted = b % 13 < 3;
            let role = if worker_wanted { MemberRole::Worker } else { MemberRole::Coordinator };
            let peer = if worker_wanted { format!("peer-{}", a % 4) } else { coordinator };
            let secret_hash = [u8::from(c.is_multiple_of(7)); 32];
            let token = a.is_multiple_of(2).then_some(TokenClaim { token, secret_hash });
            let replaces = c.is_multiple_of(8).then(|| (c % 9).to_string());
            let admission = Box::new(Admission { role, replaces, ..worker(&peer) });
            Action::MemberAdmit { token, admission }
        }
        6 | 7 => Action::TokenAdd {
            token,
            secret_hash: [0; 32],
            role: if a.is_multiple_of(3) { MemberRole::Coordinator } else { MemberRole::Worker },
            expires: cluster.clock().plus_ms(u64::from(a)),
            uses: u32::from(a % 3),
            note: String::new(),
        },
        9 if c.is_multiple_of(8) => Action::MemberRemove { peer: format!("peer-{}", a % 4) },
        8 if c.is_multiple_of(16) => {
            Action::HostDrain { peer: format!("peer-{}", a % 4), forced: c.is_multiple_of(32) }
        }
        8 => Action::TokenRevoke { token },
        // A recovery, now and then under a number that was given.
        10 if c.is_multiple_of(8) => {
            let member = (cluster.last_member() + u64::from(a % 3)).saturating_sub(u64::from(c % 3));
            Action::CoordinatorFounded {
                admission: Box::new(crate::state::testing::coordinator(&coordinator)),
                member,
            }
        }
        9 if c.is_multiple_of(3) => Action::CoordinatorLeave { peer: coordinator },
        10 if c.is_multiple_of(3) => Action::CoordinatorLeft { peer: coordinator },
        9 | 10 => Action::MemberRemove { peer: coordinator },
        11 => match c % 4 {
            0 => Action::VersionHold,
            1 | 2 => Action::VersionRelease,
            _ => {
                let supported = version::SUPPORTED;
                let witness = |member: &MemberRecord| Witness { peer: member.peer.clone(), supported };
                let to = ClusterVersion(u32::from(a) % (version::NEWEST.0 + 1));
                Action::VersionRaise { to, witnesses: cluster.coordinators().map(witness).collect() }
            }
        },
        _ => {
            let cluster_id = (a % 2).to_string();
            let settings = ClusterSettings { cluster_id, lease_ms: 2_000, ca_certificate: String::new() };
            Action::ClusterInit { settings: Box::new(settings) }
        }
    }
}

/// Schedules come, change and go.
fn schedule(cluster: &Cluster, a: u16, b: u16, c: u16) -> Action {
    let id = ScheduleId::new(&format!("s{}", a % 2)).expect("a name");
    let recurrence = Recurrence {
        not_before: c.is_multiple_of(4).then(|| cluster.clock().plus_ms(u64::from(c) * 10)),
        not_after: c.is_multiple_of(7).then(|| cluster.clock().plus_ms(u64::from(a) * 100)),
        start_window: c.is_multiple_of(3).then(|| Span::from_ms(i64::from(a))),
        interval: (!c.is_multiple_of(5)).then(|| Span::from_ms(i64::from(b % 5_000))),
    };
    let condition = Condition::default();
    let change =
        |change| Action::ScheduleChange { schedule: id.clone(), condition: condition.clone(), change };
    match b % 8 {
        0 | 1 => {
            let cold = ScheduleCold { display_name: None, metadata: Vec::new(), job: job_spec("any", "p0") };
            let spec = Box::new(ScheduleSpec { id, recurrence, cold });
            match a % 3 {
                0 => Action::ScheduleAddWith { spec, extras: extras(c / 3) },
                _ => Action::ScheduleAdd { spec },
            }
        }
        6 if c.is_multiple_of(3) => {
            let patch = SchedulePatch { job: Some(job_spec("any", "p0")), ..SchedulePatch::default() };
            Action::SchedulePatchWith { schedule: id, condition, patch: Box::new(patch), extras: extras(a) }
        }
        2 => change(ScheduleChange::Disable),
        3 => change(ScheduleChange::Enable),
        4 if c.is_multiple_of(3) => change(ScheduleChange::Terminate { force: a.is_multiple_of(2) }),
        5 if c.is_multiple_of(3) => change(ScheduleChange::Delete),
        6 => {
            let patch = SchedulePatch { recurrence: Some(recurrence), ..SchedulePatch::default() };
            change(ScheduleChange::Patch(Box::new(patch)))
        }
        _ => Action::ScheduleCheck { schedule: ScheduleKey(u32::from(a % 6)) },
    }
}

/// What a job may have beyond its spec.
fn extras(n: u16) -> Vec<JobExtra> {
    let add = task_add(&names(n));
    let manager = || ManagerTask {
        spec: add.spec.clone(),
        slots: n % 3 + 1,
        max_wall_clock: Span::UNLIMITED,
        retention: Span::UNLIMITED,
        max_retry_count: n.is_multiple_of(2).then_some(1),
        kill_job_on_completion: n.is_multiple_of(3),
        run_exclusive: n.is_multiple_of(5),
        allow_low_priority_node: !n.is_multiple_of(7),
        extras: if n.is_multiple_of(11) { vec![TaskExtra::Token] } else { Vec::new() },
    };
    let preparation = || PreparationTask {
        spec: task_add("prepare").spec,
        constraints: TaskConstraints { max_retry_count: i32::from(n % 3), ..TaskConstraints::default() },
        wait_for_success: !n.is_multiple_of(4),
        rerun_on_reboot: n.is_multiple_of(2),
    };
    let release = || ReleaseTask {
        spec: task_add("release").spec,
        max_wall_clock: Span::from_secs(60),
        retention: Span::default(),
    };
    let mut extras = Vec::new();
    if n.is_multiple_of(4) {
        extras.push(JobExtra::Manager(Box::new(manager())));
    }
    if n.is_multiple_of(2) {
        extras.push(JobExtra::Preparation(Box::new(preparation())));
        if !n.is_multiple_of(3) {
            extras.push(JobExtra::Release(Box::new(release())));
        }
    }
    if n.is_multiple_of(8) {
        extras.push(JobExtra::AutoPool(Box::new(auto_pool(n))));
    }
    extras
}

fn auto_pool(n: u16) -> AutoPool {
    let lifetime = if n.is_multiple_of(3) { PoolLifetime::JobSchedule } else { PoolLifetime::Job };
    let extras = if n.is_multiple_of(9) { packages(n) } else { Vec::new() };
    AutoPool {
        prefix: "x".to_owned(),
        lifetime,
        keep_alive: n.is_multiple_of(5),
        pool: pool_spec("any", u32::from(n % 2), 2),
        extras: extras.into_iter().map(|reference| PoolExtra::Packages(vec![reference])).collect(),
    }
}

fn packages(n: u16) -> Vec<PackageReference> {
    let application = ApplicationId::new(&format!("a{}", n % 2)).expect("a name");
    let version = n.is_multiple_of(3).then(|| PackageVersion::new(&format!("{}.0", n % 3)).expect("a name"));
    vec![PackageReference { application, version }]
}

/// Applications, and pools and tasks that have packages.
fn application(a: u16, b: u16, c: u16) -> Action {
    let application = ApplicationId::new(&format!("a{}", a % 3)).expect("a name");
    let version = PackageVersion::new(&format!("{}.0", b % 3)).expect("a name");
    let change = match c % 8 {
        0..=3 => PackageChange::Activate {
            version,
            container: "c".to_owned(),
            blob: "b".to_owned(),
            is_default: b.is_multiple_of(2),
        },
        4 => PackageChange::Delete { version },
        5 => PackageChange::Remove,
        6 => {
            let extras = vec![PoolExtra::Packages(packages(b))];
            let spec = Box::new(pool_spec(&format!("p{}", a % 2), u32::from(b % 2), 2));
            return Action::PoolAddWith { spec, extras };
        }
        _ if b.is_multiple_of(2) => {
            return Action::PoolPatchWith {
                pool: pool_id(&format!("p{}", a % 2)),
                condition: Condition::default(),
                patch: Box::default(),
                packages: packages(a),
            };
        }
        _ => PackageChange::Settings {
            display_name: Some(Some("A".to_owned())),
            allow_updates: Some(!b.is_multiple_of(3)),
            default_version: Some(Some(version)),
        },
    };
    Action::ApplicationChange { application, change }
}

/// Names some of which are numbers, in more than one form.
fn names(n: u16) -> String {
    match n % 12 {
        number @ 0..6 => number.to_string(),
        number @ 6..9 => format!("0{}", number - 5),
        number => format!("t{number}"),
    }
}

/// Some of everything a task can be tied to.
fn ties(n: u16) -> TaskTies {
    let ids = (0..(n % 5).saturating_sub(3)).map(|at| task_id(&names(n / 3 + at * 5))).collect();
    let ranges = (0..(n % 3).saturating_sub(1)).map(|_| {
        let start = i32::from(n / 7 % 5);
        TaskIdRange { start, end: start + i32::from(n % 4) }
    });
    let depends_on = DependsOn { ids, ranges: ranges.collect() };
    let options = ExitOptions {
        job: None,
        dependency: Some(if n.is_multiple_of(3) {
            DependencyAction::Block
        } else {
            DependencyAction::Satisfy
        }),
    };
    let conditions =
        || ExitConditions { default: Some(options), codes: vec![(0, options)], ..Default::default() };
    TaskTies { depends_on, exit_conditions: n.is_multiple_of(5).then(conditions) }
}

fn action(cluster: &Cluster, (kind, a, b, c): Op) -> Action {
    let pool = pool_id(&format!("p{}", a % 2));
    let job = match a % 8 {
        7 => job_id(&format!("s{}:job-{}", b % 2, c % 4)),
        n => job_id(&format!("j{}", n % 3)),
    };
    let task = task_id(&names(b));
    let condition = match c % 16 {
        0 => Condition { if_match: Some(vec!["0x1".to_owned()]), ..Condition::default() },
        _ => Condition::default(),
    };
    let nodes: Vec<_> = cluster.all_nodes().map(|node| node.key).chain([NodeKey(77)]).collect();
    let accepting: Vec<_> = nodes.iter().copied().filter(|node| cluster.node_accepts(*node)).collect();
    let node =
        if accepting.is_empty() || c.is_multiple_of(5) { pick(&nodes, a) } else { pick(&accepting, a) };
    let host = HostKey(u32::from(a % 4));
    match kind % 74 {
        0 | 1 => {
            let mut spec = pool_spec(pool.as_str(), u32::from(b % 4), c % 4 + 1);
            spec.target_low_priority = u32::from(c % 2);
            Action::PoolAdd { spec: Box::new(spec) }
        }
        2 if b.is_multiple_of(2) => Action::PoolResize {
            pool,
            condition,
            dedicated: Some(u32::from(b % 4)),
            low_priority: Some(u32::from(c % 3)),
            timeout: Span::from_secs(300),
            option: pick(&OPTIONS, c),
        },
        2 => Action::NodeReport {
            node: pick(&nodes, c),
            phase: NodePhase::Ready,
            start_task: None,
            errors: Vec::new(),
        },
        3 if b.is_multiple_of(12) => Action::PoolDelete { pool, condition },
        3 => Action::PoolStopResize { pool, condition },
        4 => Action::PoolSettled { pool: PoolKey(u32::from(a % 4)), errors: Vec::new() },
        5 => {
            let patch = PoolPatch { vm_size: Some("x".to_owned()), ..PoolPatch::default() };
            Action::PoolPatch { pool, condition, patch: Box::new(patch) }
        }
        // From the log of an earlier version.
        6 if b.is_multiple_of(16) => Action::HostJoined {
            peer: format!("old-{}", a % 2),
            name: (a % 3).to_string(),
            boot: BootId(1),
            capacity: capacity(4),
            address: String::new(),
            software: String::new(),
        },
        6 | 7 => Action::HostPresented {
            peer: format!("peer-{}", a % 4),
            name: (a % 3).to_string(),
            boot: BootId(1 + u64::from(b % 64 / 63)),
            capacity: capacity(4),
            address: String::new(),
            software: String::new(),
            machine: if c.is_multiple_of(9) { "other".to_owned() } else { String::new() },
        },
        8 => match b % 8 {
            0 => Action::HostLost { host },
            1 | 2 => Action::HostUnknown { host },
            _ => Action::HostPresented {
                peer: "peer-0".to_owned(),
                name: "0".to_owned(),
                boot: BootId(1),
                capacity: capacity(4),
                address: String::new(),
                software: String::new(),
                machine: String::new(),
            },
        },
        9..=11 => Action::NodeGrant {
            pool: PoolKey(u32::from(a % 5)),
            host: HostKey(u32::from(b % 4)),
            node_id: format!("tvm-{b}"),
            dedicated: c % 2 == 0,
        },
        12 if b.is_multiple_of(4) => Action::NodeRevoke { node, option: pick(&OPTIONS, b) },
        12 => Action::NodeReport {
            node: pick(&nodes, a),
            phase: NodePhase::Ready,
            start_task: None,
            errors: Vec::new(),
        },
        13 if b.is_multiple_of(8) => Action::NodeGone { node },
        13..=15 => Action::NodeReport { node, phase: pick(&PHASES, b), start_task: None, errors: Vec::new() },
        // Jobs that are over make room for new ones.
        16 | 17 if cluster.job_by_id(ACCOUNT, &job).is_some_and(|job| job.state == JobState::Completed) => {
            Action::JobDelete { job, condition, force: false }
        }
        16 | 17 => {
            let pool = if a.is_multiple_of(4) { pool.as_str() } else { "p0" };
            let mut spec = job_spec(job.as_str(), pool);
            spec.priority = i16::try_from(b % 3).unwrap_or(0);
            spec.max_parallel_tasks = i32::from(c % 5) - 1;
            spec.uses_task_dependencies = !c.is_multiple_of(3);
            spec.constraints.max_task_retry_count = i32::from(b % 4) * 3 - 1;
            if c.is_multiple_of(7) {
                spec.on_all_tasks_complete = AllTasksAction::TerminateJob;
            }
            if b.is_multiple_of(5) {
                spec.on_task_failure = TaskFailureAction::PerformExitOptionsJobAction;
            }
            let spec = Box::new(spec);
            match a % 5 {
                0 | 1 => Action::JobAddWith { spec, extras: extras(b ^ c) },
                _ => Action::JobAdd { spec },
            }
        }
        18 if a.is_multiple_of(6) => Action::JobPatchWith {
            job,
            condition,
            patch: Box::default(),
            auto_pool: Box::new(AutoPool { keep_alive: c.is_multiple_of(2), ..auto_pool(b) }),
        },
        18 => {
            let patch = JobPatch {
                priority: Some(i16::try_from(b % 3).unwrap_or(0)),
                max_parallel_tasks: Some(i32::from(c % 5) - 1),
                pool: c.is_multiple_of(3).then_some(pool),
                constraints: c.is_multiple_of(7).then(|| JobConstraints {
                    max_wall_clock: Span::from_secs(i64::from(b)),
                    max_task_retry_count: 1,
                }),
                ..JobPatch::default()
            };
            Action::JobPatch { job, condition, patch: Box::new(patch) }
        }
        19 | 63 => Action::JobDisable { job, condition, tasks: pick(&DISABLES, b) },
        20 | 21 => Action::JobEnable { job, condition },
        22 if b.is_multiple_of(6) => {
            Action::JobTerminate { job, condition, reason: None, force: c.is_multiple_of(2) }
        }
        22 => Action::JobExpire { job: JobKey(u32::from(a % 6)) },
        23 if b.is_multiple_of(8) => Action::JobDelete { job, condition, force: false },
        23 => Action::JobCheckComplete { job: JobKey(u32::from(a % 6)) },
        24 => {
            let tied = |n: u16| {
                let add = TaskAdd { slots: n % 3 + 1, ..task_add(&names(n)) };
                (add, ties(n.wrapping_mul(31).wrapping_add(b)))
            };
            Action::TiedTasksAdd { job, tasks: (b..b.saturating_add(c % 4)).map(tied).collect() }
        }
        25 if a.is_multiple_of(4) => {
            let extras = vec![TaskExtra::Token, TaskExtra::Packages(packages(c))];
            Action::TasksAddWith { job, tasks: vec![(task_add(&names(b)), TaskTies::default(), extras)] }
        }
        25 | 26 => {
            let add = |n: u16| TaskAdd { slots: n % 3 + 1, ..task_add(&names(n)) };
            Action::TasksAdd { job, tasks: (b..b.saturating_add(c % 4)).map(add).collect() }
        }
        27 => Action::TaskPut {
            job,
            task,
            condition,
            max_wall_clock: Span::from_secs(i64::from(c)),
            retention: Span::UNLIMITED,
            max_retry_count: Some(i32::from(c % 4) - 1),
        },
        28 | 61 | 62 => Action::TaskTerminate { job, task, condition },
        29 => Action::TaskReactivate { job, task, condition },
        30 if c.is_multiple_of(2) => Action::TaskDelete { job, task, condition },
        30 => {
            let chores = cluster.all_chores().map(|chore| chore.key);
            Action::RetryDue { tasks: cluster.all_tasks().map(|task| task.key).chain(chores).collect() }
        }
        31..=33 | 39..=48 => {
            // Mostly what a dispatcher would choose.
            let fits = |task: &&TaskRecord| c.is_multiple_of(5) || matches!(task.place, TaskPlace::Ready);
            let tasks = cluster.all_tasks().filter(fits).map(|task| task.key).chain([TaskKey(9_999)]);
            Action::Assign { node, tasks: tasks.skip(usize::from(b % 4)).take(usize::from(c % 6)).collect() }
        }
        34 => Action::Recalled { node, attempts: attempts(cluster, node, b, c) },
        35..=38 | 49..=60 => {
            let at = Timestamp(START.0.saturating_add(u64::from(c) * 100));
            let report = |attempt| AttemptReport {
                attempt,
                started: (b % 3 > 0).then_some(at),
                end: c.is_multiple_of(2).then(|| AttemptEnd { at, outcome: outcome(c / 4) }),
            };
            Action::Report { node, attempts: attempts(cluster, node, b, c).into_iter().map(report).collect() }
        }
        73 => application(a, b, c),
        72 => membership(cluster, a, b, c),
        71 => schedule(cluster, a, b, c),
        _ => {
            let cursor = match b % 6 {
                5 => CursorKey::Releases(JobKey(u32::from(a % 6))),
                4 => CursorKey::Schedule(ScheduleKey(u32::from(a % 6))),
                0 => CursorKey::Job(JobKey(u32::from(a % 6))),
                3 => CursorKey::Deliveries(JobKey(u32::from(a % 6))),
                1 => CursorKey::Pool(PoolKey(u32::from(a % 6))),
                _ => CursorKey::Node(node),
            };
            Action::Continue { cursor }
        }
    }
}

fn history(ops: &[Op], mut look: impl FnMut(&World)) -> World {
    let mut world = World::new();
    let mut watch = Watch::every_step();
    let host = world.host("0", 4);
    let pool = world.pool_with(pool_spec("p0", 0, 2));
    world.resize("p0", 2, DeallocationOption::Requeue).unwrap();
    for _ in 0..2 {
        let node = world.grant(pool, host, true);
        world.ready(node);
    }
    world.job("j0", "p0");
    for op in ops {
        // Time mostly goes on; a leader's clock may also be behind.
        world.now = Timestamp(world.now.0.saturating_add(u64::from(op.3)).saturating_sub(500));
        let action = action(&world.cluster, *op);
        let shown = format!("{action:?}");
        let _ = world.act(action);
        if let Err(violation) = watch.look(&world.cluster) {
            panic!("{violation}, after {shown}");
        }
        look(&world);
    }
    world
}

/// The commands of a random history of so many steps, always the same for a seed.
pub(crate) fn commands(seed: u64, steps: usize) -> Vec<Command> {
    let mut next = numbers(seed);
    let ops: Vec<Op> = (0..steps).map(|_| (next() as u8, next(), next(), next())).collect();
    history(&ops, |_| ()).log.into_iter().map(|(_, command)| command).collect()
}

fn numbers(mut seed: u64) -> impl FnMut() -> u16 {
    move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u16::try_from(seed >> 48).unwrap_or(0)
    }
}

fn check(ops: &[Op]) {
    let world = history(ops, |_| ());
    assert_eq!(world.reload().digest(), world.cluster.digest(), "what was rebuilt differs");
    // Whoever starts from rows somewhere on the way comes to the same state.
    let mut again = Cluster::new();
    let mut rows = BTreeMap::new();
    for (at, (stamp, command)) in world.log.iter().enumerate() {
        if at == world.log.len() / 2 {
            let stored = rows.iter().map(|(key, value): (&Vec<u8>, &Vec<u8>)| (key.clone(), value.clone()));
            again = Cluster::load(stored).expect("rows that load");
        }
        let mut batch = Batch::default();
        let command = Command::decode(&command.encode().expect("a small command")).expect("it decodes");
        let _ = again.apply(*stamp, &command, &mut batch);
        for (key, value) in batch.writes {
            match value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
    }
    assert_eq!(rows, world.rows, "the same log gave other rows");
    assert_eq!(again.digest(), world.cluster.digest());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_histories_keep_every_invariant(ops in prop::collection::vec(any::<Op>(), 1..250)) {
        check(&ops);
    }
}

#[test]
fn random_histories_reach_the_interesting_places() {
    // A generator that only ever got refusals would prove nothing.
    let mut next = numbers(7);
    let mut reached: BTreeMap<&str, BTreeSet<(u32, TaskKey)>> = BTreeMap::new();
    let goals = [
        "ran",
        "succeeded",
        "failed",
        "retried",
        "requeued",
        "backed off",
        "closing",
        "asked back",
        "lost",
        "dependent",
        "preparing",
        "prepared",
        "failed to prepare",
        "released",
        "managed",
        "with an auto pool",
    ];
    for round in 0..400 {
        let ops: Vec<Op> = (0..800).map(|_| (next() as u8, next(), next(), next())).collect();
        history(&ops, |world| {
            let mut note = |goal, key| {
                reached.entry(goal).or_default().insert((round, key));
            };
            for chore in world.cluster.all_chores() {
                let goal = match (chore.kind, chore.place) {
                    (ChoreKind::Preparation, ChorePlace::Completed { result: TaskResult::Success }) => {
                        "prepared"
                    }
                    (ChoreKind::Preparation, ChorePlace::Completed { .. }) => "failed to prepare",
                    (ChoreKind::Release, ChorePlace::Completed { .. }) => "released",
                    _ => continue,
                };
                note(goal, chore.key);
            }
            for job in world.cluster.all_jobs() {
                let extras = world.cluster.job_extras(job.key);
                let key = TaskKey(job.key.0.into());
                if job.terminate_reason.as_deref() == Some("JMComplete") {
                    note("managed", key);
                }
                if JobExtra::auto_pool(extras).is_some() {
                    note("with an auto pool", key);
                }
            }
            for task in world.cluster.all_tasks() {
                let facts = [
                    task.started.is_some(),
                    task.place == TaskPlace::Completed { result: TaskResult::Success },
                    task.place == TaskPlace::Completed { result: TaskResult::Failure }
                        && task.exit_code.is_some(),
                    task.retry_count > 0,
                    task.requeue_count > 0,
                    matches!(task.place, TaskPlace::Waiting { .. }),
                    task.ending == Some(Ending::Closed),
                    matches!(task.ending, Some(Ending::Recall | Ending::Requeue | Ending::Recover)),
                    task.ending == Some(Ending::Lost),
                    task.place == TaskPlace::Dependent,
                    matches!(task.place, TaskPlace::Preparing { .. }),
                ];
                for (goal, _) in goals.iter().zip(facts).filter(|(_, fact)| *fact) {
                    reached.entry(goal).or_default().insert((round, task.key));
                }
            }
        });
    }
    for goal in goals {
        let count = reached.get(goal).map_or(0, BTreeSet::len);
        assert!(
            count > 2,
            "{goal}: {count}, of {:?}",
            reached.iter().map(|(g, t)| (g, t.len())).collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_command_seen_twice_is_applied_once() {
    let mut world = World::new();
    let command = |action| Command { account: ACCOUNT, key: IdempotencyKey(1_000_000), action };
    let first = world.apply(command(Action::JobAdd { spec: Box::new(job_spec("j", "p")) }));
    let digest = world.cluster.digest();
    assert_eq!(world.apply(command(Action::JobAdd { spec: Box::new(job_spec("j", "p")) })), first);
    assert_eq!(world.cluster.digest(), digest);
}
