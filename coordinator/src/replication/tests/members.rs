//! Members that talk over libp2p on loopback: the real engine, real folders, real sockets.
//!
//! A member is "killed" by ending the runtime of its network at once: to the others that is what a killed process
//! is. What a process leaves on its disk when it is killed is tested in `life.rs`.

use crate::engine::{Engine, Unavailable};
use crate::replication::link::Link;
use crate::replication::wire::{RaftAnswer, RaftQuestion, SnapshotAnswer, SnapshotHead, WireVote};
use crate::replication::{
    Config, Error, Member, MemberId, Reading, Replica, Role as RaftRole, Start, SystemTime, Time,
    open_member, open_member_at,
};
use crate::state::testing::{ACCOUNT, job_id, job_spec, pool_id, pool_spec, task_add, task_id};
use crate::state::version::NEWEST;
use crate::state::{Action, Command, IdempotencyKey, Outcome, keys};
use lote_shared::network::{self as net, Identity, Multiaddr, Network, PeerId, Protocol, Role};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(90);

/// The coordinators there should be, as the state will tell.
pub(super) type Desired = Arc<Mutex<BTreeMap<MemberId, Member>>>;

pub(super) struct Node {
    pub id: MemberId,
    pub engine: Engine,
    pub replica: Replica,
    pub network: Network,
    runtime: Background,
    identity: Identity,
    address: Multiaddr,
    folder: tempfile::TempDir,
}

/// What is left of a node whose process has ended.
pub(super) struct Stopped {
    pub id: MemberId,
    identity: Identity,
    address: Multiaddr,
    pub folder: tempfile::TempDir,
}

impl Stopped {
    /// Starts on what is on its disk.
    pub async fn start(self, desired: &Desired) -> Result<Node, (Stopped, Error)> {
        let (network, runtime) = network(&self.identity, &self.address).await;
        match open_member(config(&self.folder), Start::Resume, Some(network.clone())).await {
            Ok((engine, replica)) => {
                let Stopped { identity, address, folder, .. } = self;
                // It has another number since it was recovered.
                let id = replica.status().member;
                let node = Node { id, engine, replica, network, runtime, identity, address, folder };
                node.keep_membership(desired);
                Ok(node)
            }
            Err(error) => Err((self, error)),
        }
    }
}

/// A runtime that ends without waiting for anything.
struct Background(Option<Runtime>);

impl Background {
    fn end(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.end();
    }
}

/// A network with a runtime of its own, on a given address.
async fn network(identity: &Identity, listen: &Multiaddr) -> (Network, Background) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let runtime = Background(Some(runtime));
    for _ in 0..1_000 {
        let config = net::Config::new(identity.clone(), vec![listen.clone()]);
        match runtime.0.as_ref().unwrap().spawn(Network::start(config)).await.unwrap() {
            Ok(network) => return (network, runtime),
            // The socket of the one that was killed is still about to close.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    panic!("cannot listen on {listen}");
}

pub(super) fn config(folder: &tempfile::TempDir) -> Config {
    Config { snapshot_entries: 60, keep_entries: 5, segment_bytes: 30_000, ..Config::new(folder.path()) }
}

impl Node {
    pub async fn start(id: MemberId, desired: &Desired) -> Node {
        Node::start_at(id, desired, Arc::new(SystemTime::default())).await
    }

    async fn start_at(id: MemberId, desired: &Desired, time: Arc<dyn Time>) -> Node {
        let (identity, folder) = (Identity::ephemeral(), tempfile::tempdir().unwrap());
        let (network, runtime) = network(&identity, &"/ip4/127.0.0.1/tcp/0".parse().unwrap()).await;
        let address = network.addresses()[0].clone();
        let me = Member { peer: network.peer().to_string(), addresses: vec![address.to_string()] };
        let start = if id == 1 { Start::Found { me } } else { Start::Join { member: id } };
        let (engine, replica) =
            open_member_at(config(&folder), start, Some(network.clone()), time).await.unwrap();
        let node = Node { id, engine, replica, network, runtime, identity, address, folder };
        node.keep_membership(desired);
        node
    }

    fn keep_membership(&self, desired: &Desired) {
        let desired = desired.clone();
        self.replica.keep_membership(move || {
            let desired = desired.lock().clone();
            (!desired.is_empty()).then_some(desired)
        });
    }

    pub fn member(&self) -> Member {
        Member { peer: self.network.peer().to_string(), addresses: vec![self.address.to_string()] }
    }

    /// To the others it is as if its process had been killed.
    pub fn kill(&mut self) {
        self.runtime.end();
    }

    /// Ends it as [`Node::kill`] does, and waits until its folder is free.
    pub async fn stop(mut self) -> Stopped {
        self.kill();
        let Node { id, replica, engine, identity, address, folder, .. } = self;
        replica.shutdown().await;
        drop((replica, engine));
        Stopped { id, identity, address, folder }
    }

    /// Starts again on what is on its disk.
    async fn restart(self, desired: &Desired) -> Node {
        assert!(self.runtime.0.is_none(), "it was killed before");
        self.stop().await.start(desired).await.map_err(|(_, error)| error).unwrap()
    }

    fn command(key: u128, action: Action) -> Command {
        Command { account: ACCOUNT, key: IdempotencyKey(key), action }
    }

    /// Adds a task; refusals (a second one of that name) are the test's failure.
    pub async fn add(&self, name: &str) -> Result<(), Unavailable> {
        let outcome = self.engine.propose(ACCOUNT, add(name)).await?.unwrap();
        assert_added(name, &outcome);
        Ok(())
    }

    pub fn tasks(&self) -> BTreeSet<String> {
        self.engine.read(|cluster| cluster.all_tasks().map(|task| task.id.to_string()).collect())
    }
}

fn add(name: &str) -> Action {
    Action::TasksAdd { job: job_id("job"), tasks: vec![task_add(name)] }
}

fn assert_added(name: &str, outcome: &Outcome) {
    let Outcome::TasksAdded(tasks) = outcome else { panic!("{outcome:?}") };
    assert_eq!((tasks.len(), &tasks[0].0), (1, &task_id(name)));
    assert!(tasks[0].1.is_ok(), "{name}: {:?}", tasks[0].1);
}

/// Everybody may speak to everybody, as the replicated allow-list will say.
pub(super) fn introduce(nodes: &[&Node]) {
    let allowed: BTreeMap<PeerId, Role> =
        nodes.iter().map(|node| (node.network.peer(), Role::Coordinator)).collect();
    for node in nodes {
        node.network.set_allowed(allowed.clone());
    }
}

pub(super) async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("never: {what}"))
}

pub(super) fn voters(node: &Node) -> BTreeSet<MemberId> {
    node.replica.members().into_iter().filter(|(_, status)| status.is_voter).map(|(id, _)| id).collect()
}

pub(super) async fn three() -> (Vec<Node>, Desired) {
    voting(3).await
}

/// A cluster of so many members that vote, with the account and a job for tasks.
pub(super) async fn voting(count: u64) -> (Vec<Node>, Desired) {
    voting_at((0..count).map(|_| Arc::new(SystemTime::default()) as Arc<dyn Time>)).await
}

async fn voting_at(times: impl Iterator<Item = Arc<dyn Time>>) -> (Vec<Node>, Desired) {
    let desired = Desired::default();
    let mut nodes = Vec::new();
    for (id, time) in (1..).zip(times) {
        nodes.push(Node::start_at(id, &desired, time).await);
    }
    introduce(&nodes.iter().collect::<Vec<_>>());
    *desired.lock() = nodes.iter().map(|node| (node.id, node.member())).collect();
    let all: BTreeSet<MemberId> = nodes.iter().map(|node| node.id).collect();
    until("they vote", || nodes.iter().all(|node| voters(node) == all).then_some(())).await;
    let engine = &nodes[0].engine;
    let raise = Action::VersionRaise { to: NEWEST, witnesses: Vec::new() };
    engine.propose(keys::CLUSTER, raise).await.unwrap().unwrap();
    let account = Action::AccountAdd { name: "lote".to_owned(), keys: vec![b"key".to_vec()] };
    engine.propose(keys::CLUSTER, account).await.unwrap().unwrap();
    let pool = Action::PoolAdd { spec: Box::new(pool_spec("pool", 0, 1)) };
    engine.propose(ACCOUNT, pool).await.unwrap().unwrap();
    let mut job = job_spec("job", "pool");
    job.pool = pool_id("pool");
    engine.propose(ACCOUNT, Action::JobAdd { spec: Box::new(job) }).await.unwrap().unwrap();
    (nodes, desired)
}

/// The place of the member whose leadership is announced.
pub(super) async fn leader<'a>(nodes: impl Iterator<Item = &'a Node> + Clone) -> MemberId {
    until("a leader", || {
        let leads = |node: &&Node| node.replica.leadership().borrow().is_ours;
        nodes.clone().find(leads).map(|node| node.id)
    })
    .await
}

/// All members have applied the same entry and have the same hash of everything ever written.
pub(super) async fn same_state(nodes: &[&Node]) {
    until("the same state everywhere", || {
        let states: BTreeSet<_> = nodes
            .iter()
            .map(|node| node.replica.status())
            .map(|status| (status.applied, status.state_hash))
            .collect();
        (states.len() == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_member_takes_writes_and_shows_those_of_the_others() {
    let (nodes, _desired) = three().await;
    let first = leader(nodes.iter()).await;
    for node in &nodes {
        let seen = node.replica.leadership().borrow().clone();
        let known = seen.leader.unwrap();
        assert_eq!((known.member, seen.is_ours), (first, node.id == first));
        assert_eq!(known.peer, nodes[known.member as usize - 1].network.peer().to_string());
        assert!(!known.addresses.is_empty());
    }
    let mut added = BTreeSet::new();
    for n in 0..30_usize {
        let name = format!("t{n}");
        nodes[n % 3].add(&name).await.unwrap();
        added.insert(name);
        let reader = &nodes[(n + 1) % 3];
        reader.engine.linearize().await.unwrap();
        assert_eq!(reader.tasks(), added, "member {} reads what was acknowledged before", reader.id);
    }
    // Submitted one after another at one member, applied in that order.
    let follower = nodes.iter().find(|node| node.id != first).unwrap();
    let waits: Vec<_> =
        (0..300).map(|n| follower.engine.submit_action(ACCOUNT, add(&format!("s{n}"))).unwrap()).collect();
    let mut last = 0;
    for (n, wait) in waits.into_iter().enumerate() {
        let outcome = wait.await.unwrap().unwrap();
        let Outcome::TasksAdded(tasks) = outcome else { panic!("{outcome:?}") };
        let version = tasks[0].1.as_ref().unwrap().etag;
        assert!(version > last, "task {n} was overtaken");
        last = version;
    }
    // A repeated command gets the first answer, wherever it is repeated.
    let mut answers = Vec::new();
    for node in &nodes {
        answers.push(node.engine.propose_command(Node::command(77, add("repeated"))).await.unwrap());
    }
    assert!(answers[0].is_ok() && answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    same_state(&nodes.iter().collect::<Vec<_>>()).await;
    for node in &nodes {
        node.replica.shutdown().await;
        assert_eq!(node.engine.linearize().await, Err(Unavailable::NoQuorum));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_dies_under_load_and_comes_back() {
    let (mut nodes, desired) = three().await;
    let first = leader(nodes.iter()).await;
    let place = nodes.iter().position(|node| node.id == first).unwrap();
    let mut dead = nodes.remove(place);
    // Writers at the two others, each a task at a time; what is under way when the leader dies is answered once.
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let engine = nodes[writer % 2].engine.clone();
            let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
            tokio::spawn(async move {
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let name = format!("w{writer}-{n}");
                    let reply = engine.propose(ACCOUNT, add(&name)).await;
                    assert_added(&name, &reply.unwrap().unwrap());
                    acknowledged.lock().insert(name);
                }
            })
        })
        .collect();
    until("writes before", || (acknowledged.lock().len() > 100).then_some(())).await;
    dead.kill();
    let before = acknowledged.lock().len();
    let killed_at = tokio::time::Instant::now();
    let second = leader(nodes.iter()).await;
    eprintln!("leader killed -> leader announced: {:?}", killed_at.elapsed());
    assert_ne!(second, first);
    until("writes after", || (acknowledged.lock().len() > before + 200).then_some(())).await;
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    for node in &nodes {
        node.engine.linearize().await.unwrap();
        assert_eq!(node.tasks(), *acknowledged.lock(), "nothing lost, nothing that was not answered");
    }
    let back = dead.restart(&desired).await;
    introduce(&[&nodes[0], &nodes[1], &back]);
    same_state(&[&nodes[0], &nodes[1], &back]).await;
    assert_eq!(back.tasks(), *acknowledged.lock());
    back.add("through-the-one-that-came-back").await.unwrap();
    assert!(nodes.iter().all(|node| node.replica.status().stopped.is_none()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_member_is_brought_up_by_a_snapshot_and_members_leave() {
    let (mut nodes, desired) = three().await;
    for n in 0..200 {
        nodes[0].add(&format!("t{n}")).await.unwrap();
    }
    let first = leader(nodes.iter()).await;
    let place = nodes.iter().position(|node| node.id == first).unwrap();
    let leads = &nodes[place];
    until("a purged log", || leads.replica.status().purged.filter(|purged| *purged > 50)).await;
    let fourth = Node::start(4, &desired).await;
    assert_eq!(fourth.replica.status().role, RaftRole::Learner);
    nodes.push(fourth);
    introduce(&nodes.iter().collect::<Vec<_>>());
    desired.lock().insert(4, nodes[3].member());
    same_state(&nodes.iter().collect::<Vec<_>>()).await;
    let status = nodes[3].replica.status();
    assert!(status.snapshot.is_some() && status.applied > Some(200), "{status:?}");
    assert_eq!((status.role, voters(&nodes[3]).len()), (RaftRole::Learner, 3), "a fourth does not vote");
    nodes[3].add("through-a-learner").await.unwrap();

    // It takes the place of one that goes, and then only one is left: always an odd number, no write refused.
    let gone = if first == 3 { 2 } else { 3 };
    desired.lock().remove(&gone);
    let expected: BTreeSet<MemberId> = desired.lock().keys().copied().collect();
    until("the fourth votes", || (voters(&nodes[3]) == expected).then_some(())).await;
    until("the other has left", || (!nodes[3].replica.members().contains_key(&gone)).then_some(())).await;
    nodes[3].add("after-the-change").await.unwrap();
    desired.lock().retain(|id, _| *id == 4);
    until("one is left", || (voters(&nodes[3]) == BTreeSet::from([4])).then_some(())).await;
    until("and leads", || nodes[3].replica.leadership().borrow().is_ours.then_some(())).await;
    until("the others left", || (nodes[3].replica.members().len() == 1).then_some(())).await;
    nodes[3].add("alone").await.unwrap();
    assert_eq!(nodes[3].tasks().len(), 203);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_without_room_for_a_snapshot_refuses_it_until_there_is() {
    let (mut nodes, desired) = three().await;
    for n in 0..200 {
        nodes[0].add(&format!("t{n}")).await.unwrap();
    }
    let first = leader(nodes.iter()).await;
    let leads = nodes.iter().find(|node| node.id == first).unwrap();
    until("a purged log", || leads.replica.status().purged.filter(|purged| *purged > 50)).await;
    let fourth = Node::start(4, &desired).await;
    // The first two times the disk is full in the middle of it.
    let blocked: Vec<_> =
        (1..=2).map(|n| fourth.folder.path().join(format!("raft/snapshots/received-{n}.new"))).collect();
    for path in &blocked {
        std::os::unix::fs::symlink("/dev/full", path).unwrap();
    }
    nodes.push(fourth);
    introduce(&nodes.iter().collect::<Vec<_>>());
    desired.lock().insert(4, nodes[3].member());
    same_state(&nodes.iter().collect::<Vec<_>>()).await;
    assert!(blocked.iter().all(|path| path.symlink_metadata().is_err()), "both were met, and removed");
    let status = nodes[3].replica.status();
    assert_eq!(status.stopped, None);
    assert!(status.snapshot.is_some() && status.applied > Some(200), "{status:?}");
    let states = std::fs::read_dir(nodes[3].folder.path().join("state")).unwrap();
    let folders = states.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count();
    assert!(folders <= 2, "{folders}: the first one, and that of the snapshot");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_to_go_hands_over() {
    let (mut nodes, desired) = three().await;
    let first = leader(nodes.iter()).await;
    nodes.push(Node::start(4, &desired).await);
    introduce(&nodes.iter().collect::<Vec<_>>());
    desired.lock().insert(4, nodes[3].member());
    desired.lock().remove(&first);
    let rest: Vec<&Node> = nodes.iter().filter(|node| node.id != first).collect();
    let expected: BTreeSet<MemberId> = rest.iter().map(|node| node.id).collect();
    // Writes go on all the while.
    for n in 0.. {
        rest[n % 3].add(&format!("t{n}")).await.unwrap();
        let has_left =
            |node: &&Node| voters(node) == expected && !node.replica.members().contains_key(&first);
        if rest.iter().all(has_left) {
            break;
        }
    }
    assert_ne!(leader(rest.iter().copied()).await, first);
    same_state(&rest).await;
}

/// The machine's clocks, the wall clock set wrong by so many milliseconds.
#[derive(Default)]
struct SetWrong {
    system: SystemTime,
    by_ms: AtomicI64,
}

impl Time for SetWrong {
    fn read(&self) -> Reading {
        let Reading { mut wall, monotonic_us } = self.system.read();
        wall.0 = wall.0.saturating_add_signed(self.by_ms.load(Ordering::Relaxed));
        Reading { wall, monotonic_us }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_clock_is_off_does_not_lead() {
    const HOUR: i64 = 3_600_000;
    const YEAR: i64 = 365 * 24 * HOUR;
    let clocks = [(); 3].map(|()| Arc::new(SetWrong::default()));
    let (nodes, _desired) = voting_at(clocks.clone().into_iter().map(|clock| clock as Arc<dyn Time>)).await;
    let clock = |id: MemberId| &clocks[id as usize - 1].by_ms;
    let node = |id: MemberId| &nodes[id as usize - 1];
    let mut count = 0;
    for by_ms in [HOUR, -YEAR] {
        let first = leader(nodes.iter()).await;
        until("all clocks are known and right", || {
            let is_right = |node: &Node| {
                let seen = node.replica.clocks();
                seen.off_ms.len() == 3 && !seen.is_off
            };
            nodes.iter().all(is_right).then_some(())
        })
        .await;
        let before = node(first).replica.status().now;
        clock(first).store(by_ms, Ordering::Relaxed);
        let others: Vec<&Node> = nodes.iter().filter(|node| node.id != first).collect();
        // Writes at the old leader are a sign of life to the others, if it makes entries of them.
        let writing = async {
            for n in 0.. {
                node(first).add(&format!("at-{first}-{by_ms}-{n}")).await.unwrap();
            }
        };
        let second = tokio::select! {
            second = leader(others.iter().copied()) => second,
            () = writing => panic!("it does not end"),
        };
        assert_ne!(second, first);
        until("it follows", || (node(first).replica.status().leader == Some(second)).then_some(())).await;
        // It serves, and everybody sees how far it is off; cluster time did not follow it.
        for node in &nodes {
            count += 1;
            node.add(&format!("t{count}")).await.unwrap();
        }
        until("everybody sees it", || {
            let off = |node: &Node| node.replica.clocks().off_ms.get(&first).copied().unwrap_or(0);
            nodes.iter().all(|node| off(node).abs_diff(by_ms) < 60_000).then_some(())
        })
        .await;
        let seen = node(first).replica.clocks();
        assert!(seen.is_off && !seen.duty.stands, "{seen:?}");
        let passed_ms = node(second).replica.status().now.since_ms(before);
        assert!(passed_ms < HOUR as u64 / 2, "{passed_ms}");
        clock(first).store(0, Ordering::Relaxed);
    }
    same_state(&nodes.iter().collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_isolated_leader_accepts_no_write() {
    let (nodes, _desired) = three().await;
    nodes[0].add("before").await.unwrap();
    let first = leader(nodes.iter()).await;
    let old = nodes.iter().find(|node| node.id == first).unwrap();
    let rest: Vec<&Node> = nodes.iter().filter(|node| node.id != first).collect();
    // Both sides cut the connection.
    old.network.set_allowed(BTreeMap::new());
    introduce(&rest);
    let (lost, read) = tokio::join!(old.engine.propose(ACCOUNT, add("lost")), old.engine.linearize());
    assert_eq!((lost, read), (Err(Unavailable::NoQuorum), Err(Unavailable::NoQuorum)));
    leader(rest.iter().copied()).await;
    rest[0].add("meanwhile").await.unwrap();
    rest[1].engine.linearize().await.unwrap();
    let expected = BTreeSet::from(["before".to_owned(), "meanwhile".to_owned()]);
    assert_eq!(rest[1].tasks(), expected);

    introduce(&nodes.iter().collect::<Vec<_>>());
    for node in &nodes {
        for other in &nodes {
            node.network.add_address(other.network.peer(), other.address.clone());
        }
    }
    until("it follows", || {
        (old.replica.leadership().borrow().leader.as_ref()?.member != first).then_some(())
    })
    .await;
    assert!(!old.replica.leadership().borrow().is_ours);
    old.engine.linearize().await.unwrap();
    assert_eq!(old.tasks(), expected, "what it could not commit is gone");
    same_state(&nodes.iter().collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_under_way_at_a_leader_that_lost_its_place_is_made_by_the_next() {
    let (nodes, _desired) = three().await;
    let first = leader(nodes.iter()).await;
    let old = nodes.iter().find(|node| node.id == first).unwrap();
    let rest: Vec<&Node> = nodes.iter().filter(|node| node.id != first).collect();
    old.network.set_allowed(BTreeMap::new());
    introduce(&rest);
    let names: Vec<String> = (0..20).map(|n| format!("t{n}")).collect();
    let waits: Vec<_> =
        names.iter().map(|name| old.engine.submit_action(ACCOUNT, add(name)).unwrap()).collect();
    let reading = tokio::spawn({
        let engine = old.engine.clone();
        async move { engine.linearize().await }
    });
    leader(rest.iter().copied()).await;
    introduce(&nodes.iter().collect::<Vec<_>>());
    for node in &nodes {
        for other in &nodes {
            node.network.add_address(other.network.peer(), other.address.clone());
        }
    }
    for (name, wait) in names.iter().zip(waits) {
        assert_added(name, &wait.await.unwrap().unwrap());
    }
    reading.await.unwrap().unwrap();
    assert!(!old.replica.leadership().borrow().is_ours);
    same_state(&nodes.iter().collect::<Vec<_>>()).await;
    assert_eq!(rest[0].tasks(), names.into_iter().collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_speaks_for_nobody_but_itself() {
    let (nodes, _desired) = three().await;
    let stranger = Identity::ephemeral();
    let (network, _runtime) = network(&stranger, &"/ip4/127.0.0.1/tcp/0".parse().unwrap()).await;
    let peers = nodes.iter().map(|node| node.network.peer()).chain([network.peer()]);
    let allowed: BTreeMap<PeerId, Role> = peers.map(|peer| (peer, Role::Coordinator)).collect();
    for node in &nodes {
        node.network.set_allowed(allowed.clone());
        network.set_allowed(allowed.clone());
    }
    let target = &nodes[1];
    network.add_address(target.network.peer(), target.address.clone());
    let link: Link<RaftQuestion, RaftAnswer> =
        Link::start(network.clone(), target.network.peer(), Protocol::Raft);
    let term = target.replica.status().term;
    let question = |member, committed| {
        let vote = WireVote { term: 1_000, member, committed };
        [RaftQuestion::Vote { vote, last: None }, append(vote)]
    };
    for asked in question(1, true).into_iter().chain(question(3, false)) {
        let answer = link.ask(asked).await.unwrap();
        assert!(matches!(&answer, RaftAnswer::Refused(why) if why.contains("is not member")), "{answer:?}");
    }
    // Nor does a snapshot that is none do any harm; the name and length it announces are believed as little.
    for (size_bytes, sent) in [(5, &b"wrong"[..]), (u64::MAX, b""), (0, b"")] {
        let vote = WireVote { term, member: 9, committed: true };
        let mut stream = network.open(target.network.peer(), Protocol::Snapshot).await.unwrap();
        stream.send(&SnapshotHead { vote, name: "n".to_owned(), size_bytes }).await.unwrap();
        stream.write_all(sent).await.unwrap();
        stream.flush().await.unwrap();
        let answer = stream.receive().await.unwrap();
        assert!(matches!(&answer, Some(SnapshotAnswer::Refused(_))), "{answer:?}");
    }
    let left = std::fs::read_dir(target.folder.path().join("raft/snapshots")).unwrap();
    let received =
        left.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("received"));
    assert_eq!(received.count(), 0, "nothing is left of it");
    assert_eq!(target.replica.status().term, term, "it was not heard");
    target.add("as-before").await.unwrap();
}

fn append(vote: WireVote) -> RaftQuestion {
    RaftQuestion::Append { vote, prev: None, committed: None, entries: Vec::new() }
}

#[tokio::test]
async fn a_folder_keeps_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let nothing = open_member(config(&folder), Start::Resume, None).await.map(|_| ());
    assert!(matches!(nothing, Err(Error::NoMember { .. })), "{nothing:?}");
    let (_engine, replica) = open_member(config(&folder), Start::Join { member: 5 }, None).await.unwrap();
    assert_eq!((replica.status().member, replica.status().role), (5, RaftRole::Learner));
    replica.shutdown().await;
    // One that waits to be added founds no second cluster.
    let found = Start::Found { me: Member::default() };
    let (_engine, replica) = open_member(config(&folder), found, None).await.unwrap();
    assert_eq!((replica.status().member, replica.status().role), (5, RaftRole::Learner));
    replica.shutdown().await;
    let other = open_member(config(&folder), Start::Join { member: 6 }, None).await.map(|_| ());
    assert!(matches!(other, Err(Error::OtherMember { found: 5, asked: 6, .. })), "{other:?}");
    // Recovered after it had joined as number 4, it goes on under the number that it then got.
    let (_engine, replica) = open_member(config(&folder), Start::Join { member: 4 }, None).await.unwrap();
    assert_eq!(replica.status().member, 5);
    replica.shutdown().await;
}
