"""What keeps stored content whole: collection of what nothing refers to, repair after a lost disk, verification."""

import os
import shutil
import time

import pytest
from azure.storage.blob import BlobServiceClient

from lote_cluster import free_ports, wait_for
from member_processes import voters

pytestmark = pytest.mark.once

MIB = 1024 * 1024


def chunk_files(members, name: str) -> dict[str, os.PathLike]:
    folder = members.data(name) / "coordinator" / "chunks" / "chunks"
    return {path.name: path for path in folder.glob("??/*")}


def test_content_without_a_file_goes_and_what_is_met_again_stays(members):
    storage = BlobServiceClient.from_connection_string(
        members.found("--storage-grace-seconds", "3").connection_string
    )
    container = storage.create_container("data")
    shared, gone, own = os.urandom(3 * MIB + 5), os.urandom(2 * MIB), os.urandom(MIB)
    container.upload_blob("first", shared)
    container.upload_blob("gone", gone)
    container.upload_blob("own", own)
    before = len(chunk_files(members, "c1"))
    container.delete_blob("gone")
    # The same content under other names, over and over: each time nothing refers to it for a while, and an upload meets
    # chunks that may be about to go.
    end = time.monotonic() + 20
    name = "first"
    rounds = 0
    while time.monotonic() < end:
        container.delete_blob(name)
        time.sleep([0.0, 0.5, 2.9, 3.5][rounds % 4])
        name = f"again{rounds}"
        container.upload_blob(name, shared)
        assert container.download_blob(name).readall() == shared
        rounds += 1
    assert rounds > 5
    time.sleep(5)
    assert container.download_blob(name).readall() == shared
    assert container.download_blob("own").readall() == own
    # Two chunks of `gone` and its list.
    wait_for("the content of the deleted blob to go", lambda: len(chunk_files(members, "c1")) == before - 3, 30)
    status = members.operate("storage", "status")
    assert (status["files"], status["fileBytes"]) == (2, len(shared) + len(own))
    assert status["coordinators"][0]["storage"]["collectedChunks"] >= 3
    container.delete_blob(name)
    container.delete_blob("own")
    wait_for("everything to go", lambda: not chunk_files(members, "c1"), 30)
    wait_for("the status to say so", lambda: members.operate("storage", "status")["chunks"] == 0, 30)


def test_a_lost_disk_and_a_damaged_chunk_are_repaired(members):
    members.found(**{name: f"127.0.0.1:{port}" for name, port in free_ports().items()})
    token = members.token("--role", "coordinator", "--uses", "2")
    for name in ("c2", "c3"):
        members.coordinator(name, "--join", token)
    wait_for("three voters", lambda: voters(members, "c1") == {"c1", "c2", "c3"}, 60)
    storage = BlobServiceClient.from_connection_string(members.endpoints("c3").connection_string)
    container = storage.create_container("data")
    files = {f"f{n}": os.urandom(n * MIB + 17) for n in range(4)}
    for name, content in files.items():
        container.upload_blob(name, content)
    container.upload_blob("twin", files["f3"])
    files["twin"] = files["f3"]
    needed = set(chunk_files(members, "c3"))

    def copies(*names: str) -> dict[str, int]:
        there = [chunk_files(members, name) for name in names]
        return {id: sum(id in files for files in there) for id in needed}

    # A disk is lost, and another machine takes its place: two of each chunk again, without anybody asking.
    members.kill("c3")
    shutil.rmtree(members.data("c3"))
    assert min(copies("c1", "c2").values()) == 1, "there is something to repair"
    members.coordinator("c4", "--join", members.token("--role", "coordinator"), "--replace", "c3")
    wait_for("two copies of everything", lambda: min(copies("c1", "c2", "c4").values()) >= 2, 120)
    status = members.operate("storage", "repair", at="c4")
    assert (status["underReplicated"], status["lost"], status["copies"]) == (0, 0, 2), status
    assert status["deduplicationRatio"] > 1.2, status
    # Lists of chunks come where they are read anyway.
    assert sum(one["storage"]["repaired"] for one in status["coordinators"]) >= 1 + 2 + 3 + 4

    # A chunk rots on a disk: it is found, set aside, and made anew.
    id, path = sorted(chunk_files(members, "c4").items())[0]
    rotten = bytearray(path.read_bytes())
    rotten[0] ^= 1
    path.write_bytes(rotten)
    status = members.operate("storage", "verify", at="c4")
    assert status["damaged"] == 1, status
    wait_for("another copy", lambda: copies("c1", "c2", "c4")[id] >= 2, 60)

    # Whichever of them is lost now, every file is there.
    victim = max(("c1", "c2"), key=lambda name: len(chunk_files(members, name)))
    left = "c2" if victim == "c1" else "c1"
    members.kill(victim)
    shutil.rmtree(members.data(victim))
    for name in (left, "c4"):
        storage = BlobServiceClient.from_connection_string(members.endpoints(name).connection_string)
        container = storage.get_container_client("data")
        for file, content in files.items():
            assert container.download_blob(file).readall() == content, f"{file} at {name}"
