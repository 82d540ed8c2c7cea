"""What goes over the wire: headers, bodies, paging links and the small print that SDKs of other languages rely on."""

import re
import uuid
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

pytestmark = pytest.mark.once

GUID = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")


def make_pool(raw, id, **members):
    body = {
        "id": id,
        "vmSize": "STANDARD_D2s_v3",
        "virtualMachineConfiguration": {
            "imageReference": {"publisher": "canonical", "offer": "ubuntuserver", "sku": "18.04-lts"},
            "nodeAgentSKUId": "batch.node.ubuntu 18.04",
        },
        "targetDedicatedNodes": 0,
        **members,
    }
    return raw.send("POST", "/pools", body=body)


@pytest.fixture
def pool_id(raw, unique):
    id = unique("pool")
    yield id
    raw.send("DELETE", f"/pools/{id}")


@pytest.fixture
def job_id(raw, unique):
    id = unique("job")
    raw.send("POST", "/jobs", body={"id": id, "poolInfo": {"poolId": "none"}}).expect(201)
    yield id
    raw.send("DELETE", f"/jobs/{id}")


def test_headers_of_every_answer(raw):
    answer = raw.send("GET", "/pools").expect(200)
    assert GUID.match(answer.headers["request-id"])
    assert answer.headers["dataserviceversion"] == "3.0"
    assert answer.headers["date"].endswith(" GMT")
    assert answer.headers["content-type"].startswith("application/json")
    assert "retry-after" not in answer.headers
    assert "client-request-id" not in answer.headers
    other = raw.send("GET", "/pools")
    assert other.headers["request-id"] != answer.headers["request-id"]


def test_the_client_request_id_is_echoed_on_request(raw):
    id = str(uuid.uuid4())
    answer = raw.send("GET", "/pools", headers={"client-request-id": id, "return-client-request-id": "true"})
    assert answer.headers["client-request-id"] == id
    answer = raw.send("GET", "/pools", headers={"client-request-id": id, "return-client-request-id": "false"})
    assert "client-request-id" not in answer.headers


def test_headers_of_writes(raw, pool_id):
    answer = make_pool(raw, pool_id).expect(201)
    assert answer.body == b""
    assert re.fullmatch(r"0x[0-9A-F]+", answer.headers["etag"])
    assert answer.headers["last-modified"].endswith(" GMT")
    assert answer.headers["dataserviceid"].endswith(f"/pools/{pool_id}")
    got = raw.send("GET", f"/pools/{pool_id}").expect(200)
    assert got.headers["etag"] == answer.headers["etag"] == got.json()["eTag"]
    assert got.json()["url"] == answer.headers["dataserviceid"]
    gone = raw.send("DELETE", f"/pools/{pool_id}").expect(202)
    assert gone.body == b"" and "etag" not in gone.headers


def test_links_use_the_host_the_client_used(raw, pool_id):
    make_pool(raw, pool_id).expect(201)
    body = raw.send("GET", f"/pools/{pool_id}", headers={"Host": "batch.example.org:8443"}).json()
    assert body["url"] == f"http://batch.example.org:8443/pools/{pool_id}"


def test_a_page_link_carries_everything(raw, job_id):
    tasks = [{"id": f"t{n}", "commandLine": "/bin/true"} for n in range(5)]
    raw.send("POST", f"/jobs/{job_id}/addtaskcollection", body={"value": tasks}).expect(200)
    query = {"$filter": "startswith(id, 't')", "$select": "id,state", "maxresults": "2"}
    seen, pages = [], 0
    answer = raw.send("GET", f"/jobs/{job_id}/tasks", query)
    while True:
        body = answer.expect(200).json()
        pages += 1
        assert all(set(task) == {"id", "state"} for task in body["value"])
        seen += [task["id"] for task in body["value"]]
        link = body.get("odata.nextLink")
        if not link:
            break
        parts = urlsplit(link)
        assert (parts.scheme, parts.netloc) == ("http", raw.address.netloc)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        token = asked.pop("$skiptoken")
        assert re.fullmatch(r"[A-Za-z0-9_=-]+", token)
        assert asked.pop("api-version")
        assert {name: asked[name] for name in query} == query
        answer = raw.send("GET", unquote(parts.path), {**query, "$skiptoken": token})
    assert (sorted(seen), pages) == (["t0", "t1", "t2", "t3", "t4"], 3)
    assert body["odata.metadata"]


def test_a_made_up_page_token_is_refused(raw, job_id):
    for token in ("AAAA", "x" * 2000, "%00"):
        answer = raw.send("GET", f"/jobs/{job_id}/tasks", {"$skiptoken": token})
        assert answer.status in (200, 400)


@pytest.mark.parametrize("value", ["0", "1001", "-1", "x"])
def test_page_sizes(raw, value):
    answer = raw.send("GET", "/jobs", {"maxresults": value})
    answer.expect(400)
    assert answer.code in ("OutOfRangeQueryParameterValue", "InvalidQueryParameterValue")


def test_query_names_in_any_case_and_long_timeouts(raw):
    for name, value in (("timeout", "30"), ("timeOut", "45"), ("timeout", "100000"), ("MaxResults", "5")):
        raw.send("GET", "/jobs", {name: value}).expect(200)


@pytest.mark.parametrize(
    "version",
    ["2018-12-01.8.0", "2019-08-01.10.0", "2020-03-01.11.0", "2021-06-01.14.0", "2022-01-01.15.0", "2022-10-01.16.0",
     "2023-05-01.17.0", "2023-11-01.18.0", "2024-02-01.19.0", "2024-07-01.20.0", "2025-06-01"],
)  # fmt: skip
def test_api_versions(raw, version):
    raw.send("GET", "/jobs", api_version=version).expect(200)


def test_missing_and_unknown_api_versions(raw):
    answer = raw.send("GET", "/jobs", api_version=None).expect(400, "MissingRequiredQueryParameter")
    assert answer.values["QueryParameterName"] == "api-version"
    raw.send("GET", "/jobs", api_version="2001-01-01.1.0").expect(400, "UnsupportedRequestVersion")


def test_values_may_be_text_and_enums_in_any_case(raw, pool_id):
    """The CLI sends numbers as text; programs write `Spread`."""
    answer = make_pool(
        raw,
        pool_id,
        targetDedicatedNodes="0",
        taskSlotsPerNode="2",
        enableInterNodeCommunication="false",
        taskSchedulingPolicy={"nodeFillType": "Pack"},
        resizeTimeout="PT20M00S",
    )
    answer.expect(201)
    body = raw.send("GET", f"/pools/{pool_id}").json()
    assert body["targetDedicatedNodes"] == 0 and body["taskSlotsPerNode"] == 2
    assert body["enableInterNodeCommunication"] is False
    assert body["taskSchedulingPolicy"]["nodeFillType"] == "pack"
    assert body["resizeTimeout"] == "PT20M"
    assert "resizeErrors" not in body
    assert body["vmSize"] == "STANDARD_D2s_v3"


@pytest.mark.parametrize(
    "sent", ["P10675199DT2H48M5.4775807S", "P10675199DT2H48M5.477581S", "P999999999DT23H59M59.999999S", "P1000000000D"]
)
def test_every_spelling_of_unlimited(raw, job_id, sent):
    task = {"id": "t", "commandLine": "/bin/true", "constraints": {"maxWallClockTime": sent}}
    raw.send("POST", f"/jobs/{job_id}/tasks", body=task).expect(201)
    body = raw.send("GET", f"/jobs/{job_id}/tasks/t").json()
    assert body["constraints"]["maxWallClockTime"] == "P10675199DT2H48M5.4775807S"


def test_etags_in_quotes(raw, job_id):
    etag = raw.send("GET", f"/jobs/{job_id}").headers["etag"]
    for spelled in (etag, f'"{etag}"', f'W/"{etag}"', "*"):
        raw.send("PATCH", f"/jobs/{job_id}", body={}, headers={"If-Match": spelled}).expect(200)
        etag_now = raw.send("GET", f"/jobs/{job_id}").headers["etag"]
        if etag_now != etag:
            break  # an empty patch may count as a change; the next spelling would be stale
    raw.send("PATCH", f"/jobs/{job_id}", body={}, headers={"If-Match": '"0x1"'}).expect(412, "ConditionNotMet")
    raw.send("GET", f"/jobs/{job_id}", headers={"If-None-Match": f'"{etag_now}"'}).expect(304)


def test_bodies_that_may_be_empty(raw, job_id):
    raw.send("POST", f"/jobs/{job_id}/tasks", body={"id": "t", "commandLine": "/bin/true"}).expect(201)
    json = {"Content-Type": "application/json; odata=minimalmetadata; charset=utf-8"}
    raw.send("POST", f"/jobs/{job_id}/tasks/t/terminate", headers=json).expect(204)
    raw.send("POST", f"/jobs/{job_id}/terminate", body={}).expect(202)


def test_head(raw, pool_id):
    make_pool(raw, pool_id).expect(201)
    answer = raw.send("HEAD", f"/pools/{pool_id}").expect(200)
    assert answer.body == b"" and answer.headers["etag"]
    answer = raw.send("HEAD", f"/pools/{pool_id}x").expect(404)
    assert answer.body == b""


def test_dates_have_the_form_of_the_service(raw, pool_id):
    make_pool(raw, pool_id).expect(201)
    body = raw.send("GET", f"/pools/{pool_id}").json()
    for name in ("creationTime", "lastModified", "stateTransitionTime", "allocationStateTransitionTime"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,7})?Z", body[name]), (name, body[name])


def test_a_ranged_read_answers_200(raw, sdk, job):
    id = job.run("/bin/echo hello").id
    path = f"/jobs/{job.id}/tasks/{id}/files/stdout.txt"
    answer = raw.send("GET", path, headers={"ocp-range": "bytes=0-1"}).expect(200)
    assert (answer.body, answer.headers["content-length"]) == (b"he", "2")
    head = raw.send("HEAD", path).expect(200)
    assert (head.body, head.headers["content-length"]) == (b"", "6")
    assert head.headers["ocp-batch-file-isdirectory"].lower() == "false"
    assert head.headers["ocp-batch-file-mode"].startswith("0o100")
    listed = raw.send("GET", f"/jobs/{job.id}/tasks/{id}/files").json()["value"]
    lengths = {file["name"]: file.get("properties", {}).get("contentLength") for file in listed}
    assert lengths == {"stdout.txt": "6", "stderr.txt": "0", "wd": None}


def test_health_and_metrics(raw):
    assert raw.send_bytes("GET", "/healthz", None, {}).status == 200
    assert raw.send_bytes("GET", "/readyz", None, {}).status == 200
    metrics = raw.send_bytes("GET", "/metrics", None, {})
    assert metrics.status == 200 and b"# TYPE " in metrics.body
