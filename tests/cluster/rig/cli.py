"""The command lines of `lote`, and how to read what it prints. Nothing else in the rig knows them."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from pathlib import Path

from lote_cluster import Endpoints, binary
from rig.network import Host

BATCH, BLOB, P2P, JOIN = 11000, 11001, 11010, 11012

_LOG = "warn,lote=info,lote_coordinator=info,lote_worker=info,lote_shared=info"
ENVIRONMENT = {"LOTE_LOG": os.environ.get("LOTE_LOG", _LOG), "RUST_BACKTRACE": "1", "NO_COLOR": "1"}


@functools.cache
def has_clusters() -> bool:
    """Whether this `lote` can be more than one machine."""
    return subprocess.run([binary(), "init", "--help"], capture_output=True).returncode == 0


class NotBuilt(Exception):
    """This build of lote says of itself that it cannot do what was asked."""


def refusal_of(log: str) -> NotBuilt | None:
    """What a process that ended said it cannot do yet."""
    said = [line for line in log.splitlines() if "is not built yet" in line]
    return NotBuilt(said[-1].strip()) if said else None


# -- what runs --------------------------------------------------------------------------------------------------------


def up(data_dir: Path, lease: float) -> list[str]:
    """A whole cluster in one process, on loopback."""
    ports = [f"--batch-port={BATCH}", f"--blob-port={BLOB}", f"--p2p-port={P2P}"]
    return _lote("up", data_dir, *ports, "--workers=2", f"--lease-seconds={max(1, round(lease))}")


def coordinator(data_dir: Path, host: Host, token: str | None = None, replace: str | None = None) -> list[str]:
    """With a token it joins, perhaps in the place of another; without, it is what it was before."""
    binds = [
        f"--batch-bind={host.address}:{BATCH}",
        f"--blob-bind={host.address}:{BLOB}",
        f"--p2p-bind={host.address}:{P2P}",
        f"--join-bind={host.address}:{JOIN}",
        f"--advertise={host.address}",
        "--insecure-http",
    ]
    # Who was there before has its name already.
    named = [f"--name={host.name}"] if token else []
    instead = ["--replace", replace] if replace else []
    return _lote("coordinator", data_dir, *binds, *named, *instead, *_join(token))


def worker(data_dir: Path, host: Host, cores: int, token: str | None = None) -> list[str]:
    more = [f"--name={host.name}", f"--cores={cores}", f"--p2p-bind={host.address}:{P2P}"]
    return _lote("worker", data_dir, *more, *_join(token))


def _join(token: str | None) -> list[str]:
    return ["--join", token] if token else []


def _lote(command: str, data_dir: Path, *more: str) -> list[str]:
    return [str(binary()), command, "--data-dir", str(data_dir), *more]


# -- what is asked ----------------------------------------------------------------------------------------------------


def init(host: Host, data_dir: Path, lease: float) -> None:
    _ask(host, _lote("init", data_dir, "--lease", f"{lease:g}s", "--name", host.name))


def token(host: Host, data_dir: Path, role: str, uses: int, expires: str = "1h") -> str:
    """A join token, asked of the coordinator with this folder."""
    command = _lote("token", data_dir, "--role", role, "--uses", str(uses), "--expires", expires, "--output", "json")
    command.insert(2, "create")
    answer = json.loads(_ask(host, command))
    return answer["token"] if isinstance(answer, dict) else answer


def status(host: Host, data_dir: Path) -> dict | None:
    """What this coordinator says of the cluster; None if it does not answer."""
    try:
        return json.loads(_ask(host, _lote("status", data_dir, "--output", "json"), timeout=5.0))
    except (AssertionError, subprocess.TimeoutExpired):
        return None


def is_leader(status: dict) -> bool:
    """Whether the coordinator that was asked leads."""
    return status["replica"]["role"].lower() == "leader"


def term(status: dict) -> int:
    return int(status["replica"]["term"])


def applied(status: dict) -> int:
    """How far in the log the coordinator that was asked has applied."""
    return int(status["replica"]["appliedIndex"] or 0)


def voters(status: dict) -> set[str]:
    """The names of the coordinators that vote."""
    members = [member for member in status["members"] if member["role"] == "coordinator"]
    return {member["name"] for member in members if member.get("voter")}


def hosts(status: dict) -> set[str]:
    """The names of the joined hosts."""
    return {host["name"] for host in status["hosts"]}


def remove(host: Host, data_dir: Path, name: str) -> None:
    """Takes a member out of the cluster."""
    _ask(host, [str(binary()), "host", "remove", "--data-dir", str(data_dir), name])


def upgrade(host: Host, data_dir: Path, order: str) -> dict:
    """`hold`, `release` or `status` of the cluster version."""
    return json.loads(_ask(host, [str(binary()), "upgrade", order, "--data-dir", str(data_dir), "--output", "json"]))


def version(status: dict) -> int:
    """The cluster version, as the coordinator that was asked has it."""
    return int(status["version"]["cluster"])


def builds(status: dict) -> dict[str, int | None]:
    """The newest version that each coordinator supports; None for one that is silent."""
    members = [member for member in status["members"] if member["role"] == "coordinator"]
    return {member["name"]: member["supports"] and member["supports"]["newest"] for member in members}


def sessions(status: dict) -> set[str]:
    """The names of the hosts that have a session with the coordinator that was asked."""
    return {host["name"] for host in status["hosts"] if host["session"] is not None and host["state"] == "joined"}


def position(status: dict) -> tuple[int, str]:
    """How far the coordinator that was asked has applied, and the hash of its state there."""
    return applied(status), status["replica"]["stateHash"]


def backup(host: Host, data_dir: Path, destination: Path) -> dict:
    """Has the coordinator with this folder backed up; gives what it says of the backup."""
    command = [str(binary()), "backup", str(destination), "--data-dir", str(data_dir), "--output", "json"]
    return json.loads(_ask(host, command, timeout=120))


def restore(host: Host, source: Path, data_dir: Path) -> dict:
    command = [str(binary()), "restore", str(source), "--data-dir", str(data_dir), "--output", "json"]
    return json.loads(_ask(host, command, timeout=120))


def _ask(host: Host, command: list[str], timeout: float = 30.0) -> str:
    with host.entered():
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env={**os.environ, "LOTE_LOG": "warn"}
        )
    said = f"`{' '.join(command)}` on {host} ended with {done.returncode}: {done.stdout}{done.stderr}"
    assert done.returncode == 0, said
    return done.stdout


# -- what it leaves on the disk ---------------------------------------------------------------------------------------


def env_file(data_dir: Path) -> Path:
    """Written by a coordinator once its ports answer."""
    return data_dir / "lote.env"


def endpoints(data_dir: Path) -> Endpoints:
    return Endpoints.read(env_file(data_dir))


def keepers(host: Host) -> list[int]:
    """The keepers on this host: the processes that own its tasks."""
    found = []
    for pid in host.pids():
        program, *arguments = _command_line(pid).split(b"\0")
        if program.endswith(binary().name.encode()) and b"keeper" in arguments:
            found.append(pid)
    return found


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
