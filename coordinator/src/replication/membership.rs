//! The membership keeper: brings Raft's membership to what the state says, one step at a time.
//!
//! [`next_step`] decides and is pure; [`keep`] runs it on the leader. Nobody orders the steps, so a new leader goes on
//! where the last one was.

use super::types::{Member, MemberId, Types};
use crate::leadership::Leadership;
use futures::future::BoxFuture;
use openraft::{ChangeMembers, Raft};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::watch;

/// A learner may vote when it lacks no more entries than this: it has the rest before anybody notices.
const LAG_MAX: u64 = 200;
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A step waits for a quorum; without one the next leader does it.
const STEP_WITHIN: Duration = Duration::from_secs(10);

/// What the next step is decided on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// The leader, which decides.
    pub me: MemberId,
    /// The coordinators there should be; not those that are leaving.
    pub desired: BTreeMap<MemberId, Member>,
    /// Those who are to go and are heard until Raft has let them go.
    pub leaving: BTreeSet<MemberId>,
    /// Everybody whom Raft replicates to.
    pub members: BTreeMap<MemberId, Member>,
    pub voters: BTreeSet<MemberId>,
    /// A change of voters was begun and not ended.
    pub is_joint: bool,
    /// The last entry each member is known to have.
    pub matched: BTreeMap<MemberId, u64>,
    pub last_log: u64,
}

/// One change of Raft's membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    AddLearner(MemberId, Member),
    /// Its addresses changed.
    Update(MemberId, Member),
    /// These vote from now on; the others are learners.
    SetVoters(BTreeSet<MemberId>),
    /// A learner goes.
    Remove(MemberId),
}

impl Step {
    pub fn change(self) -> ChangeMembers<MemberId, Member> {
        match self {
            Step::AddLearner(id, member) => ChangeMembers::AddNodes(BTreeMap::from([(id, member)])),
            Step::Update(id, member) => ChangeMembers::SetNodes(BTreeMap::from([(id, member)])),
            Step::SetVoters(voters) => ChangeMembers::ReplaceAllVoters(voters),
            Step::Remove(id) => ChangeMembers::RemoveNodes(BTreeSet::from([id])),
        }
    }
}

/// At most one step nearer to what is desired. The leader takes its own vote away last, when everything else is done
/// and others can take over.
pub fn next_step(look: &Look) -> Option<Step> {
    let voters = voters_wanted(look);
    if look.is_joint {
        return Some(Step::SetVoters(voters));
    }
    for (id, member) in &look.desired {
        match look.members.get(id) {
            None => return Some(Step::AddLearner(*id, member.clone())),
            // A number belongs to one peer for ever; whoever lost its log gets a new one. A cluster that was founded
            // without a network, or recovered, does not know its member's peer yet.
            Some(known) if known != member && (known.peer == member.peer || known.peer.is_empty()) => {
                return Some(Step::Update(*id, member.clone()));
            }
            Some(_) => {}
        }
    }
    if voters != look.voters && voters.contains(&look.me) {
        return Some(Step::SetVoters(voters));
    }
    let mut gone = look.members.keys().filter(|id| !look.desired.contains_key(id));
    if let Some(id) = gone.find(|id| **id != look.me && !look.voters.contains(id)) {
        return Some(Step::Remove(*id));
    }
    (voters != look.voters).then_some(Step::SetVoters(voters))
}

/// The largest odd number of coordinators that are voters or could be. Those that vote keep their vote: one that is
/// down for a moment is no reason to change anything.
fn voters_wanted(look: &Look) -> BTreeSet<MemberId> {
    let has_caught_up = |id: &MemberId| {
        let matched = look.matched.get(id).copied();
        *id == look.me || matched.is_some_and(|matched| matched.saturating_add(LAG_MAX) >= look.last_log)
    };
    let mut able: Vec<MemberId> = look
        .desired
        .keys()
        .filter(|id| look.members.contains_key(id) && (look.voters.contains(id) || has_caught_up(id)))
        .copied()
        .collect();
    if !able.iter().any(has_caught_up) {
        // Nobody is left to hand over to.
        return look.voters.clone();
    }
    able.sort_by_key(|id| (*id != look.me, !look.voters.contains(id), !has_caught_up(id), *id));
    let count = odd(able.len());
    let mut going = look.voters.iter().filter(|id| !look.desired.contains_key(id)).peekable();
    let is_heard = going.peek().is_some() && going.all(|id| look.leaving.contains(id));
    if is_heard && !look.is_joint && count < odd(look.desired.len()).min(look.voters.len()) {
        // Somebody is on the way in. Fewer voters until then would be fewer copies of what is acknowledged.
        return look.voters.clone();
    }
    able.into_iter().take(count).collect()
}

fn odd(count: usize) -> usize {
    if count.is_multiple_of(2) { count.saturating_sub(1) } else { count }
}

/// What Raft says now; `None` unless this member leads.
pub fn look<C: Types>(
    raft: &Raft<C>,
    desired: BTreeMap<MemberId, Member>,
    leaving: BTreeSet<MemberId>,
) -> Option<Look> {
    let metrics = raft.metrics().borrow().clone();
    let replication = metrics.replication?;
    let membership = metrics.membership_config.membership();
    let matched = |(id, matched): (MemberId, Option<openraft::LogId<MemberId>>)| Some((id, matched?.index));
    Some(Look {
        me: metrics.id,
        desired,
        leaving,
        members: membership.nodes().map(|(id, member)| (*id, member.clone())).collect(),
        voters: membership.voter_ids().collect(),
        is_joint: membership.get_joint_config().len() > 1,
        matched: replication.into_iter().filter_map(matched).collect(),
        last_log: metrics.last_log_index.unwrap_or(0),
    })
}

/// One of those that are leaving of whom Raft knows nothing any more.
fn has_left(look: &Look) -> Option<MemberId> {
    look.leaving.iter().find(|id| !look.is_joint && !look.members.contains_key(id)).copied()
}

/// Carries out one step and waits until it is committed.
pub async fn change<C: Types>(raft: &Raft<C>, step: Step) -> Result<(), String> {
    // Whoever loses its vote stays as a learner until it is removed.
    let changing = raft.change_membership(step.change(), true);
    match tokio::time::timeout(STEP_WITHIN, changing).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no quorum within {} s", STEP_WITHIN.as_secs())),
    }
}

/// What the state says about the coordinators, for [`keep`].
pub trait Roster: Send + Sync + 'static {
    /// Those there should be; `None` while nothing is known yet.
    fn desired(&self) -> Option<BTreeMap<MemberId, Member>>;

    /// Those that are to go, and have not left the state.
    fn leaving(&self) -> BTreeSet<MemberId> {
        BTreeSet::new()
    }

    /// Raft no longer knows this one, says the leader of `term`. It is asked again until it is no longer leaving.
    fn left(&self, _term: u64, _member: MemberId) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

impl<F: Fn() -> Option<BTreeMap<MemberId, Member>> + Send + Sync + 'static> Roster for F {
    fn desired(&self) -> Option<BTreeMap<MemberId, Member>> {
        self()
    }
}

/// Follows the roster while this member leads, until Raft ends.
pub async fn keep<C: Types>(raft: Raft<C>, mut leadership: watch::Receiver<Leadership>, roster: impl Roster) {
    loop {
        if leadership.wait_for(|leadership| leadership.is_ours).await.is_err() {
            return;
        }
        let look = roster.desired().and_then(|desired| look(&raft, desired, roster.leaving()));
        let gone = look.as_ref().and_then(has_left);
        if let Some(member) = gone {
            let term = leadership.borrow().term;
            tracing::info!(member, "a coordinator has left");
            roster.left(term, member).await;
        }
        let Some(step) = look.as_ref().and_then(next_step) else {
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        };
        tracing::info!(?step, "the membership changes");
        if let Err(error) = change(&raft, step).await {
            tracing::warn!(error, "the membership did not change; tried again");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: MemberId) -> Member {
        Member { peer: format!("peer{id}"), addresses: vec![format!("/ip4/10.0.0.{id}/tcp/1")] }
    }

    fn members(ids: &[MemberId]) -> BTreeMap<MemberId, Member> {
        ids.iter().map(|id| (*id, member(*id))).collect()
    }

    /// Member 1 leads; the last entry is 1000 and whoever is not behind has it.
    fn case(desired: &[MemberId], known: &[MemberId], voters: &[MemberId], behind: &[MemberId]) -> Look {
        let matched = known.iter().map(|id| (*id, if behind.contains(id) { 10 } else { 1_000 }));
        Look {
            me: 1,
            desired: members(desired),
            leaving: BTreeSet::new(),
            members: members(known),
            voters: voters.iter().copied().collect(),
            is_joint: false,
            matched: matched.collect(),
            last_log: 1_000,
        }
    }

    #[test]
    fn one_step_at_a_time_to_the_largest_odd_number() {
        let add = |id| Some(Step::AddLearner(id, member(id)));
        let vote = |ids: &[MemberId]| Some(Step::SetVoters(ids.iter().copied().collect()));
        for (what, look, expected) in [
            ("one alone", case(&[1], &[1], &[1], &[]), None),
            ("a second is known", case(&[1, 2], &[1], &[1], &[]), add(2)),
            ("a second stays a learner", case(&[1, 2], &[1, 2], &[1], &[]), None),
            ("a third is known", case(&[1, 2, 3], &[1, 2], &[1], &[]), add(3)),
            ("the third is behind", case(&[1, 2, 3], &[1, 2, 3], &[1], &[3]), None),
            ("three have caught up", case(&[1, 2, 3], &[1, 2, 3], &[1], &[]), vote(&[1, 2, 3])),
            ("a voter is down", case(&[1, 2, 3], &[1, 2, 3], &[1, 2, 3], &[3]), None),
            ("a fourth waits", case(&[1, 2, 3, 4], &[1, 2, 3, 4], &[1, 2, 3], &[3]), None),
            ("five", case(&[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5], &[1, 2, 3], &[]), vote(&[1, 2, 3, 4, 5])),
            ("one of three goes", case(&[1, 2], &[1, 2, 3], &[1, 2, 3], &[]), vote(&[1])),
            ("and leaves", case(&[1, 2], &[1, 2, 3], &[1], &[]), Some(Step::Remove(3))),
            ("one is replaced", case(&[1, 2, 4], &[1, 2, 3], &[1, 2, 3], &[]), add(4)),
            ("by one that caught up", case(&[1, 2, 4], &[1, 2, 3, 4], &[1, 2, 3], &[]), vote(&[1, 2, 4])),
            (
                "five lose two at once",
                case(&[1, 2, 3], &[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5], &[]),
                vote(&[1, 2, 3]),
            ),
            (
                "of an even number the one behind goes",
                case(&[1, 2, 3, 4], &[1, 2, 3, 4], &[1, 2, 3, 4], &[2]),
                vote(&[1, 3, 4]),
            ),
        ] {
            assert_eq!(next_step(&look), expected, "{what}");
        }
    }

    #[test]
    fn the_leader_goes_last_and_only_if_others_can_take_over() {
        let vote = |ids: &[MemberId]| Some(Step::SetVoters(ids.iter().copied().collect()));
        for (what, look, expected) in [
            (
                "others first",
                case(&[2, 3, 4], &[1, 2, 3], &[1, 2, 3], &[]),
                Some(Step::AddLearner(4, member(4))),
            ),
            (
                "whoever else is gone leaves before",
                case(&[2], &[1, 2, 3], &[1, 2], &[]),
                Some(Step::Remove(3)),
            ),
            ("it hands over", case(&[2, 3, 4], &[1, 2, 3, 4], &[1, 2, 3], &[]), vote(&[2, 3, 4])),
            ("also to one", case(&[2], &[1, 2], &[1], &[]), vote(&[2])),
            ("nobody has caught up", case(&[2], &[1, 2], &[1], &[2]), None),
            ("nobody is left", case(&[], &[1], &[1], &[]), None),
        ] {
            assert_eq!(next_step(&look), expected, "{what}");
        }
    }

    #[test]
    fn whoever_leaves_keeps_its_vote_until_the_one_that_comes_has_caught_up() {
        let vote = |ids: &[MemberId]| Some(Step::SetVoters(ids.iter().copied().collect()));
        let leaves = |leaving: &[MemberId], mut look: Look| {
            look.leaving = leaving.iter().copied().collect();
            look
        };
        for (what, look, expected) in [
            (
                "the new one is added",
                leaves(&[3], case(&[1, 2, 4], &[1, 2, 3], &[1, 2, 3], &[])),
                Some(Step::AddLearner(4, member(4))),
            ),
            ("it is behind", leaves(&[3], case(&[1, 2, 4], &[1, 2, 3, 4], &[1, 2, 3], &[4])), None),
            (
                "it has caught up",
                leaves(&[3], case(&[1, 2, 4], &[1, 2, 3, 4], &[1, 2, 3], &[])),
                vote(&[1, 2, 4]),
            ),
            ("nobody comes", leaves(&[3], case(&[1, 2], &[1, 2, 3], &[1, 2, 3], &[])), vote(&[1])),
            (
                "the one that came is to go as well",
                leaves(&[3, 4], case(&[1, 2], &[1, 2, 3, 4], &[1, 2, 3], &[4])),
                vote(&[1]),
            ),
            (
                "nothing is waited for once they have left",
                leaves(&[3], case(&[1, 2, 4], &[1, 2, 3, 4], &[1], &[4])),
                Some(Step::Remove(3)),
            ),
        ] {
            assert_eq!(next_step(&look), expected, "{what}");
        }
        for (what, look, expected) in [
            ("it votes", leaves(&[3], case(&[1, 2], &[1, 2, 3], &[1, 2, 3], &[])), None),
            ("it learns", leaves(&[3], case(&[1, 2], &[1, 2, 3], &[1], &[])), None),
            ("it is out", leaves(&[3], case(&[1, 2], &[1, 2], &[1], &[])), Some(3)),
            ("it never was in", leaves(&[2, 5], case(&[1], &[1, 2], &[1], &[])), Some(5)),
        ] {
            assert_eq!(has_left(&look), expected, "{what}");
        }
    }

    #[test]
    fn what_was_begun_is_ended_and_addresses_follow() {
        let mut joint = case(&[1, 2, 3], &[1, 2, 3], &[1, 2, 3], &[]);
        joint.is_joint = true;
        assert_eq!(next_step(&joint), Some(Step::SetVoters(BTreeSet::from([1, 2, 3]))));

        let mut moved = case(&[1, 2], &[1, 2], &[1], &[]);
        let new = Member { addresses: vec!["/ip4/10.9.9.9/tcp/1".to_owned()], ..member(2) };
        moved.desired.insert(2, new.clone());
        assert_eq!(next_step(&moved), Some(Step::Update(2, new)));

        let mut lone = case(&[1], &[1], &[1], &[]);
        lone.members.insert(1, Member::default());
        assert_eq!(next_step(&lone), Some(Step::Update(1, member(1))));

        let mut usurped = case(&[1, 2], &[1, 2], &[1], &[]);
        usurped.desired.insert(2, Member { peer: "another".to_owned(), ..member(2) });
        assert_eq!(next_step(&usurped), None, "a number keeps its peer");
    }

    proptest::proptest! {
        /// From any start the steps end, with an odd number of voters that are all desired, if enough have caught up.
        #[test]
        fn steps_come_to_an_end(
            desired in proptest::collection::btree_set(1_u64..7, 1..6),
            known in proptest::collection::btree_set(1_u64..7, 0..6),
            voters in proptest::collection::btree_set(1_u64..7, 0..6),
        ) {
            let mut known = known;
            known.insert(1);
            let mut voters: BTreeSet<_> = voters.intersection(&known).copied().collect();
            voters.insert(1);
            let ids = |set: &BTreeSet<u64>| set.iter().copied().collect::<Vec<_>>();
            let mut look = case(&ids(&desired), &ids(&known), &ids(&voters), &[]);
            look.leaving = known.difference(&desired).copied().collect();
            for _ in 0..40 {
                let Some(step) = next_step(&look) else { break };
                match step {
                    Step::AddLearner(id, member) => {
                        look.members.insert(id, member);
                        look.matched.insert(id, look.last_log);
                    }
                    Step::Update(id, member) => { look.members.insert(id, member); }
                    Step::SetVoters(voters) => {
                        look.voters = voters;
                        if !look.voters.contains(&look.me) {
                            look.me = *look.voters.first().unwrap();
                        }
                    }
                    Step::Remove(id) => {
                        proptest::prop_assert!(!look.voters.contains(&id), "a voter was removed");
                        look.members.remove(&id);
                        look.matched.remove(&id);
                    }
                }
            }
            proptest::prop_assert_eq!(next_step(&look), None);
            proptest::prop_assert_eq!(look.voters.len(), odd(desired.len()));
            proptest::prop_assert!(look.voters.is_subset(&desired));
            proptest::prop_assert_eq!(look.members.keys().copied().collect::<BTreeSet<_>>(), desired);
        }
    }
}
