//! Raft over libp2p: how this member reaches the others.
//!
//! Links and streams live on the runtime of `lote-raft`, which never waits for a disk; the swarm below them has tasks
//! of its own. A member's addresses are given to the network as Raft's membership names them.

use super::forward::{EngineAnswer, EngineQuestion};
use super::link::{Link, Unanswered};
use super::log::EntryId;
use super::transfer;
use super::types::{self, Member, MemberId, Types};
use super::wire::{RaftAnswer, RaftQuestion};
use super::witness::{Memory, Standing};
use lote_shared::network::{Multiaddr, Network, PeerId, Protocol};
use openraft::error::{
    Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RPCTypes, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend, Snapshot, Vote};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Between attempts to reach a member that cannot be reached; far below the time after which it would stand for
/// election, since it hears no heartbeat meanwhile.
const RETRY_AFTER_MS: [u64; 4] = [100, 200, 400, 800];

/// How long somebody is told something that need not arrive.
const TELL_WITHIN: Duration = Duration::from_secs(1);

pub type RaftLink = Link<RaftQuestion, RaftAnswer>;
pub type EngineLink = Link<EngineQuestion, EngineAnswer>;

/// The streams to the other members, opened as they are needed.
#[derive(Debug)]
pub struct Links {
    network: Network,
    raft: Mutex<BTreeMap<PeerId, RaftLink>>,
    engine: Mutex<BTreeMap<PeerId, EngineLink>>,
    /// Members that were out of reach when they were last asked.
    missed: Mutex<BTreeSet<PeerId>>,
    /// What the others confirmed to this member.
    pub memory: Memory,
}

impl Links {
    pub fn new(network: Network) -> Links {
        Links {
            network,
            raft: Mutex::default(),
            engine: Mutex::default(),
            missed: Mutex::default(),
            memory: Memory::default(),
        }
    }

    pub fn network(&self) -> &Network {
        &self.network
    }

    pub fn raft(&self, peer: PeerId) -> RaftLink {
        let start = || Link::start(self.network.clone(), peer, Protocol::Raft);
        self.raft.lock().entry(peer).or_insert_with(start).clone()
    }

    pub fn engine(&self, peer: PeerId) -> EngineLink {
        let start = || Link::start(self.network.clone(), peer, Protocol::Engine);
        self.engine.lock().entry(peer).or_insert_with(start).clone()
    }

    /// Learns where members are, and lets go of those that are none any more.
    pub fn set_members<'a>(&self, members: impl Iterator<Item = &'a Member>) {
        let mut peers = BTreeSet::new();
        for member in members {
            let Some(peer) = peer_of(member) else { continue };
            peers.insert(peer);
            if peer == self.network.peer() {
                continue;
            }
            // Each one added becomes the first to be tried, so the preferred one comes last.
            for address in member.addresses.iter().rev() {
                match address.parse::<Multiaddr>() {
                    Ok(address) => self.network.add_address(peer, address),
                    Err(error) => tracing::warn!(%peer, address, %error, "a member's address is unreadable"),
                }
            }
        }
        self.raft.lock().retain(|peer, _| peers.contains(peer));
        self.engine.lock().retain(|peer, _| peers.contains(peer));
        self.missed.lock().retain(|peer| peers.contains(peer));
    }

    /// Says once that a member is out of reach, and once that it is back, however often Raft tries.
    fn tell_of(&self, peer: PeerId, member: MemberId, failure: Option<&Unanswered>) {
        match failure {
            Some(error) if self.missed.lock().insert(peer) => {
                tracing::warn!(member, %error, "a member is out of reach; it is tried on");
            }
            None if self.missed.lock().remove(&peer) => tracing::info!(member, "a member is back"),
            _ => {}
        }
    }
}

/// The member's peer id, if it has a readable one.
pub fn peer_of(member: &Member) -> Option<PeerId> {
    member.peer.parse().ok()
}

/// Makes openraft's connections; without a network nobody can be reached.
#[derive(Debug, Clone)]
pub struct Transport {
    links: Option<Arc<Links>>,
    me: MemberId,
}

impl Transport {
    pub fn new(me: MemberId, links: Option<Arc<Links>>) -> Transport {
        Transport { links, me }
    }
}

/// A way to one member.
#[derive(Debug)]
pub struct Connection {
    to: Option<(Arc<Links>, PeerId)>,
    target: MemberId,
    me: MemberId,
}

impl<C: Types> RaftNetworkFactory<C> for Transport {
    type Network = Connection;

    async fn new_client(&mut self, target: MemberId, member: &Member) -> Connection {
        Connection { to: self.links.clone().zip(peer_of(member)), target, me: self.me }
    }
}

type RpcError = RPCError<MemberId, Member, RaftError<MemberId>>;

impl Connection {
    fn to(&self) -> Result<(&Arc<Links>, PeerId), Unreachable> {
        self.to.as_ref().map(|(links, peer)| (links, *peer)).ok_or_else(|| {
            let why = format!("member {} has no peer id, or this one no network", self.target);
            Unreachable::new(&io::Error::new(io::ErrorKind::NotConnected, why))
        })
    }

    fn timeout(&self, action: RPCTypes, timeout: Duration) -> Timeout<MemberId> {
        Timeout { action, id: self.me, target: self.target, timeout }
    }

    async fn ask(
        &self,
        question: RaftQuestion,
        action: RPCTypes,
        option: &RPCOption,
    ) -> Result<RaftAnswer, RpcError> {
        let (links, peer) = self.to().map_err(RPCError::Unreachable)?;
        let link = links.raft(peer);
        let asked = tokio::time::timeout(option.hard_ttl(), link.ask(question)).await;
        if let Ok(answered) = &asked {
            links.tell_of(peer, self.target, answered.as_ref().err());
        }
        match asked {
            // As if it were away: after any other failure openraft asks again at once, and so without end.
            Ok(Ok(RaftAnswer::Refused(why))) => {
                let why = format!("member {} refused: {why}", self.target);
                Err(RPCError::Unreachable(Unreachable::new(&AnyError::error(why))))
            }
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(unanswered)) => Err(RPCError::Unreachable(Unreachable::new(&unanswered))),
            Err(_) => Err(RPCError::Timeout(self.timeout(action, option.hard_ttl()))),
        }
    }

    fn remember(&self, seen: Standing) {
        if let Some((links, _)) = &self.to {
            links.memory.note(self.target, seen);
        }
    }

    /// An old disk may know nothing of this leader and so not ask it.
    fn tell_of_its_standing(&self) {
        let Some((links, peer)) = &self.to else { return };
        let Some(known) = links.memory.of(self.target) else { return };
        let link = links.raft(*peer);
        tokio::spawn(async move {
            let _ = tokio::time::timeout(TELL_WITHIN, link.ask(known.told())).await;
        });
    }

    fn has_confirmed(&self, vote: (u64, MemberId), entry: Option<EntryId>) -> bool {
        self.to.as_ref().is_some_and(|(links, _)| links.memory.has_confirmed(self.target, vote, entry))
    }

    fn nonsense(&self, answer: &RaftAnswer) -> RpcError {
        let why = format!("member {} answered {answer:?} to another question", self.target);
        RPCError::Unreachable(Unreachable::new(&AnyError::error(why)))
    }
}

impl<C: Types> RaftNetwork<C> for Connection {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<C>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<MemberId>, RpcError> {
        let vote = (request.vote.leader_id.term, request.vote.leader_id.node_id);
        let before = request.prev_log_id.as_ref().map(types::to_id);
        let last = request.entries.last().map(|entry| types::to_id(&entry.log_id)).or(before);
        let (question, cut) = RaftQuestion::append(request)
            .map_err(|error| RPCError::Network(NetworkError::new(&AnyError::error(error))))?;
        match self.ask(question, RPCTypes::AppendEntries, &option).await? {
            RaftAnswer::Appended => {
                let confirmed = cut.as_ref().map(types::to_id).or(last);
                self.remember(Standing::new(vote, confirmed));
                Ok(match cut {
                    None => AppendEntriesResponse::Success,
                    some => AppendEntriesResponse::PartialSuccess(some),
                })
            }
            // openraft takes it for granted that nobody loses what it confirmed, and ends where somebody does.
            RaftAnswer::Conflict if self.has_confirmed(vote, before) => {
                tracing::error!(
                    member = self.target,
                    ?before,
                    "a member lacks entries that it had confirmed; replace it"
                );
                self.tell_of_its_standing();
                let why = format!("member {} lacks entry {before:?}, which it had confirmed", self.target);
                Err(RPCError::Unreachable(Unreachable::new(&AnyError::error(why))))
            }
            RaftAnswer::Conflict => Ok(AppendEntriesResponse::Conflict),
            RaftAnswer::HigherVote(vote) => Ok(AppendEntriesResponse::HigherVote(vote.into())),
            other => Err(self.nonsense(&other)),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<MemberId>,
        option: RPCOption,
    ) -> Result<VoteResponse<MemberId>, RpcError> {
        match self.ask(RaftQuestion::vote(&request), RPCTypes::Vote, &option).await? {
            RaftAnswer::Voted { vote, granted, last } => Ok(VoteResponse {
                vote: vote.into(),
                vote_granted: granted,
                last_log_id: last.map(Into::into),
            }),
            other => Err(self.nonsense(&other)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<MemberId>,
        snapshot: Snapshot<C>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<MemberId>, StreamingError<C, Fatal<MemberId>>> {
        let (links, peer) = self.to().map_err(StreamingError::Unreachable)?;
        let name = snapshot.meta.snapshot_id.clone();
        let sending = transfer::send(links.network(), peer, vote, &name, &snapshot.snapshot);
        let sent = tokio::select! {
            closed = cancel => return Err(StreamingError::Closed(closed)),
            sent = sending => sent,
        };
        match sent {
            Ok(vote) => Ok(SnapshotResponse { vote }),
            Err(transfer::Error::Stalled) => {
                let timeout = self.timeout(RPCTypes::InstallSnapshot, option.hard_ttl());
                Err(StreamingError::Timeout(timeout))
            }
            Err(error) => {
                tracing::warn!(member = self.target, snapshot = name, %error, "a snapshot did not arrive");
                Err(StreamingError::Unreachable(Unreachable::new(&error)))
            }
        }
    }

    fn backoff(&self) -> Backoff {
        let last = RETRY_AFTER_MS[RETRY_AFTER_MS.len() - 1];
        let waits = RETRY_AFTER_MS.into_iter().chain(std::iter::repeat(last));
        Backoff::new(waits.map(Duration::from_millis))
    }
}
