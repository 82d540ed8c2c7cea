//! Fast failover: a leader that was killed is replaced before its silence would tell.
//!
//! Connections of a killed process break at once. A voter whose connection to the leader broke, and which cannot
//! connect again, asks the other voters whether they lost it too. If a majority did, itself included, it stands for
//! election after a small random delay: that alone frees it from the lease that openraft gives a leader it has heard
//! lately, so that it may vote for another. Whoever has most of the log stands again soon after and wins; the others do
//! only if that does not happen, with growing delays.
//!
//! The same is done about a leader that has taken its own vote away: it steps down, and nobody need wait for its
//! silence.
//!
//! [`Suspicion`] decides and is pure; [`watch`] asks and acts. A leader that is merely silent keeps its openraft
//! timeouts. To elect somebody although the leader lives costs a change of leaders, never a write.

use super::forward::{EngineAnswer, EngineQuestion};
use super::skew::watch::Clocks;
use super::transport::{Links, peer_of};
use super::types::{Member, MemberId, Types};
use super::wire::WireId;
use futures::future::join_all;
use lote_shared::network::{ConnectionEvent, PeerId, Protocol};
use openraft::Raft;
use openraft::metrics::RaftServerMetrics;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch::Receiver;

/// A leader that does not take a stream within this is taken for lost.
const REDIAL_WITHIN: Duration = Duration::from_millis(500);
const LEAVE_WITHIN: Duration = Duration::from_millis(100);
const ASK_WITHIN: Duration = Duration::from_millis(200);
/// Rounds of asking and of electing; then openraft's own timeouts go on alone.
const ASK_ROUNDS_MAX: u32 = 10;
const ELECT_ROUNDS_MAX: u32 = 8;
const ASK_AGAIN_AFTER_MS: u64 = 40;
/// Delays before standing for election are spread over this.
const SPREAD_MS: u64 = 30;
/// After the first election, what an answer from the other side takes, generously; grows with each round.
const PAUSE_MS: u64 = 50;
/// What others than the one with most of the log wait for it.
const DEFER_MS: u64 = 200;

/// What to do about a leader that seems to be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Ask the others again after this many milliseconds.
    Ask(u64),
    /// Stand for election after so many milliseconds, then leave the others so many to do as much, then ask again.
    Elect { after_ms: u64, pause_ms: u64 },
    /// They have not lost it, or nothing comes of it.
    GiveUp,
}

/// One leader under suspicion, as one voter sees it.
#[derive(Debug)]
pub struct Suspicion {
    me: MemberId,
    voters: BTreeSet<MemberId>,
    /// This member should lead, if it has most of the log.
    stands: bool,
    asked: u32,
    elected: u32,
}

impl Suspicion {
    /// `stands`: it is not known of this member that it should not lead. One that should not takes part to be free to
    /// vote, and lets the others go first.
    pub fn new(me: MemberId, voters: BTreeSet<MemberId>, stands: bool) -> Suspicion {
        Suspicion { me, voters, stands, asked: 0, elected: 0 }
    }

    /// `lost` are those who answered that they lost the leader too, with the last entries of their logs; `last` is this
    /// member's; `draw` is a random number.
    pub fn on_answers(
        &mut self,
        lost: &BTreeMap<MemberId, Option<WireId>>,
        last: Option<WireId>,
        draw: u64,
    ) -> Next {
        if !self.voters.contains(&self.me) {
            return Next::GiveUp;
        }
        let count = self.voters.iter().filter(|voter| **voter == self.me || lost.contains_key(voter)).count();
        if 2 * count > self.voters.len() {
            if self.elected == ELECT_ROUNDS_MAX {
                return Next::GiveUp;
            }
            self.elected += 1;
            let has_most =
                self.stands && lost.iter().all(|(other, theirs)| (*theirs, *other) < (last, self.me));
            let defer_ms = if self.elected == 1 || has_most { 0 } else { DEFER_MS };
            let after_ms = defer_ms + draw % SPREAD_MS;
            return Next::Elect { after_ms, pause_ms: PAUSE_MS * u64::from(self.elected) };
        }
        self.asked += 1;
        if self.asked == ASK_ROUNDS_MAX { Next::GiveUp } else { Next::Ask(ASK_AGAIN_AFTER_MS) }
    }
}

type Metrics = RaftServerMetrics<MemberId, Member>;

/// Watches whoever leads, until Raft or the network ends.
pub async fn watch<C: Types>(raft: Raft<C>, links: Arc<Links>, clocks: Receiver<Clocks>) {
    let mut connections = links.network().connections();
    let mut server = raft.server_metrics();
    loop {
        let disconnected = tokio::select! {
            event = connections.recv() => match event {
                Ok(ConnectionEvent::Disconnected(peer)) => Some(peer),
                Ok(ConnectionEvent::Connected(_)) => continue,
                // Whoever leads is then found missing by its silence.
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            },
            changed = server.changed() => match changed {
                Ok(()) => None,
                Err(_) => return,
            },
        };
        let metrics = server.borrow_and_update().clone();
        let Some(leader) = metrics.current_leader.filter(|leader| *leader != metrics.id) else { continue };
        let Some(peer) = member(&metrics, leader).and_then(peer_of) else { continue };
        let is_leaving = has_no_vote(&metrics, leader);
        if is_leaving {
            // It leads until the entry that takes its vote is committed, which takes a moment.
            tokio::time::sleep(LEAVE_WITHIN).await;
        } else if disconnected != Some(peer) || can_be_reached(&links, peer).await {
            continue;
        }
        let stands = clocks.borrow().duty.stands;
        suspect(&raft, &links, leader, stands).await;
    }
}

async fn can_be_reached(links: &Links, peer: PeerId) -> bool {
    let redial = links.network().open(peer, Protocol::Engine);
    tokio::time::timeout(REDIAL_WITHIN, redial).await.is_ok_and(|stream| stream.is_ok())
}

fn member(metrics: &Metrics, id: MemberId) -> Option<&Member> {
    metrics.membership_config.membership().get_node(&id)
}

fn has_no_vote(metrics: &Metrics, id: MemberId) -> bool {
    metrics.membership_config.membership().voter_ids().all(|voter| voter != id)
}

/// What to answer to whoever asks whether this member has lost another: its connection is gone, or its vote.
pub fn has_lost<C: Types>(raft: &Raft<C>, links: &Links, other: MemberId) -> EngineAnswer {
    let metrics = raft.server_metrics().borrow().clone();
    let peer = member(&metrics, other).and_then(peer_of);
    let is_connected = peer.is_none_or(|peer| links.network().connected().contains(&peer));
    let is_lost = other != metrics.id && (!is_connected || has_no_vote(&metrics, other));
    EngineAnswer::Lost { is_lost, last: last_entry(raft) }
}

fn last_entry<C: Types>(raft: &Raft<C>) -> Option<WireId> {
    raft.data_metrics().borrow().last_log.map(WireId::from)
}

async fn suspect<C: Types>(raft: &Raft<C>, links: &Links, leader: MemberId, stands: bool) {
    let mut server = raft.server_metrics();
    let metrics = server.borrow().clone();
    let term = metrics.vote.leader_id.term;
    let voters: BTreeSet<MemberId> = metrics.membership_config.membership().voter_ids().collect();
    let mut suspicion = Suspicion::new(metrics.id, voters.clone(), stands);
    let others: BTreeMap<MemberId, _> = voters
        .iter()
        .filter(|voter| **voter != metrics.id && **voter != leader)
        .filter_map(|voter| Some((*voter, member(&metrics, *voter).and_then(peer_of)?)))
        .collect();
    // Somebody leads who did not when the suspicion began.
    let is_over = |now: &Metrics| {
        now.current_leader.is_some_and(|current| current != leader || now.vote.leader_id.term > term)
    };
    if is_over(&metrics) {
        return;
    }
    loop {
        let answers = others.iter().map(|(voter, peer)| async {
            let link = links.engine(*peer);
            let asked = link.ask(EngineQuestion::HasLost(leader));
            match tokio::time::timeout(ASK_WITHIN, asked).await {
                Ok(Ok(EngineAnswer::Lost { is_lost: true, last })) => Some((*voter, last)),
                _ => None,
            }
        });
        let lost: BTreeMap<MemberId, _> = join_all(answers).await.into_iter().flatten().collect();
        let next = suspicion.on_answers(&lost, last_entry(raft), rand::random());
        tracing::debug!(leader, ?lost, ?next, "the leader seems to be gone");
        let pause_ms = match next {
            Next::GiveUp => return,
            Next::Ask(after_ms) => after_ms,
            Next::Elect { after_ms, pause_ms } => {
                let delay = Duration::from_millis(after_ms);
                let is_done = tokio::time::timeout(delay, server.wait_for(is_over)).await.is_ok();
                if is_done || raft.trigger().elect().await.is_err() {
                    return;
                }
                tracing::info!(leader, "the leader is gone; this member stands for election");
                pause_ms
            }
        };
        if tokio::time::timeout(Duration::from_millis(pause_ms), server.wait_for(is_over)).await.is_ok() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::{CommittedLeaderId, LogId};

    fn entry(index: u64) -> Option<WireId> {
        Some(LogId::new(CommittedLeaderId::new(1, 1), index).into())
    }

    /// Those who lost the leader, each with as many entries.
    fn answers(lost: &[(MemberId, u64)]) -> BTreeMap<MemberId, Option<WireId>> {
        lost.iter().map(|(id, index)| (*id, entry(*index))).collect()
    }

    #[test]
    fn only_a_majority_that_lost_the_leader_elects() {
        let is_election = |next: Next| matches!(next, Next::Elect { .. });
        for (voters, lost, expected) in [
            (&[1, 2, 3][..], &[(2, 5)][..], true),
            (&[1, 2, 3], &[], false),
            (&[1, 2, 3], &[(9, 5)], false),
            (&[1, 2, 3, 4, 5], &[(2, 5)], false),
            (&[1, 2, 3, 4, 5], &[(2, 5), (4, 5)], true),
            (&[1, 2], &[], false),
            (&[1, 2, 3, 4], &[(2, 5)], false),
            (&[2, 3, 4], &[(2, 5), (3, 5)], false),
        ] {
            let mut suspicion = Suspicion::new(1, voters.iter().copied().collect(), true);
            let next = suspicion.on_answers(&answers(lost), entry(5), 7);
            assert_eq!(is_election(next), expected, "{voters:?} {lost:?}");
        }
    }

    #[test]
    fn all_free_themselves_at_once_and_then_the_longest_log_goes_first() {
        for (stands, mine, others, goes_first) in [
            (true, 5, &[(1, 4)][..], true),
            (true, 5, &[(1, 5)], true),
            (true, 5, &[(3, 5)], false),
            (true, 5, &[(1, 6)], false),
            (true, 6, &[(1, 6), (3, 5)], true),
            (false, 6, &[(1, 5)], false),
        ] {
            let mut suspicion = Suspicion::new(2, BTreeSet::from([1, 2, 3, 4]), stands);
            let mut others = answers(others);
            others.insert(4, None);
            let mut delay = || match suspicion.on_answers(&others, entry(mine), 1_234_567) {
                Next::Elect { after_ms, .. } => after_ms,
                other => panic!("{other:?}"),
            };
            assert!(delay() < SPREAD_MS);
            assert_eq!(delay() < SPREAD_MS, goes_first, "{mine} {others:?}");
        }
    }

    #[test]
    fn both_kinds_of_rounds_end() {
        let voters = BTreeSet::from([1, 2, 3]);
        let mut suspicion = Suspicion::new(1, voters.clone(), true);
        let asks = |_: &i32| suspicion.on_answers(&BTreeMap::new(), None, 0) != Next::GiveUp;
        assert_eq!((0..100).take_while(asks).count(), ASK_ROUNDS_MAX as usize - 1);
        let mut suspicion = Suspicion::new(1, voters, true);
        let elects = |_: &i32| suspicion.on_answers(&answers(&[(2, 9)]), entry(1), 0) != Next::GiveUp;
        assert_eq!((0..100).take_while(elects).count(), ELECT_ROUNDS_MAX as usize);
    }
}
