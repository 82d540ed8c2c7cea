//! A limit of bytes a second that several streams share.

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Bytes may run ahead of the rate for so long.
const BURST: Duration = Duration::from_millis(50);

/// Clones share one limit. Streams take turns by the unit, so that a small file is never behind a large one.
#[derive(Debug, Clone, Default)]
pub struct Rate(Option<Arc<Limit>>);

#[derive(Debug)]
struct Limit {
    bytes_per_second: u64,
    /// Until when the rate is used up.
    booked: Mutex<Option<Instant>>,
}

impl Rate {
    /// `None`: as fast as it goes.
    pub fn new(bytes_per_second: Option<u64>) -> Rate {
        let limit = |bytes_per_second: u64| Limit { bytes_per_second, booked: Mutex::new(None) };
        Rate(bytes_per_second.map(|rate| Arc::new(limit(rate.max(1)))))
    }

    /// Waits until so many bytes may pass.
    pub async fn take(&self, bytes: usize) {
        if let Some(limit) = &self.0 {
            tokio::time::sleep_until(limit.book(Instant::now(), bytes)).await;
        }
    }
}

impl Limit {
    /// When so many bytes, asked for now, may pass.
    fn book(&self, now: Instant, bytes: usize) -> Instant {
        let nanos = u128::from(bytes as u64) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let mut booked = self.booked.lock();
        let from = booked.unwrap_or(now).max(now.checked_sub(BURST).unwrap_or(now));
        let until = from + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        *booked = Some(until);
        until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_share_a_rate_and_take_turns() {
        let limit = Limit { bytes_per_second: 1_000_000, booked: Mutex::new(None) };
        let begun = Instant::now();
        let mut ends = [begun; 2];
        // Two streams that each ask for the next unit when the last one passed.
        for round in 0..100 {
            for end in &mut ends {
                *end = limit.book(*end, 10_000);
                assert!(*end <= begun + Duration::from_millis(20 * (round + 1)));
            }
        }
        assert_eq!(ends.into_iter().max(), Some(begun + Duration::from_secs(2)));
    }

    #[test]
    fn what_was_not_used_is_saved_for_a_moment_only() {
        let limit = Limit { bytes_per_second: 1_000_000, booked: Mutex::new(None) };
        let begun = Instant::now();
        limit.book(begun, 10_000);
        let later = begun + Duration::from_secs(60);
        assert_eq!(limit.book(later, 100_000), later + Duration::from_millis(50));
    }

    #[tokio::test]
    async fn without_a_limit_nothing_waits() {
        Rate::default().take(usize::MAX).await;
    }
}
