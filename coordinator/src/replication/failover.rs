//! Fast failover: a leader that was killed is replaced before its silence would tell.
//!
//! Connections of a killed process break at once. A voter whose connection to the leader broke, and which cannot
//! connect again, asks the other voters whether they lost it too. If a majority did, itself included, it stands for
//! election after a small random delay, and again with growing delays until somebody leads: the first round only frees
//! those who take part from the lease that openraft gives a leader it has heard lately.
//!
//! The same is done about a leader that has taken its own vote away: it steps down, and nobody need wait for its
//! silence.
//!
//! [`Suspicion`] decides and is pure; [`watch`] asks and acts. A leader that is merely silent keeps its openraft
//! timeouts. To elect somebody although the leader lives costs a change of leaders, never a write.

use super::forward::{EngineAnswer, EngineQuestion};
use super::transport::{Links, peer_of};
use super::types::{Member, MemberId, Types};
use futures::future::join_all;
use lote_shared::network::{ConnectionEvent, PeerId, Protocol};
use openraft::Raft;
use openraft::metrics::RaftServerMetrics;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;

/// A leader that does not take a stream within this is taken for lost.
const REDIAL_WITHIN: Duration = Duration::from_millis(500);
const LEAVE_WITHIN: Duration = Duration::from_millis(100);
const ASK_WITHIN: Duration = Duration::from_millis(200);
/// Rounds of asking and of electing; then openraft's own timeouts go on alone.
const ASK_ROUNDS_MAX: u32 = 10;
const ELECT_ROUNDS_MAX: u32 = 8;
const ASK_AGAIN_AFTER_MS: u64 = 40;
/// The delay before standing for election is below this, in the first round.
const ELECT_WITHIN_MS: u64 = 40;
/// After an election nobody stands again before this, in the first round.
const ELECT_AGAIN_AFTER_MS: u64 = 60;

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
    asked: u32,
    elected: u32,
}

impl Suspicion {
    pub fn new(me: MemberId, voters: BTreeSet<MemberId>) -> Suspicion {
        Suspicion { me, voters, asked: 0, elected: 0 }
    }

    /// `lost` are those who answered that they lost the leader too; `draw` is a random number.
    pub fn on_answers(&mut self, lost: &BTreeSet<MemberId>, draw: u64) -> Next {
        if !self.voters.contains(&self.me) {
            return Next::GiveUp;
        }
        let count = self.voters.iter().filter(|voter| **voter == self.me || lost.contains(voter)).count();
        if 2 * count > self.voters.len() {
            if self.elected == ELECT_ROUNDS_MAX {
                return Next::GiveUp;
            }
            self.elected += 1;
            let scale = u64::from(self.elected);
            let after_ms = draw % (ELECT_WITHIN_MS * scale);
            // What is not waited before is waited after: all rounds take about as long.
            let pause_ms = ELECT_AGAIN_AFTER_MS * scale + (ELECT_WITHIN_MS * scale - after_ms);
            return Next::Elect { after_ms, pause_ms };
        }
        self.asked += 1;
        if self.asked == ASK_ROUNDS_MAX { Next::GiveUp } else { Next::Ask(ASK_AGAIN_AFTER_MS) }
    }
}

type Metrics = RaftServerMetrics<MemberId, Member>;

/// Watches whoever leads, until Raft or the network ends.
pub async fn watch<C: Types>(raft: Raft<C>, links: Arc<Links>) {
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
        suspect(&raft, &links, leader).await;
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
pub fn has_lost<C: Types>(raft: &Raft<C>, links: &Links, other: MemberId) -> bool {
    let metrics = raft.server_metrics().borrow().clone();
    let peer = member(&metrics, other).and_then(peer_of);
    let is_connected = peer.is_none_or(|peer| links.network().connected().contains(&peer));
    other != metrics.id && (!is_connected || has_no_vote(&metrics, other))
}

async fn suspect<C: Types>(raft: &Raft<C>, links: &Links, leader: MemberId) {
    let mut server = raft.server_metrics();
    let metrics = server.borrow().clone();
    let term = metrics.vote.leader_id.term;
    let voters: BTreeSet<MemberId> = metrics.membership_config.membership().voter_ids().collect();
    let mut suspicion = Suspicion::new(metrics.id, voters.clone());
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
                Ok(Ok(EngineAnswer::Lost(true))) => Some(*voter),
                _ => None,
            }
        });
        let lost: BTreeSet<MemberId> = join_all(answers).await.into_iter().flatten().collect();
        let next = suspicion.on_answers(&lost, rand::random());
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

    #[test]
    fn only_a_majority_that_lost_the_leader_elects() {
        let is_election = |next: Next| matches!(next, Next::Elect { .. });
        for (voters, lost, expected) in [
            (&[1, 2, 3][..], &[2][..], true),
            (&[1, 2, 3], &[], false),
            (&[1, 2, 3], &[9], false),
            (&[1, 2, 3, 4, 5], &[2], false),
            (&[1, 2, 3, 4, 5], &[2, 4], true),
            (&[1, 2], &[], false),
            (&[1, 2, 3, 4], &[2], false),
            (&[2, 3, 4], &[2, 3], false),
        ] {
            let mut suspicion = Suspicion::new(1, voters.iter().copied().collect());
            let lost = lost.iter().copied().collect();
            assert_eq!(is_election(suspicion.on_answers(&lost, 7)), expected, "{voters:?} {lost:?}");
        }
    }

    #[test]
    fn both_kinds_of_rounds_end_and_delays_grow_within_bounds() {
        let mut suspicion = Suspicion::new(1, BTreeSet::from([1, 2, 3]));
        let asked =
            (0..100).take_while(|_| suspicion.on_answers(&BTreeSet::new(), 0) != Next::GiveUp).count();
        assert_eq!(asked, ASK_ROUNDS_MAX as usize - 1);
        let mut suspicion = Suspicion::new(1, BTreeSet::from([1, 2, 3]));
        let (mut total_ms, mut rounds) = (0, 0);
        while let Next::Elect { after_ms, pause_ms } =
            suspicion.on_answers(&BTreeSet::from([2]), 1_234_567 + total_ms)
        {
            rounds += 1;
            assert!(after_ms < ELECT_WITHIN_MS * rounds && pause_ms > ELECT_AGAIN_AFTER_MS * rounds);
            total_ms += after_ms + pause_ms;
        }
        assert_eq!(rounds, u64::from(ELECT_ROUNDS_MAX));
        assert!(total_ms < 10_000);
    }
}
