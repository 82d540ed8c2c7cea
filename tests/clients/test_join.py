"""How machines become members, and who does not: separate processes on loopback, each with its own data folder."""

import shutil
import signal
import time

import pytest

import sdk as sdk_module
from jobs import Job, ready_nodes
from lote_cluster import wait_for
from member_processes import Members

pytestmark = pytest.mark.once


@pytest.fixture
def members():
    made = Members()
    try:
        yield made
    finally:
        for name in made.running:
            print(f"--- {name}\n{made.log(name)[-4000:]}")
        made.end()


def joined(members, *names):
    """Waits until these hosts have a session, and gives the members by name."""

    def look():
        seen = members.members()
        return seen if all(seen.get(name, {}).get("state") == "joined" for name in names) else None

    return wait_for(f"{names} to join", look, 60)


def test_two_workers_join_and_run_a_job(members):
    endpoints = members.found()
    token = members.token("--uses", "2")
    members.worker("w1", "--join", token)
    members.worker("w2", "--join", token)
    seen = joined(members, "w1", "w2")
    assert {name: member["role"] for name, member in seen.items()} == {
        "c1": "coordinator", "w1": "worker", "w2": "worker",
    }  # fmt: skip
    assert (seen["c1"]["member"], seen["w1"]["member"], seen["w1"]["cores"]) == (1, None, 4)
    (listed,) = members.operate("token", "list")["tokens"]
    assert (listed["state"], listed["usesLeft"]) == ("used", 0)

    sdk = sdk_module.load(endpoints)
    sdk.create_pool(sdk.pool("p", nodes=2, slots=2))
    ready_nodes(sdk, "p", 2)
    assert [members.members()[name]["nodes"] for name in ("w1", "w2")] == [1, 1]
    sdk.create_job(sdk.job("j", "p"))
    job = Job(sdk, "j")
    for _ in range(8):
        job.add_shell("echo $AZ_BATCH_NODE_ID")
    wait_for("the tasks", lambda: sdk.task_counts("j").task_counts.completed == 8, 60)
    assert sdk.task_counts("j").task_counts.succeeded == 8

    # A worker that comes back is a member already, whatever token it is given once more, and adopts what ran meanwhile.
    slow = [job.add_shell("sleep 3; echo late", id=f"slow{n}") for n in range(4)]
    wait_for("the slow tasks to run", lambda: sdk.task_counts("j").task_counts.running == 4, 30)
    members.running["w1"].send_signal(signal.SIGKILL)
    members.running["w1"].wait()
    assert members.worker("w1", "--join", token).poll() is None, members.log("w1")
    wait_for("the slow tasks", lambda: sdk.task_counts("j").task_counts.completed == 12, 60)
    for id in slow:
        assert (sdk.get_task("j", id).execution_info.requeue_count or 0) == 0, f"{id} ran again"

    # A removed host is cut off; its node comes back on the other one.
    members.operate("host", "remove", "w1")
    assert "w1" not in members.members()
    wait_for("the pool to fill up on the other host", lambda: members.members()["w2"]["nodes"] == 2, 60)
    ready_nodes(sdk, "p", 2)
    members.running["w1"].send_signal(signal.SIGKILL)
    members.running["w1"].wait()
    before = len(members.log("w1"))
    members.worker("w1")
    wait_for("w1 to be sent away", lambda: "no session" in members.log("w1")[before:], 30)
    assert "w1" not in members.members()
    assert {host["name"]: host["state"] for host in members.operate("status")["hosts"]} == {"w1": "lost", "w2": "joined"}
    said = members.refused("w1-again", "--join", token)
    assert "TokenUsedUp" in said


# One line when an attempt starts, and one a few times a second while it lives: seconds, the attempt's process, the host's
# node. The trap shows that it was ended with grace.
BEAT = (
    "me=$AZ_BATCH_NODE_ID.$$; say() {{ echo $(date +%s.%N) $1 $me >> {log}; }}; bye() {{ say end; exit 143; }}; "
    "trap bye TERM; while true; do say beat; sleep 0.1; done"
)


def lives(log) -> dict[str, tuple[float, float]]:
    """When each attempt of a task was first and last seen alive, by its own log, in the order of their starts."""
    seen: dict[str, list[float]] = {}
    for line in log.read_text().splitlines():
        at, _, who = line.split()
        seen.setdefault(who, []).append(float(at))
    return dict(sorted(((who, (min(ats), max(ats))) for who, ats in seen.items()), key=lambda life: life[1]))


def never_two_at_once(log) -> list[str]:
    alive = lives(log)
    ends = [end for _, end in alive.values()]
    starts = [start for start, _ in alive.values()]
    assert all(end < start for end, start in zip(ends, starts[1:])), alive
    return list(alive)


@pytest.mark.parametrize("how", ["drained", "forced", "silent"])
def test_a_removed_host_never_runs_what_runs_elsewhere(how):
    """Its tasks start elsewhere once they have ended on it, or when its lease is over: their own log shows it."""
    members = Members(lease="60s" if how == "drained" else "10s")
    try:
        sdk = sdk_module.load(members.found())
        token = members.token("--uses", "2")
        members.worker("w1", "--join", token)
        joined(members, "w1")
        sdk.create_pool(sdk.pool("p", nodes=1, slots=2))
        ready_nodes(sdk, "p", 1)
        sdk.create_job(sdk.job("j", "p"))
        job = Job(sdk, "j")
        logs = [members.home / f"beats-{n}" for n in range(2)]
        for n, log in enumerate(logs):
            job.add_shell(BEAT.format(log=log), id=f"t{n}")
        wait_for("the tasks to live", lambda: all(log.exists() for log in logs), 60)
        members.worker("w2", "--join", token)
        joined(members, "w2")

        if how == "silent":
            # It hears nothing and says nothing; its keeper ends the tasks when the lease is over.
            members.running["w1"].send_signal(signal.SIGSTOP)
        more = ["--force"] if how == "forced" else []
        before = time.time()
        code, said = members.run(
            "host", "remove", "w1", *more, "--data-dir", str(members.data("c1")), timeout=120
        )
        assert code == 0 and "is removed" in said, said
        if how == "drained":
            assert time.time() - before < 45, "it did not wait for the lease"
            assert "1 nodes to give up" in said, said
        if how == "forced":
            assert "when its lease is over" in said, said
        assert "w1" not in members.members()
        wait_for("the tasks to live elsewhere", lambda: all(len(lives(log)) >= 2 for log in logs), 120)
        last = [max(end for _, end in lives(log).values()) for log in logs]
        wait_for("them to go on", lambda: all(lives(log) and max(end for _, end in lives(log).values()) > at + 1
                                              for log, at in zip(logs, last)), 60)  # fmt: skip
        for log in logs:
            first, second = never_two_at_once(log)
            assert first.split(".")[0] != second.split(".")[0], "another node"
        if how == "drained":
            assert [sdk.get_task("j", f"t{n}").execution_info.requeue_count for n in range(2)] == [1, 1]
    finally:
        for name in members.running:
            print(f"--- {name}\n{members.log(name)[-4000:]}")
        members.end()


def test_who_gets_nothing(members):
    members.found()
    # A stranger has no token; one that is none, or cut short, says so by itself.
    assert "--join TOKEN" in members.refused("stranger")
    assert "no join token" in members.refused("stranger", "--join", "let-me-in")
    good = members.token()
    assert "not copied whole" in members.refused("stranger", "--join", good[:-3])
    # For the other role.
    assert "for a coordinator" in members.refused("stranger", "--join", members.token("--role", "coordinator"))
    code, said = members.run("coordinator", "--data-dir", str(members.data("c2")), "--join", good)
    assert code != 0 and "the token is for a worker" in said
    # Expired by the cluster's clock.
    short = members.token("--expires", "1s")
    states = lambda: {token["state"] for token in members.operate("token", "list")["tokens"]}  # noqa: E731
    wait_for("the expiry", lambda: "expired" in states(), 30)
    assert "TokenExpired" in members.refused("late", "--join", short)
    # Revoked.
    made = members.operate("token", "create", "--note", "for nobody")
    members.operate("token", "revoke", made["id"])
    assert "TokenRevoked" in members.refused("revoked", "--join", made["token"])
    # Used up, also by a copy of a folder under another identity.
    members.worker("w1", "--join", good)
    joined(members, "w1")
    assert "TokenUsedUp" in members.refused("second", "--join", good)
    # Another cluster's token leads to another cluster.
    other = Members()
    try:
        other.found()
        foreign = other.token()
        members.running["w1"].send_signal(signal.SIGINT)
        members.running["w1"].wait(60)
        said = members.refused("w1", "--join", foreign)
        assert "belongs to cluster" in said
    finally:
        other.end()
    assert set(members.members()) == {"c1", "w1"}
    code, said = members.run("host", "remove", "nobody", "--data-dir", str(members.data("c1")))
    assert code != 0 and "host list" in said
    code, said = members.run("host", "remove", "c1", "--data-dir", str(members.data("c1")))
    assert code != 0 and "LastCoordinator" in said


def test_init_says_the_next_command_and_is_not_repeated(members):
    said = members.ok("init", "--data-dir", str(members.data("c1")))
    assert f"lote coordinator --data-dir {members.data('c1')}" in said
    code, said = members.run("init", "--data-dir", str(members.data("c1")))
    assert code != 0 and "holds a cluster already" in said
    for name in ("cluster.json", "account.json"):
        assert (members.data("c1") / name).stat().st_mode & 0o077 == 0, f"{name} is readable by others"
    code, said = members.run("up", "--data-dir", str(members.data("c1")))
    assert code != 0 and "lote coordinator" in said
    code, said = members.run("coordinator", "--data-dir", str(members.home / "empty"))
    assert code != 0 and "lote init" in said
    shutil.rmtree(members.home / "empty")


def test_https_beyond_loopback(members):
    endpoints = members.found("--advertise=localhost", batch="0.0.0.0:0", blob="0.0.0.0:0")
    assert endpoints.batch_url.startswith("https://localhost:")
    assert endpoints.blob_url.startswith("https://localhost:")
    assert [member["name"] for member in members.operate("host", "list")["members"]] == ["c1"]
