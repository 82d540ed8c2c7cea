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
pub mod html;
pub mod oracle;
pub mod report;
pub mod sabotage;
pub mod scenario;
pub mod series;
mod simulation;
pub mod world;

pub use oracle::Violation;
pub use report::{Counts, Report};
pub use sabotage::Sabotage;
pub use scenario::Scenario;

/// How a run is watched; none of it changes what happens, but for a planted bug.
#[derive(Default)]
pub struct Options {
    pub sabotage: Option<Sabotage>,
    /// So many of the last events are kept in words.
    pub lines: usize,
    /// The run ends here, unfinished, and what must hold at the end is not asked.
    pub until_ms: Option<u64>,
    /// Told of every event.
    pub listener: Option<world::Listener>,
}

/// Runs a scenario from a seed.
pub fn run(scenario: &Scenario, seed: u64) -> Report {
    run_with(scenario, seed, Options::default())
}

/// As [`run`], watched.
pub fn run_with(scenario: &Scenario, seed: u64, options: Options) -> Report {
    simulation::Simulation::new(scenario, seed, options).run(seed)
}
