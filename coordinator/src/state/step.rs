//! One apply in progress: its time and account, what it writes, how much it may still touch, and what must be looked
//! at again before it ends.

use super::cluster::{Batch, Event};
use lote_shared::model::{AccountId, ExitJobAction, JobKey, NodeKey, PoolKey, ScheduleKey, Timestamp};
use lote_shared::protocol::codec;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Version of the stored rows; records grow at the end of their enums only, members come with a new version.
pub const ROW_VERSION: u8 = 1;
/// Records one apply may touch (`ARCHITECTURE.md`, replicated state); longer work goes on as a cursor.
pub const RECORDS_MAX: usize = 1_000;

pub(super) struct Step<'a> {
    pub now: Timestamp,
    pub index: u64,
    pub account: AccountId,
    pub batch: &'a mut Batch,
    /// Records this apply may still touch.
    pub budget: usize,
    /// Jobs that end or stop because of how a task of theirs ended.
    pub exits: BTreeMap<JobKey, ExitJobAction>,
    /// Jobs whose manager ended in a way that may end them.
    pub managers: BTreeSet<JobKey>,
    /// Jobs in which something was satisfied that tasks wait for.
    pub deliveries: BTreeSet<JobKey>,
    pub schedules: BTreeSet<ScheduleKey>,
    /// Records whose rules are to be looked at again before the apply ends.
    pub jobs: BTreeSet<JobKey>,
    pub nodes: BTreeSet<NodeKey>,
    pub pools: BTreeSet<PoolKey>,
    /// Node records to be written once at the end, however often they changed.
    pub node_rows: BTreeSet<NodeKey>,
    /// Pools that hear `Dispatch` once at the end.
    pub dispatch: BTreeSet<PoolKey>,
    /// Nodes whose load fell.
    pub freed: BTreeMap<NodeKey, PoolKey>,
}

impl<'a> Step<'a> {
    pub fn new(now: Timestamp, index: u64, account: AccountId, batch: &'a mut Batch) -> Step<'a> {
        Step {
            now,
            index,
            account,
            batch,
            budget: RECORDS_MAX,
            exits: BTreeMap::new(),
            managers: BTreeSet::new(),
            deliveries: BTreeSet::new(),
            schedules: BTreeSet::new(),
            jobs: BTreeSet::new(),
            nodes: BTreeSet::new(),
            pools: BTreeSet::new(),
            node_rows: BTreeSet::new(),
            dispatch: BTreeSet::new(),
            freed: BTreeMap::new(),
        }
    }

    pub fn put<T: Serialize>(&mut self, key: Vec<u8>, value: &T) {
        match codec::encode(ROW_VERSION, value) {
            Ok(bytes) => self.batch.writes.push((key, Some(bytes))),
            // Commands are bounded to a fraction of the codec's limit, so records are too.
            Err(error) => debug_assert!(false, "a record did not encode: {error}"),
        }
    }

    pub fn delete(&mut self, key: Vec<u8>) {
        self.batch.writes.push((key, None));
    }

    pub fn event(&mut self, event: Event) {
        self.batch.events.push(event);
    }

    /// Takes one record from the budget; false if none is left.
    pub fn spend(&mut self) -> bool {
        let left = self.budget > 0;
        self.budget = self.budget.saturating_sub(1);
        left
    }
}
