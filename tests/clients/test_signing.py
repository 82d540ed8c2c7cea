"""The signer of these tests against the worked examples of the interface description."""

import base64

import pytest

from raw import authorization, string_to_sign

ACCOUNT = "contosobatch"
KEY = base64.b64encode(bytes(range(64))).decode()
DATE = {"ocp-date": "Tue, 15 Jul 2025 12:00:00 GMT"}
JSON = "application/json; odata=minimalmetadata"

EXAMPLES = [
    (
        "GET",
        "/jobs/job1/tasks?api-version=2024-02-01.19.0&$filter=state%20eq%20%27active%27&$select=id%2Cstate"
        "&maxresults=10&timeout=30",
        {},
        "lZ4g0X5NCh7P//wOmhnAtjc7E673OeSDiKh2biqKRKY=",
    ),
    (
        "POST",
        "/jobs/job1/tasks?api-version=2024-02-01.19.0",
        {"Content-Length": "40", "Content-Type": f"{JSON}; charset=utf-8"},
        "rDJi3SL8e5ssXXPzQIT1eov9N/mpD+KrYBX634R4OQc=",
    ),
    (
        "POST",
        "/jobs/job1/tasks?api-version=2025-06-01",
        {"Content-Length": "40", "Content-Type": JSON},
        "hs/zLXxCjK1xSxCgDXP12j1wlbPeGcEMwxTWOsyOQt8=",
    ),
    (
        "GET",
        "/jobs/job1/tasks?api-version=2025-06-01&timeOut=30&maxresults=10&$filter=state%20eq%20%27active%27"
        "&$select=id,state",
        {},
        "iHDR/FHCq+P3N6hNWddNVX6Sa1zmZvG4tgxYWob7zi8=",
    ),
    (
        "POST",
        "/jobs/job1/enable?api-version=2025-06-01",
        {"Content-Length": "0"},
        "X57ZsBs7lhNKRwf7Z1UrLhpZ62TIBtIj03qdrzoTWnM=",
    ),
    (
        "DELETE",
        "/jobs/job1?api-version=2024-02-01.19.0",
        {"Content-Length": "0", "If-Match": "0x8D1"},
        "Gkh09IbM6OaJAhfo5jS2mbGhTe9SVzuNUdUrk04nd6A=",
    ),
    (
        "GET",
        "/jobs/job1/tasks/t1/files/wd%2Fout.txt?api-version=2024-02-01.19.0",
        {"ocp-range": "bytes=0-1023"},
        "j05s4mOOXV07llED8VZVG/mFav7euZPZcDy2KdzTnRc=",
    ),
]


@pytest.mark.once
@pytest.mark.parametrize("method, target, headers, signature", EXAMPLES)
def test_worked_examples(method, target, headers, signature):
    signed = authorization(ACCOUNT, KEY, method, target, {**DATE, **headers})
    text = string_to_sign(ACCOUNT, method, target, {**DATE, **headers})
    assert signed == f"SharedKey {ACCOUNT}:{signature}", text
