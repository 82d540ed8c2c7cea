//! Pools: add, patch, resize, stop, delete, and when a resize has ended (`pools-and-nodes.md` §4–§6).

use super::cluster::{Cluster, Event, LoadError};
use super::command::{Condition, PoolPatch};
use super::cursors::Work;
use super::index::Pool;
use super::keys;
use super::records::PoolRecord;
use super::reply::{Outcome, Refusal, RefusalCode, Reply, Version};
use super::step::Step;
use lote_shared::model::{
    AccountId, AllocationState, DeallocationOption, PackageReference, PoolExtra, PoolId, PoolKey, PoolSpec,
    PoolState, ResizeError, Span,
};

/// Pools of one account, those being deleted included.
pub const POOLS_MAX: usize = 500;

impl Cluster {
    pub(super) fn add_pool(&mut self, step: &mut Step, spec: &PoolSpec, extras: &[PoolExtra]) -> Reply {
        self.insert_pool(step, step.account, spec, extras)
    }

    /// Makes a pool of an account.
    pub(super) fn insert_pool(
        &mut self,
        step: &mut Step,
        owner: AccountId,
        spec: &PoolSpec,
        extras: &[PoolExtra],
    ) -> Reply {
        self.check_packages(owner, PoolExtra::packages(extras))?;
        let account = self.account_mut(owner)?;
        if let Some(existing) = account.pools.get(&spec.id).copied() {
            let deleting =
                self.pools.get(&existing).is_some_and(|pool| pool.record.state == PoolState::Deleting);
            let code = if deleting { RefusalCode::PoolBeingDeleted } else { RefusalCode::PoolExists };
            return Err(code.into());
        }
        if account.pools.len() >= POOLS_MAX {
            return Err(RefusalCode::PoolQuotaReached.into());
        }
        self.meta.last_pool = self.meta.last_pool.next();
        let version = self.next_version(step);
        let steady = spec.target_dedicated == 0 && spec.target_low_priority == 0;
        let record = PoolRecord {
            key: self.meta.last_pool,
            account: owner,
            id: spec.id.clone(),
            version,
            created: step.now,
            state: PoolState::Active,
            state_changed: step.now,
            allocation: if steady { AllocationState::Steady } else { AllocationState::Resizing },
            allocation_changed: step.now,
            vm_size: spec.vm_size.clone(),
            target_dedicated: spec.target_dedicated,
            target_low_priority: spec.target_low_priority,
            resize_timeout: spec.resize_timeout,
            deallocation: DeallocationOption::Requeue,
            resize_errors: Vec::new(),
            slots_per_node: spec.task_slots_per_node.max(1),
            fill_type: spec.fill_type,
            job_order: spec.job_order,
            inter_node_communication: spec.inter_node_communication,
            image_servable: spec.image_servable,
            next_node_number: 1,
        };
        let key = record.key;
        step.put(keys::pool(owner, key), &record);
        step.put(keys::pool_cold(owner, key), &spec.cold);
        if !extras.is_empty() {
            step.put(keys::pool_extras(owner, key), &extras);
        }
        // The account was found above.
        let _ = self.enter_pool(Pool::new(record, spec.cold.clone(), extras.to_vec()));
        step.event(Event::PoolAdded(key));
        step.dispatch.insert(key);
        Ok(Outcome::Record(version))
    }

    /// Enters a pool into the indexes of its account.
    pub(super) fn enter_pool(&mut self, pool: Pool) -> Result<(), LoadError> {
        let record = &pool.record;
        let account = self.accounts.get_mut(&record.account);
        let account =
            account.ok_or_else(|| LoadError::Inconsistent(format!("pool {} has no account", record.key)))?;
        account.pools.insert(record.id.clone(), record.key);
        account.pools_in_order.insert(record.key);
        self.pools.insert(record.key, pool);
        Ok(())
    }

    /// The pool of that name in the step's account, if it is not being deleted and the condition holds.
    fn pool_to_change(
        &mut self,
        step: &Step,
        id: &PoolId,
        condition: &Condition,
    ) -> Result<&mut Pool, Refusal> {
        let missing = || Refusal::new(RefusalCode::PoolNotFound);
        let key = self.account_mut(step.account)?.pools.get(id).copied().ok_or_else(missing)?;
        let pool = self.pools.get_mut(&key).ok_or_else(missing)?;
        condition.check(pool.record.version)?;
        if pool.record.state == PoolState::Deleting {
            return Err(RefusalCode::PoolBeingDeleted.into());
        }
        Ok(pool)
    }

    pub(super) fn patch_pool(
        &mut self,
        step: &mut Step,
        id: &PoolId,
        condition: &Condition,
        patch: &PoolPatch,
    ) -> Reply {
        let version = self.peek_version(step);
        let pool = self.pool_to_change(step, id, condition)?;
        let empty = pool.nodes.is_empty() && pool.record.allocation == AllocationState::Steady;
        let needs_empty = patch.display_name.is_some()
            || patch.vm_size.is_some()
            || patch.task_slots_per_node.is_some()
            || patch.fill_type.is_some()
            || patch.job_order.is_some()
            || patch.inter_node_communication.is_some()
            || patch.echo.is_some();
        if needs_empty && !empty {
            return Err(Refusal::new(RefusalCode::OperationNotValidOnPool)
                .because("only a pool without nodes can be changed that way"));
        }
        let (record, cold) = (&mut pool.record, &mut pool.cold);
        if let Some(start_task) = &patch.start_task {
            cold.start_task.clone_from(start_task);
        }
        if let Some(metadata) = &patch.metadata {
            cold.metadata.clone_from(metadata);
        }
        if let Some(name) = &patch.display_name {
            cold.display_name = Some(name.clone());
        }
        if let Some(echo) = &patch.echo {
            cold.echo = merge_echo(&cold.echo, echo);
        }
        if let Some(size) = &patch.vm_size {
            record.vm_size.clone_from(size);
        }
        record.slots_per_node = patch.task_slots_per_node.unwrap_or(record.slots_per_node).max(1);
        record.fill_type = patch.fill_type.unwrap_or(record.fill_type);
        record.job_order = patch.job_order.unwrap_or(record.job_order);
        record.inter_node_communication =
            patch.inter_node_communication.unwrap_or(record.inter_node_communication);
        record.version = version;
        let key = record.key;
        step.put(keys::pool(record.account, key), record);
        step.put(keys::pool_cold(record.account, key), cold);
        step.event(Event::PoolChanged(key));
        self.meta.last_etag = version.etag;
        Ok(Outcome::Record(version))
    }

    /// A patch that also says which packages nodes to come are to have.
    pub(super) fn patch_pool_with(
        &mut self,
        step: &mut Step,
        id: &PoolId,
        condition: &Condition,
        patch: &PoolPatch,
        packages: &[PackageReference],
    ) -> Reply {
        self.check_packages(step.account, packages)?;
        let reply = self.patch_pool(step, id, condition, patch)?;
        let Some(key) = self.pool_by_id(step.account, id).map(|pool| pool.key) else { return Ok(reply) };
        let Some(pool) = self.pools.get_mut(&key) else { return Ok(reply) };
        pool.extras = vec![PoolExtra::Packages(packages.to_vec())];
        step.put(keys::pool_extras(pool.record.account, key), &pool.extras);
        Ok(reply)
    }

    /// What a pool has beyond its spec.
    pub fn pool_extras(&self, key: PoolKey) -> &[PoolExtra] {
        self.pools.get(&key).map(|pool| pool.extras.as_slice()).unwrap_or_default()
    }

    pub(super) fn resize_pool(
        &mut self,
        step: &mut Step,
        id: &PoolId,
        condition: &Condition,
        (dedicated, low_priority): (Option<u32>, Option<u32>),
        timeout: Span,
        option: DeallocationOption,
    ) -> Reply {
        let version = self.peek_version(step);
        let record = &mut self.pool_to_change(step, id, condition)?.record;
        if record.allocation != AllocationState::Steady {
            return Err(RefusalCode::PoolBeingResized.into());
        }
        record.target_dedicated = dedicated.unwrap_or(record.target_dedicated);
        record.target_low_priority = low_priority.unwrap_or(record.target_low_priority);
        record.resize_timeout = timeout;
        record.deallocation = option;
        record.resize_errors.clear();
        record.allocation = AllocationState::Resizing;
        record.allocation_changed = step.now;
        record.version = version;
        self.meta.last_etag = version.etag;
        let key = self.store_pool(step, id);
        step.pools.extend(key);
        Ok(Outcome::Record(version))
    }

    pub(super) fn stop_resize(&mut self, step: &mut Step, id: &PoolId, condition: &Condition) -> Reply {
        let version = self.peek_version(step);
        let record = &mut self.pool_to_change(step, id, condition)?.record;
        match record.allocation {
            AllocationState::Steady => Err(RefusalCode::OperationInvalidForCurrentState.into()),
            AllocationState::Stopping => Ok(Outcome::Record(record.version)),
            AllocationState::Resizing => {
                record.allocation = AllocationState::Stopping;
                record.allocation_changed = step.now;
                record.version = version;
                let key = record.key;
                self.meta.last_etag = version.etag;
                self.store_pool(step, id);
                self.start_pool_cursor(step, key, Work::PoolKeepNodes);
                Ok(Outcome::Record(version))
            }
        }
    }

    pub(super) fn delete_pool(&mut self, step: &mut Step, id: &PoolId, condition: &Condition) -> Reply {
        let key = self.pool_to_change(step, id, condition)?.record.key;
        Ok(Outcome::Record(self.empty_pool(step, key)))
    }

    /// Deletes a pool that need not be there any more.
    pub(super) fn begin_pool_delete(&mut self, step: &mut Step, account: AccountId, id: &PoolId) {
        let pool = self.pool_by_id(account, id).filter(|pool| pool.state == PoolState::Active);
        if let Some(key) = pool.map(|pool| pool.key) {
            self.empty_pool(step, key);
        }
    }

    fn empty_pool(&mut self, step: &mut Step, key: PoolKey) -> Version {
        let version = self.peek_version(step);
        let Some(pool) = self.pools.get_mut(&key) else { return version };
        let record = &mut pool.record;
        record.state = PoolState::Deleting;
        record.state_changed = step.now;
        record.target_dedicated = 0;
        record.target_low_priority = 0;
        record.deallocation = DeallocationOption::Requeue;
        record.resize_errors.clear();
        record.allocation = AllocationState::Resizing;
        record.allocation_changed = step.now;
        record.version = version;
        step.put(keys::pool(record.account, key), record);
        step.event(Event::PoolChanged(key));
        self.meta.last_etag = version.etag;
        self.start_pool_cursor(step, key, Work::PoolDelete);
        version
    }

    /// The resize in progress ended, says the allocator. Refused quietly while nodes are still leaving.
    pub(super) fn settled_pool(&mut self, step: &mut Step, key: PoolKey, errors: &[ResizeError]) -> Reply {
        let pool = self.pools.get(&key).ok_or_else(|| Refusal::new(RefusalCode::Fenced))?;
        let settles = pool.record.state == PoolState::Active
            && pool.record.allocation != AllocationState::Steady
            && pool.leaving == [0, 0];
        if !settles {
            return Err(RefusalCode::Fenced.into());
        }
        self.make_steady(step, key, errors.to_vec());
        Ok(Outcome::Done)
    }

    fn make_steady(&mut self, step: &mut Step, key: PoolKey, errors: Vec<ResizeError>) {
        let Some(pool) = self.pools.get_mut(&key) else { return };
        pool.record.allocation = AllocationState::Steady;
        pool.record.allocation_changed = step.now;
        pool.record.resize_errors = errors;
        step.put(keys::pool(pool.record.account, key), &pool.record);
        step.event(Event::PoolChanged(key));
    }

    /// A resize that reached its target is over; a deleted pool without nodes is gone.
    pub(super) fn settle_pool(&mut self, step: &mut Step, key: PoolKey) {
        let Some(pool) = self.pools.get(&key) else { return };
        if pool.record.state == PoolState::Deleting {
            if pool.nodes.is_empty() {
                self.remove_pool(step, key);
            }
            return;
        }
        let reached = |dedicated| pool.current(dedicated) == pool.target(dedicated);
        if pool.record.allocation == AllocationState::Resizing
            && pool.leaving == [0, 0]
            && reached(true)
            && reached(false)
        {
            self.make_steady(step, key, Vec::new());
        }
    }

    fn remove_pool(&mut self, step: &mut Step, key: PoolKey) {
        self.drop_cursor(step, super::command::CursorKey::Pool(key));
        let Some(pool) = self.pools.remove(&key) else { return };
        let record = pool.record;
        if let Some(account) = self.accounts.get_mut(&record.account) {
            account.pools.remove(&record.id);
            account.pools_in_order.remove(&key);
        }
        step.delete(keys::pool(record.account, key));
        step.delete(keys::pool_cold(record.account, key));
        if !pool.extras.is_empty() {
            step.delete(keys::pool_extras(record.account, key));
        }
        step.dispatch.remove(&key);
        step.event(Event::PoolRemoved(key));
    }

    fn store_pool(&mut self, step: &mut Step, id: &PoolId) -> Option<PoolKey> {
        let key = *self.accounts.get(&step.account)?.pools.get(id)?;
        let record = &self.pools.get(&key)?.record;
        step.put(keys::pool(record.account, key), record);
        step.event(Event::PoolChanged(key));
        Some(key)
    }

    /// The version a change would get; taken by storing its etag in `meta.last_etag`, so that refusals draw none.
    pub(super) fn peek_version(&self, step: &Step) -> super::reply::Version {
        super::reply::Version { etag: self.meta.last_etag + 1, modified: step.now }
    }
}

/// Merges the members of one JSON object into another; `null` removes. What is not an object changes nothing.
pub(super) fn merge_echo(old: &str, change: &str) -> String {
    use serde_json::{Map, Value};
    let Ok(Value::Object(change)) = serde_json::from_str(change) else { return old.to_owned() };
    let mut merged: Map<String, Value> = match serde_json::from_str(old) {
        Ok(Value::Object(old)) => old,
        _ => Map::new(),
    };
    for (name, value) in change {
        if value.is_null() {
            merged.remove(&name);
        } else {
            merged.insert(name, value);
        }
    }
    if merged.is_empty() { String::new() } else { Value::Object(merged).to_string() }
}
