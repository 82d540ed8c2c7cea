//! A machine small enough to see through: it counts how often each name was added.

use crate::engine::{Engine, Request, Unavailable};
use crate::replication::{Config, Error, Machine, Member, Replica, Start, SystemTime};
use crate::state::version::NEWEST;
use crate::state::{
    Action, Batch, Cluster, ClusterVersion, Command, IdempotencyKey, LoadError, Outcome, Reply, Stamp, keys,
};
use crate::store::{self, MemoryStore, Store, SwitchStore, Write};
use lote_shared::model::AccountId;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::mpsc;

/// A name that makes apply panic.
pub const PANIC: &str = "panic";
const ACCOUNT: AccountId = AccountId(7);

#[derive(Debug)]
pub struct Toy {
    store: SwitchStore,
    counts: Mutex<BTreeMap<String, u64>>,
    /// The last time seen, to check that it never runs backwards.
    now: Mutex<u64>,
}

impl Toy {
    pub fn new() -> Toy {
        let store = SwitchStore::new(Arc::new(MemoryStore::new()));
        Toy { store, counts: Mutex::default(), now: Mutex::default() }
    }

    /// How often each name was added.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.lock().clone()
    }
}

impl Machine for Toy {
    fn apply(
        &self,
        stamp: Stamp,
        commands: &[Command],
        position: &mut dyn FnMut(&Batch) -> Vec<Write>,
    ) -> Result<Vec<Reply>, store::Error> {
        let mut now = self.now.lock();
        assert!(stamp.now.0 >= *now, "time ran backwards");
        *now = stamp.now.0;
        let mut batch = Batch::default();
        let mut counts = self.counts.lock();
        for command in commands {
            let Action::AccountAdd { name, .. } = &command.action else { continue };
            assert_ne!(name, PANIC, "told to panic");
            let count = counts.entry(name.clone()).or_default();
            *count += 1;
            let key = keys::key(ACCOUNT, keys::Table::Account, name.as_bytes());
            batch.writes.push((key, Some(count.to_be_bytes().to_vec())));
        }
        let more = position(&batch);
        batch.writes.extend(more);
        self.store.write(&batch.writes)?;
        Ok(commands.iter().map(|_| Ok(Outcome::Done)).collect())
    }

    fn store(&self) -> Arc<dyn Store> {
        self.store.current()
    }

    fn version(&self) -> ClusterVersion {
        NEWEST
    }

    fn load(&self, store: Arc<dyn Store>) -> Result<(), LoadError> {
        let mut counts = BTreeMap::new();
        for row in store::rows(&*store) {
            let (key, value) = row.map_err(|error| LoadError::Inconsistent(error.to_string()))?;
            if let Some((ACCOUNT, keys::Table::Account, name)) = keys::split(&key) {
                let count = u64::from_be_bytes(value.try_into().unwrap());
                counts.insert(String::from_utf8(name.to_vec()).unwrap(), count);
            }
        }
        self.store.set(store);
        *self.counts.lock() = counts;
        Ok(())
    }
}

pub fn command(name: &str) -> Command {
    let action = Action::AccountAdd { name: name.to_owned(), keys: vec![vec![1; 40]] };
    Command { account: AccountId(1), key: IdempotencyKey(0), action }
}

/// A running member with a toy, and the engine's door to it.
pub struct Running {
    pub engine: Engine,
    pub toy: Arc<Toy>,
    pub replica: Replica,
}

/// Small segments and frequent snapshots, so that short tests meet them.
pub fn config(folder: &Path) -> Config {
    Config { snapshot_entries: 40, keep_entries: 5, segment_bytes: 30_000, ..Config::new(folder) }
}

pub async fn start(config: Config) -> Result<Running, Error> {
    let (engine, queue): (Engine, mpsc::Receiver<Request>) =
        Engine::new(Cluster::new(), Arc::new(MemoryStore::new()));
    let toy = Arc::new(Toy::new());
    let start = Start::Found { me: Member::default() };
    let time = Arc::new(SystemTime::default());
    let replica = Replica::start(config, start, None, toy.clone(), queue, time).await?;
    Ok(Running { engine, toy, replica })
}

impl Running {
    pub async fn add(&self, name: &str) -> Result<Reply, Unavailable> {
        self.engine.propose_command(command(name)).await
    }

    pub async fn shutdown(self) -> BTreeMap<String, u64> {
        self.replica.shutdown().await;
        self.toy.counts()
    }
}
