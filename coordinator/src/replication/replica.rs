//! One running member, as the rest of the coordinator holds it. Its threads are in [`super::life`].

use super::applier::View;
use super::clock::Time;
use super::life::{Life, run};
use super::log::{self, Log};
use super::machine::Machine;
use super::membership::{self, Roster, Step};
use super::skew::watch::Clocks;
use super::types::{Member, MemberId, TypeConfig};
use super::{Config, Error, Start};
use crate::engine::Request;
use crate::leadership::Leadership;
use lote_shared::model::Timestamp;
use lote_shared::network::Network;
use openraft::{Raft, ServerState};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// The only voter needs no one's vote; this only ends a start that hangs.
const LEAD_WITHIN: Duration = Duration::from_secs(30);

/// What a member is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Leader,
    Candidate,
    Follower,
    Learner,
    /// It applies nothing any more; see [`Status::stopped`].
    Stopped,
}

/// A look at a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub member: MemberId,
    pub role: Role,
    pub term: u64,
    pub leader: Option<MemberId>,
    /// Index of the last entry in the log.
    pub last_log: Option<u64>,
    pub applied: Option<u64>,
    /// Index up to which the newest snapshot reaches.
    pub snapshot: Option<u64>,
    /// Index up to which the log was purged.
    pub purged: Option<u64>,
    /// Running hash of the state as of `applied`, in hex: equal on all members at the same entry.
    pub state_hash: String,
    /// Time of the last applied entry.
    pub now: Timestamp,
    /// What the log did since the start.
    pub log: log::Counts,
    /// Why this member has stopped by itself.
    pub stopped: Option<String>,
    /// Why the last snapshot was not made, if it was not; it is tried again.
    pub snapshot_trouble: Option<String>,
}

/// A member as Raft knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    pub member: Member,
    pub is_voter: bool,
    /// The last entry it is known to have; only the leader knows.
    pub matched: Option<u64>,
}

/// A running member. Dropping it asks it to stop; [`Replica::shutdown`] waits until it has.
pub struct Replica {
    pub(super) raft: Raft<TypeConfig>,
    pub(super) view: Arc<View>,
    pub(super) log: Arc<Log>,
    pub(super) leadership: watch::Receiver<Leadership>,
    pub(super) clocks: watch::Receiver<Clocks>,
    /// That of `lote-raft`.
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) stop: watch::Sender<bool>,
    pub(super) ended: watch::Receiver<bool>,
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Replica {
    /// Starts a member on a folder; `queue` brings the engine's requests. Returns once it runs, and if it is the only
    /// voter once it leads and has applied everything in its log. Without a network it stays alone.
    pub async fn start<M: Machine>(
        config: Config,
        start: Start,
        network: Option<Network>,
        machine: Arc<M>,
        queue: mpsc::Receiver<Request>,
        time: Arc<dyn Time>,
    ) -> Result<Replica, Error> {
        let (started, wait) = oneshot::channel();
        let path = config.folder.clone();
        let life = Life { config, start, network, queue, time };
        std::thread::Builder::new()
            .name("lote-raft".to_owned())
            .spawn(move || run(life, machine, started))
            .map_err(|source| Error::Io { path, source })?;
        let (replica, is_only_voter) =
            wait.await.map_err(|_| Error::Raft("the starting thread ended".to_owned()))??;
        if is_only_voter {
            replica.wait_to_lead().await?;
        }
        Ok(replica)
    }

    async fn wait_to_lead(&self) -> Result<(), Error> {
        let mut leadership = self.leadership.clone();
        let leads = leadership.wait_for(|leadership| leadership.is_ours);
        let why = match tokio::time::timeout(LEAD_WITHIN, leads).await {
            Ok(Ok(_)) => return Ok(()),
            // The driver has ended.
            Ok(Err(_)) => self.stopped().await,
            Err(_) => format!("the only voter did not lead within {} s", LEAD_WITHIN.as_secs()),
        };
        Err(Error::Raft(why))
    }

    /// Stops proposing, finishes what is under way, flushes, and lets go of the folder.
    pub async fn shutdown(&self) {
        let _ = self.stop.send(true);
        // An error means that the thread has ended.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Ends when this member stops by itself: the disk failed, or an entry could not be applied. It serves nothing
    /// any more, and the process should end.
    pub async fn stopped(&self) -> String {
        let mut ended = self.ended.clone();
        let _ = ended.wait_for(|ended| *ended).await;
        self.status().stopped.unwrap_or_else(|| "the member has stopped".to_owned())
    }

    /// Follows who leads.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// The voters' wall clocks, as this member sees them.
    pub fn clocks(&self) -> Clocks {
        self.clocks.borrow().clone()
    }

    pub fn status(&self) -> Status {
        let metrics = self.raft.metrics().borrow().clone();
        let applied = self.view.applied();
        let stopped = match (self.view.stopped(), &metrics.running_state) {
            (Some(why), _) => Some(why),
            (None, Err(fatal)) => Some(fatal.to_string()),
            (None, Ok(())) => None,
        };
        let role = match metrics.state {
            _ if stopped.is_some() => Role::Stopped,
            ServerState::Leader => Role::Leader,
            ServerState::Candidate => Role::Candidate,
            ServerState::Follower => Role::Follower,
            ServerState::Learner => Role::Learner,
            ServerState::Shutdown => Role::Stopped,
        };
        Status {
            member: metrics.id,
            role,
            term: metrics.current_term,
            leader: metrics.current_leader,
            last_log: metrics.last_log_index,
            applied: applied.index(),
            snapshot: metrics.snapshot.map(|id| id.index),
            purged: metrics.purged.map(|id| id.index),
            state_hash: applied.hash.iter().map(|byte| format!("{byte:02x}")).collect(),
            now: applied.now,
            log: self.log.counts(),
            stopped,
            snapshot_trouble: self.view.snapshot_trouble(),
        }
    }

    /// Raft's members. Every member knows them; how far each is only the leader does.
    pub fn members(&self) -> BTreeMap<MemberId, MemberStatus> {
        let metrics = self.raft.metrics().borrow().clone();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<MemberId> = membership.voter_ids().collect();
        let matched = metrics.replication.unwrap_or_default();
        let status = |(id, member): (&MemberId, &Member)| {
            let matched = matched.get(id).copied().flatten().map(|id| id.index);
            (*id, MemberStatus { member: member.clone(), is_voter: voters.contains(id), matched })
        };
        membership.nodes().map(status).collect()
    }

    /// This member's number, if it is the only voter of its folder.
    pub fn only_voter(&self) -> Option<MemberId> {
        let metrics = self.raft.metrics().borrow().clone();
        metrics.membership_config.membership().voter_ids().eq([metrics.id]).then_some(metrics.id)
    }

    /// For a leader: the time since a quorum last heard it, measured from when it spoke. `None` if this member does
    /// not lead, or was not heard yet.
    pub fn quorum_age(&self) -> Option<Duration> {
        self.raft.metrics().borrow().millis_since_quorum_ack.map(Duration::from_millis)
    }

    /// For the leader: replicates to a new member, which does not vote.
    pub async fn add_learner(&self, id: MemberId, member: Member) -> Result<(), Error> {
        self.change(Step::AddLearner(id, member)).await
    }

    /// For the leader: these members vote from now on; those who do no longer stay as learners.
    pub async fn set_voters(&self, voters: BTreeSet<MemberId>) -> Result<(), Error> {
        self.change(Step::SetVoters(voters)).await
    }

    /// For the leader: forgets a member that does not vote.
    pub async fn remove(&self, id: MemberId) -> Result<(), Error> {
        self.change(Step::Remove(id)).await
    }

    async fn change(&self, step: Step) -> Result<(), Error> {
        membership::change(&self.raft, step).await.map_err(Error::Raft)
    }

    /// From now on, whenever this member leads, it brings Raft's membership to what the roster says, a step at a time.
    pub fn keep_membership(&self, roster: impl Roster) {
        self.runtime.spawn(membership::keep(self.raft.clone(), self.leadership(), roster));
    }

    /// Has a snapshot written now; it is done some time after this returns.
    pub async fn snapshot(&self) -> Result<(), Error> {
        self.raft.trigger().snapshot().await.map_err(|error| Error::Raft(error.to_string()))
    }
}
