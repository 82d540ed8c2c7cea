//! Bugs planted on purpose, to show that the checks find such bugs. A run without one is the real thing.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sabotage {
    /// The leader never says that a host is lost, so what ran there is not queued again.
    ForgetHostLoss,
    /// Whatever a host reports is taken for the latest attempt of the task.
    SkipFence,
    /// A report is acknowledged when it arrives, not when it is durable.
    AcknowledgeBeforeDurable,
    /// A returning host's inventory is compared once, and what is given to it meanwhile goes to its old session.
    ReconcileTooEarly,
    /// A host that says hello counts as silent until it is welcomed, so it may be taken for lost while it joins.
    LoseWhoJoins,
    /// The keeper lets processes run after the deadline.
    IgnoreDeadline,
    /// After a crash the log behind the last flush is not replayed.
    ForgetLog,
    /// The host does not say unacknowledged reports again.
    ForgetReports,
}

impl Sabotage {
    pub const ALL: [Sabotage; 8] = [
        Sabotage::ForgetHostLoss,
        Sabotage::SkipFence,
        Sabotage::AcknowledgeBeforeDurable,
        Sabotage::ReconcileTooEarly,
        Sabotage::LoseWhoJoins,
        Sabotage::IgnoreDeadline,
        Sabotage::ForgetLog,
        Sabotage::ForgetReports,
    ];
}
