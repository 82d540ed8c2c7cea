"""A snapshot that does not fit on the disk: the coordinator goes on with what it has, and makes it when there is room."""

import os
import subprocess

import pytest

import sdk as sdk_module
from lote_cluster import binary, wait_for
from rig.cluster import OneMachine
from rig.disk import Disk

pytestmark = pytest.mark.timeout(240)

MIB = 1024 * 1024
#: The coordinator steps back with less than a sixteenth of it.
DISK_MIB = 192
RESERVE = DISK_MIB // 16 * MIB
#: What the state has at least, and what is left for its snapshot beside the reserve: less.
STATE, LEFT = 18 * MIB, 9 * MIB


def test_a_snapshot_that_does_not_fit(network, folder):
    disk = Disk(folder / "up", DISK_MIB)
    machine = OneMachine(network, folder)
    machine.start()
    (member,) = machine.coordinators.values()
    environment = {"LARGE": "x" * 30_000}
    with machine.client.entered():
        sdk = sdk_module.load(member.endpoints())
        sdk.create_pool(sdk.pool("p", nodes=0, slots=1))
        sdk.create_job(sdk.job("j", "p"))
        added = 0
        while added * 30_000 < STATE:
            ids = [f"t{n}" for n in range(added, added + 50)]
            sdk.create_tasks("j", [sdk.task(id, "/bin/true", environment=environment) for id in ids])
            added += 50

    def free() -> int:
        seen = os.statvfs(disk.folder)
        return seen.f_bavail * seen.f_frsize

    def backup(name: str) -> tuple[int, str]:
        command = [str(binary()), "backup", "--data-dir", str(member.data_dir), str(folder / name)]
        with machine.client.entered():
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout + done.stderr

    (snapshots,) = member.data_dir.glob("*/raft/snapshots")
    filler = disk.folder / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free() - RESERVE - LEFT)
    code, said = backup("too-large")
    assert code != 0 and "no room on the disk for snapshot" in said, said
    assert list(snapshots.iterdir()) == [], "what was written of it is gone"
    assert free() > RESERVE, "it did not fill the disk either"
    status = member.status()
    assert "no room" in status["replica"]["snapshotTrouble"]
    with machine.client.entered():
        sdk.create_task("j", sdk.task("after", "/bin/true"))

    filler.unlink()
    wait_for("a snapshot once there is room", lambda: backup(f"fits-{os.urandom(4).hex()}")[0] == 0, 90, interval=1.0)
    (snapshot,) = snapshots.iterdir()
    assert snapshot.stat().st_size > STATE
    status = member.status()
    assert status["replica"]["snapshotTrouble"] is None and status["replica"]["role"] == "leader"
    assert member.process.is_running()
