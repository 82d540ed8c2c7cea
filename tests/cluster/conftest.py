"""Fixtures: a network for each test, removed afterwards; what this machine or this lote lacks is said loudly."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "clients"), str(HERE.parent / "bench")]

from rig import cli, figures, names, network as network_module  # noqa: E402
from rig.cluster import LoteCluster  # noqa: E402
from rig.network import Network  # noqa: E402
from rig.process import log_tail  # noqa: E402

# Each refused connection would be a line, and the tests live on refused connections.
logging.getLogger("urllib3").setLevel(logging.ERROR)

_slow_left_out = pytest.StashKey[list]()
_folders: list[Path] = []


#: The exit code that tells xtask that nothing was run because this machine cannot.
NOT_HERE = 77


def note(text: str) -> None:
    """Something that must not be overlooked: xtask shows it in its summary."""
    path = os.environ.get("LOTE_NOTES")
    if path:
        with open(path, "a") as notes:
            notes.write(f"{text}\n")


def pytest_configure(config):
    lacking = network_module.lacking()
    if lacking:
        note(f"the cluster tests were NOT RUN: {lacking}")
        pytest.exit(f"the cluster tests cannot run here: {lacking}", returncode=NOT_HERE)


def pytest_collection_modifyitems(config, items):
    waiting = [item for item in items if item.get_closest_marker("cluster")]
    if waiting and not cli.has_clusters():
        reason = "this lote has no `lote init`: it cannot be more than one machine"
        note(f"{len(waiting)} cluster tests were skipped: {reason}")
        for item in waiting:
            item.add_marker(pytest.mark.skip(reason=reason))
    if os.environ.get("LOTE_SLOW") != "1":
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.stash[_slow_left_out] = [item.nodeid for item in slow]
        items[:] = [item for item in items if item not in slow]
        config.hook.pytest_deselected(items=slow)


def _skipped_if_not_built(item):
    """What this lote says it cannot do is no failure, but has to be seen."""
    try:
        return (yield)
    except cli.NotBuilt as refusal:
        note(f"{item.name} was skipped: {refusal}")
        pytest.skip(str(refusal))


pytest_runtest_setup = pytest.hookimpl(wrapper=True)(_skipped_if_not_built)
pytest_runtest_call = pytest.hookimpl(wrapper=True)(_skipped_if_not_built)


def pytest_terminal_summary(terminalreporter, config):
    for name in config.stash.get(_slow_left_out, []):
        terminalreporter.write_line(f"not run without LOTE_SLOW=1: {name}")
    for text in figures.told:
        terminalreporter.write_line(text)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows the end of each log of the run."""
    report = yield
    if report.failed:
        for folder in _folders:
            for log in sorted(folder.glob("*.log")):
                report.sections.append((log.name, log_tail(log)))
    return report


@pytest.fixture(scope="session", autouse=True)
def swept():
    """What crashed runs have left is removed before, and nothing of this one is left after."""
    names.sweep()
    yield
    left = names.sweep(lambda name: name.startswith(names.own_prefix()))
    assert not left, f"these were left by the tests: {left}"


@pytest.fixture
def folder():
    """A folder for data and logs with a short path: Unix sockets take 107 characters."""
    folder = names.temporary_folder() / names.new_prefix()
    folder.mkdir()
    _folders.append(folder)
    yield folder
    _folders.remove(folder)
    names.remove_folder(folder)


@pytest.fixture
def network(folder):
    """A bridge without hosts. What runs on its hosts is ended before the folder goes."""
    with Network() as network:
        yield network


@pytest.fixture
def lote_cluster(network, folder):
    """`lote_cluster(coordinators=3, workers=4, …)` makes a cluster and starts it."""

    def make(**arguments) -> LoteCluster:
        cluster = LoteCluster(network, folder, **arguments)
        cluster.start()
        return cluster

    return make
