"""An acknowledged write is there for every read that begins after the acknowledgement, and at the end.

No violation: a task missing whose addition was only `unknown`; a task missing once its deletion may have taken effect,
which is from the beginning of any deletion that was not refused.
"""

from __future__ import annotations

from rig.history import OK, REFUSED, History


def check(history: History, found: set[str]) -> list[str]:
    """`found`: the tasks that a listing shows when all is over."""
    acknowledged: dict[str, float] = {}
    for call in history.calls("add", OK):
        for id in call.ids:
            acknowledged.setdefault(id, call.end)
    deleted: dict[str, float] = {}
    for call in history.calls("delete"):
        if call.outcome != REFUSED:
            for id in call.ids:
                deleted[id] = min(call.start, deleted.get(id, call.start))

    complaints = [
        f"no_acknowledged_write_lost: {id}, acknowledged at {at:.3f}, is not there at the end"
        for id, at in acknowledged.items()
        if id not in found and id not in deleted
    ]
    for read in history.calls():
        answered = read.operation in ("get", "list") and (read.outcome == OK or read.code == "TaskNotFound")
        if not answered:
            continue
        # A listing is asked for all tasks, a `get` for those it names.
        expected = read.ids if read.operation == "get" else acknowledged
        for id in expected:
            at = acknowledged.get(id)
            gone = deleted.get(id)
            if at is None or at >= read.start or id in read.seen or (gone is not None and gone <= read.end):
                continue
            complaints.append(
                f"no_acknowledged_write_lost: {id}, acknowledged at {at:.3f}, is not seen by a {read.operation} that "
                f"{read.client} began at {read.start:.3f} at {read.endpoint or 'the service'}"
            )
    return complaints
