//! Append blobs.

use super::rig::{Answer, Rig};
use std::sync::atomic::Ordering;

const APPEND: (&str, &str) = ("x-ms-blob-type", "AppendBlob");

async fn make(rig: &Rig, blob: &str) {
    let made = rig.send("PUT", blob, &[APPEND, ("x-ms-blob-content-type", "text/plain")], b"").await;
    assert_eq!(made.status, 201);
}

async fn append(rig: &Rig, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    rig.send("PUT", "/acct/cont/log?comp=appendblock", headers, body).await
}

#[actix_web::test]
async fn blocks_come_one_after_the_other() {
    let rig = Rig::new();
    rig.create("cont").await;
    make(&rig, "/acct/cont/log").await;
    let mut expected = Vec::new();
    for n in 0..3_u8 {
        // Long and short ones, so that chunks are both listed and written anew.
        let block = vec![b'a' + n; [3_000_000, 7, 2_500_000][usize::from(n)]];
        let answer = append(&rig, &[], &block).await;
        assert_eq!(answer.status, 201);
        assert_eq!(answer.header("x-ms-blob-append-offset"), expected.len().to_string());
        assert_eq!(answer.header("x-ms-blob-committed-block-count"), (n + 1).to_string());
        expected.extend_from_slice(&block);
    }
    let found = rig.get("/acct/cont/log").await;
    assert!(found.body == expected);
    assert_eq!(found.header("x-ms-blob-type"), "AppendBlob");
    assert_eq!(found.header("x-ms-blob-committed-block-count"), "3");
    assert_eq!(found.header("content-type"), "text/plain");
    let listed = rig.get("/acct/cont?restype=container&comp=list").await;
    assert_eq!(listed.texts("BlobType"), ["AppendBlob"]);
    // What is put in its place is a block blob again.
    rig.put("/acct/cont/log", &[], b"x").await;
    assert_eq!(append(&rig, &[], b"y").await.outcome(), (409, "InvalidBlobType"));
    assert_eq!(rig.get("/acct/cont/log").await.header("x-ms-blob-committed-block-count"), "");
}

#[actix_web::test]
async fn conditions_of_an_append() {
    let rig = Rig::new();
    rig.create("cont").await;
    assert_eq!(append(&rig, &[], b"x").await.outcome(), (404, "BlobNotFound"));
    make(&rig, "/acct/cont/log").await;
    assert_eq!(append(&rig, &[], b"").await.outcome(), (400, "InvalidHeaderValue"));
    let at = |position| [("x-ms-blob-condition-appendpos", position)];
    assert_eq!(append(&rig, &at("0"), b"1234").await.status, 201);
    assert_eq!(append(&rig, &at("0"), b"1234").await.outcome(), (412, "AppendPositionConditionNotMet"));
    assert_eq!(append(&rig, &at("x"), b"1234").await.outcome(), (400, "InvalidHeaderValue"));
    let max = |size| [("x-ms-blob-condition-maxsize", size)];
    assert_eq!(append(&rig, &max("7"), b"5678").await.outcome(), (412, "MaxBlobSizeConditionNotMet"));
    assert_eq!(append(&rig, &max("8"), b"5678").await.status, 201);
    let old = [("if-match", "\"0x1\"")];
    assert_eq!(append(&rig, &old, b"9").await.outcome(), (412, "ConditionNotMet"));
    let wrong = [("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==")];
    assert_eq!(append(&rig, &wrong, b"9").await.outcome(), (400, "Md5Mismatch"));
    assert_eq!(rig.get("/acct/cont/log").await.body, b"12345678");
    let with_body = rig.send("PUT", "/acct/cont/log", &[APPEND], b"x").await;
    assert_eq!(with_body.outcome(), (400, "InvalidHeaderValue"));
}

#[actix_web::test]
async fn a_block_that_lost_a_race_is_composed_again() {
    let rig = Rig::new();
    rig.create("cont").await;
    make(&rig, "/acct/cont/log").await;
    rig.local.disturb.store(3, Ordering::SeqCst);
    assert_eq!(append(&rig, &[], b"x").await.status, 201);
    rig.local.disturb.store(100, Ordering::SeqCst);
    assert_eq!(append(&rig, &[], b"y").await.outcome(), (503, "ServerBusy"));
    rig.local.disturb.store(0, Ordering::SeqCst);
    assert_eq!(rig.get("/acct/cont/log").await.body, b"x");
}

#[actix_web::test]
async fn many_append_at_once_and_nothing_is_lost() {
    let rig = Rig::new();
    rig.create("cont").await;
    make(&rig, "/acct/cont/log").await;
    let all = (0..40_u8).map(|n| {
        let rig = &rig;
        async move { append(rig, &[], &[n; 10]).await.status }
    });
    let statuses = futures::future::join_all(all).await;
    assert!(statuses.iter().all(|status| *status == 201));
    let body = rig.get("/acct/cont/log").await.body;
    let mut seen: Vec<u8> = body.chunks(10).map(|block| block[0]).collect();
    assert!(body.chunks(10).all(|block| block == [block[0]; 10]));
    seen.sort_unstable();
    assert_eq!(seen, (0..40).collect::<Vec<u8>>());
}
