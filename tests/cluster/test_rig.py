"""The rig's own tests: each verb does what it says, and undoing it undoes it."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from lote_cluster import wait_for
from rig import names
from rig.disk import Disk
from rig.process import Process, crash_host, freeze_host, state_of, thaw_host

PORT = 9000


class Ear:
    """A UDP socket on a host: what it hears, it gives once."""

    def __init__(self, host):
        with host.entered():
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((host.address, PORT))
        self.host = host

    def hears(self, sender: "Ear", timeout: float = 0.2) -> bool:
        """Whether words of this sender arrive here. Silence takes the whole time, so it is short: one bridge away."""
        words = os.urandom(8)
        sender.socket.sendto(words, (self.host.address, PORT))
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                if self.socket.recv(100) == words:
                    return True
            except TimeoutError:
                break
        return False


@pytest.fixture
def ears(network):
    """Three hosts that can listen and speak; `ears(pairs)` expects these to hear each other: "ab" is a hears b."""
    ears = {name: Ear(network.add(name)) for name in "abc"}

    def hearing() -> set[str]:
        pairs = [(one, other) for one in ears for other in ears if one != other]
        return {f"{one}{other}" for one, other in pairs if ears[one].hears(ears[other])}

    def expect(pairs: set[str]):
        # Again, if a busy machine was slow to deliver; what is not cut is heard each time.
        wait_for(f"{pairs} to be who hears whom", lambda: hearing() == pairs, timeout=10)

    yield expect
    for ear in ears.values():
        ear.socket.close()


ALL = {"ab", "ac", "ba", "bc", "ca", "cb"}


def test_hosts_hear_each_other_and_nobody_else(network, ears):
    ears(ALL)
    assert "10.77." not in subprocess.run(["ip", "address"], capture_output=True, text=True).stdout
    routes = network.hosts["a"].ip("route").splitlines()
    assert len(routes) == 1 and "dev eth0" in routes[0], f"a way out: {routes}"


def test_cut(network, ears):
    a, b, c = network.hosts.values()
    network.cut(a)
    ears({"bc", "cb"})
    network.heal()
    ears(ALL)
    network.cut(a, b)
    ears(ALL - {"ab", "ba"})
    network.heal()
    network.part([a, c])
    ears({"ac", "ca"})
    network.heal()
    ears(ALL)


def test_cut_one_way(network, ears):
    a, b, _ = network.hosts.values()
    network.cut_one_way(a, b)
    ears(ALL - {"ba"})
    network.heal()
    ears(ALL)


def test_unplug(network, ears):
    a = network.hosts["a"]
    network.unplug(a)
    ears({"bc", "cb"})
    assert "NO-CARRIER" in a.ip("link", "show", "eth0")
    network.plug(a)
    ears(ALL)


def test_a_cut_breaks_a_connection_in_silence(network):
    """Neither side is told anything; after healing what was sent arrives."""
    a, b = network.add("a"), network.add("b")
    with b.entered():
        listener = socket.create_server((b.address, PORT))
    with a.entered():
        caller = socket.create_connection((b.address, PORT), timeout=5)
    callee, _ = listener.accept()
    callee.settimeout(0.3)
    network.cut(a, b)
    caller.sendall(b"x")
    with pytest.raises(TimeoutError):
        callee.recv(1)
    with a.entered(), pytest.raises(TimeoutError):
        socket.create_connection((b.address, PORT), timeout=0.3)
    network.heal()
    callee.settimeout(30)
    assert callee.recv(1) == b"x"
    for end in (caller, callee, listener):
        end.close()


def transfer(sender, receiver, size: int) -> float:
    """Seconds that this many bytes take from host to host."""
    with receiver.entered():
        listener = socket.create_server((receiver.address, PORT))
    with sender.entered():
        caller = socket.create_connection((receiver.address, PORT), timeout=5)
    callee, _ = listener.accept()
    begun = time.monotonic()

    def send():
        caller.sendall(bytes(size))
        caller.close()

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    callee.settimeout(30)
    received = 0
    while part := callee.recv(1 << 16):
        received += len(part)
    thread.join(30)
    assert received == size
    callee.close()
    listener.close()
    return time.monotonic() - begun


def test_slow(network):
    """8 Mbit/s carry 1 000 000 bytes in a second, in both directions, and not in less, but for the bucket."""
    a, b = network.add("a"), network.add("b")
    network.slow(a, mbit=8)
    assert transfer(a, b, 1_000_000) > 0.8
    assert transfer(b, a, 1_000_000) > 0.8
    network.full_speed(a)
    for host, device in [(a.namespace, "eth0"), (network.bridge, a.port)]:
        shown = subprocess.run(["tc", "-n", host, "qdisc", "show", "dev", device], capture_output=True, text=True)
        assert "tbf" not in shown.stdout


TICKER = "import time, sys\nwhile True: print(time.monotonic(), flush=True); time.sleep(0.01)"
#: Starts a child with a session of its own, and a further one every 20 ms, as keepers start tasks.
FAMILY = (
    "import subprocess, time\n"
    "subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
    "while True: subprocess.Popen(['sleep', '1000']); time.sleep(0.02)"
)


def ticks(process) -> int:
    return process.log.stat().st_size


def test_processes_run_on_their_host(network, folder):
    a = network.add("a")
    process = Process(a, [sys.executable, "-c", TICKER], folder / "ticker.log")
    assert a.pids() == [process.pid]
    assert os.stat(f"/proc/{process.pid}/ns/net").st_ino == a.inode
    assert process.stop() == -signal.SIGTERM
    assert a.pids() == [] and not process.is_running()


def test_freeze_one_process(network, folder):
    a = network.add("a")
    process = Process(a, [sys.executable, "-c", TICKER], folder / "ticker.log")
    wait_for("the first ticks", lambda: ticks(process) > 200)
    process.freeze()
    before = ticks(process)
    time.sleep(0.3)
    assert ticks(process) == before
    process.thaw()
    wait_for("further ticks", lambda: ticks(process) > before)
    process.kill()
    assert process.exit_code() == -signal.SIGKILL


def test_freeze_and_crash_a_host(network, folder):
    """Everything on the host, sessions of their own included, and nothing on another one."""
    a, b = network.add("a"), network.add("b")
    Process(a, [sys.executable, "-c", FAMILY], folder / "family.log")
    other = Process(b, [sys.executable, "-c", TICKER], folder / "ticker.log")
    wait_for("some children", lambda: len(a.pids()) > 5)
    freeze_host(a)
    frozen = sorted(a.pids())
    before = ticks(other)
    time.sleep(0.3)
    assert sorted(a.pids()) == frozen and {state_of(pid) for pid in frozen} == {"T"}
    assert ticks(other) > before
    thaw_host(a)
    wait_for("further children", lambda: len(a.pids()) > len(frozen))
    crash_host(a)
    assert a.pids() == []
    assert other.is_running()


def test_a_full_disk(folder):
    disk = Disk(folder / "data", mib=2)
    file = disk.folder / "file"
    file.write_bytes(bytes(4096))
    disk.fill()
    with pytest.raises(OSError, match="No space left"), file.open("ab") as more:
        more.write(bytes(4096))
    disk.free()
    with file.open("ab") as more:
        more.write(bytes(4096))
    assert file.stat().st_size == 8192
    assert not (disk.folder / "filler").exists()
    disk.remove()
    assert not file.exists()


CRASHING = """
import os, sys
from pathlib import Path
from rig import names
from rig.disk import Disk
from rig.network import Network
from rig.process import Process
network = Network().__enter__()
folder = names.temporary_folder() / network.prefix
folder.mkdir()
Disk(folder / "data", mib=1)
process = Process(network.add("a"), ["sleep", "1000"], folder / "sleep.log")
print(network.prefix, process.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_the_sweep_removes_what_a_crashed_run_left(network):
    mine = network.add("a")
    path = os.pathsep.join(entry for entry in sys.path if entry)
    crashed = subprocess.run(
        [sys.executable, "-c", CRASHING], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert crashed.returncode == -signal.SIGKILL, crashed.stderr
    prefix, pid = crashed.stdout.split()
    folder = names.temporary_folder() / prefix

    def left():
        mounts = open("/proc/self/mounts").read()
        kept = [state_of(int(pid)) not in ("", "Z"), (names.NAMESPACES / f"{prefix}-a").exists()]
        return [*kept, (names.NAMESPACES / f"{prefix}-bridge").exists(), folder.exists(), prefix in mounts]

    assert left() == [True] * 5, "the run has not left what the sweep is to remove"
    removed = names.sweep()
    assert {f"{prefix}-a", f"{prefix}-bridge", prefix} <= set(removed)
    wait_for("the end of its process", lambda: left() == [False] * 5)
    assert mine.ip("link", "show", "eth0"), "it removed what is in use"
    assert not any(name.startswith(names.own_prefix()) for name in removed)


def test_names_are_kept_apart_by_the_start_of_their_process():
    own = names.own_prefix()
    assert not names.is_left_over(own + "1-a")
    pid, start = own.removeprefix("lt").rstrip("-").split(".")
    assert names.is_left_over(f"lt{pid}.{int(start) - 1}-1-a"), "another process had this number before"
    assert not names.is_left_over("lt-something-else") and not names.is_left_over("other-1")
