//! Keys of store rows: `[account u32][table u8][key…]`, all big-endian, so that rows of one table of one account
//! are neighbours and rows of counted records are written in order (sled needs that; `docs/dependencies.md`).

use super::command::CursorKey;
use super::dependencies::Dependency;
use lote_shared::model::{
    AccountId, ApplicationId, Attempt, HostKey, JobKey, NodeKey, PoolKey, ScheduleKey, TaskId, TaskKey,
    TokenId,
};

/// The account of rows that belong to the cluster as a whole.
pub const CLUSTER: AccountId = AccountId(0);

/// What a row holds. Hot rows are loaded into memory at start, cold rows are read when asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Table {
    /// Counters of [`super::Cluster`], remembered idempotency keys.
    Meta = 0,
    Account = 1,
    Host = 2,
    Pool = 3,
    PoolCold = 4,
    Node = 5,
    Job = 6,
    JobCold = 7,
    Task = 8,
    TaskCold = 9,
    Cursor = 10,
    Container = 11,
    Blob = 12,
    Block = 13,
    /// Members, join tokens, what the cluster is, and its version.
    Membership = 14,
    /// What tasks depend on and what their ends mean.
    TaskTies = 15,
    /// What tasks of a job have satisfied.
    Satisfied = 16,
    /// Satisfactions on their way to the tasks that wait.
    Delivery = 17,
    /// Attempts that were not their task's last one.
    PastAttempt = 20,
    Schedule = 18,
    ScheduleCold = 19,
    /// What a job has beyond its spec.
    JobExtras = 21,
    /// What the jobs of a schedule have beyond their spec, and the pool they share.
    ScheduleExtras = 22,
    /// What a task has beyond its spec.
    TaskExtras = 23,
    /// Preparations and releases on nodes.
    Chore = 24,
    Application = 25,
    /// What a pool has beyond its spec.
    PoolExtras = 26,
    /// Written by the replication layer itself: applied position, running hash.
    Applied = 255,
}

impl Table {
    pub const ALL: [Table; 28] = [
        Table::Meta,
        Table::Account,
        Table::Host,
        Table::Pool,
        Table::PoolCold,
        Table::Node,
        Table::Job,
        Table::JobCold,
        Table::Task,
        Table::TaskCold,
        Table::Cursor,
        Table::Container,
        Table::Blob,
        Table::Block,
        Table::Membership,
        Table::TaskTies,
        Table::Satisfied,
        Table::Delivery,
        Table::Schedule,
        Table::ScheduleCold,
        Table::PastAttempt,
        Table::JobExtras,
        Table::ScheduleExtras,
        Table::TaskExtras,
        Table::Chore,
        Table::Application,
        Table::PoolExtras,
        Table::Applied,
    ];

    pub fn from_byte(byte: u8) -> Option<Table> {
        Table::ALL.into_iter().find(|table| *table as u8 == byte)
    }

    /// Whether [`super::Cluster::load`] wants its rows. The cold parts of pools and jobs are among them, because a
    /// patch changes single members of them.
    pub fn is_hot(self) -> bool {
        !matches!(self, Table::TaskCold | Table::TaskExtras | Table::PastAttempt | Table::Applied)
    }
}

/// A row's key from its parts.
pub fn key(account: AccountId, table: Table, rest: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(5 + rest.len());
    out.extend_from_slice(&account.0.to_be_bytes());
    out.push(table as u8);
    out.extend_from_slice(rest);
    out
}

/// The parts of a row's key.
pub fn split(key: &[u8]) -> Option<(AccountId, Table, &[u8])> {
    let (account, rest) = key.split_first_chunk::<4>()?;
    let (table, rest) = rest.split_first()?;
    Some((AccountId(u32::from_be_bytes(*account)), Table::from_byte(*table)?, rest))
}

pub fn pool_cold(account: AccountId, pool: PoolKey) -> Vec<u8> {
    key(account, Table::PoolCold, &pool.0.to_be_bytes())
}

pub fn job_cold(account: AccountId, job: JobKey) -> Vec<u8> {
    key(account, Table::JobCold, &job.0.to_be_bytes())
}

pub fn task_cold(account: AccountId, task: TaskKey) -> Vec<u8> {
    key(account, Table::TaskCold, &task.0.to_be_bytes())
}

pub fn job_extras(account: AccountId, job: JobKey) -> Vec<u8> {
    key(account, Table::JobExtras, &job.0.to_be_bytes())
}

pub fn schedule_extras(account: AccountId, schedule: ScheduleKey) -> Vec<u8> {
    key(account, Table::ScheduleExtras, &schedule.0.to_be_bytes())
}

pub fn task_extras(account: AccountId, task: TaskKey) -> Vec<u8> {
    key(account, Table::TaskExtras, &task.0.to_be_bytes())
}

pub fn chore(account: AccountId, chore: TaskKey) -> Vec<u8> {
    key(account, Table::Chore, &chore.0.to_be_bytes())
}

pub fn application(account: AccountId, id: &ApplicationId) -> Vec<u8> {
    key(account, Table::Application, id.folded().as_bytes())
}

pub fn pool_extras(account: AccountId, pool: PoolKey) -> Vec<u8> {
    key(account, Table::PoolExtras, &pool.0.to_be_bytes())
}

/// The row of a past attempt; a later one overwrites it ([`super::PAST_ATTEMPTS_MAX`]).
pub fn past_attempt(account: AccountId, task: TaskKey, attempt: Attempt) -> Vec<u8> {
    let mut rest = [0; 9];
    rest[..8].copy_from_slice(&task.0.to_be_bytes());
    rest[8] = (attempt.0 % super::PAST_ATTEMPTS_MAX) as u8;
    key(account, Table::PastAttempt, &rest)
}

pub fn pool(account: AccountId, pool: PoolKey) -> Vec<u8> {
    key(account, Table::Pool, &pool.0.to_be_bytes())
}

pub fn job(account: AccountId, job: JobKey) -> Vec<u8> {
    key(account, Table::Job, &job.0.to_be_bytes())
}

pub fn task(account: AccountId, task: TaskKey) -> Vec<u8> {
    key(account, Table::Task, &task.0.to_be_bytes())
}

pub fn node(account: AccountId, node: NodeKey) -> Vec<u8> {
    key(account, Table::Node, &node.0.to_be_bytes())
}

pub fn host(host: HostKey) -> Vec<u8> {
    key(CLUSTER, Table::Host, &host.0.to_be_bytes())
}

pub fn account(account: AccountId) -> Vec<u8> {
    key(CLUSTER, Table::Account, &account.0.to_be_bytes())
}

/// Counters and clock of the state.
pub fn meta() -> Vec<u8> {
    key(CLUSTER, Table::Meta, &[0])
}

/// A remembered answer, by the order of remembering.
pub fn remembered(sequence: u64) -> Vec<u8> {
    let mut rest = [0; 9];
    rest[0] = 1;
    rest[1..].copy_from_slice(&sequence.to_be_bytes());
    key(CLUSTER, Table::Meta, &rest)
}

/// A node that went, kept by name.
pub fn departed(node: NodeKey) -> Vec<u8> {
    let mut rest = [0; 5];
    rest[0] = 2;
    rest[1..].copy_from_slice(&node.0.to_be_bytes());
    key(CLUSTER, Table::Meta, &rest)
}

/// The last number given to a schedule.
pub fn last_schedule() -> Vec<u8> {
    key(CLUSTER, Table::Meta, &[3])
}

pub fn schedule(account: AccountId, schedule: ScheduleKey) -> Vec<u8> {
    key(account, Table::Schedule, &schedule.0.to_be_bytes())
}

pub fn schedule_cold(account: AccountId, schedule: ScheduleKey) -> Vec<u8> {
    key(account, Table::ScheduleCold, &schedule.0.to_be_bytes())
}

/// What the cluster is.
pub fn settings() -> Vec<u8> {
    key(CLUSTER, Table::Membership, &[0])
}

/// The last number given to a coordinator.
pub fn last_member() -> Vec<u8> {
    key(CLUSTER, Table::Membership, &[1])
}

pub fn member(peer: &str) -> Vec<u8> {
    let mut rest = vec![2];
    rest.extend_from_slice(peer.as_bytes());
    key(CLUSTER, Table::Membership, &rest)
}

pub fn token(token: TokenId) -> Vec<u8> {
    let mut rest = vec![3];
    rest.extend_from_slice(&token.0.to_be_bytes());
    key(CLUSTER, Table::Membership, &rest)
}

/// A row of the cluster version, by its first byte.
pub(super) fn upgrade(row: u8) -> Vec<u8> {
    key(CLUSTER, Table::Membership, &[row])
}

/// A coordinator that is on its way out.
pub fn leaving(peer: &str) -> Vec<u8> {
    let mut rest = vec![6];
    rest.extend_from_slice(peer.as_bytes());
    key(CLUSTER, Table::Membership, &rest)
}

/// A host that is on its way out.
pub fn draining(host: HostKey) -> Vec<u8> {
    let mut rest = [7; 5];
    rest[1..].copy_from_slice(&host.0.to_be_bytes());
    key(CLUSTER, Table::Membership, &rest)
}

pub fn cursor(cursor: CursorKey) -> Vec<u8> {
    let (tag, number) = match cursor {
        CursorKey::Job(job) => (0, job.0),
        CursorKey::Pool(pool) => (1, pool.0),
        CursorKey::Node(node) => (2, node.0),
        CursorKey::Deliveries(job) => (3, job.0),
        CursorKey::Schedule(schedule) => (4, schedule.0),
        CursorKey::Releases(job) => (5, job.0),
    };
    let mut rest = [tag; 5];
    rest[1..].copy_from_slice(&number.to_be_bytes());
    key(CLUSTER, Table::Cursor, &rest)
}

pub fn task_ties(account: AccountId, task: TaskKey) -> Vec<u8> {
    key(account, Table::TaskTies, &task.0.to_be_bytes())
}

/// Orders as the numbers do.
fn ordered(number: i32) -> [u8; 4] {
    (number.cast_unsigned() ^ (1 << 31)).to_be_bytes()
}

/// The parts one after the other, behind a job.
fn of_job(account: AccountId, table: Table, job: JobKey, kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut parts = job.0.to_be_bytes().to_vec();
    parts.push(kind);
    parts.extend_from_slice(rest);
    key(account, table, &parts)
}

/// A run of satisfied integers, by its start.
pub fn satisfied_run(account: AccountId, job: JobKey, kind: u8, start: i32) -> Vec<u8> {
    of_job(account, Table::Satisfied, job, kind, &ordered(start))
}

pub fn satisfied_id(account: AccountId, job: JobKey, id: &TaskId) -> Vec<u8> {
    of_job(account, Table::Satisfied, job, 2, id.folded().as_bytes())
}

pub fn delivery(account: AccountId, job: JobKey, dependency: &Dependency) -> Vec<u8> {
    match dependency {
        Dependency::Number(number) => of_job(account, Table::Delivery, job, 0, &ordered(*number)),
        Dependency::Id(id) => of_job(account, Table::Delivery, job, 1, id.folded().as_bytes()),
    }
}
