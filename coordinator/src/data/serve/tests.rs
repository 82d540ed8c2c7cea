//! Both sides over a pipe in memory.

use super::*;
use crate::api::auth::blob::sas::{ContainerSas, sign_container};
use crate::api::blob::test_rig::{KEY, Rig};
use lote_shared::chunks::fetch::Client;
use lote_shared::chunks::{CHUNK, ChunkStore, FileWriter, Tree, read};
use lote_shared::model::Timestamp;
use tokio::io::DuplexStream;

fn bytes(length: usize, seed: u8) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut out);
    out
}

fn url(rig: &Rig, path: &str, permissions: &str) -> String {
    let expiry = Timestamp(rig.now().0 + 60_000);
    let sas = ContainerSas {
        account: "acct",
        key: KEY,
        container: "cont",
        permissions,
        expiry,
        protocol: Some("https"),
    };
    format!("http://127.0.0.1:11001/acct/{path}?{}", sign_container(&sas))
}

fn connect(rig: &Rig) -> Client<DuplexStream> {
    let (near, mut far) = tokio::io::duplex(256 * 1024);
    let api = rig.api.clone();
    tokio::spawn(async move { conversation(&mut far, &api, Caller::default()).await });
    Client::new(near)
}

fn cache() -> (tempfile::TempDir, ChunkStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = ChunkStore::open(folder.path()).unwrap();
    (folder, store)
}

#[actix_web::test]
async fn what_was_put_over_http_is_fetched_chunk_by_chunk() {
    let rig = Rig::new();
    rig.create("cont").await;
    for size in [0, 1, CHUNK, CHUNK + 1, 9 * CHUNK + 7] {
        let data = bytes(size, 1);
        rig.put("/acct/cont/dir/in%20put", &[], &data).await;
        let (_folder, store) = cache();
        let mut client = connect(&rig);
        let blob = client.resolve(&url(&rig, "cont/dir%2Fin%20put", "r")).await.unwrap();
        assert_eq!(blob.manifest.length, size as u64);
        client.fetch(&store, &blob.manifest).await.unwrap();
        assert!(read::read_all(&store, &blob.manifest, u64::MAX).unwrap() == data, "size {size}");
        // Everything is here: nothing is asked for, even of a peer that is gone.
        let mut gone = Client::new(tokio::io::duplex(10).0);
        gone.fetch(&store, &blob.manifest).await.unwrap();
    }
}

#[actix_web::test]
async fn content_goes_up_without_what_is_there_and_is_committed() {
    let rig = Rig::new();
    rig.create("cont").await;
    let shared = bytes(5 * CHUNK, 2);
    rig.put("/acct/cont/first", &[], &shared).await;
    for data in [Vec::new(), bytes(10, 3), shared.clone(), bytes(3 * CHUNK + 5, 4)] {
        let (_folder, store) = cache();
        let (manifest, ()) = FileWriter::new(&store, ()).copy_from(data.as_slice()).unwrap();
        let mut client = connect(&rig);
        client.give(&store, &manifest).await.unwrap();
        let headers = BlobHeaders { content_type: Some("text/plain".into()), ..BlobHeaders::default() };
        let target = url(&rig, "cont/out", "w");
        let etag =
            client.commit(&target, &manifest, headers, vec![("k".into(), "v".into())], None).await.unwrap();
        let get = rig.get("/acct/cont/out").await;
        assert!(get.body == data);
        assert_eq!(get.header("etag"), format!("\"{etag}\""));
        assert_eq!((get.header("content-type"), get.header("x-ms-meta-k")), ("text/plain", "v"));
    }
}

#[actix_web::test]
async fn credentials_are_checked_as_over_http() {
    let rig = Rig::new();
    rig.create("cont").await;
    rig.put("/acct/cont/b", &[], b"data").await;
    let mut client = connect(&rig);
    let denied =
        |result: Result<Blob, fetch::Error>| matches!(result, Err(fetch::Error::Refused(Error::Denied(_))));
    assert!(denied(client.resolve(&url(&rig, "cont/b", "l")).await));
    assert!(denied(client.resolve("http://127.0.0.1/acct/cont/b").await));
    assert!(denied(client.resolve(&url(&rig, "other/b", "r")).await));
    let missing = client.resolve(&url(&rig, "cont/none", "r")).await;
    assert!(matches!(missing, Err(fetch::Error::Refused(Error::BlobNotFound))));
    let container = client.resolve(&url(&rig, "cont", "r")).await;
    assert!(matches!(container, Err(fetch::Error::Refused(Error::Invalid(_)))));
    assert!(matches!(client.resolve("nonsense").await, Err(fetch::Error::Refused(Error::NotOurs))));
    // `c` makes new blobs only.
    let empty = Manifest::empty();
    let mut commit = async |name: &str, letters: &str| {
        let target = url(&rig, name, letters);
        client.commit(&target, &empty, BlobHeaders::default(), Vec::new(), None).await
    };
    assert!(commit("cont/new", "c").await.is_ok());
    assert!(matches!(commit("cont/new", "c").await, Err(fetch::Error::Refused(Error::Denied(_)))));
    assert!(matches!(commit("cont/new", "r").await, Err(fetch::Error::Refused(Error::Denied(_)))));
    rig.put("/acct/cont/d/1", &[], b"1").await;
    let (page, next) = client.list(&url(&rig, "cont", "l"), "", "", 2).await.unwrap();
    let names: Vec<_> = page.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((names, next.as_deref()), (vec!["b", "d/1"], Some("new")));
    let (page, next) = client.list(&url(&rig, "cont", "l"), "d/", "", 2).await.unwrap();
    assert_eq!((page.len(), next), (1, None));
    rig.advance_ms(61_000);
    let late = url(&rig, "cont/b", "r");
    rig.advance_ms(61_000);
    assert!(denied(client.resolve(&late).await));
}

#[actix_web::test]
async fn a_manifest_that_is_not_true_is_refused() {
    let rig = Rig::new();
    rig.create("cont").await;
    let (_folder, store) = cache();
    let data = bytes(3 * CHUNK, 5);
    let (good, ()) = FileWriter::new(&store, ()).copy_from(data.as_slice()).unwrap();
    let (other, ()) = FileWriter::new(&store, ()).copy_from(bytes(3 * CHUNK, 6).as_slice()).unwrap();
    let mut client = connect(&rig);
    let target = url(&rig, "cont/out", "w");
    let nothing_there = client.commit(&target, &good, BlobHeaders::default(), Vec::new(), None).await;
    assert!(matches!(nothing_there, Err(fetch::Error::Refused(Error::Missing(_)))));
    client.give(&store, &good).await.unwrap();
    for bad in [
        Manifest { root: other.root, ..good },
        Manifest { length: good.length - 1, ..good },
        Manifest { tree: Tree::Chunk, ..good },
        Manifest { tree: Tree::Composed { depth: 1 }, ..good },
        Manifest { length: 1 << 60, ..good },
    ] {
        let refused = client.commit(&target, &bad, BlobHeaders::default(), Vec::new(), None).await;
        let refused = match refused {
            Err(fetch::Error::Refused(error)) => error,
            other => panic!("{bad:?}: {other:?}"),
        };
        assert!(matches!(refused, Error::Invalid(_) | Error::Missing(_)), "{bad:?}: {refused}");
    }
    let metadata = vec![("a-b".to_owned(), String::new())];
    let refused = client.commit(&target, &good, BlobHeaders::default(), metadata, None).await;
    assert!(matches!(refused, Err(fetch::Error::Refused(Error::Invalid(_)))));
    assert!(client.commit(&target, &good, BlobHeaders::default(), Vec::new(), None).await.is_ok());
    assert!(rig.get("/acct/cont/out").await.body == data);
}

#[actix_web::test]
async fn wrong_bytes_are_never_kept() {
    let rig = Rig::new();
    let (_folder, store) = cache();
    let (manifest, ()) = FileWriter::new(&store, ()).copy_from(bytes(200_000, 7).as_slice()).unwrap();
    let (mut good, seal) = store.read(manifest.root).unwrap();
    good[150_000] ^= 1;
    // To the server.
    let (mut near, mut far) = tokio::io::duplex(1 << 20);
    let trailer = seal.encode();
    let put = Request::Put { id: manifest.root, length: good.len() as u32, trailer: trailer.clone() };
    data::send(&mut near, &put).await.unwrap();
    near.write_all(&good).await.unwrap();
    let ended = conversation(&mut far, &rig.api, Caller::default()).await;
    assert!(matches!(ended, Err(fetch::Error::WrongChunk { .. })));
    assert!(!rig.api.chunks.contains(manifest.root));
    // From a server.
    let (near, mut far) = tokio::io::duplex(1 << 20);
    tokio::spawn(async move {
        data::receive::<Request>(&mut far).await.unwrap();
        let response = Response::Chunk { length: good.len() as u32, trailer };
        data::send(&mut far, &response).await.unwrap();
        far.write_all(&good).await.unwrap();
    });
    let (_folder, other) = cache();
    let fetched = Client::new(near).fetch(&other, &manifest).await;
    assert!(matches!(fetched, Err(fetch::Error::WrongChunk { .. })));
    assert!(!other.contains(manifest.root));
}

#[actix_web::test]
async fn nonsense_on_the_wire_ends_the_conversation() {
    let rig = Rig::new();
    for garbage in [b"\xFF\xFF\xFF\xFF".as_slice(), b"\0\0\0\x04\x09\x09\x09\x09", b"\0\0\x10\0abc"] {
        let (mut near, mut far) = tokio::io::duplex(1 << 20);
        near.write_all(garbage).await.unwrap();
        near.shutdown().await.unwrap();
        assert!(conversation(&mut far, &rig.api, Caller::default()).await.is_err());
    }
    let (mut near, mut far) = tokio::io::duplex(1 << 20);
    near.write_all(&[0; 4]).await.unwrap();
    assert!(conversation(&mut far, &rig.api, Caller::default()).await.is_ok());
}

#[actix_web::test]
async fn the_sweeper_removes_what_was_detached() {
    let rig = Rig::new();
    rig.create("cont").await;
    for n in 0..5 {
        rig.put(&format!("/acct/cont/{n}"), &[], b"x").await;
    }
    rig.send("DELETE", "/acct/cont?restype=container", &[], b"").await;
    assert_eq!(rig.api.backend.read(|blobs| blobs.to_sweep(rig.now()).len()), Some(1));
    super::super::sweeper::round(&rig.api, || false).await;
    assert_eq!(rig.api.backend.read(|blobs| blobs.to_sweep(rig.now()).len()), Some(1));
    super::super::sweeper::round(&rig.api, || true).await;
    assert_eq!(rig.api.backend.read(|blobs| blobs.to_sweep(rig.now()).len()), Some(0));
    let mut left = 0;
    rig.api.backend.read(|blobs| blobs.for_each_manifest(|_| left += 1));
    assert_eq!(left, 0);
}

#[actix_web::test]
async fn a_worker_has_nothing_kept_without_a_signature() {
    let rig = Rig::new();
    let mut client = connect(&rig);
    let refused = client.keep().await.unwrap_err();
    assert!(matches!(refused, fetch::Error::Refused(Error::Denied(_))), "{refused}");
}
