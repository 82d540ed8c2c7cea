"""Upgrades under load: every process is exchanged for one of the next build, for the present one again, and for good.

The next build is this one with the feature `next-version`: it supports one cluster version more, has a rule of its own
from there on, and a command that the present one cannot decode.
"""

import os
from pathlib import Path

import pytest

from lote_cluster import wait_for
from rig import cli
from rig.figures import tell
from rig.trial import Trial

pytestmark = pytest.mark.cluster

#: Longer than a restart takes on a loaded machine: what is back within the lease has lost nothing.
LEASE = 10


@pytest.fixture
def next_build() -> Path:
    """The program of the next build."""
    path = os.environ.get("LOTE_NEXT_BIN")
    assert path and os.access(path, os.X_OK), "LOTE_NEXT_BIN names no program: run this with `cargo xtask test cluster`"
    return Path(path).resolve()


def all_of(cluster, look) -> set:
    """What every coordinator says; None of one that does not answer."""
    told = [coordinator.status() for coordinator in cluster.coordinators.values()]
    return {None if status is None else look(status) for status in told}


def wait_for_version(cluster, version: int) -> None:
    wait_for(f"version {version} everywhere", lambda: all_of(cluster, cli.version) == {version}, 30)


def wait_for_builds(cluster, newest: int) -> None:
    """Until every coordinator has heard from every other that it supports this version."""
    builds = {name: newest for name in cluster.coordinators}
    hear = lambda: all_of(cluster, lambda status: cli.builds(status) == builds) == {True}  # noqa: E731
    wait_for(f"builds that support version {newest}", hear, 30)


def wait_for_sessions(cluster) -> None:
    """Until every worker is with the leader."""
    told = lambda: cli.sessions(cluster.leader().status() or {"hosts": []}) == set(cluster.workers)  # noqa: E731
    wait_for("sessions of all workers", told, 30)


def wait_for_same_state(one, other) -> None:
    """Until both were seen at the same index of the log, where they must have the same state."""
    seen = ({}, {})

    def same():
        for coordinator, hashes in zip((one, other), seen):
            if status := coordinator.status():
                index, state = cli.position(status)
                hashes[index] = state
        return {index for index in seen[0] if index in seen[1]}

    for index in wait_for(f"an index at which {one} and {other} were both seen", same, 60, interval=0):
        assert seen[0][index] == seen[1][index], f"at index {index} {one} and {other} have another state"


@pytest.mark.timeout(600)
def test_rolling_upgrade_and_back_under_load(lote_cluster, folder, next_build):
    """N → N+1 → N → N+1 and released: no acknowledged write is lost, and nothing is run again."""
    cluster = lote_cluster(coordinators=3, workers=2, lease=LEASE)
    first = cluster.coordinators["c1"]
    present = wait_for("a status", first.status)["version"]["cluster"]
    wait_for_version(cluster, present)
    wait_for_builds(cluster, present)
    held = cli.upgrade(first.host, first.data_dir, "hold")
    assert held["cluster"] == present and held["heldSince"], held
    trial = Trial(cluster, folder, nodes=2)
    load = trial.start_load(limit=100_000, seconds=0.6, chunk=2, pause=0.6)
    trial.wait_for_starts(5)

    for build, newest in [(next_build, present + 1), (None, present), (next_build, present + 1)]:
        for member in cluster.members.values():
            before = len(trial.history.acknowledged())
            member.change_build(build)
            wait_for_sessions(cluster)
            wait_for("further writes", lambda: len(trial.history.acknowledged()) > before, 60)
            assert not load.failures, load.failures
            if member is first:
                # Builds of both kinds apply the same log.
                wait_for_same_state(first, cluster.coordinators["c2"])
        wait_for_builds(cluster, newest)
        assert all_of(cluster, cli.version) == {present}, "held, but raised"

    # A worker of the present build goes on with coordinators of the next one, also after the raise.
    cluster.workers["w1"].change_build(None)
    assert cli.upgrade(first.host, first.data_dir, "status")["next"] == present + 1
    cli.upgrade(first.host, first.data_dir, "release")
    wait_for_version(cluster, present + 1)
    noted = lambda: all_of(cluster, lambda status: bool(status["version"]["rehearsed"])) == {True}  # noqa: E731
    wait_for("the command that only the next build knows", noted, 30)
    wait_for_sessions(cluster)
    before = len(trial.history.acknowledged())
    wait_for("further writes", lambda: len(trial.history.acknowledged()) > before + 10, 60)

    # There is no way back now: neither for a member nor for a newcomer.
    gone = cluster.followers()[0]
    gone.stop()
    gone.program = None
    gone.start()
    code = wait_for("the present build to refuse", gone.process.exit_code, 30)
    said = gone.process.log_tail(5)
    assert code == 1, said
    for words in (f"the cluster is at version {present + 1}", f"to {present}:", "start a newer build"):
        assert words in said, said
    newcomer = cluster._new_coordinator()
    newcomer.start(cluster.token("coordinator"))
    assert wait_for("the newcomer to be refused", newcomer.process.exit_code, 30) == 1
    said = newcomer.process.log_tail(5)
    assert f"the cluster is at version {present + 1}" in said and "VersionNotSupported" in said, said
    del cluster.coordinators[newcomer.host.name]
    gone.program = next_build
    gone.start()
    gone.wait_until_ready()

    assert not load.failures, load.failures
    tell("an upgrade, back, and again under load: " + trial.verdict())
    assert trial.log().repeated() == {}
    for other in ("c2", "c3"):
        wait_for_same_state(first, cluster.coordinators[other])
