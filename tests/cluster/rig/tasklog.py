"""What tasks saw: each attempt appends lines to one file that all hosts of the rig share.

The file lies on this machine's own file system, outside of everything the rig breaks. A line is one `write` to a file
opened for appending, so the order of lines is the order in which things happened, and no line is torn. An attempt also
holds a lock for as long as any of its processes lives; the kernel then tells the second of two live attempts that the
first is not gone, however clocks and reports stand.

    start TASK ATTEMPT HOST UPTIME
    overlap TASK ATTEMPT HOST UPTIME     another attempt of this task was alive when this one started
    beat TASK ATTEMPT HOST UPTIME        every 50 ms or so
    end TASK ATTEMPT HOST UPTIME

ATTEMPT is drawn by the attempt itself; HOST is its network namespace.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

SCRIPT = """\
#!/bin/sh
# attempt.sh DIRECTORY BEATS: one attempt of a task, which lasts BEATS times 50 ms.
directory=$1
task=$AZ_BATCH_TASK_ID
read -r attempt < /proc/sys/kernel/random/uuid
host=$(readlink /proc/self/ns/net)
say() {
    read -r up rest < /proc/uptime
    echo "$1 $task $attempt $host $up" >> "$directory/log"
}
exec 9>"$directory/lock.$task"
flock -n 9 || say overlap
say start
beats=$2
while [ "$beats" -gt 0 ]; do
    sleep 0.05
    beats=$((beats - 1))
    [ "$beats" -gt 0 ] && say beat
done
say end
"""


@dataclass
class Attempt:
    """One attempt as it told it; times in seconds since boot."""

    id: str
    task: str
    host: str
    start: float
    #: Lines after `start`: (kind, time), as they came.
    later: list[tuple[str, float]] = field(default_factory=list)
    #: Whether it found another one alive when it started.
    overlapped: bool = False

    @property
    def end(self) -> float | None:
        """When it said that it was done; None for an attempt that was ended by others."""
        return next((time for kind, time in self.later if kind == "end"), None)

    @property
    def last_sign(self) -> float:
        return self.later[-1][1] if self.later else self.start


class TaskLog:
    """The attempts of each task, in the order of their starts."""

    def __init__(self, text: str, hosts: dict[str, str] | None = None):
        """`hosts`: from `net:[inode]` to the name of the host."""
        self.attempts: dict[str, list[Attempt]] = defaultdict(list)
        by_id: dict[str, Attempt] = {}
        overlaps = set()
        for line in text.splitlines():
            kind, task, id, host, time = line.split()
            if kind == "overlap":
                overlaps.add(id)
            elif kind == "start":
                assert id not in by_id, f"attempt {id} started twice"
                by_id[id] = Attempt(id, task, (hosts or {}).get(host, host), float(time), overlapped=id in overlaps)
                self.attempts[task].append(by_id[id])
            else:
                assert kind in ("beat", "end"), line
                by_id[id].later.append((kind, float(time)))

    def count(self) -> int:
        return sum(len(attempts) for attempts in self.attempts.values())

    def repeated(self) -> dict[str, list[Attempt]]:
        """The tasks that were started more than once."""
        return {task: attempts for task, attempts in self.attempts.items() if len(attempts) > 1}


class TaskFolder:
    """The folder that tasks write to, and what their command lines are."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.script = folder / "attempt.sh"
        self.script.write_text(SCRIPT)
        self.path = folder / "log"
        self.path.touch()

    def command(self, seconds: float) -> str:
        """The command line of a task that lasts this long."""
        return f"/bin/sh {self.script} {self.folder} {max(1, round(seconds / 0.05))}"

    def read(self, hosts=()) -> TaskLog:
        """What has been written so far; `hosts` of the network give the attempts' hosts their names."""
        return TaskLog(self.path.read_text(), {f"net:[{host.inode}]": host.name for host in hosts})

    def lines(self, kind: str) -> int:
        return self.path.read_text().count(f"{kind} ")
