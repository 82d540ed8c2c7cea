//! What goes, and above all what does not.

use super::*;
use proptest::prelude::*;

const GRACE: u64 = 60_000;
const DAY: u64 = 86_400_000;

fn at(ms: u64) -> Clock {
    Clock { monotonic_ms: ms, wall_ms: 10 * DAY + ms }
}

fn chunk(n: u8, written_ms: u64) -> Found {
    Found { id: ChunkId([n; 32]), written_ms, bytes: 10, referenced: false }
}

/// One pass over all folders, marked a second after it began.
fn pass(collector: &mut Collector, now: u64, hold: Option<u64>, found: &[Found]) -> Vec<u8> {
    let Some(slice) = collector.begin(at(now), hold) else { return Vec::new() };
    let removals = collector.decide(slice, at(now + 1_000), 0..=255, found);
    removals.iter().map(|removal| removal.id.0[0]).collect()
}

#[test]
fn what_nothing_refers_to_goes_after_the_grace_period() {
    let mut collector = Collector::new(GRACE);
    let found = [chunk(1, 0), Found { referenced: true, ..chunk(2, 0) }];
    assert!(pass(&mut collector, 0, None, &found).is_empty());
    assert!(pass(&mut collector, GRACE, None, &found).is_empty(), "the mark was a second later");
    assert_eq!(pass(&mut collector, GRACE + 1_000, None, &found), [1]);
}

#[test]
fn a_reference_in_between_or_a_writer_that_meets_it_begins_the_period_anew() {
    let mut collector = Collector::new(GRACE);
    let old = [chunk(1, 0)];
    pass(&mut collector, 0, None, &old);
    pass(&mut collector, 50_000, None, &[Found { referenced: true, ..chunk(1, 0) }]);
    assert!(pass(&mut collector, 100_000, None, &old).is_empty());
    // Met at 100.5 s, seen when that is longer ago than the grace period.
    let met = [chunk(1, at(100_500).wall_ms)];
    assert!(pass(&mut collector, 170_000, None, &met).is_empty());
    assert!(pass(&mut collector, 170_000 + GRACE, None, &met).is_empty());
    assert_eq!(pass(&mut collector, 171_000 + GRACE, None, &met), [1]);
}

#[test]
fn whatever_an_open_hold_may_have_met_stays() {
    let mut collector = Collector::new(GRACE);
    let found = [chunk(1, at(5_000).wall_ms)];
    // An upload that began at 4 s goes on for hours.
    for hour in 1..10 {
        let now = hour * 3_600_000;
        assert!(pass(&mut collector, now, Some(now - 4_000), &found).is_empty());
    }
    let end = 40_000_000;
    assert!(pass(&mut collector, end, None, &found).is_empty());
    assert_eq!(pass(&mut collector, end + GRACE + 1_000, None, &found), [1]);
}

#[test]
fn a_jump_of_the_clock_forgets_what_was_condemned() {
    for jump in [3_600_000_i64, -3_600_000] {
        let mut collector = Collector::new(GRACE);
        let found = [chunk(1, 0)];
        pass(&mut collector, 0, None, &found);
        let jumped = |ms| Clock { wall_ms: at(ms).wall_ms.saturating_add_signed(jump), ..at(ms) };
        let mut pass = |ms, hold| match collector.begin(jumped(ms), hold) {
            Some(slice) => collector.decide(slice, jumped(ms + 1_000), 0..=255, &found).len(),
            None => 0,
        };
        assert_eq!(pass(100_000, None), 0);
        assert_eq!(pass(159_000, None), 0);
        assert_eq!(pass(161_000, Some(90_000)), 0, "a hold from before the jump");
        assert_eq!(pass(162_000, None), 0);
        assert_eq!(pass(163_000 + GRACE, None), 1);
    }
}

#[test]
fn a_jump_during_a_pass_removes_nothing() {
    let mut collector = Collector::new(GRACE);
    let found = [chunk(1, 0)];
    pass(&mut collector, 0, None, &found);
    let slice = collector.begin(at(100_000), None).unwrap();
    let back = Clock { monotonic_ms: 101_000, wall_ms: at(101_000).wall_ms - 7_200_000 };
    assert!(collector.decide(slice, back, 0..=255, &found).is_empty());
}

#[test]
fn what_is_condemned_is_bounded_and_what_is_gone_is_forgotten() {
    let mut collector = Collector::new(GRACE);
    let many: Vec<Found> = (0..CONDEMNED_MAX as u32 + 10)
        .map(|n| Found { id: ChunkId(*blake3::hash(&n.to_le_bytes()).as_bytes()), ..chunk(0, 0) })
        .collect();
    pass(&mut collector, 0, None, &many);
    assert_eq!(collector.waiting(), CONDEMNED_MAX);
    pass(&mut collector, 1, None, &many[..5]);
    assert_eq!(collector.waiting(), 5);
}

proptest! {
    /// Whatever the order of passes and folders: nothing goes that was referred to or met within the grace period.
    #[test]
    fn nothing_goes_that_was_needed_lately(steps in prop::collection::vec((1_u64..40_000, 0_u8..4, prop::bool::ANY, prop::bool::ANY), 1..60)) {
        let mut collector = Collector::new(GRACE);
        let mut now = DAY;
        let mut written = [0_u64; 4];
        let mut needed = [0_u64; 4];
        for (pause, which, meets, refers) in steps {
            now += pause;
            let at_ = usize::from(which);
            if meets {
                written[at_] = at(now).wall_ms;
                needed[at_] = now;
            }
            if refers {
                needed[at_] = now;
            }
            now += 1;
            let found: Vec<Found> = (0..4_u8)
                .map(|n| Found { referenced: refers && n == which, ..chunk(n, written[usize::from(n)]) })
                .collect();
            for gone in pass(&mut collector, now, None, &found) {
                prop_assert!(now - needed[usize::from(gone)] >= GRACE);
            }
        }
    }
}
