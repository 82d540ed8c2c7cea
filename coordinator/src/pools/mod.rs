//! The supervised actor groups of the leader, and the sessions of hosts.
//!
//! ```text
//! ClusterSupervisor                 owns the groups as generations, watches their progress
//!  ├─ PoolSupervisor (pool A)       one generation of one pool's group, in an arbiter of a small set
//!  │    ├─ PoolDispatcher           shell of scheduling::Dispatcher
//!  │    ├─ PoolScaler               wakes the allocation when this pool's resize is due
//!  │    └─ NodeActor × n            hands task chunks to the session of the node's host
//!  ├─ JobKeeper                     wall clocks, retries that are due, Continue of long work
//!  └─ HostRegistry                  sessions, leases, shell of scheduling::Allocator
//! ```
//!
//! Actors own soft state only; whatever must survive is proposed to the engine, and every group can be built from
//! the replicated state at any moment. actix restarts nothing after a panic, so the parent does: each handler,
//! timer and `started` of a group runs under [`guard`], and an error, a panic or a missed progress check drops the
//! whole generation and builds the next. Reports of hosts do not pass through the groups: a session proposes them
//! itself, so running tasks never notice a restart.

pub mod chunk;
mod cluster_supervisor;
pub mod faults;
pub mod guard;
pub mod host_registry;
pub mod host_session;
mod job_keeper;
mod leader_tree;
mod node_actor;
mod packages;
mod pool_dispatcher;
mod pool_scaler;
mod pool_supervisor;
mod tree;

pub use cluster_supervisor::GroupStatus;
pub use host_registry::HostFacts;
pub use leader_tree::{LeaderParts, LeaderTree};
pub use tree::{Tree, TreeParts};
