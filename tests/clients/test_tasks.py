"""Tasks: every operation there is, states, paging, what is refused."""

import datetime
from pathlib import Path

import pytest

from jobs import failure_of, names_and_values
from lote_cluster import wait_for

HOUR = datetime.timedelta(hours=1)
WEEK = datetime.timedelta(days=7)
UNLIMITED = datetime.timedelta(days=10_675_199)


def test_a_new_task_reads_back_with_its_defaults(sdk, make_pool, make_job):
    job = make_job(make_pool(nodes=0))
    job.add("/bin/true", id="a", environment={"A": "1"}, display_name="Übung")
    task = job.task("a")
    assert (task.id, task.display_name, task.command_line) == ("a", "Übung", "/bin/true")
    assert task.state == "active" and task.previous_state is None
    assert task.constraints.max_wall_clock_time >= UNLIMITED
    assert task.constraints.retention_time == WEEK
    assert task.constraints.max_task_retry_count == 0
    assert task.required_slots == 1
    assert (task.user_identity.auto_user.scope, task.user_identity.auto_user.elevation_level) == ("pool", "nonadmin")
    info = task.execution_info
    assert (info.retry_count, info.requeue_count) == (0, 0)
    assert (info.start_time, info.end_time, info.exit_code, info.result) == (None, None, None, None)
    assert names_and_values(task.environment_settings) == {"A": "1"}
    assert task.url.endswith(f"/jobs/{job.id}/tasks/a")
    assert sdk.etag(task).startswith("0x")


def test_a_completed_task_tells_where_and_when_it_ran(sdk, job, pool):
    task = job.run("/bin/true")
    info, node = task.execution_info, task.node_info
    assert (task.state, task.previous_state) == ("completed", "running")
    assert (info.exit_code, info.result, info.failure_info) == (0, "success", None)
    assert task.creation_time <= info.start_time <= info.end_time
    assert node.pool_id == pool
    assert node.task_root_directory == f"workitems/{job.id}/job-1/{task.id}"
    assert node.task_root_directory_url.endswith(f"/files/{node.task_root_directory}")
    assert node.affinity_id == f"TVM:{node.node_id}"
    assert sdk.get_node(pool, node.node_id).url == node.node_url


def test_get_with_select(sdk, job):
    job.run("/bin/true")
    task = sdk.get_task(job.id, "t1", select=["id", "state"])
    assert (task.id, task.state) == ("t1", "completed")
    assert task.command_line is None and task.execution_info is None


def test_unknown_task(sdk, job):
    for call in [
        lambda: sdk.get_task(job.id, "none"),
        lambda: sdk.terminate_task(job.id, "none"),
        lambda: sdk.reactivate_task(job.id, "none"),
        lambda: sdk.delete_task(job.id, "none"),
        lambda: sdk.replace_task(job.id, "none", sdk.task_constraints(retries=1)),
        lambda: sdk.read_task_file(job.id, "none", "stdout.txt"),
    ]:
        with sdk.refused(404, "TaskNotFound"):
            call()


def test_an_id_can_be_used_once(sdk, job):
    job.add("/bin/true", id="A")
    with sdk.refused(409, "TaskExists"):
        job.add("/bin/true", id="a")
    assert job.task("a").id == "A"


# -- collections, lists, pages --------------------------------------------------------------------------------------


def test_a_collection_stands_or_falls_by_the_task(sdk, make_pool, make_job):
    job = make_job(make_pool(nodes=0))
    job.add("/bin/true", id="b")
    results = sdk.create_tasks(job.id, [sdk.task(id, "/bin/true") for id in ("a", "b", "c")])
    # Both SDKs take TaskExists for a success, since they may have sent the task before.
    assert sorted(result.task_id for result in results) == ["a", "b", "c"]
    again = {result.task_id: result for result in results}["b"]
    assert (again.status, again.error.code) == ("clienterror", "TaskExists")
    assert sorted(task.id for task in sdk.list_tasks(job.id)) == ["a", "b", "c"]


def test_a_collection_over_one_mebibyte_is_split(sdk, make_pool, make_job):
    job = make_job(make_pool(nodes=0))
    tasks = [sdk.task(f"t{n:02}", "/bin/echo " + "x" * 20_000) for n in range(60)]
    results = sdk.create_tasks(job.id, tasks)
    assert len(results) == 60 and {result.status for result in results} == {"success"}
    assert len(sdk.list_tasks(job.id, select=["id"])) == 60


def test_many_tasks_in_requests_of_a_hundred(sdk, make_pool, make_job):
    job = make_job(make_pool(nodes=0))
    results = sdk.create_tasks(job.id, [sdk.task(f"t{n:03}", "/bin/true") for n in range(250)])
    assert len(results) == 250
    assert sdk.task_counts(job.id).task_counts.active == 250


def test_paging(sdk, make_pool, make_job):
    job = make_job(make_pool(nodes=0))
    ids = [f"t{n}" for n in range(8)] + ["other"]
    sdk.create_tasks(job.id, [sdk.task(id, "/bin/true") for id in ids])
    pages = sdk.task_pages(job.id, page_size=3)
    assert [len(page) for page in pages] == [3, 3, 3]
    assert sorted(task.id for page in pages for task in page) == sorted(ids)
    # The filter holds on every page.
    pages = sdk.task_pages(job.id, page_size=3, filter="startswith(id, 't')")
    assert [len(page) for page in pages] == [3, 3, 2]
    assert sorted(task.id for page in pages for task in page) == sorted(ids[:-1])


def test_a_walk_over_pages_is_not_disturbed_by_new_tasks(sdk, make_pool, make_job):
    job = make_job(make_pool(nodes=0))
    ids = [f"m{n}" for n in range(6)]
    sdk.create_tasks(job.id, [sdk.task(id, "/bin/true") for id in ids])
    seen = []
    for page in sdk.task_pages(job.id, page_size=2):
        seen += [task.id for task in page]
        job.add("/bin/true", id=f"a{len(seen)}")
    assert sorted(id for id in seen if id.startswith("m")) == ids
    assert len(seen) == len(set(seen))


def test_filters(sdk, job, gate):
    job.add("/bin/true", id="ok")
    job.add("/bin/false", id="bad-1")
    job.add_shell("exit 7", id="bad-2")
    job.all_completed(3)
    job.add_shell(gate.wait, id="held")
    job.in_state("held", "running")

    def ids(filter):
        return sorted(task.id for task in sdk.list_tasks(job.id, filter=filter))

    assert ids("state eq 'running'") == ["held"]
    assert ids("(state eq 'active') or (state eq 'running')") == ["held"]
    assert ids("state ne 'completed'") == ["held"]
    assert ids("startswith(id, 'bad')") == ["bad-1", "bad-2"]
    assert ids("executionInfo/exitCode eq 7") == ["bad-2"]
    assert ids("executionInfo/exitCode gt 0 and executionInfo/exitCode lt 7") == ["bad-1"]
    assert ids("executionInfo/result eq 'Failure'") == ["bad-1", "bad-2"]
    assert ids("startswith(id, 'bad') and (executionInfo/exitCode eq 1 or id eq 'ok')") == ["bad-1"]
    assert ids("creationTime gt DateTime'2000-01-01T00:00:00Z' and id eq 'ok'") == ["ok"]
    for bad in ["state eq", "state like 'x'", "commandLine eq 'x'", "id eq 'x", "state eq 'running' and", "1 eq 1"]:
        with sdk.refused(400, "InvalidQueryParameterValue"):
            ids(bad)
    gate.open()
    job.completed("held")


def test_list_with_select(sdk, make_pool, make_job):
    job = make_job(make_pool(nodes=0))
    job.add("/bin/true", id="a")
    (task,) = sdk.list_tasks(job.id, select=["id", "commandLine"])
    assert (task.id, task.command_line) == ("a", "/bin/true")
    assert task.state is None and task.url is None


# -- update, terminate, reactivate, delete ---------------------------------------------------------------------------


def test_put_replaces_the_constraints(sdk, make_pool, make_job):
    job = make_job(make_pool(nodes=0), constraints=sdk.job_constraints(retries=2))
    job.add("/bin/true", id="a", wall_clock=HOUR, retention=HOUR, retries=1)
    before = job.task("a")
    sdk.replace_task(job.id, "a", sdk.task_constraints(retention=2 * HOUR))
    after = job.task("a")
    assert after.constraints.retention_time == 2 * HOUR
    assert after.constraints.max_wall_clock_time >= UNLIMITED
    assert after.constraints.max_task_retry_count == 2
    assert sdk.etag(after) != sdk.etag(before)
    with sdk.refused(412, "ConditionNotMet"):
        sdk.replace_task(job.id, "a", sdk.task_constraints(retries=9), if_match=sdk.etag(before))
    assert job.task("a").constraints.max_task_retry_count == 2


def test_a_completed_task_is_not_updated(sdk, job):
    job.run("/bin/true")
    with sdk.refused(409, "TaskCompleted"):
        sdk.replace_task(job.id, "t1", sdk.task_constraints(retries=1))


def test_terminate_before_it_ran(sdk, make_pool, make_job):
    job = make_job(make_pool(nodes=0))
    job.add("/bin/true", id="a")
    sdk.terminate_task(job.id, "a")
    task = job.task("a")
    assert (task.state, task.previous_state) == ("completed", "active")
    failure_of(task, "TaskEnded")
    info = task.execution_info
    assert (info.start_time, info.exit_code, info.retry_count) == (None, None, 0)
    with sdk.refused(409, "TaskCompleted"):
        sdk.terminate_task(job.id, "a")


def test_terminate_while_it_runs(sdk, job, tmp_path):
    job.add_shell(f"echo begun; echo $$ > {tmp_path}/pid; sleep 60", id="a", retries=3)
    job.in_state("a", "running")
    pid = wait_for("the process", lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    sdk.terminate_task(job.id, "a")
    task = job.task("a")
    assert task.state == "completed"
    failure_of(task, "TaskEnded")
    assert task.execution_info.end_time is not None and task.execution_info.retry_count == 0
    wait_for("the end of the process", lambda: not Path(f"/proc/{pid}").exists(), timeout=15)
    assert job.stdout("a") == "begun\n"
    # A late report of the node changes nothing.
    assert job.task("a").execution_info.failure_info.code == "TaskEnded"


def test_reactivate(sdk, job, tmp_path):
    job.add_shell(f"[ -e {tmp_path}/fixed ]", id="a", retries=1)
    failed = job.completed("a")
    assert (failed.execution_info.exit_code, failed.execution_info.retry_count) == (1, 1)
    failure_of(failed, "FailureExitCode")
    (tmp_path / "fixed").touch()
    sdk.reactivate_task(job.id, "a")
    again = job.completed("a")
    assert (again.execution_info.exit_code, again.execution_info.retry_count) == (0, 0)
    assert again.execution_info.failure_info is None
    with sdk.refused(409, "TaskSucceeded"):
        sdk.reactivate_task(job.id, "a")


def test_reactivate_what_is_not_completed(sdk, make_pool, make_job):
    job = make_job(make_pool(nodes=0))
    job.add("/bin/true", id="a")
    with sdk.refused(409, "TaskNotCompleted"):
        sdk.reactivate_task(job.id, "a")


def test_delete(sdk, job, pool):
    task = job.run_shell("echo one > f")
    sdk.delete_task(job.id, "t1")
    with sdk.refused(404, "TaskNotFound"):
        job.task("t1")
    with sdk.refused(404, "TaskNotFound"):
        sdk.read_task_file(job.id, "t1", "stdout.txt")
    root, node = task.node_info.task_root_directory, task.node_info.node_id
    wait_for(
        "the removal of the directory",
        lambda: sdk.list_node_files(pool, node, recursive=True, filter=f"startswith(name, '{root}')") == [],
    )
    # The id is free, and its directory is a new one.
    job.add_shell("ls", id="t1")
    assert job.succeeded(job.completed("t1")) == ""


def test_delete_while_it_runs(sdk, job, tmp_path):
    job.add_shell(f"echo $$ > {tmp_path}/pid; sleep 60", id="a")
    job.in_state("a", "running")
    pid = wait_for("the process", lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    sdk.delete_task(job.id, "a")
    assert sdk.list_tasks(job.id) == []
    wait_for("the end of the process", lambda: not Path(f"/proc/{pid}").exists(), timeout=15)


@pytest.mark.parametrize(
    "members, code",
    [
        ({"id": "a b"}, "InvalidPropertyValue"),
        ({"slots": 0}, "InvalidPropertyValue"),
        ({"retries": -2}, None),
        ({"wall_clock": datetime.timedelta(0)}, None),
    ],
)
def test_bad_tasks_are_refused(sdk, job, members, code):
    members = {"id": "a", "command_line": "/bin/true", **members}
    with sdk.refused(400, code):
        sdk.create_task(job.id, sdk.task(**members))
    assert sdk.list_tasks(job.id) == []


def test_a_task_too_large_for_any_node_waits(sdk, job):
    job.add("/bin/true", id="large", slots=5)
    job.run("/bin/true")
    assert job.task("large").state == "active"
