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
        let options = Options { inline: true, segment_bytes: 100_000, cache_bytes: 50, ..Options::default() };
        let log = Log::open(Arc::new(SimulatedDisk::new()), &options).unwrap();
        let snapshots = Snapshots::open(folder.path()).unwrap();
        let applier = Applier::open(Arc::new(Toy::new()), Box::new(MemoryHome), snapshots).unwrap();
        Ok((folder, LogStore::new(Arc::new(log)), StateMachine::inline(applier)))
    }
}

type OpenraftSuite = Suite<TypeConfig, LogStore, StateMachine<Toy>, Builder, tempfile::TempDir>;

/// Runs the named tests of the suite, each on a new storage, and tells which ones fail.
macro_rules! run_suite {
    ($($name:ident),* $(,)?) => {{
        let mut failed: Vec<&str> = Vec::new();
        $(
            let (folder, log, machine) = Builder.build().await.unwrap();
            let run = tokio::spawn(async move {
                let result = OpenraftSuite::$name(log, machine).await;
                drop(folder);
                result
            });
            if !matches!(run.await, Ok(Ok(()))) {
                failed.push(stringify!($name));
            }
        )*
        failed
    }};
}

/// All but one: `get_initial_state_membership_from_log_and_sm` appends entry 1 after the log was purged up to 2,
/// which Raft never does and our log refuses.
#[tokio::test]
async fn passes_the_suite_of_openraft() {
    let failed = run_suite!(
        last_membership_in_log_initial,
        last_membership_in_log,
        last_membership_in_log_multi_step,
        get_membership_initial,
        get_membership_from_log_and_empty_sm,
        get_membership_from_empty_log_and_sm,
        get_membership_from_log_le_sm_last_applied,
        get_membership_from_log_gt_sm_last_applied_1,
        get_membership_from_log_gt_sm_last_applied_2,
        get_initial_state_without_init,
        get_initial_state_with_state,
        get_initial_state_last_log_gt_sm,
        get_initial_state_last_log_lt_sm,
        get_initial_state_log_ids,
        get_initial_state_re_apply_committed,
        save_vote,
        get_log_entries,
        limited_get_log_entries,
        try_get_log_entry,
        initial_logs,
        get_log_state,
        get_log_id,
        last_id_in_log,
        last_applied_state,
        purge_logs_upto_0,
        purge_logs_upto_5,
        purge_logs_upto_20,
        delete_logs_since_11,
        delete_logs_since_0,
        append_to_log,
        snapshot_meta,
        apply_single,
        apply_multiple,
    );
    assert_eq!(failed, Vec::<&str>::new());
    OpenraftSuite::transfer_snapshot(&Builder).await.unwrap();
}
