//! What this member does for the others: takes in entries, votes, snapshots and forwarded proposals.
//!
//! Only coordinators may open these streams; the network sees to that. That a peer speaks for no member but itself is
//! checked here, against the membership as this member knows it. A member it does not know yet is believed: a new
//! leader may have joined since, and a new member knows nobody. So is one without a peer: a cluster that was recovered
//! names its member's peer in a later entry than the one that a snapshot may have brought here.

use super::clock::Time;
use super::forward::{self, Forwarded, HasLost};
use super::link;
use super::machine::Machine;
use super::room::Gate;
use super::state_machine::StateMachine;
use super::transfer;
use super::transport::Links;
use super::types::{MemberId, Types};
use super::wire::{self, RaftAnswer, RaftQuestion};
use super::witness::{Standing, Told};
use lote_shared::network::{self, Incoming, PeerId, Protocol};
use openraft::Raft;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc, watch};

/// Requests of one stream that are with Raft at a time.
const AT_ONCE_MAX: usize = 32;

/// What is looked at before Raft hears of a question.
#[derive(Clone)]
pub struct Guard {
    pub gate: Gate,
    pub links: Arc<Links>,
    /// Whether this member takes part yet (see [`super::witness`]).
    pub takes_part: watch::Receiver<bool>,
    /// Where it listens to what leaders say of it.
    pub told: mpsc::Sender<Told>,
    pub time: Arc<dyn Time>,
}

/// Serves the other members on the current runtime until the network ends.
pub fn start<C: Types, M: Machine>(
    raft: &Raft<C>,
    machine: StateMachine<M>,
    driver: mpsc::Sender<Forwarded>,
    has_lost: HasLost,
    guard: Guard,
) -> Result<(), network::Error> {
    let network = guard.links.network().clone();
    let takes_part = guard.takes_part.clone();
    tokio::spawn(accept_raft(network.accept(Protocol::Raft)?, raft.clone(), guard));
    tokio::spawn(accept_snapshots(network.accept(Protocol::Snapshot)?, raft.clone(), machine, takes_part));
    tokio::spawn(accept_engine(network.accept(Protocol::Engine)?, driver, has_lost));
    Ok(())
}

/// Whether a peer may speak as this member.
fn is_speaker<C: Types>(raft: &Raft<C>, peer: PeerId, member: MemberId) -> bool {
    let metrics = raft.metrics();
    let metrics = metrics.borrow();
    let known = metrics.membership_config.membership().get_node(&member);
    known.is_none_or(|known| known.peer.is_empty() || known.peer == peer.to_string())
}

async fn accept_raft<C: Types>(mut incoming: Incoming, raft: Raft<C>, guard: Guard) {
    while let Some((peer, stream)) = incoming.next().await {
        let (raft, guard) = (raft.clone(), guard.clone());
        let serving = async move {
            let answer = |question: RaftQuestion| answer(raft.clone(), peer, question, &guard);
            if let Err(error) = link::answer_all(stream, AT_ONCE_MAX, answer).await {
                tracing::debug!(%peer, %error, "a stream of Raft ended");
            }
        };
        tokio::spawn(serving);
    }
}

async fn answer<C: Types>(raft: Raft<C>, peer: PeerId, question: RaftQuestion, guard: &Guard) -> RaftAnswer {
    let from = question.from();
    if !is_speaker(&raft, peer, from) {
        tracing::warn!(%peer, member = from, "a coordinator spoke as another; not heard");
        return RaftAnswer::Refused(format!("peer `{peer}` is not member {from}"));
    }
    if !*guard.takes_part.borrow() && !matches!(question, RaftQuestion::Remembered { .. }) {
        return RaftAnswer::Refused(
            "it has just started and asks the others what they know of it".to_owned(),
        );
    }
    if matches!(&question, RaftQuestion::Append { entries, .. } if !entries.is_empty())
        && !guard.gate.is_open()
    {
        return RaftAnswer::Refused("its disk is full".to_owned());
    }
    let answered = match question {
        RaftQuestion::Append { vote, prev, committed, entries } => {
            match wire::append_request::<C>(vote, prev, committed, entries) {
                Ok(request) => raft.append_entries(request).await.map(RaftAnswer::from),
                Err(error) => return RaftAnswer::Refused(error.to_string()),
            }
        }
        RaftQuestion::Vote { vote, last } => {
            let request = openraft::raft::VoteRequest::new(vote.into(), last.map(Into::into));
            raft.vote(request).await.map(RaftAnswer::from)
        }
        RaftQuestion::Clock { .. } => return RaftAnswer::Clock { wall_ms: guard.time.read().wall.0 },
        RaftQuestion::Remembered { member } => return Standing::answer(guard.links.memory.of(member)),
        RaftQuestion::Confirmed { vote, last } => {
            let known = Standing::new((vote.term, vote.member), last.map(Into::into));
            // If one is waiting to be heard already, this one will come again.
            let _ = guard.told.try_send((from, known));
            return RaftAnswer::Appended;
        }
    };
    answered.unwrap_or_else(|error| RaftAnswer::Refused(error.to_string()))
}

async fn accept_snapshots<C: Types, M: Machine>(
    mut incoming: Incoming,
    raft: Raft<C>,
    machine: StateMachine<M>,
    takes_part: watch::Receiver<bool>,
) {
    // One at a time. A stream that is dropped makes its sender come back later.
    let turn = Arc::new(Semaphore::new(1));
    while let Some((peer, mut stream)) = incoming.next().await {
        if !*takes_part.borrow() {
            continue;
        }
        let Ok(turn) = turn.clone().try_acquire_owned() else {
            tracing::debug!(%peer, "a second snapshot is not taken in");
            continue;
        };
        let (raft, machine) = (raft.clone(), machine.clone());
        tokio::spawn(async move {
            let speaks = |member| is_speaker(&raft, peer, member);
            match transfer::receive(&raft, &machine, &mut stream, speaks).await {
                Ok(()) => tracing::info!(%peer, "a snapshot arrived"),
                Err(error) => tracing::warn!(%peer, %error, "a snapshot was not taken in"),
            }
            drop(turn);
        });
    }
}

async fn accept_engine(mut incoming: Incoming, driver: mpsc::Sender<Forwarded>, has_lost: HasLost) {
    while let Some((_, stream)) = incoming.next().await {
        tokio::spawn(forward::serve(stream, driver.clone(), has_lost.clone()));
    }
}
