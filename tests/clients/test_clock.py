"""Coordinators whose wall clocks are set wrong: they do not lead where another can, and `lote status` says so."""

import pytest

import sdk as sdk_module
from lote_cluster import free_ports, wait_for

pytestmark = pytest.mark.once

#: Requests are signed with the time, so a clock further off than a quarter of an hour could not be asked here.
WRONG_MS = -60_000


def leader(members, asked: str) -> str | None:
    status = members.operate("status", at=asked)
    number = status["replica"]["leader"]
    return next((member["name"] for member in status["members"] if member.get("member") == number), None)


def test_a_coordinator_with_a_wrong_clock_does_not_lead(members, monkeypatch):
    ports = free_ports()
    monkeypatch.setenv("LOTE_TEST_WALL_CLOCK_OFFSET_MS", str(WRONG_MS))
    members.found(**{name: f"127.0.0.1:{port}" for name, port in ports.items()})
    monkeypatch.delenv("LOTE_TEST_WALL_CLOCK_OFFSET_MS")
    status = members.operate("status")
    assert status["replica"]["role"] == "leader", "the only one leads whatever its clock says"
    assert status["clocks"]["isOff"] is False
    assert "clock" not in members.ok("status", "--data-dir", str(members.data("c1")))

    token = members.token("--role", "coordinator", "--uses", "2")
    second = members.coordinator("c2", "--join", token)
    members.coordinator("c3", "--join", token)
    wait_for("one of the others to lead", lambda: leader(members, "c2") in ("c2", "c3"), 90)
    wait_for("the first to follow it", lambda: members.operate("status", at="c1")["replica"]["role"] == "follower", 60)

    def is_told(asked: str) -> bool:
        clocks = members.operate("status", at=asked)["clocks"]
        return clocks["isOff"] is (asked == "c1") and abs(clocks["offMs"].get("1", 0) - WRONG_MS) < 10_000

    for name in ("c1", "c2", "c3"):
        wait_for(f"{name} to see it", lambda: is_told(name), 60)
        said = members.ok("status", "--data-dir", str(members.data(name)))
        assert "The clock of member 1 is" in said and "behind the median" in said, said

    # Two are enough to go on, and neither of two can say whose clock is wrong: the one that is left may be that one.
    first_leader = leader(members, "c2")
    other = {"c2": "c3", "c3": "c2"}[first_leader]
    members.kill(first_leader)
    wait_for("a leader", lambda: leader(members, other) in ("c1", other), 90)
    # It comes back, and again one whose clock is right leads.
    members.coordinator(first_leader)
    wait_for("one with a right clock to lead", lambda: leader(members, other) in ("c2", "c3"), 120)
    sdk = sdk_module.load(second)
    wait_for("writes", lambda: sdk.create_pool(sdk.pool("p", nodes=0, slots=1)) or True, 30)
