"""Shorthand for what nearly every test does with a job, its tasks and its nodes."""

from __future__ import annotations

import itertools

from lote_cluster import wait_for


class Job:
    """A job and the SDK to look at it with."""

    def __init__(self, sdk, id: str):
        self.sdk = sdk
        self.id = id
        self._numbers = itertools.count(1)

    def add(self, command_line: str, id: str | None = None, **members) -> str:
        """Adds one task and gives its id."""
        id = id or f"t{next(self._numbers)}"
        self.sdk.create_task(self.id, self.sdk.task(id, command_line, **members))
        return id

    def add_shell(self, script: str, id: str | None = None, **members) -> str:
        return self.add(shell(script), id, **members)

    def run(self, command_line: str, timeout: float = 30, **members):
        """Adds one task and waits for its end; gives the completed task."""
        return self.completed(self.add(command_line, **members), timeout)

    def run_shell(self, script: str, timeout: float = 30, **members):
        return self.run(shell(script), timeout, **members)

    def task(self, id: str):
        return self.sdk.get_task(self.id, id)

    def in_state(self, id: str, state: str, timeout: float = 30):
        """The task once it is in this state."""
        seen = []

        def look():
            task = self.task(id)
            seen[:] = [task]
            return task if task.state == state else None

        try:
            return wait_for(f"task {id} to be {state}", look, timeout, interval=0.05)
        except AssertionError as error:
            info = seen[0].execution_info if seen else None
            raise AssertionError(f"{error}; state {seen and seen[0].state}, execution info {info}") from None

    def completed(self, id: str, timeout: float = 30):
        return self.in_state(id, "completed", timeout)

    def all_completed(self, count: int, timeout: float = 60) -> list:
        """Every task of the job once `count` of them are completed."""

        def look():
            tasks = self.sdk.list_tasks(self.id)
            done = [task for task in tasks if task.state == "completed"]
            return tasks if len(done) >= count else None

        return wait_for(f"{count} completed tasks", look, timeout, interval=0.25)

    def read(self, id: str, path: str = "stdout.txt", **more) -> bytes:
        return self.sdk.read_task_file(self.id, id, path, **more)

    def stdout(self, id: str) -> str:
        return self.read(id).decode()

    def stderr(self, id: str) -> str:
        return self.read(id, "stderr.txt").decode()

    def succeeded(self, task) -> str:
        """Checks that a completed task was a success and gives what it printed."""
        info = task.execution_info
        if info.result != "success" or info.exit_code != 0 or info.failure_info is not None:
            printed = self.stderr(task.id) if info.exit_code is not None else "(it did not run)"
            raise AssertionError(f"task {task.id} failed: {describe(task)}; on stderr: {printed}")
        return self.stdout(task.id)


def shell(script: str) -> str:
    """A command line that runs the script; the script has no single quotes."""
    assert "'" not in script, script
    return f"/bin/sh -c '{script}'"


def describe(task) -> str:
    info = task.execution_info
    failure = info.failure_info
    details = {item.name: item.value for item in (failure.details or [])} if failure else {}
    said = f"{failure.category} {failure.code} {failure.message} {details}" if failure else "no failureInfo"
    return f"exit code {info.exit_code}, {said}"


def failure_of(task, code: str, category: str = "usererror") -> dict[str, str]:
    """Checks that a completed task failed with this code; gives the details."""
    info = task.execution_info
    assert info.result == "failure", describe(task)
    assert info.failure_info is not None, describe(task)
    assert (info.failure_info.code, info.failure_info.category) == (code, category), describe(task)
    return {item.name: item.value for item in info.failure_info.details or []}


def ready_nodes(sdk, pool_id: str, count: int, timeout: float = 60) -> list:
    """The nodes of a pool once it is steady and this many of them are idle or running."""

    def look():
        pool = sdk.get_pool(pool_id)
        if pool.resize_errors:
            problems = [(error.code, error.message) for error in pool.resize_errors]
            raise AssertionError(f"pool {pool_id} has resize errors: {problems}")
        nodes = sdk.list_nodes(pool_id)
        ready = [node for node in nodes if node.state in ("idle", "running")]
        return ready if pool.allocation_state == "steady" and len(ready) == count else None

    return wait_for(f"{count} ready nodes in pool {pool_id}", look, timeout)


def names_and_values(items) -> dict[str, str]:
    return {item.name: item.value for item in items or []}
