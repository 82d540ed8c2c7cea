"""Fixtures: one `lote up` for the whole run, a pool that most tests share, and a job for each test that wants one."""

from __future__ import annotations

import itertools
import os
import secrets
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import sdk as sdk_module  # noqa: E402
from blobs import Blobs  # noqa: E402
from jobs import Job, ready_nodes  # noqa: E402
from lote_cluster import Cluster, wait_for  # noqa: E402
from member_processes import Members  # noqa: E402
from raw import RawBatch  # noqa: E402

_numbers = itertools.count(1)
_clusters: list[Cluster] = []


# -- which tests run ------------------------------------------------------------------------------------------------


def pytest_collection_modifyitems(config, items):
    """Leaves out what is not for this run, and says so."""
    out = []
    if sdk_module.generation() != "py14":
        out += [item for item in items if item.get_closest_marker("once")]
    if os.environ.get("LOTE_SLOW") != "1":
        slow = [item for item in items if item.get_closest_marker("slow") and item not in out]
        out += slow
        config.stash[_slow_left_out] = [item.nodeid for item in slow]
    items[:] = [item for item in items if item not in out]
    config.hook.pytest_deselected(items=out)


_slow_left_out = pytest.StashKey[list]()


def pytest_terminal_summary(terminalreporter, config):
    for name in config.stash.get(_slow_left_out, []):
        terminalreporter.write_line(f"not run without LOTE_SLOW=1: {name}")


def pytest_report_header():
    return f"azure-batch generation: {sdk_module.generation()}; lote: {os.environ.get('LOTE_BIN')}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows the end of each server's log."""
    report = yield
    if report.failed:
        for cluster in _clusters:
            report.sections.append((f"{cluster.home}", cluster.log_tail()))
    return report


# -- clusters -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def cluster():
    """The `lote up` that most tests share; at the end it has to stop cleanly and leave nothing."""
    cluster = Cluster("clients")
    _clusters.append(cluster)
    try:
        cluster.start()
        yield cluster
        cluster.stop()
    finally:
        _clusters.remove(cluster)
        cluster.remove()


@pytest.fixture
def own_cluster(request):
    """Makes clusters that belong to one test: `own_cluster(name, **arguments of Cluster)`, not yet started."""
    made = []

    def make(name, **arguments):
        cluster = Cluster(name, **arguments)
        made.append(cluster)
        _clusters.append(cluster)
        return cluster

    yield make
    for cluster in made:
        _clusters.remove(cluster)
        cluster.remove()


# -- clients --------------------------------------------------------------------------------------------------------


@pytest.fixture
def members():
    """Members of a cluster of several processes, whatever a test makes of them."""
    made = Members(lease="10s")
    try:
        yield made
    finally:
        for name in made.running:
            print(f"--- {name}\n{made.log(name)[-5000:]}")
        made.end()


@pytest.fixture(scope="session")
def sdk(cluster):
    return sdk_module.load(cluster.endpoints)


@pytest.fixture(scope="session")
def raw(cluster):
    return RawBatch(cluster.endpoints)


@pytest.fixture(scope="session")
def blobs(cluster):
    return Blobs(cluster.endpoints)


# -- things of the service ------------------------------------------------------------------------------------------


@pytest.fixture
def unique():
    """`unique("pool")` gives a new id each time."""
    return new_id


def new_id(kind: str) -> str:
    return f"{kind}-{sdk_module.generation()}-{next(_numbers)}-{secrets.token_hex(3)}"


@pytest.fixture(scope="session")
def pool(sdk):
    """A pool of two nodes with four slots each; tests share it and leave it as it is."""
    id = new_id("shared")
    sdk.create_pool(sdk.pool(id, nodes=2, slots=4))
    ready_nodes(sdk, id, 2)
    yield id
    sdk.delete_pool(id)
    wait_for("the deletion of the shared pool", lambda: sdk.is_gone(lambda: sdk.get_pool(id)))


@pytest.fixture
def make_pool(sdk):
    """`make_pool(nodes=1, …)` makes a pool for this test and gives its id; it is deleted afterwards."""
    made = []

    def make(**members):
        id = new_id("pool")
        sdk.create_pool(sdk.pool(id, **members))
        made.append(id)
        return id

    yield make
    for id in made:
        if not sdk.is_gone(lambda: sdk.get_pool(id)):
            try:
                sdk.delete_pool(id)
            except sdk.errors:
                pass  # it is being deleted already


@pytest.fixture
def make_job(sdk):
    """`make_job(pool, …)` makes a job for this test; it is deleted afterwards."""
    made = []

    def make(pool_id, **members):
        id = new_id("job")
        sdk.create_job(sdk.job(id, pool_id, **members))
        made.append(id)
        return Job(sdk, id)

    yield make
    for id in made:
        if not sdk.is_gone(lambda: sdk.get_job(id)):
            try:
                sdk.delete_job(id)
            except sdk.errors:
                pass  # it is being deleted already


@pytest.fixture
def job(make_job, pool):
    """A job on the shared pool."""
    return make_job(pool)


@pytest.fixture
def container(blobs):
    """A new container, removed afterwards."""
    with blobs.new_container(new_id("c")) as container:
        yield container


@pytest.fixture
def gate(tmp_path):
    return Gate(tmp_path / "gate")


class Gate:
    """Lets a test decide when its tasks go on.

    The nodes run on this machine, so a task can wait for a file of the test.
    """

    def __init__(self, path: Path):
        self.path = path

    @property
    def wait(self) -> str:
        """A piece of shell that waits until the gate is opened, for a minute at most."""
        return f"n=0; while [ ! -e {self.path} ] && [ $n -lt 1200 ]; do sleep 0.05; n=$((n+1)); done"

    def open(self):
        self.path.touch()
