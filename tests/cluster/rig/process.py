"""Processes on hosts, one by one or all of a host: start, stop, `kill -9`, freeze and thaw."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

from rig import names
from rig.network import Host


class Process:
    """One program on one host; its output goes to a log file that outlives restarts."""

    def __init__(self, host: Host, command: list[str], log: Path, environment: dict[str, str] | None = None):
        self.host = host
        self.command = command
        self.log = log
        with log.open("ab") as output:
            output.write(f"--- {shlex.join(command)}\n".encode())
            output.flush()
            # The child inherits the network of the thread that starts it; no code runs between fork and exec.
            with host.entered():
                self._child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env={**os.environ, **(environment or {})},
                    cwd=log.parent,
                    start_new_session=True,
                )

    def __repr__(self):
        return f"{self.host}: {Path(self.command[0]).name} ({self.pid})"

    @property
    def pid(self) -> int:
        return self._child.pid

    def exit_code(self) -> int | None:
        """None while it runs; negative if a signal ended it."""
        return self._child.poll()

    def is_running(self) -> bool:
        return self.exit_code() is None

    def stop(self, timeout: float = 30.0) -> int:
        """SIGTERM; it has to end by itself. Gives its exit code."""
        self._child.send_signal(signal.SIGTERM)
        try:
            return self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            message = f"{self} did not end {timeout:g} s after SIGTERM\n{self.log_tail()}"
            raise AssertionError(message) from None

    def kill(self) -> None:
        """`kill -9` of this process alone; what it has started is not touched."""
        self._child.kill()
        self._child.wait(10)

    def freeze(self) -> None:
        """Stopped where it stands, until `thaw`."""
        freeze(self.pid)

    def thaw(self) -> None:
        names.send_signal(self.pid, signal.SIGCONT)

    def log_tail(self, lines: int = 40) -> str:
        return log_tail(self.log, lines)


def log_tail(log: Path, lines: int = 40) -> str:
    if not log.exists():
        return f"({log} is not there)"
    text = log.read_bytes()[-64 * 1024 :].decode(errors="replace")
    return "\n".join([f"--- the end of {log}:", *text.splitlines()[-lines:]])


def state_of(pid: int) -> str:
    """The letter of `/proc/PID/stat`: R and S run, T is stopped; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def freeze(pid: int, timeout: float = 5.0) -> None:
    """SIGSTOP, and back once it has stopped or is gone."""
    names.send_signal(pid, signal.SIGSTOP)
    deadline = time.monotonic() + timeout
    while state_of(pid) not in ("T", "Z", "X", ""):
        assert time.monotonic() < deadline, f"process {pid} has not stopped for {timeout:g} s"
        time.sleep(0.002)


def freeze_host(host: Host, timeout: float = 10.0) -> None:
    """Every process of the host stands still, those included that were started meanwhile."""
    deadline = time.monotonic() + timeout
    while moving := [pid for pid in host.pids() if state_of(pid) not in ("T", "Z", "X", "")]:
        assert time.monotonic() < deadline, f"after {timeout:g} s these still move on {host}: {moving}"
        for pid in moving:
            freeze(pid)


def thaw_host(host: Host) -> None:
    for pid in host.pids():
        names.send_signal(pid, signal.SIGCONT)


def crash_host(host: Host) -> None:
    """Every process of the host is gone, as after a loss of power; its disk stays."""
    names.kill_all_in(host.namespace)
