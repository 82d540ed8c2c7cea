//! A [`Store`] that hands everything on to another one, which can be exchanged.
//!
//! Installing a snapshot fills a fresh store; whoever holds the state keeps holding this one and sees the new rows
//! after [`SwitchStore::set`].

use super::{Error, Store, Write};
use parking_lot::RwLock;
use std::sync::Arc;

/// The store of the day.
#[derive(Debug)]
pub struct SwitchStore {
    current: RwLock<Arc<dyn Store>>,
}

impl SwitchStore {
    pub fn new(store: Arc<dyn Store>) -> SwitchStore {
        SwitchStore { current: RwLock::new(store) }
    }

    pub fn current(&self) -> Arc<dyn Store> {
        self.current.read().clone()
    }

    /// Puts another store in place. Calls that are under way end on the old one.
    pub fn set(&self, store: Arc<dyn Store>) {
        *self.current.write() = store;
    }
}

impl Store for SwitchStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.current().get(key)
    }

    fn scan(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Error> {
        self.current().scan(start, end, each)
    }

    fn write(&self, batch: &[Write]) -> Result<(), Error> {
        self.current().write(batch)
    }

    fn flush(&self) -> Result<(), Error> {
        self.current().flush()
    }
}
