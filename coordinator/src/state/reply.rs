//! What apply answers.

use lote_shared::model::{AttemptRef, HostKey, NodeKey, TaskId, Timestamp};
use serde::{Deserialize, Serialize};

/// The answer to one command. A refusal changed nothing.
pub type Reply = Result<Outcome, Refusal>;

/// Version of a record: changes with every change a client may compare. Shown as `0x…`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version {
    pub etag: u64,
    pub modified: Timestamp,
}

impl Version {
    /// The text of the ETag without quotes.
    pub fn etag_text(&self) -> String {
        format!("0x{:X}", self.etag)
    }
}

/// A change that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Nothing worth telling.
    Done,
    /// A record was made or changed.
    Record(Version),
    /// One entry per task of the request, in its order.
    TasksAdded(Vec<(TaskId, Result<Version, Refusal>)>),
    /// The attempts that now belong to the node.
    Assigned(Vec<AttemptRef>),
    HostJoined(HostKey),
    NodeGranted(NodeKey),
    /// Whether the cursor has more to do.
    Continued {
        more: bool,
    },
    /// Version and, for block lists, the composed length.
    Blob(Version),
    /// The number of the member, for a coordinator.
    MemberAdmitted {
        member: Option<u64>,
    },
}

/// Why nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code:?}: {detail}")]
pub struct Refusal {
    pub code: RefusalCode,
    /// More than the code says, in a sentence; may be empty.
    pub detail: String,
    /// Names and values for the error body.
    pub values: Vec<(String, String)>,
}

impl Refusal {
    pub fn new(code: RefusalCode) -> Refusal {
        Refusal { code, detail: String::new(), values: Vec::new() }
    }

    #[must_use]
    pub fn because(mut self, detail: impl Into<String>) -> Refusal {
        self.detail = detail.into();
        self
    }
}

impl From<MembershipCode> for RefusalCode {
    fn from(code: MembershipCode) -> RefusalCode {
        RefusalCode::Membership(code)
    }
}

impl From<RefusalCode> for Refusal {
    fn from(code: RefusalCode) -> Refusal {
        Refusal::new(code)
    }
}

/// Codes that depend on state, named exactly as on the wire (`error-codes.json`, blob WIRE.md). Grows only at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RefusalCode {
    AccountNotFound,
    PoolNotFound,
    PoolExists,
    PoolBeingDeleted,
    PoolBeingResized,
    OperationNotValidOnPool,
    OperationInvalidForCurrentState,
    NodeNotFound,
    OperationNotValidOnNode,
    JobNotFound,
    JobExists,
    JobBeingDeleted,
    JobBeingTerminated,
    JobCompleted,
    TaskNotFound,
    TaskExists,
    TaskCompleted,
    TaskNotCompleted,
    TaskSucceeded,
    InvalidPropertyValue,
    ConditionNotMet,
    PoolQuotaReached,
    ActiveJobAndScheduleQuotaReached,
    /// A report or assignment that no longer fits; nobody outside sees it.
    Fenced,
    ContainerNotFound,
    ContainerAlreadyExists,
    BlobNotFound,
    BlobAlreadyExists,
    InvalidBlockList,
    InvalidBlobOrBlock,
    InternalError,
    Membership(MembershipCode),
    TaskDependenciesNotSpecifiedOnJob,
    JobScheduleNotFound,
    JobScheduleExists,
    JobScheduleBeingTerminated,
    JobScheduleBeingDeleted,
    JobScheduleCompleted,
    /// The name of a new job is a schedule's.
    JobScheduleWithSameIdExists,
    /// The name of a new schedule is a job's.
    JobWithSameIdExists,
    /// It was meant for the leadership of another term than the one in which it entered the log. Its proposer is told
    /// that there is no quorum, as whoever is fenced before; nobody outside sees it.
    OtherTerm,
    TaskIdSameAsJobPreparationTask,
    TaskIdSameAsJobReleaseTask,
    ApplicationNotFound,
    InvalidApplicationPackageReferences,
}

/// Why somebody does not become a member, stay one, or get in as one. Grows only at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MembershipCode {
    /// The state belongs to another cluster.
    ClusterMismatch,
    TokenExists,
    /// No such token, or its secret is another: which of the two is nobody's business.
    TokenNotFound,
    TokenRevoked,
    TokenExpired,
    TokenUsedUp,
    /// The token is for the other role.
    TokenRoleMismatch,
    TokenQuotaReached,
    MemberNotFound,
    MemberQuotaReached,
    /// The peer is a member in the other role.
    MemberRoleMismatch,
    LastCoordinator,
    HostNotAdmitted,
    /// The identity was admitted on another machine.
    HostIdentityCopied,
    /// The number of a coordinator that founds was another's.
    MemberNumberGiven,
    /// The cluster version is held where it is.
    VersionHeld,
    /// Not every coordinator supports the cluster version.
    VersionNotSupported,
    /// Another coordinator is on its way out.
    CoordinatorLeaving,
    /// Those who would stay are no majority of Raft's voters.
    NoMajority,
    /// It cannot have left: it still votes.
    CoordinatorVotes,
}
