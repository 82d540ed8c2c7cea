//! What the node's machine is told and what it wants: its clocks, its work, its notes and its effects.
//!
//! Notes are what survives a restart of the worker (`node::memory` writes them); the rest lives from step to step.

#[cfg(doc)]
use super::NodeMachine;
use crate::node::retention::{Kept, Place};
use lote_shared::model::{AttemptRef, StartTaskInfo, Timestamp};
use lote_shared::protocol::host::{HostMessage, JobPart, KillReason, TaskLaunch};
use std::sync::Arc;

/// The two clocks of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Boot clock, for durations.
    pub ms: u64,
    /// Cluster time, for reports.
    pub time: Timestamp,
}

/// An attempt on its way: the launch and its job's shared part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    pub job: Arc<JobPart>,
    pub launch: TaskLaunch,
}

impl Work {
    pub(super) fn place(&self) -> Place {
        Place { job_id: self.job.job_id.clone(), task_id: self.launch.spec.id.as_str().to_owned() }
    }
}

/// What `memory` is to keep over a restart of the worker.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Note {
    /// How the start task's last run ended, and its number.
    StartTask {
        run: u32,
        info: StartTaskInfo,
    },
    Kept(Place, Kept),
    Removed(Place),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make the node's directories; answered by [`NodeMachine::on_directories`].
    MakeDirectories,
    /// Run the start task; answered by [`NodeMachine::on_start_task_ended`].
    RunStartTask {
        run: u32,
    },
    /// End the start task's run, or what it left running.
    EndStartTask,
    Start(Box<Work>),
    Kill {
        attempt: AttemptRef,
        reason: KillReason,
    },
    WallClock {
        attempt: AttemptRef,
        wall_clock_ms: Option<u64>,
    },
    HostStopping {
        attempt: AttemptRef,
    },
    Tell(HostMessage),
    /// Remove these task directories.
    RemoveDirectories(Vec<Place>),
    Remember(Vec<Note>),
    /// The leader needs no further word of these attempts.
    Forget(Vec<AttemptRef>),
    /// Remove the node's root; answered by [`NodeMachine::on_wiped`].
    Wipe,
    /// The last effect: the node is no more.
    Gone,
}
