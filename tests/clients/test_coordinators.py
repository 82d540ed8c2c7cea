"""Three coordinators as separate processes on loopback: any of them serves, and any of them may be lost."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from azure.storage.blob import BlobServiceClient

import sdk as sdk_module
from jobs import Job, ready_nodes
from lote_cluster import free_ports, wait_for
from member_processes import voters

pytestmark = pytest.mark.once


def same_state(members, *names) -> bool:
    """Whether they stand at the same entry, with the same hash of the state."""
    replicas = [members.operate("status", at=name)["replica"] for name in names]
    return len({(replica["appliedIndex"], replica["stateHash"]) for replica in replicas}) == 1


def test_any_of_three_coordinators_may_be_lost(members):
    ports = free_ports()
    members.found(**{name: f"127.0.0.1:{port}" for name, port in ports.items()})
    token = members.token("--role", "coordinator", "--uses", "2")
    second = members.coordinator("c2", "--join", token)
    assert voters(members, "c2") == {"c1"}, "two would be less available than one"
    third = members.coordinator("c3", "--join", token)
    wait_for("three voters", lambda: voters(members, "c3") == {"c1", "c2", "c3"}, 60)
    members.worker("w1", "--join", members.token())

    # Everything below goes to coordinators that do not lead.
    sdk = sdk_module.load(second)
    sdk.create_pool(sdk.pool("p", nodes=1, slots=4))
    ready_nodes(sdk, "p", 1)
    sdk.create_job(sdk.job("j", "p"))
    job = Job(sdk, "j")
    slow = [job.add_shell("sleep 6; echo slow", id=f"slow{n}") for n in range(2)]
    wait_for("the tasks to run", lambda: sdk.task_counts("j").task_counts.running == 2, 60)
    content = os.urandom(3 * 1024 * 1024 + 17)
    storage = BlobServiceClient.from_connection_string(third.connection_string)
    storage.create_container("data")
    storage.get_blob_client("data", "b").upload_blob(content)
    elsewhere = BlobServiceClient.from_connection_string(second.connection_string)
    assert elsewhere.get_blob_client("data", "b").download_blob().readall() == content

    # The leader dies: writes go on, what runs goes on, and what was uploaded is there.
    members.kill("c1")
    job.add_shell("echo after", id="after")
    assert sdk.get_task("j", "after").id == "after"
    wait_for("all tasks", lambda: sdk.task_counts("j").task_counts.completed == 3, 60)
    for id in [*slow, "after"]:
        task = sdk.get_task("j", id)
        assert task.execution_info.exit_code == 0
        assert (task.execution_info.requeue_count or 0) == 0, f"{id} ran again"
    for endpoints in (second, third):
        storage = BlobServiceClient.from_connection_string(endpoints.connection_string)
        assert storage.get_blob_client("data", "b").download_blob().readall() == content

    # It comes back and has the same state.
    members.coordinator("c1")
    wait_for("the same state everywhere", lambda: same_state(members, "c1", "c2", "c3"), 60)

    # A disk is lost: one command puts another machine in its place.
    members.kill("c3")
    shutil.rmtree(members.data("c3"))
    members.coordinator("c4", "--join", members.token("--role", "coordinator"), "--replace", "c3")
    wait_for("the new voter", lambda: voters(members, "c1") == {"c1", "c2", "c4"}, 60)
    wait_for("the same state there", lambda: same_state(members, "c1", "c2", "c4"), 60)
    assert {member["name"] for member in members.operate("status", at="c4")["members"]} == {"c1", "c2", "c4", "w1"}


def test_two_coordinators_are_removed_at_the_same_time(members):
    """Asked of two coordinators at once: they go one after the other, and the one that is left decides alone."""
    members.found()
    token = members.token("--role", "coordinator", "--uses", "2")
    for name in ("c2", "c3"):
        members.coordinator(name, "--join", token)
    wait_for("three voters", lambda: voters(members, "c1") == {"c1", "c2", "c3"}, 60)
    status = members.operate("status")
    numbers = {member["member"]: member["name"] for member in status["members"]}
    leader = numbers[status["replica"]["leader"]]
    first, second = sorted(set(numbers.values()) - {leader})

    def remove(name: str, asked: str) -> tuple[int, str]:
        return members.run("host", "remove", name, "--data-dir", str(members.data(asked)))

    with ThreadPoolExecutor() as pool:
        one, two = pool.submit(remove, first, leader), pool.submit(remove, second, second)
        code, said = one.result()
        assert code == 0 and "is removed" in said, said
        code, said = two.result()
    # It cannot see its own end.
    assert code == 0 and "is leaving" in said, said
    wait_for("one that is left", lambda: set(members.members(at=leader)) == {leader}, 60)
    assert voters(members, leader) == {leader}
    members.kill(first, second)
    sdk = sdk_module.load(members.endpoints(leader))
    sdk.create_pool(sdk.pool("after", nodes=0, slots=1))
    code, said = remove(leader, leader)
    assert code != 0 and "LastCoordinator" in said
