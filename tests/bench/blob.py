"""One large blob through HTTP, beside nginx for reading and `dd conv=fsync` for writing.

Reading: a client fetches the blob over a link of so many Mbit/s (network namespaces with `tc tbf`), and the same bytes from
nginx on the same host; then both again with no limit on the link. Writing: Put Blob of fresh random bytes on the host itself,
beside `dd` of the same file on the same disk. Rounds take turns, so that neither always comes first.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from blobs import Blobs, Container
from rig import cli, clock, names, network
from rig.cluster import LoteCluster
from rig.network import Network

MIB = 1024 * 1024
GIB = 1024 * MIB
NGINX = """
worker_processes 1;
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  server {{ listen {address}:8000; root {folder}; }}
}}
"""


def tree(pid: int) -> list[int]:
    """A process and those below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(below for child in children for below in tree(int(child)))]


def cpu(pid: int) -> float:
    """CPU seconds of a process and those below it."""
    ticks = 0
    for one in tree(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


class Memory:
    """How much the resident memory of a process grows above what it is now."""

    def __init__(self, pid: int):
        self.pid = pid
        # The peak begins anew.
        Path(f"/proc/{pid}/clear_refs").write_text("5")
        self.before = self.read("VmRSS")

    def read(self, field: str) -> float:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(rf"{field}:\s+(\d+) kB", status).group(1)) / 1024

    def grown(self) -> float:
        return self.read("VmHWM") - self.before


class Row:
    """Rounds of one way to do it: seconds, and CPU seconds of the server."""

    def __init__(self, pid: int | None):
        self.pid = pid
        self.seconds = []
        self.cpu = []

    def round(self, work) -> None:
        used = cpu(self.pid) if self.pid else 0.0
        begun = clock.now()
        work()
        self.seconds.append(clock.now() - begun)
        self.cpu.append((cpu(self.pid) if self.pid else 0.0) - used)


def fetch(url: str) -> None:
    subprocess.run(["curl", "-fsS", "-o", "/dev/null", url], check=True)


def show(name: str, rows: dict[str, Row], size: int) -> None:
    print(name)
    (baseline, *_) = rows.values()
    for who, row in rows.items():
        seconds = statistics.median(row.seconds)
        rate, of_baseline = size / seconds / MIB, statistics.median(baseline.seconds) / seconds
        used = f"{statistics.median(row.cpu) * GIB / size:>8.2f} CPU s/GiB" if row.pid else ""
        print(f"  {who:8}{seconds:>8.2f} s{rate:>9.0f} MiB/s{of_baseline:>8.3f}x{used}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--mbit", type=float, default=1000.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    lacking = network.lacking() or (None if cli.has_clusters() else "this lote has no `lote init`")
    for tool in ("nginx", "curl"):
        lacking = lacking or (None if shutil.which(tool) else f"it needs {tool}")
    if lacking:
        sys.exit(f"the bench was NOT RUN: {lacking}")
    names.sweep()
    folder = names.temporary_folder() / names.new_prefix()
    folder.mkdir()
    size = arguments.mib * MIB
    print(f"$ blob.py {' '.join(sys.argv[1:])}")
    try:
        with Network() as hosts:
            cluster = LoteCluster(hosts, folder, coordinators=1, workers=0, lease=60)
            cluster.start()
            (coordinator,) = cluster.coordinators.values()
            measure(cluster, coordinator, folder, size, arguments)
    finally:
        names.remove_folder(folder)


def measure(cluster, coordinator, folder, size, arguments) -> None:
    served = folder / "nginx"
    served.mkdir(mode=0o755)
    # nginx gives up root.
    for above in [folder, *folder.parents]:
        if not os.stat(above).st_mode & 0o001:
            above.chmod(above.stat().st_mode | 0o011)
    file = served / "file"
    random_file(file, size)
    file.chmod(0o644)
    config = served / "nginx.conf"
    config.write_text(NGINX.format(folder=served, address=coordinator.host.address))
    with cluster.client.entered():
        blobs = Blobs(cluster.endpoints()[0])
        container = Container(blobs, blobs.service.create_container("bench"))
        with open(file, "rb") as data:
            container.client.upload_blob("file", data, max_concurrency=4)
        url = container.blob_url("file")
    with coordinator.host.entered():
        nginx = subprocess.Popen(["nginx", "-c", config, "-e", served / "error.log"])
    time.sleep(1)
    pid = coordinator.process.pid
    try:
        memory = Memory(pid)
        for limit in (arguments.mbit, None):
            for host in (coordinator.host, cluster.client):
                cluster.network.slow(host, limit) if limit else cluster.network.full_speed(host)
            rows = {"nginx": Row(nginx.pid), "lote": Row(pid)}
            for _ in range(arguments.rounds):
                with cluster.client.entered():
                    rows["nginx"].round(lambda: fetch(f"http://{coordinator.host.address}:8000/file"))
                    rows["lote"].round(lambda: fetch(url))
            link = f"over a link of {limit:g} Mbit/s" if limit else "with no limit on the link"
            show(f"get of {arguments.mib} MiB {link}", rows, size)
        print(f"  resident memory of lote grew by {memory.grown():.0f} MiB")
    finally:
        nginx.terminate()
        nginx.wait()
    memory = Memory(pid)
    rows = {"dd": Row(None), "lote": Row(pid)}
    for number in range(arguments.rounds):
        # Content that is there already would not be written.
        random_file(file, size)
        copy = folder / "copy"
        rows["dd"].round(
            lambda: subprocess.run(
                ["dd", f"if={file}", f"of={copy}", "bs=1M", "conv=fsync", "status=none"], check=True
            )
        )
        copy.unlink()
        with coordinator.host.entered():
            target = container.blob_url(f"put-{number}", "cw")
            header = "x-ms-blob-type: BlockBlob"
            rows["lote"].round(
                lambda: subprocess.run(["curl", "-fsS", "-T", file, "-H", header, target], check=True)
            )
    show(f"put of {arguments.mib} MiB on the host itself", rows, size)
    print(f"  resident memory of lote grew by {memory.grown():.0f} MiB")


def random_file(path: Path, size: int) -> None:
    with open(path, "wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))


if __name__ == "__main__":
    main()
