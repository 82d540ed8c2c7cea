"""Jobs: every operation there is, states, conditions, what is refused."""

import datetime
from pathlib import Path

import pytest

from jobs import failure_of, names_and_values
from lote_cluster import wait_for

DAY = datetime.timedelta(days=1)
UNLIMITED = datetime.timedelta(days=10_675_199)


def in_state(sdk, job, state, timeout=30):
    return wait_for(f"job {job} to be {state}", lambda: (j := sdk.get_job(job)).state == state and j, timeout)


def test_a_new_job_reads_back_with_its_defaults(sdk, pool, make_job):
    made = make_job(pool, environment={"A": "1"}, metadata={"owner": "me"}, display_name="Übung")
    job = sdk.get_job(made.id)
    assert (job.id, job.display_name, job.state) == (made.id, "Übung", "active")
    assert job.previous_state is None
    assert (job.priority, job.max_parallel_tasks) == (0, -1)
    assert job.allow_task_preemption is False
    assert job.uses_task_dependencies is False
    assert job.constraints.max_wall_clock_time >= UNLIMITED
    assert job.constraints.max_task_retry_count == 0
    assert sdk.on_all_tasks_complete(job) == "noaction"
    assert job.pool_info.pool_id == pool
    assert job.execution_info.pool_id == pool
    assert job.execution_info.start_time is not None and job.execution_info.end_time is None
    assert names_and_values(job.common_environment_settings) == {"A": "1"}
    assert names_and_values(job.metadata) == {"owner": "me"}
    assert job.url.endswith(f"/jobs/{made.id}")
    assert sdk.etag(job).startswith("0x")


def test_ids_are_unique_whatever_their_case(sdk, job):
    assert sdk.get_job(job.id.upper()).id == job.id
    with sdk.refused(409, "JobExists") as refusal:
        sdk.create_job(sdk.job(job.id.upper(), "any"))
    assert refusal.message.startswith("The specified job already exists.")


def test_unknown_jobs(sdk, unique):
    id = unique("job")
    for call in [
        lambda: sdk.get_job(id),
        lambda: sdk.patch_job(id, priority=1),
        lambda: sdk.disable_job(id, "requeue"),
        lambda: sdk.enable_job(id),
        lambda: sdk.terminate_job(id),
        lambda: sdk.delete_job(id),
        lambda: sdk.task_counts(id),
        lambda: sdk.list_tasks(id),
        lambda: sdk.create_task(id, sdk.task("t", "/bin/true")),
        lambda: sdk.create_tasks(id, [sdk.task("t", "/bin/true")]),
    ]:
        with sdk.refused(404, "JobNotFound") as refusal:
            call()
        assert refusal.message.startswith("The specified job does not exist.")


def test_list_with_filter_and_select(sdk, pool, make_job):
    first, second = make_job(pool), make_job(pool)
    sdk.terminate_job(second.id, wait=True)
    in_state(sdk, second.id, "completed")
    assert {first.id, second.id} <= {job.id for job in sdk.list_jobs()}
    found = sdk.list_jobs(filter=f"startswith(id, '{first.id}')", select=["id", "state"])
    assert [(job.id, job.state) for job in found] == [(first.id, "active")]
    assert found[0].pool_info is None
    done = sdk.list_jobs(filter=f"state eq 'Completed' and executionInfo/poolId eq '{pool}'")
    assert second.id in {job.id for job in done} and first.id not in {job.id for job in done}
    later = (datetime.datetime.now(datetime.timezone.utc) + DAY).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert sdk.list_jobs(filter=f"creationTime gt DateTime'{later}'") == []
    assert first.id in {job.id for job in sdk.list_jobs(filter=f"creationTime lt datetime'{later}'")}


def test_patch_keeps_what_is_absent(sdk, pool, make_job):
    job = make_job(pool, priority=7, metadata={"a": "1"}, constraints=sdk.job_constraints(DAY, 3))
    before = sdk.get_job(job.id)
    sdk.patch_job(job.id, max_parallel_tasks=5)
    after = sdk.get_job(job.id)
    assert (after.priority, after.max_parallel_tasks) == (7, 5)
    assert names_and_values(after.metadata) == {"a": "1"}
    assert (after.constraints.max_wall_clock_time, after.constraints.max_task_retry_count) == (DAY, 3)
    assert sdk.etag(after) != sdk.etag(before)
    # An element that is given is replaced whole.
    sdk.patch_job(job.id, constraints=sdk.job_constraints(wall_clock=2 * DAY))
    after = sdk.get_job(job.id)
    assert (after.constraints.max_wall_clock_time, after.constraints.max_task_retry_count) == (2 * DAY, 0)


def test_put_falls_back_to_defaults(sdk, pool, make_job):
    job = make_job(pool, priority=7, metadata={"a": "1"}, constraints=sdk.job_constraints(DAY, 3))
    sdk.replace_job(job.id, pool, priority=9)
    after = sdk.get_job(job.id)
    assert (after.priority, after.max_parallel_tasks) == (9, -1)
    assert not after.metadata
    assert after.constraints.max_task_retry_count == 0
    assert after.constraints.max_wall_clock_time >= UNLIMITED


def test_new_tasks_take_the_retry_count_that_the_job_then_has(sdk, pool, make_job):
    job = make_job(pool, constraints=sdk.job_constraints(retries=1))
    sdk.disable_job(job.id, "requeue", wait=True)
    job.add("/bin/true", id="a")
    sdk.patch_job(job.id, constraints=sdk.job_constraints(retries=5))
    job.add("/bin/true", id="b")
    assert job.task("a").constraints.max_task_retry_count == 1
    assert job.task("b").constraints.max_task_retry_count == 5


def test_conditions(sdk, job):
    old = sdk.etag(sdk.get_job(job.id))
    sdk.patch_job(job.id, priority=1, if_match=old)
    new = sdk.etag(sdk.get_job(job.id))
    assert old != new
    with sdk.refused(412, "ConditionNotMet"):
        sdk.patch_job(job.id, priority=2, if_match=old)
    with sdk.refused(412, "ConditionNotMet"):
        sdk.terminate_job(job.id, if_match=old)
    with sdk.refused(412, "ConditionNotMet"):
        sdk.delete_job(job.id, if_match=old)
    with sdk.refused(304):
        sdk.get_job(job.id, if_none_match=new)
    after = sdk.get_job(job.id)
    assert (after.priority, after.state) == (1, "active")


def test_the_etag_does_not_follow_the_tasks(sdk, job):
    before = sdk.etag(sdk.get_job(job.id))
    task = job.add("/bin/true")
    first = sdk.etag(job.task(task))
    assert sdk.etag(job.completed(task)) == first
    assert sdk.etag(sdk.get_job(job.id)) == before


def test_task_counts(sdk, pool, make_job, gate):
    job = make_job(pool, max_parallel_tasks=1)
    job.add("/bin/true", id="ok")
    job.add("/bin/false", id="bad")
    job.all_completed(2)
    job.add_shell(gate.wait, id="held", slots=2)
    job.in_state("held", "running")
    job.add("/bin/true", id="waiting", slots=3)
    counts = sdk.task_counts(job.id)
    tasks, slots = counts.task_counts, counts.task_slot_counts
    assert (tasks.active, tasks.running, tasks.completed, tasks.succeeded, tasks.failed) == (1, 1, 2, 1, 1)
    assert (slots.active, slots.running, slots.completed, slots.succeeded, slots.failed) == (3, 2, 2, 1, 1)
    gate.open()
    job.all_completed(4)
    assert sdk.task_counts(job.id).task_counts.succeeded == 3


def test_max_parallel_tasks(sdk, pool, make_job, gate):
    job = make_job(pool, max_parallel_tasks=2)
    for n in range(4):
        job.add_shell(gate.wait)
    wait_for("two running tasks", lambda: sdk.task_counts(job.id).task_counts.running == 2)
    assert sdk.task_counts(job.id).task_counts.active == 2
    sdk.patch_job(job.id, max_parallel_tasks=3)
    wait_for("three running tasks", lambda: sdk.task_counts(job.id).task_counts.running == 3)
    gate.open()
    job.all_completed(4)


# -- disable and enable ---------------------------------------------------------------------------------------------


def test_disable_with_requeue(sdk, job, gate):
    job.add_shell(f"{gate.wait}; echo done", id="a")
    first = job.in_state("a", "running").execution_info.start_time
    sdk.disable_job(job.id, "requeue", wait=True)
    disabled = in_state(sdk, job.id, "disabled")
    assert disabled.previous_state == "active"
    task = job.task("a")
    assert task.state == "active"
    info = task.execution_info
    assert (info.requeue_count, info.retry_count, info.exit_code, info.failure_info) == (1, 0, None, None)
    job.add("/bin/true", id="b")
    gate.open()
    sdk.enable_job(job.id, wait=True)
    assert in_state(sdk, job.id, "active").previous_state == "disabled"
    again = job.completed("a")
    assert job.succeeded(again) == "done\n"
    assert again.execution_info.start_time > first
    job.completed("b")


def test_disable_with_terminate(sdk, job, gate):
    job.add_shell(gate.wait, id="a")
    job.in_state("a", "running")
    sdk.disable_job(job.id, "terminate", wait=True)
    in_state(sdk, job.id, "disabled")
    failure_of(job.task("a"), "TaskEnded")
    sdk.enable_job(job.id, wait=True)
    in_state(sdk, job.id, "active")
    assert job.task("a").state == "completed"
    gate.open()
    sdk.reactivate_task(job.id, "a")
    assert job.completed("a").execution_info.exit_code == 0


def test_disable_with_wait(sdk, make_job, make_pool, gate):
    job = make_job(make_pool(nodes=1))
    job.add_shell(f"{gate.wait}; echo done", id="a")
    job.in_state("a", "running")
    job.add("/bin/true", id="b")
    sdk.disable_job(job.id, "wait")
    assert sdk.get_job(job.id).state == "disabling"
    gate.open()
    in_state(sdk, job.id, "disabled")
    assert job.succeeded(job.task("a")) == "done\n"
    assert job.task("b").state == "active"
    sdk.enable_job(job.id, wait=True)
    job.completed("b")


def test_enable_cancels_a_disable(sdk, job, gate):
    job.add_shell(gate.wait, id="a")
    job.in_state("a", "running")
    sdk.disable_job(job.id, "wait")
    sdk.enable_job(job.id)
    in_state(sdk, job.id, "active")
    assert job.task("a").state == "running"
    job.add("/bin/true", id="b")
    job.completed("b")
    gate.open()
    job.completed("a")


def test_a_disabled_job_can_move_to_another_pool(sdk, make_pool, make_job, pool):
    other = make_pool(nodes=0)
    job = make_job(other)
    job.add_shell("echo $AZ_BATCH_POOL_ID", id="a")
    with sdk.refused(409):
        sdk.patch_job(job.id, pool_id=pool)
    sdk.patch_job(job.id, pool_id=other)  # no change
    sdk.disable_job(job.id, "requeue", wait=True)
    in_state(sdk, job.id, "disabled")
    sdk.patch_job(job.id, pool_id=pool)
    sdk.enable_job(job.id, wait=True)
    assert job.succeeded(job.completed("a")) == f"{pool}\n"


def test_a_job_waits_for_its_pool(sdk, make_job, unique):
    id = unique("late-pool")
    job = make_job(id)
    job.add("/bin/true", id="a")
    assert job.task("a").state == "active"
    sdk.create_pool(sdk.pool(id, nodes=1))
    try:
        job.completed("a")
    finally:
        sdk.delete_pool(id)


# -- terminate and delete -------------------------------------------------------------------------------------------


def test_terminate(sdk, make_pool, make_job, gate):
    job = make_job(make_pool(nodes=1))
    job.add_shell(gate.wait, id="a")
    job.in_state("a", "running")
    job.add("/bin/true", id="b")
    sdk.terminate_job(job.id, wait=True)
    done = in_state(sdk, job.id, "completed")
    assert sdk.terminate_reason(done) == "UserTerminate"
    assert done.previous_state == "active"
    assert done.execution_info.end_time is not None
    failure_of(job.completed("a"), "TaskEnded")
    assert job.task("b").state == "active"
    counts = sdk.task_counts(job.id).task_counts
    assert (counts.active, counts.running, counts.failed) == (1, 0, 1)
    for call in [
        lambda: sdk.terminate_job(job.id),
        lambda: sdk.disable_job(job.id, "requeue"),
        lambda: sdk.enable_job(job.id),
        lambda: sdk.create_task(job.id, sdk.task("c", "/bin/true")),
        lambda: sdk.create_tasks(job.id, [sdk.task("c", "/bin/true")]),
        lambda: sdk.reactivate_task(job.id, "a"),
        lambda: sdk.patch_job(job.id, priority=1),
    ]:
        with sdk.refused(409, "JobCompleted"):
            call()
    assert {task.id for task in sdk.list_tasks(job.id)} == {"a", "b"}
    sdk.delete_job(job.id, wait=True)
    wait_for("the deletion", lambda: sdk.is_gone(lambda: sdk.get_job(job.id)))


def test_terminate_with_a_reason(sdk, job):
    sdk.terminate_job(job.id, reason="enough of it", wait=True)
    assert sdk.terminate_reason(in_state(sdk, job.id, "completed")) == "enough of it"


def test_terminate_when_all_tasks_are_complete(sdk, job):
    job.run("/bin/true")
    job.run("/bin/false")
    sdk.patch_job(job.id, when_done="terminatejob")
    assert sdk.terminate_reason(in_state(sdk, job.id, "completed")) == "AllTasksComplete"


def test_created_to_terminate_it_waits_for_its_tasks(sdk, pool, make_job, gate):
    job = make_job(pool, when_done="terminatejob")
    assert sdk.get_job(job.id).state == "active"
    job.add_shell(gate.wait, id="a")
    job.add("/bin/true", id="b")
    job.completed("b")
    assert sdk.get_job(job.id).state == "active"
    with sdk.refused(400, "InvalidPropertyValue"):
        sdk.patch_job(job.id, when_done="noaction")
    gate.open()
    job.completed("a")
    in_state(sdk, job.id, "completed")


def test_the_wall_clock_of_a_job(sdk, pool, make_job):
    job = make_job(pool, constraints=sdk.job_constraints(wall_clock=datetime.timedelta(seconds=3)))
    job.add("/bin/sleep 60", id="a")
    done = in_state(sdk, job.id, "completed")
    assert sdk.terminate_reason(done) == "MaxWallClockTimeExpiry"
    failure_of(job.completed("a"), "TaskEnded")


def test_delete_ends_running_tasks_and_frees_the_id(sdk, pool, make_job, tmp_path):
    job = make_job(pool)
    job.add_shell(f"echo $$ > {tmp_path}/pid; sleep 60", id="a")
    job.in_state("a", "running")
    pid = wait_for("the process", lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    sdk.delete_job(job.id, wait=True)
    wait_for("the deletion", lambda: sdk.is_gone(lambda: sdk.get_job(job.id)))
    wait_for("the end of the process", lambda: not Path(f"/proc/{pid}").exists(), timeout=15)
    sdk.create_job(sdk.job(job.id, pool))
    assert sdk.list_tasks(job.id) == []
    job.add_shell("ls", id="a")
    assert job.succeeded(job.completed("a")) == ""


@pytest.mark.parametrize(
    "members, code",
    [
        ({"id": "a/b"}, "InvalidPropertyValue"),
        ({"id": ""}, None),
        ({"priority": 1001}, "OutOfRangePriority"),
        ({"max_parallel_tasks": 0}, "InvalidPropertyValue"),
    ],
)
def test_bad_jobs_are_refused(sdk, pool, unique, members, code):
    members = {"id": unique("bad"), **members}
    with sdk.refused(400, code):
        sdk.create_job(sdk.job(pool_id=pool, **members))
    assert members["id"] not in {job.id for job in sdk.list_jobs()}
