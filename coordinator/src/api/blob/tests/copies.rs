//! Copies, from here and from elsewhere.

use super::rig::{Answer, Rig};
use super::signatures::sas;
use std::io::{Read, Write};
use std::net::TcpListener;

const HOST: (&str, &str) = ("host", "lote.test:11001");

/// A URL of this storage.
fn url(path: &str) -> String {
    format!("http://lote.test:11001{path}")
}

async fn copy(rig: &Rig, target: &str, source: &str, headers: &[(&str, &str)]) -> Answer {
    let mut all = vec![HOST, ("x-ms-copy-source", source)];
    all.extend_from_slice(headers);
    rig.send("PUT", target, &all, b"").await
}

async fn with_source(rig: &Rig) -> Vec<u8> {
    rig.create("cont").await;
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let headers = [("x-ms-blob-content-type", "text/csv"), ("x-ms-meta-k", "v")];
    assert_eq!(rig.put("/acct/cont/a%20b", &headers, &content).await.status, 201);
    content
}

#[actix_web::test]
async fn a_copy_of_a_blob_here_has_its_content_and_says_where_from() {
    let rig = Rig::new();
    let content = with_source(&rig).await;
    for (target, synchronous) in [("/acct/cont/one", "false"), ("/acct/cont/two", "true")] {
        let headers = [("x-ms-requires-sync", synchronous)];
        let answer = copy(&rig, target, &url("/acct/cont/a%20b"), &headers).await;
        assert_eq!((answer.status, answer.header("x-ms-copy-status")), (202, "success"), "{}", answer.text());
        let found = rig.get(target).await;
        assert!(found.body == content);
        assert_eq!(found.header("content-type"), "text/csv");
        assert_eq!(found.header("x-ms-meta-k"), "v");
        assert_eq!(found.header("x-ms-copy-id"), answer.header("x-ms-copy-id"));
        assert_eq!(found.header("x-ms-copy-source"), url("/acct/cont/a%20b"));
        assert_eq!(found.header("x-ms-copy-progress"), "3000000/3000000");
        assert_eq!(found.header("etag"), answer.header("etag"));
    }
    let listed = rig.get("/acct/cont?restype=container&comp=list&include=copy").await;
    assert_eq!(listed.texts("CopyStatus"), ["success"; 2]);
    assert!(rig.get("/acct/cont?restype=container&comp=list").await.texts("CopyStatus").is_empty());
    // As `az` names a blob of its own account.
    let cloud = "https://acct.blob.core.windows.net/cont/a%20b";
    assert_eq!(copy(&rig, "/acct/cont/az", cloud, &[]).await.status, 202);
    assert!(rig.get("/acct/cont/az").await.body == content);
    // Metadata of the request takes the place of the source's; what replaces a copy is none.
    copy(&rig, "/acct/cont/one", &url("/acct/cont/a%20b"), &[("x-ms-meta-n", "1")]).await;
    let found = rig.get("/acct/cont/one").await;
    assert_eq!((found.header("x-ms-meta-n"), found.header("x-ms-meta-k")), ("1", ""));
    rig.put("/acct/cont/one", &[], b"x").await;
    assert_eq!(rig.get("/acct/cont/one").await.header("x-ms-copy-id"), "");
    let abort = rig.send("PUT", "/acct/cont/two?comp=copy&copyid=x", &[], b"").await;
    assert_eq!(abort.outcome(), (409, "NoPendingCopyOperation"));
}

#[actix_web::test]
async fn blocks_and_whole_blobs_from_ranges_and_sources() {
    let rig = Rig::new();
    let content = with_source(&rig).await;
    let source = url("/acct/cont/a%20b");
    for (id, range) in [("QQ==", "bytes=0-1999999"), ("Qg==", "bytes=2000000-"), ("Qw==", "bytes=5-9")] {
        let target = format!("/acct/cont/made?comp=block&blockid={id}");
        let answer = copy(&rig, &target, &source, &[("x-ms-source-range", range)]).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    let list = b"<BlockList><Latest>Qg==</Latest><Latest>Qw==</Latest><Latest>QQ==</Latest></BlockList>";
    assert_eq!(rig.send("PUT", "/acct/cont/made?comp=blocklist", &[], list).await.status, 201);
    let expected = [&content[2_000_000..], &content[5..10], &content[..2_000_000]].concat();
    assert!(rig.get("/acct/cont/made").await.body == expected);
    let beyond = [("x-ms-source-range", "bytes=3000000-")];
    let answer = copy(&rig, "/acct/cont/made?comp=block&blockid=QQ==", &source, &beyond).await;
    assert_eq!(answer.outcome(), (416, "InvalidRange"));
    let block_blob = ("x-ms-blob-type", "BlockBlob");
    let put = copy(&rig, "/acct/cont/put", &source, &[block_blob, ("x-ms-blob-content-type", "t/x")]).await;
    assert_eq!(put.status, 201);
    let found = rig.get("/acct/cont/put").await;
    assert!(found.body == content);
    assert_eq!((found.header("content-type"), found.header("x-ms-copy-id")), ("t/x", ""));
    let bare = [block_blob, ("x-ms-copy-source-blob-properties", "false")];
    copy(&rig, "/acct/cont/put", &source, &bare).await;
    assert_eq!(rig.get("/acct/cont/put").await.header("content-type"), "application/octet-stream");
    // Appended from a URL.
    rig.send("PUT", "/acct/cont/log", &[("x-ms-blob-type", "AppendBlob")], b"").await;
    let part = [("x-ms-source-range", "bytes=0-9")];
    assert_eq!(copy(&rig, "/acct/cont/log?comp=appendblock", &source, &part).await.status, 201);
    assert_eq!(rig.get("/acct/cont/log").await.body, content[..10]);
    // A copy of an append blob is one.
    copy(&rig, "/acct/cont/log2", &url("/acct/cont/log"), &[]).await;
    assert_eq!(rig.send("PUT", "/acct/cont/log2?comp=appendblock", &[], b"x").await.status, 201);
}

#[actix_web::test]
async fn who_may_copy_what() {
    let rig = Rig::new();
    with_source(&rig).await;
    let source = url("/acct/cont/a%20b");
    let unverified = (404, "CannotVerifyCopySource");
    assert_eq!(copy(&rig, "/acct/cont/x", &url("/acct/cont/none"), &[]).await.outcome(), unverified);
    assert_eq!(copy(&rig, "/acct/none/x", &source, &[]).await.outcome(), (404, "ContainerNotFound"));
    assert_eq!(
        copy(&rig, "/acct/cont/x", "file:///etc/passwd", &[]).await.outcome(),
        (400, "InvalidHeaderValue")
    );
    // By a signature that may write but not read, and one that may do both.
    for (of_target, of_source, expected) in
        [("w", "", 404), ("w", "w", 404), ("w", "r", 202), ("r", "r", 403)]
    {
        let target = format!("/acct/cont/x?{}", sas(&rig, of_target));
        let source = match of_source {
            "" => source.clone(),
            letters => format!("{source}?{}", sas(&rig, letters)),
        };
        let headers = [HOST, ("x-ms-copy-source", source.as_str())];
        let answer = rig.send_raw("PUT", &target, &headers, b"").await;
        assert_eq!(answer.status, expected, "{of_target} {of_source} {}", answer.text());
    }
    assert!(!rig.get("/acct/cont/x").await.header("x-ms-copy-source").contains("sig"), "a secret");
    // Conditions on either side.
    let conditions = [
        ("x-ms-source-if-match", "\"0x1\"", "SourceConditionNotMet"),
        ("if-match", "\"0x1\"", "TargetConditionNotMet"),
    ];
    for (name, value, code) in conditions {
        assert_eq!(copy(&rig, "/acct/cont/x", &source, &[(name, value)]).await.outcome(), (412, code));
    }
    let new = [("if-none-match", "*")];
    assert_eq!(copy(&rig, "/acct/cont/x", &source, &new).await.outcome(), (409, "BlobAlreadyExists"));
    let wrong = [("x-ms-blob-type", "BlockBlob"), ("x-ms-source-content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==")];
    assert_eq!(copy(&rig, "/acct/cont/x", &source, &wrong).await.outcome(), (400, "Md5Mismatch"));
}

/// A server that gives each connection the next of these answers; its URL, and a thread that ends with what it was asked.
fn server(answers: Vec<String>) -> (String, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file?secret=1", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).unwrap();
            asked.push(String::from_utf8_lossy(&request[..length]).into_owned());
            stream.write_all(answer.as_bytes()).unwrap();
        }
        asked
    });
    (url, thread)
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{body}", body.len())
}

#[actix_web::test]
async fn a_source_elsewhere_is_fetched() {
    let rig = Rig::new();
    rig.create("cont").await;
    let described = "content-type: text/css\r\nx-ms-meta-k: v\r\n";
    let cut = answer("200 OK", "", "0123456789").replace("0123456789", "01234");
    let (url, server) = server(vec![
        answer("200 OK", described, "0123456789"),
        answer("206 Partial Content", "", "234"),
        answer("200 OK", "", "0123456789"),
        answer("403 Forbidden", "", ""),
        answer("302 Found", "location: http://127.0.0.1:1/\r\n", ""),
        cut,
        answer("412 Precondition Failed", "", ""),
    ]);
    assert_eq!(copy(&rig, "/acct/cont/x", &url, &[]).await.status, 202);
    let found = rig.get("/acct/cont/x").await;
    assert_eq!((found.text(), found.header("content-type")), ("0123456789", "text/css"));
    assert_eq!(found.header("x-ms-meta-k"), "v");
    assert_eq!(found.header("content-md5"), "eB5eJF1ptWaXm4bijSPyxw==");
    assert_eq!(found.header("x-ms-copy-source"), url.split('?').next().unwrap());
    let range = [("x-ms-source-range", "bytes=2-4")];
    let block = "/acct/cont/y?comp=block&blockid=QQ==";
    assert_eq!(copy(&rig, block, &url, &range).await.status, 201);
    let unverified = (404, "CannotVerifyCopySource");
    // The range was ignored; refused; a redirect; cut off.
    assert_eq!(copy(&rig, block, &url, &range).await.outcome(), unverified);
    for _ in 0..3 {
        let answer = copy(&rig, "/acct/cont/z", &url, &[]).await;
        assert_eq!(answer.outcome(), unverified);
        assert!(!answer.text().contains("secret"), "{}", answer.text());
    }
    let condition = [("x-ms-source-if-match", "\"0x7\"")];
    assert_eq!(copy(&rig, "/acct/cont/z", &url, &condition).await.outcome(), (412, "SourceConditionNotMet"));
    let asked = server.join().unwrap();
    assert!(asked[0].starts_with("GET /file?secret=1 "), "{}", asked[0]);
    assert!(asked[1].contains("bytes=2-4") && asked[6].contains("if-match: \"0x7\""));
    assert_eq!(rig.get("/acct/cont/z").await.status, 404);
    let gone = copy(&rig, "/acct/cont/z", "http://127.0.0.1:1/x?secret=1", &[]).await;
    assert_eq!(gone.outcome(), unverified);
    assert!(!gone.text().contains("secret"));
}
