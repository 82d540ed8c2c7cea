//! Snapshot files come back whole or not at all, and one that finds no room leaves nothing behind.

use super::*;
use crate::store::{MemoryStore, rows};
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicI64, Ordering};

fn filled() -> MemoryStore {
    let store = MemoryStore::new();
    let batch: Vec<StoreWrite> =
        (0..300_u32).map(|n| (n.to_be_bytes().to_vec(), Some(vec![n as u8; n as usize]))).collect();
    store.write(&batch).unwrap();
    store
}

fn all(store: &dyn Store) -> Vec<(Vec<u8>, Vec<u8>)> {
    rows(store).map(Result::unwrap).collect()
}

#[test]
fn a_snapshot_brings_all_rows_and_the_newest_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut snapshots = Snapshots::open(folder.path()).unwrap();
    assert!(snapshots.current().is_none());
    let store = filled();
    for index in [4, 9] {
        snapshots.build(&Applied::at_index(index), &store).unwrap();
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    fs::write(folder.path().join("received-1.new"), b"half").unwrap();
    let snapshots = Snapshots::open(folder.path()).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let (position, file) = snapshots.current().unwrap();
    assert_eq!(position, &Applied::at_index(9));
    let other = MemoryStore::new();
    assert_eq!(&load(&file, &other).unwrap(), position);
    assert_eq!(all(&other), all(&store));
}

#[test]
fn every_damage_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let mut snapshots = Snapshots::open(folder.path()).unwrap();
    snapshots.build(&Applied::at_index(1), &filled()).unwrap();
    let (_, file) = snapshots.current().unwrap();
    let good = fs::read(&file.path).unwrap();
    assert_eq!(verify(&file).unwrap(), Applied::at_index(1));
    let damaged = SnapshotFile { path: folder.path().join("damaged") };
    for step in 0..200 {
        let at = good.len() * step / 200;
        let mut flipped = good.clone();
        flipped[at] ^= 1 << (step % 8);
        fs::write(&damaged.path, &flipped).unwrap();
        assert!(verify(&damaged).is_err(), "flip at {at}");
        assert!(load(&damaged, &MemoryStore::new()).is_err(), "flip at {at}");
        fs::write(&damaged.path, &good[..at]).unwrap();
        assert!(verify(&damaged).is_err(), "cut at {at}");
    }
    fs::write(&damaged.path, [&good[..], b"x"].concat()).unwrap();
    assert!(verify(&damaged).is_err(), "trailing byte");
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_snapshot_for_which_there_is_no_room_leaves_the_old_one_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let left = std::sync::Arc::new(AtomicI64::new(i64::MAX));
    let looked = left.clone();
    let room = Room::scripted(move |_| looked.fetch_sub(1, Ordering::Relaxed) > 0);
    let mut snapshots = Snapshots::open(folder.path()).unwrap().with_room(room);
    // Enough for several looks at the disk.
    let store = MemoryStore::new();
    let batch: Vec<StoreWrite> =
        (0..16_u32).map(|n| (n.to_be_bytes().to_vec(), Some(vec![n as u8; 1024 * 1024]))).collect();
    store.write(&batch).unwrap();
    snapshots.build(&Applied::at_index(1), &store).unwrap();
    let before = names(folder.path());
    for looks in 0..4 {
        left.store(looks, Ordering::Relaxed);
        let built = snapshots.build(&Applied::at_index(2), &store);
        assert!(matches!(built, Err(Error::NoRoom { .. })), "{looks}: {built:?}");
        assert_eq!(names(folder.path()), before, "{looks}");
    }
    // The disk itself says so.
    left.store(i64::MAX, Ordering::Relaxed);
    let temporary = folder.path().join(format!("{}.new", Applied::at_index(2).name()));
    symlink("/dev/full", temporary).unwrap();
    let built = snapshots.build(&Applied::at_index(2), &store);
    assert!(matches!(built, Err(Error::NoRoom { .. })), "{built:?}");
    assert_eq!(names(folder.path()), before);
    assert_eq!(snapshots.current().unwrap().0, &Applied::at_index(1));

    snapshots.build(&Applied::at_index(2), &store).unwrap();
    let (position, file) = snapshots.current().unwrap();
    assert_eq!((position, verify(&file).unwrap()), (&Applied::at_index(2), Applied::at_index(2)));
    assert_eq!(names(folder.path()).len(), 1);
}

#[test]
fn of_several_the_newest_stays_at_a_start() {
    let folder = tempfile::tempdir().unwrap();
    for index in [7, 300, 20] {
        let writer = Snapshots::open(&folder.path().join("aside")).unwrap().writer(&Applied::at_index(index));
        let path = writer().unwrap().finish().unwrap();
        fs::rename(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    fs::remove_dir_all(folder.path().join("aside")).unwrap();
    let snapshots = Snapshots::open(folder.path()).unwrap();
    assert_eq!(snapshots.current().unwrap().0, &Applied::at_index(300));
    assert_eq!(names(folder.path()).len(), 1);
}
