//! All rows of a store as an iterator, read in slices, so that millions of rows never stand in memory at once.

use super::{Error, Store};

/// Rows read by one scan.
const SLICE_ROWS: usize = 1_024;
/// A slice ends early once it holds so many bytes.
const SLICE_BYTES: usize = 1024 * 1024;

type Row = (Vec<u8>, Vec<u8>);

/// Every row in key order. Ends after the first error. Not a point in time if somebody writes meanwhile.
pub fn rows(store: &dyn Store) -> impl Iterator<Item = Result<Row, Error>> + '_ {
    Rows { store, next: Some(Vec::new()), slice: Vec::new().into_iter() }
}

struct Rows<'a> {
    store: &'a dyn Store,
    /// Where the next slice starts; `None` after the last one.
    next: Option<Vec<u8>>,
    slice: std::vec::IntoIter<Row>,
}

impl Rows<'_> {
    fn refill(&mut self, start: Vec<u8>) -> Result<(), Error> {
        let mut slice: Vec<Row> = Vec::new();
        let mut bytes = 0;
        let mut more = None;
        self.store.scan(&start, None, &mut |key, value| {
            if slice.len() == SLICE_ROWS || bytes > SLICE_BYTES {
                more = Some(key.to_vec());
                return false;
            }
            bytes += key.len() + value.len();
            slice.push((key.to_vec(), value.to_vec()));
            true
        })?;
        self.next = more;
        self.slice = slice.into_iter();
        Ok(())
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<Row, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.slice.next() {
                return Some(Ok(row));
            }
            let start = self.next.take()?;
            if let Err(error) = self.refill(start) {
                return Some(Err(error));
            }
        }
    }
}
