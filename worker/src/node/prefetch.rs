//! How much work a node wants to hold (`ARCHITECTURE.md`, pull): its slots, plus a prefetch that follows how long
//! tasks have lately taken. Tasks of a millisecond: enough for some 50 ms, so that the way to the leader and back
//! does not show. Long tasks: none, so that no task waits here while another node is free.

/// The prefetch lasts about this long.
const AHEAD_MS: u64 = 50;
/// Never more slots' worth than this, whatever the tasks.
const PREFETCH_MAX: u64 = 1_024;
/// Weight of the newest task: 1/8.
const SMOOTHING: u64 = 8;

#[derive(Debug, Default)]
pub struct Prefetch {
    /// Smoothed length of a task in microseconds; `None` before the first has ended.
    average_us: Option<u64>,
}

impl Prefetch {
    /// A task has held its slots so long.
    pub fn observe(&mut self, length_ms: u64) {
        // A task that began and ended within one tick of the clock took half of one.
        let length_us = length_ms.saturating_mul(1_000).max(500);
        self.average_us = Some(match self.average_us {
            None => length_us,
            Some(average) => average - average / SMOOTHING + length_us / SMOOTHING,
        });
    }

    /// Slots' worth of tasks to hold in all. `youngest_ms`: age of the youngest running task, if every slot is
    /// busy. When even that one is older than the average says, tasks have become longer and the average does not
    /// know yet.
    pub fn level(&self, slots: u32, youngest_ms: Option<u64>) -> u32 {
        let Some(average_us) = self.average_us else { return slots };
        let length_us = average_us.max(youngest_ms.unwrap_or(0).saturating_mul(1_000)).max(1);
        let ahead = (u64::from(slots) * AHEAD_MS * 1_000 / length_us).min(PREFETCH_MAX);
        slots.saturating_add(u32::try_from(ahead).unwrap_or(u32::MAX))
    }
}

/// Whether a changed level is worth a message: on the way to or from no prefetch at all, or by a quarter.
pub fn worth_telling(told: u32, level: u32, slots: u32) -> bool {
    if told == level {
        return false;
    }
    let floor_crossed = (told <= slots) != (level <= slots);
    floor_crossed || told.abs_diff(level) * 4 >= told.min(level)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_follows_the_length_of_tasks() {
        for (length_ms, slots, level) in [
            (1, 2, 102),
            (0, 2, 202),
            (5, 2, 22),
            (40, 2, 4),
            (51, 1, 1),
            (200, 2, 2),
            (3_600_000, 64, 64),
            (1, 256, 256 + 1_024),
        ] {
            let mut prefetch = Prefetch::default();
            assert_eq!(prefetch.level(slots, None), slots, "nothing is known yet");
            for _ in 0..100 {
                prefetch.observe(length_ms);
            }
            assert_eq!(prefetch.level(slots, None), level, "{length_ms} ms, {slots} slots");
        }
    }

    #[test]
    fn tasks_that_become_longer_are_noticed_while_they_run() {
        let mut prefetch = Prefetch::default();
        prefetch.observe(1);
        assert_eq!(prefetch.level(2, Some(0)), 102);
        assert_eq!(prefetch.level(2, Some(10)), 12);
        assert_eq!(prefetch.level(2, Some(1_000)), 2);
        for _ in 0..40 {
            prefetch.observe(500);
        }
        assert_eq!(prefetch.level(2, None), 2);
        for _ in 0..40 {
            prefetch.observe(1);
        }
        assert!(prefetch.level(2, None) > 20, "and shorter again");
    }

    #[test]
    fn small_changes_are_not_told() {
        for (told, level, tell) in [
            (2, 2, false),
            (2, 3, true),
            (3, 2, true),
            (100, 110, false),
            (100, 130, true),
            (100, 2, true),
            (0, 2, true),
        ] {
            assert_eq!(worth_telling(told, level, 2), tell, "{told} to {level}");
        }
    }
}
