//! A member's life on a real folder.

use super::toy::{self, PANIC, Running, config, start};
use crate::engine::Unavailable;
use crate::replication::log;
use crate::replication::{Error, Role};
use crate::state::Outcome;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command as Process, Stdio};

/// Adds names `prefix0 … prefix(count-1)` all at once.
async fn add_many(running: &Running, prefix: &str, count: usize) {
    let all = (0..count).map(|n| {
        let name = format!("{prefix}{n}");
        async move { assert_eq!(running.add(&name).await, Ok(Ok(Outcome::Done))) }
    });
    futures::future::join_all(all).await;
}

#[tokio::test]
async fn writes_are_there_after_a_restart_and_applied_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut last = None;
    for round in 0..4_usize {
        let running = start(config(folder.path())).await.unwrap();
        let counts = running.toy.counts();
        assert_eq!(counts.len(), round * 30);
        assert!(counts.values().all(|count| *count == 1), "{counts:?}");
        let status = running.replica.status();
        assert_eq!((status.role, status.member, status.stopped.clone()), (Role::Leader, 1, None));
        assert_eq!(status.applied, status.last_log);
        if let Some((applied, now)) = last {
            assert!(status.applied > Some(applied) && status.now >= now);
        }
        for n in 0..30 {
            assert_eq!(running.add(&format!("{round}-{n}")).await, Ok(Ok(Outcome::Done)));
            running.engine.linearize().await.unwrap();
        }
        let status = running.replica.status();
        last = Some((status.applied.unwrap(), status.now));
        let engine = running.engine.clone();
        running.shutdown().await;
        assert_eq!(engine.linearize().await, Err(Unavailable::NoQuorum), "nothing is answered after the end");
    }
}

#[tokio::test]
async fn commands_that_wait_together_share_a_sync() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(config(folder.path())).await.unwrap();
    let before = running.replica.status();
    // 256 callers, each proposing again as soon as it was answered.
    let callers = (0..256).map(|caller| {
        let running = &running;
        async move {
            for n in 0..8 {
                running.add(&format!("{caller}-{n}")).await.unwrap().unwrap();
            }
        }
    });
    futures::future::join_all(callers).await;
    let after = running.replica.status();
    let (syncs, entries) =
        (after.log.syncs - before.log.syncs, after.applied.unwrap() - before.applied.unwrap());
    assert!(syncs < 200 && entries < 200, "{syncs} syncs, {entries} entries for 2048 commands");
    assert_eq!(running.shutdown().await.len(), 2_048);
}

#[tokio::test]
async fn snapshots_let_the_log_go_and_bring_the_state_back() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(config(folder.path())).await.unwrap();
    for n in 0..150 {
        running.add(&format!("n{n}")).await.unwrap().unwrap();
    }
    let status = wait_until(&running, |status| status.purged > Some(50)).await;
    assert!(status.snapshot >= status.purged);
    assert!(!folder.path().join("raft/log/0000000000000001.log").exists());
    let hash = running.replica.status().state_hash;
    let counts = running.shutdown().await;
    // Everything sled held is gone or damaged.
    for damage in [remove_state as fn(&Path), flip_state] {
        damage(folder.path());
        let running = start(config(folder.path())).await.unwrap();
        assert_eq!(running.toy.counts(), counts);
        running.shutdown().await;
    }
    let running = start(config(folder.path())).await.unwrap();
    assert_ne!(running.replica.status().state_hash, hash, "the entry of the start counts");
    running.shutdown().await;
}

#[tokio::test]
async fn a_log_of_few_large_entries_is_shortened_too() {
    let folder = tempfile::tempdir().unwrap();
    let config = crate::replication::Config {
        log_bytes_max: 200_000,
        segment_bytes: 30_000,
        ..crate::replication::Config::new(folder.path())
    };
    let running = start(config.clone()).await.unwrap();
    let large = "x".repeat(40_000);
    for n in 0..10 {
        running.add(&format!("{n}{large}")).await.unwrap().unwrap();
    }
    let status = wait_until(&running, |status| status.purged.is_some()).await;
    assert_eq!(status.purged, status.snapshot);
    let counts = running.shutdown().await;
    let running = start(config).await.unwrap();
    assert_eq!((running.toy.counts(), counts.len()), (counts, 10));
    running.shutdown().await;
}

#[tokio::test]
async fn without_a_snapshot_the_state_comes_back_from_the_log_alone() {
    let folder = tempfile::tempdir().unwrap();
    let config = crate::replication::Config::new(folder.path());
    let running = start(config.clone()).await.unwrap();
    add_many(&running, "n", 100).await;
    let counts = running.shutdown().await;
    remove_state(folder.path());
    let running = start(config).await.unwrap();
    assert_eq!(running.toy.counts(), counts);
    running.shutdown().await;
}

async fn wait_until(
    running: &Running,
    done: impl Fn(&crate::replication::Status) -> bool,
) -> crate::replication::Status {
    for _ in 0..1_000 {
        let status = running.replica.status();
        if done(&status) {
            return status;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("never reached: {:?}", running.replica.status());
}

fn current_state(folder: &Path) -> std::path::PathBuf {
    let name = std::fs::read_to_string(folder.join("state/current")).unwrap();
    folder.join("state").join(name.trim())
}

fn remove_state(folder: &Path) {
    std::fs::remove_dir_all(current_state(folder)).unwrap();
}

fn flip_state(folder: &Path) {
    let db = current_state(folder).join("db");
    let mut bytes = std::fs::read(&db).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    for at in (0..used).step_by(997) {
        bytes[at] ^= 4;
    }
    std::fs::write(&db, bytes).unwrap();
}

#[tokio::test]
async fn a_panic_in_apply_stops_this_member_and_names_the_entry() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(config(folder.path())).await.unwrap();
    running.add("before").await.unwrap().unwrap();
    let index = running.replica.status().applied.unwrap() + 1;
    assert_eq!(running.add(PANIC).await, Err(Unavailable::NoQuorum));
    let why = running.replica.stopped().await;
    assert!(why.contains(&format!("entry {index} ")) && why.contains("told to panic"), "{why}");
    assert_eq!(running.replica.status().role, Role::Stopped);
    assert_eq!(running.add("after").await, Err(Unavailable::NoQuorum));
    running.shutdown().await;
    // Never skipped, not by a restart either.
    let error = start(config(folder.path())).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("told to panic"), "{error}");
}

#[tokio::test]
async fn a_folder_belongs_to_one_process_and_one_version() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(config(folder.path())).await.unwrap();
    let second = start(config(folder.path())).await.map(|_| ());
    assert!(matches!(second, Err(Error::Locked { .. })), "{second:?}");
    running.shutdown().await;
    start(config(folder.path())).await.unwrap().shutdown().await;
    std::fs::write(folder.path().join("format-version"), "99\n").unwrap();
    let newer = start(config(folder.path())).await.map(|_| ());
    assert!(matches!(newer, Err(Error::NewerFormat { .. })), "{newer:?}");
    std::fs::remove_file(folder.path().join("format-version")).unwrap();
    let foreign = start(config(folder.path())).await.map(|_| ());
    assert!(matches!(foreign, Err(Error::Unversioned { .. })), "{foreign:?}");
}

#[tokio::test]
async fn a_log_that_lost_writes_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(config(folder.path())).await.unwrap();
    running.add("a").await.unwrap().unwrap();
    running.shutdown().await;
    let log = folder.path().join("raft/log/0000000000000001.log");
    let bytes = std::fs::read(&log).unwrap();
    std::fs::write(&log, &bytes[..bytes.len() - 3]).unwrap();
    let error = start(config(folder.path())).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Log(log::Error::BehindMark { .. })), "{error}");
    std::fs::remove_file(&log).unwrap();
    let error = start(config(folder.path())).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Log(log::Error::Missing)), "{error}");
    assert!(error.to_string().contains("lote recover"));
}

#[tokio::test]
async fn the_real_engine_opens_answers_and_opens_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut applied = None;
    for _ in 0..2 {
        let (engine, replica) = crate::replication::open(config(folder.path())).await.unwrap();
        assert!(replica.status().applied > applied);
        // What it answers is the state's business; that it answers is ours.
        engine.propose_command(toy::command("name")).await.unwrap().ok();
        engine.linearize().await.unwrap();
        applied = replica.status().applied;
        replica.shutdown().await;
    }
}

/// Set for the child of the test below: the folder it works on.
const CHILD_FOLDER: &str = "LOTE_TEST_REPLICA_FOLDER";

/// Not a test of its own: the process that is killed. Adds names and prints each one that was acknowledged.
#[tokio::test]
async fn child_that_writes_until_killed() {
    let Some(folder) = std::env::var_os(CHILD_FOLDER) else { return };
    let running = start(config(Path::new(&folder))).await.unwrap();
    let round = running.toy.counts().len();
    let running = &running;
    let writers = (0..8).map(|writer| async move {
        for n in 0.. {
            let name = format!("{round}-{writer}-{n}");
            running.add(&name).await.unwrap().unwrap();
            let mut out = std::io::stdout().lock();
            writeln!(out, "acknowledged {name}").and_then(|()| out.flush()).unwrap();
        }
    });
    futures::future::join_all(writers).await;
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeSet::new();
    for round in 0..10_usize {
        let mut child = Process::new(std::env::current_exe().unwrap())
            .args(["--exact", "replication::tests::life::child_that_writes_until_killed", "--nocapture"])
            .env(CHILD_FOLDER, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Killed after a different number of acknowledgements each time, in the middle of others.
        let enough = 1 + round * 37 % 211;
        let mut seen = 0;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while seen < enough {
            let line = lines.next().expect("the child writes until it is killed").unwrap();
            if let Some(name) = line.split("acknowledged ").nth(1) {
                acknowledged.insert(name.to_owned());
                seen += 1;
            }
        }
        child.kill().unwrap();
        // What it said before it died counts too, except a line cut short.
        let rest: Vec<String> = lines.map_while(Result::ok).collect();
        child.wait().unwrap();
        let whole = rest.len().saturating_sub(1);
        acknowledged.extend(
            rest[..whole].iter().filter_map(|line| line.strip_prefix("acknowledged ")).map(str::to_owned),
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let running = start(config(folder.path())).await.unwrap();
        let counts = running.shutdown().await;
        let lost: Vec<_> = acknowledged.iter().filter(|name| !counts.contains_key(*name)).collect();
        assert!(lost.is_empty(), "lost {lost:?}");
        assert!(counts.values().all(|count| *count == 1), "applied twice");
        assert!(acknowledged.len() > 500);
    });
}

#[tokio::test]
async fn commands_that_are_too_large_are_refused_at_the_door() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(config(folder.path())).await.unwrap();
    let mut command = toy::command("x");
    command.action = crate::state::Action::AccountAdd { name: "x".repeat(300_000), keys: vec![] };
    let refused = running.engine.propose_command(command).await;
    assert!(matches!(refused, Err(Unavailable::TooLarge { .. })), "{refused:?}");
    running.add("y").await.unwrap().unwrap();
    running.shutdown().await;
}

/// A tmpfs, mounted until this is dropped; `None` where this process may not mount.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<SmallDisk> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Process::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"]).arg(folder.path());
        if mount.output().is_ok_and(|output| output.status.success()) {
            return Some(SmallDisk(folder));
        }
        eprintln!("SKIPPED: a small disk cannot be mounted here; it takes root");
        None
    }

    fn fill(&self) {
        let mut filler = std::fs::File::create(self.0.path().join("filler")).unwrap();
        while filler.write_all(&[7; 4096]).is_ok() {}
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.path().join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Process::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

#[tokio::test]
async fn a_full_disk_stops_nothing_but_writes_and_they_go_on_with_room() {
    let Some(disk) = SmallDisk::mount() else { return };
    let folder = disk.0.path().join("member");
    let running = start(config(&folder)).await.unwrap();
    running.add("before").await.unwrap().unwrap();
    let ballast = folder.join("ballast");
    for round in 0..3 {
        wait_until(&running, |_| ballast.exists()).await;
        disk.fill();
        assert_eq!(running.add("full").await, Err(Unavailable::Busy), "round {round}");
        wait_until(&running, |_| !ballast.exists()).await;
        for _ in 0..20 {
            assert_eq!(running.add("full").await, Err(Unavailable::Busy), "round {round}");
        }
        running.engine.linearize().await.unwrap();
        disk.make_room();
        wait_until(&running, |_| ballast.exists()).await;
        running.add(&format!("after{round}")).await.unwrap().unwrap();
        assert_eq!(running.replica.status().stopped, None);
    }
    let names = running.shutdown().await;
    assert_eq!(names.keys().collect::<Vec<_>>(), ["after0", "after1", "after2", "before"]);
    assert!(!ballast.exists(), "nothing of it is left");
}
