//! The host's two clocks: the boot clock for durations and deadlines, and cluster time for reports.
//!
//! Cluster time is the leader's, as of its last frame, moved on by the boot clock. It never runs backwards here. Until
//! a leader has spoken it is the machine's own time of day.

use crate::keeper::sys::boottime_ms;
use crate::node::machine::Now;
use lote_shared::model::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Debug, Clone)]
pub struct Clock {
    /// Cluster time at boot, in milliseconds.
    epoch_ms: Arc<AtomicU64>,
    latest_ms: Arc<AtomicU64>,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "this module is the door")]
    pub fn new() -> Clock {
        let today = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let today_ms = u64::try_from(today).unwrap_or(0);
        let epoch_ms = today_ms.saturating_sub(boottime_ms());
        Clock { epoch_ms: Arc::new(AtomicU64::new(epoch_ms)), latest_ms: Arc::default() }
    }

    pub fn now(&self) -> Now {
        let ms = boottime_ms();
        let time_ms = self.epoch_ms.load(Ordering::Relaxed).saturating_add(ms);
        let latest_ms = self.latest_ms.fetch_max(time_ms, Ordering::Relaxed);
        Now { ms, time: Timestamp(time_ms.max(latest_ms)) }
    }

    /// The leader's time, just received.
    pub fn heard(&self, time: Timestamp) {
        self.epoch_ms.store(time.0.saturating_sub(boottime_ms()), Ordering::Relaxed);
    }
}

impl Default for Clock {
    fn default() -> Self {
        Clock::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_time_follows_the_leader_and_never_runs_backwards() {
        let clock = Clock::new();
        let before = clock.now().time;
        clock.heard(before.plus_ms(3_600_000));
        let ahead = clock.now().time;
        assert!(ahead >= before.plus_ms(3_600_000));
        clock.heard(before);
        assert!(clock.now().time >= ahead);
    }
}
