"""What a coordinator says of itself while no quorum is there, so that load balancers and people know."""

import urllib.error
import urllib.request

import pytest

from lote_cluster import wait_for
from rig import cli

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


def page(coordinator, path: str) -> tuple[int, str]:
    """Status and text of a page that needs no key, asked on the coordinator's host."""
    url = f"{coordinator.endpoints().batch_url}{path}"
    with coordinator.host.entered():
        try:
            with urllib.request.urlopen(url, timeout=15) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


def is_ready(coordinator) -> bool:
    return page(coordinator, "/readyz")[0] == 200


@pytest.mark.parametrize("left", ["leader", "follower"])
def test_what_the_last_one_says(lote_cluster, left):
    cluster = lote_cluster(coordinators=3, workers=1, lease=10)
    leader = cluster.leader()
    follower = cluster.followers()[0]
    last = leader if left == "leader" else follower
    for each in cluster.coordinators.values():
        wait_for(f"{each} to be ready", lambda each=each: is_ready(each), 30)
    assert page(leader, "/readyz") == (200, "ready, leads\n")
    assert page(follower, "/readyz") == (200, "ready, follows\n")
    gone = [c for c in cluster.coordinators.values() if c is not last]
    for coordinator in gone:
        coordinator.kill()

    wait_for("it to be unready", lambda: not is_ready(last), 30)
    code, why = page(last, "/readyz")
    assert code == 503 and any(words in why for words in ("no leader is known", "quorum", "busy")), why
    # The process itself is well: nothing would be won by starting it anew.
    assert page(last, "/healthz") == (200, "ok\n")
    status = last.status()
    assert status is not None, "the status needs no quorum"
    # Nobody's place is told as if somebody held it.
    assert not status["leadership"]["isOurs"] or left == "leader"
    if left == "follower":
        wait_for("that nobody leads", lambda: last.status()["leadership"]["leader"] is None, 30)
        assert last.status()["replica"]["role"] in ("follower", "candidate")
    # Who belongs to the cluster is known all the same, and how far this one is.
    assert {member["name"] for member in status["members"]} == {"c1", "c2", "c3", "w1"}
    assert cli.voters(status) == {"c1", "c2", "c3"}
    assert cli.applied(status) > 0 and len(status["replica"]["stateHash"]) == 64

    gone[0].start()
    gone[0].wait_until_ready()
    for each in (last, gone[0]):
        wait_for(f"{each} to be ready again", lambda each=each: is_ready(each), 60)
    assert cluster.leader().status()["leadership"]["isOurs"]
