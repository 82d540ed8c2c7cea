"""A cluster of separate processes: `lote init`, `lote coordinator`, `lote worker`, each with a data folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from lote_cluster import Endpoints, _die_with_parent, binary, free_ports, processes_naming, wait_for


class Members:
    """Starts members and ends them all; everything lies below one folder."""

    def __init__(self, lease: str = "60s"):
        self.home = Path(tempfile.mkdtemp(prefix="lote-members-"))
        self.running: dict[str, subprocess.Popen] = {}
        self.lease = lease
        self.binds: dict[str, list[str]] = {}

    def data(self, name: str) -> Path:
        return self.home / name

    def log(self, name: str) -> str:
        path = self.home / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def run(self, *arguments: str, timeout: float = 60.0) -> tuple[int, str]:
        """Runs `lote` to its end; gives the exit code and everything it said."""
        done = subprocess.run(
            [str(binary()), *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=timeout, text=True, cwd=self.home,
        )  # fmt: skip
        assert "panicked" not in done.stdout, done.stdout
        return done.returncode, done.stdout

    def ok(self, *arguments: str) -> str:
        code, said = self.run(*arguments)
        assert code == 0, f"{arguments} ended with {code}: {said}"
        return said

    def operate(self, *arguments: str, at: str = "c1"):
        """An operator's command at a coordinator, answered in JSON."""
        return json.loads(self.ok(*arguments, "--data-dir", str(self.data(at)), "--output", "json"))

    # -- members ------------------------------------------------------------------------------------------------

    def start(self, name: str, *arguments: str) -> subprocess.Popen:
        with (self.home / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [str(binary()), "--log", "info", *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=self.home, env=dict(os.environ, NO_COLOR="1"), preexec_fn=_die_with_parent,
            )  # fmt: skip
        self.running[name] = process
        return process

    def found(self, *more: str, **binds: str) -> Endpoints:
        """Makes the cluster and starts its first coordinator."""
        self.ok("init", "--data-dir", str(self.data("c1")), "--lease", self.lease, "--name", "c1")
        binds = [f"--{name}-bind={binds.get(name, '127.0.0.1:0')}" for name in ("batch", "blob", "p2p", "join")]
        self.binds["c1"] = binds
        process = self.start("c1", "coordinator", "--data-dir", str(self.data("c1")), *binds, *more)
        written = self.data("c1") / "lote.env"

        def ready():
            assert process.poll() is None, self.log("c1")
            return written.exists()

        wait_for("the coordinator", ready, 120)
        return Endpoints.read(written)

    def coordinator(self, name: str, *arguments: str) -> Endpoints:
        """Starts a further coordinator, or one that ran before, and waits until it answers."""
        written = self.data(name) / "lote.env"
        written.unlink(missing_ok=True)
        binds = []
        if "--join" in arguments:
            ports = free_ports()
            binds = [f"--{name}-bind=127.0.0.1:{ports[name]}" for name in ports] + ["--join-bind=127.0.0.1:0"]
            self.binds[name] = binds
        process = self.start(
            name, "coordinator", "--data-dir", str(self.data(name)), "--name", name, *self.binds[name], *arguments
        )

        def ready():
            assert process.poll() is None, self.log(name)
            return written.exists()

        wait_for(f"coordinator {name}", ready, 120)
        return Endpoints.read(written)

    def endpoints(self, name: str) -> Endpoints:
        return Endpoints.read(self.data(name) / "lote.env")

    def kill(self, *names: str) -> None:
        for name in names:
            self.running[name].send_signal(signal.SIGKILL)
            self.running[name].wait()

    def token(self, *arguments: str, at: str = "c1") -> str:
        return self.operate("token", "create", *arguments, at=at)["token"]

    def worker(self, name: str, *arguments: str) -> subprocess.Popen:
        """Starts a worker and waits until it is up, or has ended."""
        said = len(self.log(name))
        process = self.start(
            name, "worker", "--data-dir", str(self.data(name)), "--name", name, "--cores", "4", *arguments
        )
        wait_for(f"worker {name}", lambda: "is up" in self.log(name)[said:] or process.poll() is not None, 120)
        return process

    def refused(self, name: str, *arguments: str) -> str:
        """Starts a worker that has to end by itself, with an error; gives what it said."""
        code, said = self.run("worker", "--data-dir", str(self.data(name)), "--name", name, *arguments)
        assert code != 0, said
        return said

    def members(self, at: str = "c1") -> dict[str, dict]:
        return {member["name"]: member for member in self.operate("host", "list", at=at)["members"]}

    def end(self) -> None:
        """Ends everything, keepers included, and removes the folder."""
        for process in self.running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
        for pid in processes_naming(str(self.home)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        shutil.rmtree(self.home, ignore_errors=True)


def voters(members: Members, asked: str) -> set[str]:
    """The names of the coordinators that vote, as the asked one has them."""
    return {member["name"] for member in members.operate("status", at=asked)["members"] if member.get("voter")}
