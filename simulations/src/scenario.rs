//! What a run consists of: machines, work, faults, and how long it may take. Read from `scenarios/*.toml`.
//!
//! Everything here is data. Whatever differs between two runs of one scenario comes from the seed.

use crate::faults::Kind;
use crate::world::Stream;
use serde::{Deserialize, Serialize};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the scenario cannot be read: {0}")]
    Toml(#[from] toml::de::Error),
    #[error("the scenario cannot be written: {0}")]
    Written(#[from] toml::ser::Error),
    #[error("there is no `{0}` in the scenario to be changed")]
    NoSuch(String),
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
    /// What operators do, or what strikes many at once.
    pub planned: Vec<Planned>,
}

/// A fault at a known time, once or at equal intervals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planned {
    pub fault: Kind,
    pub at_ms: u64,
    #[serde(default)]
    pub every_ms: u64,
    #[serde(default = "once")]
    pub times: u32,
    /// So many of a thousand hosts at once, drawn anew each time; absent: one host, the next in turn.
    pub share: Option<u32>,
    pub outage_ms: Between,
}

fn once() -> u32 {
    1
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
        Scenario::named("first-light").expect("the scenario in the tree is read by a test")
    }

    /// A scenario that comes with Lote.
    pub fn named(name: &str) -> Option<Scenario> {
        let (_, text) = BUILT_IN.iter().find(|(known, _)| *known == name)?;
        Scenario::parse(text).ok()
    }

    /// As [`Scenario::parse`], with single values exchanged: `job.tasks` and `5000`, say.
    pub fn parse_with(text: &str, changes: &[(String, String)]) -> Result<Scenario, Error> {
        let mut table: toml::Table = toml::from_str(text)?;
        for (path, value) in changes {
            let value = toml::from_str::<toml::Table>(&format!("value = {value}"))?;
            let Some(value) = value.get("value").cloned() else { continue };
            set(&mut table, path, value)?;
        }
        // By way of the text, so that errors look the same.
        Scenario::parse(&toml::to_string(&table)?)
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
        for planned in &self.faults.planned {
            if planned.times > 1 && planned.every_ms == 0 {
                return Err(Error::Value {
                    name: "faults.planned.every_ms",
                    why: "must tell repeated faults apart",
                });
            }
            if planned.share.is_some_and(|share| share > 1_000) {
                return Err(Error::Value {
                    name: "faults.planned.share",
                    why: "must be at most 1000, of a thousand",
                });
            }
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

fn set(table: &mut toml::Table, path: &str, value: toml::Value) -> Result<(), Error> {
    let no_such = || Error::NoSuch(path.to_owned());
    let (folders, name) = path.rsplit_once('.').ok_or_else(no_such)?;
    let mut at = table;
    for folder in folders.split('.') {
        at = at.get_mut(folder).and_then(toml::Value::as_table_mut).ok_or_else(no_such)?;
    }
    at.insert(name.to_owned(), value);
    Ok(())
}

/// The scenarios of the tree, by name.
pub const BUILT_IN: [(&str, &str); 11] = [
    ("quiet", include_str!("../scenarios/quiet.toml")),
    ("first-light", include_str!("../scenarios/first-light.toml")),
    ("storm", include_str!("../scenarios/storm.toml")),
    ("slow-log", include_str!("../scenarios/slow-log.toml")),
    ("rolling-restart", include_str!("../scenarios/rolling-restart.toml")),
    ("leader-storm", include_str!("../scenarios/leader-storm.toml")),
    ("half-vanish", include_str!("../scenarios/half-vanish.toml")),
    ("slow-links", include_str!("../scenarios/slow-links.toml")),
    ("preemption-waves", include_str!("../scenarios/preemption-waves.toml")),
    ("one-million-tasks", include_str!("../scenarios/one-million-tasks.toml")),
    ("ten-thousand-nodes", include_str!("../scenarios/ten-thousand-nodes.toml")),
];

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
    fn every_scenario_of_the_tree_is_built_in_under_its_name() {
        for (name, _) in BUILT_IN {
            assert_eq!(Scenario::named(name).unwrap_or_else(|| panic!("{name}")).name, name);
        }
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), BUILT_IN.len());
    }

    #[test]
    fn single_values_can_be_changed() {
        let text = include_str!("../scenarios/quiet.toml");
        let change =
            |path: &str, value: &str| Scenario::parse_with(text, &[(path.to_owned(), value.to_owned())]);
        assert_eq!(change("job.tasks", "7").unwrap().job.tasks, 7);
        assert_eq!(change("job.run_time_ms", "{ fixed = 9 }").unwrap().job.run_time_ms, RunTime::Fixed(9));
        for (path, value) in
            [("jobs.tasks", "7"), ("tasks", "7"), ("job.tusks", "7"), ("job.tasks", "-1"), ("job.tasks", "[")]
        {
            assert!(change(path, value).is_err(), "{path} = {value}");
        }
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
