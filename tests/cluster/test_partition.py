"""The network is split, with the leader on the smaller side."""

import time

import pytest

from invariants.no_rerun_because_of_a_coordinator import Loss
from lote_cluster import wait_for
from rig import cli, clock
from rig.client import Client
from rig.history import OK, UNKNOWN
from rig.trial import JOB, Trial

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

#: A silent leader is replaced within about four seconds; what its hosts run is to live through that.
LEASE = 10
#: What lasts longer than a lease shows that it was renewed.
LONG = 14


def test_the_leader_is_cut_off_with_a_host(lote_cluster, folder):
    """Its side accepts no write and keeps no lease alive; the other side goes on, and all heals by itself."""
    cluster = lote_cluster(coordinators=3, workers=3, lease=LEASE, cores=1)
    trial = Trial(cluster, folder, nodes=3, slots=1)
    trial.add([f"long-{n}" for n in range(3)], seconds=LONG)
    trial.wait_for_starts(3)
    old = cluster.leader()
    alone = cluster.workers["w1"]
    rest = [c for c in cluster.coordinators.values() if c is not old]
    # A client on the leader's side, beside the one that stays with the majority.
    captive = cluster.network.add("captive")
    at = clock.now()
    cluster.network.part([old.host, alone.host, captive])
    # Of all the tasks only that of the host beside the old leader may run again.
    trial.losses.append(Loss(alone.host.name, at))

    # The captive tries all the time, until the lost host's task has run elsewhere; nothing may be accepted.
    with captive.entered():
        client = Client("captive", [old.endpoints()], trial.history)
        while not trial.log().repeated():
            assert clock.now() < at + 120, "the lost host's task was not started elsewhere"
            client.add_one(JOB, client.sdk.task("from-the-captive", trial.tasks.command(0.1)))
            time.sleep(0.1)
    accepted = [call for call in trial.history.calls("add", OK) if call.client == "captive"]
    assert accepted == [], "the minority accepted a write"

    majority = [c.endpoints() for c in rest]
    with cluster.client.entered():
        client = Client("majority", majority, trial.history)
        task = client.sdk.task("from-the-majority", trial.tasks.command(0.1))
        assert client.insist(lambda: client.add_one(JOB, task), 60).outcome == OK

    cluster.network.heal()
    with captive.entered():
        client = Client("healed", [old.endpoints()], trial.history)
        task = client.sdk.task("after-healing", trial.tasks.command(0.1))
        assert client.insist(lambda: client.add_one(JOB, task), 60).outcome == OK
    # What the captive sent without an answer may have become true when the network healed, or not: both are right.
    trial.verdict()


@pytest.mark.slow
def test_the_leader_is_cut_off_from_the_other_coordinators_only(lote_cluster, folder):
    """Its hosts still hear it, but what it says is worth nothing: they go to the new leader with all their tasks."""
    cluster = lote_cluster(coordinators=3, workers=2, lease=LEASE)
    trial = Trial(cluster, folder, nodes=2)
    trial.add([f"long-{n}" for n in range(4)], seconds=LONG)
    trial.wait_for_starts(4)
    old = cluster.leader()
    rest = cluster.followers()
    for other in rest:
        cluster.network.cut(old.host, other.host)
    with cluster.client.entered():
        client = Client("majority", [c.endpoints() for c in rest], trial.history)
        task = client.sdk.task("from-the-majority", trial.tasks.command(0.1))
        assert client.insist(lambda: client.add_one(JOB, task), 60).outcome == OK
    wait_for("the long tasks to end", lambda: trial.tasks.lines("end") >= 4, 90)
    cluster.network.heal()
    wait_for("its step back", lambda: (status := old.status()) and not cli.is_leader(status), 60)
    trial.verdict()
    assert trial.log().repeated() == {}


def test_followers_that_are_cut_off_answer_that_they_are_busy(lote_cluster, folder):
    """Without a quorum nothing is accepted, nothing hangs for ever, and nothing is half done."""
    cluster = lote_cluster(coordinators=3, workers=1)
    trial = Trial(cluster, folder, nodes=1)
    one, two, three = cluster.coordinators.values()
    one.kill()
    two.kill()
    with cluster.client.entered():
        client = Client("lonely", [three.endpoints()], trial.history)
        task = client.sdk.task("lonely", trial.tasks.command(0.1))
        assert client.add_one(JOB, task).outcome == UNKNOWN
    one.start()
    one.wait_until_ready()
    with cluster.client.entered():
        assert client.insist(lambda: client.add_one(JOB, task), 60).outcome == OK
    two.start()
    two.wait_until_ready()
    trial.verdict()


def test_a_frozen_leader_is_replaced_and_comes_back_as_a_follower(lote_cluster, folder):
    cluster = lote_cluster(coordinators=3, workers=2, lease=LEASE)
    trial = Trial(cluster, folder, nodes=2)
    trial.start_load(limit=100_000, chunk=4, pause=0.5)
    trial.wait_for_starts(5)
    old = cluster.leader()
    # Their hosts have to find the new leader before their leases end.
    long = {"long-0", "long-1"}
    trial.add(sorted(long), seconds=LONG)
    wait_for("the long tasks to start", lambda: long <= set(trial.log().attempts), 60)
    old.freeze()
    before = len(trial.history.acknowledged())
    wait_for("further writes", lambda: len(trial.history.acknowledged()) > before + 30, 90)
    new = cluster.leader()
    assert new is not old
    old.thaw()
    wait_for("its step back", lambda: (status := old.status()) and not cli.is_leader(status), 30)
    trial.verdict()
    assert trial.log().repeated() == {}
