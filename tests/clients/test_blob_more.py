"""Storage through azure-storage-blob: copies, append blobs, batches, stored access policies, checksums."""

import base64
import datetime
import os

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import AccessPolicy, ContainerClient, ContainerSasPermissions, generate_container_sas

from blobs import in_an_hour
from test_blob import refused

pytestmark = pytest.mark.once

MIB = 1 << 20


def block_id(n):
    return base64.b64encode(b"%04d" % n).decode()


# -- copies ---------------------------------------------------------------------------------------------------------


def test_copies(container, blobs):
    data = os.urandom(3 * MIB + 5)
    source = container.client.get_blob_client("source +%41 ü")
    source.upload_blob(data, metadata={"k": "v"})
    # Of one account, the key is enough; also across containers.
    with blobs.new_container(f"{container.name}-2") as other:
        client = other.client.get_blob_client("copy")
        started = client.start_copy_from_url(source.url)
        assert started["copy_status"] == "success"
        properties = client.get_blob_properties()
        assert (properties.copy.id, properties.copy.status) == (started["copy_id"], "success")
        assert properties.copy.source == source.url and properties.metadata == {"k": "v"}
        assert client.download_blob().readall() == data
        with refused(409, "NoPendingCopyOperation"):
            client.abort_copy(started["copy_id"])
    client = container.client.get_blob_client("copy")
    assert client.start_copy_from_url(container.blob_url(source.blob_name), requires_sync=True)["copy_status"] == "success"
    assert client.download_blob().readall() == data
    put = container.client.get_blob_client("put")
    put.upload_blob_from_url(container.blob_url(source.blob_name))
    assert put.download_blob().readall() == data
    (listed,) = container.client.list_blobs(name_starts_with="copy", include=["copy"])
    assert listed.copy.status == "success"
    with refused(404, "CannotVerifyCopySource"):
        client.start_copy_from_url(f"{container.client.url}/none")


def test_the_source_of_a_copy_stays_or_goes(container):
    """Copies share content; what happens to one is nothing to the other."""
    data = os.urandom(2 * MIB)
    source = container.client.get_blob_client("a")
    source.upload_blob(data)
    copy = container.client.get_blob_client("b")
    copy.start_copy_from_url(source.url)
    source.upload_blob(b"other", overwrite=True)
    assert copy.download_blob().readall() == data
    source.delete_blob()
    assert copy.download_blob().readall() == data


def test_blocks_from_a_url(container):
    data = os.urandom(5 * MIB)
    container.put("source", data)
    client = container.client.get_blob_client("made")
    url = container.blob_url("source")
    client.stage_block_from_url(block_id(0), url, 4 * MIB, MIB)
    client.stage_block_from_url(block_id(1), url, 10, 100)
    client.stage_block(block_id(2), b"plain")
    client.commit_block_list([block_id(n) for n in range(3)])
    assert client.download_blob().readall() == data[4 * MIB :] + data[10:110] + b"plain"


def test_a_source_on_another_server(container, own_cluster):
    """Of another cluster, as of any other store."""
    from blobs import Blobs

    cluster = own_cluster("source", workers=1)
    cluster.start()
    with Blobs(cluster.endpoints).new_container("elsewhere") as elsewhere:
        data = os.urandom(2 * MIB + 3)
        elsewhere.client.upload_blob("a", data, metadata={"k": "v"})
        client = container.client.get_blob_client("from-elsewhere")
        assert client.start_copy_from_url(elsewhere.blob_url("a"))["copy_status"] == "success"
        assert client.download_blob().readall() == data
        properties = client.get_blob_properties()
        assert properties.metadata == {"k": "v"} and "sig=" not in properties.copy.source
        with refused(404, "CannotVerifyCopySource"):
            client.start_copy_from_url(f"{elsewhere.client.url}/a")
    cluster.stop()


# -- append blobs -----------------------------------------------------------------------------------------------------


def test_append_blobs(container):
    client = container.client.get_blob_client("log")
    client.create_append_blob(metadata={"k": "v"})
    expected = b""
    for n in range(20):
        line = b"%d " % n * (n * 1000)
        if not line:
            continue
        answer = client.append_block(line)
        assert int(answer["blob_append_offset"]) == len(expected)
        expected += line
    properties = client.get_blob_properties()
    assert (properties.blob_type, properties.append_blob_committed_block_count) == ("AppendBlob", 19)
    assert client.download_blob().readall() == expected
    with refused(412, "AppendPositionConditionNotMet"):
        client.append_block(b"x", appendpos_condition=5)
    with refused(412, "MaxBlobSizeConditionNotMet"):
        client.append_block(b"x", maxsize_condition=len(expected))
    container.client.upload_blob("up", b"one", blob_type="AppendBlob")
    container.client.upload_blob("up", b"two", blob_type="AppendBlob")
    assert container.get("up") == b"onetwo"
    container.put("block", b"x")
    with refused(409, "InvalidBlobType"):
        container.client.get_blob_client("block").append_block(b"y")


# -- batches ----------------------------------------------------------------------------------------------------------


def test_batch_delete(container, blobs):
    names = [f"b/{n} +%41 é" for n in range(100)]
    for name in names:
        container.put(name, "x")
    container.client.delete_blobs(*names[:60])
    assert container.names() == sorted(names[60:])
    answers = list(container.client.delete_blobs(names[60], "none", raise_on_any_failure=False))
    assert [answer.status_code for answer in answers] == [202, 404]
    limited = ContainerClient.from_container_url(container.url("rdl"))
    limited.delete_blobs(*names[61:])
    assert container.names() == []
    container.put("kept", "x")
    reader = ContainerClient.from_container_url(container.url("rl"))
    with pytest.raises(HttpResponseError):
        reader.delete_blobs("kept")
    assert container.names() == ["kept"]


# -- stored access policies -------------------------------------------------------------------------------------------


def test_stored_access_policies(container):
    container.put("a", "content")
    now = datetime.datetime.now(datetime.timezone.utc)
    reader = AccessPolicy(ContainerSasPermissions(read=True), in_an_hour(), now - datetime.timedelta(minutes=1))
    container.client.set_container_access_policy({"reader": reader, "named": AccessPolicy()})
    found = container.client.get_container_access_policy()
    assert found["public_access"] is None
    assert [policy.id for policy in found["signed_identifiers"]] == ["reader", "named"]
    endpoints = container.blobs.endpoints
    sas = generate_container_sas(
        endpoints.storage_account, container.name, account_key=endpoints.storage_key, policy_id="reader"
    )
    by_policy = ContainerClient.from_container_url(f"{container.client.url}?{sas}")
    assert by_policy.download_blob("a").readall() == b"content"
    with refused(403, "AuthorizationPermissionMismatch"):
        by_policy.delete_blob("a")
    container.client.set_container_access_policy({})
    with refused(403, "AuthenticationFailed"):
        by_policy.download_blob("a")
    with refused(409, "PublicAccessNotPermitted"):
        container.client.set_container_access_policy({}, public_access="container")


# -- checksums --------------------------------------------------------------------------------------------------------


def test_checksums_both_ways(container):
    data = os.urandom(9 * MIB)
    client = ContainerClient.from_connection_string(
        container.blobs.endpoints.connection_string, container.name, max_single_put_size=MIB, max_block_size=2 * MIB
    ).get_blob_client("checked")
    client.upload_blob(data, validate_content=True, max_concurrency=2)
    assert client.download_blob(validate_content=True).readall() == data
    part = client.download_blob(5, 100, validate_content=True).readall()
    assert part == data[5:105]


def test_service_properties(blobs):
    properties = blobs.service.get_service_properties()
    assert properties["static_website"].enabled is False and properties["cors"] == []
    assert blobs.service.get_account_information()["account_kind"] == "StorageV2"
