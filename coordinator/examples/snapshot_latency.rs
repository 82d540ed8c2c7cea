//! How long applying an entry takes while a snapshot is built, beside the same entries without one, in the same run:
//! `cargo xtask bench snapshot`. The state is the coordinator's, on sled; there is no log and no network.
//!
//! Arguments: how many tasks the state holds (100 000; about two rows each), and how many tasks an entry adds (20).

use lote_coordinator::clock::monotonic;
use lote_coordinator::engine::Engine;
use lote_coordinator::replication::folder::Folder;
use lote_coordinator::replication::{
    Applier, EngineMachine, Machine as _, Payload, Snapshots, StateMachine, TypeConfig,
};
use lote_coordinator::state::testing::{ACCOUNT, job_id, job_spec, pool_spec, task_add};
use lote_coordinator::state::{Action, Cluster, Command, IdempotencyKey};
use lote_coordinator::store::{MemoryStore, SwitchStore, rows};
use lote_shared::model::Timestamp;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use openraft::{CommittedLeaderId, Entry, EntryPayload, LogId};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

const CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// Entries that are timed without a build, before it and after it.
const ENTRIES: u64 = 500;
/// Between two entries, so that slices find the thread idle now and then, as they do in a coordinator.
const PAUSE: Duration = Duration::from_millis(2);

/// Makes entries, one after another.
struct Source {
    index: u64,
    tasks: u64,
}

impl Source {
    fn entry(&mut self, actions: Vec<Action>) -> Result<Entry<TypeConfig>, Box<dyn Error>> {
        self.index += 1;
        let mut commands = Vec::new();
        for (n, action) in actions.into_iter().enumerate() {
            let key = IdempotencyKey(u128::from(self.index) << 32 | n as u128);
            commands.push(Command { account: ACCOUNT, key, action }.encode()?);
        }
        let now = Timestamp(1_700_000_000_000 + self.index);
        let payload = Payload::new(now, commands.iter().map(Vec::as_slice));
        let log_id = LogId::new(CommittedLeaderId::new(1, 1), self.index);
        Ok(Entry { log_id, payload: EntryPayload::Normal(payload) })
    }

    fn tasks(&mut self, count: u64) -> Result<Entry<TypeConfig>, Box<dyn Error>> {
        let add = (self.tasks..self.tasks + count).map(|n| task_add(&format!("t{n}"))).collect();
        self.tasks += count;
        self.entry(vec![Action::TasksAdd { job: job_id("job"), tasks: add }])
    }
}

type Applying = StateMachine<EngineMachine>;

async fn apply(machine: &mut Applying, entry: Entry<TypeConfig>) -> Result<Duration, Box<dyn Error>> {
    let before = monotonic();
    RaftStateMachine::<TypeConfig>::apply(machine, vec![entry]).await?;
    Ok(monotonic() - before)
}

fn tell(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |part: f64| {
        let place = ((times.len() as f64 * part) as usize).min(times.len().saturating_sub(1));
        times.get(place).map_or(0.0, |time| time.as_secs_f64() * 1_000.0)
    };
    println!(
        "{what:<28} {:>6} entries   p50 {:>8.3} ms   p99 {:>8.3} ms   max {:>8.3} ms",
        times.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

async fn measure(tasks: u64, each: u64) -> Result<(), Box<dyn Error>> {
    let home = tempfile::tempdir()?;
    let folder = Folder::open(home.path())?;
    let store = Arc::new(SwitchStore::new(Arc::new(MemoryStore::new())));
    let (engine, _queue) = Engine::new(Cluster::new(), store.clone());
    let machine = Arc::new(EngineMachine::new(&engine, store));
    let snapshots = folder.snapshots()?;
    let mut states = folder.states(CACHE_BYTES)?;
    states.open_state(None, &snapshots, |store| Ok(machine.load(store)?))?;
    let applier = Applier::open(machine.clone(), Box::new(states), snapshots)?;
    let (mut applying, thread) = StateMachine::on_thread(applier)?;

    let mut source = Source { index: 0, tasks: 0 };
    let founding = vec![
        Action::AccountAdd { name: "lote".to_owned(), keys: vec![b"key".to_vec()] },
        Action::PoolAdd { spec: Box::new(pool_spec("pool", 0, 1)) },
        Action::JobAdd { spec: Box::new(job_spec("job", "pool")) },
    ];
    let entry = source.entry(founding)?;
    apply(&mut applying, entry).await?;
    while source.tasks < tasks {
        let entry = source.tasks(100)?;
        apply(&mut applying, entry).await?;
    }
    println!("{} tasks in {} rows; an entry adds {each} tasks", tasks, rows(&*machine.store()).count());

    for (what, is_building) in
        [("without a snapshot", false), ("while one is built", true), ("without a snapshot", false)]
    {
        let mut builder = applying.clone();
        let build = async move { RaftSnapshotBuilder::<TypeConfig>::build_snapshot(&mut builder).await };
        let building = is_building.then(|| tokio::spawn(build));
        let (mut times, started) = (Vec::new(), monotonic());
        while building.as_ref().map_or((times.len() as u64) < ENTRIES, |building| !building.is_finished()) {
            let entry = source.tasks(each)?;
            times.push(apply(&mut applying, entry).await?);
            tokio::time::sleep(PAUSE).await;
        }
        let took = monotonic() - started;
        tell(what, times);
        if let Some(building) = building {
            building.await??;
            println!("{:<28} {:>8.0} ms", "  the build took", took.as_secs_f64() * 1_000.0);
        }
    }
    // What every entry that came meanwhile would wait for, were it built in one piece.
    let position = applying.view().applied();
    let store = machine.store();
    let before = monotonic();
    Snapshots::open(&home.path().join("aside"))?.build(&position, &*store)?;
    let took = monotonic() - before;
    println!("{:<28} {:>8.0} ms", "in one piece it takes", took.as_secs_f64() * 1_000.0);
    drop(applying);
    thread.join().map_err(|_| "the applying thread panicked")?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let tasks = arguments.next().transpose()?.unwrap_or(100_000);
    let each = arguments.next().transpose()?.unwrap_or(20);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(measure(tasks, each))
}
