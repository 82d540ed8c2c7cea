//! A leadership that ends at the moment in which an entry is handed over.

use super::*;
use crate::engine::Engine;
use crate::replication::log::simulated::SimulatedDisk;
use crate::replication::log::{Log, Options};
use crate::replication::tests::toy::{Toy, command};
use crate::replication::{
    Applier, LogStore, MemoryHome, Snapshots, StateMachine, SystemTime, Transport, TypeConfig,
};
use crate::state::{Cluster, Reply};
use crate::store::MemoryStore;
use openraft::raft::AppendEntriesRequest;
use openraft::{ServerState, Vote};

type Asked = tokio::task::JoinHandle<Result<Reply, Unavailable>>;

/// Raft with one member, and a driver that the test turns by hand.
struct Rig {
    driver: Driver<TypeConfig>,
    raft: Raft<TypeConfig>,
    toy: Arc<Toy>,
    engine: Engine,
    queue: mpsc::Receiver<Request>,
    _folder: tempfile::TempDir,
}

async fn rig() -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let log = Arc::new(Log::open(Arc::new(SimulatedDisk::new()), &Options::default()).unwrap());
    let toy = Arc::new(Toy::new());
    let snapshots = Snapshots::open(folder.path()).unwrap();
    let applier = Applier::open(toy.clone(), Box::new(MemoryHome), snapshots).unwrap();
    let view = applier.view();
    let (machine, _thread) = StateMachine::on_thread(applier).unwrap();
    let settings = Arc::new(openraft::Config::default().validate().unwrap());
    let network = Transport::new(1, None);
    let raft = Raft::new(1, settings, network, LogStore::new(log), machine).await.unwrap();
    raft.initialize(std::collections::BTreeMap::from([(1, Member::default())])).await.unwrap();
    raft.wait(Some(Duration::from_secs(20))).state(ServerState::Leader, "lead").await.unwrap();
    let driver = Driver::new(Parts {
        raft: raft.clone(),
        clock: ClockCore::new(Timestamp(0)),
        time: Arc::new(SystemTime::default()),
        position: view.position(),
        replayed: 0,
        links: None,
        forwarded: mpsc::channel(1).1,
        leadership: watch::channel(Leadership::default()).0,
        give_up_after: GIVE_UP_AFTER,
    });
    let (engine, queue) = Engine::new(Cluster::new(), Arc::new(MemoryStore::new()));
    Rig { driver, raft, toy, engine, queue, _folder: folder }
}

impl Rig {
    /// What a caller with a handle of `term` asks, taken in by the driver.
    async fn ask(&mut self, term: Option<u64>, name: &'static str) -> Asked {
        let engine = match term {
            Some(term) => {
                let (_, leads) = watch::channel(Leadership { term, leader: None, is_ours: true });
                self.engine.in_term(term, leads, true)
            }
            None => self.engine.clone(),
        };
        let asked = tokio::spawn(async move { engine.propose_command(command(name)).await });
        let request = self.queue.recv().await.unwrap();
        self.driver.take_in(request);
        asked
    }

    /// Another member leads for a moment; then this one is elected once more.
    async fn elect_again(&self) {
        let metrics = self.raft.metrics().borrow().clone();
        let term = metrics.current_term;
        let heard = AppendEntriesRequest {
            vote: Vote::new_committed(term + 1, 2),
            prev_log_id: metrics.last_applied,
            entries: Vec::new(),
            leader_commit: None,
        };
        self.raft.append_entries(heard).await.unwrap();
        let within = Some(Duration::from_secs(20));
        self.raft.wait(within).state(ServerState::Follower, "be deposed").await.unwrap();
        self.raft.trigger().elect().await.unwrap();
        let is_elected = |metrics: &openraft::RaftMetrics<MemberId, Member>| {
            metrics.state == ServerState::Leader && metrics.current_term > term + 1
        };
        self.raft.wait(within).metrics(is_elected, "be elected again").await.unwrap();
    }

    /// What is under way lands, and its callers are answered.
    async fn land(&mut self) {
        let landed = (&mut self.driver.flight.as_mut().unwrap().landing).await;
        self.driver.on_landed(landed);
        let mut position = self.driver.parts.position.clone();
        let index = self.driver.due.iter().map(|due| due.index).max().unwrap_or(0);
        let reached = *position.wait_for(|position| position.has_reached(index)).await.unwrap();
        self.driver.answer_due(reached);
    }
}

#[tokio::test]
async fn the_same_member_elected_anew_in_between_changes_nothing_for_its_old_term() {
    let mut rig = rig().await;
    let before = rig.raft.server_metrics().borrow().clone();
    let (term, me) = reign_led(&before).unwrap();
    rig.driver.settled = Some((term, me));
    let reached = *rig.driver.parts.position.borrow();

    let fits = rig.ask(Some(term), "in its term").await;
    rig.driver.advance(&before, reached);
    tokio::time::timeout(Duration::from_secs(20), rig.land()).await.unwrap();
    assert_eq!(fits.await.unwrap(), Ok(Ok(crate::state::Outcome::Done)));

    let fenced = rig.ask(Some(term), "of the old term").await;
    let free = rig.ask(None, "of any term").await;
    // What the driver saw last is from before the election: its own look at the term lets both through.
    rig.elect_again().await;
    rig.driver.advance(&before, reached);
    assert!(rig.driver.waiting.is_empty() && rig.driver.flight.is_some());
    tokio::time::timeout(Duration::from_secs(20), rig.land()).await.unwrap();
    assert_eq!(fenced.await.unwrap(), Err(Unavailable::NoQuorum));
    assert_eq!(free.await.unwrap(), Ok(Ok(crate::state::Outcome::Done)));
    let counted: Vec<String> = rig.toy.counts().into_keys().collect();
    assert_eq!(counted, ["in its term", "of any term"]);
    rig.raft.shutdown().await.unwrap();
}
