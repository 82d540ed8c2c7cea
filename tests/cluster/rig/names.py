"""What a run calls its things, and how a later run knows that nobody needs them any more.

Everything outside this process that the rig makes (network namespaces, folders, mounts) carries the name of the run:
`lt`, the process id, and the time that process was started, which together never come twice before the next boot.
The sweep removes what belongs to runs whose process is gone, whatever way it went.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

NAMESPACES = Path("/run/netns")

_PATTERN = re.compile(r"lt(\d+)\.(\d+)-")
_serials = itertools.count(1)


def started(pid: int) -> int | None:
    """When this process was started, in ticks since boot; None if there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def own_prefix() -> str:
    """What the names of this run begin with."""
    return f"lt{os.getpid()}.{started(os.getpid())}-"


def new_prefix() -> str:
    """A further prefix of this run: one run makes several networks."""
    return f"{own_prefix()}{next(_serials)}"


def is_left_over(name: str) -> bool:
    """Whether a thing of this name was made by a rig whose process is gone."""
    match = _PATTERN.match(name)
    return match is not None and started(int(match[1])) != int(match[2])


def temporary_folder() -> Path:
    return Path(tempfile.gettempdir())


def sweep(wanted=is_left_over) -> list[str]:
    """Removes every thing whose name is `wanted`; gives the names."""
    removed = []
    for name in _listed(NAMESPACES):
        if wanted(name):
            kill_all_in(name)
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
            removed.append(name)
    for name in _listed(temporary_folder()):
        if wanted(name):
            remove_folder(temporary_folder() / name)
            removed.append(name)
    return removed


def _listed(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


def remove_folder(folder: Path) -> None:
    """Removes a folder with the file systems that are mounted below it."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed([mount for mount in mounts if Path(mount).is_relative_to(folder)]):
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)


def pids_in(namespace: str) -> list[int]:
    """Live processes, other than this one, whose network is this namespace."""
    try:
        there = os.stat(NAMESPACES / namespace)
    except FileNotFoundError:
        return []
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            network = os.stat(entry / "ns/net")
        except OSError:
            continue  # it ended meanwhile, or is a zombie
        if (network.st_ino, network.st_dev) == (there.st_ino, there.st_dev):
            found.append(int(entry.name))
    return found


def kill_all_in(namespace: str, timeout: float = 10.0) -> None:
    """`kill -9` of everything in a namespace until nothing is left, however fast it forks."""
    deadline = time.monotonic() + timeout
    while pids := pids_in(namespace):
        for pid in pids:
            send_signal(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout:g} s these still live in {namespace}: {pids}")
        time.sleep(0.01)


def send_signal(pid: int, number: int) -> None:
    """A signal to a process that may be gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
