//! A bench that plays the shell: it feeds the machine and shows what came out, in short words.

use super::*;
use crate::node::retention::Kept;
use lote_shared::model::{
    AccountId, Attempt, EnvironmentSetting, FailureInfo, NodeKey, StartTask, TaskId, TaskKey, TaskSpec,
    Timestamp, UserIdentity,
};
use lote_shared::protocol::host::TaskLaunch;

const NODE: NodeKey = NodeKey(7);
/// Cluster time minus boot clock.
const EPOCH: u64 = 1_000_000;

fn grant(slots: u16, start_task: Option<StartTask>) -> NodeGrant {
    NodeGrant {
        node: NODE,
        node_id: "tvm-7".into(),
        pool_id: "p".into(),
        account: AccountId(1),
        account_name: "local".into(),
        account_url: "http://b".into(),
        dedicated: true,
        slots,
        cores: 2,
        start_task,
    }
}

fn start_task(max_retry_count: i32, wait_for_success: bool) -> Option<StartTask> {
    Some(StartTask {
        command_line: "prepare".into(),
        resource_files: vec![],
        environment: Vec::<EnvironmentSetting>::new(),
        user_identity: UserIdentity::default(),
        max_retry_count,
        wait_for_success,
    })
}

fn attempt(task: u64) -> AttemptRef {
    AttemptRef { task: TaskKey(task), attempt: Attempt(1) }
}

fn launch(task: u64, slots: u16) -> TaskLaunch {
    TaskLaunch {
        attempt: attempt(task),
        job: 0,
        slots,
        wall_clock_ms: None,
        retention_ms: Some(60_000),
        last_try: true,
        spec: TaskSpec {
            id: TaskId::new(&format!("t{task}")).unwrap(),
            display_name: None,
            command_line: "true".into(),
            resource_files: vec![],
            output_files: vec![],
            environment: vec![],
            user_identity: UserIdentity::default(),
            affinity_id: String::new(),
            echo: String::new(),
        },
    }
}

fn exited(exit_code: i32) -> AttemptOutcome {
    AttemptOutcome::Exited { exit_code, upload: None }
}

fn place(task: u64) -> Place {
    Place { job_id: "j".into(), task_id: format!("t{task}") }
}

/// Effects in short words.
fn words(effects: &[Effect]) -> Vec<String> {
    effects
        .iter()
        .map(|effect| match effect {
            Effect::Start(work) => format!("start {}", work.launch.attempt.task),
            Effect::Kill { attempt, reason } => format!("kill {} {reason:?}", attempt.task),
            Effect::HostStopping { attempt } => format!("stop {}", attempt.task),
            Effect::RunStartTask { run } => format!("run start task {run}"),
            Effect::Tell(HostMessage::Ask { slots, .. }) => format!("ask {slots}"),
            Effect::Tell(HostMessage::Node { phase, .. }) => format!("{phase:?}"),
            Effect::Tell(HostMessage::Recalled { attempts, .. }) => {
                format!("recalled {:?}", attempts.iter().map(|a| a.task.0).collect::<Vec<_>>())
            }
            Effect::Tell(HostMessage::NodeGone { .. }) => "node gone".into(),
            Effect::Tell(HostMessage::Report { attempts, .. }) => {
                let report = |r: &AttemptReport| match (&r.started, &r.end) {
                    (Some(_), None) => format!("{}+", r.attempt.task),
                    (_, Some(AttemptEnd { outcome: AttemptOutcome::Exited { exit_code, .. }, .. })) => {
                        format!("{}={exit_code}", r.attempt.task)
                    }
                    (_, Some(AttemptEnd { outcome: AttemptOutcome::Lost { .. }, .. })) => {
                        format!("{} lost", r.attempt.task)
                    }
                    (_, Some(AttemptEnd { outcome: AttemptOutcome::Killed { .. }, .. })) => {
                        format!("{} killed", r.attempt.task)
                    }
                    other => format!("{other:?}"),
                };
                format!("report {}", attempts.iter().map(report).collect::<Vec<_>>().join(" "))
            }
            Effect::RemoveDirectories(places) => {
                format!("remove {}", places.iter().map(|p| p.task_id.clone()).collect::<Vec<_>>().join(" "))
            }
            Effect::Remember(notes) => format!("remember {}", notes.len()),
            Effect::Forget(attempts) => format!("forget {}", attempts.len()),
            other => format!("{other:?}"),
        })
        .collect()
}

struct Bench {
    machine: NodeMachine,
    ms: u64,
}

impl Bench {
    fn now(&self) -> Now {
        Now { ms: self.ms, time: Timestamp(EPOCH + self.ms) }
    }

    /// A node that is ready at 1 000 ms.
    fn ready(slots: u16) -> Bench {
        let mut bench = Bench::granted(grant(slots, None));
        let now = bench.now();
        let effects = bench.machine.on_directories(now, Ok(()));
        assert_eq!(words(&effects), ["Ready".to_owned(), format!("ask {slots}")]);
        bench
    }

    fn granted(grant: NodeGrant) -> Bench {
        let now = Now { ms: 1_000, time: Timestamp(EPOCH + 1_000) };
        let (machine, effects) = NodeMachine::grant(grant, now);
        assert_eq!(words(&effects), ["Starting", "MakeDirectories"]);
        Bench { machine, ms: 1_000 }
    }

    fn check(&mut self, at: u64, step: impl FnOnce(&mut NodeMachine, Now) -> Vec<Effect>, expected: &[&str]) {
        self.ms = 1_000 + at;
        let now = self.now();
        let effects = step(&mut self.machine, now);
        assert_eq!(words(&effects), expected, "at {at} ms");
    }

    fn chunk(&mut self, at: u64, tasks: Vec<TaskLaunch>, expected: &[&str]) {
        let job = JobPart { job_id: "j".into(), environment: vec![] };
        let chunk = TaskChunk { node: NODE, jobs: vec![job], tasks };
        self.check(at, |m, now| m.on_chunk(now, chunk), expected);
    }

    fn ends(&mut self, at: u64, task: u64, outcome: AttemptOutcome, expected: &[&str]) {
        self.check(at, |m, now| m.on_attempt_ended(now, attempt(task), outcome, 0), expected);
    }

    fn tick(&mut self, at: u64, expected: &[&str]) {
        self.check(at, NodeMachine::on_time, expected);
    }

    fn next_tick(&self) -> Option<u64> {
        self.machine.next_time_ms(self.now()).map(|ms| ms - 1_000)
    }
}

#[test]
fn tasks_start_when_their_slots_are_free_in_order() {
    let mut bench = Bench::ready(3);
    bench.chunk(10, vec![launch(1, 2), launch(2, 2), launch(3, 1)], &["start 1"]);
    // 3 would fit beside 1, but 2 came first.
    bench.ends(500, 1, exited(0), &["start 2", "start 3", "remember 1", "report 1=0"]);
    bench.chunk(501, vec![launch(4, 3), launch(5, 1)], &[]);
    bench.ends(700, 3, exited(0), &["remember 1", "report 3=0"]);
    bench.ends(900, 2, exited(1), &["start 4", "remember 1", "report 2=1"]);
    bench.ends(1_200, 4, exited(0), &["start 5", "remember 1", "report 4=0"]);
    assert_eq!(bench.machine.inventory(), [1, 2, 3, 4, 5].map(attempt));
    bench.check(1_300, |m, now| m.on_acknowledged(now, &[attempt(1), attempt(9)]), &["forget 1"]);
    assert_eq!(bench.machine.inventory(), [2, 3, 4, 5].map(attempt));
}

#[test]
fn a_start_is_reported_alone_only_if_the_task_lives() {
    let mut bench = Bench::ready(2);
    bench.chunk(10, vec![launch(1, 1), launch(2, 1)], &["start 1", "start 2"]);
    assert_eq!(bench.next_tick(), Some(60));
    // 50 ms is no long task yet; asking for a little more than the slots.
    bench.ends(40, 1, exited(0), &["remember 1", "report 1=0", "ask 5"]);
    bench.tick(60, &["report 2+"]);
    bench.tick(61, &[]);
    bench.ends(400, 2, exited(0), &["remember 1", "report 2=0", "ask 3"]);
    let reports = bench.machine.unacknowledged.values().collect::<Vec<_>>();
    assert_eq!(reports[0].started, Some(Timestamp(EPOCH + 1_010)));
    assert_eq!(reports[1].end.as_ref().map(|end| end.at), Some(Timestamp(EPOCH + 1_400)));
}

#[test]
fn reports_are_gathered() {
    let mut bench = Bench::ready(4);
    bench.chunk(10, (1..=4).map(|n| launch(n, 1)).collect(), &["start 1", "start 2", "start 3", "start 4"]);
    bench.ends(20, 1, exited(0), &["remember 1", "report 1=0", "ask 24"]);
    bench.ends(20, 2, exited(0), &[]);
    bench.ends(21, 3, exited(0), &[]);
    assert_eq!(bench.next_tick(), Some(22));
    bench.tick(22, &["remember 2", "report 2=0 3=0"]);
    bench.ends(30, 4, exited(0), &["remember 1", "report 4=0"]);

    let mut bench = Bench::ready(300);
    bench.chunk(
        0,
        (1..=300).map(|n| launch(n, 1)).collect(),
        &(1..=300)
            .map(|n| format!("start {n}"))
            .collect::<Vec<_>>()
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>(),
    );
    let mut messages = 0;
    for task in 1..=300 {
        let now = bench.now();
        let effects = bench.machine.on_attempt_ended(now, attempt(task), exited(0), 0);
        messages += effects.iter().filter(|e| matches!(e, Effect::Tell(HostMessage::Report { .. }))).count();
    }
    assert_eq!(messages, 2, "the first at once, then 256 in one");
}

#[test]
fn the_ask_follows_the_length_of_tasks() {
    let mut bench = Bench::ready(2);
    bench.chunk(0, vec![launch(1, 1), launch(2, 1)], &["start 1", "start 2"]);
    bench.ends(1, 1, exited(0), &["remember 1", "report 1=0", "ask 102"]);
    bench.chunk(2, (3..=10).map(|n| launch(n, 1)).collect(), &["start 3"]);
    // Both slots are busy and nobody ends: tasks have become long, and nothing is prefetched any more.
    bench.tick(51, &["report 2+", "ask 4"]);
    assert!(bench.next_tick() <= Some(171));
    bench.tick(171, &["report 3+", "ask 2"]);
}

/// Found by the simulator (slow-log, seed 379): a lease had run out, the keeper refused what was queued, and the node
/// asked for 202 slots' worth of tasks of 1.5 s while other nodes were idle.
#[test]
fn attempts_that_were_refused_or_killed_do_not_make_tasks_look_short() {
    let mut bench = Bench::ready(2);
    let lost = AttemptOutcome::Lost { reason: "the lease has run out".into() };
    bench.chunk(0, vec![launch(1, 1), launch(2, 1)], &["start 1", "start 2"]);
    bench.ends(1, 1, lost, &["remember 1", "report 1 lost"]);
    bench.ends(4, 2, AttemptOutcome::Killed { exit_code: Some(137) }, &["remember 1", "report 2 killed"]);
}

#[test]
fn recall_takes_only_what_has_not_started() {
    let mut bench = Bench::ready(1);
    bench.chunk(0, (1..=3).map(|n| launch(n, 1)).collect(), &["start 1"]);
    let recall = |tasks: &[u64]| tasks.iter().map(|t| attempt(*t)).collect::<Vec<_>>();
    bench.check(1, |m, now| m.on_recall(now, recall(&[1, 3, 9])), &["recalled [3]"]);
    bench.check(1, |m, now| m.on_recall(now, recall(&[3])), &["recalled []"]);
    bench.ends(100, 1, exited(0), &["start 2", "remember 1", "report 1=0"]);
}

#[test]
fn kills_reach_running_queued_and_unknown_attempts() {
    let mut bench = Bench::ready(1);
    bench.chunk(0, (1..=3).map(|n| launch(n, 1)).collect(), &["start 1"]);
    let kill = |task, reason| move |m: &mut NodeMachine, now| m.on_kill(now, attempt(task), reason);
    bench.check(10, kill(2, KillReason::Ended), &["report 2 killed"]);
    bench.check(20, kill(3, KillReason::Fenced), &[]);
    bench.check(30, kill(1, KillReason::Ended), &["kill 1 Ended"]);
    bench.check(40, kill(9, KillReason::Requeued), &["report 9 killed"]);
    // A kill after 50 ms is no sign that tasks are short: the ask stays.
    bench.ends(50, 1, AttemptOutcome::Killed { exit_code: Some(143) }, &["remember 1", "report 1 killed"]);
    // The answer to a kill that arrives again is on its way already.
    bench.check(60, kill(1, KillReason::Ended), &[]);
    assert_eq!(bench.machine.inventory(), [1, 2, 9].map(attempt));

    bench.chunk(70, vec![launch(4, 1)], &["start 4"]);
    bench.check(80, kill(4, KillReason::Fenced), &["kill 4 Fenced"]);
    bench.ends(90, 4, AttemptOutcome::Killed { exit_code: None }, &["forget 1", "remember 1"]);
    assert_eq!(bench.machine.inventory(), [1, 2, 9].map(attempt), "a fenced attempt leaves no word");
}

#[test]
fn a_chunk_that_comes_again_changes_nothing() {
    let mut bench = Bench::ready(1);
    bench.chunk(0, vec![launch(1, 1), launch(2, 1)], &["start 1"]);
    bench.chunk(5, vec![launch(1, 1), launch(2, 1)], &[]);
    bench.ends(300, 1, exited(0), &["start 2", "remember 1", "report 1=0"]);
    bench.chunk(305, vec![launch(1, 1)], &[]);
    bench.chunk(310, vec![launch(3, 2)], &["report 3 lost"]);
    let mut broken = launch(4, 1);
    broken.job = 5;
    bench.chunk(320, vec![broken], &["report 4 lost"]);
}

#[test]
fn two_attempts_of_one_task_never_share_the_directory() {
    let mut bench = Bench::ready(4);
    bench.chunk(0, vec![launch(1, 1)], &["start 1"]);
    bench.check(10, |m, now| m.on_kill(now, attempt(1), KillReason::Fenced), &["kill 1 Fenced"]);
    let mut second = launch(1, 1);
    second.attempt.attempt = Attempt(2);
    bench.chunk(20, vec![second], &[]);
    bench.ends(900, 1, AttemptOutcome::Killed { exit_code: None }, &["forget 1", "start 1", "remember 1"]);
}

#[test]
fn the_start_task_gates_the_node_if_it_is_to() {
    let mut bench = Bench::granted(grant(1, start_task(1, true)));
    bench.check(0, |m, now| m.on_directories(now, Ok(())), &["run start task 1", "WaitingForStartTask"]);
    bench.chunk(1, vec![launch(1, 1)], &[]);
    let ended = |outcome| move |m: &mut NodeMachine, now| m.on_start_task_ended(now, outcome);
    bench.check(10, ended(exited(3)), &["WaitingForStartTask"]);
    assert_eq!(bench.next_tick(), Some(1_010));
    bench.tick(1_009, &[]);
    bench.tick(1_010, &["run start task 2", "WaitingForStartTask"]);
    bench.check(1_100, ended(exited(0)), &["Ready", "start 1", "remember 1", "ask 1"]);
    let info = bench.machine.start.as_ref().unwrap().info.clone();
    assert_eq!((info.retry_count, info.exit_code, info.result), (1, Some(0), Some(TaskResult::Success)));
    assert_eq!(info.start_time, Timestamp(EPOCH + 2_010), "of the last run");
    assert_eq!(info.last_retry_time, Some(Timestamp(EPOCH + 1_010)));
}

#[test]
fn a_failed_start_task_bars_the_node() {
    let failure = || FailureInfo::user("BlobNotFound", "x");
    for (outcome, retries) in [(exited(3), 0), (AttemptOutcome::NotStarted(failure()), 5)] {
        let mut bench = Bench::granted(grant(1, start_task(retries, true)));
        bench.check(0, |m, now| m.on_directories(now, Ok(())), &["run start task 1", "WaitingForStartTask"]);
        bench.check(10, |m, now| m.on_start_task_ended(now, outcome), &["StartTaskFailed", "remember 1"]);
        assert_eq!(bench.next_tick(), None);
        bench.chunk(20, vec![launch(1, 1)], &[]);
        let info = bench.machine.start.as_ref().unwrap().info.clone();
        assert!(info.failure.is_some() && info.retry_count == 0);
    }
    // Trouble of the host is not the start task's fault.
    let mut bench = Bench::granted(grant(1, start_task(0, true)));
    bench.check(0, |m, now| m.on_directories(now, Ok(())), &["run start task 1", "WaitingForStartTask"]);
    bench.check(10, |m, now| m.on_start_task_ended(now, lost("x")), &["WaitingForStartTask"]);
    bench.tick(1_010, &["run start task 2", "WaitingForStartTask"]);
}

#[test]
fn without_waiting_the_start_task_runs_beside_the_tasks() {
    let mut bench = Bench::granted(grant(1, start_task(-1, false)));
    bench.check(0, |m, now| m.on_directories(now, Ok(())), &["run start task 1", "Ready", "ask 1"]);
    bench.chunk(1, vec![launch(1, 1)], &["start 1"]);
    for run in 2..6 {
        bench.check(0, |m, now| m.on_start_task_ended(now, exited(1)), &["Ready"]);
        let at = bench.machine.start_again_ms.unwrap() - 1_000;
        bench.ms = 1_000 + at;
        let now = bench.now();
        assert!(words(&bench.machine.on_time(now)).contains(&format!("run start task {run}")));
    }
}

#[test]
fn a_node_without_directories_is_unusable() {
    let mut bench = Bench::granted(grant(1, start_task(0, true)));
    let error = NodeError { code: "DiskFull".into(), message: "m".into(), details: vec![] };
    bench.check(0, |m, now| m.on_directories(now, Err(error)), &["Unusable"]);
    bench.chunk(1, vec![launch(1, 1)], &["report 1 lost"]);

    let mut bench = Bench::ready(1);
    bench.chunk(0, vec![launch(1, 1)], &["start 1"]);
    let ended = |m: &mut NodeMachine, now| m.on_attempt_ended(now, attempt(1), exited(137), 3);
    bench.check(500, ended, &["Unusable", "remember 1", "report 1=137", "ask 0"]);
}

#[test]
fn a_revoked_node_ends_everything_then_wipes() {
    let mut bench = Bench::granted(grant(2, start_task(0, false)));
    bench.check(0, |m, now| m.on_directories(now, Ok(())), &["run start task 1", "Ready", "ask 2"]);
    bench.chunk(1, (1..=3).map(|n| launch(n, 1)).collect(), &["start 1", "start 2"]);
    bench.check(10, NodeMachine::on_revoke, &["kill 1 Requeued", "kill 2 Requeued", "EndStartTask", "ask 0"]);
    bench.check(10, NodeMachine::on_revoke, &[]);
    bench.chunk(11, vec![launch(4, 1)], &[]);
    let killed = || AttemptOutcome::Killed { exit_code: None };
    bench.ends(20, 1, killed(), &["remember 1", "report 1 killed"]);
    bench.ends(20, 2, killed(), &["remember 1", "report 2 killed"]);
    bench.check(30, |m, now| m.on_start_task_ended(now, killed()), &["Wipe"]);
    bench.check(40, |m, _| m.on_wiped(), &["node gone", "Gone"]);

    let mut idle = Bench::ready(1);
    idle.check(1, NodeMachine::on_revoke, &["ask 0", "Wipe"]);
}

#[test]
fn a_stopping_host_hands_everything_back() {
    let mut bench = Bench::ready(1);
    bench.chunk(0, vec![launch(1, 1), launch(2, 1)], &["start 1"]);
    bench.check(10, NodeMachine::on_host_stopping, &["stop 1", "report 2 lost", "ask 0"]);
    bench.check(11, NodeMachine::on_host_stopping, &[]);
    bench.chunk(12, vec![launch(3, 1)], &["report 3 lost"]);
    bench.ends(20, 1, lost("host stopping"), &["remember 1", "report 1 lost"]);
    assert!(!bench.machine.is_quiet());
    bench.check(30, |m, now| m.on_acknowledged(now, &[1, 2, 3].map(attempt)), &["forget 3"]);
    assert!(bench.machine.is_quiet());
}

#[test]
fn a_session_reconciles_and_tells_again() {
    let mut bench = Bench::ready(2);
    bench.chunk(0, (1..=5).map(|n| launch(n, 1)).collect(), &["start 1", "start 2"]);
    bench.tick(50, &["report 1+ 2+"]);
    bench.ends(300, 1, exited(0), &["start 3", "remember 1", "report 1=0"]);
    bench.ends(600, 3, exited(0), &["start 4", "remember 1", "report 3=0"]);
    assert_eq!(bench.machine.inventory(), [1, 2, 3, 4, 5].map(attempt));
    let keep: BTreeSet<AttemptRef> = [1, 4].map(attempt).into();
    let session = move |m: &mut NodeMachine, now| m.on_session(now, &keep, true);
    bench.check(610, session, &["kill 2 Fenced", "forget 1", "Ready", "report 1=0", "ask 2"]);
    // A message lost with the old leader: the start of what runs on.
    bench.tick(650, &["report 4+"]);
    bench.ends(700, 2, AttemptOutcome::Killed { exit_code: None }, &["forget 1", "remember 1"]);
    let keep: BTreeSet<AttemptRef> = [1, 4].map(attempt).into();
    bench.check(710, move |m, now| m.on_session(now, &keep, false), &[]);
}

#[test]
fn directories_go_after_their_retention_or_with_their_task() {
    let mut bench = Bench::ready(2);
    bench.chunk(0, (1..=2).map(|n| launch(n, 1)).collect(), &["start 1", "start 2"]);
    bench.tick(50, &["report 1+ 2+"]);
    bench.ends(140, 1, exited(0), &["remember 1", "report 1=0"]);
    let clean = |task| {
        let directory =
            TaskDirectory { job_id: "j".into(), task_id: format!("t{task}"), task: TaskKey(task) };
        move |m: &mut NodeMachine, now| m.on_clean(now, vec![directory])
    };
    // Running: after its end.
    bench.check(150, clean(2), &[]);
    bench.ends(200, 2, exited(0), &["remove t2", "report 2=0"]);
    assert_eq!(bench.next_tick(), Some(60_140));
    bench.tick(60_139, &[]);
    bench.ms = 1_000 + 60_139;
    assert!(bench.next_tick() >= Some(60_140));
    bench.tick(70_200, &["remove t1", "remember 1"]);
    // Deleted, and nobody else's.
    bench.chunk(80_000, vec![launch(3, 1)], &["start 3"]);
    bench.ends(80_500, 3, exited(0), &["remember 1", "report 3=0"]);
    let mut other = TaskDirectory { job_id: "j".into(), task_id: "t3".into(), task: TaskKey(99) };
    let directory = other.clone();
    bench.check(80_600, move |m, now| m.on_clean(now, vec![directory]), &[]);
    other.task = TaskKey(3);
    bench.check(80_700, move |m, now| m.on_clean(now, vec![other]), &["remove t3", "remember 1"]);
}

#[test]
fn a_resumed_node_goes_on_where_it_was() {
    let now = Now { ms: 5_000, time: Timestamp(EPOCH + 5_000) };
    let mut info = StartProgress::new(start_task(0, true).unwrap(), now.time).info;
    info.state = StartTaskState::Completed;
    info.result = Some(TaskResult::Success);
    let notes = vec![
        Note::StartTask { run: 1, info },
        Note::Kept(place(1), Kept { task: TaskKey(1), expires: Some(Timestamp(EPOCH + 6_000)) }),
        Note::Kept(place(2), Kept { task: TaskKey(2), expires: Some(Timestamp(EPOCH + 6_000)) }),
        Note::Removed(place(2)),
    ];
    let (mut machine, effects) = NodeMachine::resume(grant(1, start_task(0, true)), notes, None, now);
    assert_eq!(words(&effects), ["Starting", "MakeDirectories"]);
    let job = Arc::new(JobPart { job_id: "j".into(), environment: vec![] });
    machine.on_adopted(&Work { job, launch: launch(3, 1) }, Now { ms: 100, time: Timestamp(EPOCH + 100) });
    assert_eq!(machine.inventory(), [attempt(3)]);
    assert_eq!(words(&machine.on_directories(now, Ok(()))), ["Ready", "ask 1"]);
    let effects = machine.on_attempt_ended(now, attempt(3), exited(0), 0);
    assert_eq!(words(&effects), ["remember 1", "report 3=0"]);
    let later = Now { ms: 16_000, time: Timestamp(EPOCH + 16_000) };
    assert_eq!(words(&machine.on_time(later)), ["remove t1", "remember 1"]);

    // The start task still ran: it is not started a second time.
    let (mut machine, _) = NodeMachine::resume(grant(1, start_task(0, true)), vec![], Some(4), now);
    assert_eq!(words(&machine.on_directories(now, Ok(()))), ["WaitingForStartTask"]);
    assert_eq!(words(&machine.on_start_task_ended(now, exited(0))), ["Ready", "remember 1", "ask 1"]);
}
