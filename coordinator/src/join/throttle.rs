//! Callers that failed lately are asked to wait. A secret of 256 bits is not guessed; this keeps the guessing from
//! costing anything, signatures and log entries above all.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// Failures of one caller in one window.
const FAILURES_MAX: u32 = 20;
/// Failures of all callers in one window.
const FAILURES_ALL_MAX: u32 = 2_000;
const WINDOW_MS: u64 = 60_000;
/// Callers remembered; the others count only among all.
const CALLERS_MAX: usize = 1_024;

/// Failures by caller in the window that began last.
#[derive(Debug, Default)]
pub struct Throttle {
    began_ms: u64,
    all: u32,
    callers: BTreeMap<IpAddr, u32>,
}

impl Throttle {
    /// Milliseconds this caller has to wait, if it has to.
    pub fn wait_ms(&mut self, caller: IpAddr, now_ms: u64) -> Option<u64> {
        self.turn(now_ms);
        let failed = self.callers.get(&caller).copied().unwrap_or(0);
        let over = failed >= FAILURES_MAX || self.all >= FAILURES_ALL_MAX;
        over.then(|| (self.began_ms + WINDOW_MS).saturating_sub(now_ms).max(1))
    }

    pub fn failed(&mut self, caller: IpAddr, now_ms: u64) {
        self.turn(now_ms);
        self.all = self.all.saturating_add(1);
        if self.callers.len() < CALLERS_MAX || self.callers.contains_key(&caller) {
            let count = self.callers.entry(caller).or_default();
            *count = count.saturating_add(1);
        }
    }

    fn turn(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.began_ms) >= WINDOW_MS {
            *self = Throttle { began_ms: now_ms, ..Throttle::default() };
        }
    }
}
