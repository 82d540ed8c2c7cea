"""The command line of Azure, as it is: `az batch` and `az storage`. Runs where LOTE_AZ names an `az`; it has 700 MB."""

import json
import os
import subprocess

import pytest

from conftest import new_id
from lote_cluster import wait_for

AZ = os.environ.get("LOTE_AZ")

pytestmark = [
    pytest.mark.once,
    pytest.mark.timeout(600),
    pytest.mark.skipif(AZ is None, reason="LOTE_AZ names no az (pip install azure-cli)"),
]


@pytest.fixture
def az(cluster, tmp_path):
    """Runs `az` on the cluster, with what `lote.env` says and nothing else; gives what it printed."""
    endpoints = cluster.endpoints
    environment = {
        **os.environ,
        **{name: getattr(endpoints, field) for field, name in endpoints.NAMES.items()},
        "AZURE_CONFIG_DIR": str(tmp_path / "az"),
        "AZURE_CORE_COLLECT_TELEMETRY": "false",
        "NO_PROXY": "127.0.0.1",
    }

    def run(command, *more, expect=0):
        words = [AZ, *command.split(), *more]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == expect, done.stderr
        return json.loads(done.stdout) if done.stdout.strip() else done.stderr

    return run


def test_az_batch(az, tmp_path):
    pool, job = new_id("az-pool"), new_id("az-job")
    image = "canonical:0001-com-ubuntu-server-jammy:22_04-lts"
    agent = ["--node-agent-sku-id", "batch.node.ubuntu 22.04"]
    az(f"batch pool create --id {pool} --vm-size standard_a1_v2 --image {image} --target-dedicated-nodes 1", *agent)
    assert pool in [one["id"] for one in az("batch pool list")]
    az(f"batch job create --id {job} --pool-id {pool}")
    az(f"batch task create --job-id {job} --task-id t", "--command-line", "/bin/echo hello")
    show = f"batch task show --job-id {job} --task-id t"
    wait_for("the task to end", lambda: az(show)["state"] == "completed", 60)
    assert az(show)["executionInfo"]["exitCode"] == 0
    files = f"--job-id {job} --task-id t"
    assert "stdout.txt" in [one["name"] for one in az(f"batch task file list {files}")]
    az(f"batch task file download {files} --file-path stdout.txt --destination {tmp_path / 'out'}")
    assert (tmp_path / "out").read_text() == "hello\n"
    assert [node["state"] for node in az(f"batch node list --pool-id {pool}")] == ["idle"]
    az(f"batch pool resize --pool-id {pool} --target-dedicated-nodes 0")
    az(f"batch job stop --job-id {job}")
    az(f"batch job delete --job-id {job} --yes")
    az(f"batch pool delete --pool-id {pool} --yes")
    assert "JobNotFound" in az("batch job show --job-id none", expect=3)


def test_az_storage(az, container, tmp_path):
    name = container.name
    data = os.urandom(3_000_000)
    (tmp_path / "up" / "sub").mkdir(parents=True)
    (tmp_path / "up" / "a.bin").write_bytes(data)
    (tmp_path / "up" / "sub" / "b +ü.txt").write_text("b")
    here = f"-c {name}"
    az(f"storage blob upload {here} -f {tmp_path / 'up' / 'a.bin'} --no-progress -n", "dir/f 3+é")
    az(f"storage blob download {here} -f {tmp_path / 'down'} --no-progress -n", "dir/f 3+é")
    assert (tmp_path / "down").read_bytes() == data
    az(f"storage blob upload-batch -d {name} -s {tmp_path / 'up'} --destination-path up --no-progress")
    assert container.names() == ["dir/f 3+é", "up/a.bin", "up/sub/b +ü.txt"]
    (tmp_path / "back").mkdir()
    az(f"storage blob download-batch -d {tmp_path / 'back'} -s {name} --no-progress --pattern", "up/sub/*")
    assert (tmp_path / "back" / "up" / "sub" / "b +ü.txt").read_text() == "b"
    source = ["--source-blob", "dir/f 3+é"]
    az(f"storage blob copy start --destination-container {name} --destination-blob copied --source-container {name}", *source)
    assert az(f"storage blob show {here} -n copied")["properties"]["copy"]["status"] == "success"
    assert container.get("copied") == data
    az(f"storage blob metadata update {here} -n copied --metadata k=v")
    assert az(f"storage blob metadata show {here} -n copied") == {"k": "v"}
    az(f"storage container policy create {here} -n reader --permissions rl --expiry 2040-01-01")
    assert az(f"storage container policy list {here}")["reader"]["permission"] == "rl"
    az(f"storage blob delete-batch -s {name} --pattern", "up/*")
    assert container.names() == ["copied", "dir/f 3+é"]
    assert az(f"storage blob exists {here} -n up/a.bin") == {"exists": False}
    az(f"storage blob upload {here} -f {tmp_path / 'up' / 'a.bin'} -n log -t append --no-progress")
    assert container.get("log") == data
