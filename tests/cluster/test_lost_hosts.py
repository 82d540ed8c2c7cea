"""Hosts that are gone, silent or stopped: their tasks run elsewhere in time, and never twice at once."""

import os
import random
import signal
import time

import pytest

from lote_cluster import wait_for
from rig import cli, clock, faults, names
from invariants.no_rerun_because_of_a_coordinator import Loss
from invariants.one_live_attempt_per_task import Freeze
from rig.figures import tell
from rig.process import freeze
from rig.trial import Trial

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

LEASE = 2.0
#: What the specification allows between the loss and the next start, and what a loaded machine of two cores is given.
ALLOWED = LEASE * 1.1 + 1.0
GENEROUS = ALLOWED * 4 + 10.0
#: How often something stands still in the test of odd moments.
ODD_MOMENTS = 60 if os.environ.get("LOTE_SLOW") == "1" else 6


@pytest.fixture
def trial(lote_cluster, folder):
    """One long task on each of two hosts, and a third host that is free to take them over."""
    # A core each, so that no host carries two of the nodes.
    cluster = lote_cluster(coordinators=3, workers=3, lease=LEASE, cores=1)
    trial = Trial(cluster, folder, nodes=3, slots=1)
    trial.add(["long-1", "long-2"], seconds=6)
    trial.wait_for_starts(2)
    return trial


def victim(trial):
    """The worker that runs one of the tasks."""
    (attempt,) = trial.log().attempts["long-1"]
    return trial.cluster.workers[attempt.host]


def started_again(trial, at: float, how: str) -> None:
    """Waits for the second start of the task that was lost, and tells how long it took."""
    log = wait_for("the next attempt", lambda: (log := trial.log()).repeated() and log, GENEROUS, interval=0.02)
    (attempts,) = log.repeated().values()
    took = attempts[1].start - at
    tell(f"host {how}: its task runs elsewhere after {took:.2f} s (the specification allows {ALLOWED:.2f} s)")
    assert attempts[1].host != attempts[0].host
    assert took < GENEROUS


def test_a_host_that_is_gone(trial):
    worker, at = victim(trial), clock.now()
    worker.crash()
    trial.losses.append(Loss(worker.host.name, at))
    started_again(trial, at, "gone")
    trial.verdict()


def test_a_host_that_stands_still(trial):
    """It comes back after its task was given away: the keeper ends the old attempt at once."""
    worker, at = victim(trial), clock.now()
    worker.freeze_all()
    trial.losses.append(Loss(worker.host.name, at))
    started_again(trial, at, "frozen")
    trial.freezes.append(Freeze(worker.host.name, at, clock.now()))
    worker.thaw_all()
    trial.verdict()


def test_a_host_that_is_cut_off(trial):
    """Its own clock goes on: the keeper ends the attempt before another one may start."""
    worker, at = victim(trial), clock.now()
    trial.cluster.network.cut(worker.host)
    trial.losses.append(Loss(worker.host.name, at))
    started_again(trial, at, "cut off")
    trial.cluster.network.heal()
    trial.verdict()


@pytest.mark.slow
def test_a_host_that_can_send_but_not_hear(trial):
    """One way is not enough for a lease."""
    worker, at = victim(trial), clock.now()
    for coordinator in trial.cluster.coordinators.values():
        trial.cluster.network.cut_one_way(coordinator.host, worker.host)
    trial.losses.append(Loss(worker.host.name, at))
    started_again(trial, at, "deaf")
    trial.cluster.network.heal()
    trial.verdict()


def test_a_worker_that_is_frozen_without_its_keeper(trial):
    """The keeper goes on and holds the deadline: no two live attempts, whoever stands still."""
    worker, at = victim(trial), clock.now()
    worker.freeze()
    trial.losses.append(Loss(worker.host.name, at))
    started_again(trial, at, "without its worker process")
    worker.thaw()
    trial.verdict()


def test_a_worker_that_is_back_within_the_lease(lote_cluster, folder):
    """Nothing is ended and nothing is run again: it finds its tasks through the keeper."""
    # A long lease, so that a loaded machine has time to start a process.
    cluster = lote_cluster(coordinators=1, workers=2, lease=30)
    trial = Trial(cluster, folder, nodes=2)
    trial.add([f"t{n}" for n in range(4)], seconds=6)
    trial.wait_for_starts(4)
    for worker in cluster.workers.values():
        worker.kill()
    for worker in cluster.workers.values():
        worker.start()
    trial.verdict()
    assert trial.log().repeated() == {}


@pytest.mark.timeout(240 + 10 * ODD_MOMENTS)
def test_halves_of_hosts_stand_still_at_odd_moments(lote_cluster, folder):
    """A worker, its keeper, or all of a host, for less or more than a lease: never two live attempts of a task."""
    cluster = lote_cluster(coordinators=3, workers=3, lease=LEASE, cores=2)
    trial = Trial(cluster, folder, nodes=3)
    seed = faults.seed()
    chance = random.Random(seed)
    print(f"replayed by LOTE_SEED={seed}", flush=True)
    load = trial.start_load(limit=100_000, seconds=1.0, chunk=2, pause=0.9)
    trial.wait_for_starts(5)
    for _ in range(ODD_MOMENTS):
        worker = chance.choice(list(cluster.workers.values()))
        half, pause = chance.choice(["worker", "keeper", "host"]), chance.uniform(0.1, 2.5 * LEASE)
        begun = clock.now()
        keepers = cli.keepers(worker.host) if half == "keeper" else []
        if half == "worker":
            worker.freeze()
        elif half == "host":
            worker.freeze_all()
        for pid in keepers:
            freeze(pid)
        time.sleep(pause)
        if half == "host":
            trial.freezes.append(Freeze(worker.host.name, begun, clock.now()))
            worker.thaw_all()
        elif half == "worker":
            worker.thaw()
        for pid in keepers:
            names.send_signal(pid, signal.SIGCONT)
        trial.losses.append(Loss(worker.host.name, begun))
        assert not load.failures, load.failures
        time.sleep(chance.uniform(0.0, 1.5))
    tell(f"{ODD_MOMENTS} workers, keepers or hosts stood still: {trial.verdict()}")
