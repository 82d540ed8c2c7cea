"""A steady load: some clients add tasks in collections, one looks at them all the time.

What the adders add is acknowledged or repeated. The reader lists everything, and asks for tasks that were acknowledged a
moment ago at another endpoint than the one that acknowledged them: what a client can compare with its own writes.
"""

from __future__ import annotations

import random
import threading
import time

from rig.client import Client
from rig.cluster import OneMachine
from rig.history import OK, History
from rig.tasklog import TaskFolder

#: Seconds that a call may stay without an acknowledgement before the load gives up.
PATIENCE = 90.0
#: One read of so many lists everything; the others ask for one task.
LIST_EVERY = 10


class Load:
    """Adds until `stop`, or until there are `limit` tasks."""

    def __init__(
        self,
        cluster: OneMachine,
        history: History,
        tasks: TaskFolder,
        job: str,
        *,
        limit: int,
        seconds: float = 0.2,
        chunk: int = 10,
        pause: float = 0.2,
        adders: int = 2,
        endpoints=None,
    ):
        self.cluster = cluster
        self.history = history
        self.tasks = tasks
        self.job = job
        self.limit = limit
        self.seconds = seconds
        self.chunk = chunk
        self.pause = pause
        self.endpoints = endpoints or cluster.endpoints()
        self.failures: list[BaseException] = []
        self._adding_ends = threading.Event()
        self._reading_ends = threading.Event()
        self._adders = [self._thread(self._add, number, adders) for number in range(adders)]
        self._reader = self._thread(self._read)

    def _thread(self, work, *arguments) -> threading.Thread:
        def run():
            try:
                with self.cluster.client.entered():
                    work(*arguments)
            except BaseException as error:  # shown by the thread that waits for us
                self.failures.append(error)

        return threading.Thread(target=run, daemon=True)

    def start(self) -> "Load":
        for thread in [*self._adders, self._reader]:
            thread.start()
        return self

    def is_adding(self) -> bool:
        return any(thread.is_alive() for thread in self._adders)

    def stop(self, timeout: float = PATIENCE + 30) -> set[str]:
        """Ends the adding and the reading; gives the tasks that were acknowledged, which is all that were begun."""
        self._adding_ends.set()
        self._join(self._adders, timeout)
        self._reading_ends.set()
        self._join([self._reader], timeout)
        return self.history.acknowledged()

    def finish_adding(self, timeout: float) -> None:
        """Waits until `limit` tasks are acknowledged."""
        self._join(self._adders, timeout)

    def _join(self, threads, timeout):
        deadline = time.monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if self.failures:
            raise AssertionError(f"a client failed: {self.failures[0]!r}") from self.failures[0]
        assert not any(thread.is_alive() for thread in threads), f"clients still wait for answers after {timeout:g} s"

    def _add(self, number: int, adders: int) -> None:
        client = Client(f"adder-{number}", self.endpoints, self.history, first=number)
        command = self.tasks.command(self.seconds)
        for first in range(number * self.chunk, self.limit, adders * self.chunk):
            if self._adding_ends.is_set():
                return
            ids = [f"t{n:06}" for n in range(first, min(first + self.chunk, self.limit))]
            tasks = [client.sdk.task(id, command) for id in ids]
            call = client.insist(lambda: client.add(self.job, tasks), PATIENCE)
            assert call.outcome == OK and sorted(call.ids) == ids, f"refused: {call}"
            self._adding_ends.wait(self.pause)

    def _read(self) -> None:
        client = Client("reader", self.endpoints, self.history)
        dice = random.Random(0)
        for turn in range(1_000_000):
            if self._reading_ends.is_set():
                return
            client.use(turn)
            latest = self.history.latest("add", OK)
            if latest and turn % LIST_EVERY:
                client.get(self.job, dice.choice(latest.ids))
            else:
                client.list(self.job)
            self._reading_ends.wait(self.pause)
