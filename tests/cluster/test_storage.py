"""Storage of three coordinators: what one was told holds at all of them, and copies do not depend on their sources."""

import os

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import AccessPolicy, ContainerClient, ContainerSasPermissions, generate_container_sas

from blobs import Blobs, in_an_hour

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


def chunks(coordinator) -> int:
    return sum(1 for _ in coordinator.data_dir.rglob("chunks/chunks/*/*"))


def test_copies_and_policies_at_every_coordinator(lote_cluster):
    cluster = lote_cluster(coordinators=3, workers=0)
    with cluster.client.entered():
        ends = cluster.endpoints()
        container = Blobs(ends[0]).service.create_container("cont")
        at = [Blobs(end).service.get_container_client("cont") for end in ends]
        data = os.urandom(6_000_001)
        container.upload_blob("source", data)
        held = [chunks(coordinator) for coordinator in cluster.coordinators.values()]
        assert held.count(0) == 1, f"a blob lies on two: {held}"
        # Also by the one that holds nothing of it, which brings it there first.
        for number, client in enumerate(at):
            client.get_blob_client(f"copy-{number}").start_copy_from_url(f"{ends[number].blob_url}/cont/source")
        assert all(chunks(coordinator) > 0 for coordinator in cluster.coordinators.values())
        container.delete_blob("source")
        for client in at:
            assert all(client.download_blob(f"copy-{number}").readall() == data for number in range(3))

        policy = AccessPolicy(ContainerSasPermissions(read=True), in_an_hour(), None)
        container.set_container_access_policy({"reader": policy})
        account, key = ends[0].storage_account, ends[0].storage_key
        sas = generate_container_sas(account, "cont", account_key=key, policy_id="reader")
        readers = [ContainerClient.from_container_url(f"{end.blob_url}/cont?{sas}") for end in ends]
        for reader in readers:
            assert reader.download_blob("copy-0").readall() == data
        # Taken away at one, it is good at none.
        container.set_container_access_policy({})
        for reader in readers:
            with pytest.raises(HttpResponseError) as refused:
                reader.download_blob("copy-0")
            assert refused.value.error_code == "AuthenticationFailed"
