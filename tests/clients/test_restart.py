"""`lote up` is killed in the middle of a large job, started again on the same folder, and nothing is lost or run twice.

The tasks write what happens to them into a log of their own (`attempt.sh`): one line when an attempt starts and one
when it ends, each a single appended write. An attempt holds a lock for as long as any of its processes lives, so two
live attempts of one task are seen by the second of them, however the clocks stand.
"""

import os
import random
import threading
import time
from collections import defaultdict
from pathlib import Path

import pytest

import sdk as sdk_module
from blobs import Blobs
from conftest import new_id
from jobs import Job, ready_nodes
from lote_cluster import free_ports, wait_for

ROUNDS = int(os.environ.get("LOTE_RESTART_ROUNDS", "2"))
TASKS = 1000
CHUNK = 100

ATTEMPT = """\
#!/bin/sh
# attempt.sh DIR: one attempt of a task. Attempts are counted in a file, so that each has a number.
dir=$1
task=$AZ_BATCH_TASK_ID
exec 9>"$dir/lock.$task"
if ! flock -n 9; then
    echo "overlap $task $$" >> "$dir/log"
fi
echo x >> "$dir/count.$task"
attempt=$(wc -l < "$dir/count.$task")
boot=$(cat /proc/sys/kernel/random/boot_id)
echo "start $task $attempt $boot $(date +%s%N)" >> "$dir/log"
sleep 0.1
echo "end $task $attempt $boot $(date +%s%N)" >> "$dir/log"
"""


class Log:
    """What the tasks wrote."""

    def __init__(self, path: Path):
        self.starts = defaultdict(dict)  # task → attempt → nanoseconds
        self.ends = defaultdict(dict)
        self.overlaps = []
        self.boots = set()
        for line in path.read_text().splitlines():
            kind, task, *rest = line.split()
            if kind == "overlap":
                self.overlaps.append(task)
                continue
            attempt, boot, at = rest
            times = {"start": self.starts, "end": self.ends}[kind][task]
            assert attempt not in times, f"two attempts of {task} have the number {attempt}"
            times[attempt] = int(at)
            self.boots.add(boot)

    def check_no_overlap(self):
        assert self.overlaps == [], f"two live attempts at once: {self.overlaps}"
        for task, starts in self.starts.items():
            order = sorted(starts, key=int)
            for earlier, later in zip(order, order[1:]):
                end = self.ends[task].get(earlier)
                assert end is None or end <= starts[later], f"attempts {earlier} and {later} of {task} overlap"

    def attempts(self) -> int:
        return sum(len(starts) for starts in self.starts.values())


class Adder(threading.Thread):
    """Adds the tasks in requests of a hundred; goes on after a broken connection, as a client would."""

    def __init__(self, client, job, tasks, pause):
        super().__init__(daemon=True)
        self.pause = pause
        self.client = client
        self.job = job
        self.tasks = tasks
        self.acknowledged = []
        self.stopped = threading.Event()
        self.failure = None

    def run(self):
        for first in range(0, len(self.tasks), CHUNK):
            chunk = self.tasks[first : first + CHUNK]
            while True:
                try:
                    results = self.client.create_tasks(self.job, chunk)
                except Exception as error:  # whatever a broken connection looks like in this generation
                    if self.stopped.is_set():
                        self.failure = error
                        return
                    time.sleep(0.2)
                    continue
                self.acknowledged += [result.task_id for result in results]
                time.sleep(self.pause)
                break

    def finish(self, timeout):
        self.join(timeout)
        if self.is_alive():
            self.stopped.set()
            raise AssertionError(f"only {len(self.acknowledged)} tasks were acknowledged after {timeout} s")
        assert self.failure is None, self.failure


def states(client, job):
    return {task.id: task for task in client.list_tasks(job, select=["id", "state", "executionInfo"])}


def completed(client, job):
    return {id: task for id, task in states(client, job).items() if task.state == "completed"}


@pytest.mark.once
@pytest.mark.timeout(300 * ROUNDS)
def test_kill_in_the_middle_of_a_job(own_cluster, tmp_path):
    """As often as LOTE_RESTART_ROUNDS says, on one folder that grows older."""
    cluster = own_cluster("restart", ports=free_ports())
    for round in range(1, ROUNDS + 1):
        directory = tmp_path / f"round{round}"
        directory.mkdir()
        kill_and_go_on(cluster, directory, round)


def kill_and_go_on(cluster, directory, round):
    seed = random.randrange(1 << 32)
    dice = random.Random(seed)
    script = directory / "attempt.sh"
    script.write_text(ATTEMPT)
    log = directory / "log"
    log.touch()

    cluster.start()
    client = sdk_module.load(cluster.endpoints)
    blobs = Blobs(cluster.endpoints)
    pool, job = new_id("pool"), new_id("job")
    client.create_pool(client.pool(pool, nodes=2, slots=4))
    client.create_job(client.job(job, pool))
    store = blobs.service.create_container(new_id("kept"))
    store.upload_blob("before", b"written before the kill")
    tasks = [client.task(f"t{n:04}", f"/bin/sh {script} {directory}") for n in range(TASKS)]
    # Somewhere in the middle: in every other round the tasks are still being added.
    while_adding = round % 2 == 1
    adder = Adder(client, job, tasks, pause=1.0 if while_adding else 0)
    adder.start()
    wanted = dice.randrange(20, 200) if while_adding else dice.randrange(300, 700)
    wait_for(f"{wanted} ended tasks", lambda: log.read_text().count("end ") >= wanted, timeout=120, interval=0.02)
    done_before = completed(client, job)
    acknowledged_before = list(adder.acknowledged)
    store.upload_blob("last", b"written at the last moment")
    cluster.kill()
    starts_before = {id: len(times) for id, times in Log(log).starts.items()}
    time.sleep(dice.uniform(0, 2))

    cluster.start()
    client = sdk_module.load(cluster.endpoints)
    adder.finish(120)
    assert set(acknowledged_before) <= set(adder.acknowledged)

    # Nothing that was acknowledged is missing, and what was completed stays so.
    found = states(client, job)
    assert set(found) == {f"t{n:04}" for n in range(TASKS)}
    for id, task in done_before.items():
        assert found[id].state == "completed", f"{id} was completed before the kill and is {found[id].state}"
        assert found[id].execution_info.end_time == task.execution_info.end_time
    assert store.download_blob("before").readall() == b"written before the kill"
    assert store.download_blob("last").readall() == b"written at the last moment"

    Job(client, job).all_completed(TASKS, timeout=240)
    final = states(client, job)
    failed = {id: task.execution_info.failure_info for id, task in final.items() if task.execution_info.failure_info}
    assert not failed, failed
    assert {task.execution_info.exit_code for task in final.values()} == {0}
    assert {task.execution_info.retry_count for task in final.values()} == {0}
    counts = client.task_counts(job).task_counts
    assert (counts.active, counts.running, counts.succeeded, counts.failed) == (0, 0, TASKS, 0)

    written = Log(log)
    assert set(written.starts) == set(final)
    assert all(written.ends[id] for id in final), "a task is called completed that never ended"
    written.check_no_overlap()
    for id in done_before:
        assert len(written.starts[id]) == starts_before[id], f"{id} ran again after it was completed"
    assert len(written.boots) == 1
    print(
        f"round {round} of {ROUNDS}, seed {seed}: killed after {len(done_before)} completed and "
        f"{len(acknowledged_before)} acknowledged tasks; {written.attempts() - TASKS} attempts more than tasks"
    )

    ready_nodes(client, pool, 2)
    client.delete_job(job)
    client.delete_pool(pool)
    store.delete_container()
    cluster.stop()


@pytest.mark.once
def test_an_orderly_stop_ends_tasks_and_the_next_start_runs_them_again(own_cluster, tmp_path):
    """Stopping is no fault of the task: it is not counted as a retry."""
    cluster = own_cluster("stop", ports=free_ports())
    cluster.start()
    client = sdk_module.load(cluster.endpoints)
    pool, id = new_id("pool"), new_id("job")
    client.create_pool(client.pool(pool, nodes=2))
    client.create_job(client.job(id, pool))
    job = Job(client, id)
    job.add("/bin/echo done", id="done")
    job.completed("done")
    gate = tmp_path / "gate"
    job.add_shell(f"echo x >> {tmp_path}/runs; while [ ! -e {gate} ]; do sleep 0.05; done; echo end", id="long")
    job.in_state("long", "running")
    wait_for("the first run", lambda: (tmp_path / "runs").exists())
    before = client.get_task(id, "done")
    cluster.stop()  # it also looks that no process is left

    gate.touch()
    cluster.start()
    client = sdk_module.load(cluster.endpoints)
    job = Job(client, id)
    ready_nodes(client, pool, 2)
    task = job.completed("long")
    assert job.succeeded(task) == "end\n"
    assert task.execution_info.retry_count == 0
    assert (tmp_path / "runs").read_text() == "x\nx\n"
    after = client.get_task(id, "done")
    assert after.execution_info.end_time == before.execution_info.end_time
    assert client.etag(after) == client.etag(before)
    assert job.stdout("done") == "done\n"
    cluster.stop()


@pytest.mark.once
def test_tasks_run_on_while_the_service_is_away(own_cluster, tmp_path):
    """A killed `lote up` finds its running tasks again; they are neither ended nor started a second time."""
    cluster = own_cluster("away", ports=free_ports())
    cluster.start()
    client = sdk_module.load(cluster.endpoints)
    pool, id = new_id("pool"), new_id("job")
    client.create_pool(client.pool(pool, nodes=1))
    client.create_job(client.job(id, pool))
    job = Job(client, id)
    gate = tmp_path / "gate"
    script = f"echo $$ >> {tmp_path}/pids; while [ ! -e {gate} ]; do sleep 0.05; done; echo end"
    job.add_shell(script, id="long")
    job.in_state("long", "running")
    pid = wait_for("the process", lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text().strip())
    cluster.kill()
    time.sleep(1)
    assert Path(f"/proc/{pid}").exists(), "the task died with the service"
    cluster.start()
    client = sdk_module.load(cluster.endpoints)
    job = Job(client, id)
    assert job.in_state("long", "running").execution_info.requeue_count == 0
    gate.touch()
    assert job.succeeded(job.completed("long")) == "end\n"
    assert (tmp_path / "pids").read_text() == f"{pid}\n"
    cluster.stop()
