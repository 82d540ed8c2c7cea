//! Faults that tests inject into a pool's group to show that only that group notices.
//!
//! Empty in production: [`Faults::strike`] then costs one relaxed load.

use super::guard::Place;
use lote_shared::model::PoolKey;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// What happens at the next step of that kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Panic,
    /// Holds the actor's thread for so long.
    BusyLoop(Duration),
}

#[derive(Debug, Default)]
struct Inner {
    armed: AtomicBool,
    struck: AtomicU64,
    waiting: Mutex<BTreeMap<(PoolKey, Place), Fault>>,
}

/// Shared by a test and the groups.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Inner>);

impl Faults {
    /// Lets the next step of this kind in this pool's group fail, once.
    pub fn inject(&self, pool: PoolKey, place: Place, fault: Fault) {
        self.0.waiting.lock().insert((pool, place), fault);
        self.0.armed.store(true, Ordering::Relaxed);
    }

    /// How many faults struck so far.
    pub fn struck(&self) -> u64 {
        self.0.struck.load(Ordering::Relaxed)
    }

    /// Called by every guarded step.
    ///
    /// # Panics
    /// If a test asked for it.
    pub fn strike(&self, pool: PoolKey, place: Place) {
        if !self.0.armed.load(Ordering::Relaxed) {
            return;
        }
        let fault = self.0.waiting.lock().remove(&(pool, place));
        let Some(fault) = fault else { return };
        self.0.struck.fetch_add(1, Ordering::Relaxed);
        match fault {
            Fault::Panic => panic!("injected into {place:?}"),
            Fault::BusyLoop(length) => {
                let until = crate::clock::monotonic_ms() + length.as_millis() as u64;
                while crate::clock::monotonic_ms() < until {
                    std::hint::spin_loop();
                }
            }
        }
    }
}
