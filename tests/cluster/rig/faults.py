"""Plans of faults from a seed, and what carrying one out means for what may be run again.

A plan is printed before it begins; the same seed with the same members gives the same plan. `LOTE_SEED` replays one.
"""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass

from invariants.no_rerun_because_of_a_coordinator import Loss
from rig import clock
from rig.cluster import OneMachine, Worker

#: `kill -9` of one process; of the keeper; of everything on a host.
KILL, KILL_KEEPER, CRASH = "kill", "kill-keeper", "crash"


@dataclass(frozen=True)
class Fault:
    verb: str
    target: str
    #: Seconds until the process is started again.
    down: float
    #: Seconds from then to the next fault.
    gap: float

    def __str__(self):
        return f"{self.verb} {self.target} for {self.down:.2f} s, then {self.gap:.2f} s"


def seed() -> int:
    """What `LOTE_SEED` says, or a new one."""
    return int(os.environ.get("LOTE_SEED") or random.SystemRandom().randrange(1 << 32))


def plan(seed: int, choices: list[tuple[str, str]], count: int, down: float = 1.5, gap: float = 1.5) -> list[Fault]:
    """`count` faults, each one of `choices` (verb, target), with at most so many seconds."""
    dice = random.Random(seed)
    return [Fault(*dice.choice(choices), dice.uniform(0, down), dice.uniform(0.1, gap)) for _ in range(count)]


def show(seed: int, faults: list[Fault]) -> None:
    print(f"{len(faults)} faults, replayed by LOTE_SEED={seed}:")
    for number, fault in enumerate(faults, 1):
        print(f"  {number:3} {fault}")


def carry_out(cluster: OneMachine, fault: Fault) -> list[Loss]:
    """Breaks, waits, starts again and waits until it serves; gives the hosts whose tasks are lost by it."""
    member = cluster.members[fault.target]
    at = clock.now()
    if fault.verb == KILL_KEEPER:
        assert isinstance(member, Worker), f"{member} has no keeper of its own"
        member.kill_keeper()
        time.sleep(fault.down)
    else:
        {KILL: member.kill, CRASH: member.crash}[fault.verb]()
        time.sleep(fault.down)
        member.start()
        member.wait_until_ready()
    time.sleep(fault.gap)
    return [] if fault.verb == KILL else [Loss(member.host.name, at)]
