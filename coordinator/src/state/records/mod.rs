//! The hot records: everything apply reads, in memory and compact, one concept a file.

mod application;
mod chore;
mod host;
mod job;
mod member;
mod node;
mod past;
mod pool;
mod schedule;
mod task;

pub use application::{ApplicationRecord, PackageRecord};
pub use chore::{ChoreKind, ChorePlace, ChoreRecord};
pub use host::{AccountRecord, HostRecord, HostState};
pub use job::{JobRecord, TaskCounts};
pub use member::{ClusterSettings, Endpoints, MemberRecord, TokenRecord};
pub use node::{NodeRecord, RecentTask};
pub use past::{PAST_ATTEMPTS_MAX, PastAttempt, PastOutcome};
pub use pool::PoolRecord;
pub use schedule::ScheduleRecord;
pub use task::{Ending, TaskPlace, TaskRecord};
