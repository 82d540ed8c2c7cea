"""A TCP load balancer in front of the coordinators, for clients that know one address.

As plain as they come: connections go to the backends in turn; whether one is healthy is seen by connecting. It runs as a
process of its own, `python -m rig.balancer LISTEN BACKEND…`, each `ADDRESS:PORT`, on the host of the clients.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from rig.network import Host
from rig.process import Process

CONNECT_TIMEOUT = 1.0
#: A backend that could not be reached is left alone for so long, unless there is no other.
REST = 1.0
CONNECTIONS_MAX = 256


def start(host: Host, folder: Path, listen: str, backends: list[str]) -> Process:
    """Starts one on a host; gives its process once it listens."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    process = Process(
        host,
        [sys.executable, "-u", "-m", "rig.balancer", listen, *backends],
        folder / "balancer.log",
        {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    deadline = time.monotonic() + 30
    while "listening" not in process.log_tail():
        assert process.is_running() and time.monotonic() < deadline, process.log_tail()
        time.sleep(0.05)
    return process


class Balancer:
    def __init__(self, backends: list[str]):
        self.backends = [_parse(backend) for backend in backends]
        self.failed_at = {backend: float("-inf") for backend in self.backends}
        self.turn = 0
        self.connections = asyncio.Semaphore(CONNECTIONS_MAX)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with self.connections:
            backend = await self.open()
            if backend is None:
                writer.close()
                return
            await asyncio.gather(_pump(reader, backend[1]), _pump(backend[0], writer))

    async def open(self):
        """A connection to the next healthy backend."""
        self.turn += 1
        order = [self.backends[(self.turn + n) % len(self.backends)] for n in range(len(self.backends))]
        rested = [backend for backend in order if time.monotonic() - self.failed_at[backend] > REST]
        for backend in rested + [backend for backend in order if backend not in rested]:
            try:
                return await asyncio.wait_for(asyncio.open_connection(*backend), CONNECT_TIMEOUT)
            except (OSError, asyncio.TimeoutError):
                self.failed_at[backend] = time.monotonic()
        return None


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One direction, until its end; a broken one closes the other as well."""
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.close()


def _parse(address: str) -> tuple[str, int]:
    host, port = address.rsplit(":", 1)
    return host, int(port)


async def _main(listen: str, backends: list[str]) -> None:
    balancer = Balancer(backends)
    server = await asyncio.start_server(balancer.serve, *_parse(listen))
    print("listening", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2:]))
