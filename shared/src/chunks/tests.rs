//! The chunk store on a real folder.

#![expect(
    clippy::disallowed_methods,
    reason = "ages of chunks are set beside the real time, which the store reads"
)]

use super::compose::{Part, compose};
use super::*;
use futures::StreamExt;
use std::time::{Duration, SystemTime};

fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; length];
    let key = *blake3::hash(&seed.to_le_bytes()).as_bytes();
    blake3::Hasher::new_keyed(&key).finalize_xof().fill(&mut out);
    out
}

fn open() -> (tempfile::TempDir, ChunkStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = ChunkStore::open(folder.path()).unwrap();
    (folder, store)
}

fn put(store: &ChunkStore, data: &[u8]) -> Manifest {
    FileWriter::new(store, ()).copy_from(data).unwrap().0
}

fn count(store: &ChunkStore) -> usize {
    let mut count = 0;
    store.for_each(|_, _| count += 1).unwrap();
    count
}

const SIZES: [usize; 12] = [
    0,
    1,
    UNIT - 1,
    UNIT,
    UNIT + 1,
    CHUNK - 1,
    CHUNK,
    CHUNK + 1,
    2 * CHUNK,
    3 * CHUNK - 1,
    5 * CHUNK + 3,
    9 * CHUNK,
];

#[test]
fn files_come_back_and_are_named_by_their_hash() {
    for size in SIZES {
        let (_folder, store) = open();
        let data = bytes(size, 1);
        let manifest = put(&store, &data);
        assert_eq!(manifest.length, size as u64);
        assert!(manifest.is_plausible());
        assert_eq!(manifest.content_id(), Some(ChunkId(*blake3::hash(&data).as_bytes())), "size {size}");
        assert_eq!(read::read_all(&store, &manifest, u64::MAX).unwrap(), data);
        let expected = match size {
            0 => 0,
            size if size <= CHUNK => 1,
            size => size.div_ceil(CHUNK) + 1,
        };
        assert_eq!(count(&store), expected, "chunk files of size {size}");
        let mut references = 0;
        read::references(&store, &manifest, &mut |id| {
            assert!(store.contains(id));
            references += 1;
        })
        .unwrap();
        assert_eq!(references, expected);
    }
}

#[test]
fn ranges_come_back() {
    let (_folder, store) = open();
    let data = bytes(5 * CHUNK + 3, 2);
    let manifest = put(&store, &data);
    let end = data.len();
    let cases = [
        (0, 0),
        (0, 1),
        (end - 1, end),
        (end, end),
        (UNIT - 1, UNIT + 1),
        (CHUNK - 1, CHUNK + 1),
        (CHUNK, 2 * CHUNK),
        (10, end - 10),
        (3 * CHUNK + 5, 3 * CHUNK + 6),
        (0, end),
    ];
    for (start, end) in cases {
        let mut walk = Walk::new(&store, &manifest, start as u64..end as u64).unwrap();
        let mut found = Vec::new();
        while let Some(bytes) = walk.next_bytes().unwrap() {
            found.extend_from_slice(&bytes);
        }
        assert!(found == data[start..end], "{start}..{end}");
    }
    let past = end as u64 + 1;
    assert!(matches!(Walk::new(&store, &manifest, 0..past), Err(Error::OutOfRange { .. })));
}

#[test]
fn a_flipped_bit_is_an_error_is_moved_aside_and_heals_by_writing_again() {
    let data = bytes(2 * UNIT + 100, 3);
    let (folder, store) = open();
    let manifest = put(&store, &data);
    let path = store.path(manifest.root);
    let good = std::fs::read(&path).unwrap();
    for place in [0, UNIT + 7, 2 * UNIT + 99, data.len(), good.len() - 20, good.len() - 1] {
        let mut bad = good.clone();
        bad[place] ^= 0x10;
        std::fs::write(&path, &bad).unwrap();
        let error = read::read_all(&store, &manifest, u64::MAX).map(|bytes| bytes.len()).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "byte {place}: {error}");
        assert!(!store.contains(manifest.root), "byte {place}");
        assert!(folder.path().join("damaged").join(manifest.root.to_string()).exists());
        assert_eq!(put(&store, &data), manifest);
        assert_eq!(read::read_all(&store, &manifest, u64::MAX).unwrap(), data);
    }
    // Cut short, and another chunk's content under this name.
    for bad in [good[..good.len() - 1].to_vec(), good[..10].to_vec(), Vec::new()] {
        std::fs::write(&path, &bad).unwrap();
        assert!(matches!(store.read(manifest.root), Err(Error::Damaged { .. })));
        put(&store, &data);
    }
    let other = put(&store, b"something else");
    std::fs::copy(store.path(other.root), &path).unwrap();
    assert!(matches!(store.read(manifest.root), Err(Error::Damaged { .. })));
}

#[test]
fn only_units_that_are_asked_for_are_looked_at() {
    let (_folder, store) = open();
    let data = bytes(CHUNK, 4);
    let manifest = put(&store, &data);
    let path = store.path(manifest.root);
    let mut bad = std::fs::read(&path).unwrap();
    bad[5 * UNIT] ^= 1;
    std::fs::write(&path, &bad).unwrap();
    assert_eq!(store.read_range(manifest.root, 0..10).unwrap(), data[..10]);
    assert!(matches!(
        store.read_range(manifest.root, 5 * UNIT + 9..5 * UNIT + 10),
        Err(Error::Damaged { .. })
    ));
}

#[test]
fn leftovers_of_a_crash_are_ignored_and_removed() {
    let (folder, store) = open();
    let manifest = put(&store, b"kept");
    let mut group = store.group();
    group.add(b"never committed", Position::Whole).unwrap();
    std::mem::forget(group);
    std::fs::write(folder.path().join("chunks/00/notes.txt"), "not a chunk").unwrap();
    assert_eq!(std::fs::read_dir(folder.path().join("tmp")).unwrap().count(), 1);
    drop(store);
    let store = ChunkStore::open(folder.path()).unwrap();
    assert_eq!(std::fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
    assert_eq!(count(&store), 1);
    assert_eq!(read::read_all(&store, &manifest, 100).unwrap(), b"kept");
    // A dropped group cleans up after itself.
    let mut group = store.group();
    group.add(b"never committed", Position::Whole).unwrap();
    drop(group);
    assert_eq!(std::fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn writing_again_keeps_the_collector_away() {
    let (_folder, store) = open();
    let manifest = put(&store, b"shared");
    let old = SystemTime::now() - Duration::from_secs(3600);
    let file = std::fs::File::open(store.path(manifest.root)).unwrap();
    file.set_modified(old).unwrap();
    put(&store, b"shared");
    assert_eq!(count(&store), 1);
    let limit = SystemTime::now() - Duration::from_secs(60);
    assert!(!store.remove_older(manifest.root, limit).unwrap());
    file.set_modified(old).unwrap();
    assert!(store.remove_older(manifest.root, limit).unwrap());
    assert!(matches!(store.read(manifest.root), Err(Error::Missing(_))));
}

#[test]
fn composing_keeps_content() {
    let (_folder, store) = open();
    let cases: [&[usize]; 8] = [
        &[],
        &[0, 0],
        &[10],
        &[10, 0, 20],
        &[3 * CHUNK + 1, 2 * CHUNK + 7, 5],
        &[4 * CHUNK, 4 * CHUNK],
        &[UNIT; 80],
        &[100; 2000],
    ];
    for sizes in cases {
        let blocks: Vec<_> = sizes.iter().enumerate().map(|(i, size)| bytes(*size, i as u64)).collect();
        let parts: Vec<_> = blocks.iter().map(|block| Part::whole(put(&store, block))).collect();
        let manifest = compose(&store, &parts).unwrap();
        let expected = blocks.concat();
        assert!(manifest.is_plausible());
        assert!(read::read_all(&store, &manifest, u64::MAX).unwrap() == expected, "{sizes:?}");
        if let Some(id) = manifest.content_id() {
            assert_eq!(id, ChunkId(*blake3::hash(&expected).as_bytes()));
        }
        // Taken apart at a block's edge and put together the other way round.
        if let [first, second] = sizes {
            let edge = *first as u64;
            let swapped =
                [Part { manifest, range: edge..manifest.length }, Part { manifest, range: 0..edge }];
            let again = compose(&store, &swapped).unwrap();
            let found = read::read_all(&store, &again, u64::MAX).unwrap();
            assert!(found == [&expected[*first..*first + *second], &expected[..*first]].concat());
        }
    }
}

#[test]
fn parts_may_begin_and_end_inside_chunks() {
    let (_folder, store) = open();
    let data = bytes(12 * CHUNK, 8);
    let manifest = put(&store, &data);
    let (a, b, c) = (CHUNK / 2, 7 * CHUNK + 5, 12 * CHUNK);
    let parts = [a..b, b..c, 0..a, 3 * CHUNK..4 * CHUNK];
    let expected: Vec<u8> = parts.iter().flat_map(|range| data[range.clone()].to_vec()).collect();
    let parts = parts.map(|range| Part { manifest, range: range.start as u64..range.end as u64 });
    let composed = compose(&store, &parts).unwrap();
    assert!(matches!(composed.tree, Tree::Composed { .. }));
    assert!(read::read_all(&store, &composed, u64::MAX).unwrap() == expected);
}

#[tokio::test]
async fn uploads_and_streams_agree_with_the_blocking_forms() {
    struct Count(u64);
    impl Tap for Count {
        fn data(&mut self, bytes: &[u8]) {
            self.0 += bytes.len() as u64;
        }
    }
    for size in SIZES {
        let (_folder, store) = open();
        let data = bytes(size, 5);
        let mut upload = Upload::new(&store, Count(0));
        for part in data.chunks(300_007) {
            upload.write(part).await.unwrap();
        }
        let (manifest, tap) = upload.finish().await.unwrap();
        assert_eq!(tap.0, size as u64);
        assert_eq!(manifest, put(&store, &data));
        let parts: Vec<_> = read::stream(store.clone(), manifest, 0..manifest.length).collect().await;
        let found: Vec<u8> = parts.into_iter().flat_map(|part| part.unwrap().to_vec()).collect();
        assert!(found == data, "size {size}");
    }
}

#[tokio::test]
async fn a_stream_over_a_damaged_chunk_ends_with_an_error() {
    let (_folder, store) = open();
    let data = bytes(3 * CHUNK, 6);
    let manifest = put(&store, &data);
    let second = {
        let mut walk = Walk::new(&store, &manifest, 0..manifest.length).unwrap();
        walk.next_piece().unwrap();
        walk.next_piece().unwrap().unwrap()
    };
    std::fs::remove_file(store.path(second.id)).unwrap();
    let parts: Vec<_> = read::stream(store, manifest, 0..manifest.length).collect().await;
    assert_eq!(parts.len(), 2);
    assert!(parts[0].is_ok() && matches!(parts[1], Err(Error::Missing(id)) if id == second.id));
}

/// What lies on disks must stay readable by later versions.
#[test]
fn stored_forms_have_these_bytes() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (id, seal) = seal::Seal::of(b"lote", Position::Part { offset: 3 * CHUNK as u64 });
    let node = list::Node { depth: 1, entries: vec![list::Entry { id, length: 4 }] };
    let found = [id.to_string(), hex(&seal.encode()), hex(&node.encode())];
    expect_test::expect![[r#"
        af48b9d16ceaace9e823f909a4f6b7cd1775aecd883d4e9085bb0d1d079a8728
        000030000000000004000000000100004c6f746543686e6b
        4c4c4e310101000000af48b9d16ceaace9e823f909a4f6b7cd1775aecd883d4e9085bb0d1d079a87280400000000000000"#]]
    .assert_eq(&found.join("\n"));
}
