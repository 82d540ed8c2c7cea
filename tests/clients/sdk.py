"""One face for both generations of the Python package azure-batch.

The tests are written once against this face; `sdk_py14` and `sdk_py15` fill it in with the calls and models a user
of that generation would write. What a call returns are the package's own objects; the few members that changed
their name between the generations have a function here.
"""

from __future__ import annotations

import datetime
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from types import ModuleType


#: Publisher, offer, sku and node agent of the image that pools get unless they say otherwise.
UBUNTU = ("canonical", "0001-com-ubuntu-server-jammy", "22_04-lts", "batch.node.ubuntu 22.04")


@dataclass
class Refusal:
    """A refused request as the package shows it."""

    status: int
    code: str | None
    message: str | None = None
    values: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Output:
    """One entry of a task's outputFiles."""

    pattern: str
    container_url: str
    path: str | None = None
    condition: str = "taskcompletion"


@dataclass(frozen=True)
class FileProperties:
    """What HEAD on a file tells."""

    length: int
    modified: datetime.datetime | None
    is_directory: bool | None
    mode: str | None
    url: str | None


def text(value) -> str:
    """The wire text of an enum member, or of a string."""
    return getattr(value, "value", value)


class Expectation:
    """Filled in when the block of `Sdk.refused` ends."""

    refusal: Refusal | None = None

    @property
    def message(self) -> str:
        return self.refusal.message or ""

    @property
    def values(self) -> dict[str, str]:
        return self.refusal.values


class Sdk:
    """What both adapters share."""

    name: str
    #: Exceptions that stand for an answer of the service.
    errors: tuple[type[BaseException], ...]
    #: The models of this generation.
    models: ModuleType

    def refusal(self, error: BaseException) -> Refusal:
        raise NotImplementedError

    @contextmanager
    def refused(self, status: int, code: str | None = None):
        """The block's call has to be refused with this status and, if given, this code."""
        expected = Expectation()
        try:
            yield expected
        except self.errors as error:
            expected.refusal = self.refusal(error)
            seen = (expected.refusal.status, expected.refusal.code)
            assert seen[0] == status and code in (None, seen[1]), (
                f"expected {status} {code}, got {seen[0]} {seen[1]}: {expected.refusal.message}"
            )
        else:
            raise AssertionError(f"expected {status} {code}, but the call succeeded")

    def exit_conditions(self, codes=None, ranges=None, **more):
        """Options by exit code, by range of codes, and by `default`, `file_upload_error`, `pre_processing_error`."""
        return self.models.ExitConditions(
            exit_codes=[
                self.models.ExitCodeMapping(code=code, exit_options=self.models.ExitOptions(**options))
                for code, options in (codes or {}).items()
            ],
            exit_code_ranges=[
                self.models.ExitCodeRangeMapping(start=start, end=end, exit_options=self.models.ExitOptions(**options))
                for (start, end), options in (ranges or {}).items()
            ],
            **{name: self.models.ExitOptions(**options) for name, options in more.items()},
        )

    def is_gone(self, look) -> bool:
        """Whether `look()` is answered with 404."""
        try:
            look()
        except self.errors as error:
            refusal = self.refusal(error)
            assert refusal.status == 404, refusal
            return True
        return False


def load(endpoints) -> Sdk:
    """The adapter for the package that is installed here."""
    installed = version("azure-batch")
    if installed.startswith("14."):
        from sdk_py14 import Py14

        return Py14(endpoints)
    if installed.startswith("15."):
        from sdk_py15 import Py15

        return Py15(endpoints)
    raise RuntimeError(f"no adapter for azure-batch {installed}")


def generation() -> str:
    """`py14` or `py15`, without a server."""
    return "py" + version("azure-batch").split(".")[0]
