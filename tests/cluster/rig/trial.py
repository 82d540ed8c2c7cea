"""One trial: a job under load on a cluster, whatever the test breaks meanwhile, and the verdict over both histories."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from invariants import (
    assert_none,
    completed_tasks_stay_completed,
    job_completes,
    no_acknowledged_write_lost,
    no_rerun_because_of_a_coordinator,
    one_live_attempt_per_task,
)
from invariants.no_rerun_because_of_a_coordinator import Loss
from invariants.one_live_attempt_per_task import Freeze
from jobs import ready_nodes
from lote_cluster import wait_for
from rig.client import Client
from rig.cluster import OneMachine
from rig.figures import tell
from rig.history import OK, History, Seen
from rig.load import PATIENCE, Load
from rig.tasklog import TaskFolder, TaskLog

POOL, JOB = "trial", "trial"


class Trial:
    """A pool, a job on it, and everything that is known about its tasks."""

    def __init__(self, cluster: OneMachine, folder: Path, nodes: int, slots: int = 2):
        self.cluster = cluster
        self.history = History()
        self.tasks = TaskFolder(folder / "tasks")
        self.losses: list[Loss] = []
        self.freezes: list[Freeze] = []
        self.load: Load | None = None
        with cluster.client.entered():
            self.client = Client("trial", cluster.endpoints(), self.history)
            sdk = self.client.sdk
            sdk.create_pool(sdk.pool(POOL, nodes=nodes, slots=slots))
            ready_nodes(sdk, POOL, nodes)
            sdk.create_job(sdk.job(JOB, POOL))

    # -- work -----------------------------------------------------------------------------------------------------

    def start_load(self, limit: int, **more) -> Load:
        self.load = Load(self.cluster, self.history, self.tasks, JOB, limit=limit, **more).start()
        return self.load

    def add(self, ids: list[str], seconds: float) -> None:
        """Adds these tasks at once."""
        with self.cluster.client.entered():
            tasks = [self.client.sdk.task(id, self.tasks.command(seconds)) for id in ids]
            call = self.client.insist(lambda: self.client.add(JOB, tasks), PATIENCE)
        assert call.outcome == OK, call

    def log(self) -> TaskLog:
        return self.tasks.read(self.cluster.hosts)

    def wait_for_starts(self, count: int, timeout: float = 60.0) -> None:
        """Until the tasks have told of so many starts."""
        wait_for(f"{count} starts", lambda: self.tasks.lines("start") >= count, timeout, interval=0.02)

    # -- the verdict ----------------------------------------------------------------------------------------------

    def listing(self) -> dict[str, Seen]:
        """Every task of the job, asked of whoever answers."""
        with self.cluster.client.entered():
            client = Client("verdict", self.cluster.endpoints(), self.history)
            return client.insist(lambda: client.list(JOB), PATIENCE).seen

    def verdict(self, timeout: float = 120.0) -> str:
        """Ends the load, waits for the job to complete, and checks everything; gives a line of figures."""
        if self.load:
            self.load.stop()
        expected = self.history.acknowledged()
        deadline = time.monotonic() + timeout
        # A job that does not complete is a violation with the names of its tasks, not a time-out.
        while True:
            found = self.listing()
            completed = {id: seen.exit_code for id, seen in found.items() if seen.state == "completed"}
            if set(completed) >= expected or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        certain = {id: code for id, code in completed.items() if id not in self.history.uncertain()}
        log = self.log()
        try:
            assert_none(
                no_acknowledged_write_lost.check(self.history, set(found)),
                completed_tasks_stay_completed.check(self.history),
                one_live_attempt_per_task.check(log, self.freezes),
                no_rerun_because_of_a_coordinator.check(log, self.losses),
                job_completes.check(expected, certain, log),
            )
        except AssertionError:
            self._keep()
            raise
        again = sum(len(attempts) - 1 for attempts in log.repeated().values())
        figures = f"{len(expected)} tasks, {again} attempts repeated for lost hosts; {self.history.summary()}"
        tell(figures)
        return figures

    def _keep(self) -> None:
        """Both histories, where they outlive the run."""
        kept = Path(tempfile.mkdtemp(prefix="lote-histories-"))
        self.history.write(kept / "history.jsonl")
        shutil.copy(self.tasks.path, kept / "tasks.log")
        print(f"the histories are in {kept}; losses {self.losses}; freezes {self.freezes}")
