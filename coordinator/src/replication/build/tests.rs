//! Snapshots that are built while entries are applied: each has the state at the entry at which it was begun, whatever
//! came since.

use super::*;
use crate::replication::applier::{Home, MemoryHome};
use crate::replication::log::EntryId;
use crate::replication::payload::Payload;
use crate::replication::room::Room;
use crate::replication::snapshot::Snapshots;
use crate::replication::tests::toy::{Toy, command};
use crate::replication::types::{TypeConfig, from_id};
use crate::store::{MemoryStore, Write, rows};
use lote_shared::model::Timestamp;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, Snapshot};
use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

type Machines = StateMachine<Toy>;

/// Entry `index` touches some names of 4 000: some of old, some new.
fn entry(index: u64) -> openraft::Entry<TypeConfig> {
    let names = (0..200).map(|n| format!("{:04}", (index * 7_919 + n * 37) % 4_000));
    let commands: Vec<Vec<u8>> = names.map(|name| command(&name).encode().unwrap()).collect();
    let payload = Payload::new(Timestamp(index), commands.iter().map(Vec::as_slice));
    let log_id = from_id(EntryId { term: 1, node: 1, index });
    openraft::Entry { log_id, payload: EntryPayload::Normal(payload) }
}

fn applier(folder: &Path) -> (Arc<Toy>, Applier<Toy>) {
    let toy = Arc::new(Toy::new());
    let snapshots = Snapshots::open(&folder.join("snapshots")).unwrap();
    (toy.clone(), Applier::open(toy, Box::new(MemoryHome), snapshots).unwrap())
}

/// The rows and the position after the entries up to this one, applied one after another with nothing in between.
fn replayed(upto: u64) -> (Vec<Row>, Applied) {
    let folder = tempfile::tempdir().unwrap();
    let (toy, mut applier) = applier(folder.path());
    for index in 0..=upto {
        applier.apply(&entry(index)).unwrap();
    }
    (rows(&*toy.store()).map(Result::unwrap).collect(), applier.applied().clone())
}

fn check(file: &SnapshotFile) -> u64 {
    let store = MemoryStore::new();
    let position = snapshot::load(file, &store).unwrap();
    let (expected, applied) = replayed(position.index().unwrap());
    assert_eq!(position, applied, "position and running hash");
    let found: Vec<Row> = rows(&store).map(Result::unwrap).collect();
    assert_eq!(found.len(), expected.len());
    assert!(found == expected, "rows differ");
    position.index().unwrap()
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder.join("snapshots")).unwrap().count()
}

async fn apply(machine: &mut Machines, indexes: std::ops::Range<u64>) {
    let entries: Vec<_> = indexes.map(entry).collect();
    RaftStateMachine::<TypeConfig>::apply(machine, entries).await.unwrap();
}

async fn build_snapshot(mut machine: Machines) -> Snapshot<TypeConfig> {
    RaftSnapshotBuilder::<TypeConfig>::build_snapshot(&mut machine).await.unwrap()
}

/// A build is begun, then slices and entries take turns in this ratio.
#[test]
fn whatever_is_applied_between_slices_the_snapshot_is_of_its_entry() {
    for (entries, slices) in [(0, 1), (1, 1), (7, 1), (1, 3)] {
        let folder = tempfile::tempdir().unwrap();
        let (_, mut applier) = applier(folder.path());
        for index in 0..30 {
            applier.apply(&entry(index)).unwrap();
        }
        let begun = applier.begin_build().unwrap().unwrap();
        let mut writer = (begun.create)().unwrap();
        let (mut next, mut count) = (30, 0);
        'build: loop {
            for _ in 0..entries {
                applier.apply(&entry(next)).unwrap();
                next += 1;
            }
            for _ in 0..slices {
                match applier.next_slice(begun.number).unwrap() {
                    Slice::Rows(rows) => writer.write(&rows).unwrap(),
                    Slice::Last => break 'build,
                    Slice::Superseded => panic!("nothing was installed"),
                }
                count += 1;
            }
        }
        assert!(count > 2, "{count} slices are no test");
        let path = writer.finish().unwrap();
        assert_eq!(applier.end_build(begun.number, Some((begun.position, path))), None);
        let (meta, file) = applier.current_snapshot().unwrap();
        assert_eq!(meta.last_log_id.unwrap().index, 29);
        assert_eq!(check(&file), 29, "{entries} {slices}");
        assert_eq!(files(folder.path()), 1);
    }
}

#[tokio::test]
async fn entries_go_on_beside_the_applying_thread_s_slices() {
    let folder = tempfile::tempdir().unwrap();
    let (_, applier) = applier(folder.path());
    let (mut machine, thread) = StateMachine::on_thread(applier).unwrap();
    apply(&mut machine, 0..40).await;
    let mut next = 40;
    for _ in 0..3 {
        let building = tokio::spawn(build_snapshot(machine.clone()));
        let since = next;
        while !building.is_finished() {
            apply(&mut machine, next..next + 1).await;
            next += 1;
        }
        let built = building.await.unwrap();
        assert!(check(&built.snapshot) >= since - 1);
        assert_eq!(files(folder.path()), 1, "the one before is gone");
    }
    drop(machine);
    // No position is built twice.
    let mut applier = thread.join().unwrap();
    let before = applier.current_snapshot().unwrap();
    if applier.begin_build().unwrap().is_some() {
        let machine = StateMachine::inline(applier);
        let built = build_snapshot(machine.clone()).await;
        assert!(built.meta.last_log_id > before.0.last_log_id);
        let again = build_snapshot(machine).await;
        assert_eq!((again.meta, again.snapshot), (built.meta, built.snapshot));
    }
}

#[tokio::test]
async fn a_snapshot_that_is_installed_ends_the_build() {
    let elsewhere = tempfile::tempdir().unwrap();
    let machine = StateMachine::inline(applier(elsewhere.path()).1);
    apply(&mut machine.clone(), 0..50).await;
    let other = build_snapshot(machine).await;
    // After so many steps of the build the other one arrives: before the first slice, between two, after the last.
    for slices in [0, 1, 100] {
        let folder = tempfile::tempdir().unwrap();
        let (toy, mut applier) = applier(folder.path());
        for index in 0..30 {
            applier.apply(&entry(index)).unwrap();
        }
        let Begun { number, position, create, .. } = applier.begin_build().unwrap().unwrap();
        let mut writer = create().unwrap();
        let mut is_last = false;
        for _ in 0..slices {
            match applier.next_slice(number).unwrap() {
                Slice::Rows(rows) => writer.write(&rows).unwrap(),
                _ => is_last = true,
            }
        }
        assert_eq!(is_last, slices == 100);
        applier.install(&other.meta.snapshot_id, &other.snapshot).unwrap();
        assert_eq!(applier.next_slice(number).unwrap(), Slice::Superseded);
        let built = if is_last {
            Some((position, writer.finish().unwrap()))
        } else {
            drop(writer);
            None
        };
        let old = applier.end_build(number, built.clone());
        assert_eq!(old, built.map(|(_, path)| path), "a snapshot of the past is not kept");
        old.map(std::fs::remove_file);
        assert_eq!(applier.current_snapshot().unwrap().0, other.meta);
        assert_eq!(files(folder.path()), 1);
        // The state that was installed goes on, and can be built in its turn.
        applier.apply(&entry(50)).unwrap();
        assert_eq!(rows(&*toy.store()).map(Result::unwrap).collect::<Vec<_>>(), replayed(50).0);
        let machine = StateMachine::inline(applier);
        assert_eq!(check(&build_snapshot(machine).await.snapshot), 50);
    }
}

#[tokio::test]
async fn without_room_the_old_snapshot_stays_and_the_member_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut machine = StateMachine::inline(applier(folder.path()).1);
    let block = |index: u64| {
        let name = format!("{}.new", Applied::at_index(index).name());
        symlink("/dev/full", folder.path().join("snapshots").join(name)).unwrap();
    };
    apply(&mut machine, 0..30).await;
    block(29);
    let built = build_snapshot(machine.clone()).await;
    assert_eq!((built.meta.last_log_id, files(folder.path())), (None, 0), "there is none");
    assert!(machine.view().snapshot_trouble().is_some_and(|why| why.contains("no room")));
    let first = build_snapshot(machine.clone()).await;
    assert_eq!(check(&first.snapshot), 29);
    assert_eq!(machine.view().snapshot_trouble(), None);
    apply(&mut machine, 30..33).await;
    block(32);
    let second = build_snapshot(machine.clone()).await;
    assert_eq!((&second.meta, files(folder.path())), (&first.meta, 1), "the old one stays");
    check(&second.snapshot);
    apply(&mut machine, 33..34).await;
    assert_eq!(check(&build_snapshot(machine.clone()).await.snapshot), 33);
    assert_eq!(machine.view().stopped(), None);
}

#[tokio::test]
async fn a_build_for_which_there_was_no_room_is_begun_anew_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let left = Arc::new(AtomicI64::new(0));
    let asked = left.clone();
    let room = Room::scripted(move |_| asked.fetch_add(1, Ordering::Relaxed) > 0);
    let snapshots = Snapshots::open(&folder.path().join("snapshots")).unwrap().with_room(room);
    let applier = Applier::open(Arc::new(Toy::new()), Box::new(MemoryHome), snapshots).unwrap();
    let (mut machine, thread) = StateMachine::on_thread(applier).unwrap();
    apply(&mut machine, 0..30).await;
    let building = tokio::spawn(build_snapshot(machine.clone()));
    // Entries go on while it waits, and what comes of it is of a later one.
    while machine.view().snapshot_trouble().is_none() {
        tokio::task::yield_now().await;
    }
    apply(&mut machine, 30..33).await;
    let built = building.await.unwrap();
    assert!((29..=32).contains(&check(&built.snapshot)));
    assert_eq!(machine.view().snapshot_trouble(), None);
    drop(machine);
    thread.join().unwrap();
}

#[test]
fn entries_wait_while_too_much_is_kept_aside() {
    let store = Arc::new(MemoryStore::new());
    let count = KEPT_BYTES_MAX / (1024 * 1024) + 2;
    let row = |n: usize| -> Write { (vec![n as u8], Some(vec![0; 1024 * 1024])) };
    let batch: Vec<Write> = (0..count).map(row).collect();
    store.write(&batch).unwrap();
    let (view, mut build) = (View::default(), Build::new(1, store));
    let is_waiting = || {
        let mut waiting = std::pin::pin!(view.unpressed());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        waiting.as_mut().poll(&mut context).is_pending()
    };
    let keys: Vec<&[u8]> = batch.iter().map(|(key, _)| key.as_slice()).collect();
    build.before_write(keys[..count - 3].iter().copied(), &view).unwrap();
    assert!(!is_waiting());
    build.before_write(keys.iter().copied(), &view).unwrap();
    assert!(is_waiting());
    let mut slices = 0;
    while is_waiting() {
        assert!(matches!(build.next_slice(&view).unwrap(), Slice::Rows(_)));
        slices += 1;
    }
    assert!(slices <= 2, "{slices}");
    build.before_write(keys.iter().copied(), &view).unwrap();
    assert!(!is_waiting(), "what was read is not kept again");
}

#[test]
fn slices_grow_with_what_is_kept_aside() {
    let sizes: BTreeMap<usize, SliceMax> =
        [0, KEPT_BYTES_MAX / 2, KEPT_BYTES_MAX, usize::MAX].map(|kept| (kept, slice_max(kept))).into();
    let rows: Vec<usize> = sizes.values().map(|max| max.rows / SLICE.rows).collect();
    let bytes: Vec<usize> = sizes.values().map(|max| max.bytes / SLICE.bytes).collect();
    assert_eq!((rows, bytes), (vec![1, 4, 8, 8], vec![1, 4, 8, 8]));
}

/// Counts the stores that it gave out and that were neither adopted nor discarded.
#[derive(Default)]
struct Counting {
    open: Arc<AtomicI64>,
    fresh: i64,
}

impl Home for Counting {
    fn fresh(&mut self) -> Result<Arc<dyn Store>, Error> {
        self.fresh = 1;
        self.open.fetch_add(1, Ordering::Relaxed);
        MemoryHome.fresh()
    }
    fn adopt(&mut self) -> Result<(), Error> {
        self.discard();
        Ok(())
    }
    fn discard(&mut self) {
        self.open.fetch_sub(std::mem::take(&mut self.fresh), Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_snapshot_from_elsewhere_is_prepared_with_room_or_not_at_all() {
    let elsewhere = tempfile::tempdir().unwrap();
    let machine = StateMachine::inline(applier(elsewhere.path()).1);
    // More than what is written between two looks at the disk.
    let large = |index: u64| {
        let names = (0..400).map(|n| format!("{index}-{n}-{}", "x".repeat(20_000)));
        let commands: Vec<Vec<u8>> = names.map(|name| command(&name).encode().unwrap()).collect();
        let payload = Payload::new(Timestamp(index), commands.iter().map(Vec::as_slice));
        let log_id = from_id(EntryId { term: 1, node: 1, index });
        openraft::Entry { log_id, payload: EntryPayload::Normal(payload) }
    };
    let entries: Vec<openraft::Entry<TypeConfig>> = (0..2).map(large).collect();
    RaftStateMachine::<TypeConfig>::apply(&mut machine.clone(), entries).await.unwrap();
    let other = build_snapshot(machine).await;
    let name = &other.meta.snapshot_id;

    let folder = tempfile::tempdir().unwrap();
    let has_room = Arc::new(AtomicBool::new(false));
    let asked = has_room.clone();
    let room = Room::scripted(move |_| asked.load(Ordering::Relaxed));
    let snapshots = Snapshots::open(&folder.path().join("snapshots")).unwrap().with_room(room);
    let home = Counting::default();
    let open = home.open.clone();
    let toy = Arc::new(Toy::new());
    let mut machine = StateMachine::inline(Applier::open(toy.clone(), Box::new(home), snapshots).unwrap());
    apply(&mut machine, 0..1).await;
    let before = (machine.view().applied(), toy.counts());

    let refused = machine.prepare((*other.snapshot).clone()).await;
    assert!(matches!(refused, Err(Error::Snapshot(snapshot::Error::NoRoom { .. }))), "{refused:?}");
    assert_eq!((machine.view().applied(), toy.counts()), before);
    assert_eq!((open.load(Ordering::Relaxed), machine.view().stopped()), (0, None));
    apply(&mut machine, 1..2).await;

    // Prepared and not wanted, as when the entries came another way.
    has_room.store(true, Ordering::Relaxed);
    assert_eq!(machine.prepare((*other.snapshot).clone()).await.unwrap().name(), *name);
    assert_eq!(open.load(Ordering::Relaxed), 1);
    machine.discard().await.unwrap();
    assert_eq!(open.load(Ordering::Relaxed), 0);

    // Prepared and installed: the prepared store is the one.
    machine.prepare((*other.snapshot).clone()).await.unwrap();
    assert_eq!(open.load(Ordering::Relaxed), 1);
    let install =
        RaftStateMachine::<TypeConfig>::install_snapshot(&mut machine, &other.meta, other.snapshot.clone());
    install.await.unwrap();
    assert_eq!(open.load(Ordering::Relaxed), 0);
    machine.discard().await.unwrap();
    assert_eq!(machine.view().applied().snapshot_meta(), other.meta);
    assert_eq!(toy.counts().len(), 800);
    apply(&mut machine, 2..3).await;
    assert_eq!(toy.counts().len(), 1_000);
}
