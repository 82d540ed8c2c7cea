//! What the others remember of this member, asked when it starts and before it takes part.
//!
//! A disk may come back as an older copy of itself: a snapshot of a virtual machine, a folder that somebody put back.
//! Nothing on it is damaged, and yet entries and votes are missing that this member had confirmed, and with its vote the
//! others could elect a leader that lacks what was acknowledged. Only they can tell: whoever leads remembers how far
//! each of the others had its log on stable storage. So a member with others beside it neither votes nor takes in
//! entries until each of them has answered or [`GRACE`] has passed: one that is gone for good must not keep the rest from
//! going on. Whoever answers later is heard all the same, and a leader that an old disk knows nothing of speaks unasked. If
//! one of them remembers more than this disk holds, the member stops and says so.
//!
//! [`Inquiry`] decides and is pure; [`watch`] asks. What cannot be noticed: that the only one who remembers is gone too,
//! which is more than the loss of one disk.

use super::log::{self, EntryId, Log};
use super::transport::{Links, peer_of};
use super::types::{Member, MemberId, TypeConfig};
use super::wire::{RaftAnswer, RaftQuestion, WireId, WireVote};
use openraft::Raft;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How long a member waits for answers before it takes part without them.
pub const GRACE: Duration = Duration::from_secs(3);
const ASK_WITHIN: Duration = Duration::from_secs(1);
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// When it takes part already.
const ASK_LATER: Duration = Duration::from_secs(5);

/// How far a log was on stable storage, and under which vote. A later vote may have taken entries away again, the same
/// one never did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Standing {
    /// Term and member voted for.
    vote: (u64, MemberId),
    last: Option<EntryId>,
}

impl Standing {
    pub fn new(vote: (u64, MemberId), last: Option<EntryId>) -> Standing {
        Standing { vote, last }
    }

    /// What a disk holds.
    pub fn of(state: &log::State) -> Standing {
        Standing { vote: state.vote.map_or((0, 0), |vote| (vote.term, vote.node)), last: state.last }
    }

    /// As it is told unasked; only a leader remembers.
    pub fn told(&self) -> RaftQuestion {
        let vote = WireVote { term: self.vote.0, member: self.vote.1, committed: true };
        RaftQuestion::Confirmed { vote, last: self.last.map(WireId::from) }
    }

    /// As the answer to whoever asks.
    pub fn answer(known: Option<Standing>) -> RaftAnswer {
        RaftAnswer::Remembered(known.map(|known| {
            let vote = WireVote { term: known.vote.0, member: known.vote.1, committed: true };
            (vote, known.last.map(WireId::from))
        }))
    }

    fn answered(known: Option<(WireVote, Option<WireId>)>) -> Option<Standing> {
        known.map(|(vote, last)| Standing { vote: (vote.term, vote.member), last: last.map(EntryId::from) })
    }

    /// Whether this is an older copy of a disk that others remember so.
    fn is_older_than(&self, known: &Standing) -> bool {
        self.vote <= known.vote && self.last < known.last
    }
}

/// What this process, while it led, saw the others confirm.
#[derive(Debug, Default)]
pub struct Memory(Mutex<BTreeMap<MemberId, Standing>>);

impl Memory {
    pub fn note(&self, member: MemberId, seen: Standing) {
        let mut memory = self.0.lock();
        let known = memory.entry(member).or_default();
        *known = seen.max(*known);
    }

    pub fn of(&self, member: MemberId) -> Option<Standing> {
        self.0.lock().get(&member).copied()
    }

    /// Whether this member confirmed that entry to the leader with this vote.
    pub fn has_confirmed(&self, member: MemberId, vote: (u64, MemberId), entry: Option<EntryId>) -> bool {
        self.of(member).is_some_and(|known| known.vote == vote && entry <= known.last)
    }
}

/// What comes of the answers so far.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Somebody has not answered.
    Ask(Vec<MemberId>),
    /// All have, and none knows of more than this disk.
    Done,
    /// This one does.
    Older(MemberId),
}

/// The questions of one start.
#[derive(Debug)]
struct Inquiry {
    /// What the disk held at the start.
    own: Standing,
    others: BTreeSet<MemberId>,
}

impl Inquiry {
    /// `now`: what the disk holds after the answers came. Whoever answers late remembers also what was confirmed since this
    /// member took part.
    fn next(&mut self, answers: &[(MemberId, Option<Standing>)], now: Standing) -> Next {
        for (member, known) in answers {
            let is_older = |known: &Standing| self.own.is_older_than(known) && now.is_older_than(known);
            if known.as_ref().is_some_and(is_older) {
                return Next::Older(*member);
            }
            self.others.remove(member);
        }
        if self.others.is_empty() { Next::Done } else { Next::Ask(self.others.iter().copied().collect()) }
    }
}

/// What a leader says of this member, and who it is.
pub type Told = (MemberId, Standing);

/// Asks the others until each has answered, unless a build of before cluster version 2 may be among them (`may_ask`),
/// which would take the question for the end of the stream; and listens to what leaders say unasked until Raft ends. Calls `join` once
/// this member may take part. Ends with the reason, if it must not.
pub async fn watch(
    raft: &Raft<TypeConfig>,
    links: Option<&Links>,
    log: &Log,
    may_ask: bool,
    mut told: mpsc::Receiver<Told>,
    join: impl FnOnce(),
) -> Result<(), String> {
    let listening = async {
        while let Some((witness, known)) = told.recv().await {
            if Standing::of(&log.state()).is_older_than(&known) {
                return Err(is_old(raft, witness));
            }
        }
        Ok(())
    };
    let asking = inquire(raft, links, log, may_ask, join);
    futures::future::try_join(asking, listening).await.map(|((), ())| ())
}

fn is_old(raft: &Raft<TypeConfig>, witness: MemberId) -> String {
    format!(
        "the data folder is an older copy: member {witness} remembers entries that this member {} had confirmed and that \
         are missing here; start with an empty folder and `lote coordinator --join … --replace`, or see `lote recover`",
        raft.metrics().borrow().id
    )
}

async fn inquire(
    raft: &Raft<TypeConfig>,
    links: Option<&Links>,
    log: &Log,
    may_ask: bool,
    join: impl FnOnce(),
) -> Result<(), String> {
    let metrics = raft.server_metrics().borrow().clone();
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<MemberId> = membership.voter_ids().filter(|id| *id != metrics.id).collect();
    let members: BTreeMap<MemberId, Member> =
        membership.nodes().map(|(id, member)| (*id, member.clone())).collect();
    // Without a network nobody ever answers, nor asks for a vote.
    let others = if links.is_some() && may_ask { voters } else { BTreeSet::new() };
    let mut inquiry = Inquiry { own: Standing::of(&log.state()), others };
    let patient_until = Instant::now() + GRACE;
    let mut join = Some(join);
    let mut answers = Vec::new();
    loop {
        let asked = match inquiry.next(&answers, Standing::of(&log.state())) {
            Next::Older(witness) => return Err(is_old(raft, witness)),
            Next::Done => {
                join.take().into_iter().for_each(|join| join());
                return Ok(());
            }
            Next::Ask(others) => others,
        };
        let is_late = Instant::now() >= patient_until;
        if is_late && let Some(join) = join.take() {
            tracing::warn!(missing = ?asked, "this member takes part before all others have said what they know of it");
            join();
        }
        let Some(links) = links else { return Ok(()) };
        let questions = asked.into_iter().map(|member| ask(links, &members, metrics.id, member));
        answers = futures::future::join_all(questions).await.into_iter().flatten().collect();
        if answers.is_empty() {
            tokio::time::sleep(if is_late { ASK_LATER } else { ASK_AGAIN_AFTER }).await;
        }
        if raft.metrics().has_changed().is_err() {
            return Ok(());
        }
    }
}

async fn ask(
    links: &Links,
    members: &BTreeMap<MemberId, Member>,
    me: MemberId,
    other: MemberId,
) -> Option<(MemberId, Option<Standing>)> {
    let Some(peer) = members.get(&other).and_then(peer_of) else {
        // Nobody has ever met it.
        return Some((other, None));
    };
    let link = links.raft(peer);
    let asking = link.ask(RaftQuestion::Remembered { member: me });
    match tokio::time::timeout(ASK_WITHIN, asking).await {
        Ok(Ok(RaftAnswer::Remembered(known))) => Some((other, Standing::answered(known))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(vote: u64, term: u64, index: u64) -> Standing {
        let last = (index > 0).then_some(EntryId { term, node: 1, index });
        Standing { vote: (vote, 1), last }
    }

    #[test]
    fn an_older_copy_is_told_from_a_log_that_went_on() {
        for (what, own, known, is_older) in [
            ("the same", standing(5, 5, 100), standing(5, 5, 100), false),
            ("further than was confirmed", standing(5, 5, 101), standing(5, 5, 100), false),
            ("a copy of the same term", standing(5, 5, 90), standing(5, 5, 100), true),
            ("a copy of an earlier term", standing(3, 3, 100), standing(5, 5, 100), true),
            ("an empty disk", standing(0, 0, 0), standing(5, 5, 100), true),
            // What the later leader took away, and what it put there.
            ("cut by a later leader", standing(6, 5, 90), standing(5, 5, 100), false),
            ("replaced by a later leader", standing(6, 6, 95), standing(5, 5, 100), false),
        ] {
            assert_eq!(own.is_older_than(&known), is_older, "{what}");
        }
    }

    #[test]
    fn the_latest_that_was_confirmed_is_remembered() {
        let memory = Memory::default();
        assert_eq!(memory.of(2), None);
        memory.note(2, standing(5, 5, 100));
        memory.note(2, standing(5, 5, 99));
        assert_eq!(memory.of(2), Some(standing(5, 5, 100)));
        memory.note(2, standing(6, 5, 90));
        assert_eq!(memory.of(2), Some(standing(6, 5, 90)), "under a later vote less may be there");
        let at = |index| Some(EntryId { term: 5, node: 1, index });
        for (vote, index, expected) in [(6, 90, true), (6, 91, false), (5, 90, false), (7, 90, false)] {
            assert_eq!(memory.has_confirmed(2, (vote, 1), at(index)), expected, "{vote} {index}");
        }
        assert!(!memory.has_confirmed(3, (6, 1), at(1)));
    }

    #[test]
    fn one_who_knows_better_is_enough_and_all_are_asked() {
        let inquiry = || Inquiry { own: standing(5, 5, 90), others: BTreeSet::from([2, 3]) };
        let mut open = inquiry();
        let now = standing(5, 5, 90);
        assert_eq!(open.next(&[], now), Next::Ask(vec![2, 3]));
        assert_eq!(open.next(&[(2, None)], now), Next::Ask(vec![3]));
        assert_eq!(open.next(&[(3, Some(standing(5, 5, 90)))], now), Next::Done);
        let newer = Some(standing(5, 5, 91));
        assert_eq!(inquiry().next(&[(2, None), (3, newer)], now), Next::Older(3));
    }

    #[test]
    fn a_late_answer_may_tell_of_what_came_after_the_start() {
        let late = [(3, Some(standing(6, 6, 120)))];
        let mut inquiry = Inquiry { own: standing(5, 5, 90), others: BTreeSet::from([3]) };
        assert_eq!(inquiry.next(&late, standing(6, 6, 120)), Next::Done, "it has confirmed all that since");
        let mut inquiry = Inquiry { own: standing(5, 5, 90), others: BTreeSet::from([3]) };
        assert_eq!(inquiry.next(&late, standing(6, 6, 119)), Next::Older(3));
    }
}
