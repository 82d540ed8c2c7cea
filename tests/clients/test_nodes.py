"""Nodes and their files."""

import pytest

from jobs import failure_of, ready_nodes
from lote_cluster import wait_for


def test_list_and_get(sdk, pool):
    nodes = ready_nodes(sdk, pool, 2)
    assert {node.id for node in sdk.list_nodes(pool)} == {node.id for node in nodes}
    node = sdk.get_node(pool, nodes[0].id)
    assert node.id.startswith("tvm-")
    assert node.scheduling_state == "enabled"
    assert node.is_dedicated is True
    assert node.vm_size == "standard_a1_v2"
    assert node.affinity_id == f"TVM:{node.id}"
    assert node.ip_address
    assert node.allocation_time <= node.state_transition_time
    assert node.node_agent_info.version
    assert not node.errors
    assert node.start_task_info is None
    assert node.url.endswith(f"/pools/{pool}/nodes/{node.id}")
    chosen = sdk.get_node(pool, node.id, select=["id", "state"])
    assert chosen.id == node.id and chosen.vm_size is None


def test_list_with_filter(sdk, pool):
    nodes = ready_nodes(sdk, pool, 2)
    found = sdk.list_nodes(pool, filter="state eq 'idle' or state eq 'running'", select=["id"])
    assert {node.id for node in found} == {node.id for node in nodes}
    assert sdk.list_nodes(pool, filter="state eq 'offline'") == []
    with sdk.refused(400, "InvalidQueryParameterValue"):
        sdk.list_nodes(pool, filter="vmSize eq 'x'")


def test_unknown_node(sdk, pool):
    with sdk.refused(404, "NodeNotFound"):
        sdk.get_node(pool, "tvm-0_0-20200101t000000z")


def test_a_node_counts_its_tasks(sdk, make_pool, make_job):
    id = make_pool(nodes=1)
    (node,) = ready_nodes(sdk, id, 1)
    job = make_job(id)
    job.run("/bin/true")
    job.run("/bin/false")
    node = wait_for("the counts", lambda: (n := sdk.get_node(id, node.id)).total_tasks_run == 2 and n)
    assert node.total_tasks_succeeded == 1
    assert node.running_tasks_count == 0
    recent = [(task.job_id, task.task_id) for task in node.recent_tasks]
    assert sorted(recent) == [(job.id, "t1"), (job.id, "t2")]


def test_node_files(sdk, make_pool, make_job):
    id = make_pool(nodes=1)
    (node,) = ready_nodes(sdk, id, 1)
    job = make_job(id)
    job.run_shell("echo out; mkdir d; echo deep > d/f.txt; echo kept > $AZ_BATCH_NODE_SHARED_DIR/s.txt")
    top = {file.name: file for file in sdk.list_node_files(id, node.id)}
    assert {"shared", "startup", "workitems"} <= set(top)
    assert top["shared"].is_directory
    path = f"workitems/{job.id}/job-1/t1"
    names = {file.name for file in sdk.list_node_files(id, node.id, recursive=True, filter=f"startswith(name, '{path}')")}
    assert {f"{path}/stdout.txt", f"{path}/stderr.txt", f"{path}/wd/d/f.txt"} <= names
    assert sdk.read_node_file(id, node.id, f"{path}/stdout.txt") == b"out\n"
    assert sdk.read_node_file(id, node.id, f"{path}/wd/d/f.txt", range="bytes=1-2") == b"ee"
    properties = sdk.node_file(id, node.id, "shared/s.txt")
    assert properties.length == 5 and not properties.is_directory
    assert properties.mode.startswith("0o100")
    sdk.delete_node_file(id, node.id, "shared/s.txt")
    with sdk.refused(404, "FileNotFound"):
        sdk.read_node_file(id, node.id, "shared/s.txt")


@pytest.mark.parametrize("path", ["../../lote.env", "shared/../../../lote.env", "/etc/passwd", "workitems/nothing"])
def test_nothing_outside_the_node_is_readable(sdk, pool, path):
    (node, _) = ready_nodes(sdk, pool, 2)
    try:
        sdk.read_node_file(pool, node.id, path)
    except sdk.errors as error:
        assert sdk.refusal(error).status in (400, 404)
    else:
        raise AssertionError(f"{path} was readable")


# -- start tasks ----------------------------------------------------------------------------------------------------


def test_start_task(sdk, make_pool, make_job, container):
    container.put("setup.txt", "from storage\n")
    script = (
        "cp setup.txt $AZ_BATCH_NODE_SHARED_DIR/; echo $GREETING from ${AZ_BATCH_TASK_ID:-no-task}; pwd; "
        "echo $AZ_BATCH_NODE_STARTUP_WORKING_DIR"
    )
    id = make_pool(
        nodes=1,
        start_task=sdk.start_task(
            f"/bin/sh -c '{script}'",
            resource_files=[sdk.resource_file(http_url=container.blob_url("setup.txt"), file_path="setup.txt")],
            environment={"GREETING": "hello"},
        ),
    )
    (node,) = ready_nodes(sdk, id, 1)
    info = node.start_task_info
    assert (info.state, info.result, info.exit_code, info.retry_count) == ("completed", "success", 0, 0)
    assert info.start_time <= info.end_time
    lines = sdk.read_node_file(id, node.id, "startup/stdout.txt").decode().splitlines()
    assert lines[0] == "hello from no-task"
    assert lines[1] == lines[2] and lines[1].endswith("/startup/wd")
    assert sdk.read_node_file(id, node.id, "startup/wd/setup.txt") == b"from storage\n"
    job = make_job(id)
    task = job.run_shell("cat $AZ_BATCH_NODE_SHARED_DIR/setup.txt; ls $AZ_BATCH_NODE_STARTUP_DIR")
    assert job.succeeded(task) == "from storage\nstderr.txt\nstdout.txt\nwd\n"


def test_a_failing_start_task_bars_the_node(sdk, make_pool, make_job):
    id = make_pool(nodes=1, start_task=sdk.start_task("/bin/sh -c 'echo no >&2; exit 3'", retries=1))
    job = make_job(id)
    task = job.add("/bin/true")

    def failed():
        nodes = sdk.list_nodes(id)
        return nodes[0] if nodes and nodes[0].state == "starttaskfailed" else None

    node = wait_for("the failure of the start task", failed)
    info = node.start_task_info
    assert (info.state, info.result, info.exit_code, info.retry_count) == ("completed", "failure", 3, 1)
    assert info.failure_info.code == "FailureExitCode"
    assert sdk.read_node_file(id, node.id, "startup/stderr.txt") == b"no\n"
    assert job.task(task).state == "active"
    (counts,) = sdk.node_counts(filter=f"poolId eq '{id}'")
    assert counts.dedicated.start_task_failed == 1


def test_a_start_task_without_its_file_is_not_tried_again(sdk, make_pool, container):
    missing = sdk.resource_file(http_url=container.blob_url("missing"), file_path="x")
    id = make_pool(nodes=1, start_task=sdk.start_task("/bin/true", resource_files=[missing], retries=5))

    def failed():
        nodes = sdk.list_nodes(id)
        return nodes[0] if nodes and nodes[0].state == "starttaskfailed" else None

    info = wait_for("the failure of the start task", failed).start_task_info
    assert (info.result, info.exit_code, info.retry_count) == ("failure", None, 0)
    assert (info.failure_info.code, info.failure_info.category) == ("BlobNotFound", "usererror")


def test_tasks_need_not_wait_for_a_start_task(sdk, make_pool, make_job, gate):
    id = make_pool(nodes=1, start_task=sdk.start_task(f"/bin/sh -c '{gate.wait}; exit 1'", wait=False))
    job = make_job(id)
    assert job.run("/bin/true").execution_info.exit_code == 0
    gate.open()
    node = wait_for(
        "the end of the start task",
        lambda: (n := sdk.list_nodes(id)[0]).start_task_info.state == "completed" and n,
    )
    assert node.start_task_info.result == "failure"
    assert node.state in ("idle", "running")
    failing = job.run("/bin/false")
    assert failing.execution_info.exit_code == 1
    failure_of(failing, "FailureExitCode")
