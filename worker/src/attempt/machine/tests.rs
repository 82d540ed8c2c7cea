//! Rows of inputs and the effects they must have.

use super::*;

fn plan() -> Plan {
    Plan {
        has_resource_files: true,
        uploads: vec![
            UploadCondition::TaskSuccess,
            UploadCondition::TaskFailure,
            UploadCondition::TaskCompletion,
        ],
        wall_clock_ms: Some(1000),
        last_try: true,
        grace_ms: 5000,
    }
}

fn simple() -> Plan {
    Plan { has_resource_files: false, uploads: vec![], wall_clock_ms: None, last_try: true, grace_ms: 5000 }
}

fn exited(exit_code: i32, cause: Cause) -> Input {
    Input::Process(ProcessEnd::Exited { exit_code, cause, survivors: 0 })
}

fn failure() -> FailureInfo {
    FailureInfo::user("BlobNotFound", "no such blob")
}

fn finish(outcome: AttemptOutcome) -> Vec<Effect> {
    vec![Effect::Finish { outcome, survivors: 0 }]
}

fn exit(exit_code: i32) -> AttemptOutcome {
    AttemptOutcome::Exited { exit_code, upload: None }
}

/// Runs the rows from the start of an attempt at 100 ms.
fn check(plan: Plan, rows: &[(u64, Input, Vec<Effect>)]) {
    let (mut machine, effects) = AttemptMachine::start(plan, 100);
    assert_eq!(effects, [Effect::Prepare]);
    for (at, input, expected) in rows {
        assert_eq!(machine.on(*at, input.clone()), *expected, "{input:?} at {at}");
    }
}

fn to_running() -> [(u64, Input, Vec<Effect>); 2] {
    [(110, Input::Prepared(Ok(())), vec![Effect::Fetch]), (120, Input::Fetched(Ok(())), vec![Effect::Launch])]
}

fn check_running(plan: Plan, rows: &[(u64, Input, Vec<Effect>)]) {
    let mut all = to_running().to_vec();
    all.extend(rows.iter().cloned());
    check(plan, &all);
}

#[test]
fn a_plain_task_needs_two_steps() {
    check(
        simple(),
        &[
            (101, Input::Prepared(Ok(())), vec![Effect::Launch]),
            (102, exited(3, Cause::Itself), finish(exit(3))),
            (103, Input::Kill(KillReason::Ended), vec![]),
        ],
    );
}

#[test]
fn failures_before_the_command_are_final() {
    check(simple(), &[(101, Input::Prepared(Err(failure())), finish(AttemptOutcome::NotStarted(failure())))]);
    check(
        plan(),
        &[
            (101, Input::Prepared(Ok(())), vec![Effect::Fetch]),
            (102, Input::Fetched(Err(failure())), finish(AttemptOutcome::NotStarted(failure()))),
        ],
    );
    for (error, outcome) in [
        (
            SpawnError::NotFound,
            AttemptOutcome::NotStarted(FailureInfo::user("CommandProgramNotFound", "why")),
        ),
        (SpawnError::Launch, AttemptOutcome::NotStarted(FailureInfo::user("CommandLaunchFailed", "why"))),
        (SpawnError::Refused, lost("why")),
    ] {
        let end = ProcessEnd::NotSpawned { error, message: "why".into() };
        check_running(plan(), &[(130, Input::Process(end), finish(outcome))]);
    }
}

#[test]
fn uploads_follow_their_condition_and_only_the_final_attempt() {
    let upload = |files: &[usize]| vec![Effect::Upload(files.to_vec())];
    check_running(
        plan(),
        &[(200, exited(0, Cause::Itself), upload(&[0, 2])), (300, Input::Uploaded(None), finish(exit(0)))],
    );
    let failed = AttemptOutcome::Exited { exit_code: 1, upload: Some(failure()) };
    check_running(
        plan(),
        &[
            (200, exited(1, Cause::Itself), upload(&[1, 2])),
            (300, Input::Uploaded(Some(failure())), finish(failed)),
        ],
    );
    let retried = Plan { last_try: false, ..plan() };
    check_running(retried.clone(), &[(200, exited(1, Cause::Itself), finish(exit(1)))]);
    check_running(retried, &[(200, exited(0, Cause::Itself), upload(&[0, 2]))]);
}

#[test]
fn the_wall_clock_covers_downloads_and_not_uploads() {
    let out = |exit_code| AttemptOutcome::WallClock { exit_code };
    let cancelled = |outcome| [vec![Effect::CancelTransfer], finish(outcome)].concat();
    check(
        plan(),
        &[
            (110, Input::Prepared(Ok(())), vec![Effect::Fetch]),
            (1099, Input::Tick, vec![]),
            (1100, Input::Tick, cancelled(out(None))),
            (1101, Input::Fetched(Ok(())), vec![]),
        ],
    );
    // Nothing is uploaded when a time-out meets a process that never was, a failure upload when it was.
    check_running(
        Plan { last_try: false, ..plan() },
        &[
            (1100, Input::Tick, vec![Effect::EndProcess { grace_ms: 5000 }]),
            (1101, Input::Tick, vec![]),
            (1200, exited(143, Cause::Asked), vec![Effect::Upload(vec![1, 2])]),
            (9999, Input::Tick, vec![]),
            (9999, Input::Uploaded(Some(failure())), finish(out(Some(143)))),
        ],
    );
    // It ended by itself at the same moment.
    check_running(
        Plan { uploads: vec![], ..plan() },
        &[
            (1100, Input::Tick, vec![Effect::EndProcess { grace_ms: 5000 }]),
            (1101, exited(0, Cause::Itself), finish(exit(0))),
        ],
    );
    let late = AttemptOutcome::Exited {
        exit_code: 0,
        upload: Some(FailureInfo::server("FileUploadTimedOut", "the uploads took longer than an hour")),
    };
    check_running(
        plan(),
        &[
            (200, exited(0, Cause::Itself), vec![Effect::Upload(vec![0, 2])]),
            (200 + UPLOAD_LIMIT_MS - 1, Input::Tick, vec![]),
            (200 + UPLOAD_LIMIT_MS, Input::Tick, cancelled(late)),
        ],
    );
}

#[test]
fn the_wall_clock_can_be_moved() {
    check_running(
        plan(),
        &[
            (200, Input::WallClock { wall_clock_ms: None }, vec![]),
            (5000, Input::Tick, vec![]),
            (5000, Input::WallClock { wall_clock_ms: Some(10_000) }, vec![]),
            (
                5001,
                Input::WallClock { wall_clock_ms: Some(4_000) },
                vec![Effect::EndProcess { grace_ms: 5000 }],
            ),
        ],
    );
}

#[test]
fn a_kill_works_in_every_step() {
    let killed = |exit_code| AttemptOutcome::Killed { exit_code };
    let cancelled = |outcome| [vec![Effect::CancelTransfer], finish(outcome)].concat();
    let kill = Input::Kill(KillReason::Ended);
    check(plan(), &[(101, kill.clone(), vec![]), (102, Input::Prepared(Ok(())), finish(killed(None)))]);
    check(
        plan(),
        &[(101, kill.clone(), vec![]), (102, Input::Prepared(Err(failure())), finish(killed(None)))],
    );
    check(
        plan(),
        &[(101, Input::Prepared(Ok(())), vec![Effect::Fetch]), (102, kill.clone(), cancelled(killed(None)))],
    );
    check_running(
        plan(),
        &[
            (200, kill.clone(), vec![Effect::EndProcess { grace_ms: 5000 }]),
            (201, kill.clone(), vec![]),
            (5000, Input::Tick, vec![]),
            (6000, exited(0, Cause::Asked), finish(killed(Some(0)))),
        ],
    );
    check_running(
        plan(),
        &[
            (200, exited(7, Cause::Itself), vec![Effect::Upload(vec![1, 2])]),
            (201, kill, cancelled(killed(Some(7)))),
        ],
    );
    let fence = Input::Kill(KillReason::Fenced);
    check_running(plan(), &[(200, fence, vec![Effect::EndProcess { grace_ms: 0 }])]);
}

#[test]
fn trouble_of_the_host_is_not_the_tasks_fault() {
    check_running(
        plan(),
        &[
            (200, Input::HostStopping { grace_ms: 70 }, vec![Effect::EndProcess { grace_ms: 70 }]),
            (201, exited(143, Cause::Asked), finish(lost("host stopping"))),
        ],
    );
    let deadline = finish(lost("the host was out of contact for longer than its lease"));
    check_running(plan(), &[(200, exited(137, Cause::Deadline), deadline)]);
    let stopped = finish(lost("the keeper of the host was stopped"));
    check_running(plan(), &[(200, exited(137, Cause::Asked), stopped)]);
    let dead = finish(lost("the keeper of the host died"));
    check_running(plan(), &[(200, Input::Process(ProcessEnd::KeeperLost), dead)]);
}

#[test]
fn an_adopted_attempt_keeps_its_start() {
    let mut machine = AttemptMachine::adopt(plan(), 100);
    assert_eq!(machine.next_tick_ms(), Some(1100));
    assert_eq!(machine.on(5000, Input::Tick), [Effect::EndProcess { grace_ms: 5000 }]);
    let end = ProcessEnd::Exited { exit_code: 137, cause: Cause::Asked, survivors: 2 };
    assert_eq!(machine.on(5001, Input::Process(end)), [Effect::Upload(vec![1, 2])]);
    let outcome = AttemptOutcome::WallClock { exit_code: Some(137) };
    assert_eq!(
        machine.on(5002, Input::Uploaded(None)),
        [Effect::Finish { outcome, survivors: 2 }],
        "unkillable processes are not forgotten"
    );
}
