"""Application packages (`files-and-storage.md` §8): added with `lote app`, used by pools, tasks and managers."""

import io
import json
import subprocess
import zipfile

import pytest

from jobs import failure_of, ready_nodes
from lote_cluster import binary, wait_for


@pytest.fixture
def app(cluster, unique, tmp_path):
    return Applications(cluster, unique, tmp_path)


class Applications:
    def __init__(self, cluster, unique, folder):
        self.cluster, self.unique, self.folder = cluster, unique, folder

    def lote(self, *arguments, ok=True):
        command = [str(binary()), "app", *arguments, "--data-dir", str(self.cluster.data_dir), "--output", "json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode == 0) == ok, (done.stdout, done.stderr)
        return json.loads(done.stdout) if ok else done.stderr

    def zip(self, files) -> str:
        """A zip with a script that prints, and files."""
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as made:
            for name, text in files.items():
                entry = zipfile.ZipInfo(name)
                entry.external_attr = (0o755 if text.startswith("#!") else 0o644) << 16
                made.writestr(entry, text)
        path = self.folder / f"{self.unique('zip')}.zip"
        path.write_bytes(content.getvalue())
        return str(path)

    def add(self, name, version, files, *more):
        return self.lote("package", "add", name, version, self.zip(files), *more)


def program(says):
    return {"bin/run": f"#!/bin/sh\necho {says} $(cat $(dirname $0)/../data.txt)\n", "data.txt": "data\n"}


def test_packages_of_tasks_and_their_variables(sdk, make_job, pool, app, unique):
    name = unique("Tool")
    app.add(name, "1.0", program("one"))
    app.add(name, "2.0-rc", program("two"), "--default")
    variable = f"AZ_BATCH_APP_PACKAGE_{name.replace('-', '_')}"
    job = make_job(pool)
    reference = sdk.package(name, "1.0")
    task = job.run_shell(f"${variable}_1_0/bin/run", application_package_references=[reference])
    assert job.succeeded(task) == "one data\n"
    read = job.task(task.id).application_package_references
    assert [(item.application_id, item.version) for item in read] == [(name, "1.0")]
    # The default version, by both spellings of the variable.
    script = f"${variable}/bin/run; ${variable.replace(name.replace('-', '_'), name.replace('-', '_').lower())}/bin/run"
    task = job.run_shell(script, application_package_references=[sdk.package(name)])
    assert job.succeeded(task) == "two data\ntwo data\n"
    # Only those who list it see it.
    assert job.succeeded(job.run_shell(f"echo [${variable}_1_0]")) == "[]\n"
    found = sdk.get_application(name)
    assert (found.id, list(found.versions)) == (name, ["1.0", "2.0-rc"])
    assert name in [application.id for application in sdk.list_applications()]


def test_packages_of_a_pool_are_there_for_every_task_and_the_start_task(sdk, make_pool, make_job, app, unique):
    name = unique("pooled")
    app.add(name, "7", program("pool"), "--default")
    run = f"$AZ_BATCH_APP_PACKAGE_{name.replace('-', '_')}/bin/run"
    start = sdk.start_task(f"/bin/sh -c '{run} > $AZ_BATCH_NODE_SHARED_DIR/started'")
    pool = make_pool(nodes=1, start_task=start, application_package_references=[sdk.package(name)])
    ready_nodes(sdk, pool, 1)
    job = make_job(pool, job_preparation_task=sdk.job_preparation(f"/bin/sh -c '{run}'"))
    printed = job.succeeded(job.run_shell(f"{run}; cat $AZ_BATCH_NODE_SHARED_DIR/started"))
    assert printed == "pool data\npool data\n"
    assert [item.application_id for item in sdk.get_pool(pool).application_package_references] == [name]


def test_what_cannot_be_used_is_refused_or_fails_the_task(sdk, make_job, pool, app, unique):
    job = make_job(pool)
    with sdk.refused(409, "InvalidApplicationPackageReferences") as refusal:
        job.add("/bin/true", application_package_references=[sdk.package("nowhere", "1")])
    assert "nowhere" in refusal.message
    with sdk.refused(404, "ApplicationNotFound"):
        sdk.get_application("nowhere")
    name = unique("bad")
    app.add(name, "1", {"../out": "x"})
    task = job.run("/bin/true", application_package_references=[sdk.package(name, "1")])
    details = failure_of(task, "ApplicationPackageError")
    assert details["ApplicationPackageReference"] == f"{name}:1"
    assert task.execution_info.exit_code is None


@pytest.mark.once
def test_lote_app(sdk, app, unique, tmp_path):
    name = unique("listed")
    no_zip = tmp_path / "no.zip"
    no_zip.write_text("text")
    assert "is no zip" in app.lote("package", "add", name, "1", str(no_zip), ok=False)
    app.add(name, "1", program("a"), "--default")
    app.add(name, "2", program("b"))
    shown = {one["id"]: one for one in app.lote("list")["applications"]}[name]
    assert shown["defaultVersion"] == "1" and shown["allowUpdates"] is True
    assert [package["version"] for package in shown["packages"]] == ["1", "2"]
    app.lote("set", name, "--allow-updates", "false", "--default-version", "2", "--display-name", "Shown")
    assert sdk.get_application(name).display_name == "Shown"
    assert "allowUpdates" in app.lote("package", "delete", name, "1", ok=False)
    app.lote("set", name, "--allow-updates", "true")
    assert "still has packages" in app.lote("delete", name, ok=False)
    for version in ["1", "2"]:
        app.lote("package", "delete", name, version)
    app.lote("delete", name)
    wait_for("it to be gone", lambda: sdk.is_gone(lambda: sdk.get_application(name)), 5)
    assert "does not exist" in app.lote("delete", name, ok=False)
    assert "contains" in app.lote("package", "add", "a.b", "1", str(no_zip), ok=False)
