"""The disk of a coordinator is full: nothing acknowledged is lost, and it goes on once there is room."""

import pytest

from invariants.no_rerun_because_of_a_coordinator import Loss
from lote_cluster import wait_for
from rig import cli, clock
from rig.cluster import OneMachine
from rig.disk import Disk
from rig.figures import tell
from rig.history import OK, UNKNOWN
from rig.trial import JOB, Trial

pytestmark = pytest.mark.timeout(240)

#: Enough for what a coordinator keeps of these tests.
MIB = 64


def back(member, works, timeout=60.0) -> list[float]:
    """Waits until it works again; if it has ended because of the disk, it is started, as a service manager would.

    Gives the times of those starts.
    """
    restarts = []

    def look():
        if not member.process.is_running():
            said = member.process.log_tail()
            assert "No space left on device" in said, f"it ended, and not because of the disk\n{said}"
            restarts.append(clock.now())
            member.start()
            member.wait_until_ready()
        return works()

    wait_for(f"{member} to go on", look, timeout, interval=0.5)
    return restarts


def test_the_only_disk_is_full(network, folder):
    """Writes are not acknowledged, with the word for it that makes clients try again."""
    disk = Disk(folder / "up", MIB)
    machine = OneMachine(network, folder)
    machine.start()
    (member,) = machine.coordinators.values()
    trial = Trial(machine, folder, nodes=2)
    trial.add([f"before-{n}" for n in range(20)], seconds=0.1)
    # Its nodes are on the same disk, and a task that finds no room fails: that is not what is looked at here.
    wait_for("all to be completed", lambda: {seen.state for seen in trial.listing().values()} == {"completed"}, 60)
    at = clock.now()
    disk.fill()

    def add(id):
        with machine.client.entered():
            return trial.client.add_one(JOB, trial.client.sdk.task(id, trial.tasks.command(0.1)))

    # The log's last page may have room for a few more.
    tried = [add("full-0")]
    while tried[-1].outcome == OK and len(tried) < 100:
        tried.append(add(f"full-{len(tried)}"))
    assert (tried[-1].outcome, tried[-1].code) == (UNKNOWN, "ServerBusy"), tried[-1]
    disk.free()
    restarts = back(member, lambda: add("after").outcome == OK)
    assert restarts == [], "it went on by itself"
    # Its workers have the same disk, and may have lost what they ran.
    trial.losses.append(Loss("up", at))
    trial.verdict()


@pytest.mark.cluster
@pytest.mark.parametrize("name", ["c1", "c2"], ids=["leader", "follower"])
def test_one_of_three_disks_is_full(lote_cluster, folder, name):
    """The others go on as if nothing were; the one steps back, and catches up when there is room."""
    disk = Disk(folder / name, MIB)
    cluster = lote_cluster(coordinators=3, workers=2, lease=10)
    trial = Trial(cluster, folder, nodes=2)
    load = trial.start_load(limit=100_000, chunk=4, pause=0.5)
    trial.wait_for_starts(5)
    # Whoever founded the cluster leads, unless the machine was so loaded that another one does by now.
    tell(f"the disk of {name} is full while {cluster.leader()} leads")
    disk.fill()
    before = len(trial.history.acknowledged())
    wait_for("further writes", lambda: len(trial.history.acknowledged()) > before + 50, 90)
    disk.free()
    reached = cli.applied(cluster.leader().status())
    one = cluster.coordinators[name]
    restarts = back(one, lambda: (status := one.status()) and cli.applied(status) >= reached)
    assert restarts == [], "it went on by itself"
    assert not load.failures, load.failures
    trial.verdict()
    assert trial.log().repeated() == {}
