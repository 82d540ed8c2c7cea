//! Whatever is written between slices, they add up to the rows at the moment the view was made.

use super::*;
use crate::store::{MemoryStore, SledStore, Write, rows};
use proptest::prelude::*;

const ONE: SliceMax = SliceMax { rows: 1, bytes: usize::MAX };

fn batch(text: &str) -> Vec<Write> {
    text.split_whitespace()
        .map(|word| match word.split_once('=') {
            Some((key, value)) => (key.as_bytes().to_vec(), Some(value.as_bytes().to_vec())),
            None => (word.as_bytes().to_vec(), None),
        })
        .collect()
}

fn write(frozen: &mut Frozen, batch: &[Write]) {
    frozen.before_write(batch.iter().map(|(key, _)| key.as_slice())).unwrap();
    frozen.store.write(batch).unwrap();
}

fn text(rows: &[Row]) -> String {
    let row =
        |(key, value): &Row| format!("{}={}", String::from_utf8_lossy(key), String::from_utf8_lossy(value));
    rows.iter().map(row).collect::<Vec<_>>().join(" ")
}

fn each_store(case: impl Fn(Arc<dyn Store>)) {
    case(Arc::new(MemoryStore::new()));
    let folder = tempfile::tempdir().unwrap();
    case(Arc::new(SledStore::open(&folder.path().join("db"), 16 * 1024 * 1024).unwrap()));
}

/// The store as it is at first; then batches, each after one more slice of one row; what the slices bring.
#[track_caller]
fn check(first: &str, batches: &[&str], expected: &str) {
    each_store(|store| {
        store.write(&batch(first)).unwrap();
        let mut frozen = Frozen::new(store);
        let mut found = Vec::new();
        for text in batches {
            found.extend(frozen.next_slice(ONE).unwrap().unwrap_or_default());
            write(&mut frozen, &batch(text));
        }
        while let Some(slice) = frozen.next_slice(ONE).unwrap() {
            assert!(slice.len() <= 1, "{slice:?}");
            found.extend(slice);
        }
        assert_eq!(text(&found), expected, "{first:?} {batches:?}");
        assert_eq!((frozen.kept_bytes(), frozen.kept.len()), (0, 0));
        assert_eq!(frozen.next_slice(ONE).unwrap(), None);
    });
}

#[test]
fn rows_are_what_they_were() {
    check("", &[], "");
    check("", &["a=1", "b=2 a"], "");
    check("a=1 b=2 c=3", &[], "a=1 b=2 c=3");
    // Changed ahead of the cursor, behind it, twice, and back again.
    check("a=1 b=2 c=3", &["c=9"], "a=1 b=2 c=3");
    check("a=1 b=2 c=3", &["a=9"], "a=1 b=2 c=3");
    check("a=1 b=2 c=3", &["c=8", "c=9"], "a=1 b=2 c=3");
    check("a=1 b=2 c=3", &["c=8 c=3"], "a=1 b=2 c=3");
    // Added: at the cursor, ahead, behind, at the end, and removed again.
    check("a=1 c=3", &["b=2"], "a=1 c=3");
    check("a=1 c=3", &["aa=2 d=4"], "a=1 c=3");
    check("b=1 c=3", &["a=2"], "b=1 c=3");
    check("a=1 c=3", &["b=2", "b"], "a=1 c=3");
    // Removed: the next one, all of them, the last one, and added again.
    check("a=1 b=2 c=3", &["b"], "a=1 b=2 c=3");
    check("a=1 b=2 c=3 d=4", &["a b c d"], "a=1 b=2 c=3 d=4");
    check("a=1 b=2 c=3", &["c", "c=7"], "a=1 b=2 c=3");
    check("a=1 b=2 c=3", &["b", "d=4 c", "b=9"], "a=1 b=2 c=3");
    // After the end nothing is kept.
    check("a=1", &["", "a=2", "b=2", "c=3"], "a=1");
}

#[test]
fn a_slice_is_bounded_in_rows_and_bytes_and_always_moves_on() {
    each_store(|store| {
        let rows: Vec<Write> = (0..100_u8).map(|n| (vec![n], Some(vec![n; 99]))).collect();
        store.write(&rows).unwrap();
        for (rows_max, bytes_max, expected) in
            [(10, usize::MAX, 10), (usize::MAX, 1_000, 10), (usize::MAX, 901, 10), (0, 0, 1), (1, 0, 1)]
        {
            let max = SliceMax { rows: rows_max, bytes: bytes_max };
            let mut frozen = Frozen::new(store.clone());
            assert_eq!(frozen.next_slice(max).unwrap().unwrap().len(), expected, "{max:?}");
        }
        // A thousand rows that came since fill slices, too, and so do a thousand that are gone.
        let mut frozen = Frozen::new(store.clone());
        let new: Vec<Write> = (0..1_000_u16).map(|n| (n.to_be_bytes().to_vec(), Some(vec![]))).collect();
        write(&mut frozen, &new);
        let gone: Vec<Write> = rows.iter().map(|(key, _)| (key.clone(), None)).collect();
        write(&mut frozen, &gone);
        let (mut slices, mut found) = (0, Vec::new());
        while let Some(slice) = frozen.next_slice(SliceMax { rows: 10, bytes: usize::MAX }).unwrap() {
            slices += 1;
            found.extend(slice.into_iter().map(|(key, value)| (key, Some(value))));
        }
        assert_eq!(slices, 110);
        assert_eq!(found, rows);
    });
}

#[test]
fn what_is_kept_is_counted_once_and_given_back() {
    each_store(|store| {
        store.write(&batch("a=1 b=22 c=333")).unwrap();
        let mut frozen = Frozen::new(store);
        write(&mut frozen, &batch("b=2 c=3"));
        let kept = frozen.kept_bytes();
        assert_eq!(kept, 2 * (1 + KEPT_OVERHEAD) + 5);
        write(&mut frozen, &batch("b=4 c"));
        assert_eq!(frozen.kept_bytes(), kept, "kept once");
        frozen.next_slice(SliceMax { rows: 2, bytes: usize::MAX }).unwrap();
        assert_eq!(frozen.kept_bytes(), 1 + KEPT_OVERHEAD + 3);
        write(&mut frozen, &batch("a=5 b=5 aa=5"));
        assert_eq!(frozen.kept_bytes(), 1 + KEPT_OVERHEAD + 3, "nothing behind the cursor is kept");
    });
}

/// Fails at the row that it is told to.
#[derive(Debug)]
struct Failing(MemoryStore);

impl Store for Failing {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.0.get(key)
    }
    fn scan(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Error> {
        self.0.scan(start, end, each)?;
        Err(Error::Damaged("told to".to_owned()))
    }
    fn write(&self, batch: &[Write]) -> Result<(), Error> {
        self.0.write(batch)
    }
    fn flush(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[test]
fn a_slice_that_could_not_be_read_is_not_the_end() {
    let store = Failing(MemoryStore::new());
    store.write(&batch("a=1")).unwrap();
    let mut frozen = Frozen::new(Arc::new(store));
    assert!(matches!(frozen.next_slice(ONE), Err(Error::Damaged(_))));
    assert!(frozen.next_slice(ONE).is_err());
}

#[derive(Debug, Clone)]
enum Step {
    Write(Vec<Write>),
    Slice(SliceMax),
}

fn step() -> impl Strategy<Value = Step> {
    let key = prop::collection::vec(0_u8..4, 0..4);
    let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..6));
    prop_oneof![
        3 => prop::collection::vec((key, value), 1..12).prop_map(Step::Write),
        2 => (1_usize..8, 1_usize..40).prop_map(|(rows, bytes)| Step::Slice(SliceMax { rows, bytes })),
    ]
}

fn run(store: Arc<dyn Store>, first: &[Write], steps: &[Step]) {
    store.write(first).unwrap();
    let expected: Vec<Row> = rows(&*store).map(Result::unwrap).collect();
    let mut frozen = Frozen::new(store);
    let mut found = Vec::new();
    for step in steps {
        match step {
            Step::Write(batch) => write(&mut frozen, batch),
            Step::Slice(max) => found.extend(frozen.next_slice(*max).unwrap().unwrap_or_default()),
        }
    }
    while let Some(slice) = frozen.next_slice(SliceMax { rows: 3, bytes: 20 }).unwrap() {
        found.extend(slice);
    }
    assert_eq!(found, expected);
    assert_eq!(frozen.kept_bytes(), 0);
}

fn first() -> impl Strategy<Value = Vec<Write>> {
    let key = prop::collection::vec(0_u8..4, 0..4);
    prop::collection::vec((key, prop::collection::vec(any::<u8>(), 0..6).prop_map(Some)), 0..60)
}

proptest! {
    #[test]
    fn random_writes_between_slices_change_nothing_in_memory(
        first in first(),
        steps in prop::collection::vec(step(), 0..40),
    ) {
        run(Arc::new(MemoryStore::new()), &first, &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn random_writes_between_slices_change_nothing_on_sled(
        first in first(),
        steps in prop::collection::vec(step(), 0..40),
    ) {
        let folder = tempfile::tempdir().unwrap();
        run(Arc::new(SledStore::open(&folder.path().join("db"), 1024 * 1024).unwrap()), &first, &steps);
    }
}
