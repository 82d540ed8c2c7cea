"""A client that knows several endpoints, uses one until it fails, and writes every call into the history.

It is the SDK that is installed here, with the SDK's own retries; so behind a failed call there may be several requests,
and what is acknowledged in the end is what a user of the SDK would take for acknowledged.
"""

from __future__ import annotations

import time
from importlib.metadata import version

import sdk as sdk_module
from lote_cluster import Endpoints
from rig import clock
from rig.history import OK, REFUSED, UNKNOWN, Call, History, Seen

#: Longer than a coordinator keeps a request while there is no leader (10 s), so that its own answer is seen.
ANSWER_TIMEOUT = 20
CONNECT_TIMEOUT = 2


def connect(endpoints: Endpoints, retries: int = 1) -> sdk_module.Sdk:
    """An SDK that gives up within bounds; the packages' own time-outs are minutes."""
    made = sdk_module.load(endpoints)
    if version("azure-batch").startswith("14."):
        made.client.config.connection.timeout = (CONNECT_TIMEOUT, ANSWER_TIMEOUT)
        made.client.config.retry_policy.retries = retries
    else:
        from azure.batch import BatchClient
        from azure.core.credentials import AzureNamedKeyCredential

        made.client = BatchClient(
            endpoint=endpoints.batch_url,
            credential=AzureNamedKeyCredential(endpoints.batch_account, endpoints.batch_key),
            connection_timeout=CONNECT_TIMEOUT,
            read_timeout=ANSWER_TIMEOUT,
            retry_total=retries,
        )
    return made


class Client:
    """One client; not to be shared between threads. It works on the host that its thread is on."""

    def __init__(self, name: str, endpoints: list[Endpoints], history: History, first: int = 0, retries: int = 1):
        self.name = name
        self.history = history
        self._urls = [each.batch_url for each in endpoints]
        self._sdks = [connect(each, retries) for each in endpoints]
        self._at = first % len(endpoints)
        self._seen: dict[str, Seen] = {}

    @property
    def sdk(self) -> sdk_module.Sdk:
        return self._sdks[self._at]

    def use(self, endpoint: int) -> None:
        """Goes on at this endpoint."""
        self._at = endpoint % len(self._sdks)

    # -- calls ----------------------------------------------------------------------------------------------------

    def add(self, job: str, tasks: list) -> Call:
        """Adds tasks, at most a hundred. Those that are there already count as added, as the SDK counts them."""

        def call(sdk):
            results = sdk.create_tasks(job, tasks)
            return [result.task_id for result in results], {}

        return self._call("add", [task.id for task in tasks], call)

    def add_one(self, job: str, task) -> Call:
        """Adds one task by a call of its own, which the SDK does not repeat for as long as the service is busy."""

        def call(sdk):
            try:
                sdk.create_task(job, task)
            except sdk.errors as error:
                # Of a call that is repeated, this is the answer if the one before got through.
                if sdk.refusal(error).code != "TaskExists":
                    raise
            return [task.id], {}

        return self._call("add", [task.id], call)

    def delete(self, job: str, id: str) -> Call:
        return self._call("delete", [id], lambda sdk: (sdk.delete_task(job, id), ([id], {}))[1])

    def get(self, job: str, id: str) -> Call:
        def call(sdk):
            return [id], {id: self._look(sdk.get_task(job, id))}

        return self._call("get", [id], call)

    def list(self, job: str) -> Call:
        def call(sdk):
            tasks = sdk.list_tasks(job, select=["id", "state", "executionInfo"])
            return [], {task.id: self._look(task) for task in tasks}

        return self._call("list", [], call)

    def _look(self, task) -> Seen:
        """What is seen of a task; the same object as long as nothing changes, for histories are long."""
        seen = _seen(task)
        if self._seen.get(task.id) != seen:
            self._seen[task.id] = seen
        return self._seen[task.id]

    def insist(self, what, timeout: float) -> Call:
        """Repeats `what()`, one of the calls above, until it is acknowledged or refused."""
        deadline = time.monotonic() + timeout
        while (call := what()).outcome == UNKNOWN:
            assert time.monotonic() < deadline, f"{self.name} had no answer for {timeout:g} s: {call}"
            time.sleep(0.05)
        return call

    def _call(self, operation, ids, call) -> Call:
        start = clock.now()
        sdk, url = self.sdk, self._urls[self._at]
        try:
            ids, seen = call(sdk)
            return self._record(Call(self.name, operation, start, clock.now(), OK, ids, seen, "", url))
        except AssertionError:
            raise
        except Exception as error:  # whatever a broken connection looks like in this generation
            outcome, code = _outcome(sdk, error)
        if outcome == UNKNOWN:
            self.use(self._at + 1)
        return self._record(Call(self.name, operation, start, clock.now(), outcome, ids, {}, code, url))

    def _record(self, call: Call) -> Call:
        return self.history.record(call)


def _seen(task) -> Seen:
    info = task.execution_info
    ended = getattr(info, "end_time", None)
    return Seen(sdk_module.text(task.state), ended and ended.isoformat(), getattr(info, "exit_code", None))


def _outcome(sdk, error: Exception) -> tuple[str, str]:
    """What the client knows after an exception, and the service's word for it."""
    # An exception about a collection holds what went wrong with the request, if it was more than single tasks.
    inner = (getattr(error, "errors", None) or [error])[0]
    if not isinstance(error, sdk.errors) or not (hasattr(inner, "response") and inner.response is not None):
        return UNKNOWN, type(inner).__name__
    try:
        refusal = sdk.refusal(error)
    except (AssertionError, AttributeError, ValueError):
        return UNKNOWN, type(inner).__name__
    code = refusal.code or str(refusal.status)
    return (UNKNOWN if refusal.status >= 500 or refusal.status in (408, 429) else REFUSED), code
