//! A fault in one pool's group of actors is that group's own affair: it is built anew, while running tasks and other
//! pools do not notice. Driven through a real coordinator and a host that speaks the real protocol over loopback;
//! only the processes are made up.

mod fake_host;

use fake_host::FakeHost;
use lote_coordinator::engine::Engine;
use lote_coordinator::pools::GroupStatus;
use lote_coordinator::pools::faults::{Fault, Faults};
use lote_coordinator::pools::guard::Place;
use lote_coordinator::service::{Coordinator, CoordinatorConfig};
use lote_coordinator::state::{Action, Condition, testing};
use lote_shared::model::{AccountId, DeallocationOption, JobId, PoolId, PoolKey, Span, TaskId, TaskState};
use lote_shared::network::Identity;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Generous: it only bounds how long a broken build hangs.
const WAIT: Duration = Duration::from_secs(40);

/// A coordinator, a host, and two pools of one node, each with a job whose first task runs for ever.
struct World {
    coordinator: Coordinator,
    host: FakeHost,
    faults: Faults,
    account: AccountId,
    _folder: tempfile::TempDir,
}

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

impl World {
    async fn start() -> World {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::ephemeral();
        let faults = Faults::default();
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let coordinator = Coordinator::start(CoordinatorConfig {
            data_dir: folder.path().join("coordinator"),
            account_name: "lote".to_owned(),
            account_key: vec![7; 64],
            batch_bind: any_port,
            blob_bind: any_port,
            p2p_bind: any_port,
            admit: vec![testing::worker(&identity.peer().to_string())],
            joinable: None,
            joined: None,
            lease_ms: 60_000,
            storage: Default::default(),
            faults: faults.clone(),
        })
        .await
        .unwrap();
        let host = FakeHost::start(identity, coordinator.peer(), coordinator.p2p_addresses()).await;
        let account = coordinator.engine().read(|cluster| cluster.account_by_name("lote").unwrap().0);
        let world = World { coordinator, host, faults, account, _folder: folder };
        for pool in ["a", "b"] {
            world.propose(Action::PoolAdd { spec: Box::new(testing::pool_spec(pool, 1, 4)) }).await;
            world.propose(Action::JobAdd { spec: Box::new(testing::job_spec(pool, pool)) }).await;
            world.add_task(pool, "forever").await;
        }
        until("the endless tasks run", async || {
            ["a", "b"].iter().all(|job| world.task(job, "forever") == Some((TaskState::Running, 1)))
        })
        .await;
        world
    }

    fn engine(&self) -> &Engine {
        self.coordinator.engine()
    }

    async fn propose(&self, action: Action) {
        self.engine().propose(self.account, action).await.unwrap().unwrap();
    }

    async fn add_task(&self, job: &str, task: &str) {
        let mut added = testing::task_add(task);
        added.spec.command_line = task.to_owned();
        self.propose(Action::TasksAdd { job: JobId::new(job).unwrap(), tasks: vec![added] }).await;
    }

    fn pool(&self, pool: &str) -> PoolKey {
        let id = PoolId::new(pool).unwrap();
        self.engine().read(|cluster| cluster.pool_by_id(self.account, &id).unwrap().key)
    }

    /// State and attempt of a task.
    fn task(&self, job: &str, task: &str) -> Option<(TaskState, u32)> {
        self.engine().read(|cluster| {
            let job = cluster.job_by_id(self.account, &JobId::new(job).unwrap())?.key;
            let task = cluster.task_by_id(job, &TaskId::new(task).unwrap())?;
            Some((task.state(), task.attempt.0))
        })
    }

    async fn group(&self, pool: &str) -> GroupStatus {
        let key = self.pool(pool).0;
        let groups = self.coordinator.inspect().await;
        groups.into_iter().find(|group| group.pool == key).expect("the pool has a group")
    }

    /// Adds a task that ends at once, and waits until it has.
    async fn passes(&self, job: &str, task: &str) {
        self.add_task(job, task).await;
        self.ends(job, task).await;
    }

    async fn ends(&self, job: &str, task: &str) {
        let what = format!("task {task} of {job} ends");
        until(&what, async || self.task(job, task).is_some_and(|(state, _)| state == TaskState::Completed))
            .await;
    }

    /// What must hold after any fault in pool `a`.
    async fn only_a_noticed(self, b_before: &GroupStatus) {
        self.passes("a", "after").await;
        self.passes("b", "after").await;
        let b = self.group("b").await;
        assert_eq!((b.generation, b.restarts), (b_before.generation, 0), "the other pool noticed");
        for job in ["a", "b"] {
            assert_eq!(self.task(job, "forever"), Some((TaskState::Running, 1)), "a running task noticed");
        }
        assert_eq!(self.host.kills(), 0);
        assert_eq!(self.host.sessions(), 1, "the host noticed");
        self.coordinator.shutdown().await;
    }
}

#[test]
fn a_panic_in_a_handler() {
    run(async {
        let world = World::start().await;
        let (a, b) = (world.group("a").await, world.group("b").await);
        world.faults.inject(world.pool("a"), Place::Handler, Fault::Panic);
        world.passes("a", "trigger").await;
        until("the group restarts", async || world.group("a").await.generation > a.generation).await;
        let failure = world.group("a").await.last_failure.unwrap();
        assert!(failure.contains("handler") && failure.contains("injected"), "{failure}");
        assert_eq!(world.faults.struck(), 1);
        world.only_a_noticed(&b).await;
    });
}

#[test]
fn a_panic_while_starting() {
    run(async {
        let world = World::start().await;
        let (a, b) = (world.group("a").await, world.group("b").await);
        // The first fault makes the group start again, the second strikes then.
        world.faults.inject(world.pool("a"), Place::Started, Fault::Panic);
        world.faults.inject(world.pool("a"), Place::Handler, Fault::Panic);
        world.passes("a", "trigger").await;
        until("the group restarts twice", async || world.group("a").await.generation > a.generation + 1)
            .await;
        assert_eq!(world.faults.struck(), 2);
        world.only_a_noticed(&b).await;
    });
}

#[test]
fn a_panic_in_a_timer() {
    run(async {
        let world = World::start().await;
        let (a, b) = (world.group("a").await, world.group("b").await);
        world.faults.inject(world.pool("a"), Place::Timer, Fault::Panic);
        // More nodes than the host can carry: the timer of the resize fires.
        world
            .propose(Action::PoolResize {
                pool: PoolId::new("a").unwrap(),
                condition: Condition::default(),
                dedicated: Some(1_000),
                low_priority: None,
                timeout: Span::from_ms(500),
                option: DeallocationOption::Requeue,
            })
            .await;
        until("the group restarts", async || world.group("a").await.generation > a.generation).await;
        let failure = world.group("a").await.last_failure.unwrap();
        assert!(failure.contains("timer"), "{failure}");
        world.only_a_noticed(&b).await;
    });
}

#[test]
fn a_busy_loop() {
    run(async {
        let world = World::start().await;
        let (a, b) = (world.group("a").await, world.group("b").await);
        world.faults.inject(world.pool("a"), Place::Handler, Fault::BusyLoop(Duration::from_secs(9)));
        world.add_task("a", "stuck").await;
        until("the loop runs", async || world.faults.struck() == 1).await;
        // The other pool goes on while the loop holds its thread ...
        world.passes("b", "meanwhile").await;
        assert_eq!(world.group("a").await.generation, a.generation);
        // ... and the missed progress check brings the pool back before the loop ends.
        until("the group restarts", async || world.group("a").await.generation > a.generation).await;
        world.ends("a", "stuck").await;
        let failure = world.group("a").await.last_failure.unwrap();
        assert!(failure.contains("no progress"), "{failure}");
        world.only_a_noticed(&b).await;
    });
}
