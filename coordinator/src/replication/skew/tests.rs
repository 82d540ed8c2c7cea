//! Tables: who is off by which clocks, and what a member does about it.

use super::*;

const HOUR: i64 = 3_600_000;
const YEAR: i64 = 365 * 24 * HOUR;

/// Clocks that are known exactly, of so many voters; how far each is off.
fn off(voters: usize, clocks: &[i64]) -> Vec<i64> {
    let clocks = clocks.iter().map(|ahead_ms| Offset { ahead_ms: *ahead_ms, within_ms: 0 });
    judge(&(1..).zip(clocks).collect(), voters).into_values().collect()
}

#[test]
fn who_is_off_the_median() {
    for (voters, clocks, expected) in [
        (1, &[0][..], &[0][..]),
        // Of two nobody can say which is wrong.
        (2, &[0, HOUR], &[0, 0]),
        (2, &[0], &[0]),
        (3, &[0, 0, 0], &[0, 0, 0]),
        (3, &[0, 10, -10], &[0, 10, -10]),
        (3, &[0, HOUR, HOUR], &[-HOUR, 0, 0]),
        (3, &[0, -HOUR, -HOUR + 300], &[HOUR - 300, -300, 0]),
        (3, &[0, YEAR, 20], &[-20, YEAR - 20, 0]),
        (3, &[0, -YEAR, 20], &[0, -YEAR, 20]),
        // The one in the middle is always right.
        (3, &[0, HOUR, YEAR], &[-HOUR, 0, YEAR - HOUR]),
        // One of three is unreachable, then two.
        (3, &[0, HOUR], &[0, 0]),
        (3, &[0], &[0]),
        (5, &[0, 0, 0, 0, YEAR], &[0, 0, 0, 0, YEAR]),
        (5, &[0, 0, 0, HOUR, YEAR], &[0, 0, 0, HOUR, YEAR]),
        // A majority that is off is the median.
        (5, &[0, 0, HOUR, HOUR, HOUR], &[-HOUR, -HOUR, 0, 0, 0]),
        (5, &[0, 0, HOUR, HOUR], &[0, 0, 0, 0]),
        (5, &[0, HOUR, HOUR, HOUR], &[-HOUR, 0, 0, 0]),
        (5, &[0, HOUR, HOUR], &[-HOUR, 0, 0]),
        // No majority is known.
        (5, &[0, HOUR], &[0, 0]),
        (3, &[], &[]),
        (3, &[i64::MIN, 0, i64::MAX], &[i64::MIN, 0, i64::MAX]),
    ] {
        assert_eq!(off(voters, clocks), expected, "{clocks:?} of {voters}");
    }
}

#[test]
fn doubt_speaks_for_a_clock() {
    let clock = |ahead_ms, within_ms| Offset { ahead_ms, within_ms };
    for (mine, others, expected) in [
        (0, [clock(6_000, 0), clock(6_000, 0)], -6_000),
        (0, [clock(6_000, 500), clock(6_000, 500)], -5_500),
        (0, [clock(6_000, 500), clock(6_000, 2_000)], -4_000),
        (0, [clock(-6_000, 500), clock(-6_000, 2_000)], 4_000),
        (0, [clock(6_000, 10_000), clock(6_000, 10_000)], 0),
    ] {
        let clocks = BTreeMap::from([(1, clock(mine, 0)), (2, others[0]), (3, others[1])]);
        assert_eq!(judge(&clocks, 3)[&1], expected, "{others:?}");
    }
}

proptest::proptest! {
    #[test]
    fn somebody_is_always_right(
        clocks in proptest::collection::vec((-20_000_i64..20_000, 0_u64..5_000), 1..8),
    ) {
        let clocks = clocks.into_iter().map(|(ahead_ms, within_ms)| Offset { ahead_ms, within_ms });
        let clocks: BTreeMap<MemberId, Offset> = (1..).zip(clocks).collect();
        let off = judge(&clocks, clocks.len());
        proptest::prop_assert!(off.values().any(|off| *off == 0), "{clocks:?} {off:?}");
    }
}

#[test]
fn a_clock_is_known_to_within_half_the_round_trip() {
    let reading = |wall, monotonic_us| Reading { wall: Timestamp(wall), monotonic_us };
    for (before, theirs, after, expected) in [
        (reading(1_000, 0), 1_005, reading(1_010, 10_000), (0, 6)),
        (reading(1_000, 0), 9_005, reading(1_010, 10_000), (8_000, 6)),
        (reading(9_000, 0), 1_005, reading(9_010, 10_000), (-8_000, 6)),
        // This member's own clock leapt meanwhile; that is seen next time.
        (reading(1_000, 0), 1_005, reading(HOUR as u64, 10_000), (0, 6)),
        (reading(1_000, 7), 1_000, reading(1_000, 7), (0, 1)),
        (reading(0, 0), u64::MAX, reading(0, 0), (i64::MAX, 1)),
        (reading(u64::MAX, 0), 0, reading(u64::MAX, u64::MAX), (i64::MIN, u64::MAX / 2_000 + 2)),
    ] {
        let offset = Offset::measured(before, Timestamp(theirs), after);
        assert_eq!((offset.ahead_ms, offset.within_ms), expected, "{before:?} {theirs} {after:?}");
    }
}

type Change = fn(&mut Look);

/// Looks at (second, change of what was known before), and what comes of each: `-` nothing is forbidden, `e` no
/// election, `s` silent.
fn duties(looks: &[(u64, Change)]) -> String {
    let (mut keeper, mut look) = (Keeper::default(), Look::default());
    let mut said = String::new();
    for (second, change) in looks {
        change(&mut look);
        look.now_ms = second * 1_000;
        said.push(match keeper.next(look) {
            Duty { stands: true, leads: true } => '-',
            Duty { stands: false, leads: true } => 'e',
            Duty { stands: false, leads: false } => 's',
            Duty { stands: true, leads: false } => panic!("it stands and does not lead"),
        });
    }
    said
}

#[test]
fn what_a_member_does() {
    const SAME: Change = |_| {};
    const OFF: Change = |look| look.off_ms = Some(HOUR);
    const RIGHT: Change = |look| look.off_ms = Some(10);
    const LEADS: Change = |look| (look.leads, look.follows) = (true, false);
    const FOLLOWS: Change = |look| (look.leads, look.follows) = (false, true);
    const LOST: Change = |look| (look.leads, look.follows) = (false, false);
    const READY: Change = |look| look.has_successor = true;
    const ALONE: Change = |look| look.is_alone = true;
    for (what, looks, expected) in [
        ("it waits for the first answers", &[(0, SAME), (2, SAME), (3, SAME)][..], "ee-"),
        (
            "a follower that is off does not stand",
            &[(0, FOLLOWS), (1, OFF), (100, SAME), (101, RIGHT)],
            "eee-",
        ),
        ("unless nobody leads for long", &[(0, OFF), (5, SAME), (6, SAME)], "ee-"),
        (
            "counted from when the leader was lost",
            &[(0, OFF), (1, FOLLOWS), (50, LOST), (55, SAME), (56, SAME)],
            "eeee-",
        ),
        ("a leader hands over", &[(0, LEADS), (1, OFF), (2, READY), (3, SAME), (4, FOLLOWS)], "e-sse"),
        (
            "and goes on if nobody takes over",
            &[(0, OFF), (0, READY), (1, LEADS), (10, SAME), (11, SAME), (70, SAME), (71, SAME)],
            "eess--s",
        ),
        ("or once its clock is right", &[(0, OFF), (0, READY), (1, LEADS), (2, RIGHT)], "ees-"),
        ("nobody else votes", &[(0, ALONE), (1, OFF), (2, READY), (3, LEADS)], "----"),
        (
            "five seconds are not off, and four are right again",
            &[
                (0, |look| look.off_ms = Some(5_000)),
                (1, |look| look.off_ms = Some(-5_001)),
                (2, |look| look.off_ms = Some(-4_001)),
                (3, |look| look.off_ms = Some(4_000)),
                (4, |look| look.off_ms = Some(4_500)),
            ],
            "-ee--",
        ),
    ] {
        assert_eq!(duties(looks), expected, "{what}");
    }
}
