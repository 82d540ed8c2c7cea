//! Pools (`spec/pools-and-nodes.md` §4–§6).

use super::duration::Span;
use super::ids::PoolId;
use super::node::StartTask;
use super::task::MetadataItem;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PoolState {
    Active,
    Deleting,
}

impl PoolState {
    pub fn as_str(self) -> &'static str {
        match self {
            PoolState::Active => "active",
            PoolState::Deleting => "deleting",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AllocationState {
    Steady,
    Resizing,
    Stopping,
}

impl AllocationState {
    pub fn as_str(self) -> &'static str {
        match self {
            AllocationState::Steady => "steady",
            AllocationState::Resizing => "resizing",
            AllocationState::Stopping => "stopping",
        }
    }
}

/// Where the next task of a pool goes: the emptiest node or the fullest that fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FillType {
    Spread,
    Pack,
}

/// Order among jobs of equal priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobOrder {
    None,
    CreationTime,
}

/// What happens to running tasks when a node leaves (spec §6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeallocationOption {
    Requeue,
    Terminate,
    TaskCompletion,
    RetainedData,
}

/// Why the last resize did not reach its target (spec §6.4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizeError {
    /// `AllocationTimedout`, `AllocationFailed`, `ResizeStopped`, …
    pub code: String,
    pub message: String,
    pub values: Vec<(String, String)>,
}

/// What a user asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSpec {
    pub id: PoolId,
    /// As sent; compared without case against the size catalogue.
    pub vm_size: String,
    pub target_dedicated: u32,
    pub target_low_priority: u32,
    pub resize_timeout: Span,
    pub task_slots_per_node: u16,
    pub fill_type: FillType,
    pub job_order: JobOrder,
    pub inter_node_communication: bool,
    /// Whether any Linux host can serve the image; an image no host can serve gets a resize error at once.
    pub image_servable: bool,
    pub cold: PoolCold,
}

/// The members of a pool that no decision of the state machine reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolCold {
    pub display_name: Option<String>,
    pub start_task: Option<StartTask>,
    pub metadata: Vec<MetadataItem>,
    /// Members that reads must echo and nothing uses (`virtualMachineConfiguration`, `networkConfiguration`, …):
    /// a JSON object as text, empty = none.
    pub echo: String,
}
