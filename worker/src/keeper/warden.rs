//! The warden thread: deadlines, endings, and the keeper's own end.
//!
//! Ending an attempt: SIGTERM (and SIGCONT, so that a stopped process hears it) to every process of the tree once,
//! then patience for the grace, then SIGKILL to whatever is found, again and again until two searches in a row find
//! nothing. Two, because a search reads one process after the other, and a process that forks and exits at the right
//! moments can slip through one of them.

use super::table::Table;
use super::wire::{Cause, Event};
use super::{FAREWELL, Keeper, State, tree};
use parking_lot::MutexGuard;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Longest pause between looks at the clock and at the directory.
const ROUND_MAX_MS: u64 = 1_000;
/// At the deadline there is no time for more: the leader waits only a tenth of a lease and a second.
const DEADLINE_GRACE_MS: u64 = 200;
/// A process that survives SIGKILL this long is stuck in the kernel; the attempt is reported with it.
const UNKILLABLE_AFTER_MS: u64 = 10_000;

/// The attempts that processes may belong to.
pub(super) fn owners(table: &Table) -> Vec<tree::Owner> {
    let owner = |(key, entry): (&String, &super::table::Entry)| tree::Owner {
        key: key.clone(),
        main: entry.main,
        started_ms: entry.started_ms,
    };
    table.entries.iter().map(owner).collect()
}

pub(super) fn run(keeper: &Arc<Keeper>) {
    // How many searches in a row found nothing of an attempt whose main process was gone before them.
    let mut clean: BTreeMap<String, u32> = BTreeMap::new();
    let mut pause_ms = 1;
    loop {
        let mut state = keeper.lock();
        let now_ms = super::sys::boottime_ms();
        if !keeper.directory.join("lock").exists() {
            state.table.shutdown.get_or_insert(super::LEFTOVER_GRACE_MS);
        }
        begin_endings(&mut state, now_ms);
        keeper.record_again(&mut state);
        let dying: BTreeMap<String, bool> = state
            .table
            .entries
            .iter()
            .filter(|(_, entry)| entry.main.is_some() && entry.ending.is_some())
            .map(|(key, entry)| (key.clone(), entry.main_exit.is_some()))
            .collect();
        if dying.is_empty() {
            clean.clear();
            pause_ms = 1;
            if state.table.shutdown.is_some() && state.table.entries.is_empty() {
                return farewell(keeper, state);
            }
            let until_deadline = state.table.deadline_ms.map_or(ROUND_MAX_MS, |d| d.saturating_sub(now_ms));
            // A deadline long past has been dealt with.
            let wait_ms = if until_deadline == 0 { ROUND_MAX_MS } else { until_deadline.min(ROUND_MAX_MS) };
            keeper.warden.wait_for(&mut state, Duration::from_millis(wait_ms));
            continue;
        }
        drop(state);
        let processes = tree::processes();
        let owners = owners(&keeper.lock().table);
        let members = keeper.members(&processes, &owners);
        for (id, process) in &members.ownerless {
            tree::signal(*id, process, Signal::KILL);
        }
        let mut state = keeper.lock();
        for (key, main_gone) in dying {
            let found = members.by_key.get(&key).map_or(&[][..], Vec::as_slice);
            if found.is_empty() && main_gone {
                let count = clean.entry(key.clone()).or_default();
                *count += 1;
                if *count >= 2 {
                    clean.remove(&key);
                    keeper.finish(&mut state, &key, 0, now_ms);
                }
                continue;
            }
            clean.remove(&key);
            step(keeper, &mut state, &key, found, now_ms);
        }
        keeper.warden.wait_for(&mut state, Duration::from_millis(pause_ms));
        pause_ms = (pause_ms * 2).min(20);
    }
}

/// Marks every attempt for its end at the deadline or at shutdown.
fn begin_endings(state: &mut State, now_ms: u64) {
    let end_all = |table: &mut Table, cause, grace_ms| {
        // A deadline fences attempts; what a start task left running is none.
        let ends = |entry: &super::table::Entry| cause != Cause::Deadline || !entry.lingering;
        let all = table.entries.iter().filter(|(_, entry)| ends(entry));
        let keys: Vec<String> = all.map(|(key, _)| key.clone()).collect();
        for key in keys {
            table.end(&key, cause, grace_ms);
        }
    };
    if state.table.deadline_ms.is_some_and(|deadline| deadline <= now_ms) && !state.table.entries.is_empty() {
        end_all(&mut state.table, Cause::Deadline, DEADLINE_GRACE_MS);
    }
    if abandoned(&state.table, now_ms) {
        state.table.shutdown.get_or_insert(super::LEFTOVER_GRACE_MS);
    }
    if let Some(grace_ms) = state.table.shutdown {
        end_all(&mut state.table, Cause::Asked, grace_ms);
    }
}

/// Nothing runs and no worker has come back for the length of a lease.
fn abandoned(table: &Table, now_ms: u64) -> bool {
    table.is_idle() && !table.connected && now_ms > table.alone_since_ms.saturating_add(table.lease_ms)
}

/// Sends what is due to the processes found of one attempt.
fn step(keeper: &Keeper, state: &mut State, key: &str, found: &[(u32, tree::Process)], now_ms: u64) {
    let Some(ending) = state.table.entries.get_mut(key).and_then(|entry| entry.ending.as_mut()) else {
        return;
    };
    let send = |signal: Signal| {
        for (id, process) in found {
            tree::signal(*id, process, signal);
        }
    };
    match ending.asked_ms {
        None => {
            send(Signal::TERM);
            send(Signal::CONT);
            ending.asked_ms = Some(now_ms);
        }
        Some(asked_ms) if now_ms >= asked_ms.saturating_add(ending.grace_ms) => {
            send(Signal::KILL);
            let killed_ms = *ending.killed_ms.get_or_insert(now_ms);
            if now_ms > killed_ms + UNKILLABLE_AFTER_MS {
                keeper.finish(state, key, u32::try_from(found.len()).unwrap_or(u32::MAX), now_ms);
            }
        }
        Some(_) => {}
    }
}

fn farewell(keeper: &Arc<Keeper>, mut state: MutexGuard<'_, State>) {
    state.table.outbox.push_back(Event::Bye);
    keeper.writer.notify_all();
    MutexGuard::unlocked(&mut state, || std::thread::sleep(FAREWELL));
    state.finished = true;
    keeper.reaper.notify_all();
    MutexGuard::unlocked(&mut state, || std::thread::sleep(FAREWELL));
    // Still here: the main thread waits for a process that nothing could end. Waiting longer helps nobody.
    let _ = std::fs::remove_file(keeper.directory.join(super::SOCKET));
    std::process::exit(0);
}
