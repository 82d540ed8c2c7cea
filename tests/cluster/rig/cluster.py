"""A Lote cluster on the hosts of a network: one member a host, and a further host for the clients.

`LoteCluster` is the real thing, `OneMachine` the embedded one of `lote up`; both can be broken, asked and given load in
the same way, so that trials do not care which it is.
"""

from __future__ import annotations

import signal
from pathlib import Path

from lote_cluster import Endpoints, wait_for
from rig import cli, names
from rig.names import send_signal
from rig.network import Host, Network
from rig.process import Process, crash_host, freeze_host, thaw_host

START_TIMEOUT = 60.0


class Member:
    """One process of Lote with its data folder, on a host of its own."""

    def __init__(self, host: Host, folder: Path):
        self.host = host
        self.data_dir = folder / host.name
        self.log = folder / f"{host.name}.log"
        self.process: Process | None = None
        #: Another build than the one under test, if it runs one.
        self.program: Path | None = None

    def __repr__(self):
        return self.host.name

    def command(self, token: str | None = None) -> list[str]:
        raise NotImplementedError

    def start(self, token: str | None = None) -> None:
        assert self.process is None or not self.process.is_running(), f"{self} runs already"
        command = self.command(token)
        if self.program:
            command[0] = str(self.program)
        self.process = Process(self.host, command, self.log, cli.ENVIRONMENT)

    def is_ready(self) -> bool:
        """Whether it serves; fails if it ended instead."""
        code = self.process.exit_code()
        if code is not None and (refusal := cli.refusal_of(self.process.log_tail())):
            raise refusal
        assert code is None, f"{self} ended with {code} instead of serving\n{self.process.log_tail()}"
        return True

    def wait_until_ready(self, timeout: float = START_TIMEOUT) -> None:
        wait_for(f"{self} to be ready", self.is_ready, timeout, interval=0.05)

    def stop(self) -> None:
        code = self.process.stop()
        assert code == 0, f"{self} ended with {code} after SIGTERM\n{self.process.log_tail()}"

    def change_build(self, program: Path | None) -> None:
        """Stops it in good order and starts it again with another build; None is the one under test."""
        self.stop()
        self.program = program
        self.start()
        self.wait_until_ready()

    def kill(self) -> None:
        """`kill -9` of this process; on a worker, its keeper and tasks live on."""
        self.process.kill()

    def crash(self) -> None:
        """Everything on its host is gone."""
        crash_host(self.host)
        self.process.kill()  # which also reaps it

    def freeze(self) -> None:
        self.process.freeze()

    def thaw(self) -> None:
        self.process.thaw()

    def freeze_all(self) -> None:
        """Everything on its host stands still."""
        freeze_host(self.host)

    def thaw_all(self) -> None:
        thaw_host(self.host)


class Coordinator(Member):
    #: Whose place it takes when it joins.
    replaces: str | None = None

    def command(self, token=None):
        return cli.coordinator(self.data_dir, self.host, token, self.replaces if token else None)

    def start(self, token=None):
        cli.env_file(self.data_dir).unlink(missing_ok=True)
        super().start(token)

    def is_ready(self):
        return super().is_ready() and cli.env_file(self.data_dir).exists()

    def endpoints(self) -> Endpoints:
        return cli.endpoints(self.data_dir)

    def status(self) -> dict | None:
        return cli.status(self.host, self.data_dir)


class Embedded(Coordinator):
    """`lote up`: coordinator and workers in one process."""

    def __init__(self, host, folder, lease):
        super().__init__(host, folder)
        self.lease = lease

    def command(self, token=None):
        return cli.up(self.data_dir, self.lease)


class Worker(Member):
    def __init__(self, host, folder, cores):
        super().__init__(host, folder)
        self.cores = cores

    def command(self, token=None):
        return cli.worker(self.data_dir, self.host, self.cores, token)

    def kill_keeper(self) -> None:
        """`kill -9` of the process that owns the tasks."""
        for pid in wait_for(f"a keeper on {self.host}", lambda: cli.keepers(self.host), 30):
            send_signal(pid, signal.SIGKILL)


class OneMachine:
    """`lote up` on one host; its clients are on the same one, for it serves loopback only."""

    def __init__(self, network: Network, folder: Path, lease: float = 60.0):
        self.network = network
        self.lease = lease
        self.client = network.add("up")
        self.coordinators = {"up": Embedded(self.client, folder, lease)}
        self.workers: dict[str, Worker] = {}

    def start(self) -> None:
        (only,) = self.coordinators.values()
        only.start()
        only.wait_until_ready()

    @property
    def members(self) -> dict[str, Member]:
        return {**self.coordinators, **self.workers}

    @property
    def hosts(self) -> list[Host]:
        return list(self.network.hosts.values())

    def endpoints(self) -> list[Endpoints]:
        """Of every coordinator that has served so far."""
        return [c.endpoints() for c in self.coordinators.values() if cli.env_file(c.data_dir).exists()]


class LoteCluster(OneMachine):
    """Coordinators `c1`, `c2`, … and workers `w1`, `w2`, …, each on its host, and clients on `client`."""

    def __init__(
        self, network: Network, folder: Path, coordinators=3, workers=4, lease: float = 2.0, cores: int = 2
    ):
        self.network = network
        self.folder = folder
        self.lease = lease
        self.cores = cores
        self.client = network.add("client")
        self.coordinators: dict[str, Coordinator] = {}
        self.workers = {}
        self._planned = (coordinators, workers)
        self._made = 0

    @classmethod
    def restored(cls, network: Network, folder: Path, backup: Path, lease: float = 2.0) -> "LoteCluster":
        """A cluster on further hosts of this network, whose first coordinator has a backup and was not started."""
        fresh = cls.__new__(cls)
        fresh.network, fresh.folder, fresh.lease, fresh.cores = network, folder, lease, 2
        fresh.client = network.hosts["client"]
        fresh.coordinators, fresh.workers = {}, {}
        fresh._planned = (1, 0)
        fresh._made = sum(name.startswith("c") and name[1:].isdigit() for name in network.hosts)
        first = fresh._new_coordinator()
        #: What the restoring said.
        fresh.made = cli.restore(first.host, backup, first.data_dir)
        return fresh

    def start(self) -> None:
        coordinators, workers = self._planned
        first = self._new_coordinator()
        cli.init(first.host, first.data_dir, self.lease)
        first.start()
        first.wait_until_ready()
        for _ in range(1, coordinators):
            self.add_coordinator()
        # An even number of coordinators has one that only learns.
        voting = coordinators - 1 + coordinators % 2
        wait_for(f"{voting} voters", lambda: len(self.voters()) == voting, START_TIMEOUT)
        for _ in range(workers):
            self.add_worker()

    def add_coordinator(self) -> Coordinator:
        """Joins a further coordinator and waits until it serves."""
        token = self.token("coordinator")
        member = self._new_coordinator()
        member.start(token)
        member.wait_until_ready()
        return member

    def replace_lost(self, name: str) -> Coordinator:
        """A coordinator and its disk are gone; another one, with a name of its own, takes its place."""
        lost = self.coordinators.pop(name)
        lost.crash()
        names.remove_folder(lost.data_dir)
        token = self.token("coordinator")
        member = self._new_coordinator()
        member.replaces = name
        member.start(token)
        member.wait_until_ready()
        return member

    def add_worker(self) -> Worker:
        """Joins a further worker; whether it has nodes is for the pool to say."""
        token = self.token("worker")
        member = self.new_worker()
        member.start(token)
        return member

    def new_worker(self) -> Worker:
        """A further host with nothing on it yet."""
        taken = sum(name.startswith("w") and name[1:].isdigit() for name in self.network.hosts)
        host = self.network.add(f"w{taken + 1}")
        member = self.workers[host.name] = Worker(host, self.folder, self.cores)
        return member

    def _new_coordinator(self) -> Coordinator:
        self._made += 1
        host = self.network.add(f"c{self._made}")
        member = self.coordinators[host.name] = Coordinator(host, self.folder)
        return member

    def token(self, role: str, uses: int = 1, expires: str = "1h") -> str:
        """Of any coordinator that answers."""
        asked = self._running()[0]
        return cli.token(asked.host, asked.data_dir, role, uses, expires)

    def remove_coordinator(self, name: str) -> None:
        """Takes a coordinator out of the cluster, then ends it."""
        member = self.coordinators.pop(name)
        asked = self._running()[0]
        cli.remove(asked.host, asked.data_dir, name)
        if member.process.is_running():
            member.process.stop()

    def voters(self) -> set[str]:
        """The names of the coordinators that vote."""
        asked = self._running()[0]
        status = asked.status()
        return cli.voters(status) if status else set()

    def _running(self) -> list[Coordinator]:
        return [c for c in self.coordinators.values() if c.process and c.process.is_running()]

    # -- who leads ------------------------------------------------------------------------------------------------

    def leader(self, timeout: float = 30.0) -> Coordinator:
        """Who leads in the highest term, once somebody does."""
        return wait_for("a leader", self._leader, timeout, interval=0.2)

    def _leader(self) -> Coordinator | None:
        told = [(status, c) for c in self._running() if (status := c.status())]
        leading = [(cli.term(status), c) for status, c in told if cli.is_leader(status)]
        return max(leading, key=lambda pair: pair[0])[1] if leading else None

    def followers(self) -> list[Coordinator]:
        leader = self.leader()
        return [c for c in self.coordinators.values() if c is not leader]
