//! The messages of the session between a host and the leader (`ARCHITECTURE.md`, hosts and leases).
//!
//! Everything a host must do is either a *desired state* (grants) or an *attempt* fenced by its number; so after
//! a reconnect both sides compare inventories and nothing depends on a message that was lost. Levels rather than
//! deltas where that is possible: an [`HostMessage::Ask`] says how much a node wants to hold in all.

use super::members::Member;
use super::session::Resume;
use crate::model::{
    AccountId, Attempt, AttemptOutcome, AttemptRef, BootId, EnvironmentSetting, HostCapacity, HostKey,
    NodeError, NodeKey, StartTask, StartTaskInfo, TaskKey, TaskSpec, Timestamp,
};
use serde::{Deserialize, Serialize};

/// The first thing a coordinator says on a session stream, after the host's offer to resume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Greeting {
    /// This coordinator leads; the session goes on, or begins, where this says.
    Leads(Resume),
    /// It does not, and the stream ends here.
    Elsewhere(Directions),
}

/// The way to the leader, from a coordinator that is not it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directions {
    /// The newest term this coordinator knows of.
    pub term: u64,
    /// Peer id of who leads in it; `None` while nobody is known to.
    pub leader: Option<String>,
    /// Every coordinator, with addresses, so that a host which knows only this one can go on.
    pub coordinators: Vec<Member>,
}

/// The leader's answer to [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Welcome(Box<Welcome>),
    /// Not this host, and why, for people.
    Refused(String),
}

/// What a host says once it found the leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The host's display name (its machine name), for people.
    pub name: String,
    /// Drawn when the host's keeper started with nothing running.
    pub boot: BootId,
    pub capacity: HostCapacity,
    /// Version of the `lote` binary, for people.
    pub software: String,
    /// Address at which tasks of this host can be reached, as shown in `ipAddress`.
    pub address: String,
    /// Every node the host still has.
    pub nodes: Vec<NodeKey>,
    /// Every attempt the host holds: queued, running, or ended and not yet acknowledged.
    pub attempts: Vec<(NodeKey, AttemptRef)>,
    /// Stands for the machine ([`crate::machine::hash`]), so that a copied identity is noticed.
    pub machine: String,
}

/// What a host that said [`Hello`] is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    pub host: HostKey,
    /// Length of a lease in milliseconds.
    pub lease_ms: u64,
    /// Cluster time when this was sent.
    pub now: Timestamp,
    /// The nodes this host is to have; the host wipes every other.
    pub grants: Vec<NodeGrant>,
    /// Attempts of the inventory that the state still gives to this host; the host ends every other.
    pub keep: Vec<AttemptRef>,
    /// URL prefixes of the cluster's own storage, one per account, without a final slash: what lies below goes over
    /// `protocol::data` to a coordinator.
    pub storage_endpoints: Vec<String>,
    /// Who belongs to the cluster, the sender among them. A host keeps the coordinators on its disk, and admits
    /// exactly these members.
    pub members: Vec<Member>,
}

/// A node that a host is to carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeGrant {
    pub node: NodeKey,
    /// `tvm-…`, the name users see and `AZ_BATCH_NODE_ID`.
    pub node_id: String,
    pub pool_id: String,
    pub account: AccountId,
    pub account_name: String,
    /// Batch endpoint without a final slash: `AZ_BATCH_ACCOUNT_URL`.
    pub account_url: String,
    pub dedicated: bool,
    pub slots: u16,
    pub cores: u32,
    pub start_task: Option<StartTask>,
}

/// Parts of a task chunk that several of its tasks share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobPart {
    pub job_id: String,
    /// The job's `commonEnvironmentSettings`.
    pub environment: Vec<EnvironmentSetting>,
}

/// One attempt to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskLaunch {
    pub attempt: AttemptRef,
    /// Index into [`TaskChunk::jobs`].
    pub job: u32,
    pub slots: u16,
    /// Milliseconds from start to forced end; `None` = no limit.
    pub wall_clock_ms: Option<u64>,
    /// Milliseconds the task directory is kept after completion; `None` = for ever.
    pub retention_ms: Option<u64>,
    /// Whether a non-zero exit code is final, so that output files are uploaded (`task-execution.md` §7).
    pub last_try: bool,
    pub spec: TaskSpec,
}

/// Many tasks for one node in one message, shared parts once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskChunk {
    pub node: NodeKey,
    pub jobs: Vec<JobPart>,
    pub tasks: Vec<TaskLaunch>,
}

/// Why an attempt is to be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KillReason {
    /// The record no longer gives this attempt to this node; whatever it reports is dropped.
    Fenced,
    /// Ended by the user, the job or a node action.
    Ended,
    /// Goes back to the queue.
    Requeued,
}

/// What the leader says to a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaderMessage {
    /// Run these.
    Chunk(TaskChunk),
    /// Carry this node.
    Grant(NodeGrant),
    /// Give this node up: end what runs there, wipe its root, then say [`HostMessage::NodeGone`].
    Revoke(NodeKey),
    /// Give back what has not started; the host answers with [`HostMessage::Recalled`].
    Recall { node: NodeKey, attempts: Vec<AttemptRef> },
    /// End this attempt's processes with grace, then report it.
    Kill { node: NodeKey, attempt: AttemptRef, reason: KillReason },
    /// The wall clock of a running attempt changed; milliseconds from its start.
    WallClock { node: NodeKey, attempt: AttemptRef, wall_clock_ms: Option<u64> },
    /// Remove the directories of these tasks (deleted, or their job is).
    Clean { node: NodeKey, directories: Vec<TaskDirectory> },
    /// Who belongs to the cluster, or where its storage is, has changed; takes the place of what the [`Welcome`] said.
    Members { members: Vec<Member>, storage_endpoints: Vec<String> },
}

/// Where a task's files lie below its node's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskDirectory {
    pub job_id: String,
    pub task_id: String,
    /// Only remove the directory while it still belongs to this task, not to a later one of the same name.
    pub task: TaskKey,
}

/// What happened to one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptReport {
    pub attempt: AttemptRef,
    /// Cluster time of the start of the attempt's work; clamped on apply to [assigned, now].
    pub started: Option<Timestamp>,
    /// `None` while it still runs.
    pub end: Option<AttemptEnd>,
}

/// The end of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptEnd {
    pub at: Timestamp,
    pub outcome: AttemptOutcome,
}

/// What a host says to the leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostMessage {
    /// Attempts that started or ended. A final report is kept by the host until it is acknowledged as durable.
    Report { node: NodeKey, attempts: Vec<AttemptReport> },
    /// How many slots' worth of tasks the node wants to hold in all, running and queued: its slots plus a
    /// prefetch that follows the observed task length. 0 until the node is ready.
    Ask { node: NodeKey, slots: u32 },
    /// These were recalled before they started.
    Recalled { node: NodeKey, attempts: Vec<AttemptRef> },
    /// The node service came up or its readiness changed.
    Node { node: NodeKey, phase: NodePhase, start_task: Option<StartTaskInfo>, errors: Vec<NodeError> },
    /// A revoked node is wiped.
    NodeGone { node: NodeKey },
}

/// How far a node is, as its host sees it; what the API shows is derived from this and from what the state knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodePhase {
    /// The node service is up and prepares the node.
    Starting,
    /// The start task runs and must succeed first.
    WaitingForStartTask,
    /// The start task failed for good.
    StartTaskFailed,
    /// Accepts tasks.
    Ready,
    /// Cannot work; see the errors.
    Unusable,
}

/// One numbered step of the conversation; see [`super::session`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame<M> {
    /// A message with its number (from 1 up in each direction, kept over reconnects of the same pair of boots).
    Message { number: u64, message: M },
    /// Everything up to this number is durable at the sender of this frame.
    Ack { up_to: u64 },
    /// Sent by the leader in answer to a `Ping`.
    Lease(Lease),
    /// Sent by the host every third of a lease; the leader answers with a [`Lease`]. From the leader it asks the host
    /// to ping at once, so that one that lives is told from one that was replaced.
    Ping { sent_ms: u64 },
}

/// A renewal of a host's lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The host's own clock reading in the `Ping` that is answered: the lease ends at `sent_ms + lease_ms` of
    /// that clock, so time on the wire never lengthens it.
    pub sent_ms: u64,
    pub lease_ms: u64,
    /// Cluster time when this was sent.
    pub now: Timestamp,
}

/// First attempt of a task.
pub const FIRST_ATTEMPT: Attempt = Attempt(1);
