"""The leader of three coordinators is killed again and again: how long until the next write, and the next task start?

The coordinators, workers and clients are hosts of the cluster rig (`tests/cluster`), so a killed leader's connections
break as they would between machines. After each kill the same coordinator is started again, and has caught up before the
next. Two figures per kill, both from the moment of the kill:

- next accepted write: the end of the first write that was begun after the kill and acknowledged, by a client that adds a
  task every 20 ms and goes to the next coordinator when one refuses;
- next task start: the end of the silence among the tasks' own start marks. Not simply the next mark, for hosts have
  tasks in hand that they start without any leader.
"""

import argparse
import math
import os
import sys
import threading
import time

from jobs import ready_nodes
from lote_cluster import wait_for
from raw import RawBatch
from rig import cli, clock, names, network
from rig.client import connect
from rig.cluster import LoteCluster
from rig.network import Network

#: What other systems take, as issue 3 tells it: measured on such a machine, and Slurm's default.
REFERENCES = "for comparison: etcd 0.995 s on such a machine; Slurm's backup controller waits 120 s"
#: Seconds after a kill that are looked at.
WINDOW = 10.0
#: Seconds for which a host may have tasks in hand.
HELD = 0.5


class Writer(threading.Thread):
    """Adds a task every 20 ms to a job that never runs; keeps when each acknowledged write began and ended."""

    def __init__(self, cluster, job):
        super().__init__(daemon=True)
        self.cluster = cluster
        self.clients = [RawBatch(endpoints) for endpoints in cluster.endpoints()]
        self.job = job
        self.written: list[tuple[float, float]] = []
        self.ended = threading.Event()

    def run(self):
        at = 0
        with self.cluster.client.entered():
            for number in range(1_000_000):
                if self.ended.wait(0.02):
                    return
                begun = clock.now()
                body = {"id": f"w{number}", "commandLine": "true"}
                try:
                    status = self.clients[at].send("POST", f"/jobs/{self.job}/tasks", body=body).status
                except OSError:
                    status = None
                if status == 201:
                    self.written.append((begun, clock.now()))
                else:
                    at = (at + 1) % len(self.clients)


def add_tasks(cluster, job, count, command):
    with cluster.client.entered():
        raw = RawBatch(cluster.endpoints()[0])
        for first in range(0, count, 100):
            tasks = [{"id": f"t{n}", "commandLine": command} for n in range(first, min(first + 100, count))]
            raw.send("POST", f"/jobs/{job}/addtaskcollection", body={"value": tasks}).expect(200)


def next_write(writer, kill):
    """Seconds from the kill to the end of the first acknowledged write that was begun after it."""
    written = list(writer.written)
    return min((end - kill for begun, end in written if begun >= kill), default=math.inf)


def after_the_silence(marks, kill):
    """Seconds from the kill to the end of the longest silence that began with it, or within `HELD` of it.

    If that is no longer than the longest one in as much time before the kill, the kill has made no silence at all, and
    the next mark counts.
    """
    before = sorted(mark for mark in marks if kill - WINDOW / 2 <= mark <= kill)
    after = sorted(mark for mark in marks if kill < mark <= kill + WINDOW)
    if not after:
        return math.inf
    usual = max((later - earlier for earlier, later in zip(before, before[1:])), default=0.0)
    edges = [kill, *after]
    silences = [(later - earlier, later) for earlier, later in zip(edges, edges[1:]) if earlier <= kill + HELD]
    length, end = max(silences)
    return (end if length > usual else after[0]) - kill


def percentile(values, share):
    """The smallest value that this share of them does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def measure(cluster, folder, arguments):
    """(seconds to the next write, seconds to the next start, elections beyond one a kill)"""
    marks = folder / "marks"
    marks.touch()
    script = folder / "mark.sh"
    script.write_text(f"read -r up rest < /proc/uptime\necho $up >> {marks}\nexec sleep {arguments.seconds}\n")
    with cluster.client.entered():
        sdk = connect(cluster.endpoints()[0])
        sdk.create_pool(sdk.pool("bench", nodes=arguments.workers, slots=4))
        sdk.create_pool(sdk.pool("none", nodes=0))
        ready_nodes(sdk, "bench", arguments.workers)
        sdk.create_job(sdk.job("bench", "bench"))
        sdk.create_job(sdk.job("writes", "none"))
    add_tasks(cluster, "bench", arguments.tasks, f"/bin/sh {script}")
    writer = Writer(cluster, "writes")
    writer.start()

    def starts():
        return [float(line) for line in marks.read_text().split()]

    wait_for("tasks to start", lambda: len(starts()) > 20, 60)
    wait_for("writes", lambda: len(writer.written) > 20, 60)
    kills = []
    first_term = cli.term(cluster.leader().status())
    for number in range(arguments.kills):
        leader = cluster.leader()
        kills.append(clock.now())
        leader.kill()
        time.sleep(WINDOW / 2)
        leader.start()
        leader.wait_until_ready()
        time.sleep(WINDOW / 2)
        write, start = next_write(writer, kills[-1]), after_the_silence(starts(), kills[-1])
        print(f"kill {number + 1}: {leader}, next write {write:.3f} s, next start {start:.3f} s", flush=True)
    terms = cli.term(cluster.leader().status()) - first_term
    writer.ended.set()
    writer.join(60)
    seen = starts()
    assert len(seen) < arguments.tasks, "the queue ran empty; give it more with --tasks"
    writes = [next_write(writer, kill) for kill in kills]
    return writes, [after_the_silence(seen, kill) for kill in kills], terms - len(kills)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.1, help="how long a task lasts")
    arguments = parser.parse_args()
    lacking = network.lacking() or (None if cli.has_clusters() else "this lote has no `lote init`")
    if lacking:
        sys.exit(f"the bench was NOT RUN: {lacking}")
    names.sweep()
    folder = names.temporary_folder() / names.new_prefix()
    folder.mkdir()
    try:
        with Network() as hosts:
            # A lease far longer than a failover: no host is to be lost by it.
            cluster = LoteCluster(hosts, folder, coordinators=3, workers=arguments.workers, lease=30)
            cluster.start()
            writes, starts, more = measure(cluster, folder, arguments)
    finally:
        names.remove_folder(folder)
    print(f"{arguments.kills} kills of the leader of 3, {arguments.tasks} tasks queued, {os.cpu_count()} cores")
    print(f"{'from the kill to the':24}{'p50':>10}{'p99':>10}{'longest':>10}")
    for name, values in [("next accepted write", writes), ("next task start", starts)]:
        shown = [percentile(values, 0.5), percentile(values, 0.99), max(values)]
        print(f"{name:24}" + "".join(f"{value:8.3f} s" for value in shown))
    print(f"elections beyond one a kill: {more}")
    print(REFERENCES)


if __name__ == "__main__":
    main()
