"""Storage through azure-storage-blob, and through plain HTTP where the package would tidy up."""

import base64
import datetime
import hashlib
import http.client
import os
import random
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

import pytest
from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
from azure.storage.blob import (
    AccountSasPermissions,
    BlobBlock,
    BlobServiceClient,
    ContainerClient,
    ContentSettings,
    ResourceTypes,
    generate_account_sas,
    generate_container_sas,
)

from blobs import in_an_hour

pytestmark = pytest.mark.once

MIB = 1 << 20

ODD_NAMES = [
    "with space", "ünï©ode/日本.txt", "%41", "a&b=c+d", "q?x=1", "frag#ment", "[brackets]", "a'b\"c", "semi;colon,comma",
    "dir//double", "trailing/", "..dots", "~tilde", "x" * 1000, "percent%20", "100%",
]  # fmt: skip


def refused(status, code):
    """The package's exception, checked for status and code."""

    class Check:
        def __enter__(self):
            return self

        def __exit__(self, kind, error, _):
            assert error is not None, f"expected {status} {code}, but the call succeeded"
            if not isinstance(error, HttpResponseError):
                return False
            assert (error.status_code, error.error_code) == (status, code), error
            return True

    return Check()


# -- containers -----------------------------------------------------------------------------------------------------


def test_containers(blobs, unique):
    name = unique("cont")
    client = blobs.service.get_container_client(name)
    assert not client.exists()
    created = client.create_container(metadata={"owner": "me", "Mixed_Case": "Value"})
    assert created["etag"].startswith('"') and created["last_modified"]
    try:
        assert client.exists()
        properties = client.get_container_properties()
        assert (properties.name, properties.etag) == (name, created["etag"])
        assert {k.lower(): v for k, v in properties.metadata.items()} == {"owner": "me", "mixed_case": "Value"}
        assert properties.lease.state == "available" and properties.has_immutability_policy is False
        with refused(409, "ContainerAlreadyExists"):
            client.create_container()
        listed = {c.name: c for c in blobs.service.list_containers(name_starts_with=name, include_metadata=True)}
        assert set(listed) == {name}
        assert {k.lower(): v for k, v in listed[name].metadata.items()} == {"owner": "me", "mixed_case": "Value"}
    finally:
        client.delete_container()
    assert not client.exists()
    with refused(404, "ContainerNotFound"):
        client.get_container_properties()
    with refused(404, "ContainerNotFound"):
        client.delete_container()
    with refused(404, "ContainerNotFound"):
        client.upload_blob("a", b"x")
    # The name is free again.
    client.create_container()
    client.delete_container()


def test_pages_of_containers(blobs, unique):
    prefix = unique("page")
    names = [f"{prefix}-{n}" for n in range(5)]
    for name in names:
        blobs.service.create_container(name)
    try:
        pages = [
            [c.name for c in page]
            for page in blobs.service.list_containers(name_starts_with=prefix, results_per_page=2).by_page()
        ]
        assert pages == [names[:2], names[2:4], names[4:]]
    finally:
        for name in names:
            blobs.service.delete_container(name)


@pytest.mark.parametrize("name", ["ab", "Upper", "a--b", "-a-b", "x" * 64, "a_b"])
def test_bad_container_names(blobs, name):
    with pytest.raises(HttpResponseError) as refused:
        blobs.service.create_container(name)
    assert refused.value.status_code == 400


# -- blobs ----------------------------------------------------------------------------------------------------------


def test_put_get_head_delete(container):
    client = container.client.get_blob_client("a.txt")
    assert not client.exists()
    made = client.upload_blob(b"hello", content_settings=ContentSettings(content_type="text/plain", cache_control="no"))
    assert made["etag"].startswith('"') and made["content_md5"] == bytearray(hashlib.md5(b"hello").digest())
    properties = client.get_blob_properties()
    assert (properties.size, properties.etag, properties.blob_type) == (5, made["etag"], "BlockBlob")
    assert properties.content_settings.content_type == "text/plain"
    assert properties.content_settings.cache_control == "no"
    assert properties.content_settings.content_md5 == made["content_md5"]
    assert properties.creation_time and properties.last_modified
    assert client.download_blob().readall() == b"hello"
    with pytest.raises(ResourceExistsError) as exists:
        client.upload_blob(b"other")
    assert exists.value.error_code == "BlobAlreadyExists"
    again = client.upload_blob(b"other", overwrite=True)
    assert again["etag"] != made["etag"]
    assert client.download_blob().readall() == b"other"
    client.delete_blob()
    assert not client.exists()
    for call in (client.delete_blob, client.get_blob_properties, client.download_blob):
        with pytest.raises(ResourceNotFoundError) as missing:
            call()
        assert missing.value.error_code == "BlobNotFound"


def test_an_empty_blob(container):
    container.put("empty", b"")
    client = container.client.get_blob_client("empty")
    assert client.get_blob_properties().size == 0
    assert client.download_blob().readall() == b""


def test_ranges(container):
    data = random.Random(1).randbytes(3 * MIB + 17)
    container.put("r", data)
    client = container.client.get_blob_client("r")
    for offset, length in [(0, 1), (0, 100), (MIB - 1, 2), (64 * 1024 - 3, 7), (2 * MIB + 5, MIB), (len(data) - 1, 1)]:
        assert client.download_blob(offset, length).readall() == data[offset : offset + length]
    assert client.download_blob(offset=len(data) - 5).readall() == data[-5:]
    assert client.download_blob(len(data) - 5, 500).readall() == data[-5:]
    with refused(416, "InvalidRange"):
        client.download_blob(offset=len(data)).readall()


def test_blocks(container):
    client = container.client.get_blob_client("b")
    pieces = [os.urandom(size) for size in (1, MIB, 64 * 1024 + 1, 3 * MIB)]
    ids = [base64.b64encode(b"%04d" % n).decode() for n in range(4)]
    for id, piece in zip(ids, pieces):
        client.stage_block(id, piece)
    assert not client.exists()
    committed, staged = client.get_block_list("all")
    assert committed == [] and {(b.id, b.size) for b in staged} == {(i, len(p)) for i, p in zip(ids, pieces)}
    order = [3, 0, 2]
    client.commit_block_list([BlobBlock(ids[n]) for n in order], metadata={"k": "v"})
    assert client.download_blob().readall() == b"".join(pieces[n] for n in order)
    assert client.get_blob_properties().metadata == {"k": "v"}
    committed, staged = client.get_block_list("all")
    assert [b.id for b in committed] == [ids[n] for n in order] and staged == []
    # A committed block can be used again, beside a new one.
    client.stage_block(ids[1], b"new")
    client.commit_block_list([BlobBlock(ids[0]), BlobBlock(ids[1])])
    assert client.download_blob().readall() == pieces[0] + b"new"
    with refused(400, "InvalidBlockList"):
        client.commit_block_list([BlobBlock(base64.b64encode(b"none").decode())])
    assert client.download_blob().readall() == pieces[0] + b"new"
    client.stage_block(ids[0], b"staged again")
    with refused(400, "InvalidBlobOrBlock"):
        client.stage_block(base64.b64encode(b"longer id").decode(), b"x")
    assert client.download_blob().readall() == pieces[0] + b"new"


def test_an_upload_in_blocks(container):
    data = os.urandom(9 * MIB + 1)
    client = ContainerClient.from_connection_string(
        container.blobs.endpoints.connection_string, container.name, max_single_put_size=MIB, max_block_size=2 * MIB
    )
    client.upload_blob("n", data, max_concurrency=4)
    assert client.download_blob("n", max_concurrency=3).readall() == data


def test_metadata_and_headers(container):
    container.client.upload_blob("m", b"x", metadata={"a_b": "1", "a1": "2", "ab": "3", "Camel": "Ä".encode().hex()})
    client = container.client.get_blob_client("m")
    lower = {name.lower(): value for name, value in client.get_blob_properties().metadata.items()}
    assert lower == {"a_b": "1", "a1": "2", "ab": "3", "camel": "c384"}
    before = client.get_blob_properties().etag
    client.set_blob_metadata({"only": "this"})
    properties = client.get_blob_properties()
    assert properties.metadata == {"only": "this"} and properties.etag != before
    client.set_http_headers(ContentSettings(content_type="application/x-test", content_language="de"))
    properties = client.get_blob_properties()
    assert (properties.content_settings.content_type, properties.content_settings.content_language) == ("application/x-test", "de")
    assert properties.metadata == {"only": "this"}
    assert client.download_blob().readall() == b"x"


def test_conditions(container):
    client = container.client.get_blob_client("c")
    first = client.upload_blob(b"1")["etag"]
    second = client.upload_blob(b"2", overwrite=True, etag=first, match_condition=MatchConditions.IfNotModified)["etag"]
    with pytest.raises(ResourceModifiedError) as refused:
        client.upload_blob(b"3", overwrite=True, etag=first, match_condition=MatchConditions.IfNotModified)
    assert refused.value.error_code == "ConditionNotMet"
    with pytest.raises(HttpResponseError) as unchanged:
        client.download_blob(etag=second, match_condition=MatchConditions.IfModified).readall()
    assert unchanged.value.status_code == 304
    assert client.download_blob().readall() == b"2"


def test_a_wrong_checksum_is_refused(container):
    client = container.client.get_blob_client("md5")
    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    with refused(400, "Md5Mismatch"):
        client.upload_blob(b"data", headers={"Content-MD5": wrong})
    assert not client.exists()
    client.upload_blob(b"data", validate_content=True)
    assert client.get_blob_properties().content_settings.content_md5 == hashlib.md5(b"data").digest()


def test_list(container):
    names = ["a.txt", "dir/a", "dir/b", "dir/sub/c", "dir2/d", "z"]
    for name in names:
        container.put(name, name)
    client = container.client
    assert [blob.name for blob in client.list_blobs()] == names
    assert [blob.name for blob in client.list_blobs(name_starts_with="dir")] == names[1:5]
    assert [blob.name for blob in client.list_blobs(name_starts_with="dir/")] == names[1:4]
    pages = [[blob.name for blob in page] for page in client.list_blobs(results_per_page=4).by_page()]
    assert pages == [names[:4], names[4:]]
    # The package gives the prefixes of a page before its blobs.
    assert [item.name for item in client.walk_blobs(delimiter="/")] == ["dir/", "dir2/", "a.txt", "z"]
    below = [item.name for item in client.walk_blobs(name_starts_with="dir/", delimiter="/")]
    assert below == ["dir/sub/", "dir/a", "dir/b"]
    container.client.upload_blob("meta", b"12", metadata={"k": "v"})
    (blob,) = client.list_blobs(name_starts_with="meta", include=["metadata"])
    assert (blob.size, blob.metadata, blob.blob_type) == (2, {"k": "v"}, "BlockBlob")
    assert blob.etag and blob.last_modified and blob.creation_time
    assert blob.content_settings.content_md5 == hashlib.md5(b"12").digest()
    assert list(client.list_blobs(name_starts_with="none")) == []


def test_odd_names(container):
    for name in ODD_NAMES:
        container.put(name, name.encode())
    assert set(container.names()) == set(ODD_NAMES)
    for name in ODD_NAMES:
        assert container.get(name) == name.encode(), name
        status, body = fetch(container.blob_url(name))
        assert (status, body) == (200, name.encode()), name
    for name in ODD_NAMES:
        container.client.delete_blob(name)
    assert container.names() == []


def test_a_slash_in_a_name_may_be_encoded(container):
    container.put("a/b c", "x")
    url = container.blob_url("a/b c").replace("/a/b%20c", "/a%2Fb%20c")
    assert "%2F" in url
    assert fetch(url) == (200, b"x")


# -- shared access signatures ---------------------------------------------------------------------------------------


def fetch(url, method="GET", body=None, headers=None):
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    try:
        connection.request(method, f"{parts.path}?{parts.query}", body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_service_sas(container):
    container.put("a", "content")
    assert fetch(container.blob_url("a")) == (200, b"content")
    limited = ContainerClient.from_container_url(container.url("rl"))
    assert [blob.name for blob in limited.list_blobs()] == ["a"]
    assert limited.download_blob("a").readall() == b"content"
    with refused(403, "AuthorizationPermissionMismatch"):
        limited.upload_blob("b", b"x")
    with refused(403, "AuthorizationPermissionMismatch"):
        limited.delete_blob("a")
    creator = ContainerClient.from_container_url(container.url("c"))
    creator.upload_blob("b", b"x")
    with refused(403, "AuthorizationPermissionMismatch"):
        creator.upload_blob("b", b"y", overwrite=True)
    with refused(403, "AuthorizationPermissionMismatch"):
        list(creator.list_blobs())
    assert container.contents() == {"a": b"content", "b": b"x"}


def test_a_blob_sas_opens_no_other_blob(container):
    container.put("a", "content")
    container.put("b", "secret")
    status, _ = fetch(container.blob_url("a").replace("/a?", "/b?"))
    assert status == 403


def test_sas_that_do_not_hold(container):
    container.put("a", "content")
    endpoints = container.blobs.endpoints
    now = datetime.datetime.now(datetime.timezone.utc)
    hour = datetime.timedelta(hours=1)

    def url(key=endpoints.storage_key, expiry=now + hour, **more):
        sas = generate_container_sas(
            endpoints.storage_account, container.name, account_key=key, permission="r", expiry=expiry, **more
        )
        return f"{container.client.url}/a?{sas}"

    assert fetch(url())[0] == 200
    assert fetch(url(expiry=now - hour))[0] == 403
    assert fetch(url(start=now + hour, expiry=now + 2 * hour))[0] == 403
    assert fetch(url(key=base64.b64encode(b"x" * 64).decode()))[0] == 403
    assert fetch(url(protocol="https"))[0] == 403
    assert fetch(url(ip="10.1.2.3"))[0] == 403
    assert fetch(url().replace("sp=r", "sp=rw"))[0] == 403
    assert fetch(f"{container.client.url}/a?")[0] in (401, 403, 404, 409)


def test_account_sas(blobs, container):
    container.put("a", "content")
    endpoints = blobs.endpoints

    def service(types, permissions):
        sas = generate_account_sas(
            endpoints.storage_account,
            endpoints.storage_key,
            ResourceTypes.from_string(types),
            AccountSasPermissions.from_string(permissions),
            in_an_hour(),
        )
        return BlobServiceClient(endpoints.blob_url, credential=sas)

    everything = service("sco", "rwdlac")
    assert container.name in [c.name for c in everything.list_containers()]
    client = everything.get_container_client(container.name)
    client.upload_blob("b", b"x")
    assert client.download_blob("b").readall() == b"x"
    client.delete_blob("b")
    objects = service("o", "r").get_container_client(container.name)
    assert objects.download_blob("a").readall() == b"content"
    with refused(403, "AuthorizationResourceTypeMismatch"):
        list(objects.list_blobs())
    with refused(403, "AuthorizationPermissionMismatch"):
        objects.delete_blob("a")


def test_wrong_key(blobs):
    service = BlobServiceClient(
        blobs.endpoints.blob_url,
        credential={"account_name": blobs.endpoints.storage_account, "account_key": base64.b64encode(b"x" * 64).decode()},
    )
    with refused(403, "AuthenticationFailed"):
        list(service.list_containers())


# -- what goes over the wire -----------------------------------------------------------------------------------------


def test_error_bodies_are_xml(container):
    status, body = fetch(container.blob_url("none"))
    assert status == 404
    error = ElementTree.fromstring(body)
    assert (error.tag, error.findtext("Code")) == ("Error", "BlobNotFound")
    message = error.findtext("Message").splitlines()
    assert message[0] == "The specified blob does not exist." and message[1].startswith("RequestId:")


@pytest.mark.parametrize("path", ["../x", "..%2F..%2Fx", "%2e%2e/x", "a/../../x", ".."])
def test_paths_lead_nowhere_else(container, path):
    """A blob name is a name, never a path on some disk."""
    url = f"{container.client.url}/{path}?{container.url('rw').split('?')[1]}"
    status, _ = fetch(url, "PUT", b"x", {"x-ms-blob-type": "BlockBlob"})
    assert status in (201, 400, 403, 404)
    if status == 201:
        assert len(container.names()) == 1


def test_malformed_block_list(container):
    url = f"{container.blob_url('x', 'w')}&comp=blocklist"
    for body in (b"", b"<", b"<BlockList><Latest>", b"<a/>", b"<!DOCTYPE x [<!ENTITY a 'b'>]><BlockList/>" + b" " * 100):
        status, answer = fetch(url, "PUT", body)
        assert status == 400 or (status == 201 and body.endswith(b" ")), (status, answer)


def test_unknown_operations(container):
    for comp in ("lease", "snapshot", "tags", "page", "nonsense"):
        status, _ = fetch(f"{container.blob_url('x', 'w')}&comp={quote(comp)}", "PUT", b"", {"Content-Length": "0"})
        assert 400 <= status < 500 or status == 501, comp


# -- size -----------------------------------------------------------------------------------------------------------


def test_64_mib(container):
    """One request of 64 MiB, then the same in blocks; both come back byte for byte."""
    data = random.Random(2).randbytes(64 * MIB)
    digest = hashlib.md5(data).digest()
    container.client.upload_blob("one", data)
    staged = ContainerClient.from_connection_string(
        container.blobs.endpoints.connection_string, container.name, max_single_put_size=4 * MIB
    )
    staged.upload_blob("two", data)
    for name in ("one", "two"):
        assert hashlib.md5(container.get(name)).digest() == digest
    assert container.client.get_blob_client("one").get_blob_properties().content_settings.content_md5 == digest
