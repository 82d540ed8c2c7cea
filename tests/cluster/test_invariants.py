"""Each checker finds made-up histories that violate it, and lets those pass that only look like it."""

import pytest

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
from rig.history import OK, REFUSED, UNKNOWN, Call, History, Seen
from rig.tasklog import TaskLog


def history(*calls) -> History:
    made = History()
    for call in calls:
        made.record(call)
    return made


def call(operation, start, end, outcome, *ids, code="", **seen) -> Call:
    return Call("client", operation, start, end, outcome, list(ids), seen, code)


def add(start, end, outcome, *ids):
    return call("add", start, end, outcome, *ids)


ACTIVE = Seen("active")
DONE = Seen("completed", "12:00")


@pytest.mark.parametrize(
    ["calls", "found", "violations"],
    [
        ([add(1, 2, OK, "a", "b")], {"a", "b"}, 0),
        ([add(1, 2, OK, "a", "b")], {"a"}, 1),
        ([add(1, 2, UNKNOWN, "a")], set(), 0),
        ([add(1, 2, REFUSED, "a")], set(), 0),
        # An unknown one that is repeated and acknowledged counts from then on.
        ([add(1, 2, UNKNOWN, "a"), add(3, 4, OK, "a")], set(), 1),
        # Deletions: what may have taken effect excuses, what was refused does not.
        ([add(1, 2, OK, "a"), call("delete", 3, 4, OK, "a")], set(), 0),
        ([add(1, 2, OK, "a"), call("delete", 3, 4, UNKNOWN, "a")], set(), 0),
        ([add(1, 2, OK, "a"), call("delete", 3, 4, REFUSED, "a")], set(), 1),
        # Reads that begin after the acknowledgement have to show it, whoever answers.
        ([add(1, 2, OK, "a"), call("get", 3, 4, REFUSED, "a", code="TaskNotFound")], {"a"}, 1),
        ([add(1, 2, OK, "a"), call("get", 1.5, 4, REFUSED, "a", code="TaskNotFound")], {"a"}, 0),
        ([add(1, 2, OK, "a"), call("get", 3, 4, UNKNOWN, "a")], {"a"}, 0),
        ([add(1, 2, OK, "a"), call("get", 3, 4, OK, "a", a=ACTIVE)], {"a"}, 0),
        ([add(1, 2, OK, "a"), call("list", 3, 4, OK)], {"a"}, 1),
        ([add(1, 2, OK, "a"), call("list", 3, 4, OK, a=ACTIVE)], {"a"}, 0),
        ([add(1, 2, OK, "a"), call("list", 1.9, 4, OK)], {"a"}, 0),
        ([add(1, 2, OK, "a"), call("list", 3, 9, OK), call("delete", 5, 6, OK, "a")], set(), 0),
        ([add(1, 2, OK, "a"), call("list", 3, 4, OK), call("delete", 5, 6, OK, "a")], set(), 1),
    ],
)
def test_no_acknowledged_write_lost(calls, found, violations):
    assert len(no_acknowledged_write_lost.check(history(*calls), found)) == violations


@pytest.mark.parametrize(
    ["calls", "violations"],
    [
        ([call("list", 1, 2, OK, a=ACTIVE), call("list", 3, 4, OK, a=DONE), call("list", 5, 6, OK, a=DONE)], 0),
        ([call("list", 1, 2, OK, a=DONE), call("list", 3, 4, OK, a=ACTIVE)], 1),
        ([call("get", 1, 2, OK, "a", a=DONE), call("list", 3, 4, OK, a=Seen("completed", "12:01"))], 1),
        # Overlapping reads have no order.
        ([call("list", 1, 3, OK, a=DONE), call("list", 2, 4, OK, a=ACTIVE)], 0),
        # A long read that began before does not hide a later violation.
        ([call("list", 1, 9, OK, a=ACTIVE), call("list", 2, 3, OK, a=DONE), call("get", 4, 5, OK, "a", a=ACTIVE)], 1),
        ([call("list", 1, 2, OK, a=DONE), call("list", 3, 4, OK, b=ACTIVE)], 0),
    ],
)
def test_completed_tasks_stay_completed(calls, violations):
    assert len(completed_tasks_stay_completed.check(history(*calls))) == violations


def log(*lines) -> TaskLog:
    """Lines of one task: "start A w1 1.00"."""
    told = [line.split() for line in lines]
    return TaskLog("".join(f"{kind} t {attempt} {host} {at}\n" for kind, attempt, host, at in told))


@pytest.mark.parametrize(
    ["lines", "freezes", "violations"],
    [
        (["start A w1 1.00", "beat A w1 1.05", "end A w1 1.10", "start B w2 1.10", "end B w2 1.20"], [], 0),
        # Signs of life after the next one's start.
        (["start A w1 1.00", "start B w2 1.10", "beat A w1 1.15", "end B w2 1.20"], [], 1),
        (["start A w1 1.00", "start B w2 1.10", "end A w1 1.15", "end B w2 1.20"], [], 1),
        # Three attempts, and the first outlives the second.
        (["start A w1 1.00", "start B w2 2.00", "end B w2 2.10", "start C w2 3.00", "end A w1 3.50"], [], 2),
        # The lock tells, although the first never said another word.
        (["start A w1 1.00", "overlap B w2 1.10", "start B w2 1.10"], [], 1),
        # It was taken before the first line of its holder was written.
        (["overlap B w2 1.10", "start B w2 1.10", "start A w1 1.10"], [], 1),
        # Its host stood still meanwhile.
        (["start A w1 1.00", "overlap B w2 9.00", "start B w2 9.00"], [Freeze("w1", 2, 20)], 0),
        (["start A w1 1.00", "overlap B w2 9.00", "start B w2 9.00"], [Freeze("w2", 2, 20)], 1),
        (["start A w1 1.00", "overlap B w2 9.00", "start B w2 9.00"], [Freeze("w1", 2, 5)], 1),
        # It woke up with its keeper, and was ended.
        (["start A w1 1.00", "start B w2 9.00", "beat A w1 20.05", "end B w2 21.00"], [Freeze("w1", 2, 20)], 0),
        # It woke up and went on.
        (["start A w1 1.00", "start B w2 9.00", "beat A w1 25.00", "end B w2 26.00"], [Freeze("w1", 2, 20)], 1),
        # It was alive before the freeze, when the other one started.
        (["start A w1 1.00", "start B w2 1.50", "beat A w1 1.90"], [Freeze("w1", 2, 20)], 1),
    ],
)
def test_one_live_attempt_per_task(lines, freezes, violations):
    assert len(one_live_attempt_per_task.check(log(*lines), freezes)) == violations


@pytest.mark.parametrize(
    ["lines", "losses", "violations"],
    [
        (["start A w1 1.00", "end A w1 2.00"], [], 0),
        (["start A w1 1.00", "end A w1 2.00", "start B w1 3.00"], [], 1),
        (["start A w1 1.00", "start B w2 3.00"], [], 1),
        (["start A w1 1.00", "start B w2 3.00"], [Loss("w1", 2)], 0),
        # Another host, before its start, after the next one's.
        (["start A w1 1.00", "start B w2 3.00"], [Loss("w2", 2)], 1),
        (["start A w1 1.00", "start B w2 3.00"], [Loss("w1", 0.5)], 1),
        (["start A w1 1.00", "start B w2 3.00"], [Loss("w1", 3.5)], 1),
        # It had ended: just now, and its report may have been on its way; long ago.
        (["start A w1 1.00", "end A w1 2.00", "start B w2 9.00"], [Loss("w1", 3)], 0),
        (["start A w1 1.00", "end A w1 2.00", "start B w2 9.00"], [Loss("w1", 8)], 1),
        # One loss excuses one repetition.
        (["start A w1 1.00", "start B w2 3.00", "start C w1 4.00"], [Loss("w1", 2)], 1),
    ],
)
def test_no_rerun_because_of_a_coordinator(lines, losses, violations):
    assert len(no_rerun_because_of_a_coordinator.check(log(*lines), losses)) == violations


@pytest.mark.parametrize(
    ["expected", "exit_codes", "lines", "violations"],
    [
        ({"t"}, {"t": 0}, ["start A w1 1.00", "end A w1 2.00"], 0),
        ({"t"}, {"t": 0}, ["start A w1 1.00", "start B w1 2.00", "end B w1 3.00"], 0),
        ({"t"}, {"t": 0}, ["start A w1 1.00"], 1),
        ({"t"}, {"t": 1}, ["start A w1 1.00", "end A w1 2.00"], 1),
        ({"t"}, {"t": None}, ["start A w1 1.00", "end A w1 2.00"], 1),
        ({"t"}, {}, ["start A w1 1.00", "end A w1 2.00"], 1),
        (set(), {"t": 0}, ["start A w1 1.00", "end A w1 2.00"], 1),
    ],
)
def test_job_completes(expected, exit_codes, lines, violations):
    assert len(job_completes.check(expected, exit_codes, log(*lines))) == violations


def test_a_violation_fails_a_test():
    assert_none([], [])
    with pytest.raises(AssertionError, match="2 violations:\none\ntwo"):
        assert_none(["one"], ["two"])
