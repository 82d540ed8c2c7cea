//! Members that talk through memory: what a network will ask of log, applier and snapshots, and what the consensus
//! simulator builds on. Also a log whose disk runs full.

use super::toy::{Toy, command};
use crate::engine::{Engine, Unavailable};
use crate::leadership::Leadership;
use crate::replication::log::simulated::SimulatedDisk;
use crate::replication::log::{Log, Options};
use crate::replication::{
    Applier, ClockCore, Driver, GIVE_UP_AFTER, LogStore, Member, MemberId, MemoryHome, Parts, Snapshots,
    StateMachine, SystemTime, Transport, TypeConfig, View,
};
use crate::state::Cluster;
use crate::store::MemoryStore;
use lote_shared::model::Timestamp;
use openraft::error::{
    Fatal, RPCError, RaftError, RemoteError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, Raft, ServerState, Snapshot, SnapshotPolicy, Vote};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Who can be reached; members that are cut off are missing.
#[derive(Clone, Default)]
struct Net(Arc<Mutex<BTreeMap<MemberId, Raft<TypeConfig>>>>);

struct Connection {
    net: Net,
    from: MemberId,
    to: MemberId,
}

#[derive(Clone)]
struct NetOf(Net, MemberId);

impl RaftNetworkFactory<TypeConfig> for NetOf {
    type Network = Connection;
    async fn new_client(&mut self, to: MemberId, _: &Member) -> Connection {
        Connection { net: self.0.clone(), from: self.1, to }
    }
}

impl Connection {
    fn peer(&self) -> Result<Raft<TypeConfig>, Unreachable> {
        let members = self.net.0.lock();
        let reachable = members.contains_key(&self.from);
        let peer = members.get(&self.to).filter(|_| reachable).cloned();
        peer.ok_or_else(|| Unreachable::new(&std::io::Error::from(std::io::ErrorKind::NotConnected)))
    }
}

type RpcError = RPCError<MemberId, Member, RaftError<MemberId>>;

impl RaftNetwork<TypeConfig> for Connection {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<MemberId>, RpcError> {
        let peer = self.peer().map_err(RPCError::Unreachable)?;
        let answer = peer.append_entries(request).await;
        answer.map_err(|error| RPCError::RemoteError(RemoteError::new(self.to, error)))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<MemberId>,
        _: RPCOption,
    ) -> Result<VoteResponse<MemberId>, RpcError> {
        let peer = self.peer().map_err(RPCError::Unreachable)?;
        let answer = peer.vote(request).await;
        answer.map_err(|error| RPCError::RemoteError(RemoteError::new(self.to, error)))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<MemberId>,
        snapshot: Snapshot<TypeConfig>,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<MemberId>, StreamingError<TypeConfig, Fatal<MemberId>>> {
        let peer = self.peer().map_err(StreamingError::Unreachable)?;
        // As a transport does: the receiver names a file, the bytes are copied into it.
        let file = peer.begin_receiving_snapshot().await.expect("the receiver runs");
        std::fs::copy(&snapshot.snapshot.path, &file.path).expect("the snapshot is there");
        let meta = snapshot.meta.clone();
        let answer = peer.install_full_snapshot(vote, Snapshot { meta, snapshot: file }).await;
        answer.map_err(|error| StreamingError::RemoteError(RemoteError::new(self.to, error)))
    }
}

struct Node {
    raft: Raft<TypeConfig>,
    toy: Arc<Toy>,
    view: Arc<View>,
    _folder: tempfile::TempDir,
}

fn settings() -> Arc<openraft::Config> {
    let settings = openraft::Config {
        heartbeat_interval: 50,
        election_timeout_min: 200,
        election_timeout_max: 400,
        install_snapshot_timeout: 5_000,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(30),
        max_in_snapshot_log_to_keep: 3,
        replication_lag_threshold: 10,
        purge_batch_size: 1,
        ..openraft::Config::default()
    };
    Arc::new(settings.validate().unwrap())
}

async fn node(id: MemberId, network: impl RaftNetworkFactory<TypeConfig>, disk: SimulatedDisk) -> Node {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 20_000, cache_bytes: 2_000, ..Options::default() };
    let log = Arc::new(Log::open(Arc::new(disk), &options).unwrap());
    let toy = Arc::new(Toy::new());
    let snapshots = Snapshots::open(folder.path()).unwrap();
    let applier = Applier::open(toy.clone(), Box::new(MemoryHome), snapshots).unwrap();
    let view = applier.view();
    let (machine, _thread) = StateMachine::on_thread(applier).unwrap();
    let raft = Raft::new(id, settings(), network, LogStore::new(log), machine).await.unwrap();
    Node { raft, toy, view, _folder: folder }
}

/// An engine whose driver works on this member, and does not know the way to another.
fn serve(node: &Node) -> (Engine, watch::Sender<bool>) {
    let (engine, queue) = Engine::new(Cluster::new(), Arc::new(MemoryStore::new()));
    let (stop, stopping) = watch::channel(false);
    let driver = Driver::new(Parts {
        raft: node.raft.clone(),
        clock: ClockCore::new(Timestamp(0)),
        time: Arc::new(SystemTime::default()),
        position: node.view.position(),
        replayed: 0,
        links: None,
        forwarded: mpsc::channel(1).1,
        leadership: watch::channel(Leadership::default()).0,
        give_up_after: GIVE_UP_AFTER,
    });
    tokio::spawn(driver.run(queue, stopping));
    (engine, stop)
}

async fn leader(nodes: &BTreeMap<MemberId, Node>, among: &BTreeSet<MemberId>) -> MemberId {
    for _ in 0..1_000 {
        for id in among {
            let metrics = nodes[id].raft.metrics().borrow().clone();
            if metrics.state == ServerState::Leader && nodes[id].raft.ensure_linearizable().await.is_ok() {
                return *id;
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no leader among {among:?}");
}

async fn applied_everywhere(nodes: &BTreeMap<MemberId, Node>, index: u64) {
    for node in nodes.values() {
        node.raft
            .wait(Some(Duration::from_secs(20)))
            .applied_index_at_least(Some(index), "catch up")
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_agree_through_failover_conflict_and_snapshot() {
    let net = Net::default();
    let mut nodes = BTreeMap::new();
    for id in 1..=3 {
        let node = node(id, NetOf(net.clone(), id), SimulatedDisk::new()).await;
        net.0.lock().insert(id, node.raft.clone());
        nodes.insert(id, node);
    }
    let members: BTreeMap<MemberId, Member> = (1..=3).map(|id| (id, Member::default())).collect();
    nodes[&1].raft.initialize(members).await.unwrap();
    let all = BTreeSet::from([1, 2, 3]);
    let first = leader(&nodes, &all).await;
    let (engine, _stop) = serve(&nodes[&first]);
    for n in 0..20 {
        engine.propose_command(command(&format!("a{n}"))).await.unwrap().unwrap();
    }

    // The leader is cut off with an entry that nobody else gets: it must go when it comes back.
    net.0.lock().remove(&first);
    let lost = tokio::spawn({
        let engine = engine.clone();
        async move { engine.propose_command(command("lost")).await }
    });
    let rest: BTreeSet<MemberId> = all.iter().copied().filter(|id| *id != first).collect();
    let second = leader(&nodes, &rest).await;
    let (engine, _stop) = serve(&nodes[&second]);
    // Far enough that the log it needs is purged meanwhile.
    for n in 0..80 {
        engine.propose_command(command(&format!("b{n}"))).await.unwrap().unwrap();
    }
    nodes[&second]
        .raft
        .wait(Some(Duration::from_secs(20)))
        .metrics(|metrics| metrics.purged.is_some_and(|id| id.index > 40), "purge")
        .await
        .unwrap();
    net.0.lock().insert(first, nodes[&first].raft.clone());
    assert_eq!(lost.await.unwrap(), Err(Unavailable::NoQuorum));

    let end = nodes[&second].raft.metrics().borrow().last_log_index.unwrap();
    applied_everywhere(&nodes, end).await;
    assert!(nodes[&first].raft.metrics().borrow().snapshot.is_some(), "it was brought forward by a snapshot");
    for node in nodes.values() {
        let counts = node.toy.counts();
        assert_eq!(counts.len(), 100);
        assert!(counts.values().all(|count| *count == 1) && !counts.contains_key("lost"));
    }
    // The same entry, the same hash of everything ever written.
    let views: BTreeSet<_> =
        nodes.values().map(|node| (node.view.applied().index(), node.view.applied().hash)).collect();
    assert_eq!(views.len(), 1, "{views:?}");
    for node in nodes.values() {
        node.raft.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_makes_the_member_unavailable_and_loses_nothing() {
    let disk = SimulatedDisk::new();
    let node = node(1, Transport::new(1, None), disk.clone()).await;
    node.raft.initialize(BTreeMap::from([(1, Member::default())])).await.unwrap();
    node.raft.wait(None).state(ServerState::Leader, "lead").await.unwrap();
    let (engine, _stop) = serve(&node);
    disk.run_full_at(30_000);
    let mut acknowledged = 0;
    let refused = loop {
        match engine.propose_command(command(&format!("n{acknowledged}"))).await {
            Ok(reply) => reply.unwrap(),
            Err(unavailable) => break unavailable,
        };
        acknowledged += 1;
    };
    assert_eq!(refused, Unavailable::NoQuorum);
    assert!(acknowledged > 10);
    assert_eq!(engine.linearize().await, Err(Unavailable::NoQuorum));
    let counts = node.toy.counts();
    assert_eq!(counts.len(), acknowledged);
    let log = Log::open(Arc::new(disk.kill()), &Options::default()).unwrap();
    // Entry 0 is the membership, entry 1 the leader's blank one.
    assert!(log.state().last.unwrap().index > acknowledged as u64);
}

/// What leases and the actor tree rest on ([`Engine::in_term`]): a leader is confirmed by a quorum that answered after
/// it was asked, in its own term and by its own leadership, and what it proposes enters the log in that term or never.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_deposed_is_not_confirmed_and_proposes_nothing() {
    let net = Net::default();
    let mut nodes = BTreeMap::new();
    for id in 1..=3 {
        let node = node(id, NetOf(net.clone(), id), SimulatedDisk::new()).await;
        net.0.lock().insert(id, node.raft.clone());
        nodes.insert(id, node);
    }
    let members: BTreeMap<MemberId, Member> = (1..=3).map(|id| (id, Member::default())).collect();
    nodes[&1].raft.initialize(members).await.unwrap();
    let all = BTreeSet::from([1, 2, 3]);
    let first = leader(&nodes, &all).await;
    let (engine, _stop) = serve(&nodes[&first]);
    // From here on the driver knows that it leads.
    engine.linearize().await.unwrap();
    let term = nodes[&first].raft.metrics().borrow().current_term;
    // Nobody ever tells this handle that its leadership is over: it is the log that must say no.
    let fenced = |term| {
        let (_, leads) = watch::channel(Leadership { term, leader: None, is_ours: true });
        engine.in_term(term, leads, true)
    };
    fenced(term).linearize().await.unwrap();
    fenced(term).propose_command(command("in term")).await.unwrap().unwrap();
    assert_eq!(fenced(term + 1).linearize().await, Err(Unavailable::NoQuorum));
    let early = fenced(term + 1).propose_command(command("early")).await;
    assert_eq!(early, Err(Unavailable::NoQuorum));

    net.0.lock().remove(&first);
    let cut_off = tokio::time::timeout(Duration::from_secs(2), fenced(term).linearize()).await;
    assert!(!matches!(cut_off, Ok(Ok(()))), "no quorum heard it");
    let rest: BTreeSet<MemberId> = all.iter().copied().filter(|id| *id != first).collect();
    let second = leader(&nodes, &rest).await;
    net.0.lock().insert(first, nodes[&first].raft.clone());
    let heard = |metrics: &openraft::RaftMetrics<MemberId, Member>| metrics.current_leader == Some(second);
    nodes[&first].raft.wait(Some(Duration::from_secs(20))).metrics(heard, "follow").await.unwrap();
    assert_eq!(fenced(term).linearize().await, Err(Unavailable::NoQuorum), "the quorum is another's");
    let late = fenced(term).propose_command(command("late")).await;
    assert_eq!(late, Err(Unavailable::NoQuorum));

    let end = nodes[&second].raft.metrics().borrow().last_log_index.unwrap();
    applied_everywhere(&nodes, end).await;
    for node in nodes.values() {
        assert_eq!(node.toy.counts().keys().collect::<Vec<_>>(), ["in term"]);
        node.raft.shutdown().await.unwrap();
    }
}
