//! When what fails: drawn before the run, so that a fault does not depend on what others changed.

use crate::scenario::FaultsScenario;
use crate::world::Stream;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scenario;
    use crate::world::Random;

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
