"""What is left of a cluster goes on: one coordinator without the others, and folders of `lote up` made anew."""

import itertools
import json
import signal

import pytest

import sdk as sdk_module
from jobs import Job, ready_nodes
from lote_cluster import Cluster, wait_for
from test_up import run

pytestmark = pytest.mark.once


def numbers(members, at):
    """The numbers of the coordinators by name, as the state at this one has them."""
    seen = members.members(at).items()
    return {name: member["member"] for name, member in seen if member["role"] == "coordinator"}


fresh = itertools.count(1)


def runs_tasks(sdk, count=4):
    """Adds tasks to job j and waits for their success."""
    job = Job(sdk, "j")
    for id in [job.add_shell("echo $AZ_BATCH_NODE_ID", id=f"t{next(fresh)}") for _ in range(count)]:
        job.succeeded(job.completed(id, timeout=90))


def test_the_last_of_three_coordinators_goes_on_alone_and_grows_again(members):
    members.found()
    for name in ("c2", "c3"):
        token = members.token("--role", "coordinator")
        members.coordinator(name, "--join", token)
    wait_for("three voters", lambda: "SetVoters({1, 2, 3})" in members.log("c1"), 60)
    members.worker("w1", "--join", members.token())
    wait_for("w1 to join", lambda: members.members()["w1"]["state"] == "joined", 60)
    sdk = sdk_module.load(members.endpoints("c1"))
    sdk.create_pool(sdk.pool("p", nodes=1, slots=2))
    ready_nodes(sdk, "p", 1)
    sdk.create_job(sdk.job("j", "p"))
    runs_tasks(sdk)
    # The third has seen all of it.
    told = members.operate("status", at="c1")["replica"]["appliedIndex"]
    wait_for("c3 to follow", lambda: members.operate("status", at="c3")["replica"]["appliedIndex"] >= told, 60)

    members.kill("c1", "c2")
    members.running["c3"].send_signal(signal.SIGTERM)
    members.running["c3"].wait(90)
    made = members.operate("recover", "--force-single", at="c3")
    assert (made["member"], made["unchanged"], made["flaws"]) == (4, False, [])
    # Its old port: there the worker looks for it.
    sdk = sdk_module.load(members.coordinator("c3"))
    assert numbers(members, "c3") == {"c3": 4}, "the state names no dead coordinator, and the number that Raft has"
    status = members.operate("status", at="c3")
    assert (status["replica"]["member"], status["leadership"]["isOurs"]) == (4, True)
    wait_for("w1 to find it", lambda: members.members("c3")["w1"]["state"] == "joined", 90)
    ready_nodes(sdk, "p", 1)
    runs_tasks(sdk)

    # It is started once more, which changes nothing, and others join it: the numbers go on behind its own.
    members.running["c3"].send_signal(signal.SIGTERM)
    members.running["c3"].wait(60)
    sdk = sdk_module.load(members.coordinator("c3"))
    token = members.token("--role", "coordinator", at="c3")
    members.coordinator("c4", "--join", token)
    members.data("c2").rename(members.home / "c2-lost")
    token = members.token("--role", "coordinator", at="c3")
    members.coordinator("c2", "--join", token)
    assert numbers(members, "c3") == {"c3": 4, "c4": 5, "c2": 6}
    wait_for("three voters again", lambda: "SetVoters({4, 5, 6})" in members.log("c3"), 60)
    runs_tasks(sdk)
    told = members.operate("status", at="c3")["replica"]["appliedIndex"]
    wait_for("c4 to follow", lambda: members.operate("status", at="c4")["replica"]["appliedIndex"] >= told, 60)

    # One of three may go, also the one that was recovered; and it comes back as what it is.
    members.kill("c3")
    runs_tasks(sdk_module.load(members.endpoints("c4")))
    members.coordinator("c3")
    assert members.operate("status", at="c3")["replica"]["member"] == 4


@pytest.fixture
def folders():
    made = []

    def make(name):
        made.append(Cluster(name, workers=2))
        return made[-1]

    yield make
    for cluster in made:
        if cluster.process is not None:
            folder = ["--data-dir", str(cluster.data_dir)]
            print(cluster.log_tail(), *(run(*words, *folder)[1] for words in (["inspect", "pool", "p"], ["status"])))
        cluster.remove()


def said_as_json(*arguments):
    code, said = run(*arguments, "--output", "json", timeout=120)
    assert code == 0, said
    return json.loads(said)


def coordinators(cluster):
    listed = said_as_json("host", "list", "--data-dir", str(cluster.data_dir))["members"]
    return [member["member"] for member in listed if member["role"] == "coordinator"]


def test_an_embedded_cluster_is_recovered_and_restored_with_its_workers(folders, tmp_path):
    first = folders("first")
    sdk = sdk_module.load(first.start())
    assert coordinators(first) == [1]
    sdk.create_pool(sdk.pool("p", nodes=2, slots=2))
    ready_nodes(sdk, "p", 2)
    sdk.create_job(sdk.job("j", "p"))
    runs_tasks(sdk)
    said_as_json("backup", str(tmp_path / "backup"), "--data-dir", str(first.data_dir))
    first.stop()

    # Recovered after the loss of its number, it has the workers it had.
    (first.data_dir / "coordinator" / "raft" / "member").unlink()
    assert said_as_json("recover", "--data-dir", str(first.data_dir), "--force-single")["member"] == 2
    for _ in range(2):
        sdk = sdk_module.load(first.start())
        assert coordinators(first) == [2]
        ready_nodes(sdk, "p", 2)
        runs_tasks(sdk)
        first.stop()

    # Restored elsewhere, it has workers of its own, and the pool fills up with them.
    second = folders("second")
    said_as_json("restore", str(tmp_path / "backup"), "--data-dir", str(second.data_dir))
    sdk = sdk_module.load(second.start())
    assert coordinators(second) == [2]
    ready_nodes(sdk, "p", 2)
    runs_tasks(sdk)
    listed = said_as_json("host", "list", "--data-dir", str(second.data_dir))["members"]
    assert sorted(member["name"] for member in listed) == ["coordinator", "worker-0", "worker-1"]
    second.stop()
