"""Once a read has shown a task as completed, every read that begins later shows it completed at the same time.

No violation: a read that overlaps the first one may still show the state before. Reactivation is not used here.
"""

from __future__ import annotations

from rig.history import OK, History


def check(history: History) -> list[str]:
    reads = [call for call in history.calls(outcome=OK) if call.operation in ("get", "list")]
    ended = iter(reads)  # by their ends
    pending = next(ended, None)
    completed: dict[str, str | None] = {}
    complaints = []
    for read in sorted(reads, key=lambda read: read.start):
        while pending is not None and pending.end < read.start:
            for id, seen in pending.seen.items():
                if seen.state == "completed":
                    completed.setdefault(id, seen.end_time)
            pending = next(ended, None)
        for id, seen in read.seen.items():
            if id not in completed:
                continue
            if seen.state != "completed" or seen.end_time != completed[id]:
                complaints.append(
                    f"completed_tasks_stay_completed: {id} was completed at {completed[id]}, and {read.client} saw it "
                    f"{seen.state}, end {seen.end_time}, in a read begun at {read.start:.3f}"
                )
    return complaints
