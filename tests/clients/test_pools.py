"""Pools: every operation there is, and what is refused."""

import datetime

import pytest

from jobs import names_and_values, ready_nodes
from lote_cluster import wait_for


def steady(sdk, pool):
    return wait_for("a steady pool", lambda: (p := sdk.get_pool(pool)).allocation_state == "steady" and p)


def test_a_new_pool_reads_back_with_its_defaults(sdk, make_pool):
    start_task = sdk.start_task("/bin/true", environment={"A": "1"})
    id = make_pool(nodes=0, slots=2, start_task=start_task, metadata={"owner": "me"}, display_name="Übung")
    pool = sdk.get_pool(id)
    assert (pool.id, pool.display_name, pool.vm_size) == (id, "Übung", "standard_a1_v2")
    assert (pool.state, pool.allocation_state) == ("active", "steady")
    assert (pool.target_dedicated_nodes, pool.current_dedicated_nodes) == (0, 0)
    assert (pool.target_low_priority_nodes, pool.current_low_priority_nodes) == (0, 0)
    assert pool.resize_timeout == datetime.timedelta(minutes=15)
    assert pool.task_slots_per_node == 2
    assert pool.task_scheduling_policy.node_fill_type == "spread"
    assert pool.enable_auto_scale is False
    assert pool.enable_inter_node_communication is False
    assert pool.resize_errors is None
    assert pool.start_task.command_line == "/bin/true"
    assert pool.start_task.wait_for_success is True
    assert names_and_values(pool.start_task.environment_settings) == {"A": "1"}
    assert names_and_values(pool.metadata) == {"owner": "me"}
    image = pool.virtual_machine_configuration.image_reference
    assert (image.publisher, image.offer) == ("canonical", "0001-com-ubuntu-server-jammy")
    assert pool.url.endswith(f"/pools/{id}")
    age = datetime.datetime.now(datetime.timezone.utc) - pool.creation_time
    assert abs(age) < datetime.timedelta(minutes=1)
    assert pool.last_modified >= pool.creation_time
    assert sdk.etag(pool).startswith("0x")


def test_ids_keep_their_case_and_are_found_in_any(sdk, make_pool):
    id = make_pool(nodes=0)
    assert sdk.get_pool(id.upper()).id == id
    with sdk.refused(409, "PoolExists") as refusal:
        sdk.create_pool(sdk.pool(id.upper(), nodes=0))
    assert refusal.message.startswith("The specified pool already exists.")


def test_exists(sdk, make_pool, unique):
    assert sdk.pool_exists(make_pool(nodes=0))
    assert not sdk.pool_exists(unique("pool"))


def test_unknown_pools(sdk, unique):
    id = unique("pool")
    for call in [
        lambda: sdk.get_pool(id),
        lambda: sdk.delete_pool(id),
        lambda: sdk.patch_pool(id, metadata={}),
        lambda: sdk.resize_pool(id, dedicated=1),
        lambda: sdk.stop_resize(id),
        lambda: sdk.list_nodes(id),
    ]:
        with sdk.refused(404, "PoolNotFound") as refusal:
            call()
        assert refusal.message.startswith("The specified pool does not exist.")


def test_list_with_filter_and_select(sdk, make_pool):
    first, second = make_pool(nodes=0), make_pool(nodes=0, metadata={"a": "b"})
    ids = {pool.id for pool in sdk.list_pools()}
    assert {first, second} <= ids
    assert [pool.id for pool in sdk.list_pools(filter=f"id eq '{second}'")] == [second]
    found = sdk.list_pools(filter=f"startswith(id, '{first}') and state eq 'active'", select=["id", "state"])
    assert [(pool.id, pool.state) for pool in found] == [(first, "active")]
    assert found[0].vm_size is None and found[0].url is None
    assert sdk.list_pools(filter=f"id eq '{first}' and vmSize eq 'other'") == []
    with sdk.refused(400, "InvalidQueryParameterValue"):
        sdk.list_pools(filter="displayName eq 'x'")
    with sdk.refused(400, "InvalidQueryParameterValue"):
        sdk.list_pools(filter="id eq")


def test_get_with_select(sdk, make_pool):
    pool = sdk.get_pool(make_pool(nodes=0), select=["id", "vmSize"])
    assert pool.vm_size == "standard_a1_v2"
    assert pool.state is None and pool.creation_time is None


def test_patch_keeps_what_is_absent(sdk, make_pool):
    id = make_pool(nodes=0, metadata={"a": "1"}, start_task=sdk.start_task("/bin/true"))
    before = sdk.get_pool(id)
    sdk.patch_pool(id, metadata={"b": "2"})
    pool = sdk.get_pool(id)
    assert names_and_values(pool.metadata) == {"b": "2"}
    assert pool.start_task.command_line == "/bin/true"
    assert sdk.etag(pool) != sdk.etag(before)
    sdk.patch_pool(id, start_task=sdk.start_task("/bin/false"))
    pool = sdk.get_pool(id)
    assert names_and_values(pool.metadata) == {"b": "2"}
    assert pool.start_task.command_line == "/bin/false"


def test_update_properties_replaces_all_three(sdk, make_pool):
    id = make_pool(nodes=0, metadata={"a": "1"}, start_task=sdk.start_task("/bin/true"))
    sdk.replace_pool_properties(id, start_task=None, metadata={"c": "3"})
    pool = sdk.get_pool(id)
    assert pool.start_task is None
    assert names_and_values(pool.metadata) == {"c": "3"}


def test_conditions(sdk, make_pool):
    id = make_pool(nodes=0, metadata={"a": "1"})
    old = sdk.etag(sdk.get_pool(id))
    assert sdk.get_pool(id, if_match=old).id == id
    sdk.patch_pool(id, metadata={"a": "2"}, if_match=old)
    new = sdk.etag(sdk.get_pool(id))
    assert new != old
    with sdk.refused(412, "ConditionNotMet"):
        sdk.patch_pool(id, metadata={"a": "3"}, if_match=old)
    with sdk.refused(412, "ConditionNotMet"):
        sdk.resize_pool(id, dedicated=1, if_match=old)
    with sdk.refused(412, "ConditionNotMet"):
        sdk.delete_pool(id, if_match=old)
    with sdk.refused(412, "ConditionNotMet"):
        sdk.delete_pool(id, if_unmodified_since=datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc))
    with sdk.refused(304):
        sdk.get_pool(id, if_none_match=new)
    pool = sdk.get_pool(id)
    assert names_and_values(pool.metadata) == {"a": "2"}
    assert pool.target_dedicated_nodes == 0 and pool.state == "active"


def test_resize_up_and_down(sdk, make_pool):
    id = make_pool(nodes=1)
    ready_nodes(sdk, id, 1)
    sdk.resize_pool(id, dedicated=3, wait=True)
    nodes = ready_nodes(sdk, id, 3)
    pool = sdk.get_pool(id)
    assert (pool.target_dedicated_nodes, pool.current_dedicated_nodes) == (3, 3)
    assert len({node.id for node in nodes}) == 3
    sdk.resize_pool(id, dedicated=1, option="requeue")
    left = ready_nodes(sdk, id, 1)
    assert left[0].id in {node.id for node in nodes}
    assert sdk.get_pool(id).current_dedicated_nodes == 1
    gone = next(node.id for node in nodes if node.id != left[0].id)
    with sdk.refused(404, "NodeNotFound"):
        sdk.get_node(id, gone)


def test_low_priority_nodes(sdk, make_pool):
    id = make_pool(nodes=1, target_low_priority_nodes=1)
    nodes = ready_nodes(sdk, id, 2)
    assert sorted(node.is_dedicated for node in nodes) == [False, True]
    sdk.resize_pool(id, low_priority=0)
    (node,) = ready_nodes(sdk, id, 1)
    assert node.is_dedicated is True
    assert sdk.get_pool(id).target_dedicated_nodes == 1


def test_shrinking_gives_running_tasks_back_to_the_queue(sdk, make_pool, make_job, gate):
    id = make_pool(nodes=2)
    ready_nodes(sdk, id, 2)
    job = make_job(id)
    for task in ("a", "b"):
        job.add_shell(f"{gate.wait}; echo done", id=task)
    for task in ("a", "b"):
        job.in_state(task, "running")
    sdk.resize_pool(id, dedicated=1, option="requeue")
    ready_nodes(sdk, id, 1)
    infos = {task.id: task.execution_info for task in sdk.list_tasks(job.id)}
    assert sorted(info.requeue_count for info in infos.values()) == [0, 1]
    gate.open()
    for task in job.all_completed(2):
        assert job.succeeded(task) == "done\n"
        assert task.execution_info.retry_count == 0


def test_resize_while_resizing_and_stopresize(sdk, make_pool, make_job, gate):
    """A shrink that waits for a task keeps the pool resizing, until it is stopped."""
    id = make_pool(nodes=1)
    ready_nodes(sdk, id, 1)
    with sdk.refused(409):
        sdk.stop_resize(id)
    job = make_job(id)
    task = job.add_shell(f"{gate.wait}; echo done")
    job.in_state(task, "running")
    sdk.resize_pool(id, dedicated=0, option="taskcompletion")
    assert sdk.get_pool(id).allocation_state == "resizing"
    with sdk.refused(409, "PoolBeingResized"):
        sdk.resize_pool(id, dedicated=2)
    sdk.stop_resize(id)
    pool = steady(sdk, id)
    assert [error.code for error in pool.resize_errors] == ["ResizeStopped"]
    assert (pool.target_dedicated_nodes, pool.current_dedicated_nodes) == (0, 1)
    gate.open()
    assert job.succeeded(job.completed(task)) == "done\n"
    # The next resize clears the error.
    sdk.resize_pool(id, dedicated=1)
    assert steady(sdk, id).resize_errors is None


def test_a_pool_that_no_host_can_serve_says_so(sdk, make_pool):
    """A Windows image is accepted; its allocation fails at once and never hangs."""
    image = ("MicrosoftWindowsServer", "WindowsServer", "2022-datacenter", "batch.node.windows amd64")
    windows = make_pool(nodes=1, image=image)
    failed = wait_for("resize errors", lambda: (p := sdk.get_pool(windows)).resize_errors and p)
    assert failed.allocation_state == "steady"
    assert [error.code for error in failed.resize_errors] == ["AllocationFailed"]
    assert (failed.target_dedicated_nodes, failed.current_dedicated_nodes) == (1, 0)


def test_delete_gives_tasks_back_and_ends_in_404(sdk, make_pool, make_job, gate):
    id = make_pool(nodes=1)
    ready_nodes(sdk, id, 1)
    job = make_job(id)
    task = job.add_shell(gate.wait)
    job.in_state(task, "running")
    sdk.delete_pool(id)
    seen = set()

    def gone():
        if sdk.is_gone(lambda: seen.add(sdk.get_pool(id).state)):
            return True
        try:
            sdk.resize_pool(id, dedicated=2)
            raise AssertionError("a pool that is being deleted was resized")
        except sdk.errors as error:
            refusal = sdk.refusal(error)
            assert (refusal.status, refusal.code) in {(409, "PoolBeingDeleted"), (404, "PoolNotFound")}
        return False

    wait_for("the deletion of the pool", gone)
    assert seen <= {"deleting"}
    assert not sdk.pool_exists(id)
    # The job stays; its task waits for a pool of that name.
    assert job.in_state(task, "active").execution_info.requeue_count == 1
    gate.open()
    sdk.create_pool(sdk.pool(id, nodes=1))
    assert job.completed(task).execution_info.exit_code == 0


@pytest.mark.parametrize(
    "members, code",
    [
        ({"id": "a b"}, "InvalidPropertyValue"),
        ({"id": "x" * 65}, "InvalidPropertyValue"),
        ({"slots": 257}, "InvalidPropertyValue"),
        ({"nodes": -1}, "InvalidPropertyValue"),
        ({"resize_timeout": datetime.timedelta(minutes=4)}, "InvalidPropertyValue"),
    ],
)
def test_bad_pools_are_refused(sdk, unique, members, code):
    members = {"id": unique("bad"), **members}
    with sdk.refused(400, code):
        sdk.create_pool(sdk.pool(**members))
    assert members["id"] not in {pool.id for pool in sdk.list_pools()}


def test_node_counts(sdk, pool, make_pool):
    empty = make_pool(nodes=0)
    ready_nodes(sdk, pool, 2)
    (counts,) = sdk.node_counts(filter=f"poolId eq '{pool}'")
    assert counts.pool_id == pool
    assert counts.dedicated.total == 2
    assert counts.dedicated.idle + counts.dedicated.running == 2
    assert counts.low_priority.total == 0
    everything = {counts.pool_id: counts.dedicated.total for counts in sdk.node_counts()}
    assert everything[empty] == 0 and everything[pool] == 2


def test_supported_images(sdk):
    images = sdk.supported_images()
    assert images
    assert {image.os_type for image in images} == {"linux"}
    assert all(image.node_agent_sku_id and image.image_reference.publisher for image in images)
    verified = sdk.supported_images(filter="verificationType eq 'verified'")
    assert {image.verification_type for image in verified} == {"verified"}
    assert sdk.supported_images(filter="osType eq 'windows'") == []
