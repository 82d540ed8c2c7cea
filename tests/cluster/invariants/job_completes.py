"""Every task of the job completes as a success, and each has told its own end.

No violation: attempts without an end, as long as another attempt of the task has one.
"""

from __future__ import annotations

from rig.tasklog import TaskLog


def check(expected: set[str], exit_codes: dict[str, int | None], log: TaskLog) -> list[str]:
    """`exit_codes`: of the tasks that a listing shows as completed when all is over."""
    complaints = []
    for id in sorted(expected - set(exit_codes)):
        complaints.append(f"job_completes: {id} is not completed")
    for id in sorted(set(exit_codes) - expected):
        complaints.append(f"job_completes: {id} is there, but nobody added it")
    for id, code in sorted(exit_codes.items()):
        if code != 0:
            complaints.append(f"job_completes: {id} completed with exit code {code}")
        if all(attempt.end is None for attempt in log.attempts.get(id, [])):
            complaints.append(f"job_completes: {id} is called completed, but no attempt of it told its end")
    return complaints
