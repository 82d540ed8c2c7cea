//! One at a time by key: whoever needs the same thing as somebody else waits for whoever came first.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

/// A lock for each key that somebody holds or waits for.
pub struct Turns<K>(Mutex<BTreeMap<K, Weak<tokio::sync::Mutex<()>>>>);

impl<K> Default for Turns<K> {
    fn default() -> Turns<K> {
        Turns::new()
    }
}

impl<K> Turns<K> {
    pub const fn new() -> Turns<K> {
        Turns(Mutex::new(BTreeMap::new()))
    }
}

impl<K: Ord> Turns<K> {
    /// The lock of this key.
    pub fn of(&self, key: K) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock();
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(&key).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(key, Arc::downgrade(&turn));
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_key_has_the_same_lock_while_it_is_held() {
        let turns = Turns::new();
        let first = turns.of("a");
        assert!(Arc::ptr_eq(&first, &turns.of("a")));
        assert!(!Arc::ptr_eq(&first, &turns.of("b")));
        assert!(turns.0.lock().len() <= 2);
        drop(first);
        turns.of("c");
        assert_eq!(turns.0.lock().len(), 1, "what nobody holds is forgotten");
    }
}
