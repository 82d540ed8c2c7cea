"""`lote backup`, `lote restore`, `lote recover` and `lote inspect`, as somebody types them."""

import json
import threading

import pytest

from blobs import Blobs
from lote_cluster import Cluster, wait_for
from raw import RawBatch
from test_up import run

pytestmark = pytest.mark.once

POOL = {
    "id": "p",
    "vmSize": "standard_d2s_v3",
    "targetDedicatedNodes": 1,
    "taskSlotsPerNode": 2,
    "virtualMachineConfiguration": {
        "imageReference": {"publisher": "canonical", "offer": "0001-com-ubuntu-server-jammy", "sku": "22_04-lts"},
        "nodeAgentSKUId": "batch.node.ubuntu 22.04",
    },
}


def said_as_json(*arguments):
    code, said = run(*arguments, "--output", "json", timeout=120)
    assert code == 0, said
    return json.loads(said)


@pytest.fixture
def own(request):
    """A cluster of the test's own."""
    cluster = Cluster("backup", workers=1)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.remove()


def task(batch, name, command, **more):
    batch.send("POST", "/jobs/j/tasks", body={"id": name, "commandLine": command, **more}).expect(201)


def test_backup_under_load_and_restore(own, tmp_path):
    batch = RawBatch(own.endpoints)
    batch.send("POST", "/pools", body=POOL).expect(201)
    batch.send("POST", "/jobs", body={"id": "j", "poolInfo": {"poolId": "p"}}).expect(201)
    blobs = Blobs(own.endpoints)
    container = blobs.service.create_container("kept")
    large = bytes(range(256)) * 4096 * 3 + b"end"
    container.upload_blob("large", large)
    container.upload_blob("small", b"hello")
    stop = threading.Event()
    added = []

    def load():
        while not stop.is_set():
            name = f"t{len(added)}"
            task(batch, name, "/bin/true")
            added.append(name)

    loader = threading.Thread(target=load, daemon=True)
    loader.start()
    wait_for("some tasks", lambda: len(added) > 20)
    before = len(added)
    made = said_as_json("backup", str(tmp_path / "backup"), "--data-dir", str(own.data_dir))
    stop.set()
    loader.join()
    assert made["chunks"] >= 4 and made["index"] > before
    code, said = run("backup", str(tmp_path / "backup"), "--data-dir", str(own.data_dir))
    assert code != 0 and "not empty" in said
    own.kill()
    own.remove()

    # Everything is lost; another machine starts from the backup.
    other = Cluster("restored", workers=1)
    try:
        restored = said_as_json("restore", str(tmp_path / "backup"), "--data-dir", str(other.data_dir))
        assert (restored["index"], restored["stateHash"]) == (made["index"], made["stateHash"])
        other.start()
        blobs = Blobs(other.endpoints)
        container = blobs.service.get_container_client("kept")
        assert container.download_blob("large").readall() == large
        assert container.download_blob("small").readall() == b"hello"
        batch = RawBatch(other.endpoints)
        for name in added[:before]:
            batch.send("GET", f"/jobs/j/tasks/{name}").expect(200)
        batch.send("GET", "/pools/p").expect(200)
        other.stop()
    finally:
        other.remove()


def test_a_damaged_backup_is_refused(own, tmp_path):
    said_as_json("backup", str(tmp_path / "backup"), "--data-dir", str(own.data_dir))
    snapshot = tmp_path / "backup" / "state.snapshot"
    content = bytearray(snapshot.read_bytes())
    content[len(content) // 2] ^= 1
    snapshot.write_bytes(content)
    code, said = run("restore", str(tmp_path / "backup"), "--data-dir", str(tmp_path / "d"))
    assert code != 0 and "state.snapshot in the backup is damaged" in said
    assert not (tmp_path / "d").exists()


def test_recover_after_a_damaged_log(own):
    batch = RawBatch(own.endpoints)
    batch.send("POST", "/pools", body=POOL).expect(201)
    own.stop()
    segments = sorted((own.data_dir / "coordinator" / "raft" / "log").iterdir())
    content = bytearray(segments[-1].read_bytes())
    content[3 * 4096 + 200] ^= 1
    segments[-1].write_bytes(content)
    code, said = run("up", "--data-dir", str(own.data_dir), "--batch-port=0", "--blob-port=0", "--p2p-port=0")
    assert code != 0 and "lote recover" in said
    code, said = run("recover", "--data-dir", str(own.data_dir))
    assert code != 0 and "--force-single" in said
    code, said = run("recover", "--data-dir", str(own.data_dir), "--force-single")
    assert code == 0 and "member 2" in said and "damaged at offset" in said
    own.start()
    RawBatch(own.endpoints).send("GET", "/pools/p").expect(200)
    own.stop()
    again = said_as_json("recover", "--data-dir", str(own.data_dir), "--force-single")
    assert again["unchanged"] and again["member"] == 2


def test_inspect(own):
    batch = RawBatch(own.endpoints)
    batch.send("POST", "/pools", body=POOL).expect(201)
    batch.send("POST", "/jobs", body={"id": "j", "poolInfo": {"poolId": "p"}}).expect(201)
    task(batch, "wide", "/bin/true", requiredSlots=3)
    task(batch, "retried", "/bin/sh -c 'exit 3'", constraints={"maxTaskRetryCount": 1})
    folder = ["--data-dir", str(own.data_dir)]

    def ended():
        return batch.send("GET", "/jobs/j/tasks/retried").json()["state"] == "completed"

    wait_for("the end of the task", ended, timeout=60)
    seen = said_as_json("inspect", "task", "j", "retried", *folder)
    assert [(a["attempt"], a["exitCode"]) for a in seen["attempts"]] == [(1, 3), (2, 3)]
    assert seen["attempts"][1]["outcome"] == "failure"
    seen = said_as_json("inspect", "task", "j", "wide", *folder)
    assert seen["waitsBecause"] == "needs 3 slots, the largest node has 2"
    code, said = run("inspect", "pool", "p", *folder)
    assert code == 0 and "group generation" in said and "tvm-" in said
    node = said_as_json("inspect", "pool", "p", *folder)["nodes"][0]["node"]
    code, said = run("inspect", "node", "p", node, *folder)
    assert code == 0 and "it holds no task" in said
    code, said = run("inspect", "task", "j", "none", *folder)
    assert code != 0 and "there is no task `j/none`" in said
