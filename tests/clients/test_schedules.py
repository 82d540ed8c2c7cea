"""Job schedules with real clients (`jobs-and-tasks.md` §10). What needs hours runs in the core's own tests; here are the
operations, what is refused, and jobs that a schedule makes and somebody uses."""

import datetime

import pytest

from jobs import Job
from lote_cluster import wait_for

MINUTE = datetime.timedelta(minutes=1)


@pytest.fixture
def make_schedule(sdk, unique):
    """`make_schedule(pool, …)` makes a schedule for this test; it is deleted afterwards."""
    made = []

    def make(pool_id, specification=None, **times):
        id = unique("schedule")
        sdk.create_schedule(id, sdk.schedule(**times), specification or sdk.job_specification(pool_id))
        made.append(id)
        return id

    yield make
    for id in made:
        if not sdk.is_gone(lambda: sdk.get_schedule(id)):
            try:
                sdk.delete_schedule(id)
            except sdk.errors:
                pass  # it is being deleted already


def state_of(sdk, id):
    return sdk.get_schedule(id).state


def test_a_new_schedule_has_its_first_job(sdk, make_schedule, pool):
    id = make_schedule(pool, recurrence_interval=10 * MINUTE, start_window=5 * MINUTE)
    schedule = sdk.get_schedule(id)
    assert (schedule.id, schedule.state, schedule.previous_state) == (id, "active", None)
    assert (schedule.schedule.recurrence_interval, schedule.schedule.start_window) == (10 * MINUTE, 5 * MINUTE)
    assert schedule.job_specification.pool_info.pool_id == pool
    info = schedule.execution_info
    assert info.recent_job.id == f"{id}:job-1"
    assert info.recent_job.url.endswith(f"/jobs/{id}:job-1")
    assert info.next_run_time - schedule.creation_time == 10 * MINUTE
    assert [job.id for job in sdk.list_schedule_jobs(id)] == [f"{id}:job-1"]
    assert id in [schedule.id for schedule in sdk.list_schedules()]
    assert id in [schedule.id for schedule in sdk.list_schedules(filter="state eq 'active'")]


def test_a_one_shot_schedule_is_over_with_its_job(sdk, make_schedule, pool):
    id = make_schedule(pool)
    job = Job(sdk, f"{id}:job-1")
    job.succeeded(job.run("/bin/true"))
    task = job.task("t1")
    assert task.node_info.task_root_directory == f"workitems/{id}/job-1/t1"
    sdk.terminate_job(job.id)
    done = wait_for("the schedule to complete", lambda: (got := sdk.get_schedule(id)).state == "completed" and got, 30)
    assert done.execution_info.end_time is not None and done.execution_info.next_run_time is None
    with sdk.refused(409, "JobScheduleCompleted"):
        sdk.disable_schedule(id)


def test_spec_j_r8_r9_disable_enable_terminate(sdk, make_schedule, pool):
    id = make_schedule(pool, recurrence_interval=10 * MINUTE)
    job = Job(sdk, f"{id}:job-1")
    job.add("/bin/sleep 60", id="t")
    job.in_state("t", "running")
    sdk.disable_schedule(id)
    assert (state_of(sdk, id), sdk.get_job(job.id).state) == ("disabled", "active")
    sdk.enable_schedule(id)
    assert state_of(sdk, id) == "active"
    sdk.terminate_schedule(id)
    wait_for("the schedule to complete", lambda: state_of(sdk, id) == "completed", 30)
    ended = sdk.get_job(job.id)
    assert (ended.state, sdk.terminate_reason(ended)) == ("completed", "TerminateJobSchedule")


def test_spec_j_r10_patch_and_put_are_for_jobs_to_come(sdk, make_schedule, pool):
    id = make_schedule(pool, recurrence_interval=10 * MINUTE)
    sdk.patch_schedule(id, job_specification=sdk.job_specification(pool, priority=7))
    schedule = sdk.get_schedule(id)
    assert (schedule.job_specification.priority, schedule.schedule.recurrence_interval) == (7, 10 * MINUTE)
    assert sdk.get_job(f"{id}:job-1").priority == 0
    sdk.replace_schedule(id, sdk.schedule(recurrence_interval=20 * MINUTE), sdk.job_specification(pool))
    schedule = sdk.get_schedule(id)
    assert (schedule.job_specification.priority, schedule.schedule.recurrence_interval) == (0, 20 * MINUTE)


def test_spec_j_r13_deleting_takes_the_jobs_along(sdk, make_schedule, pool):
    id = make_schedule(pool)
    Job(sdk, f"{id}:job-1").run("/bin/true")
    sdk.delete_schedule(id)
    wait_for("the schedule to go", lambda: sdk.is_gone(lambda: sdk.get_schedule(id)), 30)
    assert sdk.is_gone(lambda: sdk.get_job(f"{id}:job-1"))


def test_what_is_refused(sdk, make_schedule, make_job, pool, unique):
    id = make_schedule(pool, recurrence_interval=10 * MINUTE)
    plain = sdk.job_specification(pool)
    with sdk.refused(409, "JobScheduleExists"):
        sdk.create_schedule(id.upper(), sdk.schedule(), plain)
    with sdk.refused(409, "JobScheduleWithSameIdExists"):
        sdk.create_job(sdk.job(id, pool))
    job = make_job(pool)
    with sdk.refused(409, "JobWithSameIdExists"):
        sdk.create_schedule(job.id, sdk.schedule(), plain)
    with sdk.refused(404, "JobScheduleNotFound"):
        sdk.get_schedule("none")
    now = datetime.datetime.now(datetime.timezone.utc)
    for times, member in [
        ({"recurrence_interval": MINUTE / 2}, "recurrenceInterval"),
        ({"start_window": MINUTE / 2}, "startWindow"),
        ({"do_not_run_until": now, "do_not_run_after": now}, "doNotRunAfter"),
    ]:
        with sdk.refused(400, "InvalidPropertyValue") as refusal:
            sdk.create_schedule(unique("schedule"), sdk.schedule(**times), plain)
        assert member in refusal.message + str(refusal.values)


@pytest.mark.once
def test_existence(raw, sdk, make_schedule, pool):
    id = make_schedule(pool)
    assert raw.send("HEAD", f"/jobschedules/{id}").status == 200
    assert raw.send("HEAD", "/jobschedules/none").status == 404


def test_the_first_slot_is_awaited(sdk, make_schedule, pool):
    start = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=3)
    id = make_schedule(pool, do_not_run_until=start, recurrence_interval=10 * MINUTE)
    schedule = sdk.get_schedule(id)
    assert schedule.execution_info.recent_job is None
    assert abs(schedule.execution_info.next_run_time - start) < datetime.timedelta(seconds=1)
    jobs = wait_for("the first job", lambda: sdk.list_schedule_jobs(id), 30)
    assert jobs[0].creation_time >= start - datetime.timedelta(milliseconds=1)
