//! Scenarios of `jobs-and-tasks.md` §13.5: schedules and their jobs over simulated hours.

use crate::state::command::{Action, Condition, ScheduleChange, SchedulePatch};
use crate::state::testing::*;
use crate::state::{Deadline, RefusalCode, Reply, ScheduleRecord};
use lote_shared::model::*;

const MINUTE: u64 = 60_000;

/// A world whose clock goes by minutes since its schedule `s` was made.
struct Scheduled {
    w: World,
    start: Timestamp,
}

fn spec(interval: Option<i64>, start_window: Option<i64>) -> ScheduleSpec {
    let minutes = |count: Option<i64>| count.map(|count| Span::from_secs(count * 60));
    ScheduleSpec {
        id: ScheduleId::new("s").unwrap(),
        recurrence: Recurrence {
            interval: minutes(interval),
            start_window: minutes(start_window),
            ..Recurrence::default()
        },
        cold: ScheduleCold { display_name: None, metadata: Vec::new(), job: job_spec("any", "p") },
    }
}

impl Scheduled {
    fn new(spec: ScheduleSpec) -> Scheduled {
        let mut w = World::new();
        let start = w.now;
        w.ok(Action::ScheduleAdd { spec: Box::new(spec) });
        Scheduled { w, start }
    }

    fn every(interval: i64, start_window: Option<i64>) -> Scheduled {
        Scheduled::new(spec(Some(interval), start_window))
    }

    /// Lets time pass, looking at what is due when it is due, as the leader's shell does.
    fn until(&mut self, minute: u64) {
        let end = self.start.plus_ms(minute * MINUTE);
        loop {
            let due = self.w.cluster.deadlines().next().filter(|(at, _)| *at <= end);
            let Some((at, deadline)) = due else { break };
            self.w.now = self.w.now.max(at);
            match deadline {
                Deadline::Schedule(schedule) => drop(self.w.ok(Action::ScheduleCheck { schedule })),
                other => panic!("{other:?} is due"),
            }
        }
        self.w.now = end;
        self.w.obey();
        assert_eq!(self.w.reload().digest(), self.w.cluster.digest());
    }

    fn record(&self) -> &ScheduleRecord {
        let key =
            self.w.cluster.schedule_by_id(ACCOUNT, &ScheduleId::new("s").unwrap()).expect("the schedule");
        self.w.cluster.schedule(key).unwrap().0
    }

    fn state(&self) -> ScheduleState {
        self.record().state
    }

    /// Minutes at which the jobs that are there were made.
    fn jobs(&self) -> Vec<(String, u64)> {
        let key = self.record().key;
        let jobs = self.w.cluster.jobs_of_schedule(key, None);
        jobs.map(|job| (job.id.to_string(), job.created.since_ms(self.start) / MINUTE)).collect()
    }

    fn made_at(&self) -> Vec<u64> {
        self.jobs().into_iter().map(|(_, minute)| minute).collect()
    }

    /// The job of that number ends.
    fn finish(&mut self, number: u32) {
        self.w.terminate(&format!("s:job-{number}")).unwrap();
        self.w.obey();
    }

    fn change(&mut self, change: ScheduleChange) -> Reply {
        let schedule = ScheduleId::new("s").unwrap();
        let reply = self.w.act(Action::ScheduleChange { schedule, condition: Condition::default(), change });
        self.w.obey();
        reply
    }

    fn next_run(&self) -> Option<u64> {
        self.record().next_run(self.w.now).map(|at| at.since_ms(self.start) / MINUTE)
    }
}

#[test]
fn spec_j_r1_a_job_every_ten_minutes() {
    let mut s = Scheduled::every(10, None);
    assert_eq!(s.jobs(), [("s:job-1".to_owned(), 0)], "the first is there in the same instant");
    assert_eq!(s.next_run(), Some(10));
    for number in 1..=3 {
        s.until(u64::from(number - 1) * 10 + 2);
        s.finish(number);
    }
    s.until(25);
    assert_eq!(s.made_at(), [0, 10, 20]);
    assert_eq!(s.next_run(), Some(30));
}

#[test]
fn spec_j_r2_r3_r4_late_starts_and_lost_slots() {
    for (row, interval, window, ends, until, expected) in [
        ("R2", 10, Some(5), vec![12, 15], 20, vec![0, 12, 20]),
        ("R3", 10, Some(1), vec![12], 25, vec![0, 20]),
        ("R4", 10, None, vec![35, 36], 45, vec![0, 35, 40]),
    ] {
        let mut s = Scheduled::every(interval, window);
        for (number, minute) in (1..).zip(ends) {
            s.until(minute);
            s.finish(number);
        }
        s.until(until);
        assert_eq!(s.made_at(), expected, "{row}");
    }
}

#[test]
fn spec_j_r5_one_shot() {
    let mut s = Scheduled::new(spec(None, None));
    assert_eq!((s.state(), s.next_run()), (ScheduleState::Active, None));
    s.until(7);
    s.finish(1);
    assert_eq!((s.state(), s.record().ended), (ScheduleState::Completed, Some(s.w.now)));
    assert_eq!(code(s.change(ScheduleChange::Disable)), RefusalCode::JobScheduleCompleted);
}

#[test]
fn spec_j_r6_the_end_passes_while_a_job_runs() {
    let mut given = spec(Some(10), None);
    let w = World::new();
    given.recurrence.not_after = Some(w.now.plus_ms(15 * MINUTE));
    let mut s = Scheduled::new(given);
    s.until(5);
    s.finish(1);
    s.until(40);
    assert_eq!((s.made_at(), s.state()), (vec![0, 10], ScheduleState::Active));
    s.finish(2);
    assert_eq!(s.state(), ScheduleState::Completed);
}

#[test]
fn an_end_that_is_past_completes_at_once() {
    let mut given = spec(Some(10), None);
    given.recurrence.not_after = Some(Timestamp(1));
    let s = Scheduled::new(given);
    assert_eq!((s.state(), s.made_at()), (ScheduleState::Completed, vec![]));
}

#[test]
fn spec_j_r7_r8_disabled_and_enabled_again() {
    for (enabled_at, expected) in [(12, vec![0, 12, 20]), (16, vec![0, 20])] {
        let mut s = Scheduled::every(10, Some(5));
        s.until(2);
        s.change(ScheduleChange::Disable).unwrap();
        assert_eq!(s.w.job_record("s:job-1").state, JobState::Active, "R8: its job goes on");
        s.finish(1);
        s.until(enabled_at);
        assert_eq!(s.made_at(), [0]);
        s.change(ScheduleChange::Enable).unwrap();
        if enabled_at == 12 {
            s.finish(2);
        }
        s.until(20);
        assert_eq!(s.made_at(), expected, "enabled at {enabled_at}");
        assert_eq!(s.record().previous_state.map(|(state, _)| state), Some(ScheduleState::Disabled));
    }
}

#[test]
fn spec_j_r9_terminating_takes_the_job_along() {
    let mut s = Scheduled::every(10, None);
    s.w.pool("p", 1, 1);
    let node = s.w.nodes("p")[0];
    let task = s.w.task("s:job-1", "t");
    s.w.run(node, task);
    let schedule = ScheduleId::new("s").unwrap();
    let change = ScheduleChange::Terminate { force: false };
    s.w.ok(Action::ScheduleChange { schedule, condition: Condition::default(), change });
    assert_eq!(s.state(), ScheduleState::Terminating);
    assert_eq!(code(s.change(ScheduleChange::Enable)), RefusalCode::JobScheduleBeingTerminated);
    s.w.obey();
    let job = s.w.job_record("s:job-1");
    assert_eq!(
        (job.state, job.terminate_reason.as_deref()),
        (JobState::Completed, Some("TerminateJobSchedule"))
    );
    assert_eq!(s.state(), ScheduleState::Completed);
    assert!(s.w.cluster.deadlines().next().is_none());
}

#[test]
fn spec_j_r10_a_patch_is_for_jobs_to_come() {
    let mut s = Scheduled::every(10, None);
    let job = JobSpec { priority: 7, ..job_spec("any", "q") };
    let patch = SchedulePatch { job: Some(job), ..SchedulePatch::default() };
    s.change(ScheduleChange::Patch(Box::new(patch))).unwrap();
    s.until(2);
    s.finish(1);
    s.until(10);
    let seen = |name: &str| (s.w.job_record(name).priority, s.w.job_record(name).pool.to_string());
    assert_eq!(seen("s:job-1"), (0, "p".to_owned()));
    assert_eq!(seen("s:job-2"), (7, "q".to_owned()));
}

#[test]
fn a_schedule_without_recurrence_put_over_one_with_jobs_completes() {
    let mut s = Scheduled::every(10, None);
    let patch = SchedulePatch { recurrence: Some(Recurrence::default()), ..SchedulePatch::default() };
    s.change(ScheduleChange::Patch(Box::new(patch))).unwrap();
    s.until(30);
    assert_eq!(s.state(), ScheduleState::Active);
    s.finish(1);
    assert_eq!((s.state(), s.made_at()), (ScheduleState::Completed, vec![0]));
}

#[test]
fn spec_j_r12_a_job_that_nobody_ends_is_the_last() {
    let mut s = Scheduled::every(10, None);
    s.until(95);
    assert_eq!(s.made_at(), [0]);
    // Disabling it keeps it the one job there is.
    s.w.disable("s:job-1", DisableTasks::Requeue).unwrap();
    s.until(120);
    assert_eq!(s.made_at(), [0]);
}

#[test]
fn spec_j_r13_deleting_takes_everything_along() {
    let mut s = Scheduled::every(10, None);
    for number in 1..=3 {
        s.until(u64::from(number) * 10 - 5);
        s.w.tasks(&format!("s:job-{number}"), 300);
        if number < 3 {
            s.finish(number);
        }
    }
    s.change(ScheduleChange::Delete).unwrap();
    assert_eq!(s.w.cluster.all_jobs().count(), 0);
    assert_eq!(s.w.cluster.all_tasks_count(), 0);
    assert!(s.w.cluster.schedule_by_id(ACCOUNT, &ScheduleId::new("s").unwrap()).is_none());
    assert_eq!(s.w.cluster.cursors().count(), 0);
    assert_eq!(code(s.change(ScheduleChange::Delete)), RefusalCode::JobScheduleNotFound);
    // The name is free again, and numbers start anew.
    s.w.ok(Action::ScheduleAdd { spec: Box::new(spec(Some(10), None)) });
    assert_eq!(s.jobs().into_iter().map(|(id, _)| id).collect::<Vec<_>>(), ["s:job-1"]);
}

#[test]
fn spec_j_r14_a_job_ended_by_hand() {
    let mut s = Scheduled::every(10, None);
    s.until(3);
    s.finish(1);
    s.until(10);
    assert_eq!(s.made_at(), [0, 10]);
    // One that is deleted is not repeated for its slot either.
    s.w.delete("s:job-2").unwrap();
    s.until(19);
    assert_eq!(s.made_at(), [0]);
    s.until(20);
    assert_eq!(s.jobs().last(), Some(&("s:job-3".to_owned(), 20)));
}

#[test]
fn jobs_and_schedules_do_not_share_names() {
    let mut s = Scheduled::every(10, None);
    let job = s.w.act(Action::JobAdd { spec: Box::new(job_spec("S", "p")) });
    assert_eq!(code(job), RefusalCode::JobScheduleWithSameIdExists);
    s.w.job("j", "p");
    let mut taken = spec(None, None);
    taken.id = ScheduleId::new("J").unwrap();
    assert_eq!(
        code(s.w.act(Action::ScheduleAdd { spec: Box::new(taken) })),
        RefusalCode::JobWithSameIdExists
    );
    let again = s.w.act(Action::ScheduleAdd { spec: Box::new(spec(None, None)) });
    assert_eq!(code(again), RefusalCode::JobScheduleExists);
}

#[test]
fn a_month_of_hours() {
    let mut s = Scheduled::every(60, Some(5));
    for hour in 0..24 * 30 {
        s.until(hour * 60 + 1);
        let latest = s.record().jobs_made;
        s.finish(latest);
        s.w.delete(&format!("s:job-{latest}")).unwrap();
        s.w.obey();
    }
    assert_eq!(s.record().jobs_made, 24 * 30);
}
