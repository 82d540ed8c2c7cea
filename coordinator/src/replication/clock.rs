//! Cluster time: what the leader stamps on each entry.
//!
//! Pure; the driver brings the readings of the machine's two clocks.

use lote_shared::model::Timestamp;
use std::time::Instant;

/// How much faster than real time cluster time may catch up, per stamp.
const JUMP_MAX_US: u64 = 1_000_000;

/// A reading of both clocks of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    pub wall: Timestamp,
    /// Microseconds since any fixed moment; never goes backwards, stops with the process.
    pub monotonic_us: u64,
}

/// Turns clock readings into stamps that never run backwards and never leap: a stamp is at most the previous one
/// plus the monotonic time since, plus one second. While the wall clock is behind, time goes on at half speed, so
/// that nothing that waits for it hangs.
///
/// The first stamp of a process has no monotonic time since the previous one, which may be days old, and takes the
/// wall clock at its word (but never backwards).
#[derive(Debug, Clone)]
pub struct ClockCore {
    /// In microseconds, so that half speed does not round to standstill.
    last_us: u64,
    last_monotonic_us: Option<u64>,
}

impl ClockCore {
    /// `last`: the greatest stamp in the log or the state.
    pub fn new(last: Timestamp) -> ClockCore {
        ClockCore { last_us: last.0.saturating_mul(1_000), last_monotonic_us: None }
    }

    /// Another member stamped an entry that was applied here now; if this one leads next, it goes on from there and
    /// leaps no further than a leader that had stayed.
    pub fn observe(&mut self, stamp: Timestamp, now: Reading) {
        let stamp_us = stamp.0.saturating_mul(1_000);
        if stamp_us > self.last_us {
            self.last_us = stamp_us;
            self.last_monotonic_us = Some(now.monotonic_us);
        }
    }

    /// The stamp for an entry that is made now.
    pub fn stamp(&mut self, now: Reading) -> Timestamp {
        let wall_us = now.wall.0.saturating_mul(1_000);
        self.last_us = match self.last_monotonic_us {
            None => wall_us.max(self.last_us),
            Some(before) => {
                let passed_us = now.monotonic_us.saturating_sub(before);
                let slowest = self.last_us.saturating_add(passed_us / 2);
                let fastest = self.last_us.saturating_add(passed_us).saturating_add(JUMP_MAX_US);
                wall_us.clamp(slowest, fastest)
            }
        };
        self.last_monotonic_us = Some(now.monotonic_us);
        Timestamp(self.last_us / 1_000)
    }
}

/// Where the driver reads time.
pub trait Time: Send + Sync + 'static {
    fn read(&self) -> Reading;
}

/// The clocks of this machine.
#[derive(Debug)]
pub struct SystemTime {
    start: Instant,
}

impl Default for SystemTime {
    #[expect(clippy::disallowed_methods, reason = "Raft's driver reads time through this door")]
    fn default() -> SystemTime {
        SystemTime { start: Instant::now() }
    }
}

impl Time for SystemTime {
    fn read(&self) -> Reading {
        let monotonic_us = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        Reading { wall: crate::clock::wall(), monotonic_us }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stamps for readings of (wall, monotonic) in milliseconds, starting after the stamp `last`.
    fn stamps(last: u64, readings: &[(u64, u64)]) -> Vec<u64> {
        let mut clock = ClockCore::new(Timestamp(last));
        readings
            .iter()
            .map(|&(wall, monotonic)| {
                let now = Reading { wall: Timestamp(wall), monotonic_us: monotonic * 1_000 };
                clock.stamp(now).0
            })
            .collect()
    }

    #[test]
    fn follows_the_wall_clock_within_its_bounds() {
        for (what, last, readings, expected) in [
            (
                "an honest clock",
                0,
                &[(5_000, 0), (5_010, 10), (6_010, 1_010)][..],
                &[5_000, 5_010, 6_010][..],
            ),
            ("first stamp after a long stop", 1_000, &[(900_000, 0)], &[900_000]),
            ("first stamp with a clock that was set back", 9_000, &[(5_000, 0)], &[9_000]),
            (
                "a leap ahead of an hour",
                0,
                &[(1_000, 0), (3_601_010, 10), (3_601_020, 20)],
                &[1_000, 2_010, 3_020],
            ),
            (
                "a step back: half speed until the wall clock is there",
                0,
                &[(10_000, 0), (9_500, 500), (10_000, 1_000), (10_600, 1_600)],
                &[10_000, 10_250, 10_500, 10_800],
            ),
            ("a monotonic clock that stands still", 0, &[(1_000, 5), (1_000, 5)], &[1_000, 1_000]),
        ] {
            assert_eq!(stamps(last, readings), expected, "{what}");
        }
    }

    #[test]
    fn goes_on_from_what_another_leader_stamped() {
        for (what, wall, passed_ms, expected) in [
            ("an honest clock", 50_700, 700, 50_700),
            ("a clock that is an hour ahead", 3_650_000, 700, 51_700),
            ("a clock that is an hour behind", 1_000, 700, 50_350),
        ] {
            let mut clock = ClockCore::new(Timestamp(10));
            clock.observe(Timestamp(50_000), Reading { wall: Timestamp(0), monotonic_us: 5_000 });
            // What was seen before does not count.
            clock.observe(Timestamp(40_000), Reading { wall: Timestamp(0), monotonic_us: 6_000 });
            let now = Reading { wall: Timestamp(wall), monotonic_us: 5_000 + passed_ms * 1_000 };
            assert_eq!(clock.stamp(now), Timestamp(expected), "{what}");
        }
    }

    #[test]
    fn half_speed_does_not_round_to_standstill() {
        let mut clock = ClockCore::new(Timestamp(0));
        let mut last = Timestamp(0);
        for step in 0..=2_000 {
            // The wall clock is stuck; stamps are drawn every half millisecond.
            last = clock.stamp(Reading { wall: Timestamp(1_000), monotonic_us: step * 500 });
        }
        assert_eq!(last, Timestamp(1_500));
    }

    proptest::proptest! {
        #[test]
        fn never_backwards_and_never_leaping(readings in proptest::collection::vec((0_u64..1_000_000, 0_u64..5_000), 1..50)) {
            let mut clock = ClockCore::new(Timestamp(500));
            let (mut last, mut monotonic_ms) = (None, 0);
            for (wall, passed_ms) in readings {
                monotonic_ms += passed_ms;
                let stamp = clock.stamp(Reading { wall: Timestamp(wall), monotonic_us: monotonic_ms * 1_000 });
                proptest::prop_assert!(stamp.0 >= 500);
                if let Some(last) = last {
                    proptest::prop_assert!(stamp.0 >= last && stamp.0 <= last + passed_ms + 1_000 + 1);
                }
                last = Some(stamp.0);
            }
        }
    }
}
