//! What committed commands are applied to.

use super::types::MemberId;
use crate::engine::Engine;
use crate::state::{Batch, Cluster, ClusterVersion, Command, LoadError, Reply, Stamp, keys};
use crate::store::{self, Store, SwitchStore, Write};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A state that is brought forward by commands and kept in a store. The coordinator's is [`EngineMachine`]; tests
/// and the simulator bring smaller ones.
pub trait Machine: Send + Sync + 'static {
    /// Applies one entry's commands and writes their rows, together with those that `position` adds, as one batch.
    /// Answers each command, in order. Called by one thread only.
    fn apply(
        &self,
        stamp: Stamp,
        commands: &[Command],
        position: &mut dyn FnMut(&Batch) -> Vec<Write>,
    ) -> Result<Vec<Reply>, store::Error>;

    /// Told who votes, as of the entry that was applied last: after each change, after a load, and at the start. Two
    /// sets while that changes.
    fn set_voters(&self, _voters: &[BTreeSet<MemberId>]) {}

    /// The store of the state.
    fn store(&self) -> Arc<dyn Store>;

    /// Which rules hold, as far as it was brought: what replication itself writes that an older build does not know has to
    /// wait for a version too.
    fn version(&self) -> ClusterVersion {
        ClusterVersion::V1
    }

    /// Forgets everything and takes its state from another store, which becomes its own. On an error nothing has
    /// changed.
    fn load(&self, store: Arc<dyn Store>) -> Result<(), LoadError>;
}

/// The engine's state; its store can be exchanged.
#[derive(Debug)]
pub struct EngineMachine {
    engine: Engine,
    /// The store that the engine was made with.
    store: Arc<SwitchStore>,
}

impl EngineMachine {
    /// `engine` must hold `store`.
    pub fn new(engine: &Engine, store: Arc<SwitchStore>) -> EngineMachine {
        EngineMachine { engine: engine.for_driver(), store }
    }
}

impl Machine for EngineMachine {
    fn apply(
        &self,
        stamp: Stamp,
        commands: &[Command],
        position: &mut dyn FnMut(&Batch) -> Vec<Write>,
    ) -> Result<Vec<Reply>, store::Error> {
        self.engine.apply(stamp, commands, position)
    }

    fn set_voters(&self, voters: &[BTreeSet<MemberId>]) {
        self.engine.set_voters(voters.to_vec());
    }

    fn store(&self) -> Arc<dyn Store> {
        self.store.current()
    }

    fn version(&self) -> ClusterVersion {
        self.engine.version()
    }

    fn load(&self, store: Arc<dyn Store>) -> Result<(), LoadError> {
        let cluster = load_cluster(&*store)?;
        self.store.set(store);
        self.engine.replace(cluster);
        Ok(())
    }
}

/// Rebuilds the memory of the state from a store's hot rows.
pub(super) fn load_cluster(store: &dyn Store) -> Result<Cluster, LoadError> {
    let mut failure = None;
    let hot = store::rows(store)
        .map_while(|row| match row {
            Err(error) => {
                failure = Some(LoadError::Inconsistent(error.to_string()));
                None
            }
            Ok((key, value)) => match keys::split(&key) {
                Some((_, table, _)) => Some(table.is_hot().then_some((key, value))),
                None => {
                    failure = Some(LoadError::Inconsistent(format!("a row has the unknown key {key:02x?}")));
                    None
                }
            },
        })
        .flatten();
    let cluster = Cluster::load(hot);
    match failure {
        Some(failure) => Err(failure),
        None => cluster,
    }
}
