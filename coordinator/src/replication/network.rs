//! The seam to other coordinators. There are none yet: every connection answers that nobody is there.
//!
//! The libp2p transport replaces [`NoNetwork`]; nothing else here knows how members talk.

use super::types::{Member, MemberId, Types};
use openraft::error::{Fatal, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, Snapshot, Vote};
use std::future::Future;
use std::io;

/// A cluster of one.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoNetwork;

/// A connection to a member that cannot be reached.
#[derive(Debug)]
pub struct NoConnection {
    target: MemberId,
}

impl NoConnection {
    fn unreachable(&self) -> Unreachable {
        Unreachable::new(&io::Error::new(
            io::ErrorKind::NotConnected,
            format!("there is no network to member {}", self.target),
        ))
    }
}

impl<C: Types> RaftNetworkFactory<C> for NoNetwork {
    type Network = NoConnection;

    async fn new_client(&mut self, target: MemberId, _: &Member) -> NoConnection {
        NoConnection { target }
    }
}

impl<C: Types> RaftNetwork<C> for NoConnection {
    async fn append_entries(
        &mut self,
        _: AppendEntriesRequest<C>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<MemberId>, RPCError<MemberId, Member, RaftError<MemberId>>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn vote(
        &mut self,
        _: VoteRequest<MemberId>,
        _: RPCOption,
    ) -> Result<VoteResponse<MemberId>, RPCError<MemberId, Member, RaftError<MemberId>>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn full_snapshot(
        &mut self,
        _: Vote<MemberId>,
        _: Snapshot<C>,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<MemberId>, StreamingError<C, Fatal<MemberId>>> {
        Err(StreamingError::Unreachable(self.unreachable()))
    }
}
