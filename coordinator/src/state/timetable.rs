//! When a schedule makes jobs (`jobs-and-tasks.md` §10.3). Slots lie on a grid that starts at an anchor; each may be
//! served in its window, at most once, and what was missed is never made up for.

use lote_shared::model::{Recurrence, Timestamp};

/// A schedule's times, as far as they follow from what it is and when it last made a job.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timetable {
    pub recurrence: Recurrence,
    pub created: Timestamp,
    /// The slot of the latest job.
    pub served: Option<Timestamp>,
}

/// What a moment means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    /// The slot a job may be made for now.
    pub due: Option<Timestamp>,
    /// When that may change by the time alone; `None` = never again.
    pub next: Option<Timestamp>,
}

impl Moment {
    /// Whether no job will be made any more.
    pub fn is_over(self) -> bool {
        self.due.is_none() && self.next.is_none()
    }
}

impl Timetable {
    fn anchor(&self) -> Timestamp {
        self.recurrence.not_before.unwrap_or(self.created)
    }

    fn interval_ms(&self) -> Option<u64> {
        self.recurrence.interval?.as_limit_ms().filter(|ms| *ms > 0)
    }

    /// The last slot that is not after `now`, and the one that follows it.
    fn around(&self, now: Timestamp) -> (Option<Timestamp>, Option<Timestamp>) {
        let anchor = self.anchor();
        if now < anchor {
            return (None, Some(anchor));
        }
        let Some(interval) = self.interval_ms() else { return (Some(anchor), None) };
        let slot = anchor.plus_ms(now.since_ms(anchor) / interval * interval);
        (Some(slot), Some(slot.plus_ms(interval)).filter(|next| *next > slot))
    }

    fn is_served(&self, slot: Timestamp) -> bool {
        self.served.is_some_and(|served| slot <= served)
    }

    /// Whether a slot that begins then can be served at all.
    fn is_allowed(&self, slot: Timestamp) -> bool {
        self.recurrence.not_after.is_none_or(|last| slot <= last)
    }

    pub fn at(&self, now: Timestamp) -> Moment {
        let (slot, next) = self.around(now);
        let window = self.recurrence.start_window.and_then(|window| window.as_limit_ms());
        let closes = slot.zip(window).map(|(slot, window)| slot.plus_ms(window));
        let due = slot.filter(|slot| {
            !self.is_served(*slot) && self.is_allowed(now) && closes.is_none_or(|closes| now < closes)
        });
        let next = next.filter(|next| self.is_allowed(*next));
        // A slot that is open and waits for something else closes by itself.
        let ends = due.and_then(|_| {
            let last = self.recurrence.not_after.map(|last| last.plus_ms(1));
            [closes, last].into_iter().flatten().min()
        });
        Moment { due, next: [next, ends].into_iter().flatten().min() }
    }

    /// The next slot from `now` on that is not served yet.
    pub fn next_run(&self, now: Timestamp) -> Option<Timestamp> {
        let (slot, next) = self.around(now);
        let slot = slot.filter(|slot| *slot == now && !self.is_served(*slot));
        slot.or(next).filter(|slot| self.is_allowed(*slot) && !self.is_served(*slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lote_shared::model::Span;

    const MINUTE: u64 = 60_000;
    /// Schedules of these tests are made at minute 1 000.
    const START: u64 = 1_000;

    fn at(minute: u64) -> Timestamp {
        Timestamp((START + minute) * MINUTE)
    }

    fn minutes(count: i64) -> Option<Span> {
        Some(Span::from_secs(count * 60))
    }

    fn table(interval: Option<Span>, start_window: Option<Span>, served: Option<u64>) -> Timetable {
        Timetable {
            recurrence: Recurrence { interval, start_window, ..Recurrence::default() },
            created: at(0),
            served: served.map(at),
        }
    }

    #[test]
    fn what_is_due_and_when_to_look_again() {
        let ten = minutes(10);
        for (row, table, now, due, next) in [
            ("the first slot is the moment of creation", table(ten, None, None), 0, Some(0), Some(10)),
            ("R1: served, so the next", table(ten, None, Some(0)), 2, None, Some(10)),
            ("R2: inside the window", table(ten, minutes(5), Some(0)), 12, Some(10), Some(15)),
            ("R3: the window has closed", table(ten, minutes(1), Some(0)), 12, None, Some(20)),
            ("the window closes at its end", table(ten, minutes(1), Some(0)), 11, None, Some(20)),
            ("R4: only the slot of now, no burst", table(ten, None, Some(0)), 35, Some(30), Some(40)),
            ("a window longer than the interval", table(ten, minutes(60), Some(0)), 35, Some(30), Some(40)),
            ("R5: one shot", table(None, None, None), 0, Some(0), None),
            ("R5: one shot, done", table(None, None, Some(0)), 5, None, None),
            ("one shot, late", table(None, None, None), 500, Some(0), None),
            ("one shot, window open", table(None, minutes(3), None), 2, Some(0), Some(3)),
            ("one shot, window lost", table(None, minutes(3), None), 3, None, None),
        ] {
            let seen = table.at(at(now));
            assert_eq!(seen, Moment { due: due.map(at), next: next.map(at) }, "{row}");
        }
    }

    #[test]
    fn bounds_of_time() {
        let mut table = table(minutes(10), None, None);
        table.recurrence.not_before = Some(at(100));
        table.recurrence.not_after = Some(at(115));
        assert_eq!(table.at(at(5)), Moment { due: None, next: Some(at(100)) });
        assert_eq!(table.next_run(at(5)), Some(at(100)));
        assert_eq!(table.at(at(100)), Moment { due: Some(at(100)), next: Some(at(110)) });
        table.served = Some(at(100));
        assert_eq!(table.at(at(112)).due, Some(at(110)));
        assert_eq!(table.at(at(112)).next, Some(at(115).plus_ms(1)), "the last moment is looked at");
        assert!(table.at(at(115).plus_ms(1)).is_over());
        table.served = Some(at(110));
        assert!(table.at(at(112)).is_over(), "no slot is left before the end");
        assert_eq!(table.next_run(at(112)), None);
    }

    #[test]
    fn a_new_grid_does_not_repeat_a_slot() {
        let mut table = table(minutes(10), None, Some(20));
        table.recurrence.not_before = Some(at(5));
        assert_eq!(table.at(at(22)), Moment { due: None, next: Some(at(25)) }, "the slot at 15 is before 20");
        assert_eq!(table.at(at(25)).due, Some(at(25)));
        // The schedule was replaced by one without recurrence: there was a job already.
        table.recurrence = Recurrence::default();
        assert!(table.at(at(30)).is_over());
    }

    #[test]
    fn next_run_time_is_on_the_grid() {
        let mut table = table(minutes(10), minutes(1), None);
        assert_eq!(table.next_run(at(0)), Some(at(0)));
        table.served = Some(at(0));
        for (now, next) in [(0, 10), (7, 10), (10, 10), (11, 20)] {
            assert_eq!(table.next_run(at(now)), Some(at(next)), "at {now}");
        }
    }

    #[test]
    fn numbers_at_the_end_of_time_do_no_harm() {
        for now in [0, 1, u64::MAX - 1, u64::MAX] {
            for created in [0, u64::MAX] {
                let table = Timetable { created: Timestamp(created), ..table(minutes(10), minutes(1), None) };
                let seen = table.at(Timestamp(now));
                assert!(seen.next.is_none_or(|next| next > Timestamp(now) || now == u64::MAX));
            }
        }
    }
}
