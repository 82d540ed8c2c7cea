//! Blobs: put, get, ranges, conditions, blocks, names.

use super::rig::Rig;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use std::sync::atomic::Ordering;

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i % 251) as u8 ^ (i / 65_536) as u8).collect()
}

fn md5(data: &[u8]) -> String {
    STANDARD.encode(Md5::digest(data))
}

#[actix_web::test]
async fn put_get_head_delete() {
    let rig = Rig::new();
    rig.create("cont").await;
    for size in [0, 1, 65_536, 1 << 20, (1 << 20) + 1, 3_000_000] {
        let data = bytes(size);
        let headers =
            [("content-type", "text/plain"), ("x-ms-meta-k", "v w"), ("x-ms-blob-cache-control", "no-store")];
        let put = rig.put("/acct/cont/b", &headers, &data).await;
        assert_eq!(put.status, 201);
        assert_eq!(put.header("content-md5"), md5(&data));
        assert_eq!(put.header("x-ms-request-server-encrypted"), "true");
        let get = rig.get("/acct/cont/b").await;
        assert_eq!(get.status, 200);
        assert!(get.body == data, "size {size}");
        let head = rig.send("HEAD", "/acct/cont/b", &[], b"").await;
        assert_eq!((head.status, head.body.len()), (200, 0));
        for answer in [&get, &head] {
            assert_eq!(answer.header("etag"), put.header("etag"));
            assert_eq!(answer.header("content-type"), "text/plain");
            assert_eq!(answer.header("content-md5"), md5(&data));
            assert_eq!(answer.header("x-ms-meta-k"), "v w");
            assert_eq!(answer.header("cache-control"), "no-store");
            assert_eq!(answer.header("accept-ranges"), "bytes");
            assert_eq!(answer.header("x-ms-blob-type"), "BlockBlob");
            assert_eq!(answer.header("x-ms-lease-status"), "unlocked");
            assert_eq!(answer.header("x-ms-creation-time"), "Tue, 15 Jul 2025 12:00:00 GMT");
        }
        assert_eq!(head.header("x-ms-access-tier"), "Hot");
    }
    let gone = rig.send("DELETE", "/acct/cont/b", &[("x-ms-delete-snapshots", "include")], b"").await;
    assert_eq!((gone.status, gone.header("x-ms-delete-type-permanent")), (202, "true"));
    for method in ["GET", "HEAD", "DELETE"] {
        let missing = rig.send(method, "/acct/cont/b", &[], b"").await;
        assert_eq!(missing.outcome(), (404, "BlobNotFound"), "{method}");
        assert_eq!(missing.body.is_empty(), method == "HEAD");
    }
    let untyped = rig.send("PUT", "/acct/cont/b", &[], b"x").await;
    assert_eq!(untyped.outcome(), (400, "MissingRequiredHeader"));
    // Nothing said: the default type.
    rig.put("/acct/cont/b", &[("x-ms-blob-content-type", "")], b"x").await;
    assert_eq!(rig.get("/acct/cont/b").await.header("content-type"), "application/octet-stream");
}

#[actix_web::test]
async fn md5_is_checked_and_stored() {
    let rig = Rig::new();
    rig.create("cont").await;
    let good = md5(b"data");
    let other = md5(b"other");
    assert_eq!(rig.put("/acct/cont/b", &[("content-md5", &good)], b"data").await.status, 201);
    let bad = rig.put("/acct/cont/b", &[("content-md5", &other)], b"data").await;
    assert_eq!(bad.outcome(), (400, "Md5Mismatch"));
    let bad = rig.put("/acct/cont/b", &[("content-md5", "xx")], b"data").await;
    assert_eq!(bad.outcome(), (400, "InvalidMd5"));
    // The client's own word for the whole blob wins.
    rig.put("/acct/cont/b", &[("x-ms-blob-content-md5", &other)], b"data").await;
    assert_eq!(rig.get("/acct/cont/b").await.header("content-md5"), other);
    let block = "/acct/cont/b?comp=block&blockid=QUE%3D";
    let bad = rig.send("PUT", block, &[("content-md5", &other)], b"data").await;
    assert_eq!(bad.outcome(), (400, "Md5Mismatch"));
    let good = rig.send("PUT", block, &[("content-md5", &good)], b"data").await;
    assert_eq!(good.status, 201);
}

#[actix_web::test]
async fn ranges() {
    let rig = Rig::new();
    rig.create("cont").await;
    let data = bytes(2_500_000);
    rig.put("/acct/cont/b", &[], &data).await;
    rig.put("/acct/cont/empty", &[], b"").await;
    let cases = [
        ("range", "bytes=0-0", 0..1),
        ("x-ms-range", "bytes=0-33554431", 0..data.len()),
        ("x-ms-range", "bytes=1048575-1048576", 1_048_575..1_048_577),
        ("range", "bytes=2499999-", 2_499_999..2_500_000),
        ("range", "bytes=70000-", 70_000..2_500_000),
    ];
    for (name, value, expected) in cases {
        let part = rig.send("GET", "/acct/cont/b", &[(name, value)], b"").await;
        assert_eq!(part.status, 206, "{value}");
        assert!(part.body == data[expected.clone()], "{value}");
        let range = format!("bytes {}-{}/2500000", expected.start, expected.end - 1);
        assert_eq!(part.header("content-range"), range);
        assert_eq!(part.header("x-ms-blob-content-md5"), md5(&data));
        assert_eq!(part.header("content-md5"), "");
    }
    let both = [("range", "bytes=0-9"), ("x-ms-range", "bytes=5-6")];
    assert_eq!(rig.send("GET", "/acct/cont/b", &both, b"").await.body, data[5..7]);
    for (blob, value, size) in [("b", "bytes=2500000-", 2_500_000), ("empty", "bytes=0-33554431", 0)] {
        let refused = rig.send("GET", &format!("/acct/cont/{blob}"), &[("x-ms-range", value)], b"").await;
        assert_eq!(refused.outcome(), (416, "InvalidRange"));
        assert_eq!(refused.header("content-range"), format!("bytes */{size}"));
    }
    let whole = rig.send("GET", "/acct/cont/b", &[("range", "bytes=-5")], b"").await;
    assert_eq!((whole.status, whole.body.len()), (200, data.len()));
}

#[actix_web::test]
async fn conditions() {
    let rig = Rig::new();
    rig.create("cont").await;
    let first = rig.put("/acct/cont/b", &[], b"1").await;
    let etag = first.header("etag");
    let date = first.header("last-modified").to_owned();
    rig.advance_ms(5_000);
    let other = "\"0xFFFF\"";
    let cases = [
        ("GET", "if-match", etag, 200, ""),
        ("GET", "if-match", other, 412, "ConditionNotMet"),
        ("GET", "if-none-match", etag, 304, "NotModified"),
        ("GET", "if-none-match", other, 200, ""),
        ("HEAD", "if-none-match", etag, 304, "NotModified"),
        ("HEAD", "if-match", other, 412, "ConditionNotMet"),
        ("GET", "if-modified-since", date.as_str(), 304, "NotModified"),
        ("GET", "if-unmodified-since", date.as_str(), 200, ""),
        ("GET", "if-unmodified-since", "Tue, 15 Jul 2025 11:59:59 GMT", 412, "ConditionNotMet"),
        ("GET", "if-modified-since", "noon", 400, "InvalidHeaderValue"),
        ("DELETE", "if-match", other, 412, "ConditionNotMet"),
    ];
    for (method, name, value, status, code) in cases {
        let answer = rig.send(method, "/acct/cont/b", &[(name, value)], b"").await;
        assert_eq!(answer.outcome(), (status, code), "{method} {name}: {value}");
        assert_eq!(answer.body.is_empty(), status == 304 || method == "HEAD");
    }
    let puts = [
        ("if-none-match", "*", 409, "BlobAlreadyExists"),
        ("if-match", other, 412, "ConditionNotMet"),
        ("if-none-match", etag, 412, "ConditionNotMet"),
        ("if-match", etag, 201, ""),
    ];
    for (name, value, status, code) in puts {
        let answer = rig.put("/acct/cont/b", &[(name, value)], b"2").await;
        assert_eq!(answer.outcome(), (status, code), "put {name}: {value}");
    }
    // The blob has changed: its old ETag is no good, and it keeps its creation time.
    let stale = rig.send("GET", "/acct/cont/b", &[("if-match", etag)], b"").await;
    assert_eq!(stale.status, 412);
    let now = rig.get("/acct/cont/b").await;
    assert_eq!(now.header("x-ms-creation-time"), date);
    assert_eq!(now.header("last-modified"), "Tue, 15 Jul 2025 12:00:05 GMT");
    assert_eq!(rig.put("/acct/cont/new", &[("if-none-match", "*")], b"2").await.status, 201);
    assert_eq!(rig.put("/acct/cont/no", &[("if-match", "*")], b"2").await.status, 412);
}

#[actix_web::test]
async fn metadata_and_headers_are_replaced() {
    let rig = Rig::new();
    rig.create("cont").await;
    let first = rig.put("/acct/cont/b", &[("x-ms-meta-a", "1"), ("content-encoding", "gzip")], b"1").await;
    let target = "/acct/cont/b?comp=metadata";
    let changed = rig.send("PUT", target, &[("x-ms-meta-b", "2")], b"").await;
    assert_eq!(changed.status, 200);
    assert_ne!(changed.header("etag"), first.header("etag"));
    let head = rig.send("HEAD", "/acct/cont/b", &[], b"").await;
    assert_eq!((head.header("x-ms-meta-a"), head.header("x-ms-meta-b")), ("", "2"));
    assert_eq!(head.header("content-encoding"), "gzip");
    let headers = [("x-ms-blob-content-type", "text/html"), ("x-ms-blob-content-disposition", "attachment")];
    assert_eq!(rig.send("PUT", "/acct/cont/b?comp=properties", &headers, b"").await.status, 200);
    let get = rig.get("/acct/cont/b").await;
    assert_eq!(get.header("content-type"), "text/html");
    assert_eq!(get.header("content-disposition"), "attachment");
    assert_eq!((get.header("content-encoding"), get.header("content-md5")), ("", ""));
    assert_eq!(get.header("x-ms-meta-b"), "2");
    for comp in ["metadata", "properties"] {
        let missing = rig.send("PUT", &format!("/acct/cont/no?comp={comp}"), &[], b"").await;
        assert_eq!(missing.outcome(), (404, "BlobNotFound"));
    }
    let large = "x".repeat(9_000);
    let refused = rig.send("PUT", target, &[("x-ms-meta-b", &large)], b"").await;
    assert_eq!(refused.outcome(), (400, "MetadataTooLarge"));
}

fn block(n: usize) -> String {
    STANDARD.encode(format!("block-{n:03}"))
}

async fn stage(rig: &Rig, blob: &str, n: usize, data: &[u8]) {
    let id = block(n).replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    let target = format!("/acct/cont/{blob}?comp=block&blockid={id}");
    assert_eq!(rig.send("PUT", &target, &[], data).await.status, 201);
}

fn list(items: &[(&str, usize)]) -> String {
    let items: String = items.iter().map(|(kind, n)| format!("<{kind}>{}</{kind}>", block(*n))).collect();
    format!("<?xml version='1.0' encoding='utf-8'?>\n<BlockList>{items}</BlockList>")
}

#[actix_web::test]
async fn blocks() {
    let rig = Rig::new();
    rig.create("cont").await;
    // Large enough to be composed of the blocks' chunks, with odd lengths.
    let parts = [bytes(3 << 20), bytes(1_500_001), bytes(7), bytes(2 << 20)];
    for (n, part) in parts.iter().enumerate() {
        stage(&rig, "b", n, part).await;
    }
    assert_eq!(rig.get("/acct/cont/b").await.outcome(), (404, "BlobNotFound"));
    let staged = rig.get("/acct/cont/b?comp=blocklist&blocklisttype=all").await;
    assert_eq!(staged.status, 200);
    assert_eq!(staged.texts("Name"), [block(0), block(1), block(2), block(3)]);
    assert_eq!(staged.texts("Size"), ["3145728", "1500001", "7", "2097152"]);
    assert_eq!(staged.texts("CommittedBlocks"), [""]);
    let other = rig.send("PUT", "/acct/cont/b?comp=block&blockid=QQ%3D%3D", &[], b"x").await;
    assert_eq!(other.outcome(), (400, "InvalidBlobOrBlock"));

    let target = "/acct/cont/b?comp=blocklist";
    let order = [("Latest", 2), ("Uncommitted", 0), ("Latest", 3), ("Latest", 1)];
    let headers =
        [("x-ms-blob-content-type", "text/csv"), ("x-ms-meta-k", "v"), ("content-type", "application/xml")];
    rig.local.disturb.store(2, Ordering::SeqCst);
    let done = rig.send("PUT", target, &headers, list(&order).as_bytes()).await;
    assert_eq!(done.status, 201, "{}", done.text());
    let expected = [parts[2].as_slice(), &parts[0], &parts[3], &parts[1]].concat();
    let get = rig.get("/acct/cont/b").await;
    assert!(get.body == expected);
    assert_eq!((get.header("content-type"), get.header("x-ms-meta-k")), ("text/csv", "v"));
    assert_eq!(get.header("content-md5"), "");
    let middle = rig.send("GET", "/acct/cont/b", &[("x-ms-range", "bytes=3000000-4000000")], b"").await;
    assert!(middle.body == expected[3_000_000..=4_000_000]);

    // The staged blocks are used up; the committed ones are listed in content order and can be used again.
    let listed = rig.get("/acct/cont/b?comp=blocklist&blocklisttype=all").await;
    assert_eq!(listed.texts("Name"), [block(2), block(0), block(3), block(1)]);
    assert_eq!(listed.texts("UncommittedBlocks"), [""]);
    assert_eq!(listed.header("x-ms-blob-content-length"), expected.len().to_string());
    let missing = rig.send("PUT", target, &[], list(&[("Uncommitted", 0)]).as_bytes()).await;
    assert_eq!(missing.outcome(), (400, "InvalidBlockList"));
    stage(&rig, "b", 9, b"new").await;
    let again = [("Latest", 9), ("Committed", 3), ("Latest", 1)];
    assert_eq!(rig.send("PUT", target, &[], list(&again).as_bytes()).await.status, 201);
    let expected = [b"new".as_slice(), &parts[3], &parts[1]].concat();
    assert!(rig.get("/acct/cont/b").await.body == expected);

    let exists = [("if-none-match", "*")];
    let refused = rig.send("PUT", target, &exists, list(&[("Latest", 9)]).as_bytes()).await;
    assert_eq!(refused.outcome(), (409, "BlobAlreadyExists"));
    let nonsense = rig.send("PUT", target, &[], b"<BlockList><Latest>").await;
    assert_eq!(nonsense.outcome(), (400, "InvalidXmlDocument"));
    let emptied = rig.send("PUT", target, &[], b"<BlockList></BlockList>").await;
    assert_eq!(emptied.status, 201);
    assert_eq!(rig.get("/acct/cont/b").await.body, b"");
    for id in ["", "a", "%21%21", &"QUFB".repeat(30)] {
        let bad = rig.send("PUT", &format!("/acct/cont/b?comp=block&blockid={id}"), &[], b"x").await;
        assert_eq!(bad.status, 400, "{id}");
    }
    assert_eq!(rig.get("/acct/cont/none?comp=blocklist").await.outcome(), (404, "BlobNotFound"));
    // A single put forgets what was staged.
    stage(&rig, "b", 9, b"new").await;
    rig.put("/acct/cont/b", &[], b"whole").await;
    let listed = rig.get("/acct/cont/b?comp=blocklist&blocklisttype=all").await;
    assert!(listed.texts("Name").is_empty());
}

#[actix_web::test]
async fn a_commit_that_is_always_disturbed_gives_up() {
    let rig = Rig::new();
    rig.create("cont").await;
    stage(&rig, "b", 1, b"x").await;
    rig.local.disturb.store(100, Ordering::SeqCst);
    let refused =
        rig.send("PUT", "/acct/cont/b?comp=blocklist", &[], list(&[("Latest", 1)]).as_bytes()).await;
    assert_eq!(refused.outcome(), (503, "ServerBusy"));
}

#[actix_web::test]
async fn odd_names_round_trip() {
    let rig = Rig::new();
    rig.create("cont").await;
    // What stands in the URL, and the name it means.
    let names = [
        ("a%20b.txt", "a b.txt"),
        ("100%25", "100%"),
        ("%2541", "%41"),
        ("a+b", "a+b"),
        ("a%2Bc", "a+c"),
        ("%C3%A4%E6%97%A5", "ä日"),
        ("x%2Fy", "x/y"),
        ("q%3F%23%5B%26%3D", "q?#[&="),
        ("dir//end%2F", "dir//end/"),
    ];
    for (raw, name) in names {
        let target = format!("/acct/cont/{raw}");
        assert_eq!(rig.put(&target, &[], name.as_bytes()).await.status, 201, "{raw}");
        let get = rig.get(&target).await;
        assert_eq!(get.body, name.as_bytes(), "{raw}");
    }
    let listed = rig.get("/acct/cont?restype=container&comp=list").await;
    let mut expected: Vec<_> = names.iter().map(|(_, name)| name.replace('&', "&amp;")).collect();
    expected.sort();
    assert_eq!(listed.texts("Name"), expected);
    // `/` and `%2F` name the same blob.
    assert_eq!(rig.get("/acct/cont/x/y").await.body, b"x/y");
    assert_eq!(rig.get("/acct/cont/a%20b%FF").await.outcome(), (400, "InvalidUri"));
    let long = "n".repeat(1025);
    assert_eq!(
        rig.put(&format!("/acct/cont/{long}"), &[], b"").await.outcome(),
        (400, "InvalidResourceName")
    );
    // A prefix in which a space is written either way.
    for prefix in ["a+b.", "a%20b."] {
        let listed = rig.get(&format!("/acct/cont?restype=container&comp=list&prefix={prefix}")).await;
        assert_eq!(listed.texts("Name"), ["a b.txt"], "{prefix}");
    }
    // A control character, which XML cannot hold.
    rig.put("/acct/cont/c%01", &[], b"").await;
    assert!(
        rig.get("/acct/cont?restype=container&comp=list&prefix=c")
            .await
            .text()
            .contains("<Name Encoded=\"true\">c%01</Name>")
    );
}

#[actix_web::test]
async fn a_damaged_chunk_is_never_served() {
    let rig = Rig::new();
    rig.create("cont").await;
    let data = bytes(100);
    rig.put("/acct/cont/b", &[], &data).await;
    let id = blake3::hash(&data).to_hex().to_string();
    let path = rig.folder.path().join("chunks").join(&id[..2]).join(&id);
    let mut stored = std::fs::read(&path).unwrap();
    stored[50] ^= 1;
    std::fs::write(&path, stored).unwrap();
    assert_eq!(rig.get("/acct/cont/b").await.body, b"", "the connection breaks off");
    rig.put("/acct/cont/b", &[], &data).await;
    assert_eq!(rig.get("/acct/cont/b").await.body, data);
}

#[actix_web::test]
async fn announced_lengths_are_bounded_before_anything_is_read() {
    let rig = Rig::new();
    rig.create("cont").await;
    let length = (5_000_u64 * 1024 * 1024 + 1).to_string();
    let date = rig.now().to_http_date();
    let query = super::signatures::sas(&rig, "w");
    let headers =
        [("x-ms-blob-type", "BlockBlob"), ("content-length", length.as_str()), ("x-ms-date", &date)];
    let refused = rig.send_raw("PUT", &format!("/acct/cont/b?{query}"), &headers, b"").await;
    assert_eq!(refused.outcome(), (413, "RequestBodyTooLarge"));
}

#[actix_web::test]
async fn checksums_of_bodies_and_ranges() {
    let rig = Rig::new();
    rig.create("cont").await;
    let crc64 = STANDARD.encode(0xae8b_1486_0a79_9888_u64.to_le_bytes());
    let given = [("x-ms-content-crc64", crc64.as_str())];
    let answer = rig.put("/acct/cont/b", &given, b"123456789").await;
    assert_eq!((answer.status, answer.header("x-ms-content-crc64")), (201, crc64.as_str()));
    assert_eq!(rig.put("/acct/cont/b", &given, b"123456780").await.outcome(), (400, "Crc64Mismatch"));
    let block = "/acct/cont/b?comp=block&blockid=QQ%3D%3D";
    assert_eq!(rig.send("PUT", block, &given, b"12345678").await.outcome(), (400, "Crc64Mismatch"));
    assert_eq!(rig.send("PUT", block, &given, b"123456789").await.status, 201);
    let both = [("x-ms-content-crc64", crc64.as_str()), ("content-md5", "JfnnlDI7RTiF9RgfG2JNCw==")];
    assert_eq!(rig.put("/acct/cont/b", &both, b"123456789").await.outcome(), (400, "InvalidHeaderValue"));
    for bad in ["", "AAAA", "no base64"] {
        let answer = rig.put("/acct/cont/b", &[("x-ms-content-crc64", bad)], b"123456789").await;
        assert_eq!(answer.status, if bad.is_empty() { 201 } else { 400 }, "{bad}");
    }
    let ask = async |range: &str, sum: &str| {
        let target = rig.send("GET", "/acct/cont/b", &[("x-ms-range", range), (sum, "true")], b"").await;
        (
            target.status,
            target.header("content-md5").to_owned(),
            target.header("x-ms-content-crc64").to_owned(),
        )
    };
    let (md5, crc) = ("x-ms-range-get-content-md5", "x-ms-range-get-content-crc64");
    // The MD5 of `345`, not of the blob.
    assert_eq!(ask("bytes=2-4", md5).await, (206, "2B+cG+LgiWS/nySxXw5JAA==".to_owned(), String::new()));
    assert_eq!(ask("bytes=0-8", crc).await, (206, String::new(), crc64.clone()));
    let long = vec![7; 5_000_000];
    rig.put("/acct/cont/b", &[], &long).await;
    assert_eq!(ask("bytes=0-4194303", crc).await.0, 206);
    assert_eq!(ask("bytes=0-4194304", crc).await.0, 400);
    let whole = rig.send("GET", "/acct/cont/b", &[(md5, "true")], b"").await;
    assert_eq!(whole.outcome(), (400, "OutOfRangeInput"));
}

#[actix_web::test]
async fn structured_bodies_both_ways() {
    use super::super::structured::{Decoder, Encoder, HEADER, LENGTH_HEADER, VALUE};
    let rig = Rig::new();
    rig.create("cont").await;
    let content: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 241) as u8).collect();
    let encode = |content: &[u8]| {
        let mut encoder = Encoder::new(content.len() as u64);
        [encoder.begin().concat(), encoder.push(content.to_vec().into()).concat()].concat()
    };
    let length = content.len().to_string();
    let headers = [(HEADER, VALUE), (LENGTH_HEADER, length.as_str())];
    let answer = rig.put("/acct/cont/b", &headers, &encode(&content)).await;
    assert_eq!((answer.status, answer.header(HEADER)), (201, VALUE), "{}", answer.text());
    assert!(rig.get("/acct/cont/b").await.body == content);
    for (range, expected) in
        [("", &content[..]), ("bytes=10-19", &content[10..20]), ("bytes=1-", &content[1..])]
    {
        let answer = rig.send("GET", "/acct/cont/b", &[(HEADER, VALUE), ("x-ms-range", range)], b"").await;
        assert_eq!(answer.header(LENGTH_HEADER), expected.len().to_string());
        let mut decoder = Decoder::new();
        let found = decoder.push(answer.body.into()).unwrap().concat();
        decoder.end().unwrap();
        assert!(found == expected);
    }
    let both = [(HEADER, VALUE), ("x-ms-range", "bytes=0-9"), ("x-ms-range-get-content-md5", "true")];
    let both = rig.send("GET", "/acct/cont/b", &both, b"").await;
    assert_eq!((both.outcome(), both.header(HEADER)), ((400, "InvalidHeaderValue"), ""));
    let longer = [(HEADER, VALUE), (LENGTH_HEADER, "5000001")];
    assert_eq!(rig.put("/acct/cont/c", &longer, &encode(&content)).await.outcome(), (400, "IncompleteBody"));
    let mut damaged = encode(&content);
    damaged[1_000_000] ^= 1;
    let block = "/acct/cont/b?comp=block&blockid=QQ%3D%3D";
    assert_eq!(rig.send("PUT", block, &headers, &damaged).await.outcome(), (400, "Crc64Mismatch"));
    assert_eq!(rig.put("/acct/cont/b", &headers, b"not structured").await.outcome(), (400, "InvalidInput"));
    let other = [(HEADER, "XSM/2.0"), (LENGTH_HEADER, "1")];
    assert_eq!(rig.put("/acct/cont/b", &other, b"x").await.outcome(), (400, "InvalidHeaderValue"));
    rig.put("/acct/cont/empty", &[(HEADER, VALUE), (LENGTH_HEADER, "0")], &encode(b"")).await;
    let empty = rig.send("GET", "/acct/cont/empty", &[(HEADER, VALUE)], b"").await;
    assert_eq!((empty.status, empty.body), (200, encode(b"")));
}
