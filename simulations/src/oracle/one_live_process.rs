//! At no time do two processes of one task run, and no host runs more than its slots.
//!
//! A process on a machine that stands still does nothing; it counts again when the machine goes on, and by then the
//! keeper has ended it if its deadline passed meanwhile.

use lote_shared::model::AttemptRef;
use std::collections::BTreeMap;

#[derive(Debug)]
struct Process {
    host: u32,
    slots: u16,
    still: bool,
}

#[derive(Debug, Default)]
pub struct LiveProcesses {
    processes: BTreeMap<AttemptRef, Process>,
    slots_used: BTreeMap<u32, u32>,
}

impl LiveProcesses {
    pub fn born(
        &mut self,
        host: u32,
        attempt: AttemptRef,
        slots: u16,
        host_slots: u32,
    ) -> Result<(), String> {
        self.alone(attempt, host)?;
        if self.processes.insert(attempt, Process { host, slots, still: false }).is_some() {
            return Err(format!("{attempt} was started again on host {host} while it runs"));
        }
        let used = self.slots_used.entry(host).or_default();
        *used += u32::from(slots);
        if *used > host_slots {
            return Err(format!("host {host} runs {used} slots' worth of tasks and has {host_slots}"));
        }
        Ok(())
    }

    pub fn died(&mut self, attempt: AttemptRef) {
        if let Some(process) = self.processes.remove(&attempt)
            && let Some(used) = self.slots_used.get_mut(&process.host)
        {
            *used = used.saturating_sub(u32::from(process.slots));
        }
    }

    pub fn frozen(&mut self, host: u32) {
        self.processes
            .values_mut()
            .filter(|process| process.host == host)
            .for_each(|process| process.still = true);
    }

    pub fn thawed(&mut self, attempt: AttemptRef) -> Result<(), String> {
        let Some(process) = self.processes.get_mut(&attempt) else { return Ok(()) };
        process.still = false;
        let host = process.host;
        self.alone(attempt, host)
    }

    /// How many processes there are.
    pub fn count(&self) -> u64 {
        self.processes.len() as u64
    }

    pub fn any(&self) -> Option<AttemptRef> {
        self.processes.keys().next().copied()
    }

    fn alone(&self, attempt: AttemptRef, host: u32) -> Result<(), String> {
        let first = AttemptRef { attempt: lote_shared::model::Attempt(0), ..attempt };
        let last = AttemptRef { attempt: lote_shared::model::Attempt(u32::MAX), ..attempt };
        let others = self
            .processes
            .range(first..=last)
            .filter(|(other, process)| **other != attempt && !process.still);
        match others.map(|(other, process)| (*other, process.host)).next() {
            None => Ok(()),
            Some((other, there)) => {
                Err(format!("{attempt} runs on host {host} while {other} runs on host {there}"))
            }
        }
    }
}
