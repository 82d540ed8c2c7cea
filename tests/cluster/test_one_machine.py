"""The rig at work on what every build has: `lote up` on one host, killed at random under load."""

import pytest

from invariants.no_rerun_because_of_a_coordinator import Loss
from lote_cluster import wait_for
from rig import cli, clock, faults
from rig.cluster import OneMachine
from rig.trial import JOB, Trial


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
    load = trial.start_load(limit=200)
    trial.wait_for_starts(5)
    for fault in plan:
        trial.losses += faults.carry_out(machine, fault)
    load.finish_adding(120)
    trial.verdict()
    assert cli.keepers(machine.client)


def crashed_in_the_middle(machine, folder) -> tuple[Trial, float]:
    """A trial whose only host crashed while tasks ran, and is back; and when that was."""
    trial = Trial(machine, folder, nodes=2)
    trial.add([f"t{n}" for n in range(4)], seconds=4)
    trial.wait_for_starts(4)
    at = clock.now()
    (member,) = machine.coordinators.values()
    member.crash()
    member.start()
    member.wait_until_ready()
    wait_for("the tasks to start again", lambda: trial.log().repeated(), 60)
    return trial, at


def test_a_host_that_crashed_excuses_what_runs_again(machine, folder):
    trial, at = crashed_in_the_middle(machine, folder)
    trial.losses.append(Loss("up", at))
    assert "4 attempts repeated" in trial.verdict()


def test_the_verdict_sees_what_ran_again_without_a_cause(machine, folder):
    """The same without the excuse: the whole chain, from the task's shell to the checker, can fail."""
    trial, _ = crashed_in_the_middle(machine, folder)
    with pytest.raises(AssertionError, match="4 violations:\nno_rerun_because_of_a_coordinator: t. started"):
        trial.verdict()


def test_the_verdict_sees_a_lost_write(machine, folder):
    """A task that somebody takes away behind the client's back looks like one that the service has lost."""
    trial = Trial(machine, folder, nodes=2)
    trial.add(["kept", "lost"], seconds=0.1)
    with machine.client.entered():
        trial.client.sdk.delete_task(JOB, "lost")
    with pytest.raises(AssertionError, match="no_acknowledged_write_lost: lost"):
        trial.verdict(timeout=3)
