//! A pool as apply sees it.

use super::super::reply::Version;
use lote_shared::model::{
    AccountId, AllocationState, DeallocationOption, FillType, JobOrder, PoolId, PoolKey, PoolState,
    ResizeError, Span, Timestamp,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRecord {
    pub key: PoolKey,
    pub account: AccountId,
    pub id: PoolId,
    pub version: Version,
    pub created: Timestamp,
    pub state: PoolState,
    pub state_changed: Timestamp,
    pub allocation: AllocationState,
    pub allocation_changed: Timestamp,
    pub vm_size: String,
    pub target_dedicated: u32,
    pub target_low_priority: u32,
    pub resize_timeout: Span,
    /// Of the resize in progress.
    pub deallocation: DeallocationOption,
    pub resize_errors: Vec<ResizeError>,
    pub slots_per_node: u16,
    pub fill_type: FillType,
    pub job_order: JobOrder,
    pub inter_node_communication: bool,
    pub image_servable: bool,
    /// Number in the next node's name.
    pub next_node_number: u32,
}
