//! One conformance suite for all stores, and what sled alone must show.

use super::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const CACHE_BYTES: u64 = 16 * 1024 * 1024;

fn put(key: &str, value: &str) -> Write {
    (key.as_bytes().to_vec(), Some(value.as_bytes().to_vec()))
}

fn delete(key: &str) -> Write {
    (key.as_bytes().to_vec(), None)
}

fn scan(store: &dyn Store, start: &str, end: Option<&str>) -> String {
    let mut found = Vec::new();
    store
        .scan(start.as_bytes(), end.map(str::as_bytes), &mut |key, value| {
            found.push(format!("{}={}", String::from_utf8_lossy(key), String::from_utf8_lossy(value)));
            true
        })
        .unwrap();
    found.join(" ")
}

/// Runs a case against every implementation, each time on an empty store.
fn each_store(case: impl Fn(&dyn Store)) {
    case(&MemoryStore::new());
    let folder = tempfile::tempdir().unwrap();
    case(&SledStore::open(&folder.path().join("db"), CACHE_BYTES).unwrap());
    case(&SwitchStore::new(Arc::new(MemoryStore::new())));
}

#[test]
fn rows_come_back_in_key_order_and_ranges_are_half_open() {
    each_store(|store| {
        store.write(&[put("b", "2"), put("a", "1"), put("c", "3"), put("aa", "1a")]).unwrap();
        store.write(&[(vec![0xff, 0xff], Some(b"last".to_vec()))]).unwrap();
        assert_eq!(scan(store, "", Some("z")), "a=1 aa=1a b=2 c=3");
        assert_eq!(scan(store, "aa", Some("c")), "aa=1a b=2");
        assert_eq!(scan(store, "ab", None).split(' ').count(), 3);
        assert_eq!(scan(store, "c", Some("c")), "");
        assert_eq!(scan(store, "c", Some("a")), "");
        assert_eq!(store.get(b"aa").unwrap().as_deref(), Some(&b"1a"[..]));
        assert_eq!(store.get(b"ab").unwrap(), None);
        let mut seen = 0;
        store
            .scan(b"", None, &mut |_, _| {
                seen += 1;
                seen < 2
            })
            .unwrap();
        assert_eq!(seen, 2, "a scan stops when it is told to");
    });
}

#[test]
fn within_a_batch_the_later_write_of_a_key_wins() {
    each_store(|store| {
        store.write(&[put("k", "1"), delete("k"), put("gone", "1")]).unwrap();
        assert_eq!(scan(store, "", None), "gone=1");
        store.write(&[delete("gone"), put("gone", "2"), put("k", "1"), put("k", "2")]).unwrap();
        assert_eq!(scan(store, "", None), "gone=2 k=2");
        store.write(&[put("gone", "3"), delete("gone"), delete("never")]).unwrap();
        assert_eq!(scan(store, "", None), "k=2");
        store.write(&[]).unwrap();
        assert_eq!(scan(store, "", None), "k=2");
    });
}

#[test]
fn empty_keys_and_values_are_rows() {
    each_store(|store| {
        store.write(&[put("", "of nothing"), put("a", "")]).unwrap();
        assert_eq!(scan(store, "", None), "=of nothing a=");
        assert_eq!(store.get(b"").unwrap().as_deref(), Some(&b"of nothing"[..]));
        assert_eq!(store.get(b"a").unwrap().as_deref(), Some(&b""[..]));
        store.write(&[delete("")]).unwrap();
        assert_eq!(store.get(b"").unwrap(), None);
    });
}

#[test]
fn rows_walks_everything_in_slices() {
    each_store(|store| {
        let batch: Vec<Write> =
            (0..5_000_u32).map(|n| (n.to_be_bytes().to_vec(), Some(vec![n as u8; 3]))).collect();
        store.write(&batch).unwrap();
        let seen: Vec<u32> =
            rows(store).map(|row| u32::from_be_bytes(row.unwrap().0.try_into().unwrap())).collect();
        assert_eq!(seen, (0..5_000).collect::<Vec<_>>());
    });
}

#[test]
fn readers_never_see_half_a_batch_of_one_key_and_do_not_disturb_the_writer() {
    each_store(|store| {
        let stop = AtomicBool::new(false);
        store.write(&[put("a", "0"), put("b", "0")]).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let read = |key: &[u8]| -> u64 {
                        String::from_utf8(store.get(key).unwrap().unwrap()).unwrap().parse().unwrap()
                    };
                    let mut before = 0;
                    while !stop.load(Ordering::Relaxed) {
                        // `b` is written together with `a`, so read afterwards it is never older.
                        let a = read(b"a");
                        let b = read(b"b");
                        assert!(b >= a && a >= before, "a {a} b {b} before {before}");
                        before = a;
                    }
                });
            }
            for n in 1..500_u64 {
                store.write(&[put("a", &n.to_string()), put("b", &n.to_string())]).unwrap();
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(scan(store, "", None), "a=499 b=499");
    });
}

#[test]
fn sled_keeps_its_rows_over_a_reopen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    for round in 0..4_u32 {
        let store = SledStore::open(&path, CACHE_BYTES).unwrap();
        assert_eq!(rows(&store).count(), round as usize * 2);
        let fresh: Vec<Write> =
            (0..3).map(|n| (vec![round as u8, n], Some(format!("{round} {n}").into_bytes()))).collect();
        store.write(&fresh).unwrap();
        store.write(&[(vec![round as u8, 1], None)]).unwrap();
        store.flush().unwrap();
    }
}

#[test]
fn a_folder_closed_a_moment_ago_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let held = SledStore::open(&path, CACHE_BYTES).unwrap();
    held.write(&[put("a", "1")]).unwrap();
    held.flush().unwrap();
    let (opening, opened) = std::sync::mpsc::sync_channel(1);
    std::thread::scope(|scope| {
        scope.spawn(|| opening.send(scan(&SledStore::open(&path, CACHE_BYTES).unwrap(), "", None)).unwrap());
        // Nothing is opened while the folder is held.
        assert!(opened.recv_timeout(std::time::Duration::from_millis(100)).is_err());
        drop(held);
        assert_eq!(opened.recv().unwrap(), "a=1");
    });
}

/// Fills a folder and returns its files with content worth damaging.
fn filled(path: &std::path::Path) -> Vec<std::path::PathBuf> {
    let store = SledStore::open(path, CACHE_BYTES).unwrap();
    for n in 0..200_u32 {
        let key = n.to_be_bytes().to_vec();
        store.write(&[(key, Some(vec![n as u8; 300])), put("counter", &n.to_string())]).unwrap();
        if n % 20 == 0 {
            store.flush().unwrap();
        }
    }
    store.flush().unwrap();
    drop(store);
    let mut files: Vec<_> = walk_files(path);
    files.sort();
    files
}

fn walk_files(path: &std::path::Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(path)
        .unwrap()
        .flat_map(|entry| {
            let path = entry.unwrap().path();
            if path.is_dir() { walk_files(&path) } else { vec![path] }
        })
        .collect()
}

#[test]
fn damage_is_reported_or_harmless_but_never_changes_what_is_read() {
    let mut affected = 0;
    for round in 0..24_u64 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let db = filled(&path).into_iter().find(|file| file.ends_with("db")).unwrap();
        let mut bytes = std::fs::read(&db).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        let at = (used as u64 * (round * 2 + 1) / 48) as usize;
        bytes[at] ^= 1 << (round % 8);
        std::fs::write(&db, &bytes).unwrap();
        match SledStore::open(&path, CACHE_BYTES) {
            Err(Error::Damaged(_)) => affected += 1,
            Err(other) => panic!("flip at {at}: {other}"),
            Ok(store) => {
                let found: Result<Vec<_>, _> = rows(&store).collect();
                match found {
                    Err(_) => affected += 1,
                    Ok(rows) => {
                        // sled may fall back to an older consistent state, which the log brings forward again;
                        // but what is there must be whole.
                        let counter = rows.iter().find(|(key, _)| key == b"counter");
                        let counter = counter.map_or(0, |(_, value)| {
                            String::from_utf8(value.clone()).unwrap().parse::<usize>().unwrap() + 2
                        });
                        assert_eq!(rows.len(), counter, "flip at {at} lost rows silently");
                        affected += usize::from(counter < 201);
                    }
                }
            }
        }
    }
    assert!(affected > 0, "no flip had any effect: the test damages the wrong bytes");
}

#[test]
fn a_row_that_vanished_behind_our_back_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    filled(&path);
    {
        let raw = ::sled::Config::new().path(&path).open().unwrap();
        let mut key = vec![1];
        key.extend_from_slice(&7_u32.to_be_bytes());
        assert!(raw.remove(key).unwrap().is_some());
        raw.flush().unwrap();
    }
    assert!(
        matches!(SledStore::open(&path, CACHE_BYTES), Err(Error::Damaged(why)) if why.contains("200 rows"))
    );
}
