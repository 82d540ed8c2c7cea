//! A store's rows as they were at one moment, read slice by slice while batches go on being written.
//!
//! Copy-aside: whoever writes first shows the keys to [`Frozen::before_write`], which keeps what those rows were, if
//! they lie ahead of the cursor and are not kept yet. [`Frozen::next_slice`] reads on from the cursor and puts what was
//! kept in the place of what is there now. So no scan has to be a point in time: sled's is none.
//!
//! Memory: a key, its old value and [`KEPT_OVERHEAD`] bytes for each row that was written ahead of the cursor. It is
//! given back as the cursor passes; whoever reads slices must be quick enough ([`Frozen::kept_bytes`]).

use super::{Error, Store};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What an entry of the map takes beside its bytes, about.
const KEPT_OVERHEAD: usize = 96;

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// How much one slice may take: it ends at the first row beyond either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SliceMax {
    /// Rows that are looked at, also those that are left out because they are new.
    pub rows: usize,
    /// Bytes of keys and values.
    pub bytes: usize,
}

/// The view. One thread writes the store and reads slices, so neither happens in the middle of the other.
#[derive(Debug)]
pub struct Frozen {
    store: Arc<dyn Store>,
    /// Every row below it has been read; `None` after the last one.
    cursor: Option<Vec<u8>>,
    /// What rows from the cursor on were when the view was made, if they were written since; `None`: not there.
    kept: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    kept_bytes: usize,
    /// A slice could not be read, and what it had taken is gone; or a row could not be kept.
    is_broken: bool,
}

impl Frozen {
    /// The rows as they are now.
    pub fn new(store: Arc<dyn Store>) -> Frozen {
        Frozen { store, cursor: Some(Vec::new()), kept: BTreeMap::new(), kept_bytes: 0, is_broken: false }
    }

    /// Bytes kept aside, with what the map takes for them.
    pub fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// To be called before rows with these keys are written, in whatever order and however often they occur.
    pub fn before_write<'a>(&mut self, keys: impl Iterator<Item = &'a [u8]>) -> Result<(), Error> {
        let Some(cursor) = &self.cursor else { return Ok(()) };
        for key in keys {
            if key < cursor.as_slice() || self.kept.contains_key(key) {
                continue;
            }
            let value = self.store.get(key).inspect_err(|_| self.is_broken = true)?;
            self.kept_bytes += size_of_kept(key, value.as_ref());
            self.kept.insert(key.to_vec(), value);
        }
        Ok(())
    }

    /// The next rows in key order, perhaps none; `None` after the last slice. After an error the view is of no use.
    pub fn next_slice(&mut self, max: SliceMax) -> Result<Option<Vec<Row>>, Error> {
        if self.is_broken {
            return Err(Error::Io("an earlier row or slice could not be read".to_owned()));
        }
        let Some(start) = self.cursor.take() else { return Ok(None) };
        let store = self.store.clone();
        let mut slice = Slice { max, rows: Vec::new(), looked_at: 0, bytes: 0 };
        let mut next = None;
        let scanned = store.scan(&start, None, &mut |key, value| {
            // Rows that are gone by now come in between.
            next = self.take_kept(&mut slice, Some(key)).or_else(|| slice.is_full().then(|| key.to_vec()));
            if next.is_some() {
                return false;
            }
            match self.pop_kept(Some(key)) {
                Some((key, then)) => slice.add(key, then),
                None => slice.add(key.to_vec(), Some(value.to_vec())),
            }
            true
        });
        self.is_broken = scanned.is_err();
        scanned?;
        self.cursor = next.or_else(|| self.take_kept(&mut slice, None));
        Ok(Some(slice.rows))
    }

    /// Moves what was kept of keys below `end` into the slice; the key at which that became full, if it did.
    fn take_kept(&mut self, slice: &mut Slice, end: Option<&[u8]>) -> Option<Vec<u8>> {
        while let Some(first) = self.kept.first_entry()
            && end.is_none_or(|end| first.key().as_slice() < end)
        {
            if slice.is_full() {
                return Some(first.key().clone());
            }
            let (key, then) = self.pop_kept(None)?;
            slice.add(key, then);
        }
        None
    }

    /// The first one that was kept; with a key, only if it is that of this key.
    fn pop_kept(&mut self, key: Option<&[u8]>) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
        let first = self.kept.first_entry()?;
        if key.is_some_and(|key| first.key().as_slice() != key) {
            return None;
        }
        let (key, then) = first.remove_entry();
        self.kept_bytes -= size_of_kept(&key, then.as_ref());
        Some((key, then))
    }
}

fn size_of_kept(key: &[u8], value: Option<&Vec<u8>>) -> usize {
    key.len() + value.map_or(0, Vec::len) + KEPT_OVERHEAD
}

struct Slice {
    max: SliceMax,
    rows: Vec<Row>,
    looked_at: usize,
    bytes: usize,
}

impl Slice {
    /// There is always room for one, so that the cursor moves.
    fn is_full(&self) -> bool {
        self.looked_at > 0 && (self.looked_at >= self.max.rows || self.bytes >= self.max.bytes)
    }

    /// Takes a row as it was then, if it was there.
    fn add(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.looked_at += 1;
        self.bytes += key.len() + value.as_ref().map_or(0, Vec::len);
        if let Some(value) = value {
            self.rows.push((key, value));
        }
    }
}

#[cfg(test)]
mod tests;
