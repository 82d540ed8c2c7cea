//! The keeper of a host, with the protocol and the rules of the real one and with processes that only pretend.
//!
//! It survives its worker; it does not survive a power loss, and of the exits nobody acknowledged only some were on
//! the disk by then. At the deadline that the worker last passed on, it kills everything, whatever the worker does.

use super::process::Lifetime;
use lote_shared::model::AttemptRef;
use lote_worker::keeper::wire::{Cause, Event, Exit, Request, Running, SpawnError};
use std::collections::BTreeMap;

/// Patience with a process at the deadline, as in the real keeper.
const DEADLINE_GRACE_MS: u64 = 200;
/// Exit codes of processes that were ended by a signal.
const EXIT_TERM: i32 = 143;
const EXIT_KILL: i32 = 137;

/// When to look at which process again; both are ignored when it has ended by then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Timer {
    /// The process ends by itself, with this code.
    Ends {
        key: String,
        exit_code: i32,
    },
    /// It gives in to SIGTERM.
    Terminated {
        key: String,
    },
    /// Its grace is over.
    Killed {
        key: String,
    },
    Deadline,
}

/// What follows from a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    Tell(Event),
    At(u64, Timer),
    /// A process is there from now on.
    Born(AttemptRef),
    /// It is gone; its exit code.
    Died(AttemptRef, i32),
}

#[derive(Debug)]
struct Process {
    attempt: AttemptRef,
    lifetime: Lifetime,
    started_ms: u64,
    context: Vec<u8>,
    ending: Option<Cause>,
}

#[derive(Debug)]
pub struct Keeper {
    boot: u64,
    running: BTreeMap<String, Process>,
    /// Exits nobody acknowledged, with what the worker had left for itself.
    exits: BTreeMap<String, (Exit, Vec<u8>)>,
    deadline_ms: Option<u64>,
}

impl Keeper {
    /// A keeper that starts with nothing running and finds these exits on the disk.
    pub fn new(boot: u64, found: Vec<Exit>) -> Keeper {
        let exits = found.into_iter().map(|exit| (exit.key.clone(), (exit, Vec::new()))).collect();
        Keeper { boot, running: BTreeMap::new(), exits, deadline_ms: None }
    }

    /// The power fails: what the disk holds may or may not be what was written last.
    pub fn power_loss(self, mut on_disk: impl FnMut() -> bool) -> Vec<Exit> {
        self.exits.into_values().map(|(exit, _)| exit).filter(|_| on_disk()).collect()
    }

    pub fn attempts(&self) -> impl Iterator<Item = AttemptRef> {
        self.running.values().map(|process| process.attempt)
    }

    /// Anything but a spawn.
    pub fn on(&mut self, now_ms: u64, request: Request) -> Vec<Effect> {
        match request {
            Request::Hello => vec![Effect::Tell(Event::Hello { boot: self.boot, process: 1 })],
            Request::List => vec![Effect::Tell(self.listing())],
            Request::End { key, grace_ms } => self.end(now_ms, &key, Cause::Asked, grace_ms),
            Request::Deadline { at_ms, .. } => {
                self.deadline_ms = Some(at_ms);
                vec![Effect::At(at_ms, Timer::Deadline)]
            }
            Request::Acknowledge { key } => {
                self.exits.remove(&key);
                Vec::new()
            }
            // The worker of the simulator neither signals nor shuts its keeper down.
            Request::Signal { .. } | Request::Shutdown { .. } | Request::Spawn(_) => Vec::new(),
        }
    }

    /// Starts a process. A key that is known is not started again.
    pub fn spawn(
        &mut self,
        now_ms: u64,
        key: String,
        context: Vec<u8>,
        attempt: AttemptRef,
        lifetime: Lifetime,
    ) -> Vec<Effect> {
        if self.running.contains_key(&key) || self.exits.contains_key(&key) {
            return Vec::new();
        }
        // After the deadline nothing starts, whoever asks: a worker that stood still may not know that it has passed.
        if self.deadline_ms.is_some_and(|deadline| deadline <= now_ms) {
            let (error, message) = (SpawnError::Refused, "the lease has run out".to_owned());
            return vec![Effect::Tell(Event::NotSpawned { key, error, message })];
        }
        let mut effects = vec![Effect::Born(attempt)];
        if let Some(run_ms) = lifetime.run_ms {
            effects.push(Effect::At(
                now_ms + run_ms,
                Timer::Ends { key: key.clone(), exit_code: lifetime.exit_code },
            ));
        }
        let process = Process { attempt, lifetime, started_ms: now_ms, context, ending: None };
        self.running.insert(key, process);
        effects
    }

    pub fn tick(&mut self, now_ms: u64, timer: Timer) -> Vec<Effect> {
        match timer {
            Timer::Ends { key, exit_code } => self.died(now_ms, &key, exit_code, Cause::Itself),
            Timer::Terminated { key } => self.died(now_ms, &key, EXIT_TERM, Cause::Asked),
            Timer::Killed { key } => self.died(now_ms, &key, EXIT_KILL, Cause::Asked),
            Timer::Deadline => self.check_deadline(now_ms, DEADLINE_GRACE_MS),
        }
    }

    /// The machine stood still until now: what should have been dead meanwhile never runs on.
    pub fn thaw(&mut self, now_ms: u64) -> Vec<Effect> {
        if self.deadline_ms.is_none_or(|deadline| deadline > now_ms) {
            return Vec::new();
        }
        let keys: Vec<String> = self.running.keys().cloned().collect();
        let mut effects = Vec::new();
        for key in keys {
            if let Some(process) = self.running.get_mut(&key) {
                process.ending = Some(Cause::Deadline);
            }
            effects.extend(self.died(now_ms, &key, EXIT_KILL, Cause::Deadline));
        }
        effects
    }

    fn check_deadline(&mut self, now_ms: u64, grace_ms: u64) -> Vec<Effect> {
        if self.deadline_ms.is_none_or(|deadline| deadline > now_ms) {
            return Vec::new(); // It was moved on meanwhile.
        }
        let keys: Vec<String> = self.running.keys().cloned().collect();
        keys.iter().flat_map(|key| self.end(now_ms, key, Cause::Deadline, grace_ms)).collect()
    }

    fn end(&mut self, now_ms: u64, key: &str, cause: Cause, grace_ms: u64) -> Vec<Effect> {
        let Some(process) = self.running.get_mut(key) else { return Vec::new() };
        if process.ending.is_none() || cause == Cause::Deadline {
            process.ending = Some(cause);
        }
        let mut effects = vec![Effect::At(now_ms + grace_ms, Timer::Killed { key: key.to_owned() })];
        if let Some(term_ms) = process.lifetime.term_ms {
            effects.push(Effect::At(now_ms + term_ms, Timer::Terminated { key: key.to_owned() }));
        }
        effects
    }

    fn died(&mut self, now_ms: u64, key: &str, exit_code: i32, cause: Cause) -> Vec<Effect> {
        let Some(process) = self.running.remove(key) else { return Vec::new() };
        // Who ends by itself after SIGTERM was sent has still been ended by whoever sent it.
        let cause = process.ending.unwrap_or(cause);
        let exit = Exit {
            key: key.to_owned(),
            exit_code,
            cause,
            started_ms: process.started_ms,
            ended_ms: now_ms,
            survivors: 0,
        };
        self.exits.insert(key.to_owned(), (exit.clone(), process.context));
        vec![Effect::Died(process.attempt, exit_code), Effect::Tell(Event::Exited(exit))]
    }

    fn listing(&self) -> Event {
        let running = self.running.iter().map(|(key, process)| Running {
            key: key.clone(),
            started_ms: process.started_ms,
            context: process.context.clone(),
        });
        Event::Listing { running: running.collect(), exited: self.exits.values().cloned().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lote_shared::model::{Attempt, TaskKey};

    fn attempt(task: u64) -> AttemptRef {
        AttemptRef { task: TaskKey(task), attempt: Attempt(1) }
    }

    /// Runs a keeper's own timers up to `until_ms`; the deaths as (time, task, cause).
    fn run(keeper: &mut Keeper, mut timers: Vec<(u64, Timer)>, until_ms: u64) -> Vec<(u64, u64, Cause)> {
        let mut deaths = Vec::new();
        timers.sort_by_key(|(at_ms, _)| *at_ms);
        while let Some((at_ms, timer)) =
            (!timers.is_empty()).then(|| timers.remove(0)).filter(|(at, _)| *at <= until_ms)
        {
            for effect in keeper.tick(at_ms, timer) {
                match effect {
                    Effect::At(at_ms, timer) => timers.push((at_ms, timer)),
                    Effect::Tell(Event::Exited(exit)) => {
                        deaths.push((at_ms, exit.key.parse().unwrap(), exit.cause));
                    }
                    _ => {}
                }
            }
            timers.sort_by_key(|(at_ms, _)| *at_ms);
        }
        deaths
    }

    fn spawn(keeper: &mut Keeper, task: u64, run_ms: Option<u64>, term_ms: Option<u64>) -> Vec<(u64, Timer)> {
        let lifetime = Lifetime { run_ms, exit_code: 0, term_ms };
        timers(keeper.spawn(0, task.to_string(), Vec::new(), attempt(task), lifetime))
    }

    fn timers(effects: Vec<Effect>) -> Vec<(u64, Timer)> {
        let timer = |effect| match effect {
            Effect::At(at_ms, timer) => Some((at_ms, timer)),
            _ => None,
        };
        effects.into_iter().filter_map(timer).collect()
    }

    #[test]
    fn the_deadline_ends_everything_and_a_later_one_moves_it() {
        let mut keeper = Keeper::new(1, Vec::new());
        let mut all = spawn(&mut keeper, 1, None, None);
        all.extend(spawn(&mut keeper, 2, None, Some(7)));
        all.extend(spawn(&mut keeper, 3, Some(900), Some(7)));
        all.extend(timers(keeper.on(0, Request::Deadline { at_ms: 500, lease_ms: 1_000 })));
        all.extend(timers(keeper.on(400, Request::Deadline { at_ms: 1_000, lease_ms: 1_000 })));
        let deaths = run(&mut keeper, all, 10_000);
        assert_eq!(
            deaths,
            [(900, 3, Cause::Itself), (1_007, 2, Cause::Deadline), (1_200, 1, Cause::Deadline)]
        );
        // Nothing starts after it either.
        let late = spawn(&mut keeper, 4, None, None);
        assert_eq!(late, []);
        let lifetime = Lifetime { run_ms: None, exit_code: 0, term_ms: None };
        let late = keeper.spawn(1_300, "5".into(), Vec::new(), attempt(5), lifetime);
        assert!(
            matches!(late[..], [Effect::Tell(Event::NotSpawned { error: SpawnError::Refused, .. })]),
            "{late:?}"
        );
    }

    #[test]
    fn exits_are_kept_until_acknowledged_and_a_worker_finds_what_runs() {
        let mut keeper = Keeper::new(9, Vec::new());
        let mut all = spawn(&mut keeper, 1, Some(10), None);
        all.extend(spawn(&mut keeper, 2, Some(500), None));
        run(&mut keeper, all, 100);
        let listing = |keeper: &mut Keeper| match keeper.on(100, Request::List).remove(0) {
            Effect::Tell(Event::Listing { running, exited }) => {
                let running: Vec<String> = running.into_iter().map(|running| running.key).collect();
                let exited: Vec<String> = exited.into_iter().map(|(exit, _)| exit.key).collect();
                (running.join(" "), exited.join(" "))
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(listing(&mut keeper), ("2".to_owned(), "1".to_owned()));
        assert!(spawn(&mut keeper, 1, Some(1), None).is_empty(), "a key is used once");
        keeper.on(100, Request::Acknowledge { key: "1".to_owned() });
        assert_eq!(listing(&mut keeper), ("2".to_owned(), String::new()));
        assert!(keeper.power_loss(|| true).is_empty());
    }

    #[test]
    fn a_machine_that_stood_still_past_the_deadline_runs_nothing_on() {
        let mut keeper = Keeper::new(1, Vec::new());
        spawn(&mut keeper, 1, None, Some(5));
        keeper.on(0, Request::Deadline { at_ms: 500, lease_ms: 1_000 });
        assert!(keeper.thaw(499).is_empty());
        let effects = keeper.thaw(2_000);
        assert_eq!(effects[0], Effect::Died(attempt(1), EXIT_KILL));
        assert_eq!(keeper.attempts().count(), 0);
    }
}
