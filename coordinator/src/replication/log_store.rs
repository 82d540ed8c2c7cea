//! openraft's view of [`Log`].

// The error type is openraft's, and its traits ask for it.
#![allow(clippy::result_large_err)]

use super::log::{self, Log, Vote};
use super::types::{self, MemberId, Types};
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{
    AnyError, LogId, LogState, OptionalSend, RaftLogReader, StorageError, StorageIOError, Vote as RaftVote,
};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Bytes of entries sent to a follower at once, about.
const SEND_BYTES_MAX: usize = super::wire::APPEND_BYTES_MAX;

/// A handle to the log, also its reader.
#[derive(Debug, Clone)]
pub struct LogStore {
    log: Arc<Log>,
    /// Whose log it is, if it may have led before.
    me: Option<MemberId>,
}

impl LogStore {
    pub fn new(log: Arc<Log>) -> LogStore {
        LogStore { log, me: None }
    }

    /// The log of a member that may have led before it was stopped. openraft would have it go on as the leader of its old
    /// term at once; on an older copy of its disk it would then give the same places to other entries. It stands for
    /// election like everybody else.
    pub fn of_member(log: Arc<Log>, me: MemberId) -> LogStore {
        LogStore { log, me: Some(me) }
    }

    fn read<C: Types>(
        &self,
        start: u64,
        end: u64,
        bytes_max: usize,
    ) -> Result<Vec<C::Entry>, StorageError<MemberId>> {
        let entries = self.log.read(start..end, bytes_max).map_err(read_error)?;
        entries
            .iter()
            .map(|entry| {
                types::from_log::<C>(entry).map_err(|error| {
                    StorageIOError::read_log_at_index(entry.id.index, AnyError::error(error)).into()
                })
            })
            .collect()
    }
}

fn read_error(error: log::Error) -> StorageError<MemberId> {
    StorageIOError::read_logs(AnyError::new(&error)).into()
}

fn write_error(error: log::Error) -> StorageError<MemberId> {
    StorageIOError::write_logs(AnyError::new(&error)).into()
}

/// Starts something and waits until it is durable.
async fn durable(
    start: impl FnOnce(log::Done) -> Result<(), log::Error>,
) -> Result<(), StorageError<MemberId>> {
    let (answer, wait) = oneshot::channel();
    let done: log::Done = Box::new(move |result| {
        let _ = answer.send(result);
    });
    start(done).map_err(write_error)?;
    let stopped = |_| log::Error::Failed("the writer has stopped".to_owned());
    wait.await.map_err(stopped).flatten().map_err(write_error)
}

impl<C: Types> RaftLogReader<C> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<C::Entry>, StorageError<MemberId>> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.read::<C>(start, end, usize::MAX)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<C::Entry>, StorageError<MemberId>> {
        self.read::<C>(start, end, SEND_BYTES_MAX)
    }
}

impl<C: Types> RaftLogStorage<C> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<C>, StorageError<MemberId>> {
        let state = self.log.state();
        Ok(LogState {
            last_purged_log_id: state.purged.map(types::from_id),
            last_log_id: state.last.map(types::from_id),
        })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote<MemberId>) -> Result<(), StorageError<MemberId>> {
        let vote =
            Vote { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed };
        durable(|done| self.log.save_vote(vote, done)).await
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote<MemberId>>, StorageError<MemberId>> {
        Ok(self.log.state().vote.map(|vote| {
            if vote.committed && self.me != Some(vote.node) {
                RaftVote::new_committed(vote.term, vote.node)
            } else {
                RaftVote::new(vote.term, vote.node)
            }
        }))
    }

    async fn save_committed(
        &mut self,
        committed: Option<LogId<MemberId>>,
    ) -> Result<(), StorageError<MemberId>> {
        match committed {
            Some(id) => self.log.save_committed(types::to_id(&id)).map_err(write_error),
            None => Ok(()),
        }
    }

    async fn read_committed(&mut self) -> Result<Option<LogId<MemberId>>, StorageError<MemberId>> {
        Ok(self.log.state().committed.map(types::from_id))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<C>) -> Result<(), StorageError<MemberId>>
    where
        I: IntoIterator<Item = C::Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut kept = Vec::new();
        for entry in entries {
            let encoded = types::to_log::<C>(&entry);
            kept.push(encoded.map_err(|error| StorageIOError::write_logs(AnyError::error(error)))?);
        }
        let done: log::Done =
            Box::new(move |result| callback.log_io_completed(result.map_err(io::Error::other)));
        self.log.append(kept, done).map_err(write_error)
    }

    async fn truncate(&mut self, from: LogId<MemberId>) -> Result<(), StorageError<MemberId>> {
        durable(|done| self.log.truncate(from.index, done)).await
    }

    async fn purge(&mut self, upto: LogId<MemberId>) -> Result<(), StorageError<MemberId>> {
        durable(|done| self.log.purge(types::to_id(&upto), done)).await
    }
}
