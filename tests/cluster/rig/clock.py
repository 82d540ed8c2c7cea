"""The one clock of histories: seconds since boot, which every namespace of a machine shares.

Tasks read it from `/proc/uptime`, which shows hundredths; so two readings may be off by `RESOLUTION`.
"""

import time

RESOLUTION = 0.01


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
