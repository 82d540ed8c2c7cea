// What programs do with @azure/storage-blob. Called by test_blob_others.py with the name of a container that is there and
// a folder with files; the connection string comes in AZURE_STORAGE_CONNECTION_STRING. Ends with an error at the first
// thing that is not as it should be.

import assert from "node:assert/strict";
import crypto from "node:crypto";
import { createReadStream } from "node:fs";
import fs from "node:fs/promises";
import path from "node:path";
import {
  BlobBatchClient,
  BlobServiceClient,
  BlobSASPermissions,
  ContainerSASPermissions,
  ContainerClient,
} from "@azure/storage-blob";

const [containerName, folder] = process.argv.slice(2);
const service = BlobServiceClient.fromConnectionString(process.env.AZURE_STORAGE_CONNECTION_STRING);
const container = service.getContainerClient(containerName);

async function refused(status, code, promise) {
  const error = await promise.then(
    () => assert.fail(`expected ${status} ${code}, but the call succeeded`),
    (error) => error,
  );
  assert.deepEqual([error.statusCode, error.code ?? error.details?.errorCode], [status, code], error.message);
}

async function bytes(blob) {
  return await blob.downloadToBuffer();
}

async function names(options) {
  const found = [];
  for await (const blob of container.listBlobsFlat(options)) found.push(blob.name);
  return found;
}

const inAnHour = () => new Date(Date.now() + 3600_000);

const scenarios = {
  async containers() {
    const other = service.getContainerClient(`${containerName}-js`);
    assert.equal(await other.exists(), false);
    await other.create({ metadata: { owner: "me" } });
    assert.equal((await other.getProperties()).metadata.owner, "me");
    await refused(409, "ContainerAlreadyExists", other.create());
    const listed = [];
    for await (const one of service.listContainers({ prefix: containerName, includeMetadata: true })) listed.push(one.name);
    assert.deepEqual(listed, [containerName, `${containerName}-js`]);
    await other.delete();
    assert.equal((await service.getAccountInfo()).accountKind, "StorageV2");
    assert.equal((await service.getProperties()).staticWebsite.enabled, false);
  },

  async blobs() {
    const blob = container.getBlockBlobClient("a.txt");
    await refused(404, "BlobNotFound", blob.getProperties());
    const made = await blob.upload("hello", 5, { blobHTTPHeaders: { blobContentType: "text/plain" }, metadata: { k: "v" } });
    const properties = await blob.getProperties();
    assert.deepEqual([properties.etag, properties.contentType, properties.metadata.k], [made.etag, "text/plain", "v"]);
    await refused(409, "BlobAlreadyExists", blob.upload("x", 1, { conditions: { ifNoneMatch: "*" } }));
    await refused(412, "ConditionNotMet", blob.upload("x", 1, { conditions: { ifMatch: '"0x1"' } }));
    await blob.setMetadata({ only: "this" });
    await blob.setHTTPHeaders({ blobContentType: "text/css" });
    const after = await blob.getProperties();
    assert.deepEqual([after.metadata, after.contentType], [{ only: "this" }, "text/css"]);
    const part = await blob.download(1, 3, { rangeGetContentMD5: true });
    const md5 = crypto.createHash("md5").update("ell").digest();
    assert.deepEqual(Buffer.from(part.contentMD5), md5);
    const block = Buffer.alloc(100_000, "x");
    const ids = ["AAAA", "BBBB", "CCCC"].map((id) => Buffer.from(id).toString("base64"));
    const staged = container.getBlockBlobClient("staged");
    for (const id of ids) {
      await staged.stageBlock(id, block, block.length, { transactionalContentMD5: crypto.createHash("md5").update(block).digest() });
    }
    assert.equal((await staged.getBlockList("uncommitted")).uncommittedBlocks.length, 3);
    await staged.commitBlockList(ids);
    assert.equal((await bytes(staged)).length, 300_000);
    await blob.deleteIfExists();
    assert.equal(await blob.exists(), false);
  },

  async streams() {
    const data = crypto.randomBytes(20_000_001);
    const file = path.join(folder, "random");
    await fs.writeFile(file, data);
    const blob = container.getBlockBlobClient("stream");
    await blob.uploadStream(createReadStream(file), 1 << 20, 4);
    assert.ok((await bytes(blob)).equals(data));
    await blob.uploadFile(file, { blockSize: 3 << 20, maxSingleShotSize: 1 << 20, concurrency: 4 });
    await blob.downloadToFile(`${file}.down`);
    assert.ok((await fs.readFile(`${file}.down`)).equals(data));
  },

  // Structured bodies: segments with CRC-64, both ways.
  async checksums() {
    const data = crypto.randomBytes(9_000_001);
    const blob = container.getBlockBlobClient("checked");
    const contentChecksumAlgorithm = "StorageCrc64";
    await blob.upload(data, data.length, { contentChecksumAlgorithm });
    assert.ok((await bytes(blob)).equals(data));
    await blob.uploadData(data, { blockSize: 2 << 20, maxSingleShotSize: 1 << 20, contentChecksumAlgorithm });
    assert.ok((await blob.downloadToBuffer(0, undefined, { contentChecksumAlgorithm })).equals(data));
    assert.ok((await blob.downloadToBuffer(5, 5_000_000, { contentChecksumAlgorithm })).equals(data.subarray(5, 5_000_005)));
  },

  async copies() {
    const source = container.getBlockBlobClient("source ü");
    await source.upload("0123456789", 10, { metadata: { k: "v" }, blobHTTPHeaders: { blobContentType: "text/x" } });
    const copied = container.getBlockBlobClient("copied");
    const poller = await copied.beginCopyFromURL(source.url);
    assert.equal((await poller.pollUntilDone()).copyStatus, "success");
    const properties = await copied.getProperties();
    assert.deepEqual([properties.copyStatus, properties.metadata.k, properties.contentType], ["success", "v", "text/x"]);
    const url = await source.generateSasUrl({ permissions: BlobSASPermissions.parse("r"), expiresOn: inAnHour() });
    assert.equal((await copied.syncCopyFromURL(url)).copyStatus, "success");
    await copied.syncUploadFromURL(url);
    assert.equal((await bytes(copied)).toString(), "0123456789");
    const pieces = container.getBlockBlobClient("pieces");
    const ids = ["1", "2"].map((id) => Buffer.from(id).toString("base64"));
    await pieces.stageBlockFromURL(ids[0], url, 5, 5);
    await pieces.stageBlockFromURL(ids[1], url, 0, 5);
    await pieces.commitBlockList(ids);
    assert.equal((await bytes(pieces)).toString(), "5678901234");
    const forbidden = await source.generateSasUrl({ permissions: BlobSASPermissions.parse("w"), expiresOn: inAnHour() });
    await refused(404, "CannotVerifyCopySource", copied.syncCopyFromURL(forbidden));
  },

  async appends() {
    const log = container.getAppendBlobClient("log");
    await log.create();
    for (const line of ["one\n", "two\n", "three\n"]) await log.appendBlock(line, line.length);
    assert.equal((await bytes(log)).toString(), "one\ntwo\nthree\n");
    assert.equal((await log.getProperties()).blobCommittedBlockCount, 3);
    await refused(412, "AppendPositionConditionNotMet", log.appendBlock("x", 1, { conditions: { appendPosition: 3 } }));
    await refused(409, "InvalidBlobType", container.getAppendBlobClient("stream").appendBlock("x", 1));
  },

  async batches() {
    const blobs = Array.from({ length: 50 }, (_, n) => container.getBlockBlobClient(`batch/${n} +%41`));
    for (const blob of blobs) await blob.upload("x", 1);
    const batch = new BlobBatchClient(service.url, service.credential);
    const answer = await batch.deleteBlobs([...blobs, container.getBlobClient("batch/none")]);
    assert.deepEqual([answer.subResponsesSucceededCount, answer.subResponsesFailedCount], [50, 1]);
    assert.equal(answer.subResponses[50].errorCode, "BlobNotFound");
    assert.deepEqual(await names({ prefix: "batch/" }), []);
  },

  async policies() {
    const policy = { id: "reader", accessPolicy: { startsOn: new Date(Date.now() - 60_000), expiresOn: inAnHour(), permissions: "rl" } };
    await container.setAccessPolicy(undefined, [policy]);
    const found = await container.getAccessPolicy();
    assert.deepEqual([found.signedIdentifiers[0].id, found.signedIdentifiers[0].accessPolicy.permissions], ["reader", "rl"]);
    const url = await container.generateSasUrl({ identifier: "reader" });
    const reader = new ContainerClient(url);
    assert.equal((await bytes(reader.getBlobClient("copied"))).toString(), "0123456789");
    await refused(403, "AuthorizationPermissionMismatch", reader.deleteBlob("copied"));
    await container.setAccessPolicy(undefined, []);
    await refused(403, "AuthenticationFailed", reader.getBlobClient("copied").download());
    await refused(409, "PublicAccessNotPermitted", container.setAccessPolicy("blob"));
  },

  async lists() {
    for (const name of ["l/a", "l/b/c", "l/b/d", "l/é"]) await container.getBlockBlobClient(name).upload(name, Buffer.byteLength(name));
    assert.deepEqual(await names({ prefix: "l/" }), ["l/a", "l/b/c", "l/b/d", "l/é"]);
    const level = [];
    for await (const item of container.listBlobsByHierarchy("/", { prefix: "l/" })) level.push(`${item.kind} ${item.name}`);
    assert.deepEqual(level.sort(), ["blob l/a", "blob l/é", "prefix l/b/"]);
    const pages = [];
    for await (const page of container.listBlobsFlat({ prefix: "l/" }).byPage({ maxPageSize: 3 })) pages.push(page.segment.blobItems.length);
    assert.deepEqual(pages, [3, 1]);
  },

  async oddNames() {
    const odd = ["with space", "100%", "%41", "a+b=c&d", "ünï©ode/日本.txt", "q?x#y", "[z]", `${"deep/".repeat(60)}end`];
    for (const name of odd) {
      const blob = container.getBlockBlobClient(name);
      await blob.upload(name, Buffer.byteLength(name));
      const url = await blob.generateSasUrl({ permissions: BlobSASPermissions.parse("r"), expiresOn: inAnHour() });
      assert.equal(await (await fetch(url)).text(), name);
    }
    const found = await names();
    for (const name of odd) assert.ok(found.includes(name), name);
    const inside = new ContainerClient(await container.generateSasUrl({ permissions: ContainerSASPermissions.parse("rl"), expiresOn: inAnHour() }));
    for (const name of odd) assert.equal((await bytes(inside.getBlobClient(name))).toString(), name);
  },

  // The files that the caller made: up, down, and the same.
  async files() {
    for (const name of (await fs.readdir(folder)).filter((name) => name.startsWith("file"))) {
      const file = path.join(folder, name);
      const blob = container.getBlockBlobClient(name);
      await blob.uploadFile(file, { blockSize: 8 << 20, concurrency: 4 });
      assert.equal((await blob.getProperties()).contentLength, (await fs.stat(file)).size);
      await blob.downloadToFile(path.join(folder, `down-${name}`));
    }
  },
};

for (const [name, scenario] of Object.entries(scenarios)) {
  const begun = Date.now();
  await scenario();
  console.log(`${name}: ${Date.now() - begun} ms`);
}
