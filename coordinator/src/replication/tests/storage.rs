//! openraft's own suite for storages, on our log and state machine.

use super::toy::Toy;
use crate::replication::applier::{Applier, MemoryHome};
use crate::replication::log::simulated::SimulatedDisk;
use crate::replication::log::{Log, Options};
use crate::replication::{LogStore, MemberId, Snapshots, StateMachine, TypeConfig};
use openraft::StorageError;
use openraft::testing::{StoreBuilder, Suite};
use std::sync::Arc;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine<Toy>, tempfile::TempDir> for Builder {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, LogStore, StateMachine<Toy>), StorageError<MemberId>> {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { inline: true, segment_bytes: 14_000, cache_bytes: 50, ..Options::default() };
        let log = Log::open(Arc::new(SimulatedDisk::new()), &options).unwrap();
        let snapshots = Snapshots::open(folder.path()).unwrap();
        let applier = Applier::open(Arc::new(Toy::new()), Box::new(MemoryHome), snapshots).unwrap();
        Ok((folder, LogStore::new(Arc::new(log)), StateMachine::inline(applier)))
    }
}

#[test]
fn passes_the_suite_of_openraft() {
    Suite::test_all(Builder).unwrap();
}
