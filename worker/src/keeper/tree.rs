//! Finding the processes of an attempt in `/proc`.
//!
//! Because the keeper is a subreaper, every process that comes from an attempt stays its descendant, whatever it
//! does: `setsid` and a double fork only move it to the keeper's own child list. So the search is confined to the
//! keeper's descendants, and the question is only *whose* a re-parented one is. Signs, the strongest first:
//!
//! 1. it descends from the attempt's main process;
//! 2. the marker variable in its environment (or that of a process below it);
//! 3. its session or process group is the main process's;
//! 4. none of these (environment cleared *and* own session): it is a *stray*, and may come from any attempt that
//!    runs and started before it. When only one such attempt is left, or none, it belongs to that one.
//!
//! Rule 4 errs on the side of living: a stray never dies while another attempt could own it.

use super::spawn::MARKER;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// One living process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub parent: u32,
    pub group: u32,
    pub session: u32,
    /// Start time in clock ticks (10 ms) since boot. With the id it names a process once and for all.
    pub start_ticks: u64,
}

/// Linux reports process times in ticks of 10 ms on every architecture we build for.
const TICK_MS: u64 = 10;

/// An attempt whose processes are looked for.
#[derive(Debug, Clone)]
pub struct Owner {
    pub key: String,
    /// Main process, which may be gone already; `None` while it is being started, when the only sign of it is the
    /// marker, and not even that before its program is in place.
    pub main: Option<u32>,
    /// When it was asked for, so no later than it started.
    pub started_ms: u64,
}

/// Every living process of the machine, zombies left out.
pub fn processes() -> BTreeMap<u32, Process> {
    let mut found = BTreeMap::new();
    let Ok(entries) = fs::read_dir("/proc") else { return found };
    for entry in entries.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if let Some(process) = read_process(id) {
            found.insert(id, process);
        }
    }
    found
}

fn read_process(id: u32) -> Option<Process> {
    let stat = fs::read(format!("/proc/{id}/stat")).ok()?;
    parse_stat(&String::from_utf8_lossy(&stat))
}

/// The fields after the name, which may itself contain blanks and parentheses.
fn parse_stat(stat: &str) -> Option<Process> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    let mut number = || fields.next()?.parse::<u32>().ok();
    let (parent, group, session) = (number()?, number()?, number()?);
    // Fields 7 to 21 lie between the session and the start time.
    let start_ticks = fields.nth(15)?.parse().ok()?;
    Some(Process { parent, group, session, start_ticks })
}

/// The marker's value in a process's environment.
pub fn marker(id: u32) -> Option<String> {
    let environment = fs::read(format!("/proc/{id}/environ")).ok()?;
    let prefix = format!("{MARKER}=");
    let value = environment.split(|b| *b == 0).find_map(|entry| entry.strip_prefix(prefix.as_bytes()))?;
    String::from_utf8(value.to_vec()).ok()
}

/// The processes of each attempt in `owners`, and strays that no attempt can own any longer.
#[derive(Debug, Default)]
pub struct Members {
    pub by_key: BTreeMap<String, Vec<(u32, Process)>>,
    pub ownerless: Vec<(u32, Process)>,
}

/// Attributes every descendant of `keeper`. `owners` are all attempts the keeper has not yet found finished, those
/// being started among them, and are looked up *after* `processes` were: whatever was found living has its owner there.
/// `marker_of` reads the attempt key from a process's environment.
pub fn attribute(
    keeper: u32,
    processes: &BTreeMap<u32, Process>,
    owners: &[Owner],
    marker_of: impl Fn(u32) -> Option<String>,
) -> Members {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (id, process) in processes {
        children.entry(process.parent).or_default().push(*id);
    }
    let by_main: BTreeMap<u32, &Owner> =
        owners.iter().filter_map(|owner| Some((owner.main?, owner))).collect();
    let keys: BTreeSet<&str> = owners.iter().map(|owner| owner.key.as_str()).collect();
    let mut members = Members::default();
    for root in children.get(&keeper).into_iter().flatten() {
        let tree = subtree(*root, &children);
        let key = by_main
            .get(root)
            .map(|owner| owner.key.clone())
            .or_else(|| tree.iter().find_map(|id| marker_of(*id).filter(|key| keys.contains(key.as_str()))))
            .or_else(|| {
                tree.iter().filter_map(|id| processes.get(id)).find_map(|process| {
                    let owner = by_main.get(&process.session).or_else(|| by_main.get(&process.group))?;
                    Some(owner.key.clone())
                })
            });
        let tree = tree.into_iter().filter_map(|id| Some((id, processes.get(&id)?.clone())));
        let key = key.or_else(|| {
            let started_ms = processes.get(root)?.start_ticks * TICK_MS;
            let mut possible = owners.iter().filter(|owner| owner.started_ms <= started_ms + 2 * TICK_MS);
            match (possible.next(), possible.next()) {
                (Some(only), None) => Some(only.key.clone()),
                (Some(_), Some(_)) => Some(String::new()),
                (None, _) => None,
            }
        });
        match key {
            // Several attempts may own it: it belongs to none yet.
            Some(key) if key.is_empty() => {}
            Some(key) => members.by_key.entry(key).or_default().extend(tree),
            None => members.ownerless.extend(tree),
        }
    }
    members
}

fn subtree(root: u32, children: &BTreeMap<u32, Vec<u32>>) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(id) = found.get(next) {
        found.extend(children.get(id).into_iter().flatten());
        next += 1;
    }
    found
}

/// Sends a signal to exactly this process: the descriptor pins the id, the start time proves it is still the one
/// that was looked at. Returns whether the process was there.
pub fn signal(id: u32, process: &Process, signal: Signal) -> bool {
    let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) else { return false };
    let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    let same = read_process(id).is_some_and(|now| now.start_ticks == process.start_ticks);
    same && pidfd_send_signal(&descriptor, signal).is_ok()
}

/// Kills what an earlier keeper of this directory left behind: processes whose marker starts with `prefix`. They
/// are not our descendants; the marker is the only sign left.
pub fn kill_marked(prefix: &str) -> usize {
    let mut killed = 0;
    // A process may fork while we look; a few rounds catch up with it.
    for _ in 0..50 {
        let mut found = 0;
        for (id, process) in processes() {
            if id != std::process::id() && marker(id).is_some_and(|value| value.starts_with(prefix)) {
                found += 1;
                killed += usize::from(signal(id, &process, Signal::KILL));
            }
        }
        if found == 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    killed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stat_lines_with_awkward_names() {
        let line = "42 (a) b (c)) S 7 8 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 1000 0";
        let expected = Process { parent: 7, group: 8, session: 9, start_ticks: 123_456 };
        assert_eq!(parse_stat(line), Some(expected));
        assert_eq!(parse_stat("42 (gone) Z 7 8 9 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 5 0 0"), None);
        assert_eq!(parse_stat("garbage"), None);
    }

    const KEEPER: u32 = 100;
    /// Stands for the main process of an attempt that is being started.
    const STARTING: u32 = 0;

    /// `(id, parent, session, start in ms, marker)` of each process; who owns whom.
    fn check(
        rows: &[(u32, u32, u32, u64, &str)],
        owners: &[(&str, u32, u64)],
        expected: &[(&str, &[u32])],
        ownerless: &[u32],
    ) {
        let processes = rows
            .iter()
            .map(|(id, parent, session, start_ms, _)| {
                let start_ticks = start_ms / TICK_MS;
                (*id, Process { parent: *parent, group: *session, session: *session, start_ticks })
            })
            .collect();
        let owners: Vec<Owner> = owners
            .iter()
            .map(|(key, main, started_ms)| Owner {
                key: (*key).into(),
                main: (*main != STARTING).then_some(*main),
                started_ms: *started_ms,
            })
            .collect();
        let marker = |id| {
            let row = rows.iter().find(|row| row.0 == id)?;
            (!row.4.is_empty()).then(|| row.4.to_owned())
        };
        let members = attribute(KEEPER, &processes, &owners, marker);
        let ids = |list: &[(u32, Process)]| list.iter().map(|(id, _)| *id).collect::<Vec<_>>();
        let found: Vec<(&str, Vec<u32>)> = members.by_key.iter().map(|(k, v)| (k.as_str(), ids(v))).collect();
        let expected: Vec<(&str, Vec<u32>)> = expected.iter().map(|(k, v)| (*k, v.to_vec())).collect();
        assert_eq!(found, expected);
        assert_eq!(ids(&members.ownerless), ownerless);
    }

    #[test]
    fn a_tree_belongs_to_its_main_process_and_others_to_nobody() {
        check(
            &[(1, 0, 1, 0, "A"), (10, KEEPER, 10, 500, ""), (11, 10, 10, 600, ""), (12, 11, 12, 600, "")],
            &[("A", 10, 500)],
            &[("A", &[10, 11, 12])],
            &[],
        );
    }

    #[test]
    fn orphans_are_known_by_marker_then_by_session() {
        check(
            &[
                (10, KEEPER, 10, 500, "A"),
                (20, KEEPER, 20, 500, "B"),
                // Own session, marker kept.
                (30, KEEPER, 30, 700, "B"),
                // Marker lost, session kept; main process of C is gone.
                (31, KEEPER, 40, 700, ""),
                // Marker only below.
                (32, KEEPER, 32, 700, ""),
                (33, 32, 32, 700, "A"),
            ],
            &[("A", 10, 500), ("B", 20, 500), ("C", 40, 600)],
            &[("A", &[10, 32, 33]), ("B", &[20, 30]), ("C", &[31])],
            &[],
        );
    }

    #[test]
    fn what_is_being_started_is_nobody_elses() {
        let owners = [("A", 10, 500), ("B", STARTING, 690)];
        // Before its program is in place it has no marker, and may be a stray of A as well.
        check(&[(20, KEEPER, 20, 700, "")], &owners, &[], &[]);
        check(&[(20, KEEPER, 20, 700, "B")], &owners, &[("B", &[20])], &[]);
        check(&[(20, KEEPER, 20, 700, "")], &owners[1..], &[("B", &[20])], &[]);
    }

    #[test]
    fn a_stray_waits_until_only_one_attempt_can_own_it() {
        let stray = (30, KEEPER, 30, 700, "");
        let two = [("A", 10, 500), ("B", 20, 500)];
        check(&[stray], &two, &[], &[]);
        check(&[stray], &two[..1], &[("A", &[30])], &[]);
        // B started after the stray, so it is A's.
        check(&[stray], &[("A", 10, 500), ("B", 20, 900)], &[("A", &[30])], &[]);
        check(&[stray], &[("B", 20, 900)], &[], &[30]);
        check(&[stray], &[], &[], &[30]);
        // A marker of an attempt long over is no owner either.
        check(&[(30, KEEPER, 30, 700, "Z")], &[], &[], &[30]);
    }
}
