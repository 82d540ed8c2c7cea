//! When what fails: drawn before the run, so that a fault does not depend on what others changed.

use crate::scenario::{FaultsScenario, Planned};
use crate::world::Stream;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    HostCrash,
    /// As a crash, and the machine never comes back.
    HostDeath,
    WorkerRestart,
    WorkerPause,
    HostPause,
    Partition,
    Disconnect,
    CoordinatorCrash,
    GroupRestart,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    pub kind: Kind,
    /// Number of the host it strikes, if it strikes one.
    pub host: u32,
    pub outage_ms: u64,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::HostCrash => "host-crash",
            Kind::HostDeath => "host-death",
            Kind::WorkerRestart => "worker-restart",
            Kind::WorkerPause => "worker-pause",
            Kind::HostPause => "host-pause",
            Kind::Partition => "partition",
            Kind::Disconnect => "disconnect",
            Kind::CoordinatorCrash => "coordinator-crash",
            Kind::GroupRestart => "group-restart",
        }
    }
}

/// All faults of a run; the times between two of a kind are exponentially distributed.
pub fn plan(scenario: &FaultsScenario, hosts: u32, mut stream: Stream) -> Vec<(u64, Fault)> {
    let rates = [
        (Kind::HostCrash, scenario.host_crash),
        (Kind::HostDeath, scenario.host_death),
        (Kind::WorkerRestart, scenario.worker_restart),
        (Kind::WorkerPause, scenario.worker_pause),
        (Kind::HostPause, scenario.host_pause),
        (Kind::Partition, scenario.partition),
        (Kind::Disconnect, scenario.disconnect),
        (Kind::CoordinatorCrash, scenario.coordinator_crash),
        (Kind::GroupRestart, scenario.group_restart),
    ];
    let mut faults = Vec::new();
    for (kind, per_1000_minutes) in rates {
        if per_1000_minutes == 0 {
            continue;
        }
        let mean_ms = 60_000 * 1_000 / per_1000_minutes;
        let mut at_ms = scenario.from_ms + stream.exponential(mean_ms);
        while at_ms < scenario.until_ms {
            let host = stream.below(u64::from(hosts)) as u32;
            let outage = if kind == Kind::CoordinatorCrash {
                scenario.coordinator_outage_ms
            } else {
                scenario.outage_ms
            };
            faults.push((at_ms, Fault { kind, host, outage_ms: outage.draw(&mut stream) }));
            at_ms += 1 + stream.exponential(mean_ms);
        }
    }
    for planned in &scenario.planned {
        repeat(planned, hosts, &mut stream, &mut faults);
    }
    faults
}

fn repeat(planned: &Planned, hosts: u32, stream: &mut Stream, faults: &mut Vec<(u64, Fault)>) {
    let Planned { fault: kind, at_ms, every_ms, times, share, outage_ms } = planned;
    for time in 0..*times {
        let at_ms = at_ms + u64::from(time) * every_ms;
        let mut struck: Vec<u32> = match share {
            None => vec![time % hosts.max(1)],
            Some(_) => (0..hosts).collect(),
        };
        if let Some(share) = share {
            let count = (u64::from(hosts) * u64::from(*share)).div_ceil(1_000) as usize;
            for place in 0..count.min(struck.len()) {
                let other = place + stream.below((struck.len() - place) as u64) as usize;
                struck.swap(place, other);
            }
            struck.truncate(count);
        }
        for host in struck {
            faults.push((at_ms, Fault { kind: *kind, host, outage_ms: outage_ms.draw(stream) }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scenario;
    use crate::scenario::Between;
    use crate::world::Random;

    #[test]
    fn planned_faults_strike_in_turn_or_a_share_at_once() {
        let once_each = Planned {
            fault: Kind::WorkerRestart,
            at_ms: 1_000,
            every_ms: 500,
            times: 3,
            share: None,
            outage_ms: Between { min: 7, max: 7 },
        };
        let half = Planned { fault: Kind::HostDeath, times: 1, share: Some(500), ..once_each.clone() };
        let scenario = FaultsScenario { planned: vec![once_each, half], ..FaultsScenario::default() };
        let faults = plan(&scenario, 10, Random::new(1).stream("faults", &[]));
        let of = |kind| {
            faults.iter().filter(move |(_, fault)| fault.kind == kind).map(|(at, fault)| (*at, fault.host))
        };
        assert_eq!(of(Kind::WorkerRestart).collect::<Vec<_>>(), [(1_000, 0), (1_500, 1), (2_000, 2)]);
        let dead: std::collections::BTreeSet<_> = of(Kind::HostDeath).collect();
        assert_eq!((dead.len(), of(Kind::HostDeath).count()), (5, 5), "five different ones");
    }

    #[test]
    fn faults_come_as_often_as_asked_and_stop() {
        let mut scenario = Scenario::first_light().faults;
        scenario.until_ms = scenario.from_ms + 100 * 60_000;
        let faults = plan(&scenario, 50, Random::new(1).stream("faults", &[]));
        let count = |kind| faults.iter().filter(|(_, fault)| fault.kind == kind).count() as u64;
        for (kind, rate) in [(Kind::HostCrash, scenario.host_crash), (Kind::Disconnect, scenario.disconnect)]
        {
            let expected = rate / 10;
            assert!(
                (expected * 8 / 10..expected * 12 / 10).contains(&count(kind)),
                "{kind:?}: {}",
                count(kind)
            );
        }
        assert!(faults.iter().all(|(at_ms, fault)| *at_ms < scenario.until_ms && fault.host < 50));
    }
}
