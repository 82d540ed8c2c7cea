"""Shorthand for storage: containers, their contents, and URLs with a SAS that nodes use."""

from __future__ import annotations

import datetime
from contextlib import contextmanager

from azure.storage.blob import (
    BlobServiceClient,
    ContainerClient,
    ContainerSasPermissions,
    BlobSasPermissions,
    generate_blob_sas,
    generate_container_sas,
)


class Blobs:
    def __init__(self, endpoints):
        self.endpoints = endpoints
        self.service = BlobServiceClient.from_connection_string(endpoints.connection_string)

    @contextmanager
    def new_container(self, name: str):
        container = Container(self, self.service.create_container(name))
        try:
            yield container
        finally:
            container.client.delete_container()


class Container:
    """One container."""

    def __init__(self, blobs: Blobs, client: ContainerClient):
        self.blobs = blobs
        self.client = client
        self.name = client.container_name

    def put(self, name: str, data: bytes | str) -> None:
        self.client.upload_blob(name, data)

    def get(self, name: str) -> bytes:
        return self.client.download_blob(name).readall()

    def names(self, prefix: str | None = None) -> list[str]:
        return sorted(self.client.list_blob_names(name_starts_with=prefix))

    def contents(self) -> dict[str, bytes]:
        return {name: self.get(name) for name in self.names()}

    def url(self, permissions: str = "rwl") -> str:
        """The container's URL with a service SAS that holds for an hour."""
        endpoints = self.blobs.endpoints
        sas = generate_container_sas(
            endpoints.storage_account,
            self.name,
            account_key=endpoints.storage_key,
            permission=ContainerSasPermissions.from_string(permissions),
            expiry=in_an_hour(),
        )
        return f"{self.client.url}?{sas}"

    def blob_url(self, name: str, permissions: str = "r") -> str:
        endpoints = self.blobs.endpoints
        sas = generate_blob_sas(
            endpoints.storage_account,
            self.name,
            name,
            account_key=endpoints.storage_key,
            permission=BlobSasPermissions.from_string(permissions),
            expiry=in_an_hour(),
        )
        return f"{self.client.get_blob_client(name).url}?{sas}"


def in_an_hour() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)
