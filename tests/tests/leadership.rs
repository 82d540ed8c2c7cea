//! What follows leadership above the log: the tree, sessions, hosts that are sent to the leader. Real coordinators
//! and hosts over loopback; who leads is told by the test, and the processes are made up.

mod fake_host;

use fake_host::FakeHost;
use futures::TryStreamExt;
use lote_coordinator::api::batch::files::NodeFiles;
use lote_coordinator::directory::Directory;
use lote_coordinator::leadership::{Leader, Leadership};
use lote_coordinator::service::{Coordinator, CoordinatorConfig, Seams};
use lote_coordinator::state::{Action, HostState, testing};
use lote_shared::model::{AccountId, AttemptRef, JobId, NodeKey, TaskId, TaskState, Timestamp};
use lote_shared::network::{Identity, Incoming, PeerId, Protocol, Role};
use lote_shared::protocol::files::{self, Operation, Properties, Request, Response};
use lote_shared::protocol::members::Member;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

/// Generous: it only bounds how long a broken build hangs.
const WAIT: Duration = Duration::from_secs(40);
const JOB: &str = "job";

fn run<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    actix_rt::System::with_tokio_rt(move || runtime).block_on(test);
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let poll = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(WAIT, poll).await.unwrap_or_else(|_| panic!("never: {what}"));
}

fn config(folder: &Path, worker: PeerId) -> CoordinatorConfig {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    CoordinatorConfig {
        data_dir: folder.to_owned(),
        account_name: "lote".to_owned(),
        account_key: vec![7; 64],
        batch_bind: any_port,
        blob_bind: any_port,
        p2p_bind: any_port,
        admit: vec![testing::worker(&worker.to_string())],
        joinable: None,
        joined: None,
        lease_ms: 60_000,
        storage: Default::default(),
        faults: Default::default(),
    }
}

fn leads(term: u64) -> Leadership {
    Leadership { term, leader: None, is_ours: true }
}

/// Somebody else leads, or nobody.
fn follows(term: u64, leader: Option<&Coordinator>) -> Leadership {
    let leader = leader.map(|leader| Leader {
        member: 2,
        peer: leader.peer().to_string(),
        addresses: leader.p2p_addresses().iter().map(ToString::to_string).collect(),
    });
    Leadership { term, leader, is_ours: false }
}

/// What a host's file has in the test of relayed files.
fn content() -> Vec<u8> {
    (0..3_000_000_u32).map(|n| (n * 7 % 251) as u8).collect()
}

/// Answers every request for a file with the same one.
async fn serve_files(mut incoming: Incoming) {
    while let Some((_, mut stream)) = incoming.next().await {
        tokio::spawn(async move {
            let Ok(Some(request)) = stream.receive::<Request>().await else { return };
            let content = content();
            let length = content.len() as u64;
            let properties = Properties { directory: false, length, modified: Timestamp(5), mode: 0o100_644 };
            match request.operation {
                Operation::Read { .. } => {
                    stream.send(&Response::Content { properties, start: 0, length }).await.unwrap();
                    // The second half never comes of a file with this name.
                    let is_short =
                        matches!(&request.operation, Operation::Read { path, .. } if path == "short");
                    let end = if is_short { content.len() / 2 } else { content.len() };
                    if stream.write_all(&content[..end]).await.is_err() || is_short {
                        return;
                    }
                    let _ = stream.flush().await;
                }
                _ => stream.send(&Response::Error(files::Error::NotFound)).await.unwrap(),
            }
            stream.close().await;
        });
    }
}

/// A coordinator whose leadership the test decides.
struct World {
    coordinator: Coordinator,
    leadership: watch::Sender<Leadership>,
    account: AccountId,
    _folder: tempfile::TempDir,
}

impl World {
    async fn start(worker: PeerId, leadership: Leadership, directory: Option<Directory>) -> World {
        World::with_lease(worker, leadership, directory, 60_000).await
    }

    async fn with_lease(
        worker: PeerId,
        leadership: Leadership,
        directory: Option<Directory>,
        lease_ms: u64,
    ) -> World {
        let folder = tempfile::tempdir().unwrap();
        let (sender, receiver) = watch::channel(leadership);
        let seams = Seams { leadership: Some(receiver), directory };
        let config = CoordinatorConfig { lease_ms, ..config(&folder.path().join("coordinator"), worker) };
        let coordinator = Coordinator::start_with(config, seams).await.unwrap();
        let account = coordinator.engine().read(|cluster| cluster.account_by_name("lote").unwrap().0);
        World { coordinator, leadership: sender, account, _folder: folder }
    }

    async fn propose(&self, action: Action) {
        self.coordinator.engine().propose(self.account, action).await.unwrap().unwrap();
    }

    async fn add_pool(&self) {
        self.propose(Action::PoolAdd { spec: Box::new(testing::pool_spec("pool", 1, 4)) }).await;
        self.propose(Action::JobAdd { spec: Box::new(testing::job_spec(JOB, "pool")) }).await;
    }

    async fn add_task(&self, task: &str) {
        let mut added = testing::task_add(task);
        added.spec.command_line = task.to_owned();
        self.propose(Action::TasksAdd { job: JobId::new(JOB).unwrap(), tasks: vec![added] }).await;
    }

    /// State and attempt of a task.
    fn task(&self, task: &str) -> Option<(TaskState, u32)> {
        self.coordinator.engine().read(|cluster| {
            let job = cluster.job_by_id(self.account, &JobId::new(JOB).unwrap())?.key;
            let task = cluster.task_by_id(job, &TaskId::new(task).unwrap())?;
            Some((task.state(), task.attempt.0))
        })
    }

    async fn reaches(&self, task: &str, state: TaskState) {
        let what = format!("{task} is {state:?}");
        until(&what, async || self.task(task).is_some_and(|(now, _)| now == state)).await;
    }

    async fn host(&self, identity: Identity, boot: u64) -> FakeHost {
        let way = (self.coordinator.peer(), self.coordinator.p2p_addresses());
        FakeHost::with_boot(identity, boot, vec![way]).await
    }
}

#[test]
fn a_change_of_leaders_costs_sessions_and_no_work() {
    run(async {
        let identity = Identity::ephemeral();
        let world = World::start(identity.peer(), leads(1), None).await;
        let host = world.host(identity, 1).await;
        world.add_pool().await;
        world.add_task("forever").await;
        world.add_task("gap").await;
        world.reaches("forever", TaskState::Running).await;
        world.reaches("gap", TaskState::Running).await;
        assert_eq!(host.sessions(), 1);
        assert_eq!(world.coordinator.inspect().await.len(), 1, "the pool has a group");

        world.leadership.send(follows(2, None)).unwrap();
        until("the host is sent away", async || !host.redirects().is_empty()).await;
        assert_eq!(world.coordinator.inspect().await.len(), 0, "the tree is gone");
        let directions = host.redirects().pop().unwrap();
        assert_eq!((directions.term, directions.leader), (2, None));
        // Meanwhile a task ends and another is added; clients are served as ever.
        host.end_gap_tasks();
        world.add_task("queued").await;
        let asked = host.redirects().len();
        until("the host asks again", async || host.redirects().len() > asked + 1).await;
        assert_eq!(world.task("gap"), Some((TaskState::Running, 1)), "nobody could be told");
        assert_eq!(world.task("queued").map(|(state, _)| state), Some(TaskState::Active));

        world.leadership.send(leads(3)).unwrap();
        for task in ["gap", "queued"] {
            world.reaches(task, TaskState::Completed).await;
        }
        assert_eq!(world.task("gap"), Some((TaskState::Completed, 1)), "the result of the gap counts");
        assert_eq!(world.task("forever"), Some((TaskState::Running, 1)));
        assert_eq!(host.sessions(), 2);
        assert_eq!(host.kills(), 0);
        let begun = host.begun();
        let distinct: BTreeSet<AttemptRef> = begun.iter().copied().collect();
        assert_eq!((begun.len(), distinct.len()), (3, 3), "nothing ran twice");
        world.coordinator.shutdown().await;
    });
}

#[test]
fn a_term_that_was_missed_ends_the_tree_all_the_same() {
    run(async {
        let identity = Identity::ephemeral();
        let world = World::start(identity.peer(), leads(1), None).await;
        let host = world.host(identity, 1).await;
        world.add_pool().await;
        world.add_task("forever").await;
        world.reaches("forever", TaskState::Running).await;
        // A watch shows the newest value only; what lay between was never seen.
        world.leadership.send(leads(5)).unwrap();
        until("the host has a session in the new term", async || host.sessions() == 2).await;
        world.add_task("after").await;
        world.reaches("after", TaskState::Completed).await;
        assert_eq!(world.task("forever"), Some((TaskState::Running, 1)));
        assert_eq!((host.kills(), host.begun().len()), (0, 2));
        world.coordinator.shutdown().await;
    });
}

#[test]
fn a_host_finds_the_leader_through_a_coordinator_that_is_not() {
    run(async {
        let identity = Identity::ephemeral();
        let leader = World::start(identity.peer(), leads(7), None).await;
        let other = World::start(identity.peer(), follows(7, Some(&leader.coordinator)), None).await;
        let way = (other.coordinator.peer(), other.coordinator.p2p_addresses());
        let host = FakeHost::with_boot(identity, 1, vec![way]).await;
        leader.add_pool().await;
        leader.add_task("once").await;
        leader.reaches("once", TaskState::Completed).await;
        let directions = host.redirects();
        assert_eq!(directions.len(), 1);
        assert_eq!(directions[0].leader, Some(leader.coordinator.peer().to_string()));
        assert!(directions[0].coordinators.iter().any(|c| c.peer == other.coordinator.peer().to_string()));
        assert_eq!(other.coordinator.inspect().await.len(), 0);
        leader.coordinator.shutdown().await;
        other.coordinator.shutdown().await;
    });
}

#[test]
fn members_are_told_to_hosts_when_they_change() {
    run(async {
        let identity = Identity::ephemeral();
        let worker = Member::new(identity.peer(), Role::Worker, &[]);
        let (publisher, directory) = Directory::new(vec![worker.clone()]);
        let world = World::start(identity.peer(), leads(1), Some(directory)).await;
        let host = world.host(identity, 1).await;
        until("the host is told", async || host.members() == [worker.clone()]).await;
        let second = Member::new(PeerId::random(), Role::Worker, &[]);
        let both = vec![worker.clone(), second];
        publisher.publish(both.clone());
        until("the host is told of the second", async || host.members() == both).await;
        assert_eq!(host.sessions(), 1);
        // Whoever is taken off loses its session.
        publisher.publish(vec![both[1].clone()]);
        until("the host is cut off", async || !world.coordinator.has_session(identity_host(&world)).await)
            .await;
        world.coordinator.shutdown().await;
    });
}

fn identity_host(world: &World) -> u32 {
    world.coordinator.engine().read(|cluster| cluster.hosts().next().unwrap().key.0)
}

#[test]
fn a_copied_identity_gets_nothing_while_the_host_lives() {
    run(async {
        let identity = Identity::ephemeral();
        let world = World::start(identity.peer(), leads(1), None).await;
        let host = world.host(identity.clone(), 1).await;
        world.add_pool().await;
        world.add_task("forever").await;
        world.reaches("forever", TaskState::Running).await;
        let copy = world.host(identity, 2).await;
        until("the copy is refused", async || copy.refused().is_some()).await;
        assert!(copy.refused().unwrap().contains("same identity"));
        assert_eq!((copy.sessions(), host.sessions(), host.kills()), (0, 1, 0));
        assert_eq!(world.task("forever"), Some((TaskState::Running, 1)));

        // The machine stops in its tracks and is started anew: its connection is still open here, but nobody answers.
        host.freeze();
        until("the new boot is welcome", async || copy.sessions() == 1).await;
        until("the task runs again", async || world.task("forever") == Some((TaskState::Running, 2))).await;
        world.coordinator.shutdown().await;
    });
}

#[test]
fn files_of_nodes_come_through_a_coordinator_that_does_not_lead() {
    run(async {
        let identity = Identity::ephemeral();
        // Both know each other once both have an identity.
        let (publisher, directory) = Directory::new(vec![Member::new(identity.peer(), Role::Worker, &[])]);
        let leader = World::start(identity.peer(), leads(3), Some(directory.clone())).await;
        let follower =
            World::start(identity.peer(), follows(3, Some(&leader.coordinator)), Some(directory)).await;
        let coordinator = |world: &World| {
            let (peer, addresses) = (world.coordinator.peer(), world.coordinator.p2p_addresses());
            Member::new(peer, Role::Coordinator, &addresses)
        };
        let worker = Member::new(identity.peer(), Role::Worker, &[]);
        publisher.publish(vec![coordinator(&leader), coordinator(&follower), worker]);

        let host = leader.host(identity.clone(), 1).await;
        tokio::spawn(serve_files(host.network.accept(Protocol::Files).unwrap()));
        leader.add_pool().await;
        leader.add_task("once").await;
        leader.reaches("once", TaskState::Completed).await;
        // The follower's log is its own here: it is told what replication would have brought.
        let node = leader.coordinator.engine().read(|cluster| cluster.all_nodes().next().unwrap().clone());
        let record = leader.coordinator.engine().read(|cluster| cluster.host(node.host).unwrap().clone());
        follower.add_pool().await;
        let joined = Action::HostJoined {
            peer: record.peer,
            name: record.name,
            boot: record.boot,
            capacity: record.capacity,
            address: record.address,
            software: record.software,
        };
        follower.propose(joined).await;
        let pool = follower.coordinator.engine().read(|cluster| cluster.all_pools().next().unwrap().key);
        let grant = Action::NodeGrant { pool, host: node.host, node_id: node.id, dedicated: true };
        follower.propose(grant).await;

        let files = follower.coordinator.files();
        let node: NodeKey = node.key;
        let read = async |path: &str| {
            let answer = files.read(node, path, 0, None).await?;
            assert_eq!(answer.length, content().len() as u64);
            let pieces = answer.bytes.map_ok(|piece| piece.to_vec()).try_concat().await;
            Ok::<_, files::Error>(pieces.map_err(|error| error.kind()))
        };
        assert!(read("whole").await.unwrap().unwrap() == content());
        assert_eq!(read("short").await.unwrap(), Err(std::io::ErrorKind::UnexpectedEof));
        assert_eq!(files.stat(node, "any").await.unwrap_err(), files::Error::NotFound);
        assert!(!follower.coordinator.has_session(node.0).await);

        host.network.shutdown().await;
        let away =
            tokio::time::timeout(WAIT, files.stat(node, "any")).await.expect("an answer in bounded time");
        assert_eq!(away.unwrap_err(), files::Error::NodeUnavailable);
        leader.coordinator.shutdown().await;
        follower.coordinator.shutdown().await;
    });
}

#[test]
#[expect(clippy::disallowed_methods, reason = "that a host is not lost too early is a matter of real time")]
fn a_new_leader_counts_nobody_as_lost_before_a_lease_and_a_tenth() {
    const LEASE_MS: u64 = 4_000;
    run(async {
        let identity = Identity::ephemeral();
        let world = World::with_lease(identity.peer(), leads(1), None, LEASE_MS).await;
        let host = world.host(identity, 1).await;
        world.add_pool().await;
        world.add_task("forever").await;
        world.reaches("forever", TaskState::Running).await;
        let state = || world.coordinator.engine().read(|cluster| cluster.hosts().next().unwrap().state);

        world.leadership.send(follows(2, None)).unwrap();
        until("the host is sent away", async || !host.redirects().is_empty()).await;
        host.network.shutdown().await;
        drop(host);
        assert_eq!(state(), HostState::Joined, "a tree that is dropped says nothing more of its hosts");
        let elected = Instant::now();
        world.leadership.send(leads(3)).unwrap();
        until("who does not come is unknown", async || state() == HostState::Unknown).await;
        assert_eq!(world.task("forever"), Some((TaskState::Running, 1)));
        until("the lease is over", async || state() == HostState::Lost).await;
        let after_ms = elected.elapsed().as_millis();
        assert!(after_ms >= u128::from(LEASE_MS + LEASE_MS / 10), "{after_ms} ms");
        until("its task waits", async || world.task("forever").unwrap().0 == TaskState::Active).await;
        world.coordinator.shutdown().await;
    });
}
