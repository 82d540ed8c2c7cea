//! Content from host to host over real connections: what the hosts of a cluster do with a file that is larger than a few
//! chunks, and what they do about peers that are dead, silent, lying or of an older build.

use lote_coordinator::data::swarm::Swarm as Plan;
use lote_shared::chunks::{ChunkStore, FileWriter, Manifest, Walk};
use lote_shared::network::{Config, Identity, Multiaddr, Network, PeerId, Protocol, Role};
use lote_shared::protocol::data;
use lote_shared::protocol::swarm::{Request, Response, UNIT_FOLLOWS};
use lote_worker::swarm::{Rates, Swarm};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

const LENGTH: usize = 5 * 1024 * 1024 + 77;

struct Member {
    network: Network,
    store: ChunkStore,
    _folder: tempfile::TempDir,
}

impl Member {
    async fn start(identity: Identity) -> Member {
        let listen = "/ip4/127.0.0.1/tcp/0".parse().unwrap();
        let network = Network::start(Config::new(identity, vec![listen])).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let store = ChunkStore::open(folder.path()).unwrap();
        Member { network, store, _folder: folder }
    }

    fn content(&self, manifest: &Manifest) -> Vec<u8> {
        let mut walk = Walk::new(&self.store, manifest, 0..manifest.length).unwrap();
        let mut out = Vec::new();
        while let Some(bytes) = walk.next_bytes().unwrap() {
            out.extend_from_slice(&bytes);
        }
        out
    }
}

/// A coordinator that holds a file, and hosts that know each other.
struct World {
    coordinator: Member,
    hosts: Vec<(Member, Swarm)>,
    bytes: Vec<u8>,
    manifest: Manifest,
    plan: Plan,
}

impl World {
    async fn start(hosts: usize) -> World {
        let coordinator = Member::start(Identity::ephemeral()).await;
        let bytes: Vec<u8> =
            (0..LENGTH as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let (manifest, ()) = FileWriter::cached(&coordinator.store, ()).copy_from(&bytes[..]).unwrap();
        let plan = Plan::new(coordinator.store.clone());
        tokio::spawn(plan.clone().accept(coordinator.network.accept(Protocol::Swarm).unwrap()));
        tokio::spawn(plan.clone().watch(coordinator.network.clone()));
        let mut all = Vec::new();
        for _ in 0..hosts {
            let member = Member::start(Identity::ephemeral()).await;
            let swarm = Swarm::new(
                member.network.clone(),
                member.store.clone(),
                Rates::default(),
                Duration::from_secs(10),
            );
            all.push((member, swarm));
        }
        let world = World { coordinator, hosts: all, bytes, manifest, plan };
        for (member, swarm) in &world.hosts {
            world.admit(&member.network);
            tokio::spawn(swarm.clone().serve(member.network.accept(Protocol::Swarm).unwrap()));
        }
        world.admit(&world.coordinator.network);
        world
    }

    /// Everybody may speak with everybody.
    fn admit(&self, network: &Network) {
        let mut allowed: BTreeMap<PeerId, Role> =
            self.hosts.iter().map(|(member, _)| (member.network.peer(), Role::Worker)).collect();
        allowed.insert(self.coordinator.network.peer(), Role::Coordinator);
        allowed.remove(&network.peer());
        network.set_allowed(allowed);
        for address in self.coordinator.network.addresses() {
            network.add_address(self.coordinator.network.peer(), address);
        }
    }

    async fn bring(&self, host: usize) -> Option<()> {
        let (_, swarm) = &self.hosts[host];
        let bring = swarm.bring(self.coordinator.network.peer(), &self.manifest);
        tokio::time::timeout(Duration::from_secs(30), bring).await.expect("in time").unwrap()
    }

    fn check(&self, host: usize) {
        assert!(self.hosts[host].0.content(&self.manifest) == self.bytes, "host {host} has other bytes");
    }

    /// The coordinator's disk is empty.
    fn lose_content(&self) {
        let mut all = Vec::new();
        self.coordinator.store.for_each(|id, _| all.push(id)).unwrap();
        assert!(!all.is_empty());
        all.into_iter().for_each(|id| std::fs::remove_file(self.coordinator.store.path(id)).unwrap());
    }

    /// A host that says it holds the file, at these addresses.
    async fn claim(&self, host: usize, addresses: &[Multiaddr]) {
        let network = &self.hosts[host].0.network;
        let mut stream = network.open(self.coordinator.network.peer(), Protocol::Swarm).await.unwrap();
        let addresses = addresses.iter().map(Multiaddr::to_string).collect();
        let (content, length) = (self.manifest.root, self.manifest.length);
        data::send(&mut stream, &Request::Want { content, length, have: 0, addresses }).await.unwrap();
        stream.flush().await.unwrap();
        assert!(matches!(data::receive(&mut stream).await.unwrap(), Some(Response::Sources(_))));
        data::send(&mut stream, &Request::Done).await.unwrap();
        stream.flush().await.unwrap();
        stream.close().await;
        let held = || self.plan.held(self.manifest.root, network.peer());
        while held() != self.manifest.length {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_at_once_and_each_has_the_file() {
    let world = World::start(5).await;
    let all = futures::future::join_all((0..5).map(|host| world.bring(host))).await;
    assert_eq!(all, vec![Some(()); 5]);
    (0..5).for_each(|host| world.check(host));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_host_has_the_others_get_from_it() {
    let world = World::start(3).await;
    world.bring(0).await;
    world.lose_content();
    assert_eq!(world.bring(1).await, Some(()));
    // The first is gone as well; the second holds it.
    world.hosts[0].0.network.shutdown().await;
    assert_eq!(world.bring(2).await, Some(()));
    [1, 2].into_iter().for_each(|host| world.check(host));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tasks_of_a_host_share_one_download() {
    let world = World::start(1).await;
    let (one, two) = tokio::join!(world.bring(0), world.bring(0));
    assert_eq!((one, two), (Some(()), Some(())));
    world.check(0);
}

/// Hosts whose peers answer pulls by `answer` instead.
async fn beside(answer: Option<&'static [u8]>) -> usize {
    let world = World::start(3).await;
    let asked = Arc::new(AtomicUsize::new(0));
    // The serving side of this one is taken by the test.
    let bad = Member::start(Identity::ephemeral()).await;
    let mut world = world;
    let swarm = world.hosts[0].1.clone();
    world.hosts[0] = (bad, swarm);
    let network = world.hosts[0].0.network.clone();
    for (member, _) in &world.hosts {
        world.admit(&member.network);
    }
    world.admit(&world.coordinator.network);
    let mut incoming = network.accept(Protocol::Swarm).unwrap();
    let (counted, length, store) = (asked.clone(), world.manifest.length, world.coordinator.store.clone());
    assert!(length > 0);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Some((_, mut stream)) = incoming.next().await {
            counted.fetch_add(1, Ordering::SeqCst);
            if let (Some(unit), Ok(Some(Request::Pull { id }))) = (answer, data::receive(&mut stream).await) {
                let (_, seal) = store.read(id).unwrap();
                let header = Response::Chunk { length: seal.length as u32, trailer: seal.encode() };
                data::send(&mut stream, &header).await.unwrap();
                for index in 0..seal.units.len() {
                    let wrong: Vec<u8> =
                        unit.iter().copied().cycle().take(seal.unit_range(index).len()).collect();
                    if stream.write_u8(UNIT_FOLLOWS).await.is_err() || stream.write_all(&wrong).await.is_err()
                    {
                        break;
                    }
                }
                let _ = stream.flush().await;
            }
            held.push(stream);
        }
    });
    world.claim(0, &network.addresses()).await;
    let begun = tokio::time::Instant::now();
    assert_eq!(world.bring(1).await, Some(()));
    assert!(begun.elapsed() < Duration::from_secs(10), "left late: {:?}", begun.elapsed());
    assert_eq!(world.bring(2).await, Some(()));
    [1, 2].into_iter().for_each(|host| world.check(host));
    asked.load(Ordering::SeqCst)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_liar_is_left_at_its_first_lie_and_asked_by_nobody_again() {
    assert_eq!(beside(Some(b"lie")).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_source_is_left() {
    assert!(beside(None).await >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_cannot_be_reached_is_left() {
    let world = World::start(2).await;
    world.claim(0, &["/ip4/127.0.0.1/tcp/9".parse().unwrap()]).await;
    assert_eq!(world.bring(1).await, Some(()));
    world.check(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_coordinator_knows_no_swarm() {
    let old = Member::start(Identity::ephemeral()).await;
    let world = World::start(1).await;
    let (member, swarm) = &world.hosts[0];
    old.network.set_allowed([(member.network.peer(), Role::Worker)].into());
    member.network.set_allowed([(old.network.peer(), Role::Coordinator)].into());
    for address in old.network.addresses() {
        member.network.add_address(old.network.peer(), address);
    }
    assert_eq!(swarm.bring(old.network.peer(), &world.manifest).await.unwrap(), None);
}
