//! The simulator: the cores that run in production, in a world we own.
//!
//! One event queue in virtual milliseconds drives the real `Cluster`, `Dispatcher`, `Allocator`, `Reconciliation`,
//! `Session`, `LeaseBook`, `LeaseClock`, `NodeMachine` and `AttemptMachine` through a virtual network, disk, keeper
//! and processes. Everything random comes from one seed, every event goes into one hash; so a run can be repeated to
//! the bit, and a bug has a seed.
//!
//! ```text
//!  client ──► coordinator ── sessions over the network ──► host ── worker ──► keeper ──► processes
//!              log ─► apply ─► rows on disk                        NodeMachine          (pretended)
//!              Cluster, Dispatcher, Allocator                      AttemptMachine
//!                                  └────────────── oracle: checks all of it ──────────────┘
//! ```
//!
//! [`coordinator`] and [`host`] are the shells: they stand where the actors and tokio tasks of production stand and
//! are to stay as thin. [`world`] knows nothing of batch. [`oracle`] knows what nobody inside can know.

pub mod client;
pub mod coordinator;
pub mod faults;
pub mod host;
pub mod oracle;
pub mod report;
pub mod sabotage;
pub mod scenario;
mod simulation;
pub mod world;

pub use oracle::Violation;
pub use report::{Counts, Report};
pub use sabotage::Sabotage;
pub use scenario::Scenario;

/// Runs a scenario from a seed.
pub fn run(scenario: &Scenario, seed: u64) -> Report {
    simulation::Simulation::new(scenario, seed, None, 0).run(seed)
}

/// As [`run`], with a planted bug and the last `lines` events in words.
pub fn run_with(scenario: &Scenario, seed: u64, sabotage: Option<Sabotage>, lines: usize) -> Report {
    simulation::Simulation::new(scenario, seed, sabotage, lines).run(seed)
}
