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
        let Some(limit) = &self.0 else { return };
        let now = Instant::now();
        let needs =
            Duration::from_nanos((bytes as u64).saturating_mul(1_000_000_000) / limit.bytes_per_second);
        let until = {
            let mut booked = limit.booked.lock();
            let from = booked.unwrap_or(now).max(now.checked_sub(BURST).unwrap_or(now));
            *booked = Some(from + needs);
            from + needs
        };
        tokio::time::sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn two_streams_share_a_rate_and_take_turns() {
        let rate = Rate::new(Some(1_000_000));
        let begun = Instant::now();
        let stream = |rate: Rate, times: usize| async move {
            for _ in 0..times {
                rate.take(10_000).await;
            }
            Instant::now()
        };
        let (large, small) = tokio::join!(stream(rate.clone(), 190), stream(rate, 10));
        let (large, small) = (large - begun, small - begun);
        assert!((1_900..2_050).contains(&large.as_millis()), "{large:?}");
        assert!(small.as_millis() < 250, "the small one has half the rate: {small:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_waits() {
        let begun = Instant::now();
        Rate::default().take(usize::MAX).await;
        assert_eq!(Instant::now(), begun);
    }
}
