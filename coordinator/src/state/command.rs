//! Commands: what is replicated.
//!
//! A command is small (never above [`SIZE_MAX`]), versioned, starts with its account, and is already checked for
//! shape by whoever proposes it; checks that depend on state happen on apply, so all replicas agree. Random
//! choices (names of nodes, idempotency keys) are drawn before proposing and travel inside.

use super::blobs::BlobAction;
use super::records::ClusterSettings;
use super::records::Endpoints;
use super::version::{ClusterVersion, Witness};
use lote_shared::model::{
    AccountId, AttemptRef, DeallocationOption, DisableTasks, HostCapacity, HostKey, JobConstraints, JobId,
    JobSpec, MetadataItem, NodeError, NodeKey, PoolId, PoolKey, PoolSpec, ResizeError, Span, StartTask,
    StartTaskInfo, TaskConstraints, TaskId, TaskSpec, TaskTies, Timestamp,
};
use lote_shared::model::{
    AllTasksAction, ApplicationId, AutoPool, BootId, JobExtra, JobKey, MemberRole, PackageReference,
    PackageVersion, PoolExtra, Producer, Recurrence, ScheduleId, ScheduleKey, ScheduleSpec, TaskExtra,
    TokenId,
};
use lote_shared::protocol::codec;
use lote_shared::protocol::host::{AttemptReport, NodePhase};
use serde::{Deserialize, Serialize};

/// Largest encoded command.
pub const SIZE_MAX: u64 = 256 * 1024;

/// Version of the encoding of [`Command`]; enums only grow at the end.
pub const VERSION: u8 = 1;

/// Drawn by the proposer; a command seen again with the same key answers as the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IdempotencyKey(pub u128);

/// One change that somebody wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    pub account: AccountId,
    pub key: IdempotencyKey,
    pub action: Action,
}

impl Command {
    pub fn encode(&self) -> Result<Vec<u8>, codec::Error> {
        let bytes = codec::encode(VERSION, self)?;
        let size = bytes.len() as u64;
        if size > SIZE_MAX {
            return Err(codec::Error::TooLarge { size, limit: SIZE_MAX });
        }
        Ok(bytes)
    }

    pub fn decode(bytes: &[u8]) -> Result<Command, codec::Error> {
        codec::decode(VERSION, bytes, SIZE_MAX)
    }
}

/// Conditional headers of a request, judged on apply against the record as it then is (WIRE.md §7).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// ETags without quotes; `*` matches anything that exists.
    pub if_match: Option<Vec<String>>,
    pub if_none_match: Option<Vec<String>>,
    pub if_modified_since: Option<Timestamp>,
    pub if_unmodified_since: Option<Timestamp>,
}

/// A member of a patch: absent keeps the value.
pub type Change<T> = Option<T>;

/// `PATCH /pools/{id}` and `updateproperties` (which sets all three of the always-allowed ones).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolPatch {
    /// `Some(None)` removes it.
    pub start_task: Change<Option<StartTask>>,
    pub metadata: Change<Vec<MetadataItem>>,
    /// The members below need a pool without nodes.
    pub display_name: Change<String>,
    pub vm_size: Change<String>,
    pub task_slots_per_node: Change<u16>,
    pub fill_type: Change<lote_shared::model::FillType>,
    pub job_order: Change<lote_shared::model::JobOrder>,
    pub inter_node_communication: Change<bool>,
    /// Echoed members to set: a JSON object as text, merged at top level into the stored one; `null` removes a
    /// member.
    pub echo: Change<String>,
}

/// `PATCH /jobs/{id}`; a PUT is a patch in which the edge has filled in every default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobPatch {
    pub priority: Change<i16>,
    pub max_parallel_tasks: Change<i32>,
    pub allow_task_preemption: Change<bool>,
    pub constraints: Change<JobConstraints>,
    pub pool: Change<PoolId>,
    pub on_all_tasks_complete: Change<AllTasksAction>,
    pub metadata: Change<Vec<MetadataItem>>,
    /// As [`PoolPatch::echo`].
    pub echo: Change<String>,
}

/// One task of an add.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskAdd {
    pub spec: TaskSpec,
    pub slots: u16,
    /// Absent members were filled in at the edge, except the retry count, which falls back to the job's.
    pub max_wall_clock: Span,
    pub retention: Span,
    pub max_retry_count: Option<i32>,
}

/// What a cursor works through, at most 1 000 records a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CursorKey {
    /// Disable, terminate or delete of a job.
    Job(JobKey),
    /// Deletion of a pool.
    Pool(PoolKey),
    /// A node that goes away: its attempts are requeued or ended.
    Node(NodeKey),
    /// Tasks of a job that are to hear that what they wait for is satisfied.
    Deliveries(JobKey),
    /// Deletion of a schedule: its jobs are deleted first.
    Schedule(ScheduleKey),
    /// Releases that a job owes to nodes.
    Releases(JobKey),
}

/// Every change there is. Grows only at the end; [`Action::since`] says which cluster version a new one needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Makes the account; a second time with the same name changes nothing.
    AccountAdd {
        name: String,
        keys: Vec<Vec<u8>>,
    },

    PoolAdd {
        spec: Box<PoolSpec>,
    },
    PoolPatch {
        pool: PoolId,
        condition: Condition,
        patch: Box<PoolPatch>,
    },
    PoolResize {
        pool: PoolId,
        condition: Condition,
        dedicated: Option<u32>,
        low_priority: Option<u32>,
        timeout: Span,
        option: DeallocationOption,
    },
    PoolStopResize {
        pool: PoolId,
        condition: Condition,
    },
    PoolDelete {
        pool: PoolId,
        condition: Condition,
    },
    /// From the allocator's shell: the resize in progress ended, with these errors.
    PoolSettled {
        pool: PoolKey,
        errors: Vec<ResizeError>,
    },

    /// A host joined or came back.
    HostJoined {
        peer: String,
        name: String,
        boot: BootId,
        capacity: HostCapacity,
        address: String,
        software: String,
    },
    /// The session broke, or half a lease passed in silence: its nodes are `unknown`.
    HostUnknown {
        host: HostKey,
    },
    /// The lease ran out, or it came back with another boot id: what ran there runs elsewhere.
    HostLost {
        host: HostKey,
    },

    /// A node of a pool on a host, decided by the allocator.
    NodeGrant {
        pool: PoolKey,
        host: HostKey,
        node_id: String,
        dedicated: bool,
    },
    /// The pool shrinks or goes: this node is to leave.
    NodeRevoke {
        node: NodeKey,
        option: DeallocationOption,
    },
    /// The host wiped it.
    NodeGone {
        node: NodeKey,
    },
    /// What a host says of a node.
    NodeReport {
        node: NodeKey,
        phase: NodePhase,
        start_task: Option<StartTaskInfo>,
        errors: Vec<NodeError>,
    },

    JobAdd {
        spec: Box<JobSpec>,
    },
    JobPatch {
        job: JobId,
        condition: Condition,
        patch: Box<JobPatch>,
    },
    JobDisable {
        job: JobId,
        condition: Condition,
        tasks: DisableTasks,
    },
    JobEnable {
        job: JobId,
        condition: Condition,
    },
    JobTerminate {
        job: JobId,
        condition: Condition,
        reason: Option<String>,
        force: bool,
    },
    JobDelete {
        job: JobId,
        condition: Condition,
        force: bool,
    },
    /// The job's wall clock ran out; refused quietly if it did not.
    JobExpire {
        job: JobKey,
    },
    /// The grace time of an empty job made with `terminatejob` is over; refused quietly if tasks came.
    JobCheckComplete {
        job: JobKey,
    },

    /// At most 100, in order; each stands or falls alone.
    TasksAdd {
        job: JobId,
        tasks: Vec<TaskAdd>,
    },
    /// Absent retry count falls back to the job's.
    TaskPut {
        job: JobId,
        task: TaskId,
        condition: Condition,
        max_wall_clock: Span,
        retention: Span,
        max_retry_count: Option<i32>,
    },
    TaskTerminate {
        job: JobId,
        task: TaskId,
        condition: Condition,
    },
    TaskReactivate {
        job: JobId,
        task: TaskId,
        condition: Condition,
    },
    TaskDelete {
        job: JobId,
        task: TaskId,
        condition: Condition,
    },

    /// The dispatcher's choice; unfit tasks are dropped singly, the rest is answered with attempt numbers.
    Assign {
        node: NodeKey,
        tasks: Vec<lote_shared::model::TaskKey>,
    },
    /// Attempts that were not started and come back to the queue, uncounted.
    Recalled {
        node: NodeKey,
        attempts: Vec<AttemptRef>,
    },
    /// What a node reports.
    Report {
        node: NodeKey,
        attempts: Vec<AttemptReport>,
    },
    /// Tasks whose back-off of a retry is over.
    RetryDue {
        tasks: Vec<lote_shared::model::TaskKey>,
    },

    /// The next slice of long work.
    Continue {
        cursor: CursorKey,
    },

    /// Containers, blobs and staged blocks.
    Blob(Box<BlobAction>),

    /// Names the cluster; a second time with the same id changes nothing, with another it is refused.
    ClusterInit {
        settings: Box<ClusterSettings>,
    },
    TokenAdd {
        token: TokenId,
        /// BLAKE3 of the secret.
        secret_hash: [u8; 32],
        role: MemberRole,
        expires: Timestamp,
        uses: u32,
        note: String,
    },
    TokenRevoke {
        token: TokenId,
    },
    /// Makes a peer a member, or renews what is known of one.
    MemberAdmit {
        /// `None`: the operator's own admission, as of the workers inside `lote up`.
        token: Option<TokenClaim>,
        admission: Box<Admission>,
    },
    /// At once, whatever runs there. A coordinator goes by [`Action::CoordinatorLeave`], and a worker that may live by
    /// [`Action::HostDrain`]; this is for the logs of earlier versions, and for workers that cannot come back.
    MemberRemove {
        peer: String,
    },
    /// As [`Action::HostJoined`], which is kept for the logs of earlier versions, but only for members: the peer must
    /// have been admitted as a worker, on this very machine.
    HostPresented {
        peer: String,
        name: String,
        boot: BootId,
        capacity: HostCapacity,
        address: String,
        software: String,
        machine: String,
    },
    /// From the only voter of a folder that was made, recovered or restored: the coordinators are this one alone, under
    /// the number that Raft has for it. Workers and tokens stay.
    CoordinatorFounded {
        admission: Box<Admission>,
        member: u64,
    },
    /// From now on the rules and commands of this version hold; `witnesses` are all coordinators, and what they support.
    VersionRaise {
        to: ClusterVersion,
        witnesses: Vec<Witness>,
    },
    /// The version stays as it is until it is released, so that builds of it can come back.
    VersionHold,
    VersionRelease,
    /// As [`Action::TasksAdd`], for tasks of which at least one is tied to others.
    TiedTasksAdd {
        job: JobId,
        tasks: Vec<(TaskAdd, TaskTies)>,
    },
    ScheduleAdd {
        spec: Box<ScheduleSpec>,
    },
    ScheduleChange {
        schedule: ScheduleId,
        condition: Condition,
        change: ScheduleChange,
    },
    /// The time has come to look at a schedule; refused quietly if it has not.
    ScheduleCheck {
        schedule: ScheduleKey,
    },
    /// Begins to take a coordinator out: the leader lets Raft forget it, then says [`Action::CoordinatorLeft`].
    CoordinatorLeave {
        peer: String,
    },
    /// Raft no longer knows it: its record goes, and everybody closes the door.
    CoordinatorLeft {
        peer: String,
    },
    /// As [`Action::MemberAdmit`], but the coordinator whose place the new one takes leaves as
    /// [`Action::CoordinatorLeave`] has it, where the older command cut it off at once.
    MemberReplace {
        token: Option<TokenClaim>,
        admission: Box<Admission>,
    },
    /// Takes a worker out once its host has given up what it runs; `forced`: at once, and its tasks wait for the end of
    /// its lease.
    HostDrain {
        peer: String,
        forced: bool,
    },
    /// A blob that an attempt wrote: `put` is a [`BlobAction::Put`] and applied only while that attempt's end would count.
    /// `peer` is the host that says so.
    Output {
        producer: Producer,
        peer: String,
        put: Box<BlobAction>,
    },
    /// As [`Action::JobAdd`], for a job that has more.
    JobAddWith {
        spec: Box<JobSpec>,
        extras: Vec<JobExtra>,
    },
    /// As [`Action::JobPatch`], for a job with an auto pool, which is told as it is to be.
    JobPatchWith {
        job: JobId,
        condition: Condition,
        patch: Box<JobPatch>,
        auto_pool: Box<AutoPool>,
    },
    /// As [`Action::ScheduleAdd`], for a schedule whose jobs have more.
    ScheduleAddWith {
        spec: Box<ScheduleSpec>,
        extras: Vec<JobExtra>,
    },
    /// As a [`ScheduleChange::Patch`] with a new job, which may have more.
    SchedulePatchWith {
        schedule: ScheduleId,
        condition: Condition,
        patch: Box<SchedulePatch>,
        extras: Vec<JobExtra>,
    },
    /// As [`Action::TiedTasksAdd`], for tasks of which at least one has more.
    TasksAddWith {
        job: JobId,
        tasks: Vec<(TaskAdd, TaskTies, Vec<TaskExtra>)>,
    },
    /// As [`Action::PoolAdd`], for a pool that has more.
    PoolAddWith {
        spec: Box<PoolSpec>,
        extras: Vec<PoolExtra>,
    },
    /// As [`Action::PoolPatch`], with the packages of nodes to come.
    PoolPatchWith {
        pool: PoolId,
        condition: Condition,
        patch: Box<PoolPatch>,
        packages: Vec<PackageReference>,
    },
    ApplicationChange {
        application: ApplicationId,
        change: PackageChange,
    },
    /// Of the build for tests; stays the last one.
    #[cfg(feature = "next-version")]
    Rehearse {
        software: String,
    },
}

/// What becomes of an application and its packages. Grows only at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PackageChange {
    /// The zip lies in this blob; makes the application if it is not there.
    Activate {
        version: PackageVersion,
        container: String,
        blob: String,
        is_default: bool,
    },
    Delete {
        version: PackageVersion,
    },
    Settings {
        display_name: Change<Option<String>>,
        allow_updates: Change<bool>,
        default_version: Change<Option<PackageVersion>>,
    },
    /// The application, which has no packages any more.
    Remove,
}

/// What becomes of a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScheduleChange {
    Patch(Box<SchedulePatch>),
    Disable,
    Enable,
    Terminate { force: bool },
    Delete,
}

/// `PATCH /jobschedules/{id}`; a PUT is a patch in which the edge has filled in every default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulePatch {
    pub recurrence: Change<Recurrence>,
    pub job: Change<JobSpec>,
    pub metadata: Change<Vec<MetadataItem>>,
}

/// What a caller knows of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenClaim {
    pub token: TokenId,
    /// BLAKE3 of the secret.
    pub secret_hash: [u8; 32],
}

/// Who is to become a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// libp2p peer id, as text.
    pub peer: String,
    pub role: MemberRole,
    /// For people.
    pub name: String,
    /// Multiaddresses at which it listens; empty for one that only dials.
    pub addresses: Vec<String>,
    /// Where a coordinator serves; `None` leaves what is known.
    pub endpoints: Option<Endpoints>,
    /// Hash that stands for the machine; empty = unknown, then any will do.
    pub machine: String,
    /// The coordinator whose place a new one takes: peer id, member number, or name.
    pub replaces: Option<String>,
}

/// Constraints of an add with the job's default filled in.
impl TaskAdd {
    pub fn constraints(&self, job: &JobConstraints) -> TaskConstraints {
        TaskConstraints {
            max_wall_clock: self.max_wall_clock,
            retention: self.retention,
            max_retry_count: self.max_retry_count.unwrap_or(job.max_task_retry_count),
        }
    }
}
