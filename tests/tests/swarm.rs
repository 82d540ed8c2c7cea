//! Content from host to host over real connections: what the hosts of a cluster do with a file that is larger than a few
//! chunks, and what they do about peers that are dead, silent, lying or of an older build.

use lote_coordinator::data::swarm::Swarm as Plan;
use lote_shared::chunks::{CHUNK, ChunkId, ChunkStore, FileWriter, Manifest, Position, Walk};
use lote_shared::network::{Config, Identity, Multiaddr, Network, PeerId, Protocol, Role, Stream};
use lote_shared::protocol::data;
use lote_shared::protocol::swarm::{Request, Response, UNIT_FOLLOWS};
use lote_worker::swarm::{Bundle, Rates, Swarm};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

const LENGTH: usize = 5 * 1024 * 1024 + 77;
/// Longest silence of the coordinator.
const IDLE: Duration = Duration::from_secs(10);

struct Member {
    network: Network,
    store: ChunkStore,
    _folder: tempfile::TempDir,
}

impl Member {
    async fn start() -> Member {
        Member::listening(vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()]).await
    }

    async fn listening(addresses: Vec<Multiaddr>) -> Member {
        let network = Network::start(Config::new(Identity::ephemeral(), addresses)).await.unwrap();
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
        let coordinator = Member::start().await;
        let bytes: Vec<u8> =
            (0..LENGTH as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let (manifest, ()) = FileWriter::cached(&coordinator.store, ()).copy_from(&bytes[..]).unwrap();
        let plan = Plan::new(coordinator.store.clone());
        tokio::spawn(plan.clone().accept(coordinator.network.accept(Protocol::Swarm).unwrap()));
        tokio::spawn(plan.clone().watch(coordinator.network.clone()));
        let mut all = Vec::new();
        for _ in 0..hosts {
            let member = Member::start().await;
            let swarm = Swarm::new(member.network.clone(), member.store.clone(), Rates::default(), IDLE);
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

    async fn bring(&self, host: usize) -> bool {
        let (_, swarm) = &self.hosts[host];
        let bring = async {
            let turn = swarm.turn(self.manifest.root).await?;
            turn.bring(self.coordinator.network.peer(), &self.manifest).await
        };
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
    assert_eq!(all, vec![true; 5]);
    (0..5).for_each(|host| world.check(host));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_host_has_the_others_get_from_it() {
    let world = World::start(3).await;
    world.bring(0).await;
    world.lose_content();
    assert!(world.bring(1).await);
    // The first is gone as well; the second holds it.
    world.hosts[0].0.network.shutdown().await;
    assert!(world.bring(2).await);
    [1, 2].into_iter().for_each(|host| world.check(host));
}

#[tokio::test(flavor = "multi_thread")]
async fn small_contents_come_together_and_go_on_from_host_to_host() {
    let world = World::start(3).await;
    let small = |n: u8| vec![n; 100 * 1024 + usize::from(n)];
    let write = |n: u8| FileWriter::cached(&world.coordinator.store, ()).copy_from(&small(n)[..]).unwrap().0;
    let contents: Vec<Manifest> = (0..20).map(write).collect();
    // Large ones, empty ones and those that are named twice do not belong to it.
    let others = [world.manifest, Manifest::empty(), contents[0]];
    let bundle = Bundle::of(contents.iter().chain(&others)).unwrap();
    assert_eq!(bundle.id, Bundle::of(contents.iter()).unwrap().id);
    assert_ne!(bundle.id, Bundle::of(contents[1..].iter()).unwrap().id);
    assert!(Bundle::of(contents[..2].iter()).is_none(), "no more than one small content");
    let bring = async |host: usize| {
        let turn = world.hosts[host].1.turn_of(&bundle).await.unwrap();
        turn.bring_bundle(world.coordinator.network.peer(), &bundle).await.unwrap()
    };
    // Large contents that are on their way hold up none of it.
    let large = (0..8).map(|n| world.hosts[0].1.turn(ChunkId([n; 32])));
    let turns = futures::future::join_all(large).await;
    assert!(tokio::time::timeout(Duration::from_secs(20), bring(0)).await.expect("it waits for nobody"));
    drop(turns);
    world.lose_content();
    assert!(bring(1).await && bring(2).await);
    for (host, _) in &world.hosts {
        assert!(bundle.is_here(&host.store));
        for (n, content) in (0..).zip(&contents) {
            assert!(host.content(content) == small(n));
        }
        assert!(!host.store.contains(world.manifest.root));
    }
}

/// What a holder answers to pulls.
#[derive(Clone, Copy)]
enum Answer {
    Nothing,
    Truth,
    /// Units of other bytes.
    Wrong,
    /// True bytes, those of several units under a seal that names this place and a length so much shorter.
    Sealed {
        offset: u64,
        shorter: usize,
    },
}

/// Host 0 answers pulls like this; gives the streams that were opened to it, counted.
async fn holder(world: &mut World, answer: Answer) -> Arc<AtomicUsize> {
    let bad = Member::start().await;
    let network = bad.network.clone();
    world.hosts[0].0 = bad;
    for (member, _) in &world.hosts {
        world.admit(&member.network);
    }
    world.admit(&world.coordinator.network);
    let asked = Arc::new(AtomicUsize::new(0));
    let mut incoming = network.accept(Protocol::Swarm).unwrap();
    let (counted, store) = (Arc::clone(&asked), world.coordinator.store.clone());
    tokio::spawn(async move {
        while let Some((_, mut stream)) = incoming.next().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let store = store.clone();
            tokio::spawn(async move {
                while let Ok(Some(Request::Pull { id })) = data::receive(&mut stream).await {
                    if give(&mut stream, &store, id, answer).await.is_err() {
                        break;
                    }
                }
                // Silent, rather than gone.
                std::future::pending::<()>().await;
            });
        }
    });
    world.claim(0, &network.addresses()).await;
    asked
}

async fn give(stream: &mut Stream, store: &ChunkStore, id: ChunkId, answer: Answer) -> io::Result<()> {
    let (bytes, mut seal) = store.read(id).unwrap();
    match answer {
        Answer::Nothing => return Ok(()),
        Answer::Sealed { offset, shorter } if seal.units.len() > 1 => {
            seal.position = Position::Part { offset };
            seal.length -= shorter;
        }
        Answer::Truth | Answer::Wrong | Answer::Sealed { .. } => {}
    }
    let header = Response::Chunk { length: seal.length as u32, trailer: seal.encode() };
    data::send(stream, &header).await.map_err(io::Error::other)?;
    for index in 0..seal.units.len() {
        let mut unit = bytes[seal.unit_range(index)].to_vec();
        if matches!(answer, Answer::Wrong) {
            unit.fill(b'x');
        }
        stream.write_u8(UNIT_FOLLOWS).await?;
        stream.write_all(&unit).await?;
    }
    stream.flush().await
}

/// How often host 0 is asked, if it answers so, while two others need the file, one after the other.
async fn beside(answer: Answer) -> usize {
    let mut world = World::start(3).await;
    let asked = holder(&mut world, answer).await;
    let begun = tokio::time::Instant::now();
    assert!(world.bring(1).await);
    assert!(begun.elapsed() < Duration::from_secs(10), "left late: {:?}", begun.elapsed());
    assert!(world.bring(2).await);
    [1, 2].into_iter().for_each(|host| world.check(host));
    asked.load(Ordering::SeqCst)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tasks_of_a_host_share_one_download() {
    let mut world = World::start(2).await;
    let asked = holder(&mut world, Answer::Truth).await;
    assert_eq!(tokio::join!(world.bring(1), world.bring(1)), (true, true));
    world.check(1);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_liar_is_left_at_its_first_lie_and_asked_by_nobody_again() {
    assert_eq!(beside(Answer::Wrong).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_false_place_or_length_of_true_bytes_is_a_lie_and_taints_nothing() {
    assert_eq!(beside(Answer::Sealed { offset: 1024 * CHUNK as u64, shorter: 0 }).await, 1);
    // Here the first units are right, and passed on, before the last one is not.
    assert_eq!(beside(Answer::Sealed { offset: 0, shorter: 1 }).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_source_is_left() {
    assert!(beside(Answer::Nothing).await >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_cannot_be_dialled_gets_everything_all_the_same() {
    let mut world = World::start(2).await;
    let behind = Member::listening(vec![]).await;
    let swarm = Swarm::new(behind.network.clone(), behind.store.clone(), Rates::default(), IDLE);
    world.hosts.push((behind, swarm));
    for (member, _) in &world.hosts {
        world.admit(&member.network);
    }
    world.admit(&world.coordinator.network);
    assert!(world.bring(2).await);
    // And it is no trouble to those who are told that it holds the file.
    assert!(world.bring(1).await);
    [1, 2].into_iter().for_each(|host| world.check(host));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_cannot_be_reached_is_left() {
    let world = World::start(2).await;
    world.claim(0, &["/ip4/127.0.0.1/tcp/9".parse().unwrap()]).await;
    assert!(world.bring(1).await);
    world.check(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_coordinator_knows_no_swarm() {
    let old = Member::start().await;
    let world = World::start(1).await;
    let (member, swarm) = &world.hosts[0];
    old.network.set_allowed([(member.network.peer(), Role::Worker)].into());
    member.network.set_allowed([(old.network.peer(), Role::Coordinator)].into());
    for address in old.network.addresses() {
        member.network.add_address(old.network.peer(), address);
    }
    let turn = swarm.turn(world.manifest.root).await.unwrap();
    assert!(!turn.bring(old.network.peer(), &world.manifest).await.unwrap());
}
