"""How fast tasks are dispatched: `true` on two slots, beside `xargs -P2` in the same run.

Prints tasks per second, and CPU per task of everything that is not the client: `lote up`, its keepers and the tasks
themselves. Both runs do the same number of tasks on an otherwise idle machine; `--repeat` shows the spread.

On ext4 a freshly freed inode is not handed out again for half a minute, and looking past many of them takes longer than
the rest of a task: after a large deletion the figures speak of the disk. `TMPDIR=/dev/shm` leaves it out.
"""

import argparse
import os
import resource
import subprocess
import time
from pathlib import Path

import sdk as sdk_module
from jobs import ready_nodes
from lote_cluster import Cluster, wait_for
from raw import RawBatch

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_of(pids) -> float:
    """CPU seconds of these processes and of every child they have waited for."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += sum(int(field) for field in fields[11:15])  # utime, stime, and both of reaped children
    return total / TICKS


def xargs(count):
    """The baseline: (seconds, CPU seconds)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.monotonic()
    numbers = "\n".join(str(n) for n in range(count))
    subprocess.run(["xargs", "-P2", "-n1", "true"], input=numbers, text=True, check=True)
    seconds = time.monotonic() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def lote(cluster, client, raw, pool, job, count):
    """(seconds from the first request to the last completed task, CPU seconds)."""
    client.create_job(client.job(job, pool))
    service = list(cluster.processes())
    before = cpu_of(service)
    begun = time.monotonic()
    for first in range(0, count, 100):
        tasks = [{"id": f"t{n}", "commandLine": "true"} for n in range(first, min(first + 100, count))]
        raw.send("POST", f"/jobs/{job}/addtaskcollection", body={"value": tasks}).expect(200)

    def done():
        counts = raw.send("GET", f"/jobs/{job}/taskcounts").expect(200).json()["taskCounts"]
        assert counts["failed"] == 0, counts
        return counts["succeeded"] == count

    wait_for("the end of all tasks", done, timeout=600, interval=0.02)
    seconds = time.monotonic() - begun
    cpu = cpu_of(service) - before
    client.delete_job(job)
    return seconds, cpu


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    cluster = Cluster("bench", workers=1)
    try:
        cluster.start()
        client = sdk_module.load(cluster.endpoints)
        raw = RawBatch(cluster.endpoints)
        client.create_pool(client.pool("bench", nodes=1, slots=2))
        ready_nodes(client, "bench", 1)
        lote(cluster, client, raw, "bench", "warm-up", 200)
        print(f"{arguments.tasks} × true on two slots; {os.cpu_count()} cores")
        print(f"{'':10}{'tasks/s':>10}{'µs CPU/task':>14}")
        for turn in range(arguments.repeat):
            for name, (seconds, cpu) in [
                ("xargs -P2", xargs(arguments.tasks)),
                ("lote", lote(cluster, client, raw, "bench", f"run-{turn}", arguments.tasks)),
            ]:
                rate, per_task = arguments.tasks / seconds, cpu / arguments.tasks * 1e6
                print(f"{name:10}{rate:10.0f}{per_task:14.0f}", flush=True)
        cluster.stop()
    finally:
        cluster.remove()


if __name__ == "__main__":
    main()
