//! What a run consists of: machines, work, faults, and how long it may take. Read from `scenarios/*.toml`.
//!
//! Everything here is data. Whatever differs between two runs of one scenario comes from the seed.

use crate::world::Stream;
use serde::{Deserialize, Serialize};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the scenario cannot be read: {0}")]
    Toml(#[from] toml::de::Error),
    #[error("`{name}` {why}")]
    Value { name: &'static str, why: &'static str },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    pub name: String,
    pub cluster: ClusterScenario,
    pub hosts: HostsScenario,
    pub pool: PoolScenario,
    pub job: JobScenario,
    pub faults: FaultsScenario,
    pub checks: ChecksScenario,
}

/// The coordinator and the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterScenario {
    pub lease_ms: u64,
    /// How long the log takes to make an entry durable.
    pub commit_ms: Between,
    /// One way.
    pub delay_ms: Between,
    /// A connection on which nothing arrives for so long is taken for broken.
    pub silence_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostsScenario {
    pub count: u32,
    pub cores: u32,
    pub memory_mib: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolScenario {
    pub nodes: u32,
    pub slots_per_node: u16,
    pub vm_size: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobScenario {
    pub tasks: u32,
    /// Tasks of one request.
    pub tasks_per_call: u32,
    pub max_retry_count: i32,
    pub wall_clock_ms: u64,
    pub run_time_ms: RunTime,
    /// Attempts that end with another exit code than 0, per million.
    pub failing: u32,
    /// Attempts that never end by themselves, per million.
    pub hanging: u32,
}

/// Faults a minute over the whole cluster, in thousandths; they come at random times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
pub struct FaultsScenario {
    /// Faults begin after this time and stop at `until_ms`.
    pub from_ms: u64,
    pub until_ms: u64,
    /// Power loss of a host: its processes and unsynced state are gone, its boot id changes.
    pub host_crash: u64,
    /// As a crash, and the machine never comes back.
    pub host_death: u64,
    /// The worker process dies and comes back; the keeper and its tasks go on.
    pub worker_restart: u64,
    /// The worker process stands still; the keeper and its tasks go on.
    pub worker_pause: u64,
    /// The whole machine stands still.
    pub host_pause: u64,
    /// A host is cut off.
    pub partition: u64,
    /// The connection of a host breaks and nothing else.
    pub disconnect: u64,
    /// The coordinator dies and comes back from its disk.
    pub coordinator_crash: u64,
    /// A pool's actor group is dropped and built anew.
    pub group_restart: u64,
    /// How long a host stays down, stands still or is cut off.
    pub outage_ms: Between,
    pub coordinator_outage_ms: Between,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChecksScenario {
    /// Everything must be finished so long after the faults stopped and the last task was added.
    pub settle_ms: u64,
    /// Virtual time between full checks of the state.
    pub checkpoint_ms: u64,
}

/// Bounds, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Between {
    pub min: u64,
    pub max: u64,
}

impl Between {
    pub fn draw(self, stream: &mut Stream) -> u64 {
        stream.between(self.min, self.max)
    }
}

/// How long tasks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunTime {
    Fixed(u64),
    Uniform(Between),
    /// Many short ones and few long ones; cut off at 20 times the mean.
    Exponential {
        mean: u64,
    },
}

impl RunTime {
    pub fn draw(self, stream: &mut Stream) -> u64 {
        match self {
            RunTime::Fixed(ms) => ms,
            RunTime::Uniform(between) => between.draw(stream),
            RunTime::Exponential { mean } => stream.exponential(mean).min(mean.saturating_mul(20)),
        }
    }
}

impl Scenario {
    /// Reads and checks a scenario.
    pub fn parse(text: &str) -> Result<Scenario, Error> {
        let scenario: Scenario = toml::from_str(text)?;
        scenario.check()?;
        Ok(scenario)
    }

    /// 50 nodes finish 10 000 tasks while hosts, workers, connections and the coordinator fail.
    pub fn first_light() -> Scenario {
        let text = include_str!("../scenarios/first-light.toml");
        Scenario::parse(text).expect("the scenario in the tree is read by a test")
    }

    fn check(&self) -> Result<(), Error> {
        let positive = [
            ("cluster.lease_ms", self.cluster.lease_ms),
            ("hosts.count", u64::from(self.hosts.count)),
            ("pool.nodes", u64::from(self.pool.nodes)),
            ("pool.slots_per_node", u64::from(self.pool.slots_per_node)),
            ("job.tasks_per_call", u64::from(self.job.tasks_per_call)),
            ("checks.checkpoint_ms", self.checks.checkpoint_ms),
        ];
        for (name, value) in positive {
            if value == 0 {
                return Err(Error::Value { name, why: "must be greater than 0" });
            }
        }
        if self.job.tasks_per_call > 100 {
            return Err(Error::Value { name: "job.tasks_per_call", why: "must be at most 100" });
        }
        if self.job.hanging > 0 && self.job.wall_clock_ms == 0 {
            return Err(Error::Value { name: "job.wall_clock_ms", why: "must end tasks that hang" });
        }
        for (name, between) in [
            ("cluster.commit_ms", self.cluster.commit_ms),
            ("cluster.delay_ms", self.cluster.delay_ms),
            ("faults.outage_ms", self.faults.outage_ms),
            ("faults.coordinator_outage_ms", self.faults.coordinator_outage_ms),
        ] {
            if between.min > between.max {
                return Err(Error::Value { name, why: "has a minimum above its maximum" });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scenario_in_the_tree_is_read() {
        let scenario = Scenario::first_light();
        assert_eq!((scenario.job.tasks, scenario.pool.nodes), (10_000, 50));
        let written = toml::to_string(&scenario).unwrap();
        assert_eq!(Scenario::parse(&written).unwrap(), scenario);
    }

    #[test]
    fn refuses_what_cannot_work() {
        let text = include_str!("../scenarios/first-light.toml");
        for (from, to, expected) in [
            ("tasks_per_call = 100", "tasks_per_call = 101", "`job.tasks_per_call` must be at most 100"),
            ("count = 50", "count = 0", "`hosts.count` must be greater than 0"),
            ("[hosts]", "[hosts]\nspeed = 3", "unknown field `speed`"),
        ] {
            let changed = text.replace(from, to);
            assert_ne!(text, changed, "{from}");
            let error = Scenario::parse(&changed).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
