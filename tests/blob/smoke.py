"""The real Python client against the Blob interface.

    cargo build -p lote-coordinator --example blob_server
    python3 -m venv .venv && .venv/bin/pip install azure-storage-blob==12.31.1
    .venv/bin/python tests/blob/smoke.py [--large]

Starts the example server on a free port and a temporary folder, and ends it. `--large` also uploads 2 GiB in one put
and as blocks and reports the server's memory.
"""

import datetime
import hashlib
import io
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

from azure.core import MatchConditions
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.storage.blob import (
    AccountSasPermissions,
    BlobBlock,
    BlobClient,
    BlobSasPermissions,
    BlobServiceClient,
    ContainerClient,
    ContainerSasPermissions,
    ContentSettings,
    ResourceTypes,
    generate_account_sas,
    generate_blob_sas,
    generate_container_sas,
)

MIB = 1024 * 1024
SERVER = os.environ.get("BLOB_SERVER", "target/debug/examples/blob_server")


def expect(kind, call, code=None):
    try:
        call()
    except kind as error:
        assert code is None or error.error_code == code, (error.error_code, code)
        return error
    raise AssertionError(f"{kind.__name__} expected")


def resident(pid, field="VmRSS"):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0


def later():
    return datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)


def basics(service):
    container = service.create_container("cont", metadata={"owner": "me"})
    expect(ResourceExistsError, lambda: service.create_container("cont"), "ContainerAlreadyExists")
    assert container.get_container_properties().metadata == {"owner": "me"}
    assert container.exists() and not service.get_container_client("nothing").exists()
    for size in [0, 1, 65536, MIB, MIB + 1, 5 * MIB + 3, 33 * MIB]:
        data = os.urandom(size)
        blob = container.upload_blob(f"size/{size}", data, metadata={"k": "v"}, overwrite=True)
        assert blob.download_blob().readall() == data, size
        properties = blob.get_blob_properties()
        assert properties.size == size and properties.metadata == {"k": "v"}
        assert bytes(properties.content_settings.content_md5) == hashlib.md5(data).digest()
        if size > 10:
            assert blob.download_blob(offset=5, length=size - 9).readall() == data[5 : size - 4]
    blob = container.get_blob_client("size/1")
    expect(ResourceExistsError, lambda: blob.upload_blob(b"x"), "BlobAlreadyExists")
    old = blob.get_blob_properties()
    blob.upload_blob(b"changed", overwrite=True)
    stale = dict(etag=old.etag, match_condition=MatchConditions.IfNotModified)
    expect(ResourceModifiedError, lambda: blob.upload_blob(b"y", overwrite=True, **stale))
    expect(ResourceModifiedError, lambda: blob.download_blob(**stale))
    blob.set_blob_metadata({"a": "1"})
    blob.set_http_headers(ContentSettings(content_type="text/html", content_language="en"))
    properties = blob.get_blob_properties()
    assert properties.metadata == {"a": "1"} and properties.content_settings.content_type == "text/html"
    assert blob.exists()
    blob.delete_blob()
    assert not blob.exists()
    expect(ResourceNotFoundError, blob.delete_blob, "BlobNotFound")
    expect(ResourceNotFoundError, lambda: container.get_blob_client("no").download_blob(), "BlobNotFound")
    missing = service.get_container_client("nothing")
    expect(ResourceNotFoundError, lambda: missing.upload_blob("b", b"x"), "ContainerNotFound")
    expect(ResourceNotFoundError, lambda: list(missing.list_blobs()), "ContainerNotFound")


def blocks(service):
    container = service.get_container_client("cont")
    blob = container.get_blob_client("blocks")
    parts = [os.urandom(size) for size in [3 * MIB, 7, 2 * MIB + 1]]
    for number, part in enumerate(parts):
        blob.stage_block(f"{number:03}", part)
    committed, uncommitted = blob.get_block_list("all")
    assert [b.id for b in uncommitted] == ["000", "001", "002"] and not committed
    blob.commit_block_list([BlobBlock("002"), BlobBlock("000"), BlobBlock("001")])
    assert blob.download_blob().readall() == parts[2] + parts[0] + parts[1]
    committed, uncommitted = blob.get_block_list("all")
    assert [b.size for b in committed] == [len(parts[2]), len(parts[0]), 7] and not uncommitted
    # A stream of unknown length is staged and committed by the client, here with few bytes per block.
    data = os.urandom(9 * MIB + 5)
    small = BlobClient.from_blob_url(
        blob.url, credential=blob.credential, max_block_size=MIB, max_single_put_size=MIB
    )
    small.upload_blob(iter([data[:100], data[100:]]), overwrite=True, max_concurrency=4)
    assert small.download_blob(max_concurrency=4).readall() == data
    small.upload_blob(io.BytesIO(data), overwrite=True, validate_content=True)
    assert small.download_blob(validate_content=True).readall() == data


def names(service):
    container = service.create_container("odd-names")
    odd = ["a b.txt", "100%", "%41", "a+b", "ä日", "dir/sub/x", "q?#[&=", "dir//end/", "tab\tname", "(x)!'*~"]
    for name in odd:
        container.upload_blob(name, name.encode())
    assert sorted(b.name for b in container.list_blobs()) == sorted(odd)
    for name in odd:
        assert container.download_blob(name).readall() == name.encode(), name
        sas = generate_blob_sas(
            "devacct", "odd-names", name, account_key=KEY, permission=BlobSasPermissions(read=True), expiry=later()
        )
        blob = container.get_blob_client(name)
        assert urllib.request.urlopen(f"{blob.url}?{sas}").read() == name.encode(), name
    walked = [item.name for item in container.walk_blobs(delimiter="/")]
    assert "dir/" in walked and "dir/sub/x" not in walked, walked
    assert [b.name for b in container.list_blobs(name_starts_with="a b")] == ["a b.txt"]
    for name in odd:
        container.delete_blob(name)
    assert list(container.list_blobs()) == []
    service.delete_container("odd-names")


def pages(service):
    container = service.create_container("pages")
    for number in range(23):
        container.upload_blob(f"{number % 3}/{number:02}", b"x", metadata={"n": str(number)})
    by_page = container.list_blobs(results_per_page=5, include=["metadata"]).by_page()
    sizes = [[b.metadata for b in page] for page in by_page]
    assert [len(page) for page in sizes] == [5, 5, 5, 5, 3]
    assert [p.name for p in container.walk_blobs(delimiter="/", results_per_page=1)] == ["0/", "1/", "2/"]
    assert {c.name for c in service.list_containers(include_metadata=True)} >= {"cont", "pages"}
    assert [c.name for c in service.list_containers(name_starts_with="pa", results_per_page=1)] == ["pages"]
    assert service.get_account_information()["account_kind"] == "StorageV2"


def signatures(service, url):
    container = service.get_container_client("cont")
    container.upload_blob("shared", b"shared", overwrite=True)

    def client(**permissions):
        sas = generate_container_sas(
            "devacct",
            "cont",
            account_key=KEY,
            permission=ContainerSasPermissions(**permissions),
            expiry=later(),
            start=later() - datetime.timedelta(hours=2),
        )
        return ContainerClient.from_container_url(f"{url}/cont?{sas}")

    denied = "AuthorizationPermissionMismatch"
    reader = client(read=True, list=True)
    assert reader.download_blob("shared").readall() == b"shared"
    assert "shared" in [b.name for b in reader.list_blobs()]
    expect(HttpResponseError, lambda: reader.upload_blob("new", b"x"), denied)
    creator = client(create=True)
    creator.upload_blob("created", b"x")
    expect(HttpResponseError, lambda: creator.upload_blob("created", b"y", overwrite=True), denied)
    expect(HttpResponseError, lambda: creator.delete_blob("created"), denied)
    writer = client(write=True, delete=True)
    writer.upload_blob("created", b"y", overwrite=True)
    writer.delete_blob("created")
    account = generate_account_sas(
        "devacct",
        account_key=KEY,
        resource_types=ResourceTypes(service=True, container=True, object=True),
        permission=AccountSasPermissions(read=True, list=True, create=True, write=True),
        expiry=later(),
    )
    whole = BlobServiceClient(url, credential=account)
    assert "cont" in [c.name for c in whole.list_containers()]
    whole.create_container("by-sas").upload_blob("x", b"1")
    expect(HttpResponseError, lambda: whole.delete_container("by-sas"), denied)
    wrong = BlobServiceClient(url, credential={"account_name": "devacct", "account_key": "AAAA"})
    expect(ClientAuthenticationError, lambda: list(wrong.list_containers()), "AuthenticationFailed")
    expired = generate_container_sas(
        "devacct", "cont", account_key=KEY, permission="r", expiry="2020-01-01T00:00:00Z"
    )
    late = ContainerClient.from_container_url(f"{url}/cont?{expired}")
    expect(ClientAuthenticationError, lambda: late.download_blob("shared"), "AuthenticationFailed")
    try:
        urllib.request.urlopen(f"{url}/cont/shared")
        raise AssertionError("served without credentials")
    except urllib.error.HTTPError as error:
        assert error.code == 401


class Zeros(io.RawIOBase):
    """Bytes that differ from chunk to chunk, without holding them."""

    def __init__(self, length):
        self.length, self.place = length, 0
        self.block = os.urandom(MIB)

    def read(self, count=-1):
        count = min(self.length - self.place, MIB, MIB if count < 0 else count)
        if count <= 0:
            return b""
        head = self.place.to_bytes(8, "little")
        out = (head + self.block)[:count]
        self.place += count
        return out

    def readable(self):
        return True


def large(url, pid):
    length = 2048 * MIB
    sas = generate_container_sas(
        "devacct", "cont", account_key=KEY, permission="rw", expiry=later(), start=None
    )
    before = resident(pid)
    started = time.time()
    import http.client

    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port)
    source = Zeros(length)
    connection.request(
        "PUT",
        f"{parts.path}/cont/large?{sas}",
        body=iter(lambda: source.read(MIB), b""),
        headers={"Content-Length": str(length), "x-ms-blob-type": "BlockBlob"},
    )
    peak = 0
    answer = connection.getresponse()
    assert answer.status == 201, answer.read()
    took = time.time() - started
    peak = resident(pid, "VmHWM")
    print(
        f"one put of 2 GiB: {took:.1f} s, {2048 / took:.0f} MiB/s; resident before {before / MIB:.1f} MiB,"
        f" highest since start {peak / MIB:.1f} MiB, after {resident(pid) / MIB:.1f} MiB"
    )
    assert peak - before < 64 * MIB, "memory grew with the body"
    started = time.time()
    blob = BlobClient.from_blob_url(f"{url}/cont/large-blocks?{sas}", max_block_size=8 * MIB)
    blob.upload_blob(Zeros(length), length=length, overwrite=True, max_concurrency=4)
    took = time.time() - started
    print(
        f"2 GiB as 8 MiB blocks, 4 at a time: {took:.1f} s; highest resident {resident(pid, 'VmHWM') / MIB:.1f} MiB"
    )
    started = time.time()
    digest, count = hashlib.md5(), 0
    stream = urllib.request.urlopen(f"{url}/cont/large?{sas}")
    want = stream.headers["Content-MD5"]
    while piece := stream.read(MIB):
        digest.update(piece)
        count += len(piece)
    import base64

    assert count == length and base64.b64encode(digest.digest()).decode() == want
    took = time.time() - started
    print(f"read back: {took:.1f} s; highest resident {resident(pid, 'VmHWM') / MIB:.1f} MiB")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


with tempfile.TemporaryDirectory(dir=os.environ.get("BLOB_TMP")) as folder:
    port = free_port()
    server = subprocess.Popen([SERVER, folder, str(port)], stdout=subprocess.PIPE, text=True)
    try:
        URL, ACCOUNT, KEY = server.stdout.readline().split()
        service = BlobServiceClient(URL, credential=KEY)
        connection = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={URL}"
        for name, run in [
            ("basics", lambda: basics(service)),
            ("blocks", lambda: blocks(BlobServiceClient.from_connection_string(connection))),
            ("names", lambda: names(service)),
            ("pages", lambda: pages(service)),
            ("signatures", lambda: signatures(service, URL)),
        ]:
            started = time.time()
            run()
            print(f"{name}: good, {time.time() - started:.1f} s")
        if "--large" in sys.argv:
            large(URL, server.pid)
    finally:
        server.terminate()
        server.wait()
