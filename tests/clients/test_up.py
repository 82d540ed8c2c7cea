"""`lote up` itself: what it writes, and the errors of somebody who starts it wrongly."""

import re
import socket
import subprocess

import pytest

from lote_cluster import binary, free_ports
from raw import RawBatch

pytestmark = pytest.mark.once


def run(*arguments, timeout=30):
    """Runs `lote` to its end; gives the exit code and everything it said."""
    done = subprocess.run(
        [str(binary()), *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=timeout, text=True,
    )  # fmt: skip
    assert "panicked" not in done.stdout, done.stdout
    return done.returncode, done.stdout


def test_lote_env(cluster):
    endpoints = cluster.endpoints
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", endpoints.batch_url)
    assert re.fullmatch(rf"http://127\.0\.0\.1:\d+/{endpoints.storage_account}", endpoints.blob_url)
    assert f"BlobEndpoint={endpoints.blob_url}" in endpoints.connection_string
    assert f"AccountName={endpoints.storage_account};" in endpoints.connection_string
    assert (cluster.data_dir / "lote.env").stat().st_mode & 0o077 == 0, "the keys are readable by others"
    # A shell can read it.
    seen = subprocess.run(
        ["/bin/sh", "-c", f". {cluster.data_dir}/lote.env; echo $AZURE_BATCH_ENDPOINT"], capture_output=True, text=True
    )
    assert seen.stdout.strip() == endpoints.batch_url
    assert endpoints.batch_url in cluster.log.read_text()


def test_a_second_up_on_the_same_folder(cluster, raw):
    ports = [f"--{name}-port=0" for name in ("batch", "blob", "p2p")]
    code, said = run("up", "--data-dir", str(cluster.data_dir), *ports)
    assert code != 0
    assert str(cluster.data_dir) in said
    raw.send("GET", "/pools").expect(200)


def test_a_port_that_is_taken(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        others = free_ports()
        code, said = run(
            "up", "--data-dir", str(tmp_path / "d"), f"--batch-port={port}", f"--blob-port={others['blob']}",
            f"--p2p-port={others['p2p']}",
        )  # fmt: skip
    assert code != 0
    assert str(port) in said
    assert not (tmp_path / "d" / "lote.env").exists()


def test_a_folder_that_cannot_be_one(tmp_path):
    file = tmp_path / "file"
    file.write_text("not a folder")
    code, said = run("up", "--data-dir", str(file), "--batch-port=0", "--blob-port=0", "--p2p-port=0")
    assert code != 0
    assert str(file) in said
    assert file.read_text() == "not a folder"


def test_unknown_arguments():
    code, said = run("up", "--no-such-flag")
    assert code != 0 and "--no-such-flag" in said
    code, said = run("--help")
    assert code == 0 and "up" in said and "demo" in said and "status" in said


def test_two_clusters_side_by_side(cluster, own_cluster):
    other = own_cluster("second", workers=1)
    endpoints = other.start()
    assert endpoints.batch_url != cluster.endpoints.batch_url
    assert endpoints.batch_key != cluster.endpoints.batch_key
    raw = RawBatch(endpoints)
    raw.send("GET", "/pools").expect(200)
    raw.send("GET", "/pools", key=cluster.endpoints.batch_key).expect(403, "AuthenticationFailed")
    other.stop()
