"""Requests that have to be refused: the specified error each time, and nothing half done."""

import base64
import datetime
import json
import time
from email.utils import formatdate

import pytest
from azure.core.exceptions import HttpResponseError

from jobs import failure_of
from lote_cluster import wait_for
from raw import API_VERSION, authorization

TASK = {"id": "t", "commandLine": "/bin/true"}


@pytest.fixture
def job_id(raw, unique):
    id = unique("job")
    raw.send("POST", "/jobs", body={"id": id, "poolInfo": {"poolId": "none"}}).expect(201)
    yield id
    raw.send("DELETE", f"/jobs/{id}")


@pytest.fixture
def unchanged(raw, job_id):
    """Nothing that a test does may change what is listed."""

    def everything():
        found = {}
        for path in ("/pools", "/jobs", f"/jobs/{job_id}/tasks"):
            listed = raw.send("GET", path).expect(200).json()["value"]
            # Jobs and pools of earlier tests may still be on their way out.
            found[path] = {item["id"]: item["eTag"] for item in listed if item["state"] != "deleting"}
        return found

    before = everything()
    yield
    assert everything() == before


# -- who asks -------------------------------------------------------------------------------------------------------


@pytest.mark.once
@pytest.mark.usefixtures("unchanged")
class TestAuthentication:
    def add(self, raw, job_id, **how):
        return raw.send("POST", f"/jobs/{job_id}/tasks", body=TASK, **how)

    def test_wrong_key(self, raw, job_id):
        answer = self.add(raw, job_id, key=base64.b64encode(b"x" * 64).decode())
        answer.expect(403, "AuthenticationFailed")
        assert "MAC" in answer.values["AuthenticationErrorDetail"]

    def test_wrong_signature(self, raw, job_id):
        headers = {"Authorization": f"SharedKey {raw.account}:{base64.b64encode(b'x' * 32).decode()}"}
        self.add(raw, job_id, headers=headers, sign=False).expect(403, "AuthenticationFailed")

    def test_a_signature_of_another_request(self, raw, job_id):
        """The signature of a harmless request does not open another."""
        headers = {"ocp-date": formatdate(usegmt=True)}
        harmless = authorization(raw.account, raw.key, "GET", f"/jobs?api-version={API_VERSION}", headers)
        headers["Authorization"] = harmless
        raw.send("DELETE", f"/jobs/{job_id}", headers=headers, sign=False).expect(403, "AuthenticationFailed")

    @pytest.mark.parametrize("seconds", [-3600, -16 * 60, 3600])
    def test_old_and_future_dates(self, raw, job_id, seconds):
        self.add(raw, job_id, date=time.time() + seconds).expect(403, "AuthenticationFailed")

    def test_a_date_that_is_no_date(self, raw, job_id):
        answer = self.add(raw, job_id, headers={"ocp-date": "yesterday"})
        assert answer.status in (400, 403), answer

    def test_unknown_account(self, raw, job_id):
        self.add(raw, job_id, account="nobody").expect(403, "AuthenticationFailed")

    @pytest.mark.parametrize("value", ["SharedKey", "SharedKey x", "SharedKey a:b:c", "Basic YTpi", "", "SharedKey a:!"])
    def test_malformed_headers(self, raw, job_id, value):
        answer = self.add(raw, job_id, headers={"Authorization": value}, sign=False)
        assert answer.status in (400, 403), answer
        assert answer.code in ("InvalidAuthenticationInfo", "AuthenticationFailed")

    def test_no_header(self, raw, job_id):
        answer = self.add(raw, job_id, sign=False)
        assert answer.status in (400, 403), answer
        assert answer.code in ("InvalidAuthenticationInfo", "AuthenticationFailed")

    def test_the_account_is_found_in_any_case(self, raw):
        raw.send("GET", "/jobs", account=raw.account.upper()).expect(200)


def test_wrong_key_as_the_sdk_shows_it(sdk, cluster):
    other = type(sdk)(cluster.endpoints, key=base64.b64encode(b"x" * 64).decode())
    with other.refused(403, "AuthenticationFailed"):
        other.list_pools()


# -- what is asked --------------------------------------------------------------------------------------------------


@pytest.mark.once
@pytest.mark.usefixtures("unchanged")
class TestBodies:
    @pytest.mark.parametrize(
        "body", [b"{", b"", b"[]", b"null", b"\xff\xfe", b'{"id": "t", "commandLine": }', b'{"id": 7' * 1000]
    )
    def test_malformed_json(self, raw, job_id, body):
        answer = raw.send("POST", f"/jobs/{job_id}/tasks", body=body).expect(400)
        assert answer.code in ("InvalidRequestBody", "MissingRequiredProperty", "InvalidInput")

    def test_deep_nesting(self, raw, job_id):
        body = b'{"id":' * 100_000 + b"1" + b"}" * 100_000
        raw.send("POST", f"/jobs/{job_id}/tasks", body=body).expect(400)

    @pytest.mark.parametrize(
        "members, code",
        [
            ({"commandLine": None}, "MissingRequiredProperty"),
            ({"id": None}, "MissingRequiredProperty"),
            ({"commandLine": 7}, None),
            ({"requiredSlots": "many"}, None),
            ({"constraints": {"maxWallClockTime": "an hour"}}, None),
            ({"constraints": {"maxTaskRetryCount": 2**40}}, None),
            ({"resourceFiles": {}}, None),
            ({"id": "../x"}, "InvalidPropertyValue"),
        ],
    )
    def test_wrong_members(self, raw, job_id, members, code):
        body = {name: value for name, value in {**TASK, **members}.items() if value is not None}
        answer = raw.send("POST", f"/jobs/{job_id}/tasks", body=body).expect(400, code)
        assert answer.code

    def test_an_unknown_member(self, raw, job_id):
        answer = raw.send("POST", f"/jobs/{job_id}/tasks", body={**TASK, "comandLine": "x"}).expect(400)
        assert answer.code in ("UnsupportedProperty", "InvalidRequestBody")
        assert "comandLine" in json.dumps(answer.json())

    def test_an_unknown_member_in_a_collection_adds_nothing(self, raw, job_id):
        tasks = [{**TASK, "id": f"t{n}"} for n in range(4)] + [{**TASK, "id": "t4", "nonsense": 1}]
        raw.send("POST", f"/jobs/{job_id}/addtaskcollection", body={"value": tasks}).expect(400)

    def test_more_than_a_hundred_tasks_add_nothing(self, raw, job_id):
        tasks = [{**TASK, "id": f"t{n}"} for n in range(101)]
        raw.send("POST", f"/jobs/{job_id}/addtaskcollection", body={"value": tasks}).expect(400)

    def test_a_body_too_large(self, raw, job_id):
        tasks = [{**TASK, "id": f"t{n}", "commandLine": "x" * 11_400} for n in range(100)]
        answer = raw.send("POST", f"/jobs/{job_id}/addtaskcollection", body={"value": tasks})
        answer.expect(413, "RequestBodyTooLarge")

    def test_one_task_too_large(self, raw, job_id):
        task = {**TASK, "commandLine": "x" * 1_180_000}
        raw.send("POST", f"/jobs/{job_id}/tasks", body=task).expect(413, "RequestBodyTooLarge")

    def test_an_endless_body_is_cut_off(self, raw, job_id):
        body = b'{"value": [' + b" " * (32 << 20)
        try:
            answer = raw.send("POST", f"/jobs/{job_id}/addtaskcollection", body=body)
        except ConnectionError:
            return  # cut off before the answer came through
        answer.expect(413, "RequestBodyTooLarge")


@pytest.mark.once
@pytest.mark.usefixtures("unchanged")
class TestPaths:
    @pytest.mark.parametrize(
        "path", ["/nothing", "/jobs/a/b/c", "/", "//jobs", "/pools/", "/jobs/%00", "/jobs/" + "x" * 3000]
    )
    def test_paths_that_are_nothing(self, raw, path):
        answer = raw.send("GET", path)
        assert answer.status in (400, 404), answer
        assert answer.json()["code"]

    @pytest.mark.parametrize("path", ["/jobs/../pools", "/jobs/..%2Fpools", "/pools/%2e%2e/jobs", "/jobs/..\\x"])
    def test_dots(self, raw, path):
        answer = raw.send("DELETE", path)
        assert answer.status in (400, 404, 405), answer

    @pytest.mark.parametrize(
        "path", ["..%2Fx", "wd%2F..%2F..%2Fx", "..", "%2e%2e%2fx", "%2Fetc%2Fpasswd", "wd/../../x", "wd%5C..%5C..%5Cx"]
    )
    def test_dots_in_file_paths(self, raw, job_id, path):
        for method in ("GET", "HEAD", "DELETE"):
            answer = raw.send(method, f"/jobs/{job_id}/tasks/t/files/{path}")
            assert answer.status in (400, 404), answer

    def test_methods_that_are_nothing(self, raw, job_id):
        for method, path in [("PUT", "/pools"), ("POST", f"/jobs/{job_id}"), ("DELETE", "/jobs"), ("TRACE", "/jobs")]:
            answer = raw.send(method, path)
            assert answer.status in (400, 404, 405, 501), answer

    def test_unknown_job(self, raw):
        raw.send("GET", "/jobs/none").expect(404, "JobNotFound")
        raw.send("POST", "/jobs/none/tasks", body=TASK).expect(404, "JobNotFound")


# -- what is not built yet ------------------------------------------------------------------------------------------


class TestNotBuiltYet:
    """A field or operation of a later issue is refused by name; nothing is silently ignored."""

    @pytest.mark.parametrize(
        "field, make",
        [
            ("multiInstanceSettings", lambda sdk: {"multi_instance_settings": sdk.multi_instance()}),
        ],
    )
    def test_fields_of_tasks(self, sdk, job, field, make):
        with sdk.refused(501, "NotImplemented") as refusal:
            job.add("/bin/true", **make(sdk))
        assert field in refusal.message + str(refusal.values)
        assert sdk.list_tasks(job.id) == []

    @pytest.mark.once
    @pytest.mark.parametrize(
        "kind, members",
        [
            (
                "job",
                {"jobManagerTask": {"id": "m", "commandLine": "/bin/true", "containerSettings": {"imageName": "x"}}},
            ),
            ("task", {"containerSettings": {"imageName": "x"}}),
            ("pool", {"enableAutoScale": True, "autoScaleFormula": "$TargetDedicatedNodes=1"}),
            ("pool", {"startTask": {"commandLine": "/bin/true", "containerSettings": {"imageName": "x"}}}),
        ],
    )
    def test_other_fields(self, raw, unchanged, job_id, unique, kind, members):
        pool = {
            "id": unique("pool"),
            "vmSize": "standard_a1_v2",
            "targetDedicatedNodes": 0,
            "virtualMachineConfiguration": {
                "imageReference": {"publisher": "canonical", "offer": "ubuntuserver", "sku": "18.04-lts"},
                "nodeAgentSKUId": "batch.node.ubuntu 18.04",
            },
        }
        path, body = {
            "pool": ("/pools", pool),
            "job": ("/jobs", {"id": unique("job"), "poolInfo": {"poolId": "none"}}),
            "task": (f"/jobs/{job_id}/tasks", TASK),
        }[kind]
        answer = raw.send("POST", path, body={**body, **members}).expect(501, "NotImplemented")
        assert any(name in json.dumps(answer.json()) for name in members), answer.body

    @pytest.mark.once
    @pytest.mark.parametrize(
        "method, path, body",
        [
            ("GET", "/certificates", None),
            ("GET", "/lifetimejobstats", None),
            ("GET", "/poolusagemetrics", None),
            ("POST", "/pools/{pool}/removenodes", {"nodeList": ["x"]}),
            ("POST", "/pools/{pool}/enableautoscale", {"autoScaleFormula": "$TargetDedicatedNodes=1"}),
            ("POST", "/pools/{pool}/nodes/x/reboot", {}),
            ("POST", "/pools/{pool}/nodes/x/disablescheduling", {}),
            ("POST", "/pools/{pool}/nodes/x/users", {"name": "u"}),
            ("GET", "/pools/{pool}/nodes/x/remoteloginsettings", None),
        ],
    )
    def test_operations(self, raw, unchanged, pool, job_id, method, path, body):
        answer = raw.send(method, path.format(pool=pool, job=job_id), body=body)
        answer.expect(501, "NotImplemented")


def test_on_task_failure_is_obeyed_or_refused(sdk, pool, make_job):
    """A failing task ends a job that asked for it, unless the service says that it cannot do this."""
    member = "on_task_failure" if sdk.name == "py14" else "task_failure_mode"
    try:
        job = make_job(pool, **{member: "performexitoptionsjobaction"})
    except sdk.errors as error:
        refusal = sdk.refusal(error)
        assert (refusal.status, refusal.code) == (501, "NotImplemented")
        assert "onTaskFailure" in refusal.message + str(refusal.values)
        return
    failure_of(job.run("/bin/false"), "FailureExitCode")
    done = wait_for("the end of the job", lambda: (j := sdk.get_job(job.id)).state == "completed" and j)
    assert sdk.terminate_reason(done) == "TaskFailed"


@pytest.mark.once
def test_old_dates_are_refused_for_storage_as_well(blobs):
    def old_date(request):
        old = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=1)
        request.http_request.headers["x-ms-date"] = old.strftime("%a, %d %b %Y %H:%M:%S GMT")

    with pytest.raises(HttpResponseError) as refused:
        list(blobs.service.list_containers(raw_request_hook=old_date))
    assert (refused.value.status_code, refused.value.error_code) == (403, "AuthenticationFailed")
