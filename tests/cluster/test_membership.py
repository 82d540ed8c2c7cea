"""Coordinators come and go under load, and who was not asked in gets nothing."""

import subprocess
import sys
import time

import pytest

from lote_cluster import wait_for
from rig import cli
from rig.cluster import Worker
from rig.trial import Trial

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def test_from_one_coordinator_to_three_and_back(lote_cluster, folder):
    """No client's call fails on the way, retries allowed, and no task is run again."""
    cluster = lote_cluster(coordinators=1, workers=2, lease=10)
    trial = Trial(cluster, folder, nodes=2)
    trial.start_load(limit=100_000, chunk=4, pause=0.5)
    trial.wait_for_starts(5)
    for _ in range(2):
        cluster.add_coordinator()
    wait_for("three voters", lambda: cluster.voters() == {"c1", "c2", "c3"}, 60)
    # The load still talks to the first one only, which stays.
    for name in ("c2", "c3"):
        cluster.remove_coordinator(name)
    wait_for("one voter", lambda: cluster.voters() == {"c1"}, 60)
    before = len(trial.history.acknowledged())
    wait_for("further writes", lambda: len(trial.history.acknowledged()) > before + 20, 60)
    trial.verdict()
    assert trial.log().repeated() == {}


def test_the_leader_is_removed_and_a_lost_coordinator_replaced(lote_cluster, folder):
    """Both under load, without a failed call of a client, retries allowed, and without a task that runs again."""
    cluster = lote_cluster(coordinators=3, workers=2, lease=10)
    trial = Trial(cluster, folder, nodes=2)
    load = trial.start_load(limit=100_000, chunk=4, pause=0.5)
    trial.wait_for_starts(5)
    lost = cluster.followers()[0].host.name
    new = cluster.replace_lost(lost)
    wait_for("the new one's vote", lambda: cluster.voters() == set(cluster.coordinators), 60)
    assert new.host.name in cluster.voters() and lost not in cluster.voters()
    leader = cluster.leader().host.name
    cluster.remove_coordinator(leader)
    # Two are left, of which one votes, until there is a third again.
    wait_for("one voter", lambda: len(cluster.voters()) == 1 and leader not in cluster.voters(), 60)
    cluster.add_coordinator()
    wait_for("three voters", lambda: cluster.voters() == set(cluster.coordinators), 60)
    before = len(trial.history.acknowledged())
    wait_for("further writes", lambda: len(trial.history.acknowledged()) > before + 20, 60)
    assert not load.failures, load.failures
    trial.verdict()
    assert trial.log().repeated() == {}


@pytest.fixture
def asked(lote_cluster):
    """A cluster, and how to try to join it: `join(token)` starts a worker on a new host."""
    cluster = lote_cluster(coordinators=1, workers=1)

    def join(token: str) -> Worker:
        worker = cluster.new_worker()
        worker.start(token)
        return worker

    return cluster, join


def refused(worker, timeout=30.0) -> str:
    """The worker has to end by itself with an error; gives what it said."""
    wait_for(f"{worker} to give up", lambda: not worker.process.is_running(), timeout)
    assert worker.process.exit_code() not in (0, None)
    return worker.process.log_tail()


def host_names(cluster) -> set[str]:
    (status,) = [c.status() for c in cluster.coordinators.values()]
    return cli.hosts(status)


def test_tokens_that_do_not_hold(asked):
    """Used up, expired, for another role, made up: none of them lets a host in."""
    cluster, join = asked
    used = cluster.token("worker", uses=1)
    first = join(used)
    wait_for("the first host", lambda: first.host.name in host_names(cluster), 60)
    refused(join(used))
    expired = cluster.token("worker", expires="1s")
    time.sleep(1.5)  # its life is what is tested
    refused(join(expired))
    refused(join(cluster.token("coordinator")))
    good = cluster.token("worker")
    middle = len(good) // 2
    refused(join(good[:middle] + ("A" if good[middle] != "A" else "B") + good[middle + 1 :]))
    assert host_names(cluster) == {"w1", first.host.name}


def test_a_stranger_with_the_address_gets_nothing(asked, folder):
    """A folder that never joined starts no worker, and without a key the interface answers nothing."""
    cluster, join = asked
    good = join(cluster.token("worker"))
    wait_for("the host", lambda: good.host.name in host_names(cluster), 60)
    # Without a token it has nobody to ask.
    stranger = cluster.new_worker()
    stranger.start()
    refused(stranger)
    assert stranger.host.name not in host_names(cluster)
    (only,) = cluster.coordinators.values()
    with stranger.host.entered():
        url = f"{only.endpoints().batch_url}/pools?api-version=2024-02-01.19.0"
        answer = subprocess.run(
            [sys.executable, "-c", f"import urllib.request as r; r.urlopen('{url}', timeout=5)"],
            capture_output=True,
            text=True,
        )
    assert "HTTP Error 401" in answer.stderr or "HTTP Error 403" in answer.stderr, answer
