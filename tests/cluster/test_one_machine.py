"""The rig at work on what every build has: `lote up` on one host, killed at random under load."""

import pytest

from rig import cli, faults
from rig.cluster import OneMachine
from rig.trial import Trial


@pytest.fixture
def machine(network, folder):
    machine = OneMachine(network, folder)
    machine.start()
    return machine


@pytest.mark.timeout(300)
def test_lote_up_is_killed_at_random(machine, folder):
    trial = Trial(machine, folder, nodes=2)
    seed = faults.seed()
    plan = faults.plan(seed, [(faults.KILL, "up")], count=4)
    faults.show(seed, plan)
    load = trial.start_load(limit=400)
    trial.wait_for_starts(5)
    for fault in plan:
        trial.losses += faults.carry_out(machine, fault)
    load.finish_adding(120)
    trial.verdict()
    assert cli.keepers(machine.client)
