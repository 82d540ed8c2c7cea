"""Task files: list, get, ranges, HEAD, delete, conditions, and files that grow while they are read."""

import datetime

import pytest

from lote_cluster import wait_for

SCRIPT = (
    "echo hello; echo oops >&2; mkdir -p d/e; printf 0123456789 > d/data.bin; echo x > d/e/x.txt; "
    "printf odd > \"odd name+%41&.txt\"; : > empty"
)


@pytest.fixture
def task(job):
    """A completed task with some files; gives (job, id)."""
    completed = job.run_shell(SCRIPT)
    job.succeeded(completed)
    return job, completed.id


def test_list(sdk, task):
    job, id = task
    files = {file.name: file for file in sdk.list_task_files(job.id, id)}
    assert set(files) == {"stdout.txt", "stderr.txt", "wd"}
    assert files["wd"].is_directory and files["wd"].properties is None
    assert files["stdout.txt"].properties.content_length == 6
    assert files["stdout.txt"].properties.file_mode.startswith("0o100")
    assert files["stdout.txt"].url.endswith(f"/jobs/{job.id}/tasks/{id}/files/stdout.txt")
    deep = {file.name for file in sdk.list_task_files(job.id, id, recursive=True)}
    assert deep == {
        "stdout.txt", "stderr.txt", "wd", "wd/d", "wd/d/data.bin", "wd/d/e", "wd/d/e/x.txt",
        "wd/odd name+%41&.txt", "wd/empty",
    }  # fmt: skip
    below = sdk.list_task_files(job.id, id, recursive=True, filter="startswith(name, 'wd/d/')")
    assert {file.name for file in below} == {"wd/d/data.bin", "wd/d/e", "wd/d/e/x.txt"}


def test_pages(sdk, task):
    job, id = task
    pages = sdk.task_file_pages(job.id, id, page_size=4)
    assert [len(page) for page in pages] == [4, 4, 1]
    assert len({file.name for page in pages for file in page}) == 9


def test_read(sdk, task):
    job, id = task
    assert job.read(id, "stdout.txt") == b"hello\n"
    assert job.read(id, "stderr.txt") == b"oops\n"
    assert job.read(id, "wd/d/data.bin") == b"0123456789"
    assert job.read(id, "wd\\d\\data.bin") == b"0123456789"
    assert job.read(id, "wd/odd name+%41&.txt") == b"odd"
    assert job.read(id, "wd/empty") == b""


def test_ranges(sdk, task):
    job, id = task
    path = "wd/d/data.bin"
    assert job.read(id, path, range="bytes=2-5") == b"2345"
    assert job.read(id, path, range="bytes=7-") == b"789"
    assert job.read(id, path, range="bytes=8-100") == b"89"
    assert job.read(id, path, range="bytes=0-0") == b"0"
    with sdk.refused(416, "InvalidRange"):
        job.read(id, path, range="bytes=10-")


def test_properties(sdk, task):
    job, id = task
    properties = sdk.task_file(job.id, id, "wd/d/data.bin")
    assert (properties.length, properties.is_directory) == (10, False)
    assert properties.mode.startswith("0o100")
    age = datetime.datetime.now(datetime.timezone.utc) - properties.modified
    assert abs(age) < datetime.timedelta(minutes=2)
    assert "data.bin" in properties.url
    with sdk.refused(404):
        sdk.task_file(job.id, id, "wd/nothing")


def test_conditions(sdk, task):
    job, id = task
    now = datetime.datetime.now(datetime.timezone.utc)
    hour = datetime.timedelta(hours=1)
    assert job.read(id, if_modified_since=now - hour) == b"hello\n"
    assert job.read(id, if_unmodified_since=now + hour) == b"hello\n"
    with sdk.refused(304):
        job.read(id, if_modified_since=now + hour)
    # The descriptions of the interface differ on the status of this one.
    try:
        job.read(id, if_unmodified_since=now - hour)
    except sdk.errors as error:
        assert sdk.refusal(error).status in (304, 412)
    else:
        raise AssertionError("a condition that does not hold was passed over")


def test_missing_files(sdk, task):
    job, id = task
    with sdk.refused(404, "FileNotFound"):
        job.read(id, "wd/nothing")
    with sdk.refused(404, "FileNotFound"):
        job.read(id, "wd/d")
    with sdk.refused(404, "FileNotFound"):
        sdk.delete_task_file(job.id, id, "wd/nothing")


def test_files_of_a_task_that_never_ran(sdk, make_pool, make_job):
    job = make_job(make_pool(nodes=0))
    job.add("/bin/true", id="a")
    with sdk.refused(409, "TaskFilesUnavailable"):
        job.read("a")


def test_files_of_a_node_that_is_gone(sdk, make_pool, make_job):
    pool = make_pool(nodes=1)
    job = make_job(pool)
    job.run("/bin/echo hello")
    sdk.resize_pool(pool, dedicated=0)
    wait_for("the node to go", lambda: sdk.list_nodes(pool) == [])
    with sdk.refused(409, "TaskFilesUnavailable"):
        job.read("t1")


def test_delete(sdk, task):
    job, id = task
    sdk.delete_task_file(job.id, id, "wd/empty")
    with sdk.refused(404, "FileNotFound"):
        job.read(id, "wd/empty")
    with sdk.refused(409):
        sdk.delete_task_file(job.id, id, "wd/d")
    assert job.read(id, "wd/d/data.bin") == b"0123456789"
    sdk.delete_task_file(job.id, id, "wd/d", recursive=True)
    left = {file.name for file in sdk.list_task_files(job.id, id, recursive=True)}
    assert left == {"stdout.txt", "stderr.txt", "wd", "wd/odd name+%41&.txt"}


@pytest.mark.parametrize("path", ["../../../lote.env", "wd/../../other/stdout.txt", "/etc/passwd", "wd\\..\\..\\x"])
def test_nothing_outside_the_task_is_readable(sdk, task, path):
    job, id = task
    for call in (lambda: job.read(id, path), lambda: sdk.delete_task_file(job.id, id, path)):
        try:
            call()
        except sdk.errors as error:
            assert sdk.refusal(error).status in (400, 404)
        else:
            raise AssertionError(f"{path} was not refused")


def test_a_symbolic_link_out_of_the_node_is_not_followed(sdk, job):
    job.run_shell("ln -s /etc/passwd p; ln -s / root; echo in > f; ln -s f inside")
    for path in ("wd/p", "wd/root/etc/passwd"):
        try:
            job.read("t1", path)
        except sdk.errors as error:
            assert sdk.refusal(error).status in (400, 404)
        else:
            raise AssertionError(f"{path} was readable")


def test_a_growing_file(sdk, job, tmp_path):
    """stdout is readable while the task runs, also from where the last look ended."""
    script = f"echo one; while [ ! -e {tmp_path}/two ]; do sleep 0.05; done; echo two; sleep 60"
    id = job.add_shell(script)
    job.in_state(id, "running")
    wait_for("the first line", lambda: job.read(id) == b"one\n", interval=0.05)
    assert sdk.task_file(job.id, id, "stdout.txt").length == 4
    (tmp_path / "two").touch()
    wait_for("the second line", lambda: job.read(id) == b"one\ntwo\n", interval=0.05)
    assert job.read(id, range="bytes=4-") == b"two\n"
    with sdk.refused(416, "InvalidRange"):
        job.read(id, range="bytes=8-")
    assert job.task(id).state == "running"
    sdk.terminate_task(job.id, id)


def test_a_large_file(sdk, job):
    id = job.run_shell("seq 1 2000000 > n.txt").id
    content = job.read(id, "wd/n.txt")
    assert content == b"".join(b"%d\n" % n for n in range(1, 2_000_001))
    assert job.read(id, "wd/n.txt", range=f"bytes={len(content) - 8}-") == b"2000000\n"
