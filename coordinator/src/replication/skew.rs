//! The clock rule: a member whose wall clock is more than five seconds off the median of the voters may not lead, for
//! cluster time would follow it. [`watch`] asks the others and acts; everything here is pure.
//!
//! [`judge`] compares clocks, each known to within half the round trip of the question, and blames nobody on the
//! strength of the doubt. Of an even number of clocks every value between the middle two is the median: of two that
//! differ neither is called wrong, and whatever the clocks say, somebody may lead.
//!
//! [`Keeper`] turns that into what this member does, so that the rule costs a change of leaders and never the leader:
//! one whose clock is off hands over only when a voter whose clock is right has all of the log, and goes on if nobody
//! takes over; one that does not lead does not stand for election, unless there has been no leader for a while.

pub mod watch;

#[cfg(test)]
mod tests;

use super::clock::Reading;
use super::types::MemberId;
use lote_shared::model::Timestamp;
use std::collections::BTreeMap;

/// Further off than this a member may not lead.
pub const OFF_MS: u64 = 5_000;
/// So near it is right again.
const BACK_MS: u64 = 4_000;
/// A member that knows no other clock yet waits so long for the first answers before it stands for election.
const FIRST_ANSWERS_MS: u64 = 3_000;
/// Without a leader for so long even a member whose clock is off stands for election.
const LEADERLESS_MS: u64 = 6_000;
/// How long a leader stays silent for another one to be elected.
const HAND_OVER_MS: u64 = 10_000;
/// And how long it then goes on before it tries that again.
const REST_MS: u64 = 60_000;

/// A member's wall clock beside this one's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offset {
    /// How far it is ahead, in milliseconds; negative if it is behind.
    pub ahead_ms: i64,
    /// The truth is at most so far from that.
    pub within_ms: u64,
}

impl Offset {
    /// Of a clock that was asked for at `before` and whose answer was here at `after`.
    pub fn measured(before: Reading, theirs: Timestamp, after: Reading) -> Offset {
        // By the monotonic clock, so that a leap of this member's own wall clock in between does no harm.
        let round_ms = after.monotonic_us.saturating_sub(before.monotonic_us).div_ceil(1_000);
        let ours = before.wall.0.saturating_add(round_ms / 2);
        let ahead = i128::from(theirs.0) - i128::from(ours);
        // One more for the two clocks' rounding.
        let ahead_ms = i64::try_from(ahead).unwrap_or(if ahead > 0 { i64::MAX } else { i64::MIN });
        Offset { ahead_ms, within_ms: round_ms.div_ceil(2) + 1 }
    }

    fn least(self) -> i128 {
        i128::from(self.ahead_ms) - i128::from(self.within_ms)
    }

    fn most(self) -> i128 {
        i128::from(self.ahead_ms) + i128::from(self.within_ms)
    }
}

/// How far each clock is off the median at least, in milliseconds; negative if it is behind. `clocks` are those that
/// are known of so many voters, this member's own included; as long as they are no majority nobody is off.
pub fn judge(clocks: &BTreeMap<MemberId, Offset>, voters: usize) -> BTreeMap<MemberId, i64> {
    let sorted = |edge: fn(Offset) -> i128| {
        let mut edges: Vec<i128> = clocks.values().copied().map(edge).collect();
        edges.sort_unstable();
        edges
    };
    let (least, most) = (sorted(Offset::least), sorted(Offset::most));
    let count = clocks.len();
    let median = (least.get(count.saturating_sub(1) / 2), most.get(count / 2));
    let off = |clock: &Offset| match median {
        (Some(least), Some(most)) if 2 * count > voters => {
            let off = (clock.least() - most).max(0) + (clock.most() - least).min(0);
            i64::try_from(off).unwrap_or(if off > 0 { i64::MAX } else { i64::MIN })
        }
        _ => 0,
    };
    clocks.iter().map(|(member, clock)| (*member, off(clock))).collect()
}

/// Whether a clock that is so far off is wrong.
pub fn is_off(off_ms: i64, was_off: bool) -> bool {
    off_ms.unsigned_abs() > if was_off { BACK_MS } else { OFF_MS }
}

/// What is known now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Look {
    /// By this member's monotonic clock.
    pub now_ms: u64,
    /// This member's own clock, if others are known.
    pub off_ms: Option<i64>,
    /// No other member votes.
    pub is_alone: bool,
    pub leads: bool,
    /// Another member leads, as far as this one knows.
    pub follows: bool,
    /// For a leader: a voter whose clock is right has all of the log, or nearly.
    pub has_successor: bool,
}

/// What this member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duty {
    /// Stand for election.
    pub stands: bool,
    /// Lead, if it does: else it falls silent, so that another one is elected.
    pub leads: bool,
}

impl Default for Duty {
    fn default() -> Duty {
        Duty { stands: true, leads: true }
    }
}

/// Decides again and again.
#[derive(Debug, Clone, Default)]
pub struct Keeper {
    is_off: bool,
    started_ms: Option<u64>,
    leaderless_since_ms: Option<u64>,
    silent_since_ms: Option<u64>,
    rests_until_ms: u64,
}

impl Keeper {
    /// Whether this member's clock is off.
    pub fn is_off(&self) -> bool {
        self.is_off
    }

    pub fn next(&mut self, look: Look) -> Duty {
        let now = look.now_ms;
        let started = *self.started_ms.get_or_insert(now);
        if look.leads || look.follows {
            self.leaderless_since_ms = None;
        }
        let leaderless = now.saturating_sub(if look.leads || look.follows {
            now
        } else {
            *self.leaderless_since_ms.get_or_insert(now)
        });
        self.is_off = !look.is_alone && is_off(look.off_ms.unwrap_or(0), self.is_off);
        if !self.is_off {
            self.silent_since_ms = None;
            let is_known = look.is_alone || look.off_ms.is_some();
            return Duty { stands: is_known || now.saturating_sub(started) >= FIRST_ANSWERS_MS, leads: true };
        }
        if !look.leads {
            self.silent_since_ms = None;
            return Duty { stands: leaderless >= LEADERLESS_MS, leads: true };
        }
        match self.silent_since_ms {
            Some(since) if now.saturating_sub(since) < HAND_OVER_MS => Duty { stands: false, leads: false },
            Some(_) => {
                self.silent_since_ms = None;
                self.rests_until_ms = now.saturating_add(REST_MS);
                Duty::default()
            }
            None if look.has_successor && now >= self.rests_until_ms => {
                self.silent_since_ms = Some(now);
                Duty { stands: false, leads: false }
            }
            None => Duty::default(),
        }
    }
}
