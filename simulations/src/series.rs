//! What a run looked like over time: the numbers behind the pictures of a report.
//!
//! Samples are taken at equal steps of virtual time and never become more than [`SAMPLES_MAX`]: when they do, every
//! other one goes and the step doubles. Taking one changes nothing and is not part of the trace.

use lote_coordinator::state::Cluster;
use lote_shared::model::NodeState;
use serde::Serialize;
use std::collections::BTreeMap;

/// Most samples of a run.
pub const SAMPLES_MAX: usize = 1_024;
/// Most faults kept for the picture; all of them are counted.
const MARKS_MAX: usize = 4_096;
/// The first step between two samples in virtual milliseconds.
const FIRST_STEP_MS: u64 = 100;

/// The cluster at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sample {
    pub at_ms: u64,
    /// Slots of nodes that take tasks, as the leader knows it; 0 while there is no leader.
    pub slots: u64,
    /// Processes that really run, wherever.
    pub processes: u64,
    /// Tasks that wait.
    pub queued: u64,
    pub completed: u64,
    /// Bytes that hosts and coordinator have sent each other since the beginning.
    pub bytes: u64,
    pub has_leader: bool,
}

/// A fault on the same axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Mark {
    pub at_ms: u64,
    pub kind: &'static str,
    pub host: u32,
    pub outage_ms: u64,
}

/// Of a set of durations in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    pub count: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub max: u64,
}

impl Percentiles {
    /// Nearest rank.
    pub fn of(mut values: Vec<u64>) -> Percentiles {
        values.sort_unstable();
        let rank = |per_cent: usize| {
            let at = (values.len() * per_cent).div_ceil(100).saturating_sub(1);
            values.get(at).copied().unwrap_or(0)
        };
        let max = values.last().copied().unwrap_or(0);
        Percentiles { count: values.len() as u64, p50: rank(50), p90: rank(90), p99: rank(99), max }
    }
}

/// Everything a report draws.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Series {
    pub step_ms: u64,
    pub samples: Vec<Sample>,
    pub marks: Vec<Mark>,
    /// By host: bytes to it and from it.
    pub link_bytes: BTreeMap<u32, [u64; 2]>,
    /// From the add of a task to the start of its last attempt.
    pub waited: Percentiles,
    /// From the add of a task to its end.
    pub took: Percentiles,
}

impl Default for Series {
    fn default() -> Self {
        Series {
            step_ms: FIRST_STEP_MS,
            samples: Vec::new(),
            marks: Vec::new(),
            link_bytes: BTreeMap::new(),
            waited: Percentiles::default(),
            took: Percentiles::default(),
        }
    }
}

impl Series {
    /// Takes a sample; returns when the next one is due.
    pub fn sample(&mut self, at_ms: u64, cluster: Option<&Cluster>, processes: u64) -> u64 {
        let mut sample = Sample { at_ms, processes, has_leader: cluster.is_some(), ..Sample::default() };
        sample.bytes = self.link_bytes.values().flatten().sum();
        if let Some(cluster) = cluster {
            for job in cluster.all_jobs() {
                sample.queued += job.counts.active;
                sample.completed += job.counts.completed();
            }
            for pool in cluster.all_pools() {
                let counts = cluster.node_counts(pool.key);
                let ready = [
                    (true, NodeState::Idle),
                    (true, NodeState::Running),
                    (false, NodeState::Idle),
                    (false, NodeState::Running),
                ]
                .map(|(dedicated, state)| u64::from(counts.of(dedicated, state)));
                sample.slots += ready.iter().sum::<u64>() * u64::from(pool.slots_per_node);
            }
        }
        if self.samples.len() == SAMPLES_MAX {
            let mut index = 0;
            self.samples.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.step_ms *= 2;
        }
        self.samples.push(sample);
        at_ms + self.step_ms
    }

    pub fn mark(&mut self, mark: Mark) {
        if self.marks.len() < MARKS_MAX {
            self.marks.push(mark);
        }
    }

    pub fn carried(&mut self, host: u32, from_host: bool, bytes: usize) {
        self.link_bytes.entry(host).or_default()[usize::from(from_host)] += bytes as u64;
    }

    /// What the tasks' records tell in the end.
    pub fn conclude(&mut self, cluster: &Cluster) {
        let since = |task: &lote_coordinator::state::TaskRecord,
                     at: Option<lote_shared::model::Timestamp>| {
            at.map(|at| at.0.saturating_sub(task.created.0))
        };
        self.waited =
            Percentiles::of(cluster.all_tasks().filter_map(|task| since(task, task.started)).collect());
        self.took = Percentiles::of(cluster.all_tasks().filter_map(|task| since(task, task.ended)).collect());
    }

    /// How much of the slots' time was used until `until_ms`, in per mille; `None` if there were none.
    pub fn utilisation(&self, until_ms: u64) -> Option<u64> {
        let samples = self.samples.iter().filter(|sample| sample.at_ms <= until_ms);
        let (used, there) = samples.fold((0, 0), |(used, there), sample| {
            (used + sample.processes.min(sample.slots), there + sample.slots)
        });
        (there > 0).then(|| used * 1_000 / there)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        assert_eq!(Percentiles::of(Vec::new()), Percentiles::default());
        let of = Percentiles::of((1..=200).rev().collect());
        assert_eq!((of.count, of.p50, of.p90, of.p99, of.max), (200, 100, 180, 198, 200));
        assert_eq!(Percentiles::of(vec![7]).p99, 7);
    }

    #[test]
    fn a_long_run_keeps_the_whole_axis_in_few_samples() {
        let mut series = Series::default();
        let mut at_ms = 0;
        while at_ms < 10_000_000 {
            at_ms = series.sample(at_ms, None, 0);
        }
        assert!((SAMPLES_MAX / 2..=SAMPLES_MAX).contains(&series.samples.len()), "{}", series.samples.len());
        assert_eq!(series.samples[0].at_ms, 0);
        assert!(series.samples.windows(2).all(|pair| pair[0].at_ms < pair[1].at_ms));
        assert!(series.samples.last().is_some_and(|last| last.at_ms > 9_900_000));
    }
}
