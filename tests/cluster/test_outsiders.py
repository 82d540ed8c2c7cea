"""Who was a member, or looks like one: a copy of its folder on another machine, and a host that was removed."""

import shutil
import stat
import uuid
from pathlib import Path

import pytest

from lote_cluster import wait_for
from rig import cli, clock
from rig.cluster import Worker
from invariants.no_rerun_because_of_a_coordinator import Loss
from rig.trial import Trial

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


class Elsewhere(Worker):
    """A worker on a machine with another id: all namespaces of the rig are one machine otherwise."""

    def command(self, token=None):
        machine = self.data_dir.with_suffix(".machine")
        machine.write_text(f"{uuid.uuid4().hex}\n")
        moved = 'mount --bind "$0" /etc/machine-id && exec "$@"'
        return ["unshare", "-m", "sh", "-c", moved, str(machine), *super().command(token)]


def copy_of(cluster, original: Worker, name: str) -> Worker:
    """The folder of a worker, on a host of its own."""
    copied = Elsewhere(cluster.network.add(name), cluster.folder, cluster.cores)

    def sockets(folder, names):
        return [name for name in names if stat.S_ISSOCK((Path(folder) / name).lstat().st_mode)]

    shutil.copytree(original.data_dir, copied.data_dir, ignore=sockets)
    cluster.workers[name] = copied
    return copied


def host_states(cluster) -> dict[str, str]:
    asked = next(iter(cluster.coordinators.values()))
    return {host["name"]: host["state"] for host in asked.status()["hosts"]}


def said_since(worker, mark: int, *words: str) -> str | None:
    """What its log says from there on, once it has one of these words."""
    text = worker.log.read_text(errors="replace")[mark:]
    return text if any(word in text for word in words) else None


def mark(worker) -> int:
    return len(worker.log.read_text(errors="replace")) if worker.log.exists() else 0


def test_a_copied_identity_gets_no_work(lote_cluster, folder):
    """It is told why, and the machine that was admitted works on, whether it runs meanwhile or comes back later."""
    cluster = lote_cluster(coordinators=1, workers=1, lease=10)
    trial = Trial(cluster, folder, nodes=1, slots=2)
    original = cluster.workers["w1"]
    copied = copy_of(cluster, original, "copy")
    # While the original is away for a moment, the copy would be taken for it by its key alone.
    original.stop()
    copied.start()
    wait_for("the refusal", lambda: said_since(copied, 0, "was admitted on another machine"), 60)
    original.start()
    wait_for("the original to be back", lambda: host_states(cluster)["w1"] == "joined", 60)
    # And while it works.
    trial.add([f"t{n}" for n in range(8)], seconds=1)
    trial.wait_for_starts(8)
    trial.verdict()
    assert {attempt.host for attempts in trial.log().attempts.values() for attempt in attempts} == {"w1"}
    assert host_states(cluster) == {"w1": "joined"}


def test_a_removed_host_gets_nothing(lote_cluster, folder):
    """Its session ends, it is let in no more, neither as it is nor after a restart, and its tasks run elsewhere."""
    cluster = lote_cluster(coordinators=3, workers=2, lease=4, cores=1)
    trial = Trial(cluster, folder, nodes=2, slots=1)
    trial.add(["long-1", "long-2"], seconds=6)
    trial.wait_for_starts(2)
    removed, other = cluster.workers["w1"], cluster.workers["w2"]
    at, before = clock.now(), mark(removed)
    leader = cluster.leader()
    cli.remove(leader.host, leader.data_dir, "w1")
    trial.losses.append(Loss("w1", at))
    wait_for("it to be sent away", lambda: said_since(removed, before, "no session"), 60)
    members = {member["name"] for member in leader.status()["members"]}
    assert members == {"c1", "c2", "c3", "w2"}
    # What it ran is ended there before anything new is looked at.
    removed.crash()
    trial.add([f"t{n}" for n in range(6)], seconds=0.2)
    wait_for("its task elsewhere", lambda: trial.log().repeated(), 60)
    before = mark(removed)
    removed.start()
    wait_for("it to be sent away again", lambda: said_since(removed, before, "no session"), 60)
    trial.verdict()
    later = [a for attempts in trial.log().attempts.values() for a in attempts if a.start > at + 1]
    assert {attempt.host for attempt in later} == {other.host.name}
    assert host_states(cluster)["w1"] == "lost"
