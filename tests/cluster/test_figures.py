"""How the bench of failovers reads its figures out of what it saw."""

import math

import pytest

from failover import after_the_silence, percentile

#: A mark every 0.1 s for five seconds before the kill at 10.
BEFORE = [5 + n / 10 for n in range(50)]


@pytest.mark.parametrize(
    ["after", "seconds"],
    [
        # The leader's death is heard at once, and ends at 10.8.
        ([10.8, 10.9, 11.0], 0.8),
        # Tasks in hand are still started.
        ([10.05, 10.1, 10.9, 11.0], 0.9),
        # Nothing is heard of it.
        ([10.05, 10.15, 10.25, 10.35, 10.45, 10.55, 10.65], 0.05),
        # A later silence has another cause.
        ([10.05, 10.15, 10.25, 10.35, 10.45, 10.55, 10.65, 15.0, 15.1], 0.05),
        # It was never over.
        ([], math.inf),
        ([25.0], math.inf),
    ],
)
def test_the_next_task_start(after, seconds):
    assert after_the_silence(BEFORE + after, 10.0) == pytest.approx(seconds)


def test_percentiles():
    values = list(range(20, 0, -1))
    assert [percentile(values, share) for share in (0.5, 0.99, 1.0)] == [10, 20, 20]
    assert percentile([3], 0.5) == 3
