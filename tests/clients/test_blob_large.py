"""An upload of 2 GiB, during which the server's memory must not grow by more than 64 MiB."""

import os
import threading
import time

import pytest

from conftest import new_id

pytestmark = [pytest.mark.once, pytest.mark.timeout(600)]

MIB = 1 << 20
SIZE_MIB = int(os.environ.get("LOTE_LARGE_UPLOAD_MIB", "2048"))
GROWTH_MAX_MIB = 64


class Stream:
    """A file of `size` bytes that exists nowhere; every mebibyte of it is different."""

    def __init__(self, size):
        self.size = size
        self.position = 0
        self.pattern = os.urandom(MIB - 8)

    def mebibyte(self, number):
        return number.to_bytes(8, "big") + self.pattern

    def slice(self, start, end):
        pieces = b"".join(self.mebibyte(n) for n in range(start // MIB, -(-end // MIB)))
        first = start // MIB * MIB
        return pieces[start - first : end - first]

    def read(self, count=-1):
        end = self.size if count < 0 else min(self.size, self.position + count)
        piece = self.slice(self.position, end)
        self.position = end
        return piece


class Watch(threading.Thread):
    """The largest resident memory of the server, looked at five times a second."""

    def __init__(self, cluster):
        super().__init__(daemon=True)
        self.cluster = cluster
        self.largest = 0.0
        self.stopped = threading.Event()

    def run(self):
        while not self.stopped.wait(0.2):
            self.largest = max(self.largest, self.cluster.resident_mib())

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.join()


def test_memory_during_a_large_upload(own_cluster, record_property):
    """On a server of its own, so that nothing else changes its memory."""
    from blobs import Blobs

    cluster = own_cluster("large", workers=1)
    cluster.start()
    blobs = Blobs(cluster.endpoints)
    with blobs.new_container(new_id("large")) as container:
        # What the first uploads of any size need for good is not growth.
        container.client.upload_blob("warm", Stream(128 * MIB), length=128 * MIB)
        before = cluster.resident_mib()
        stream = Stream(SIZE_MIB * MIB)
        begun = time.monotonic()
        with Watch(cluster) as watch:
            container.client.upload_blob("large", stream, length=stream.size)
        seconds = time.monotonic() - begun
        growth = watch.largest - before
        print(f"{SIZE_MIB} MiB in {seconds:.1f} s; resident {before:.0f} MiB before, grew by {growth:.0f} MiB")
        assert growth <= GROWTH_MAX_MIB
        client = container.client.get_blob_client("large")
        assert client.get_blob_properties().size == stream.size
        for start in (0, stream.size // 2 - 100, stream.size - MIB):
            assert client.download_blob(start, MIB).readall() == stream.slice(start, start + MIB)
    cluster.stop()
