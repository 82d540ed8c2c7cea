"""What happens on the node: the scenarios E1 to E13 of the description of task execution, and what belongs to them."""

import datetime
import hashlib
import http.server
import threading

import pytest
from azure.batch import models

from jobs import failure_of, ready_nodes
from lote_cluster import CANARY, processes_naming, wait_for
from sdk import Output

SECONDS = datetime.timedelta(seconds=1)


# -- command lines --------------------------------------------------------------------------------------------------


def test_a_command_is_not_run_by_a_shell(job):
    """E1."""
    assert job.succeeded(job.run("echo $HOME")) == "$HOME\n"
    assert job.succeeded(job.run("echo a;b | * ~")) == "a;b | * ~\n"


@pytest.mark.parametrize(
    "arguments, words",
    [
        ("a  b\tc", ["a", "b", "c"]),
        ("'a b' \"c d\"", ["a b", "c d"]),
        (r"a\ b '\' \\", ["a b", "\\", "\\"]),
        ("\"a'b\" 'c\"d' ''", ["a'b", 'c"d', ""]),
        ("--x='1 2'3", ["--x=1 23"]),
    ],
)
def test_words_are_split_like_a_shell_does(job, arguments, words):
    printed = job.succeeded(job.run(f"printf '[%s]\\n' {arguments}"))
    assert printed == "".join(f"[{word}]\n" for word in words)


def test_a_program_of_the_working_directory(job, container):
    container.put("tool.sh", "#!/bin/sh\necho tool $1\n")
    sdk = job.sdk
    file = sdk.resource_file(http_url=container.blob_url("tool.sh"), file_path="tool.sh", file_mode="0750")
    assert job.succeeded(job.run("./tool.sh x", resource_files=[file])) == "tool x\n"
    # Without a slash it is looked up in PATH alone.
    failure_of(job.run("tool.sh x", resource_files=[file]), "CommandProgramNotFound")


@pytest.mark.parametrize("command", ["no-such-program-here -x", "/no/such/program", "./missing"])
def test_a_program_that_does_not_exist(job, command):
    """E3."""
    task = job.run(command, retries=5)
    failure_of(task, "CommandProgramNotFound")
    info = task.execution_info
    assert (info.exit_code, info.retry_count) == (None, 0)


def test_a_command_for_another_system_fails_in_an_orderly_way(job):
    task = job.run('cmd /c "echo hello"')
    failure_of(task, "CommandProgramNotFound")


def test_a_file_that_cannot_be_executed(job):
    failure_of(job.run("/etc/passwd"), "CommandLaunchFailed")


def test_streams_and_working_directory(job):
    script = "pwd; readlink /proc/self/fd/0; echo err >&2; ls -A"
    lines = job.succeeded(job.run_shell(script)).splitlines()
    assert lines[0].endswith(f"/workitems/{job.id}/job-1/t1/wd")
    assert lines[1:] == ["/dev/null"]
    assert job.stderr("t1") == "err\n"


@pytest.mark.parametrize("code", [1, 3, 255])
def test_exit_codes(job, code):
    task = job.run_shell(f"exit {code}")
    assert task.execution_info.exit_code == code
    failure_of(task, "FailureExitCode")
    assert task.execution_info.failure_info.message == "The task exited with an exit code representing a failure"


@pytest.mark.parametrize("signal, code", [("SEGV", 139), ("KILL", 137)])
def test_death_by_a_signal(job, signal, code):
    """E11."""
    task = job.run_shell(f"kill -{signal} $$", retries=1)
    assert (task.execution_info.exit_code, task.execution_info.retry_count) == (code, 1)
    failure_of(task, "FailureExitCode")


# -- environment ----------------------------------------------------------------------------------------------------


def environment_of(job, task) -> dict[str, str]:
    return dict(line.split("=", 1) for line in job.succeeded(task).splitlines())


def test_precedence_of_the_environment(sdk, pool, make_job):
    """E2."""
    job = make_job(pool, environment={"X": "1", "Y": "1", "AZ_BATCH_JOB_ID": "mine"})
    task = job.run("/usr/bin/env", environment={"X": "2", "Z": "", "AZ_BATCH_TASK_ID": "mine"})
    seen = environment_of(job, task)
    assert (seen["X"], seen["Y"], seen["Z"]) == ("2", "1", "")
    assert (seen["AZ_BATCH_TASK_ID"], seen["AZ_BATCH_JOB_ID"]) == ("t1", job.id)


def test_the_table_of_variables(job, pool, cluster):
    task = job.run("/usr/bin/env")
    seen = environment_of(job, task)
    root = seen["AZ_BATCH_NODE_ROOT_DIR"]
    directory = f"{root}/workitems/{job.id}/job-1/t1"
    expected = {
        "AZ_BATCH_ACCOUNT_NAME": cluster.endpoints.batch_account,
        "AZ_BATCH_ACCOUNT_URL": cluster.endpoints.batch_url.rstrip("/"),
        "AZ_BATCH_POOL_ID": pool,
        "AZ_BATCH_NODE_ID": task.node_info.node_id,
        "AZ_BATCH_NODE_IS_DEDICATED": "true",
        "AZ_BATCH_NODE_SHARED_DIR": f"{root}/shared",
        "AZ_BATCH_NODE_STARTUP_DIR": f"{root}/startup",
        "AZ_BATCH_NODE_STARTUP_WORKING_DIR": f"{root}/startup/wd",
        "AZ_BATCH_NODE_MOUNTS_DIR": f"{root}/fsmounts",
        "AZ_BATCH_TASK_DIR": directory,
        "AZ_BATCH_TASK_WORKING_DIR": f"{directory}/wd",
        "AZ_BATCH_JOB_ID": job.id,
        "AZ_BATCH_TASK_ID": "t1",
        "HOME": f"{directory}/wd",
        "LANG": "C.UTF-8",
    }
    assert {name: seen.get(name) for name in expected} == expected
    assert int(seen["AZ_BATCH_TASK_RESERVED_EPHEMERAL_DISK_SPACE_BYTES"]) >= 0
    assert "/usr/bin" in seen["PATH"].split(":")
    assert seen["USER"] and seen["LOGNAME"]
    absent = {
        "AZ_BATCH_AUTHENTICATION_TOKEN", "AZ_BATCH_JOB_PREP_DIR", "AZ_BATCH_JOB_PREP_WORKING_DIR",
        "AZ_BATCH_HOST_LIST", "AZ_BATCH_NODE_LIST", "AZ_BATCH_MASTER_NODE", "AZ_BATCH_IS_CURRENT_NODE_MASTER",
        "AZ_BATCH_TASK_SHARED_DIR", "CCP_NODES", "TMPDIR",
    }  # fmt: skip
    assert not absent & set(seen)
    # Nothing of the server's own environment leaks.
    assert CANARY not in seen and "RUST_BACKTRACE" not in seen and "LOTE_BIN" not in seen


def test_references_inside_values(job):
    values = {"A": "$AZ_BATCH_TASK_ID/x", "B": "${AZ_BATCH_JOB_ID}!", "C": "$HOME ${A} $ $$1"}
    seen = environment_of(job, job.run("/usr/bin/env", environment=values))
    assert (seen["A"], seen["B"], seen["C"]) == ("t1/x", f"{job.id}!", "$HOME ${A} $ $$1")


# -- resource files -------------------------------------------------------------------------------------------------


def test_single_files(sdk, job, container):
    container.put("in.txt", "content\n")
    container.put("empty", b"")
    container.put("dir/odd name+%41&.txt", "odd\n")
    files = [
        sdk.resource_file(http_url=container.blob_url("in.txt"), file_path="in.txt"),
        sdk.resource_file(http_url=container.blob_url("in.txt"), file_path="deep/er/copy.txt", file_mode="0640"),
        sdk.resource_file(http_url=container.blob_url("empty"), file_path="empty"),
        sdk.resource_file(http_url=container.blob_url("dir/odd name+%41&.txt"), file_path="odd"),
    ]
    task = job.run_shell("cat in.txt deep/er/copy.txt empty odd; stat -c %a in.txt deep/er/copy.txt", resource_files=files)
    assert job.succeeded(task) == "content\ncontent\nodd\n770\n640\n"


def test_a_task_cannot_change_what_others_get(sdk, job, container):
    """What is laid down is a copy, never a way into the host's cache."""
    container.put("in.txt", "original\n")
    file = sdk.resource_file(http_url=container.blob_url("in.txt"), file_path="in.txt")
    for _ in range(3):
        task = job.run_shell("cat in.txt; echo changed > in.txt", resource_files=[file])
        assert job.succeeded(task) == "original\n"


def test_a_container_with_a_prefix(sdk, job, container):
    for name in ("data/a.txt", "data/sub/b.txt", "database", "other/c.txt"):
        container.put(name, f"{name}\n")
    everything = sdk.resource_file(storage_container_url=container.url("rl"))
    some = sdk.resource_file(storage_container_url=container.url("rl"), blob_prefix="data", file_path="into")
    task = job.run_shell("find . -type f | LC_ALL=C sort", resource_files=[everything, some])
    assert job.succeeded(task).splitlines() == [
        "./data/a.txt",
        "./data/sub/b.txt",
        "./database",
        "./into/data/a.txt",
        "./into/data/sub/b.txt",
        "./into/database",
        "./other/c.txt",
    ]


def test_an_auto_storage_container(sdk, job, container):
    container.put("x/one.txt", "one\n")
    container.put("y/two.txt", "two\n")
    file = sdk.resource_file(auto_storage_container_name=container.name, blob_prefix="x/")
    task = job.run_shell("find . -type f; cat x/one.txt", resource_files=[file])
    assert job.succeeded(task) == "./x/one.txt\none\n"


class Site(http.server.BaseHTTPRequestHandler):
    """A web server that has nothing to do with any storage."""

    def do_GET(self):
        found = self.path == "/file"
        body = b"from the web\n" if found else b"nothing here\n"
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def site():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_file_from_any_web_server(sdk, job, site):
    file = sdk.resource_file(http_url=f"{site}/file", file_path="f")
    assert job.succeeded(job.run("/bin/cat f", resource_files=[file])) == "from the web\n"


def test_resource_files_that_do_not_exist(sdk, job, container, site, unique, tmp_path):
    """E4: completed, not started, not tried again."""
    with container.blobs.new_container(unique("gone")) as gone:
        url_of_nothing = gone.url("rl")
    sources = [
        ("BlobNotFound", dict(http_url=container.blob_url("none"), file_path="f")),
        ("BlobNotFound", dict(http_url=f"{site}/none", file_path="f")),
        ("ResourceContainerNotFound", dict(storage_container_url=url_of_nothing)),
        ("ResourceContainerNotFound", dict(auto_storage_container_name=gone.name)),
    ]
    for code, source in sources:
        task = job.run(f"/bin/touch {tmp_path}/ran", resource_files=[sdk.resource_file(**source)], retries=5)
        failure_of(task, code)
        info = task.execution_info
        assert (info.exit_code, info.retry_count) == (None, 0)
        assert info.start_time is not None and info.end_time is not None
    assert not (tmp_path / "ran").exists()


def test_a_resource_file_without_the_right_to_read(sdk, job, container):
    container.put("f", "x")
    url = container.client.get_blob_client("f").url
    task = job.run("/bin/true", resource_files=[sdk.resource_file(http_url=url, file_path="f")])
    assert task.execution_info.failure_info.code in ("BlobAccessDenied", "BlobNotFound")
    file = sdk.resource_file(http_url=container.blob_url("f", "w"), file_path="f")
    details = failure_of(job.run("/bin/true", resource_files=[file]), "BlobAccessDenied")
    assert "sig=" not in str(details)


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x"])
def test_a_path_out_of_the_working_directory_is_refused(sdk, job, path):
    """E5."""
    file = sdk.resource_file(http_url="http://127.0.0.1:1/x", file_path=path)
    with sdk.refused(400, "InvalidPropertyValue"):
        job.add("/bin/true", resource_files=[file])
    assert sdk.list_tasks(job.id) == []


def test_a_resource_file_has_one_source(sdk, job):
    for members in [
        dict(file_path="f"),
        dict(http_url="http://127.0.0.1:1/x", auto_storage_container_name="abc", file_path="f"),
        dict(http_url="http://127.0.0.1:1/x"),
        dict(http_url="http://127.0.0.1:1/x", file_path="f", blob_prefix="a"),
    ]:
        with sdk.refused(400, "InvalidPropertyValue"):
            job.add("/bin/true", resource_files=[sdk.resource_file(**members)])
    assert sdk.list_tasks(job.id) == []


# -- retries --------------------------------------------------------------------------------------------------------


def test_a_retry_starts_from_an_empty_directory(sdk, job, container):
    """E6."""
    container.put("in.txt", "content\n")
    file = sdk.resource_file(http_url=container.blob_url("in.txt"), file_path="in.txt")
    script = (
        "ls -A; cat in.txt; echo left > a; n=$AZ_BATCH_NODE_SHARED_DIR/$AZ_BATCH_JOB_ID; echo x >> $n; "
        "[ $(wc -l < $n) -eq 2 ]"
    )
    task = job.run_shell(script, resource_files=[file], retries=1)
    # The output of the first attempt is gone, so is its file; it ran on the same node.
    assert job.succeeded(task) == "in.txt\ncontent\n"
    info = task.execution_info
    assert (info.retry_count, info.requeue_count) == (1, 0)
    assert info.last_retry_time is not None


def test_retries_are_counted_and_end(job, tmp_path):
    task = job.run_shell(f"echo x >> {tmp_path}/n; exit 4", retries=2)
    failure_of(task, "FailureExitCode")
    assert (task.execution_info.exit_code, task.execution_info.retry_count) == (4, 2)
    assert (tmp_path / "n").read_text() == "x\n" * 3


# -- output files ---------------------------------------------------------------------------------------------------


def test_upload_conditions(job, container):
    def outputs(task):
        conditions = ("tasksuccess", "taskfailure", "taskcompletion")
        return [Output("f", container.url("w"), f"{task}/{condition}", condition) for condition in conditions]

    job.add_shell("echo good > f", id="good", outputs=outputs("good"))
    job.add_shell("echo bad > f; exit 1", id="bad", outputs=outputs("bad"))
    job.completed("good"), job.completed("bad")
    assert container.contents() == {
        "good/tasksuccess": b"good\n",
        "good/taskcompletion": b"good\n",
        "bad/taskfailure": b"bad\n",
        "bad/taskcompletion": b"bad\n",
    }


def test_only_the_final_attempt_uploads(job, container, tmp_path):
    """E9."""
    script = f"echo x >> {tmp_path}/n; wc -l < {tmp_path}/n > f; exit 1"
    outputs = [
        Output("f", container.url("w"), "success", "tasksuccess"),
        Output("f", container.url("w"), "failure", "taskfailure"),
    ]
    job.run_shell(script, retries=1, outputs=outputs)
    assert container.contents() == {"failure": b"2\n"}


def test_patterns(job, container):
    script = (
        "echo 1 > out.txt; echo 2 > a.txt; mkdir -p d/e res/a; echo 3 > d/a.txt; echo 4 > d/e/a.txt; "
        "echo 5 > log-3.txt; echo 6 > log-12.txt; echo 7 > .hidden; echo 8 > res/a/b.csv; echo 9 > \"[x].txt\""
    )
    table = {
        ("out.txt", "plain"): ["plain"],
        ("*.txt", "star"): ["star/[x].txt", "star/a.txt", "star/log-12.txt", "star/log-3.txt", "star/out.txt"],
        ("**/a.txt", "deep"): ["deep/a.txt", "deep/d/a.txt", "deep/d/e/a.txt"],
        ("../std*.txt", "std"): ["std/stderr.txt", "std/stdout.txt"],
        ("log-[0-9].txt", "log"): ["log/log-3.txt"],
        ("log-??.txt", "two"): ["two/log-12.txt"],
        (".*", "dot"): ["dot/.hidden"],
        ("res/**/*.csv", "csv"): ["csv/a/b.csv"],
        # Brackets that only escape are no wildcard, so the path is the blob's name.
            ("[[]x].txt", "bracket"): ["bracket"],
        ("[!a-z]*.txt", "negated"): ["negated/[x].txt"],
        ("$AZ_BATCH_TASK_WORKING_DIR/d/*.txt", "variable"): ["variable/a.txt"],
    }
    outputs = [Output(pattern, container.url("w"), path) for pattern, path in table]
    job.succeeded(job.run_shell(script, outputs=outputs))
    names = container.names()
    for (pattern, path), expected in table.items():
        found = [name for name in names if name == path or name.startswith(f"{path}/")]
        assert found == expected, f"pattern {pattern}"
    assert container.get("csv/a/b.csv") == b"8\n"


def test_without_a_path_the_name_is_kept(job, container):
    script = "echo 1 > a.txt; mkdir d; echo 2 > d/b.txt"
    outputs = [Output("a.txt", container.url("w")), Output("**/b.txt", container.url("w"))]
    job.succeeded(job.run_shell(script, outputs=outputs))
    assert container.contents() == {"a.txt": b"1\n", "d/b.txt": b"2\n"}


def test_an_output_that_does_not_exist_is_no_failure(job, container):
    """E7."""
    outputs = [Output("out/*.bin", container.url("w"), "x"), Output("plain.bin", container.url("w"), "y")]
    job.succeeded(job.run("/bin/true", outputs=outputs))
    assert container.names() == []


def test_an_output_container_that_does_not_exist(job, container, unique):
    """E8."""
    other = unique("missing")
    with container.blobs.new_container(other) as missing:
        url = missing.url("w")
    task = job.run_shell("echo 1 > f", retries=3, outputs=[Output("f", url, "f"), Output("f", container.url("w"), "f")])
    failure_of(task, "FileUploadContainerNotFound")
    assert (task.execution_info.exit_code, task.execution_info.retry_count) == (0, 0)
    assert container.contents() == {"f": b"1\n"}
    assert b"f" in job.read("t1", "fileuploaderr.txt") + job.read("t1", "fileuploadout.txt")


def test_an_output_without_the_right_to_write(job, container):
    task = job.run_shell("echo 1 > f", outputs=[Output("f", container.url("r"), "f")])
    failure_of(task, "FileUploadAccessDenied")
    assert container.names() == []


def test_a_large_output(job, container):
    script = "seq 1 3000000 > n.txt; md5sum < n.txt"
    task = job.run_shell(script, outputs=[Output("n.txt", container.url("w"), "n.txt")])
    assert job.succeeded(task).split()[0] == hashlib.md5(container.get("n.txt")).hexdigest()


# -- limits ---------------------------------------------------------------------------------------------------------


def test_the_wall_clock_ends_the_whole_tree(job, container, unique):
    """E10: children in sessions of their own as well."""
    marker = unique("sleeper")
    script = (
        f"echo begun; sh -c \"sleep 98 ; echo {marker}\" & setsid sh -c \"sleep 99 ; echo {marker}\" & "
        "echo kept > f; wait"
    )
    task = job.run_shell(
        script, wall_clock=3 * SECONDS, retries=3, outputs=[Output("f", container.url("w"), "f", "taskfailure")]
    )
    details = failure_of(task, "TaskEnded")
    assert "maximum execution time" in details.get("Message", ""), details
    assert task.execution_info.retry_count == 0
    assert not processes_naming(f"; echo {marker}")
    assert job.stdout(task.id) == "begun\n"
    assert container.contents() == {"f": b"kept\n"}


def test_nothing_outlives_its_task(job, unique):
    marker = unique("daemon")
    script = f"setsid sh -c \"sleep 99 ; echo {marker}\" >/dev/null 2>&1 & echo done"
    assert job.succeeded(job.run_shell(script)) == "done\n"
    wait_for("the end of what the task left", lambda: not processes_naming(f"; echo {marker}"), timeout=15)


def test_slots(sdk, make_pool, make_job, gate):
    pool = make_pool(nodes=1, slots=4)
    ready_nodes(sdk, pool, 1)
    job = make_job(pool)
    for id, slots in (("a", 2), ("b", 2)):
        job.add_shell(gate.wait, id=id, slots=slots)
        job.in_state(id, "running")
    job.add("/bin/true", id="c")
    counts = sdk.task_counts(job.id)
    assert (counts.task_slot_counts.running, counts.task_slot_counts.active) == (4, 1)
    (node,) = sdk.list_nodes(pool)
    assert (node.running_tasks_count, node.running_task_slots_count) == (2, 4)
    assert job.task("c").state == "active"
    gate.open()
    job.all_completed(3)


@pytest.mark.parametrize("fill, spread", [("spread", [2, 2]), ("pack", [0, 4])])
def test_where_tasks_are_placed(sdk, make_pool, make_job, gate, fill, spread):
    policy = getattr(models, "TaskSchedulingPolicy", None) or models.BatchTaskSchedulingPolicy
    pool = make_pool(nodes=2, slots=4, task_scheduling_policy=policy(node_fill_type=fill))
    ready_nodes(sdk, pool, 2)
    job = make_job(pool)
    for n in range(4):
        job.in_state(job.add_shell(gate.wait), "running")
    counts = [node.running_tasks_count or 0 for node in sdk.list_nodes(pool)]
    assert sorted(counts) == spread
    gate.open()
    job.all_completed(4)


def test_the_job_of_higher_priority_comes_first(sdk, make_pool, make_job, gate):
    pool = make_pool(nodes=1, slots=1)
    ready_nodes(sdk, pool, 1)
    low, high = make_job(pool), make_job(pool, priority=100)
    low.add_shell(gate.wait, id="first")
    low.in_state("first", "running")
    low.add_shell("sleep 0.3", id="second")
    high.add("/bin/true", id="third")
    gate.open()
    low.all_completed(2)
    started = [job.completed(id).execution_info.start_time for job, id in ((low, "first"), (high, "third"), (low, "second"))]
    assert started == sorted(started)


@pytest.mark.slow
def test_retention(sdk, job):
    """E13: the directory goes a minute after the end, at the next sweep; the record stays."""
    job.run("/bin/echo hello", retention=60 * SECONDS)
    assert job.stdout("t1") == "hello\n"

    def cleaned():
        try:
            job.stdout("t1")
            return False
        except sdk.errors as error:
            refusal = sdk.refusal(error)
            assert (refusal.status, refusal.code) == (409, "TaskFilesCleanedup")
            return True

    wait_for("the removal of the directory", cleaned, timeout=12 * 60, interval=2)
    assert job.task("t1").execution_info.result == "success"
