"""A `lote up` of one test run: start it, read its `lote.env`, stop or kill it, and see that nothing of it is left.

The binary is the one named by the environment variable LOTE_BIN. Everything it writes lies in one folder below the
system's temporary folder; its path is short because Unix sockets have at most 107 characters.
"""

from __future__ import annotations

import ctypes
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

# Set in the server's own environment; a task that sees it shows a leak.
CANARY = "LOTE_CLIENTS_TEST_CANARY"


def wait_for(what, predicate, timeout=30.0, interval=0.1):
    """Calls `predicate` until it returns something true, and returns that."""
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout:g} s still waiting for {what}; last seen: {value!r}")
        time.sleep(interval)


def binary() -> Path:
    path = os.environ.get("LOTE_BIN")
    if not path:
        raise RuntimeError("LOTE_BIN is not set: run these tests with `cargo xtask test clients`")
    if not os.access(path, os.X_OK):
        raise RuntimeError(f"LOTE_BIN names {path}, which is no program")
    return Path(path).resolve()


@dataclass(frozen=True)
class Endpoints:
    """What `lote.env` says."""

    batch_account: str
    batch_key: str
    batch_url: str
    storage_account: str
    storage_key: str
    blob_url: str
    connection_string: str

    NAMES = {
        "batch_account": "AZURE_BATCH_ACCOUNT",
        "batch_key": "AZURE_BATCH_ACCESS_KEY",
        "batch_url": "AZURE_BATCH_ENDPOINT",
        "storage_account": "AZURE_STORAGE_ACCOUNT",
        "storage_key": "AZURE_STORAGE_KEY",
        "blob_url": "AZURE_STORAGE_BLOB_ENDPOINT",
        "connection_string": "AZURE_STORAGE_CONNECTION_STRING",
    }

    @classmethod
    def read(cls, path: Path) -> "Endpoints":
        values = {}
        for line in path.read_text().splitlines():
            if not line.strip() or line.startswith("#"):
                continue
            assert re.fullmatch(r"[A-Z_]+='.*'", line), f"not a KEY='value' line in {path}: {line!r}"
            (pair,) = shlex.split(line)
            name, value = pair.split("=", 1)
            values[name] = value
        missing = [name for name in cls.NAMES.values() if not values.get(name)]
        assert not missing, f"{path} lacks {missing}"
        return cls(**{field: values[name] for field, name in cls.NAMES.items()})


def _die_with_parent():
    """In the child: SIGTERM when the test process dies, so that an interrupted run leaves nothing behind."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


class Cluster:
    """One data folder and, while running, one `lote up` on it."""

    def __init__(self, name: str, workers: int = 2, ports: dict[str, int] | None = None):
        self.home = Path(tempfile.mkdtemp(prefix=f"lote-{name}-"))
        self.data_dir = self.home / "data"
        self.log = self.home / "lote.log"
        self.workers = workers
        self.ports = ports or {"batch": 0, "blob": 0, "p2p": 0}
        self.process: subprocess.Popen | None = None
        self.endpoints: Endpoints | None = None

    # -- life ---------------------------------------------------------------------------------------------------

    def command(self) -> list[str]:
        ports = [f"--{name}-port={port}" for name, port in self.ports.items()]
        return [str(binary()), "up", "--data-dir", str(self.data_dir), *ports, "--workers", str(self.workers)]

    def start(self, timeout: float = 60.0) -> Endpoints:
        """Starts it and waits until it has written its `lote.env`."""
        assert self.process is None, "it is already running"
        written = self.data_dir / "lote.env"
        written.unlink(missing_ok=True)
        environment = dict(os.environ, **{CANARY: "leak", "RUST_BACKTRACE": "1"})
        with self.log.open("ab") as log:
            log.write(f"--- {shlex.join(self.command())}\n".encode())
            log.flush()
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self.home,
                preexec_fn=_die_with_parent,
            )

        def ready():
            code = self.process.poll()
            assert code is None, f"lote up ended with {code} before it was ready:\n{self.log_tail()}"
            return written.exists()

        try:
            wait_for("lote.env", ready, timeout, interval=0.05)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log_tail()}") from None
        self.endpoints = Endpoints.read(written)
        return self.endpoints

    def stop(self, timeout: float = 30.0) -> None:
        """SIGTERM, as a user would; it has to end by itself, with code 0, and nothing of it may be left."""
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"lote up did not end {timeout:g} s after SIGTERM\n{self.log_tail()}") from None
        assert code == 0, f"lote up ended with {code} after SIGTERM\n{self.log_tail()}"
        self.assert_nothing_left()

    def kill(self) -> None:
        """`kill -9` of `lote up` itself; its keepers and their tasks are not touched."""
        process, self.process = self.process, None
        process.kill()
        process.wait()

    def remove(self) -> None:
        """Ends what is left, whatever it takes, and removes the folder."""
        if self.process is not None:
            self.kill()
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        shutil.rmtree(self.home, ignore_errors=True)

    # -- looking at it ------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        return self.process.pid

    def resident_mib(self) -> float:
        """Resident memory of `lote up` in MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"^VmRSS:\s+(\d+) kB$", status, re.M).group(1)) / 1024

    def processes(self) -> dict[int, str]:
        """Every process that has to do with the data folder: by command line, environment or current directory."""
        return processes_naming(str(self.data_dir))

    def assert_nothing_left(self, timeout: float = 10.0) -> None:
        try:
            wait_for("the end of every process", lambda: not self.processes(), timeout)
        except AssertionError:
            raise AssertionError(
                f"{timeout:g} s after the stop these are left: {self.processes()}\n{self.log_tail()}"
            ) from None

    def log_tail(self, lines: int = 60) -> str:
        if not self.log.exists():
            return "(no log)"
        text = self.log.read_bytes()[-64 * 1024 :].decode(errors="replace")
        return "\n".join(["--- the end of lote's log:", *text.splitlines()[-lines:]])


def processes_naming(text: str) -> dict[int, str]:
    """Live processes other than this one whose command line, environment or directory contains `text`."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            seen = command + "\n" + (entry / "environ").read_bytes().decode(errors="replace")
            seen += "\n" + os.readlink(entry / "cwd")
        except (OSError, IndexError):
            continue  # it ended meanwhile, or is a zombie
        if state not in "ZX" and text in seen:
            found[int(entry.name)] = command
    return found


def free_ports() -> dict[str, int]:
    """Ports that stay the same over a restart.

    They lie below the range of outgoing connections: a client that keeps dialling a closed port inside that range
    may connect to itself and keep the server from coming back.
    """
    ports = []
    while len(ports) < 3:
        port = random.randrange(12_000, 30_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return dict(zip(["batch", "blob", "p2p"], ports))
