"""What a job is made with beyond its tasks: manager, preparation, release, a pool of its own (`jobs-and-tasks.md` §8, §9,
`task-execution.md` §11, §12). What needs faults or many nodes runs in the core's own tests."""

import http.client
import json
import sys
from urllib.parse import urlsplit

import pytest

from jobs import Job, ready_nodes, shell
from lote_cluster import wait_for


def job_state(sdk, id, state, timeout=30):
    return wait_for(f"job {id} to be {state}", lambda: (job := sdk.get_job(id)).state == state and job, timeout)


# -- preparation and release --------------------------------------------------------------------------------------------


@pytest.fixture
def own_pool(sdk, make_pool):
    """One node with four slots."""
    id = make_pool(nodes=1, slots=4)
    ready_nodes(sdk, id, 1)
    return id


def test_spec_e_pr2_tasks_wait_in_preparing_and_see_what_was_prepared(sdk, make_job, own_pool, gate):
    job = make_job(
        own_pool,
        job_preparation_task=sdk.job_preparation(shell(f"{gate.wait}; echo ready > note; pwd")),
        job_release_task=sdk.job_release(shell("cat $AZ_BATCH_JOB_PREP_WORKING_DIR/note > seen; exit 3")),
    )
    tasks = [job.add_shell("cat $AZ_BATCH_JOB_PREP_WORKING_DIR/note; env | grep JOB_PREP") for _ in range(4)]
    for task in tasks:
        job.in_state(task, "preparing")
    counts = sdk.task_counts(job.id).task_counts
    assert (counts.running, counts.active) == (4, 0)
    (status,) = sdk.preparation_status(job.id)
    assert status.job_preparation_task_execution_info.state == "running"
    assert status.job_release_task_execution_info is None
    gate.open()
    for task in tasks:
        printed = job.succeeded(job.completed(task))
        assert printed.startswith("ready\n")
        assert f"/workitems/{job.id}/job-1/jobpreparation\n" in printed
    sdk.terminate_job(job.id, reason="enough")
    done = job_state(sdk, job.id, "completed")
    assert sdk.terminate_reason(done) == "enough"
    (status,) = sdk.preparation_status(job.id)
    prepared, released = status.job_preparation_task_execution_info, status.job_release_task_execution_info
    assert (prepared.state, prepared.exit_code, prepared.result, prepared.retry_count) == ("completed", 0, "success", 0)
    assert prepared.task_root_directory == f"workitems/{job.id}/job-1/jobpreparation"
    assert (released.state, released.exit_code, released.result) == ("completed", 3, "failure")
    assert released.failure_info.code == "FailureExitCode"
    assert status.pool_id == own_pool
    seen = sdk.read_node_file(own_pool, status.node_id, f"{released.task_root_directory}/wd/seen")
    assert seen == b"ready\n"


def test_spec_e_pr3_where_it_fails_tasks_do_not_run(sdk, make_job, make_pool, tmp_path):
    pool = make_pool(nodes=2, slots=1)
    ready_nodes(sdk, pool, 2)
    # Only the first that comes makes the folder.
    job = make_job(pool, job_preparation_task=sdk.job_preparation(shell(f"mkdir {tmp_path}/won")))
    for _ in range(3):
        job.add_shell("echo $AZ_BATCH_NODE_ID")
    tasks = job.all_completed(3)
    nodes = {job.succeeded(task).strip() for task in tasks}
    status = {entry.node_id: entry.job_preparation_task_execution_info for entry in sdk.preparation_status(job.id)}
    assert {node for node, info in status.items() if info.result == "success"} == nodes
    assert len(nodes) == 1
    for info in status.values():
        assert info.result == ("success" if info.exit_code == 0 else "failure")


def test_a_preparation_is_retried(sdk, make_job, own_pool, tmp_path):
    script = f"echo x >> {tmp_path}/runs; [ $(wc -l < {tmp_path}/runs) = 2 ]"
    job = make_job(own_pool, job_preparation_task=sdk.job_preparation(shell(script), retries=1))
    job.succeeded(job.run("/bin/true"))
    (status,) = sdk.preparation_status(job.id)
    info = status.job_preparation_task_execution_info
    assert (info.retry_count, info.result) == (1, "success")
    assert info.last_retry_time is not None


def test_spec_e_pr5_tasks_need_not_wait(sdk, make_job, own_pool, gate):
    preparation = sdk.job_preparation(shell(gate.wait), wait_for_success=False)
    job = make_job(own_pool, job_preparation_task=preparation)
    job.succeeded(job.run("/bin/true"))
    gate.open()


def test_spec_e_pr14_status_of_a_job_without_preparation(sdk, job):
    with sdk.refused(409, "JobPreparationTaskNotSpecified"):
        sdk.preparation_status(job.id)


def test_spec_j_j4_and_pr8_what_is_refused(sdk, pool, unique):
    with sdk.refused(400, "InvalidPropertyValue"):
        sdk.create_job(sdk.job(unique("job"), pool, job_release_task=sdk.job_release("/bin/true")))
    release = sdk.job_release("/bin/true", max_wall_clock_time="PT16M")
    preparation = sdk.job_preparation("/bin/true")
    with sdk.refused(400, "InvalidPropertyValue"):
        job = sdk.job(unique("job"), pool, job_preparation_task=preparation, job_release_task=release)
        sdk.create_job(job)


def test_spec_j_t16_ids_of_tasks(sdk, make_job, pool):
    job = make_job(pool, job_preparation_task=sdk.job_preparation("/bin/true"))
    with sdk.refused(409, "TaskIdSameAsJobPreparationTask"):
        job.add("/bin/true", id="JobPreparation")


def test_spec_j_j16_a_deleted_job_is_released_and_leaves_nothing(sdk, unique, own_pool, tmp_path):
    job = Job(sdk, unique("job"))
    preparation, release = sdk.job_preparation("/bin/true"), sdk.job_release(shell(f"echo x >> {tmp_path}/released"))
    sdk.create_job(sdk.job(job.id, own_pool, job_preparation_task=preparation, job_release_task=release))
    job.add("/bin/sleep 60", id="t")
    job.in_state("t", "running")
    node = job.task("t").node_info.node_id
    assert any(job.id in file.name for file in sdk.list_node_files(own_pool, node, recursive=True))
    sdk.delete_job(job.id)
    wait_for("the job to go", lambda: sdk.is_gone(lambda: sdk.get_job(job.id)), 30)
    assert (tmp_path / "released").read_text() == "x\n"
    directories = ["jobpreparation", "jobrelease", "t"]

    def left():
        files = sdk.list_node_files(own_pool, node, recursive=True)
        return {name for name in directories for file in files if f"{job.id}/job-1/{name}" in file.name}

    wait_for("the directories to go", lambda: not left(), 30)


MANAGER = """
import json, os, time, urllib.request

base, job = os.environ["AZ_BATCH_ACCOUNT_URL"], os.environ["AZ_BATCH_JOB_ID"]

def call(method, path, body=None):
    url = f"{base}/jobs/{job}{path}?api-version=2024-07-01.20.0"
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, method=method, data=data)
    request.add_header("Authorization", "Bearer " + os.environ["AZ_BATCH_AUTHENTICATION_TOKEN"])
    request.add_header("Content-Type", "application/json; odata=minimalmetadata")
    return json.loads(urllib.request.urlopen(request).read())

call("POST", "/addtaskcollection", {"value": [{"id": f"w{n}", "commandLine": "/bin/true"} for n in range(5)]})
while call("GET", "/taskcounts")["taskCounts"]["succeeded"] < 5:
    time.sleep(0.05)
print("all done")
"""


# -- managers -----------------------------------------------------------------------------------------------------------


def test_spec_j_s7_a_manager_adds_tasks_and_ends_its_job(sdk, unique, own_pool):
    """The manager works on its own job with its token alone, from a process that knows nothing else."""
    job = Job(sdk, unique("job"))
    manager = sdk.with_token(sdk.job_manager(
        "manager",
        f"{sys.executable} -c \"exec(__import__('os').environ['SCRIPT'])\"",
        environment_settings=sdk.environment({"SCRIPT": MANAGER}),
        run_exclusive=False,
    ))
    sdk.create_job(sdk.job(job.id, own_pool, job_manager_task=manager))
    try:
        done = job_state(sdk, job.id, "completed")
        assert sdk.terminate_reason(done) == "JMComplete", job.stderr("manager")
        assert job.stdout("manager") == "all done\n"
        assert {task.id for task in sdk.list_tasks(job.id)} == {"manager", *(f"w{n}" for n in range(5))}
        assert done.job_manager_task.id == "manager"
        assert sdk.token_access(done.job_manager_task) == ["job"]
        assert sdk.token_access(job.task("manager")) == ["job"]
    finally:
        sdk.delete_job(job.id)


def bearer(cluster, token, method, path, body=None):
    """Status and code of a request with a task's token."""
    url = urlsplit(cluster.endpoints.batch_url)
    connection = http.client.HTTPConnection(url.hostname, url.port)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json; odata=minimalmetadata"}
    data = None if body is None else json.dumps(body)
    connection.request(method, f"{path}?api-version=2024-07-01.20.0", data, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, json.loads(content).get("code") if answer.status >= 400 else None


@pytest.mark.once
def test_spec_j_s14_a_token_is_good_for_its_job_while_its_attempt_runs(sdk, cluster, make_job, own_pool, gate):
    job, other = make_job(own_pool), make_job(own_pool)
    id = "with-token"
    script = f"echo $AZ_BATCH_AUTHENTICATION_TOKEN; {gate.wait}"
    sdk.create_task(job.id, sdk.with_token(sdk.task(id, shell(script))))
    job.in_state(id, "running")
    token = wait_for("the token", lambda: job.stdout(id).strip(), 10)
    plain = job.run_shell("echo token=$AZ_BATCH_AUTHENTICATION_TOKEN")
    assert job.succeeded(plain) == "token=\n"
    task = {"id": "added", "commandLine": "/bin/true"}
    assert bearer(cluster, token, "POST", f"/jobs/{job.id}/tasks", task)[0] == 201
    assert bearer(cluster, token, "GET", f"/jobs/{job.id}")[0] == 200
    assert bearer(cluster, token, "GET", f"/jobs/{job.id}/tasks/{id}/files/stdout.txt")[0] == 200
    for method, path in [
        ("GET", f"/jobs/{other.id}"),
        ("GET", "/jobs"),
        ("GET", "/pools"),
        ("GET", f"/pools/{own_pool}"),
        ("GET", "/jobschedules"),
    ]:
        assert bearer(cluster, token, method, path) == (403, "InsufficientAccountPermissions"), path
    assert bearer(cluster, token, "POST", f"/jobs/{other.id}/tasks", task)[0] == 403
    for wrong in ["x", token[:-1], token.replace("lote1.", "lote1.0"), token + "x"]:
        assert bearer(cluster, wrong, "GET", f"/jobs/{job.id}") == (403, "AuthenticationFailed"), wrong
    gate.open()
    job.completed(id)
    assert bearer(cluster, token, "GET", f"/jobs/{job.id}") == (403, "AuthenticationFailed")


def test_spec_j_s6_an_exclusive_manager_runs_alone(sdk, unique, make_pool, gate):
    pool = make_pool(nodes=2, slots=4)
    ready_nodes(sdk, pool, 2)
    job = Job(sdk, unique("job"))
    manager = sdk.job_manager("manager", shell(gate.wait), kill_job_on_completion=False)
    sdk.create_job(sdk.job(job.id, pool, job_manager_task=manager))
    try:
        job.in_state("manager", "running")
        tasks = [job.add("/bin/true") for _ in range(8)]
        nodes = {job.completed(task).node_info.node_id for task in tasks}
        assert nodes.isdisjoint({job.task("manager").node_info.node_id})
        gate.open()
        job.succeeded(job.completed("manager"))
        assert sdk.get_job(job.id).state == "active"
    finally:
        gate.open()
        sdk.delete_job(job.id)


# -- auto pools ---------------------------------------------------------------------------------------------------------


def pool_ids(sdk):
    return {pool.id for pool in sdk.list_pools() if pool.state == "active"}


@pytest.mark.parametrize("keep", [False, True])
def test_spec_j_s10_s11_a_pool_is_made_for_a_job(sdk, unique, keep):
    job = Job(sdk, unique("job"))
    info = sdk.auto_pool(nodes=1, prefix="mine", keep_alive=keep)
    release = sdk.job_release("/bin/true")
    preparation = sdk.job_preparation("/bin/true")
    made = sdk.job(job.id, None, pool_info=info, job_preparation_task=preparation, job_release_task=release)
    sdk.create_job(made)
    read = sdk.get_job(job.id)
    pool = read.execution_info.pool_id
    try:
        assert pool.startswith("mine_")
        assert read.pool_info.pool_id is None
        assert read.pool_info.auto_pool_specification.keep_alive is keep
        assert read.pool_info.auto_pool_specification.pool.target_dedicated_nodes == 1
        assert pool in pool_ids(sdk)
        job.succeeded(job.run("/bin/true", timeout=60))
        sdk.terminate_job(job.id)
        job_state(sdk, job.id, "completed")
        (status,) = sdk.preparation_status(job.id)
        assert status.job_release_task_execution_info.result == "success", "it ran before the pool went"
        assert (pool in pool_ids(sdk)) is keep
    finally:
        sdk.delete_job(job.id)
        if keep:
            sdk.delete_pool(pool)


def test_keep_alive_can_change(sdk, unique):
    id = unique("job")
    sdk.create_job(sdk.job(id, None, pool_info=sdk.auto_pool(nodes=0, prefix="kept")))
    pool = sdk.get_job(id).execution_info.pool_id
    # As read, as packages do it that send the whole job back.
    info = sdk.get_job(id).pool_info
    sdk.patch_job(id, pool_info=info)
    info.auto_pool_specification.keep_alive = True
    sdk.patch_job(id, pool_info=info)
    assert sdk.get_job(id).pool_info.auto_pool_specification.keep_alive is True
    info.auto_pool_specification.pool.target_dedicated_nodes = 1
    with sdk.refused(409, "OperationInvalidForCurrentState"):
        sdk.patch_job(id, pool_info=info)
    sdk.delete_job(id)
    wait_for("the job to go", lambda: sdk.is_gone(lambda: sdk.get_job(id)), 30)
    assert pool in pool_ids(sdk)
    sdk.delete_pool(pool)


def test_spec_j_s12_a_pool_for_a_schedule_on_a_plain_job(sdk, unique):
    with sdk.refused(400, "InvalidPropertyValue"):
        sdk.create_job(sdk.job(unique("job"), None, pool_info=sdk.auto_pool(lifetime="jobschedule")))


def test_spec_j_r11_jobs_of_a_schedule_share_a_pool(sdk, unique):
    id = unique("schedule")
    info = sdk.auto_pool(nodes=1, prefix="shared", lifetime="jobschedule")
    sdk.create_schedule(id, sdk.schedule(), sdk.job_specification(None, pool_info=info))
    job = Job(sdk, f"{id}:job-1")
    pool = sdk.get_job(job.id).execution_info.pool_id
    job.succeeded(job.run("/bin/true", timeout=60))
    assert sdk.get_schedule(id).job_specification.pool_info.auto_pool_specification.auto_pool_id_prefix == "shared"
    sdk.delete_schedule(id)
    wait_for("the pool to go", lambda: pool not in pool_ids(sdk), 30)
    wait_for("the schedule to go", lambda: sdk.is_gone(lambda: sdk.get_schedule(id)), 30)
