"""Every core is taken by tasks, and the leader stays the leader: no flush and no heartbeat waits for them."""

import os

import pytest

from lote_cluster import wait_for
from rig import cli, clock
from rig.figures import tell
from rig.trial import JOB, Trial

IS_SLOW = os.environ.get("LOTE_SLOW") == "1"
SECONDS = int(os.environ.get("LOTE_SATURATED", 600 if IS_SLOW else 15))

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(SECONDS * 2 + 240)]

#: More than this machine has cores, on two hosts.
SLOTS = 2 * (os.cpu_count() or 2)


def reigns(cluster) -> dict[str, tuple[int, int | None]]:
    """Term and leader as each coordinator knows them."""
    seen = {}
    for name, coordinator in cluster.coordinators.items():
        if status := coordinator.status():
            seen[name] = (cli.term(status), status["replica"]["leader"])
    return seen


def test_no_leader_changes_under_load(lote_cluster, folder):
    cluster = lote_cluster(coordinators=3, workers=2, lease=10, cores=SLOTS)
    trial = Trial(cluster, folder, nodes=2, slots=SLOTS)
    # They spin, a second each, and there are always more of them than slots.
    spin = "/bin/sh -c 'timeout 1 sh -c \"while :; do :; done\"; true'"
    count = SECONDS * (os.cpu_count() or 2) * 2 + 4 * SLOTS
    before = wait_for("one reign", lambda: (seen := reigns(cluster)) and len(set(seen.values())) == 1 and seen, 60)
    ids = [f"spin-{n:05}" for n in range(count)]
    with cluster.client.entered():
        for at in range(0, count, 100):
            tasks = [trial.client.sdk.task(id, spin) for id in ids[at : at + 100]]
            trial.client.insist(lambda tasks=tasks: trial.client.add(JOB, tasks), 90)
    # A trickle of writes, as of any user, tells how long each of them takes.
    begin, took = clock.now(), []
    with cluster.client.entered():
        while clock.now() < begin + SECONDS:
            id = f"small-{len(took):05}"
            call = trial.client.insist(
                lambda id=id: trial.client.add_one(JOB, trial.client.sdk.task(id, "/bin/true")), 90
            )
            took.append(call.end - call.start)
    after = wait_for("all to answer", lambda: (seen := reigns(cluster)) and len(seen) == 3 and seen, 60)
    took.sort()
    tell(
        f"{SECONDS} s of saturated hosts: leaders {sorted(set(before.values()))} -> {sorted(set(after.values()))}; "
        f"{len(took)} writes, p50 {took[len(took) // 2]:.3f} s, p99 {took[int(len(took) * 0.99)]:.3f} s"
    )
    assert after == before, "the leader changed"
