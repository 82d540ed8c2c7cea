"""A task is started a second time only because its host was lost while it ran there, never because of a coordinator.

Counted from the tasks' own log. No violation: an attempt whose host was lost (crashed, or silent for longer than a
lease) between its start and the start of the next one, even if the attempt had just ended: its report may have died
with the host, for as long as `REPORT`. `SLACK` is for an attempt that started while its host was being broken.
"""

from __future__ import annotations

from dataclasses import dataclass

from rig.tasklog import TaskLog

SLACK = 0.1
#: Seconds that a report may take on its way, failovers included.
REPORT = 5.0


@dataclass
class Loss:
    """From this moment on, what runs on the host counts as lost: it crashed, or the lease ran out later."""

    host: str
    at: float


def check(log: TaskLog, losses: list[Loss] = ()) -> list[str]:
    complaints = []
    for task, attempts in log.repeated().items():
        for earlier, later in zip(attempts, attempts[1:]):
            last = later.start if earlier.end is None else min(later.start, earlier.end + REPORT)
            lost = [loss for loss in losses if loss.host == earlier.host]
            if not any(earlier.start - SLACK <= loss.at <= last for loss in lost):
                ended = f"ended at {earlier.end:.2f}" if earlier.end is not None else "did not end"
                complaints.append(
                    f"no_rerun_because_of_a_coordinator: {task} started at {earlier.start:.2f} on {earlier.host} "
                    f"({ended}), and again at {later.start:.2f} on {later.host}, which had no cause"
                )
    return complaints
