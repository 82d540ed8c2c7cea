"""Storage through clients other than the Python package: the JavaScript package and rclone."""

import os
import random
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from conftest import new_id

pytestmark = [pytest.mark.once, pytest.mark.timeout(900)]

MIB = 1 << 20
LARGE_MIB = int(os.environ.get("LOTE_LARGE_FILE_MIB", "5120"))
JS = os.environ.get("LOTE_JS")
RCLONE = shutil.which("rclone")

# Of file systems, so without a slash at an end and without `..`.
ODD_NAMES = ["with space", "100%", "%41", "a+b=c&d", "ünï©ode/日本.txt", "q?x#y", "[z]", "deep/" * 60 + "end", "semi;colon,comma"]


@pytest.fixture
def container(blobs):
    with blobs.new_container(new_id("others")) as container:
        yield container


@pytest.fixture
def folder(cluster, tmp_path):
    """On the disk of the cluster's data: a large file needs room."""
    folder = Path(cluster.home) / "others" / tmp_path.name
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)


def sizes():
    """Of the files that every client has to carry: the large one is mostly holes."""
    return {"file-1": 1, "file-mib": MIB - 1, "file-large": LARGE_MIB * MIB}


def make_files(folder: Path) -> None:
    dice = random.Random(7)
    for name, size in sizes().items():
        with open(folder / name, "wb") as file:
            file.truncate(size)
            for at in pieces(size):
                file.seek(at)
                file.write(dice.randbytes(min(MIB, size - at)))


def pieces(size: int) -> list[int]:
    """Where a file has data: at its beginning, at odd places, and at its end."""
    return sorted(at for at in {0, size // 3 + 17, size // 2 + 4097, max(0, size - MIB)} if at < size)


def assert_same(one: Path, other: Path) -> None:
    assert one.stat().st_size == other.stat().st_size
    subprocess.run(["cmp", one, other], check=True)


@pytest.mark.skipif(JS is None, reason="LOTE_JS names no folder with @azure/storage-blob: npm was not there")
def test_the_javascript_package(container, folder):
    make_files(folder)
    # Where Node.js finds the package.
    script = Path(JS) / "blob.mjs"
    shutil.copy(Path(__file__).parent / "js" / "blob.mjs", script)
    environment = {**os.environ, "AZURE_STORAGE_CONNECTION_STRING": container.blobs.endpoints.connection_string}
    done = subprocess.run(
        ["node", script, container.name, folder], env=environment, capture_output=True, text=True, timeout=800
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stderr
    for name in sizes():
        assert_same(folder / name, folder / f"down-{name}")


def rclone(container, *arguments, permissions="rwdlc"):
    """Runs rclone with one remote, which is the container: version 1.60 reaches others than Azure only by a SAS."""
    url = container.url(permissions)
    environment = {
        **os.environ,
        "RCLONE_CONFIG": "/dev/null",
        "RCLONE_CONFIG_LOTE_TYPE": "azureblob",
        "RCLONE_CONFIG_LOTE_SAS_URL": url,
        "NO_PROXY": urlsplit(url).hostname,
    }
    done = subprocess.run(["rclone", *arguments], env=environment, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    return done.stdout


needs_rclone = pytest.mark.skipif(RCLONE is None, reason="rclone is not installed")


@needs_rclone
def test_rclone_copies_and_syncs(container, folder):
    remote = f"lote:{container.name}"
    here, back = folder / "here", folder / "back"
    for name in ODD_NAMES:
        file = here / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    rclone(container, "copy", here, f"{remote}/in")
    assert set(container.names()) == {f"in/{name}" for name in ODD_NAMES}
    assert sorted(rclone(container, "lsf", "-R", "--files-only", f"{remote}/in").splitlines()) == sorted(ODD_NAMES)
    rclone(container, "copy", f"{remote}/in", back)
    for name in ODD_NAMES:
        assert (back / name).read_text() == name
    # Only what changed, and what is gone goes: MD5s are compared.
    (here / "100%").write_text("other")
    (here / "%41").unlink()
    rclone(container, "sync", "--checksum", here, f"{remote}/in")
    assert container.get("in/100%") == b"other" and "in/%41" not in container.names()
    assert "0 differences" in rclone_stderr(container, "check", here, f"{remote}/in")
    # A copy from one place to another of the same remote is one by the server.
    rclone(container, "copyto", f"{remote}/in/a+b=c&d", f"{remote}/moved ü")
    assert container.get("moved ü") == "a+b=c&d".encode()
    assert rclone(container, "cat", f"{remote}/moved ü") == "a+b=c&d"
    rclone(container, "delete", f"{remote}/in")
    assert container.names() == ["moved ü"]


def rclone_stderr(container, *arguments):
    """What rclone says of what it did, which goes to its standard error."""
    log = "--log-file=/dev/stdout"
    return rclone(container, log, *arguments)


@needs_rclone
def test_rclone_carries_files_of_all_sizes(container, folder):
    make_files(folder)
    remote = f"lote:{container.name}"
    rclone(container, "copy", "--include", "file-*", folder, remote)
    for name, size in sizes().items():
        assert container.client.get_blob_client(name).get_blob_properties().size == size
    (folder / "back").mkdir()
    rclone(container, "copy", remote, folder / "back")
    for name in sizes():
        assert_same(folder / name, folder / "back" / name)


def test_the_python_package_carries_files_of_all_sizes(container, folder):
    make_files(folder)
    for name in sizes():
        client = container.client.get_blob_client(name)
        with open(folder / name, "rb") as file:
            client.upload_blob(file, max_concurrency=4)
        with open(folder / f"down-{name}", "wb") as file:
            client.download_blob(max_concurrency=4).readinto(file)
        assert_same(folder / name, folder / f"down-{name}")
