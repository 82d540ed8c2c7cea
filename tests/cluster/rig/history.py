"""What clients saw: every call with its beginning, its end and its outcome, in one list for the checkers.

Between its beginning and its end a call may have taken effect at any moment. Three outcomes:

- `ok`: the service acknowledged it, so it has taken effect and must never be lost;
- `refused`: the service answered that it has not; `code` is its word for it;
- `unknown`: nobody answered (a broken connection, a time-out, 5xx), so it may have taken effect, now or later.
"""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path

OK, REFUSED, UNKNOWN = "ok", "refused", "unknown"


@dataclass(frozen=True)
class Seen:
    """What a read showed of a task."""

    state: str
    end_time: str | None = None
    exit_code: int | None = None


@dataclass
class Call:
    client: str
    #: `add`, `delete`, `get` or `list`: the last two are reads.
    operation: str
    start: float
    end: float
    outcome: str
    #: The tasks it concerned: those acknowledged by a write that is ok, those asked for otherwise.
    ids: list[str] = field(default_factory=list)
    #: What a read saw; a `list` without one of the tasks has not seen it.
    seen: dict[str, Seen] = field(default_factory=dict)
    code: str = ""
    #: Where it was sent.
    endpoint: str = ""


class History:
    """Grows while clients run; safe to use from several threads."""

    def __init__(self):
        self._calls: list[Call] = []
        self._lock = threading.Lock()

    def record(self, call: Call) -> Call:
        with self._lock:
            self._calls.append(call)
        return call

    def calls(self, operation: str | None = None, outcome: str | None = None) -> list[Call]:
        """By the time they ended."""
        with self._lock:
            calls = list(self._calls)
        wanted = [call for call in calls if operation in (None, call.operation) and outcome in (None, call.outcome)]
        return sorted(wanted, key=lambda call: call.end)

    def latest(self, operation: str, outcome: str) -> Call | None:
        """The last one that was recorded."""
        with self._lock:
            calls = reversed(self._calls)
            return next((call for call in calls if (call.operation, call.outcome) == (operation, outcome)), None)

    def acknowledged(self) -> set[str]:
        """The tasks whose addition was acknowledged."""
        return {id for call in self.calls("add", OK) for id in call.ids}

    def uncertain(self) -> set[str]:
        """The tasks that may be there, but need not."""
        return {id for call in self.calls("add", UNKNOWN) for id in call.ids} - self.acknowledged()

    def write(self, path: Path) -> None:
        """One JSON object a line, to look at after a failure."""
        path.write_text("".join(json.dumps(asdict(call)) + "\n" for call in self.calls()))

    def summary(self) -> str:
        calls = self.calls()
        counts = {outcome: sum(call.outcome == outcome for call in calls) for outcome in (OK, REFUSED, UNKNOWN)}
        longest = max((call.end - call.start for call in calls if call.outcome == OK), default=0.0)
        said = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        return f"{len(calls)} calls: {said}; the longest that succeeded took {longest:.2f} s"
