//! Asks the other voters for their clocks, once a second, and tells what this member may do.

use super::{Duty, Keeper, Look, Offset, is_off, judge};
use crate::replication::applier::Position;
use crate::replication::clock::Time;
use crate::replication::transport::{Links, peer_of};
use crate::replication::types::{Member, MemberId, Types};
use crate::replication::wire::{RaftAnswer, RaftQuestion};
use crate::state::ClusterVersion;
use futures::future::join_all;
use lote_shared::model::Timestamp;
use lote_shared::network::PeerId;
use openraft::{Raft, RaftMetrics, ServerState};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

const ASK_EVERY: Duration = Duration::from_secs(1);
const ASK_WITHIN: Duration = Duration::from_millis(800);
/// A clock that was not heard of for so many rounds is not known.
const ROUNDS_KEPT: u64 = 10;
/// A successor may lack so many entries: it has them before anybody is elected.
const LAG_MAX: u64 = 200;

/// The clocks as this member sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clocks {
    /// How far the clocks of voters are off the median at least, in milliseconds, ahead if positive; those that are
    /// known.
    pub off_ms: BTreeMap<MemberId, i64>,
    /// This member's own is too far off, so it does not lead if another can.
    pub is_off: bool,
    pub(in crate::replication) duty: Duty,
}

/// Goes on until Raft ends.
pub async fn watch_clocks<C: Types>(
    raft: Raft<C>,
    links: Option<Arc<Links>>,
    time: Arc<dyn Time>,
    position: watch::Receiver<Position>,
    clocks: watch::Sender<Clocks>,
) {
    let metrics = raft.metrics();
    let mut keeper = Keeper::default();
    let mut heard: BTreeMap<MemberId, (u64, Offset)> = BTreeMap::new();
    let mut round: u64 = 0;
    while metrics.has_changed().is_ok() {
        let now = metrics.borrow().clone();
        // A build of before version 2 would take the question for the end of the stream.
        let may_ask = position.borrow().version >= ClusterVersion::V2;
        let asking = voters(&now).into_iter().filter(|(member, _)| may_ask && *member != now.id);
        let asked = asking.filter_map(|(member, peer)| Some((member, links.as_ref()?, peer?)));
        let asked = asked.map(|(member, links, peer)| {
            let asked = ask(links, peer, now.id, &*time);
            async move { Some((member, asked.await?)) }
        });
        let answers = join_all(asked).await;
        round += 1;
        heard.extend(answers.into_iter().flatten().map(|(member, offset)| (member, (round, offset))));

        let now = metrics.borrow().clone();
        let voting = voters(&now);
        heard.retain(|member, (at, _)| *at + ROUNDS_KEPT > round && voting.contains_key(member));
        let mut known: BTreeMap<MemberId, Offset> =
            heard.iter().map(|(member, (_, offset))| (*member, *offset)).collect();
        if voting.contains_key(&now.id) {
            known.insert(now.id, Offset::default());
        }
        let off_ms = judge(&known, voting.len());
        let look = look(&now, &off_ms, time.read().monotonic_us / 1_000);
        let was_off = keeper.is_off();
        let duty = keeper.next(look);
        if keeper.is_off() != was_off {
            let (off_ms, is_off) = (look.off_ms, keeper.is_off());
            tracing::warn!(off_ms, is_off, "this member's clock beside the median of the voters");
        }
        if !duty.leads && clocks.borrow().duty.leads {
            tracing::warn!("this member falls silent, so that one whose clock is right leads");
        }
        clocks.send_replace(Clocks { off_ms, is_off: keeper.is_off(), duty });
        tokio::time::sleep(ASK_EVERY).await;
    }
}

type Metrics = RaftMetrics<MemberId, Member>;

fn voters(metrics: &Metrics) -> BTreeMap<MemberId, Option<PeerId>> {
    let membership = metrics.membership_config.membership();
    membership.voter_ids().map(|id| (id, membership.get_node(&id).and_then(peer_of))).collect()
}

fn look(metrics: &Metrics, off_ms: &BTreeMap<MemberId, i64>, now_ms: u64) -> Look {
    let last = metrics.last_log_index.unwrap_or(0);
    let has_all = |member: &MemberId| {
        let matched =
            metrics.replication.as_ref().and_then(|replication| replication.get(member).copied()?);
        matched.is_some_and(|matched| matched.index.saturating_add(LAG_MAX) >= last)
    };
    let mut others = off_ms.iter().filter(|(member, _)| **member != metrics.id);
    let voters = metrics.membership_config.membership().voter_ids();
    Look {
        now_ms,
        off_ms: off_ms.get(&metrics.id).copied().filter(|_| off_ms.len() > 1),
        is_alone: voters.filter(|voter| *voter != metrics.id).count() == 0,
        leads: metrics.state == ServerState::Leader,
        follows: metrics.current_leader.is_some_and(|leader| leader != metrics.id),
        has_successor: others.any(|(member, off)| !is_off(*off, false) && has_all(member)),
    }
}

async fn ask(links: &Links, peer: PeerId, me: MemberId, time: &dyn Time) -> Option<Offset> {
    let before = time.read();
    let link = links.raft(peer);
    let asked = link.ask(RaftQuestion::Clock { member: me });
    match tokio::time::timeout(ASK_WITHIN, asked).await {
        Ok(Ok(RaftAnswer::Clock { wall_ms })) => {
            Some(Offset::measured(before, Timestamp(wall_ms), time.read()))
        }
        _ => None,
    }
}
