"""Everything is lost but a backup that was made under load: fresh machines go on from it."""

import os
import shutil

import pytest

from blobs import Blobs
from lote_cluster import wait_for
from rig import cli
from rig.client import Client
from rig.cluster import LoteCluster
from rig.trial import JOB, Trial

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def test_a_backup_under_load_becomes_a_cluster_on_fresh_machines(lote_cluster, network, folder):
    cluster: LoteCluster = lote_cluster(coordinators=3, workers=2, lease=10)
    trial = Trial(cluster, folder, nodes=2)
    contents = {"large": os.urandom(3 * 1024 * 1024 + 5), "small": b"hello", "empty": b""}
    with cluster.client.entered():
        container = Blobs(cluster.followers()[0].endpoints()).service.create_container("kept")
        for name, content in contents.items():
            container.upload_blob(name, content)
    trial.start_load(limit=100_000, chunk=4, pause=0.2)
    trial.wait_for_starts(5)
    before = trial.history.acknowledged()
    # Of one that does not lead, so it may have to fetch chunks that lie on the other two.
    asked = cluster.followers()[-1]
    made = cli.backup(asked.host, asked.data_dir, folder / "backup")
    trial.load.stop()
    for member in cluster.members.values():
        member.crash()
        shutil.rmtree(member.data_dir)

    fresh = LoteCluster.restored(network, folder, folder / "backup", lease=10)
    (first,) = fresh.coordinators.values()
    assert (fresh.made["index"], fresh.made["stateHash"]) == (made["index"], made["stateHash"])
    first.start()
    first.wait_until_ready()
    joined = {fresh.add_coordinator().host.name for _ in range(2)}
    # It goes by the name in the backup. Nobody waits for those who are gone.
    wait_for("three voters", lambda: fresh.voters() == {asked.host.name, *joined}, 60)
    members = {member["name"] for member in first.status()["members"] if member["role"] == "coordinator"}
    assert members == fresh.voters()
    # Their nodes wait for the old hosts to come back, until somebody says that they will not.
    for gone in ("w1", "w2"):
        cli.remove(first.host, first.data_dir, gone)
    for _ in range(2):
        fresh.add_worker()

    with cluster.client.entered():
        for coordinator in fresh.coordinators.values():
            kept = Blobs(coordinator.endpoints()).service.get_container_client("kept")
            assert {name: kept.download_blob(name).readall() for name in contents} == contents, coordinator
        client = Client("afterwards", fresh.endpoints(), trial.history)
        found = client.insist(lambda: client.list(JOB), 60).seen
        assert before <= set(found), "what was acknowledged before the backup is there"
        # The pool fills with nodes of the new hosts, and the work goes on there.
        task = client.sdk.task("afterwards", trial.tasks.command(0.2))
        client.insist(lambda: client.add_one(JOB, task), 60)
        wait_for(
            "the new task to run",
            lambda: client.insist(lambda: client.get(JOB, "afterwards"), 60).seen["afterwards"].state == "completed",
            90,
        )
    digests = lambda: {  # noqa: E731
        (status["replica"]["appliedIndex"], status["replica"]["stateHash"])
        for coordinator in fresh.coordinators.values()
        if (status := coordinator.status())
    }
    wait_for("the same state everywhere", lambda: len(digests()) == 1, 60)
