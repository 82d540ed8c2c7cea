"""Dependencies and exit conditions (`jobs-and-tasks.md` §6 and §13.3), with real tasks."""

from jobs import failure_of
from lote_cluster import wait_for
from sdk import Output

SATISFY = {"dependency_action": "satisfy"}
BLOCK = {"dependency_action": "block"}


def depending(make_job, pool, **members):
    """A job whose tasks may depend on each other."""
    return make_job(pool, uses_task_dependencies=True, **members)


def stays_active(job, *ids):
    """After another task has run behind them in the queue, these still wait."""
    job.run("/bin/true")
    for id in ids:
        assert job.task(id).state == "active", id


def test_spec_j_d1_a_job_without_dependencies(sdk, make_job, pool):
    job = make_job(pool)
    with sdk.refused(400, "TaskDependenciesNotSpecifiedOnJob"):
        job.add("/bin/true", depends_on=sdk.depends_on("a"))
    assert sdk.list_tasks(job.id) == []


def test_spec_j_d2_a_parent_that_comes_later(sdk, make_job, pool):
    job = depending(make_job, pool)
    job.add("/bin/true", id="b", depends_on=sdk.depends_on("a"))
    stays_active(job, "b")
    assert job.task("b").depends_on.task_ids == ["a"]
    job.add("/bin/true", id="A")
    a, b = job.completed("A"), job.completed("b")
    assert b.execution_info.result == "success"
    assert b.execution_info.start_time >= a.execution_info.end_time


def test_spec_j_d3_d4_ranges_and_gaps(sdk, make_job, pool):
    job = depending(make_job, pool)
    job.add("/bin/true", id="b", depends_on=sdk.depends_on(ranges=[(1, 3)]))
    for id in ("1", "003"):
        job.run("/bin/true", id=id)
    stays_active(job, "b")
    job.run("/bin/true", id="02")
    assert job.completed("b").execution_info.result == "success"
    shown = job.task("b").depends_on.task_id_ranges
    assert [(range.start, range.end) for range in shown] == [(1, 3)]


def test_spec_j_d5_the_first_of_several_forms_is_enough(sdk, make_job, pool):
    job = depending(make_job, pool)
    job.add("/bin/true", id="b", depends_on=sdk.depends_on(ranges=[(4, 4)]))
    job.add("/bin/sleep 60", id="4")
    job.in_state("4", "running")
    job.add("/bin/true", id="04")
    job.completed("b")
    assert job.task("4").state == "running"


def test_spec_j_d6_a_failed_parent_blocks_until_it_is_repaired(sdk, make_job, pool, tmp_path):
    job = depending(make_job, pool)
    mark = tmp_path / "repaired"
    job.add(f"/usr/bin/test -e {mark}", id="a")
    job.add("/bin/true", id="b", depends_on=sdk.depends_on("a"))
    failure_of(job.completed("a"), "FailureExitCode")
    stays_active(job, "b")
    mark.touch()
    sdk.reactivate_task(job.id, "a")
    assert job.completed("b").execution_info.result == "success"


def test_spec_j_d7_an_exit_code_that_satisfies(sdk, make_job, pool):
    job = depending(make_job, pool)
    conditions = sdk.exit_conditions(codes={1: SATISFY})
    job.add_shell("exit 1", id="a", exit_conditions=conditions)
    job.add("/bin/true", id="b", depends_on=sdk.depends_on("a"))
    failure_of(job.completed("a"), "FailureExitCode")
    job.completed("b")
    shown = job.task("a").exit_conditions
    assert [(mapping.code, mapping.exit_options.dependency_action) for mapping in shown.exit_codes] == [(1, "satisfy")]


def test_spec_j_d8_a_success_that_blocks(sdk, make_job, pool):
    job = depending(make_job, pool)
    job.add("/bin/true", id="a", exit_conditions=sdk.exit_conditions(codes={0: BLOCK}, default=SATISFY))
    job.add("/bin/true", id="b", depends_on=sdk.depends_on("a"))
    assert job.completed("a").execution_info.result == "success"
    stays_active(job, "b")


def test_spec_j_d9_satisfaction_is_sticky(sdk, make_job, pool):
    job = depending(make_job, pool)
    job.run("/bin/true", id="a")
    sdk.delete_task(job.id, "a")
    job.run("/bin/false", id="a")
    job.add("/bin/true", id="b", depends_on=sdk.depends_on("a"))
    assert job.completed("b").execution_info.result == "success"


def test_spec_j_d10_a_retry_neither_blocks_nor_releases(sdk, make_job, pool, tmp_path):
    job = depending(make_job, pool)
    mark = tmp_path / "second"
    # The first attempt fails and leaves the mark, the second one finds it.
    job.add_shell(f"test -e {mark} || {{ touch {mark}; exit 1; }}", id="a", retries=1)
    job.add("/bin/true", id="b", depends_on=sdk.depends_on("a"))
    b, a = job.completed("b"), job.task("a")
    assert (a.execution_info.retry_count, a.execution_info.result) == (1, "success")
    assert b.execution_info.start_time >= a.execution_info.end_time


def ended(sdk, job):
    return wait_for("the job to end", lambda: (got := sdk.get_job(job.id)).state == "completed" and got, 30)


def test_spec_j_d11_a_failed_task_ends_its_job(sdk, make_job, pool):
    job = make_job(pool, **sdk.acts_on_failure())
    job.add("/bin/sleep 60", id="c")
    job.in_state("c", "running")
    job.add("/bin/false", id="a")
    assert sdk.terminate_reason(ended(sdk, job)) == "TaskFailed"
    failure_of(job.task("c"), "TaskEnded")


def test_spec_j_d12_what_an_entry_leaves_out_is_not_default(sdk, make_job, pool):
    job = depending(make_job, pool, **sdk.acts_on_failure())
    conditions = sdk.exit_conditions(codes={3: SATISFY}, default={"job_action": "none"})
    job.add_shell("exit 3", id="a", exit_conditions=conditions)
    assert sdk.terminate_reason(ended(sdk, job)) == "TaskFailed"


def test_spec_j_d13_an_exit_that_disables(sdk, make_job, pool):
    job = make_job(pool, **sdk.acts_on_failure())
    job.add("/bin/sleep 3", id="c")
    job.in_state("c", "running")
    job.add_shell("exit 9", id="a", exit_conditions=sdk.exit_conditions(default={"job_action": "disable"}))
    wait_for("the job to be disabled", lambda: sdk.get_job(job.id).state == "disabled", 30)
    c = job.task("c")
    assert (c.state, c.execution_info.requeue_count) == ("active", 1)
    sdk.enable_job(job.id)
    assert job.completed("c").execution_info.result == "success"


def test_spec_j_d14_d15_uploads_that_fail(sdk, make_job, pool):
    outputs = [Output("../std*.txt", "http://127.0.0.1:9/container?sig=no")]
    job = make_job(pool, **sdk.acts_on_failure())
    listed = sdk.exit_conditions(ranges={(10, 20): {"job_action": "none"}}, file_upload_error={"job_action": "terminate"})
    job.add_shell("exit 15", id="listed", outputs=outputs, exit_conditions=listed)
    unlisted = sdk.exit_conditions(file_upload_error={"job_action": "none"}, default={"job_action": "terminate"})
    job.add_shell("exit 0", id="unlisted", outputs=outputs, exit_conditions=unlisted)
    for id in ("listed", "unlisted"):
        assert job.completed(id, timeout=120).execution_info.result == "failure", id
    assert sdk.get_job(job.id).state == "active"


def test_spec_j_d16_a_missing_file(sdk, make_job, pool):
    job = make_job(pool, **sdk.acts_on_failure())
    missing = sdk.resource_file(http_url="http://127.0.0.1:9/none", file_path="none")
    conditions = sdk.exit_conditions(default={"job_action": "disable"})
    job.add("/bin/true", id="a", resource_files=[missing], retries=3, exit_conditions=conditions)
    wait_for("the job to be disabled", lambda: sdk.get_job(job.id).state == "disabled", 120)
    assert job.completed("a").execution_info.retry_count == 0


def test_spec_j_d17_job_actions_need_the_job_to_opt_in(sdk, make_job, pool):
    job = make_job(pool)
    with sdk.refused(400, "InvalidPropertyValue") as refusal:
        job.add("/bin/true", exit_conditions=sdk.exit_conditions(default={"job_action": "none"}))
    assert "onTaskFailure" in refusal.message + str(refusal.values)


def test_spec_j_d18_a_circle_waits_for_ever_and_nothing_waits_for_itself(sdk, make_job, pool):
    job = depending(make_job, pool)
    job.add("/bin/true", id="a", depends_on=sdk.depends_on("b"))
    job.add("/bin/true", id="b", depends_on=sdk.depends_on("a"))
    stays_active(job, "a", "b")
    with sdk.refused(400, "InvalidPropertyValue"):
        job.add("/bin/true", id="7", depends_on=sdk.depends_on(ranges=[(1, 9)]))


def test_a_diamond_of_a_hundred(sdk, make_job, pool):
    """One task, a hundred that depend on it, one that depends on them all."""
    job = depending(make_job, pool, when_done="terminatejob")
    tasks = [sdk.task("last", "/bin/true", depends_on=sdk.depends_on(ranges=[(1, 100)]))]
    tasks += [sdk.task(str(n), "/bin/true", depends_on=sdk.depends_on("first")) for n in range(1, 100)]
    sdk.create_tasks(job.id, tasks)
    sdk.create_tasks(job.id, [sdk.task(id, "/bin/true") for id in ("100", "first")])
    ended(sdk, job)
    by_id = {task.id: task.execution_info for task in sdk.list_tasks(job.id)}
    assert all(info.result == "success" for info in by_id.values())
    assert by_id["1"].start_time >= by_id["first"].end_time
    assert by_id["last"].start_time >= max(by_id[str(n)].end_time for n in range(1, 101))
