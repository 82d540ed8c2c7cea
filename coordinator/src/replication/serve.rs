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
use super::types::{MemberId, Types};
use super::wire::{self, RaftAnswer, RaftQuestion};
use lote_shared::network::{self, Incoming, Network, PeerId, Protocol};
use openraft::Raft;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};

/// Requests of one stream that are with Raft at a time.
const AT_ONCE_MAX: usize = 32;

/// Serves the other members on the current runtime until the network ends.
pub fn start<C: Types, M: Machine>(
    network: &Network,
    raft: &Raft<C>,
    machine: StateMachine<M>,
    time: Arc<dyn Time>,
    driver: mpsc::Sender<Forwarded>,
    has_lost: HasLost,
    gate: Gate,
) -> Result<(), network::Error> {
    tokio::spawn(accept_raft(network.accept(Protocol::Raft)?, raft.clone(), time, gate));
    tokio::spawn(accept_snapshots(network.accept(Protocol::Snapshot)?, raft.clone(), machine));
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

async fn accept_raft<C: Types>(mut incoming: Incoming, raft: Raft<C>, time: Arc<dyn Time>, gate: Gate) {
    while let Some((peer, stream)) = incoming.next().await {
        let (raft, time, gate) = (raft.clone(), time.clone(), gate.clone());
        let serving = async move {
            let answer = |question: RaftQuestion| answer(raft.clone(), peer, question, &*time, &gate);
            if let Err(error) = link::answer_all(stream, AT_ONCE_MAX, answer).await {
                tracing::debug!(%peer, %error, "a stream of Raft ended");
            }
        };
        tokio::spawn(serving);
    }
}

async fn answer<C: Types>(
    raft: Raft<C>,
    peer: PeerId,
    question: RaftQuestion,
    time: &dyn Time,
    gate: &Gate,
) -> RaftAnswer {
    let from = question.from();
    if !is_speaker(&raft, peer, from) {
        tracing::warn!(%peer, member = from, "a coordinator spoke as another; not heard");
        return RaftAnswer::Refused(format!("peer `{peer}` is not member {from}"));
    }
    if matches!(&question, RaftQuestion::Append { entries, .. } if !entries.is_empty()) && !gate.is_open() {
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
        RaftQuestion::Clock { .. } => return RaftAnswer::Clock { wall_ms: time.read().wall.0 },
    };
    answered.unwrap_or_else(|error| RaftAnswer::Refused(error.to_string()))
}

async fn accept_snapshots<C: Types, M: Machine>(
    mut incoming: Incoming,
    raft: Raft<C>,
    machine: StateMachine<M>,
) {
    // One at a time. A stream that is dropped makes its sender come back later.
    let turn = Arc::new(Semaphore::new(1));
    while let Some((peer, mut stream)) = incoming.next().await {
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
