//! A campaign of damage: a folder written by a real member with real commands, stopped, one of its files cut, zeroed,
//! flipped or removed, and started again.
//!
//! Only two things may happen: the state has the same hash at the same entry as without the damage, or the start is
//! refused with an error that names the remedy. What was refused is then recovered, and the state that this gives has
//! the hash that was seen at that entry when it was written. `LOTE_FAULTS` sets the number of cases (`LOTE_SLOW=1`:
//! 1 000), `LOTE_SEED` where they begin.

use crate::engine::Engine;
use crate::replication::recover::{force_single, read_snapshot, restore};
use crate::replication::{self, Config, EngineMachine, Error, Reading, Replica, Start, Time};
use crate::state::command::TaskAdd;
use crate::state::testing::*;
use crate::state::{Action, Cluster, Command};
use crate::store::{MemoryStore, SwitchStore};
use lote_shared::model::Timestamp;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A clock that stands still, so that two starts of one folder write the same entries.
struct Still;

impl Time for Still {
    fn read(&self) -> Reading {
        Reading { wall: Timestamp(START.0 + 3_600_000), monotonic_us: 0 }
    }
}

struct Member {
    engine: Engine,
    replica: Replica,
}

/// What a member shows: its last entry, the hash there, and all of its state.
type Seen = (Option<u64>, String, [u8; 32]);

impl Member {
    async fn start(folder: &Path) -> Result<Member, Error> {
        let config = Config {
            snapshot_entries: 60,
            keep_entries: 20,
            segment_bytes: 20_000,
            store_cache_bytes: 4 * 1024 * 1024,
            ..Config::new(folder)
        };
        let store = Arc::new(SwitchStore::new(Arc::new(MemoryStore::new())));
        let (engine, queue) = Engine::new(Cluster::new(), store.clone());
        let machine = Arc::new(EngineMachine::new(&engine, store));
        let start = Start::Found { me: replication::Member::default() };
        let replica = Replica::start(config, start, None, machine, queue, Arc::new(Still)).await?;
        Ok(Member { engine, replica })
    }

    fn seen(&self) -> Seen {
        let status = self.replica.status();
        (status.applied, status.state_hash, self.engine.read(Cluster::digest))
    }
}

/// A history with everything in it: pools, nodes, tasks that run, fail, are retried, and go.
fn history() -> Vec<Command> {
    let mut w = World::new();
    w.pool("p", 3, 2);
    w.job("j", "p");
    w.job("gone", "p");
    w.tasks("gone", 60);
    let tasks = w.tasks("j", 120);
    let retried = w.task_with("j", TaskAdd { max_retry_count: Some(3), ..task_add("retried") });
    let nodes = w.nodes("p");
    for (n, task) in tasks.iter().take(40).enumerate() {
        let attempt = w.run(nodes[n % 3], *task);
        w.pass_ms(50);
        w.exit(nodes[n % 3], attempt, (n % 4) as i32);
    }
    let attempt = w.run(nodes[0], retried);
    w.exit(nodes[0], attempt, 1);
    w.delete("gone").unwrap();
    w.resize("p", 2, lote_shared::model::DeallocationOption::Requeue).unwrap();
    w.tasks("j", 10);
    w.log.into_iter().map(|(_, command)| command).collect()
}

/// Writes the history; gives the hash at every entry that was seen.
async fn write(folder: &Path) -> BTreeMap<u64, String> {
    let mut hashes = BTreeMap::new();
    let member = Member::start(folder).await.unwrap();
    let mut note = |member: &Member| {
        let status = member.replica.status();
        hashes.insert(status.applied.unwrap(), status.state_hash);
    };
    note(&member);
    for command in history() {
        member.engine.propose_command(command).await.unwrap().ok();
        note(&member);
    }
    for _ in 0..1_000 {
        if member.replica.status().purged > Some(20) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(member.replica.status().purged > Some(20), "{:?}", member.replica.status());
    member.replica.shutdown().await;
    hashes
}

pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

fn kind(path: &str) -> &'static str {
    match path {
        path if path.starts_with("raft/log/") => "log",
        path if path.starts_with("raft/snapshots/") => "snapshot",
        "raft/member" => "member",
        "format-version" => "version",
        "state/current" => "pointer",
        path if path.starts_with("state/") => "state",
        _ => "other",
    }
}

/// SplitMix64: enough to pick files and places.
pub(super) struct Dice(pub u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// Damages one file; says which and how.
pub(super) fn damage(folder: &Path, dice: &mut Dice) -> (&'static str, &'static str, String) {
    let all = files(folder);
    let name = |path: &Path| path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
    let mut kinds: BTreeMap<&str, Vec<&PathBuf>> = BTreeMap::new();
    for path in &all {
        kinds.entry(kind(&name(path))).or_default().push(path);
    }
    // The large ones more often; the lock holds nothing.
    let order =
        ["log", "log", "log", "state", "state", "snapshot", "snapshot", "member", "version", "pointer"];
    let drawn = order[dice.below(order.len())];
    // A young member has no snapshot.
    let chosen = if kinds.contains_key(drawn) { drawn } else { "log" };
    let paths = &kinds[chosen];
    let path = paths[dice.below(paths.len())];
    let mut bytes = fs::read(path).unwrap();
    // sled's file is mostly empty space; damage there shows nothing.
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let at = dice.below(used);
    let how = ["cut", "zeroed", "flipped", "flipped", "removed"][dice.below(5)];
    match how {
        "cut" => bytes.truncate(at),
        "zeroed" => bytes[at..].fill(0),
        "flipped" if used > 0 => bytes[at] ^= 1 << dice.below(8),
        _ => {}
    }
    match how {
        "removed" => fs::remove_file(path).unwrap(),
        _ => fs::write(path, bytes).unwrap(),
    }
    (chosen, how, format!("{} {how} at {at} of {used}", name(path)))
}

pub(super) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_harmless_or_refused_and_what_is_refused_can_be_recovered() {
    let slow = std::env::var_os("LOTE_SLOW").is_some_and(|value| value == "1");
    let cases = number("LOTE_FAULTS").unwrap_or(if slow { 1_000 } else { 40 });
    let first = number("LOTE_SEED").unwrap_or(1);
    let base = tempfile::tempdir().unwrap();
    let original = base.path().join("original");
    let hashes = write(&original).await;
    let last = *hashes.keys().last().unwrap();
    let sound = base.path().join("sound");
    copy(&original, &sound);
    let member = Member::start(&sound).await.unwrap();
    let expected = member.seen();
    member.replica.shutdown().await;
    assert!(expected.0 > Some(last));

    let mut outcomes: BTreeMap<(&str, &str), [u64; 2]> = BTreeMap::new();
    let mut wrong = Vec::new();
    for seed in first..first + cases {
        let folder = base.path().join(format!("case-{seed}"));
        copy(&original, &folder);
        let (kind, how, what) = damage(&folder, &mut Dice(seed));
        let started = tokio::time::timeout(Duration::from_secs(60), Member::start(&folder)).await;
        let outcome = match started {
            Err(_) => Err("the start hangs".to_owned()),
            Ok(Ok(member)) => {
                let seen = member.seen();
                member.replica.shutdown().await;
                if seen == expected { Ok(0) } else { Err(format!("another state: {seen:?}")) }
            }
            Ok(Err(error)) => {
                let text = error.to_string();
                // A newer folder is the one error whose remedy is another: that version.
                let is_newer = matches!(error, Error::NewerFormat { .. });
                if is_newer {
                    Ok(1)
                } else if text.contains("lote recover") {
                    recover(&folder, &hashes).await.map(|()| 1)
                } else {
                    Err(format!("refused without a remedy: {text}"))
                }
            }
        };
        match outcome {
            Ok(which) => outcomes.entry((kind, how)).or_default()[which] += 1,
            Err(why) => wrong.push(format!("seed {seed}: {what}: {why}")),
        }
        fs::remove_dir_all(&folder).unwrap();
    }
    println!("{cases} cases from seed {first}; expected {:?}", expected.0);
    for ((kind, how), [same, refused]) in &outcomes {
        println!("{kind:>9} {how:<8} same state {same:>4}  refused and recovered {refused:>4}");
    }
    assert!(wrong.is_empty(), "{} of {cases}:\n{}", wrong.len(), wrong.join("\n"));
    let sum = |which: usize| outcomes.values().map(|counts| counts[which]).sum::<u64>();
    assert!(sum(0) > 0 && sum(1) > 0, "one of the outcomes never happened");
}

/// Recovers a folder that was refused; the state it gets is one that was there.
async fn recover(folder: &Path, hashes: &BTreeMap<u64, String>) -> Result<(), String> {
    let recovery = force_single(folder).map_err(|error| format!("recovery: {error}"))?;
    let last = *hashes.keys().last().unwrap();
    if let Some(index) = recovery.index {
        // The entries of the start are not in the table: its first one is the last of them.
        let known = hashes.get(&index).is_none_or(|hash| *hash == recovery.state_hash);
        if !known || index > last {
            return Err(format!("recovered to another state: {recovery:?}"));
        }
        if index < last && recovery.known_until.is_none() && recovery.flaws.is_empty() {
            return Err(format!("a loss that nobody was told of: {recovery:?}"));
        }
    }
    let member = Member::start(folder).await.map_err(|error| format!("after the recovery: {error}"))?;
    let status = member.replica.status();
    member.replica.shutdown().await;
    if status.member != recovery.member || status.applied <= recovery.index {
        return Err(format!("after the recovery: {status:?}, {recovery:?}"));
    }
    let again = force_single(folder).map_err(|error| format!("second recovery: {error}"))?;
    if !again.unchanged || again.member != recovery.member || again.index != status.applied {
        return Err(format!("the second recovery is not idle: {again:?} after {status:?}"));
    }
    Ok(())
}

/// Whole folders that are gone, alone and together.
#[tokio::test]
async fn missing_folders_are_made_anew_or_refused() {
    let base = tempfile::tempdir().unwrap();
    let original = base.path().join("original");
    let hashes = write(&original).await;
    // What is missing; whether it can start, else whether it can be recovered.
    let cases: [(&[&str], bool, bool); 7] = [
        (&["state"], true, true),
        (&["raft/snapshots"], true, true),
        (&["raft/log"], false, true),
        (&["raft"], false, true),
        (&["raft/log", "state"], false, true),
        (&["raft/snapshots", "state"], false, false),
        (&["raft/member", "raft/log/0000000000000003.log", "format-version"], false, true),
    ];
    for (number, (missing, starts, recovers)) in cases.into_iter().enumerate() {
        let folder = base.path().join(number.to_string());
        copy(&original, &folder);
        for name in missing {
            let path = folder.join(name);
            if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
        match Member::start(&folder).await {
            Ok(member) => {
                assert!(starts, "{missing:?} starts");
                assert!(member.seen().0 > hashes.keys().last().copied(), "{missing:?}");
                member.replica.shutdown().await;
                continue;
            }
            Err(error) => {
                assert!(!starts, "{missing:?}: {error}");
                assert!(error.to_string().contains("lote recover"), "{missing:?}: {error}");
            }
        }
        if recovers {
            recover(&folder, &hashes).await.unwrap_or_else(|why| panic!("{missing:?}: {why}"));
        } else {
            let error = force_single(&folder).unwrap_err().to_string();
            assert!(error.contains("lote restore"), "{missing:?}: {error}");
        }
    }
}

/// Nothing is damaged, but parts of the folder are from another time.
#[tokio::test]
async fn an_older_log_is_refused_and_older_rows_and_snapshots_are_made_anew() {
    let base = tempfile::tempdir().unwrap();
    let (folder, older) = (base.path().join("folder"), base.path().join("older"));
    let commands = history();
    let half = commands.len() / 2;
    let mut hash = String::new();
    for (part, keep) in [(&commands[..half], true), (&commands[half..], false)] {
        let member = Member::start(&folder).await.unwrap();
        for command in part {
            member.engine.propose_command(command.clone()).await.unwrap().ok();
        }
        // A snapshot of each half, and a log that begins after it.
        member.replica.snapshot().await.unwrap();
        let wanted = member.replica.status().applied;
        for _ in 0..1_000 {
            if member.replica.status().snapshot >= wanted {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        hash.clone_from(&member.replica.status().state_hash);
        member.replica.shutdown().await;
        if keep {
            copy(&folder, &older);
        }
    }
    for (part, starts) in [("raft/log", false), ("state", true), ("raft/snapshots", true)] {
        let mixed = base.path().join(part.replace('/', "-"));
        copy(&folder, &mixed);
        fs::remove_dir_all(mixed.join(part)).unwrap();
        copy(&older.join(part), &mixed.join(part));
        match Member::start(&mixed).await {
            Ok(member) => {
                assert!(starts, "an older {part} goes unnoticed");
                member.replica.shutdown().await;
            }
            Err(error) => {
                assert!(!starts, "{part}: {error}");
                assert!(error.to_string().contains("lote recover"), "{part}: {error}");
                let recovery = force_single(&mixed).unwrap();
                assert_eq!(recovery.state_hash, hash, "{recovery:?}");
            }
        }
    }
}

/// A crash between the moves of a recovery: refused, and finished by the next one.
#[tokio::test]
async fn an_interrupted_recovery_is_finished_by_the_next_one() {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().join("folder");
    let hashes = write(&folder).await;
    fs::write(folder.join("raft/member"), "9 00000000\n").unwrap();
    let done = base.path().join("done");
    copy(&folder, &done);
    let expected = force_single(&done).unwrap();
    assert_eq!((expected.member, expected.index), (2, hashes.keys().last().copied()));
    // As it stands before each of the moves.
    for moved in [&[][..], &["state"], &["state", "raft"]] {
        let half = base.path().join(format!("half-{}", moved.len()));
        copy(&folder, &half);
        copy(&done.join("raft"), &half.join("recovering/raft"));
        for name in moved {
            copy(&half.join(name), &half.join("replaced").join(name));
            fs::remove_dir_all(half.join(name)).unwrap();
        }
        let refused = Member::start(&half).await.map(|_| ()).unwrap_err();
        assert!(refused.to_string().contains("lote recover"), "{moved:?}: {refused}");
        let finished = force_single(&half).unwrap();
        assert_eq!((finished.member, &finished.state_hash), (2, &expected.state_hash), "{moved:?}");
        assert!(
            finished.unchanged && half.join("replaced/state").exists() && half.join("replaced/raft").exists()
        );
        let member = Member::start(&half).await.unwrap();
        assert!(member.seen().0 > expected.index);
        member.replica.shutdown().await;
    }
}

#[tokio::test]
async fn a_snapshot_restored_elsewhere_has_the_same_hash_and_goes_on_alone() {
    let base = tempfile::tempdir().unwrap();
    let (from, to) = (base.path().join("from"), base.path().join("to"));
    let hashes = write(&from).await;
    let snapshot = crate::replication::recover::newest_snapshot(&from).unwrap();
    let (index, hash, cluster) = read_snapshot(&snapshot).unwrap();
    assert_eq!(hashes.get(&index.unwrap()), Some(&hash));
    let restored = restore(&snapshot, &to).unwrap();
    assert_eq!((restored.index, &restored.state_hash, restored.member), (index, &hash, 2));
    let second = restore(&snapshot, &to).unwrap_err();
    assert!(matches!(second, Error::Exists { .. }), "{second}");
    let member = Member::start(&to).await.unwrap();
    assert_eq!(member.engine.read(Cluster::all_tasks_count), cluster.all_tasks_count());
    let status = member.replica.status();
    assert!(status.applied > index && status.member == 2, "{status:?}");
    let action = Action::AccountAdd { name: "other".to_owned(), keys: vec![vec![1; 40]] };
    member.engine.propose(crate::state::keys::CLUSTER, action).await.unwrap().unwrap();
    let before = member.seen();
    member.replica.shutdown().await;
    let member = Member::start(&to).await.unwrap();
    assert!(member.seen().0 > before.0);
    member.replica.shutdown().await;
    // A damaged one is refused, and leaves nothing behind that could be started.
    let mut bytes = fs::read(&snapshot).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let damaged = base.path().join("damaged.snapshot");
    fs::write(&damaged, bytes).unwrap();
    let error = restore(&damaged, &base.path().join("other")).unwrap_err();
    assert!(error.to_string().contains("is damaged"), "{error}");
    assert!(!base.path().join("other/raft").exists());
}
