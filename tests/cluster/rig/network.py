"""Hosts as network namespaces, joined by one bridge that lies in a namespace of its own.

```text
   lt…-1-bridge            lt…-1-c1                lt…-1-client
   br0 ── p1 ───────────── eth0 10.77.1.1
      └── p2 ─────────────────────────────────────  eth0 10.77.1.2
```

Nothing of the machine's own network is touched: each link is made inside the bridge's namespace with its other end in
the host's. Every host knows the hardware address of every other from the start. A *cut* from A to B replaces that entry
in A by the address of nobody, so A's packets to B vanish in silence, as on a broken path: no error, no refusal, and
nothing changes for the way back or for others. *Unplugging* takes the bridge's port down instead, which A can see.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from contextlib import contextmanager

from rig import names

NOBODY = "02:4c:54:ff:ff:ff"
HOSTS_MAX = 200

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000


def lacking() -> str | None:
    """Why this machine cannot carry the rig, or None if it can."""
    if os.geteuid() != 0:
        return "it needs root, for network namespaces"
    missing = [tool for tool in ("ip", "tc", "mount", "umount") if shutil.which(tool) is None]
    if missing:
        return f"it needs {' and '.join(missing)} (Debian: iproute2, mount)"
    probe = names.new_prefix() + "-probe"
    try:
        ip("netns", "add", probe)
        try:
            ip("-n", probe, "link", "add", "br0", "type", "bridge")
            ip("-n", probe, "link", "add", "p1", "type", "veth", "peer", "name", "p2")
            run("tc", "-n", probe, "qdisc", "replace", "dev", "p1", "root", *_tbf(1.0))
        finally:
            ip("netns", "del", probe)
    except AssertionError as error:
        return f"this kernel does not give what it needs: {error}"
    return None


def run(*command: str) -> str:
    """Runs a tool and gives what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr.strip()}"
    return done.stdout


def ip(*arguments: str) -> str:
    return run("ip", *arguments)


def _tbf(mbit: float) -> list[str]:
    """A token bucket of this rate; a packet waits in it for 400 ms at most."""
    burst = max(32_000, int(mbit * 1e6 / 8 / 100))
    return ["tbf", "rate", f"{mbit}mbit", "burst", str(burst), "latency", "400ms"]


class Host:
    """One machine of the network; made by `Network.add`."""

    def __init__(self, network: "Network", name: str, number: int):
        self.network = network
        self.name = name
        self.number = number
        self.namespace = f"{network.prefix}-{name}"
        self.address = f"10.77.{network.number}.{number}"
        self.hardware = f"02:4c:54:00:00:{number:02x}"
        self.port = f"p{number}"  # the bridge's end of its cable

    def __repr__(self):
        return self.name

    def ip(self, *arguments: str) -> str:
        return ip("-n", self.namespace, *arguments)

    def pids(self) -> list[int]:
        return names.pids_in(self.namespace)

    @property
    def inode(self) -> int:
        """How a process of this host sees it: the number in `readlink /proc/self/ns/net`."""
        return os.stat(names.NAMESPACES / self.namespace).st_ino

    @contextmanager
    def entered(self):
        """The calling thread, and what it starts, is on this host inside the block."""
        before = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
        there = os.open(names.NAMESPACES / self.namespace, os.O_RDONLY)
        try:
            _enter(there)
            try:
                yield self
            finally:
                _enter(before)
        finally:
            os.close(there)
            os.close(before)


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


class Network:
    """A bridge and its hosts. Used as a context manager, so that nothing stays."""

    _numbers = iter(range(1, 255))

    def __init__(self):
        self.number = next(self._numbers)
        self.prefix = names.new_prefix()
        self.bridge = f"{self.prefix}-bridge"
        self.hosts: dict[str, Host] = {}
        self._cuts: set[tuple[str, str]] = set()

    def __enter__(self) -> "Network":
        ip("netns", "add", self.bridge)
        ip("-n", self.bridge, "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0")
        ip("-n", self.bridge, "link", "set", "br0", "up")
        return self

    def __exit__(self, *_):
        for host in list(self.hosts.values()):
            names.kill_all_in(host.namespace)
            ip("netns", "del", host.namespace)
        ip("netns", "del", self.bridge)
        self.hosts.clear()

    def add(self, name: str) -> Host:
        """A further machine, connected to all others."""
        assert name not in self.hosts and len(self.hosts) < HOSTS_MAX, name
        host = Host(self, name, len(self.hosts) + 1)
        ip("netns", "add", host.namespace)
        others = list(self.hosts.values())
        self.hosts[name] = host
        peer = ["peer", "name", "eth0", "address", host.hardware, "netns", host.namespace]
        ip("-n", self.bridge, "link", "add", host.port, "type", "veth", *peer)
        ip("-n", self.bridge, "link", "set", host.port, "master", "br0", "up")
        host.ip("link", "set", "lo", "up")
        host.ip("address", "add", f"{host.address}/24", "dev", "eth0")
        host.ip("link", "set", "eth0", "up")
        for other in others:
            self._lead(host, other, other.hardware)
            self._lead(other, host, host.hardware)
        return host

    # -- cutting and healing ------------------------------------------------------------------------------------

    def cut_one_way(self, sender: Host, receiver: Host) -> None:
        """What `sender` sends to `receiver` vanishes; the way back stays."""
        self._lead(sender, receiver, NOBODY)
        self._cuts.add((sender.name, receiver.name))

    def cut(self, one: Host, *others: Host) -> None:
        """Nothing passes between `one` and `others` (everybody, if none are named), in silence."""
        for other in others or self._but(one):
            self.cut_one_way(one, other)
            self.cut_one_way(other, one)

    def part(self, side: list[Host]) -> None:
        """Splits the network in two: `side`, and everybody else."""
        for one in side:
            for other in self._but(*side):
                self.cut(one, other)

    def heal(self) -> None:
        """Undoes every cut; what is unplugged or slow stays so."""
        for sender, receiver in sorted(self._cuts):
            self._lead(self.hosts[sender], self.hosts[receiver], self.hosts[receiver].hardware)
        self._cuts.clear()

    def unplug(self, host: Host) -> None:
        """The cable is pulled: the host sees that its link is down."""
        ip("-n", self.bridge, "link", "set", host.port, "down")

    def plug(self, host: Host) -> None:
        ip("-n", self.bridge, "link", "set", host.port, "up")

    def _but(self, *hosts: Host) -> list[Host]:
        return [other for other in self.hosts.values() if other not in hosts]

    def _lead(self, sender: Host, receiver: Host, hardware: str) -> None:
        entry = [receiver.address, "lladdr", hardware, "dev", "eth0", "nud", "permanent"]
        sender.ip("neighbour", "replace", *entry)

    # -- speed --------------------------------------------------------------------------------------------------

    def slow(self, host: Host, mbit: float) -> None:
        """Both directions of the host's link carry this much at most."""
        run("tc", "-n", host.namespace, "qdisc", "replace", "dev", "eth0", "root", *_tbf(mbit))
        run("tc", "-n", self.bridge, "qdisc", "replace", "dev", host.port, "root", *_tbf(mbit))

    def full_speed(self, host: Host) -> None:
        run("tc", "-n", host.namespace, "qdisc", "del", "dev", "eth0", "root")
        run("tc", "-n", self.bridge, "qdisc", "del", "dev", host.port, "root")
