//! Three coordinators' stores over the real network.

use super::*;
use crate::api::blob::test_rig::Rig;
use crate::data::serve::{Caller, conversation};
use lote_shared::chunks::{CHUNK, read};
use lote_shared::network::{Config, Identity, Role};

/// A coordinator, as far as content goes: its interface, its store, its network.
struct Place {
    rig: Rig,
    network: Network,
}

fn bytes(length: usize, seed: u8) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut out);
    out
}

/// Coordinators that know each other; each serves the others.
async fn places(count: usize) -> Vec<Place> {
    let mut networks = Vec::new();
    for _ in 0..count {
        let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        networks.push(Network::start(Config::new(Identity::ephemeral(), listen)).await.unwrap());
    }
    let peers: Vec<PeerId> = networks.iter().map(Network::peer).collect();
    let mut places = Vec::new();
    for network in &networks {
        let own = network.peer();
        let others: Vec<PeerId> = peers.iter().copied().filter(|peer| *peer != own).collect();
        network.set_allowed(others.iter().map(|peer| (*peer, Role::Coordinator)).collect());
        for other in networks.iter().filter(|other| other.peer() != own) {
            other.addresses().into_iter().for_each(|address| network.add_address(other.peer(), address));
        }
        let mut rig = Rig::new();
        let replicas = Replicas::new(network.clone(), Arc::new(move || others.clone()));
        rig.api = rig.api.with_replicas(replicas);
        let mut incoming = network.accept(Protocol::Data).unwrap();
        let api = rig.api.clone();
        tokio::spawn(async move {
            while let Some((_, mut stream)) = incoming.next().await {
                let api = api.clone();
                tokio::spawn(async move {
                    let caller = Caller { is_coordinator: true, ..Caller::default() };
                    if conversation(&mut stream, &api, caller).await.is_ok() {
                        stream.close().await;
                    }
                });
            }
        });
        places.push(Place { rig, network: network.clone() });
    }
    places
}

impl Place {
    /// How many chunks lie here.
    fn count(&self) -> usize {
        let mut count = 0;
        self.rig.api.chunks.for_each(|_, _| count += 1).unwrap();
        count
    }

    async fn put(&self, content: &[u8]) -> u16 {
        let headers = [("x-ms-blob-type", "BlockBlob")];
        self.rig.send("PUT", "/acct/cont/b", &headers, content).await.status
    }

    fn manifest(&self) -> Manifest {
        let read = |blobs: &crate::state::blobs::Blobs| {
            blobs.blob(lote_shared::model::AccountId(1), "cont", "b").unwrap().content
        };
        self.rig.api.backend.read(read).unwrap()
    }

    async fn read(&self, manifest: Manifest) -> Result<Vec<u8>, lote_shared::chunks::Error> {
        let store = self.rig.api.chunks.clone();
        tokio::task::spawn_blocking(move || read::read_all(&store, &manifest, u64::MAX)).await.unwrap()
    }
}

#[actix_web::test]
async fn what_is_acknowledged_lies_on_two_and_is_read_anywhere() {
    let places = places(3).await;
    places[0].rig.create("cont").await;
    for (seed, size) in [(1, 0), (2, 1), (3, CHUNK + 1), (4, 9 * CHUNK + 7)] {
        let content = bytes(size, seed);
        assert_eq!(places[0].put(&content).await, 201);
        let manifest = places[0].manifest();
        let mut ids = Vec::new();
        read::references(&places[0].rig.api.chunks.local(), &manifest, &mut |id| ids.push(id)).unwrap();
        for id in &ids {
            let holders = places.iter().filter(|place| place.rig.api.chunks.contains(*id)).count();
            assert_eq!(holders, 2, "of {size} bytes");
        }
        for place in &places {
            assert!(place.read(manifest).await.unwrap() == content, "{size} bytes");
            assert!(ids.iter().all(|id| place.rig.api.chunks.contains(*id)), "what was fetched is kept");
        }
    }
}

#[actix_web::test]
async fn a_damaged_chunk_is_replaced_by_the_other_copy() {
    let places = places(2).await;
    places[0].rig.create("cont").await;
    let content = bytes(3 * CHUNK, 5);
    assert_eq!(places[0].put(&content).await, 201);
    let manifest = places[0].manifest();
    let mut ids = Vec::new();
    read::references(&places[0].rig.api.chunks, &manifest, &mut |id| ids.push(id)).unwrap();
    for id in ids {
        let path = places[0].rig.api.chunks.path(id);
        let mut file = std::fs::read(&path).unwrap();
        file[0] ^= 1;
        std::fs::write(&path, file).unwrap();
    }
    assert!(places[0].read(manifest).await.unwrap() == content);
    // Missing everywhere is an error, not a wait.
    let nowhere = Manifest { root: ChunkId([9; 32]), length: 7, tree: lote_shared::chunks::Tree::Chunk };
    assert!(places[0].read(nowhere).await.is_err());
}

#[actix_web::test]
async fn without_a_second_coordinator_the_write_is_refused() {
    let places = places(2).await;
    places[0].rig.create("cont").await;
    places[1].network.shutdown().await;
    assert_eq!(places[0].put(b"content").await, 503);
    let account = lote_shared::model::AccountId(1);
    let known = places[0].rig.api.backend.read(|blobs| blobs.blob(account, "cont", "b").is_ok());
    assert_eq!(known, Some(false), "nothing is half done");
    // No bytes, nothing to lose.
    assert_eq!(places[0].put(b"").await, 201);
}

#[actix_web::test]
async fn of_three_one_may_be_down() {
    let places = places(3).await;
    places[0].rig.create("cont").await;
    places[1].network.shutdown().await;
    let content = bytes(2 * CHUNK + 3, 6);
    assert_eq!(places[0].put(&content).await, 201);
    assert!(places[2].count() >= 4, "three chunks and their list");
}
