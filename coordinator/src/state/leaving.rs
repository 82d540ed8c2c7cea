//! How a coordinator goes: in two steps, so that nobody is cut off while its vote counts
//! (`docs/decisions/0005-a-cluster-of-coordinators.md`, 2).
//!
//! First it is *leaving*: still a member that is heard, but no longer wanted, so the leader takes it out of Raft. When
//! Raft no longer knows it the leader says [`Action::CoordinatorLeft`], and only then is its record gone and everybody
//! closes the door. Both are judged here, on apply, against Raft's voters as of this entry: so two removals that are
//! asked of two coordinators at once cannot both look good, and a leader that dies in between leaves a row from which
//! the next one goes on.
//!
//! [`Action::CoordinatorLeft`]: super::command::Action::CoordinatorLeft

use super::cluster::{Cluster, Event};
use super::keys;
use super::members::refuse;
use super::records::MemberRecord;
use super::reply::{MembershipCode as Code, Outcome, Refusal, Reply};
use super::step::Step;
use lote_shared::model::MemberRole;
use std::collections::BTreeSet;

/// What may be asked.
impl Cluster {
    /// Whether this coordinator is on its way out.
    pub fn is_leaving(&self, peer: &str) -> bool {
        self.membership.leaving.contains_key(peer)
    }

    /// Coordinators on their way out.
    pub fn leaving(&self) -> impl Iterator<Item = &MemberRecord> {
        self.coordinators().filter(|member| self.is_leaving(&member.peer))
    }

    /// Coordinators that are to stay.
    pub fn staying(&self) -> impl Iterator<Item = &MemberRecord> {
        self.coordinators().filter(|member| !self.is_leaving(&member.peer))
    }

    /// Whether the removal of this coordinator would be begun now; `is_replaced`: another one comes for it.
    pub fn may_leave(&self, peer: &str, is_replaced: bool) -> Result<(), Refusal> {
        self.check_leave(peer, is_replaced)
    }

    /// For the one who applies: who votes from this entry on, two sets while that changes. It is no row of the state,
    /// since replication keeps it beside the rows, as of the same entry.
    pub fn set_voters(&mut self, voters: Vec<BTreeSet<u64>>) {
        self.voters = voters;
    }

    fn votes(&self, member: &MemberRecord) -> bool {
        // Without Raft there is nobody who could be asked; then everybody counts.
        self.voters.is_empty()
            || self.voters.iter().any(|set| member.member.is_some_and(|id| set.contains(&id)))
    }
}

impl Cluster {
    /// Begins the removal of a coordinator. Asked again it changes nothing.
    pub(super) fn leave_coordinator(&mut self, step: &mut Step, peer: &str) -> Reply {
        let known = self.membership.members.get(peer).filter(|member| member.role == MemberRole::Coordinator);
        if known.is_none() {
            return Err(refuse(Code::MemberNotFound, format!("no coordinator has the peer id `{peer}`")));
        }
        self.check_leave(peer, false)?;
        self.begin_leave(step, peer);
        Ok(Outcome::Done)
    }

    pub(super) fn begin_leave(&mut self, step: &mut Step, peer: &str) {
        if !self.is_leaving(peer) {
            let since = step.now;
            step.put(keys::leaving(peer), &since);
            self.membership.leaving.insert(peer.to_owned(), since);
            step.event(Event::MembersChanged);
        }
    }

    /// Whether this coordinator may begin to leave. One voter goes at a time, and those who stay have to be a majority
    /// of all who vote: what they hold is then all there is, whatever becomes of the one that goes. `is_replaced`:
    /// another one comes for it.
    pub(super) fn check_leave(&self, peer: &str, is_replaced: bool) -> Result<(), Refusal> {
        if self.is_leaving(peer) {
            return Ok(());
        }
        let Some(member) = self.member(peer) else { return Ok(()) };
        let staying: Vec<&MemberRecord> = self.staying().filter(|member| member.peer != peer).collect();
        if staying.is_empty() && !is_replaced {
            let detail =
                format!("`{}` is the last coordinator; the state would be gone with it", member.name);
            return Err(refuse(Code::LastCoordinator, detail));
        }
        if self.votes(member)
            && let Some(other) = self.leaving().find(|other| self.votes(other))
        {
            let detail = format!("`{}` is leaving; `{}` can go when it has left", other.name, member.name);
            return Err(refuse(Code::CoordinatorLeaving, detail));
        }
        let stays = |id: &&u64| staying.iter().any(|member| member.member == Some(**id));
        if !self.voters.iter().all(|set| 2 * set.iter().filter(stays).count() > set.len()) {
            let detail = format!(
                "without `{}` those who stay are no majority of the coordinators that vote now; try again when `lote \
                 status` shows more of them as voters, or let another coordinator join first",
                member.name
            );
            return Err(refuse(Code::NoMajority, detail));
        }
        Ok(())
    }

    /// Ends the removal: Raft no longer knows it, says the leader.
    pub(super) fn coordinator_left(&mut self, step: &mut Step, peer: &str) -> Reply {
        let leaving = self.leaving().find(|member| member.peer == peer);
        let Some(member) = leaving else {
            return Err(refuse(Code::MemberNotFound, format!("no coordinator `{peer}` is leaving")));
        };
        if !self.voters.is_empty() && self.votes(member) {
            return Err(refuse(Code::CoordinatorVotes, format!("`{}` still votes", member.name)));
        }
        self.drop_member(step, peer);
        Ok(Outcome::Done)
    }
}
