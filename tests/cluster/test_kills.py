"""Clusters under load while any of their processes is killed at random."""

import os
from dataclasses import replace

import pytest

from lote_cluster import wait_for
from rig import balancer, cli, faults
from rig.trial import Trial

pytestmark = pytest.mark.cluster

KILLS = int(os.environ.get("LOTE_KILLS") or (200 if os.environ.get("LOTE_SLOW") == "1" else 10))


#: Longer than it takes to start a killed process on a loaded machine: what is back within the lease has lost nothing.
LEASE = 10


@pytest.mark.timeout(300 + 10 * KILLS)
@pytest.mark.parametrize(["coordinators", "workers", "kills"], [(1, 2, 5), (3, 4, KILLS)])
def test_any_process_is_killed_at_random(lote_cluster, folder, coordinators, workers, kills):
    """No acknowledged write is lost, nothing is run again because of a coordinator, and the job completes."""
    cluster = lote_cluster(coordinators=coordinators, workers=workers, lease=LEASE)
    trial = Trial(cluster, folder, nodes=workers)
    # Coordinators and workers alike; now and then a keeper, whose tasks are lost with it, or a whole host.
    choices = [(faults.KILL, name) for name in cluster.members] * 3
    choices += [(verb, name) for name in cluster.workers for verb in (faults.KILL_KEEPER, faults.CRASH)]
    seed = faults.seed()
    plan = faults.plan(seed, choices, kills)
    faults.show(seed, plan)
    # About as fast as two cores run them, so that there is work in every state all the time.
    load = trial.start_load(limit=30 * kills, chunk=5, pause=0.8)
    trial.wait_for_starts(10)
    for fault in plan:
        trial.losses += faults.carry_out(cluster, fault)
        assert not load.failures, load.failures
    trial.verdict()


@pytest.mark.timeout(300 + 3 * KILLS)
def test_only_coordinators_are_killed(lote_cluster, folder):
    """Without any loss of a host there is no excuse: every task is started exactly once."""
    cluster = lote_cluster(coordinators=3, workers=2, lease=LEASE)
    trial = Trial(cluster, folder, nodes=2)
    seed = faults.seed()
    plan = faults.plan(seed, [(faults.KILL, name) for name in cluster.coordinators], count=max(5, KILLS // 4))
    faults.show(seed, plan)
    trial.start_load(limit=30 * len(plan), seconds=0.5, chunk=4, pause=1.0)
    trial.wait_for_starts(5)
    for fault in plan:
        faults.carry_out(cluster, fault)
    trial.verdict()
    assert trial.log().repeated() == {}


@pytest.mark.timeout(300)
def test_behind_a_load_balancer_a_failover_is_only_latency(lote_cluster, folder):
    """A client that knows one address has all its tasks acknowledged while leaders die, repeats allowed."""
    cluster = lote_cluster(coordinators=3, workers=2, lease=LEASE)
    trial = Trial(cluster, folder, nodes=2)
    address = f"{cluster.client.address}:{cli.BATCH}"
    backends = [f"{c.host.address}:{cli.BATCH}" for c in cluster.coordinators.values()]
    balancer.start(cluster.client, folder, address, backends)
    behind = replace(cluster.endpoints()[0], batch_url=f"http://{address}")
    load = trial.start_load(limit=100_000, chunk=4, pause=0.5, endpoints=[behind])
    trial.wait_for_starts(5)
    for _ in range(3):
        leader = cluster.leader()
        before = len(trial.history.acknowledged())
        leader.kill()
        wait_for("further writes", lambda: len(trial.history.acknowledged()) > before + 30, 60)
        leader.start()
        leader.wait_until_ready()
    assert not load.failures, load.failures
    trial.verdict()
    assert trial.log().repeated() == {}
