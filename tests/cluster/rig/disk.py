"""A small disk that can be filled: a tmpfs mounted where a data folder is to be."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from rig.network import run

_BLOCK = bytes(64 * 1024)


class Disk:
    """A file system of its own at `folder`; it goes away with the folder of the run."""

    def __init__(self, folder: Path, mib: int):
        self.folder = folder
        self.mib = mib
        folder.mkdir(parents=True, exist_ok=True)
        run("mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "lote-rig", str(folder))

    @property
    def _filler(self) -> Path:
        return self.folder / "filler"

    def fill(self) -> None:
        """Not a byte is left."""
        descriptor = os.open(self._filler, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        try:
            # One block more than there can be: it has to end by itself.
            for _ in range(self.mib * 16 + 1):
                os.write(descriptor, _BLOCK)
            raise AssertionError(f"{self.folder} took more than its {self.mib} MiB")
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
        finally:
            os.close(descriptor)

    def free(self) -> None:
        """There is room again."""
        self._filler.unlink()

    def remove(self) -> None:
        run("umount", "--lazy", str(self.folder))
