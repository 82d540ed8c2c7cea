"""Never do two attempts of one task live at the same time.

Two witnesses: the lock, which the kernel gives to one of them, and the order of the lines.

No violation: an attempt that stands still with its whole host does nothing, so another may start meanwhile. When the
host thaws, its keeper sees that the deadline has passed and ends the attempt; the two processes wake up together, so
the old attempt is given `GRACE` to be ended.
"""

from __future__ import annotations

from dataclasses import dataclass

from rig.clock import RESOLUTION
from rig.tasklog import Attempt, TaskLog

#: For a loaded machine of two cores; the keeper looks more often.
GRACE = 1.0


@dataclass
class Freeze:
    """A host stood still between these times."""

    host: str
    start: float
    end: float


def check(log: TaskLog, freezes: list[Freeze] = ()) -> list[str]:
    complaints = []
    for task, attempts in log.attempts.items():
        for later in attempts:
            # Whoever held the lock then has not ended before; lines that follow a start may still be unwritten.
            holders = [other for other in attempts if other is not later and not _ended(other, later.start)]
            if later.overlapped and not any(_frozen_at(holder, later.start, freezes) for holder in holders):
                complaints.append(
                    f"one_live_attempt_per_task: {later.id} of {task} on {later.host} started at {later.start:.2f} "
                    f"while another attempt held the lock; others: {[holder.id for holder in holders]}"
                )
        for number, earlier in enumerate(attempts):
            for later in attempts[number + 1 :]:
                signs = [at for _, at in earlier.later if at > later.start + RESOLUTION]
                living = [at for at in signs if not _just_thawed(earlier, later.start, at, freezes)]
                if living:
                    complaints.append(
                        f"one_live_attempt_per_task: {earlier.id} of {task} on {earlier.host} lived at "
                        f"{living[0]:.2f}, but {later.id} had started on {later.host} at {later.start:.2f}"
                    )
    return complaints


def _ended(attempt: Attempt, at: float) -> bool:
    return attempt.end is not None and attempt.end < at - RESOLUTION


def _frozen_at(attempt: Attempt, at: float, freezes: list[Freeze]) -> bool:
    """Whether its host stood still, or had only just been let go."""
    return any(f.host == attempt.host and f.start - RESOLUTION <= at <= f.end + GRACE for f in freezes)


def _just_thawed(attempt: Attempt, other_start: float, at: float, freezes: list[Freeze]) -> bool:
    """Whether the other attempt started while this one stood still, and this sign came right after."""
    return any(
        f.host == attempt.host and f.start <= other_start <= f.end and f.end - RESOLUTION <= at <= f.end + GRACE
        for f in freezes
    )
