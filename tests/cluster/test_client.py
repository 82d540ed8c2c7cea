"""What stands between the tests and the service: the balancer, the client that rotates, the plans of faults."""

import socket
import sys
import threading
from dataclasses import replace

import pytest

from lote_cluster import Endpoints, wait_for
from rig import balancer, clock, faults
from rig.client import Client
from rig.history import OK, REFUSED, UNKNOWN, History
from rig.process import Process

PORT = 9000
ENDPOINTS = Endpoints("lote", "a2V5", "http://10.77.0.1:11000", "lote", "a2V5", "http://10.77.0.1:11001/lote", "-")

#: Answers every request with its arguments: STATUS BODY. The path goes to the log.
SERVER = """
import http.server, sys
status, body = int(sys.argv[3]), sys.argv[4].encode()
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST = do_DELETE = do
http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
"""

TASK = '{"id": "t", "state": "completed", "executionInfo": {"retryCount": 0, "requeueCount": 0}}'
ADDED = '{"value": [{"status": "success", "taskId": "t"}]}'
ERROR = '{"code": "%s", "message": {"lang": "en-us", "value": "no"}}'


@pytest.fixture
def serve(network, folder):
    """`serve(name, status, body)` starts a server on a host of its own; gives the host and its process."""

    def start(name, status=200, body=TASK):
        host = network.hosts.get(name) or network.add(name)
        command = [sys.executable, "-c", SERVER, host.address, str(PORT), str(status), body]
        process = Process(host, command, folder / f"{name}.log")

        def answers():
            assert process.is_running(), process.log_tail()
            with host.entered(), socket.socket() as probe:
                return probe.connect_ex((host.address, PORT)) == 0

        wait_for(f"the server on {name}", answers, interval=0.02)
        return host, process

    return start


def endpoints(*addresses):
    return [replace(ENDPOINTS, batch_url=f"http://{address}") for address in addresses]


def test_a_client_goes_on_at_the_next_endpoint(serve, network):
    (one, process), (two, _) = serve("one"), serve("two")
    here = network.add("client")
    history = History()
    with here.entered():
        client = Client("c", endpoints(f"{one.address}:{PORT}", f"{two.address}:{PORT}"), history)
        assert client.get("j", "t").outcome == OK
        process.kill()
        call = client.insist(lambda: client.get("j", "t"), timeout=30)
    assert [(call.outcome, one.address in call.endpoint) for call in history.calls()] == [
        (OK, True),
        (UNKNOWN, True),
        (OK, False),
    ]
    assert call.seen["t"].state == "completed" and call.ids == ["t"]
    assert all(call.start <= call.end <= clock.now() for call in history.calls())


@pytest.mark.parametrize(
    ["status", "body", "outcome", "code"],
    [
        (200, ADDED, OK, ""),
        (503, ERROR % "ServerBusy", UNKNOWN, None),
        (404, ERROR % "JobNotFound", REFUSED, "JobNotFound"),
        (409, ERROR % "JobCompleted", REFUSED, "JobCompleted"),
    ],
)
def test_what_a_client_knows_after_a_call(serve, network, status, body, outcome, code):
    server, _ = serve("one", status, body)
    history = History()
    with network.add("client").entered():
        client = Client("c", endpoints(f"{server.address}:{PORT}"), history)
        call = client.delete("j", "t") if status == 503 else client.add("j", [client.sdk.task("t", "/bin/true")])
    assert (call.outcome, call.ids) == (outcome, ["t"])
    assert code in (None, call.code)
    assert history.acknowledged() == ({"t"} if outcome == OK else set())


def test_the_balancer_leaves_out_who_is_gone_and_who_is_cut_off(serve, network, folder):
    servers = {name: serve(name, body=TASK.replace('"t"', f'"{name}"')) for name in ("one", "two", "three")}
    here = network.add("client")
    backends = [f"{host.address}:{PORT}" for host, _ in servers.values()]
    balancer.start(here, folder, f"{here.address}:{PORT}", backends)

    def answered(count=9) -> set[str]:
        seen = set()
        for _ in range(count):
            with here.entered():
                client = Client("c", endpoints(f"{here.address}:{PORT}"), History())
                call = client.get("j", "t")
            assert call.outcome == OK, call
            seen.add(client.sdk.get_task("j", "t").id)
        return seen

    with here.entered():
        assert answered() == {"one", "two", "three"}
        servers["one"][1].kill()
        assert answered() == {"two", "three"}
        network.cut(servers["two"][0], here)
        assert answered(4) == {"three"}
        network.heal()
        serve("one", body=TASK.replace('"t"', '"one"'))
        wait_for("all to be back", lambda: answered() == {"one", "two", "three"}, timeout=30)


def test_threads_of_one_process_are_on_different_hosts(network):
    """The load runs in threads; each is where it entered, and comes back."""
    hosts = [network.add(name) for name in "abc"]
    barrier = threading.Barrier(3)
    bound = {}

    def work(host):
        with host.entered():
            barrier.wait(10)
            with socket.socket() as ear:
                ear.bind((host.address, PORT))
                bound[host.name] = ear.getsockname()[0]
        with socket.socket() as ear, pytest.raises(OSError):
            ear.bind((host.address, PORT))

    threads = [threading.Thread(target=work, args=[host]) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert bound == {host.name: host.address for host in hosts}


def test_a_seed_gives_the_same_plan():
    choices = [(faults.KILL, "c1"), (faults.KILL, "c2"), (faults.CRASH, "w1")]
    one, again, other = (faults.plan(seed, choices, count=50) for seed in (7, 7, 8))
    assert one == again != other
    assert {(fault.verb, fault.target) for fault in one} == set(choices)
    assert all(0 <= fault.down <= 1.5 and 0.1 <= fault.gap <= 1.5 for fault in one)
