//! A [`Store`] in memory: for tests, the simulator, and anything that needs no folder.

use super::{Error, Store, Write};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Rows in a map; gone with the process.
#[derive(Debug, Default)]
pub struct MemoryStore {
    rows: RwLock<BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl MemoryStore {
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.rows.read().get(key).cloned())
    }

    fn scan(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Error> {
        // `BTreeMap::range` panics on a reversed range; here it is simply empty.
        if end.is_some_and(|end| end <= start) {
            return Ok(());
        }
        let range: (Bound<&[u8]>, Bound<&[u8]>) =
            (Bound::Included(start), end.map_or(Bound::Unbounded, Bound::Excluded));
        for (key, value) in self.rows.read().range::<[u8], _>(range) {
            if !each(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, batch: &[Write]) -> Result<(), Error> {
        let mut rows = self.rows.write();
        for (key, value) in batch {
            match value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        Ok(())
    }
}
