"""One file to many hosts: how long until the last of them has it, beside the floor and beside plain HTTP?

A coordinator holds the file and every host has a link of so many Mbit/s, both ways (network namespaces with `tc tbf`). As
many tasks as hosts need the file, one on each, and say when they start. The floor is the file's bits over one link. The
baselines are what one would do without: every host gets the file from one HTTP server on the coordinator's host; or by
BitTorrent, with aria2 if that is here, from a seed on the coordinator's host.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from blobs import Blobs, Container
from jobs import ready_nodes
from lote_cluster import wait_for
from rig import cli, clock, names, network
from rig.client import connect
from rig.cluster import LoteCluster
from rig.network import Network
from torrent import write_torrent

MIB = 1024 * 1024
#: Seconds that a run may take before it is given up.
PATIENCE = 300
SERVER = "import http.server, functools, sys\n" \
    "handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[2])\n" \
    "http.server.ThreadingHTTPServer((sys.argv[1], 8000), handler).serve_forever()\n"


def sent(host) -> int:
    """Bytes that a host has sent, frames included."""
    (link,) = json.loads(host.ip("-json", "-statistics", "link", "show", "eth0"))
    return link["stats64"]["tx"]["bytes"]


def cpu(member) -> float:
    """CPU seconds of a member's process; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{member.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Bench:
    def __init__(self, cluster, folder, arguments):
        self.cluster = cluster
        self.arguments = arguments
        self.folder = folder
        self.marks = folder / "marks"
        self.marks.touch()
        script = folder / "mark.sh"
        script.write_text(f"read -r up rest < /proc/uptime\necho $up $(readlink /proc/self/ns/net) >> {self.marks}\n")
        self.command = f"/bin/sh {script}"
        (self.coordinator,) = cluster.coordinators.values()
        self.workers = list(cluster.workers.values())
        with cluster.client.entered():
            self.sdk = connect(cluster.endpoints()[0])
            self.sdk.create_pool(self.sdk.pool("bench", nodes=arguments.hosts, slots=1))
            ready_nodes(self.sdk, "bench", arguments.hosts)
            self.sdk.create_job(self.sdk.job("bench", "bench"))

    def seen(self) -> dict[int, float]:
        """When the task on each host has started, by the host's namespace."""
        lines = [line.split() for line in self.marks.read_text().splitlines()]
        return {int(inode[5:-1]): float(up) for up, inode in lines}

    def run(self) -> tuple[float, int, float]:
        """Seconds until the last host that lives has the file; bytes that the coordinator sent; CPU seconds."""
        with self.cluster.client.entered():
            container = Blobs(self.cluster.endpoints()[0]).service.create_container("bench")
            blobs = Blobs(self.cluster.endpoints()[0])
            if self.arguments.small:
                for number in range(self.arguments.small):
                    container.upload_blob(f"part/{number:05}", os.urandom(100 * 1024))
            else:
                container.upload_blob("file", os.urandom(self.arguments.mib * MIB))
        self.limit()
        before, used = sent(self.coordinator.host), sum(map(cpu, [self.coordinator, *self.workers]))
        with self.cluster.client.entered():
            begun = clock.now()
            self.add_tasks(blobs, container)
        expected = {worker.host.inode for worker in self.workers}
        if self.arguments.kill_host:
            victim = self.workers[self.arguments.hosts // 2]
            time.sleep(max(0.0, begun + self.floor() * self.arguments.kill_host / 100 - clock.now()))
            victim.crash()
            expected.discard(victim.host.inode)
        if self.arguments.kill_seed:
            wait_for("all chunks to be out", self.is_all_out, PATIENCE, interval=0.005)
            print(f"the coordinator dies {clock.now() - begun:.2f} s after the begin, {len(self.seen())} hosts are done")
            self.coordinator.kill()
        wait_for("every host to have the file", lambda: expected <= set(self.seen()), PATIENCE, interval=0.05)
        took = max(at for inode, at in self.seen().items() if inode in expected) - begun
        used = sum(map(cpu, [self.coordinator, *self.workers])) - used
        return took, sent(self.coordinator.host) - before, used

    def add_tasks(self, blobs, container) -> None:
        one = Container(blobs, container)
        if self.arguments.small:
            files = [self.sdk.resource_file(storage_container_url=one.url("rl"), blob_prefix="part/")]
        else:
            files = [self.sdk.resource_file(http_url=one.blob_url("file"), file_path="file")]
        tasks = [
            self.sdk.task(f"t{number}", self.command, resource_files=files) for number in range(self.arguments.hosts)
        ]
        self.sdk.create_tasks("bench", tasks)

    def is_all_out(self) -> bool:
        """Whether a host holds all of the file, which is laid down while it comes."""
        files = self.folder.glob("w*/nodes/*/root/workitems/bench/job-1/*/wd/file")
        return any(file.stat().st_size >= self.arguments.mib * MIB for file in files)

    def floor(self) -> float:
        """The file's bits over one link."""
        size = self.arguments.small * 100 * 1024 if self.arguments.small else self.arguments.mib * MIB
        return size * 8 / (self.arguments.mbit * 1e6)

    def limit(self) -> None:
        for member in [self.coordinator, *self.workers]:
            self.cluster.network.slow(member.host, self.arguments.mbit)

    def http(self) -> tuple[float, float]:
        """The same file to the same hosts from one HTTP server: seconds, and CPU seconds of server and clients."""
        with tempfile.TemporaryDirectory() as served:
            with open(Path(served) / "file", "wb") as file:
                file.write(os.urandom(self.arguments.mib * MIB))
            before = os.times()
            with self.coordinator.host.entered():
                command = [sys.executable, "-c", SERVER, self.coordinator.host.address, served]
                server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            try:
                time.sleep(1)
                begun = clock.now()
                getters = []
                for worker in self.workers:
                    with worker.host.entered():
                        url = f"http://{self.coordinator.host.address}:8000/file"
                        getters.append(subprocess.Popen(["curl", "-sS", "-o", "/dev/null", url]))
                assert [getter.wait() for getter in getters] == [0] * len(getters)
                took = clock.now() - begun
            finally:
                server.kill()
                server.wait()
            after = os.times()
        used = after.children_user + after.children_system - before.children_user - before.children_system
        return took, used

    def aria2(self) -> tuple[float, int, float]:
        """The same by BitTorrent: seconds, bytes that the seed sent, CPU seconds."""
        folder = self.folder / "aria2"
        (folder / "seed").mkdir(parents=True)
        file, torrent = folder / "seed" / "file", folder / "file.torrent"
        with open(file, "wb") as data:
            for _ in range(self.arguments.mib):
                data.write(os.urandom(MIB))
        seed = self.coordinator.host
        write_torrent(file, torrent, f"http://{seed.address}:6969/announce")
        marks = folder / "marks"
        marks.touch()
        done = folder / "done.sh"
        done.write_text(f"#!/bin/sh\nread -r up rest < /proc/uptime\necho $up $(readlink /proc/self/ns/net) >> {marks}\n")
        done.chmod(0o755)
        common = ["aria2c", "--quiet", "--no-conf", "--seed-ratio=0.0", "--enable-dht=false", "--file-allocation=none"]
        common += ["--bt-tracker-interval=1", "--listen-port=6881", "--bt-max-peers=0", "--max-upload-limit=0"]
        running = []
        before, used = sent(seed), os.times()
        try:
            with seed.entered():
                tracker = [sys.executable, Path(__file__).parent / "torrent.py", seed.address]
                running.append(subprocess.Popen(tracker))
                time.sleep(1)
                running.append(subprocess.Popen([*common, "-V", f"--dir={file.parent}", torrent]))
            time.sleep(3)
            begun = clock.now()
            for number, worker in enumerate(self.workers):
                with worker.host.entered():
                    into = [f"--dir={folder / str(number)}", f"--on-bt-download-complete={done}"]
                    running.append(subprocess.Popen([*common, *into, torrent]))
            ends = lambda: marks.read_text().splitlines()
            wait_for("every host to have the file", lambda: len(ends()) == len(self.workers), PATIENCE, interval=0.05)
            took = max(float(line.split()[0]) for line in ends()) - begun
            out = sent(seed) - before
        finally:
            for process in running:
                process.kill()
                process.wait()
        after = os.times()
        spent = after.children_user + after.children_system - used.children_user - used.children_system
        return took, out, spent


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=8)
    parser.add_argument("--mib", type=int, default=100)
    parser.add_argument("--mbit", type=float, default=100.0)
    parser.add_argument("--kill-host", type=float, metavar="PERCENT", help="a host dies at this part of the floor")
    parser.add_argument("--kill-seed", action="store_true", help="the coordinator dies once another host holds all of it")
    parser.add_argument("--small", type=int, metavar="FILES", help="so many files of 100 KiB instead")
    parser.add_argument("--no-http", action="store_true", help="without the baselines")
    arguments = parser.parse_args()
    lacking = network.lacking() or (None if cli.has_clusters() else "this lote has no `lote init`")
    if lacking:
        sys.exit(f"the bench was NOT RUN: {lacking}")
    names.sweep()
    folder = names.temporary_folder() / names.new_prefix()
    folder.mkdir()
    try:
        with Network() as hosts:
            cluster = LoteCluster(hosts, folder, coordinators=1, workers=arguments.hosts, lease=60, cores=1)
            cluster.start()
            bench = Bench(cluster, folder, arguments)
            took, seed, used = bench.run()
            http = aria2 = None
            if not (arguments.no_http or arguments.small or arguments.kill_host or arguments.kill_seed):
                http = bench.http()
                aria2 = bench.aria2() if shutil.which("aria2c") else None
    finally:
        names.remove_folder(folder)
    floor = bench.floor()
    size = floor * arguments.mbit * 1e6 / 8
    print(f"$ distribute.py {' '.join(sys.argv[1:])}")
    print(f"{size / MIB:.0f} MiB to {arguments.hosts} hosts at {arguments.mbit:g} Mbit/s: floor {floor:.2f} s")
    print(f"{'':8}{'last host':>12}{'of the floor':>14}{'seed sent':>12}{'CPU':>10}")
    print(f"{'lote':8}{took:>10.2f} s{took / floor:>13.2f}x{seed / size:>11.2f}x{used:>8.1f} s")
    if aria2:
        print(f"{'aria2':8}{aria2[0]:>10.2f} s{aria2[0] / floor:>13.2f}x{aria2[1] / size:>11.2f}x{aria2[2]:>8.1f} s")
    if http:
        print(f"{'HTTP':8}{http[0]:>10.2f} s{http[0] / floor:>13.2f}x{arguments.hosts:>10d}.0x{http[1]:>8.1f} s")


if __name__ == "__main__":
    main()
