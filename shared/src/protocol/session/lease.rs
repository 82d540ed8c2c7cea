//! The arithmetic of leases (architecture, hosts and leases; spec `pools-and-nodes.md` §7.2, §9.5).
//!
//! What must hold: **when a leader counts a host as lost, the host's own deadline has passed**, so that its tasks
//! are dead before they are placed elsewhere. For one renewal, in real time:
//!
//! ```text
//!   quorum confirmed ≤ leader answers        host sent the ping ≤ leader answers
//!        q                   r                      s                  r
//!
//!   granted  = lease − (r − q)
//!   deadline = s + granted ≤ q + lease            (the host's clock)
//!   lost     = q + lease × 1.1 + 1 s              (the leader's clock)
//! ```
//!
//! The tenth is for clocks that run at different speeds. It also holds over an election: another leader is elected
//! after `q`, and waits a lease and a tenth from there; the old one can grant nothing beyond `q + lease`.
//!
//! All times are readings of the machine's own monotonic clock in milliseconds, passed in by the caller. They are
//! never compared between machines. The host's must go on while the machine sleeps (boottime), or it would wake with a
//! lease that is over elsewhere. The leader's need not: a leader that slept counts its hosts as lost later, and what
//! it grants ends a lease after the ping was sent, which was before the quorum was asked, however long it slept between.

use crate::model::HostKey;
use crate::protocol::host::Lease;
use std::collections::BTreeMap;

/// Added to lease × 1.1 before a host is lost.
const GRACE_MS: u64 = 1_000;
/// A session without a renewal is not given up before this.
const PATIENCE_MIN_MS: u64 = 3_000;

/// How long after its last confirmed renewal a host may not be counted as lost.
fn lost_after_ms(lease_ms: u64) -> u64 {
    lease_ms.saturating_add(lease_ms.div_ceil(10)).saturating_add(GRACE_MS)
}

/// A host's side: until when it may let tasks run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaseClock {
    /// Newest reading sent in a ping.
    asked_ms: Option<u64>,
    deadline_ms: Option<u64>,
}

impl LeaseClock {
    /// No lease yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that a ping with this reading goes out.
    pub fn asked(&mut self, sent_ms: u64) {
        self.asked_ms = self.asked_ms.max(Some(sent_ms));
    }

    /// The answer to a ping. Returns whether the deadline moved: answers that are late or older than one that came
    /// before do not move it, and one to a ping that was never sent is ignored.
    pub fn renewed(&mut self, lease: &Lease) -> bool {
        if Some(lease.sent_ms) > self.asked_ms {
            return false;
        }
        let deadline_ms = Some(lease.sent_ms.saturating_add(lease.lease_ms));
        let moved = deadline_ms > self.deadline_ms;
        self.deadline_ms = self.deadline_ms.max(deadline_ms);
        moved
    }

    /// End of the lease; `None` before the first renewal.
    pub fn deadline_ms(&self) -> Option<u64> {
        self.deadline_ms
    }

    /// What is left; 0 if it ran out or there never was a lease.
    pub fn remaining(&self, now_ms: u64) -> u64 {
        self.deadline_ms.map_or(0, |deadline_ms| deadline_ms.saturating_sub(now_ms))
    }

    /// For how long a session may still go on without a renewal. When half a lease has passed since the last one, whoever
    /// leads is not here any more, or is cut off from the others, whatever else it may say; and there has to be time left
    /// to find another leader before the tasks must end. Short leases leave none: there a loaded machine gets a while.
    pub fn patience(&self, now_ms: u64, lease_ms: u64) -> u64 {
        let patience_ms = (lease_ms / 2).max(PATIENCE_MIN_MS);
        let renewed_ms = self.deadline_ms.map_or(now_ms, |deadline_ms| deadline_ms.saturating_sub(lease_ms));
        renewed_ms.saturating_add(patience_ms).saturating_sub(now_ms)
    }

    /// Every third of a lease a ping is due.
    pub fn ping_interval_ms(lease_ms: u64) -> u64 {
        (lease_ms / 3).max(1)
    }
}

/// The leader's side: which hosts are silent or lost. Made anew with each leadership.
#[derive(Debug)]
pub struct LeaseBook {
    lease_ms: u64,
    elected_ms: u64,
    hosts: BTreeMap<HostKey, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// When the host was last heard of.
    heard_ms: u64,
    /// From here on it is lost; never moves backwards.
    lost_ms: u64,
}

impl LeaseBook {
    /// A book at the time of election. `lease_ms` is the longest lease that may be in force.
    pub fn new(elected_ms: u64, lease_ms: u64) -> Self {
        Self { lease_ms, elected_ms, hosts: BTreeMap::new() }
    }

    /// The lease for renewals from now on. Leases that are granted already keep their length.
    pub fn set_lease_ms(&mut self, lease_ms: u64) {
        self.lease_ms = lease_ms;
    }

    /// Watches a host that the state knows, say right after the election. Another leader may have renewed its lease
    /// up to then, so it has a whole lease from the election on (or from now, if it joined later).
    pub fn watch(&mut self, host: HostKey, now_ms: u64) {
        let from_ms = now_ms.max(self.elected_ms);
        let lost_ms = from_ms.saturating_add(lost_after_ms(self.lease_ms));
        self.hosts.entry(host).or_insert(Entry { heard_ms: from_ms, lost_ms });
    }

    /// A ping of a host at `now_ms`. `quorum_ms` is when the last heartbeat round was *sent* that a quorum answered
    /// (a lone coordinator: now). Returns the `lease_ms` to answer with; `None` if nothing can be granted, and then
    /// the ping is not to be answered.
    pub fn renew(&mut self, host: HostKey, now_ms: u64, quorum_ms: u64) -> Option<u64> {
        self.watch(host, now_ms);
        let quorum_ms = quorum_ms.min(now_ms);
        let granted_ms = self.lease_ms.saturating_sub(now_ms - quorum_ms);
        let lost_ms = quorum_ms.saturating_add(lost_after_ms(self.lease_ms));
        let entry = self.hosts.get_mut(&host)?;
        entry.heard_ms = entry.heard_ms.max(now_ms);
        if granted_ms == 0 {
            return None;
        }
        entry.lost_ms = entry.lost_ms.max(lost_ms);
        Some(granted_ms)
    }

    /// Hosts whose lease ran out: × 1.1 + 1 s have passed. They stay listed until removed or renewed.
    pub fn lost(&self, now_ms: u64) -> Vec<HostKey> {
        self.hosts_where(|entry| now_ms >= entry.lost_ms)
    }

    /// Hosts that were not heard of for half a lease: shown as `unknown`.
    pub fn silent(&self, now_ms: u64) -> Vec<HostKey> {
        self.hosts_where(|entry| now_ms.saturating_sub(entry.heard_ms) >= self.lease_ms / 2)
    }

    /// The next time at which [`LeaseBook::lost`] may name a further host.
    pub fn next_loss_ms(&self, now_ms: u64) -> Option<u64> {
        self.hosts.values().map(|entry| entry.lost_ms).filter(|lost_ms| *lost_ms > now_ms).min()
    }

    /// For people: each host, how long it was not heard of, and how long until it is lost.
    pub fn facts(&self, now_ms: u64) -> impl Iterator<Item = (HostKey, u64, u64)> {
        self.hosts.iter().map(move |(host, entry)| {
            (*host, now_ms.saturating_sub(entry.heard_ms), entry.lost_ms.saturating_sub(now_ms))
        })
    }

    /// Stops watching: the host left, or its loss is dealt with.
    pub fn remove(&mut self, host: HostKey) {
        self.hosts.remove(&host);
    }

    fn hosts_where(&self, matches: impl Fn(&Entry) -> bool) -> Vec<HostKey> {
        self.hosts.iter().filter(|(_, entry)| matches(entry)).map(|(host, _)| *host).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;
    use proptest::prelude::*;

    const LEASE_MS: u64 = 60_000;

    fn lease(sent_ms: u64, lease_ms: u64) -> Lease {
        Lease { sent_ms, lease_ms, now: Timestamp::default() }
    }

    #[test]
    fn a_hosts_deadline_follows_the_newest_answered_ping() {
        let mut clock = LeaseClock::new();
        assert_eq!(clock.remaining(0), 0);
        clock.asked(1_000);
        clock.asked(21_000);
        assert!(clock.renewed(&lease(21_000, LEASE_MS)));
        assert_eq!(clock.deadline_ms(), Some(81_000));
        // The answer to the earlier ping comes late; a later one grants less.
        assert!(!clock.renewed(&lease(1_000, LEASE_MS)));
        clock.asked(41_000);
        assert!(!clock.renewed(&lease(41_000, 10_000)));
        assert_eq!(clock.deadline_ms(), Some(81_000));
        // A ping that was never sent.
        assert!(!clock.renewed(&lease(41_001, LEASE_MS)));
        assert_eq!([80_999, 81_000, 90_000].map(|now_ms| clock.remaining(now_ms)), [1, 0, 0]);
    }

    #[test]
    fn a_session_without_renewals_is_given_up_while_there_is_time() {
        let mut clock = LeaseClock::new();
        assert_eq!(clock.patience(5, LEASE_MS), 30_000, "there was none yet");
        clock.asked(1_000);
        clock.renewed(&lease(1_000, LEASE_MS));
        assert_eq!(
            [1_000, 30_999, 31_000, 99_000].map(|now| clock.patience(now, LEASE_MS)),
            [30_000, 1, 0, 0]
        );
        // A leader that has lost its quorum grants what is left, which does not count.
        clock.asked(25_000);
        clock.renewed(&lease(25_000, 37_000));
        assert_eq!(clock.patience(25_000, LEASE_MS), 7_000);
        // Short leases.
        let mut clock = LeaseClock::new();
        clock.asked(1_000);
        clock.renewed(&lease(1_000, 2_000));
        assert_eq!([1_000, 3_999, 4_000].map(|now| clock.patience(now, 2_000)), [3_000, 1, 0]);
    }

    #[test]
    fn a_host_is_lost_a_lease_and_a_tenth_and_a_second_after_its_renewal() {
        let host = HostKey(1);
        let mut book = LeaseBook::new(0, LEASE_MS);
        assert_eq!(book.renew(host, 100_000, 100_000), Some(LEASE_MS));
        assert_eq!(book.lost(166_999), []);
        assert_eq!(book.next_loss_ms(100_000), Some(167_000));
        assert_eq!(book.lost(167_000), [host]);
        assert_eq!(book.silent(129_999), []);
        assert_eq!(book.silent(130_000), [host]);
        book.renew(host, 167_000, 167_000).unwrap();
        assert_eq!(book.lost(167_001), []);
        book.remove(host);
        assert_eq!(book.lost(u64::MAX), []);
    }

    #[test]
    fn nobody_is_lost_before_a_lease_and_a_tenth_after_an_election() {
        let mut book = LeaseBook::new(500_000, LEASE_MS);
        book.watch(HostKey(1), 500_010);
        // A watch that claims an earlier time, and one after the election.
        book.watch(HostKey(2), 0);
        book.watch(HostKey(3), 560_000);
        assert_eq!(book.lost(500_000 + LEASE_MS + LEASE_MS / 10), []);
        assert_eq!(book.lost(567_000), [HostKey(2)]);
        assert_eq!(book.lost(567_010), [HostKey(1), HostKey(2)]);
    }

    #[test]
    fn a_leader_that_lost_its_quorum_grants_less_and_then_nothing() {
        let host = HostKey(1);
        let mut book = LeaseBook::new(0, LEASE_MS);
        book.watch(host, 0);
        let quorum_ms = 100_000;
        assert_eq!(book.renew(host, 100_200, quorum_ms), Some(LEASE_MS - 200));
        assert_eq!(book.renew(host, 159_999, quorum_ms), Some(1));
        assert_eq!(book.renew(host, 160_000, quorum_ms), None);
        assert_eq!(book.renew(host, 170_000, quorum_ms), None);
        // Counted from the quorum, whenever the host pinged.
        assert_eq!(book.lost(166_999), []);
        assert_eq!(book.lost(167_000), [host]);
        // A quorum "in the future" is none: at most a whole lease from now.
        assert_eq!(book.renew(host, 180_000, 999_999), Some(LEASE_MS));
        assert_eq!(book.lost(247_000), [host]);
    }

    #[test]
    fn a_shorter_lease_takes_nothing_back() {
        let host = HostKey(1);
        let mut book = LeaseBook::new(0, LEASE_MS);
        book.renew(host, 100_000, 100_000).unwrap();
        book.set_lease_ms(2_000);
        assert_eq!(book.renew(host, 100_500, 100_500), Some(2_000));
        assert_eq!(book.lost(166_999), [], "the host may still hold the long one");
        assert_eq!(book.lost(167_000), [host]);
    }

    #[test]
    fn absurd_numbers_do_not_wrap() {
        let host = HostKey(1);
        let mut book = LeaseBook::new(u64::MAX - 1, u64::MAX);
        book.watch(host, u64::MAX);
        assert_eq!(book.renew(host, u64::MAX, 0), None);
        let mut clock = LeaseClock::new();
        clock.asked(u64::MAX);
        assert!(clock.renewed(&lease(u64::MAX, u64::MAX)));
        assert_eq!(clock.remaining(u64::MAX), 0);
    }

    proptest! {
        /// The fence itself, with a change of leaders and clocks that differ by up to 3 % in speed and in zero.
        #[test]
        fn a_lost_host_has_stopped_before(
            lease_ms in 300_u64..100_000,
            speeds in prop::array::uniform3(970_u64..=1_030),
            // Real time of pings, delays of their way and of the answer's way, age of the quorum then.
            pings in prop::collection::vec((0_u64..300_000, 0_u64..20_000, 0_u64..20_000, 0_u64..30_000), 1..12),
            elected_at in 0_u64..300_000,
        ) {
            let [host_clock, old_clock, new_clock] =
                speeds.map(|per_mille| move |real_ms: u64| 10_000_000 + real_ms * per_mille / 1_000);
            let host = HostKey(1);
            let mut clock = LeaseClock::new();
            let mut old = LeaseBook::new(0, lease_ms);
            // The quorum cannot have confirmed the old leader after it elected the new one.
            let mut new = LeaseBook::new(new_clock(elected_at), lease_ms);
            new.watch(host, new_clock(elected_at));
            let mut deadline_by_old = None;
            for (sent, there, back, age) in pings {
                clock.asked(host_clock(sent));
                let answered = sent + there;
                let quorum = answered.saturating_sub(age).min(elected_at);
                if let Some(granted) = old.renew(host, old_clock(answered), old_clock(quorum)) {
                    clock.renewed(&lease(host_clock(sent), granted));
                    deadline_by_old = clock.deadline_ms();
                }
                let _arrives_at = answered + back;
            }
            // Walk in real time to where each leader counts the host as lost.
            for at in (0..600_000).step_by(97) {
                let stopped = deadline_by_old.is_none_or(|deadline| host_clock(at) >= deadline);
                prop_assert!(stopped || !new.lost(new_clock(at)).contains(&host), "new leader at {at}");
                prop_assert!(stopped || !old.lost(old_clock(at)).contains(&host), "old leader at {at}");
            }
        }
    }
}
