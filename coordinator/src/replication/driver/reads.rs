//! Questions how far a member must have applied: one answers everybody who asked before it left.

use super::leading::reign_led;
use super::{Driver, Metrics, Place, RETRY_AFTER};
use crate::replication::due::{Due, Read};
use crate::replication::forward::{EngineAnswer, EngineQuestion};
use crate::replication::types::Types;
use futures::future::BoxFuture;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A question under way, for everybody who had asked when it left.
pub(super) struct Question {
    pub place: Place,
    pub own: Vec<Read>,
    pub forwarded: Vec<oneshot::Sender<EngineAnswer>>,
    pub answer: BoxFuture<'static, Option<u64>>,
}

impl<C: Types> Driver<C> {
    pub(super) fn ask(&mut self, place: Place, metrics: &Metrics) -> Option<Question> {
        if place == Place::Nowhere || (self.reads.is_empty() && self.forwarded_reads.is_empty()) {
            return None;
        }
        let answer: BoxFuture<'static, Option<u64>> = match place {
            Place::Here(reign) => {
                let raft = self.parts.raft.clone();
                Box::pin(async move {
                    let asked = raft.get_read_log_id().await;
                    // Terms only grow, so the quorum answered in the one in which it was asked.
                    let same = reign_led(&raft.server_metrics().borrow()) == Some(reign);
                    asked.ok().filter(|_| same).map(|(read, _)| read.map_or(0, |id| id.index))
                })
            }
            _ => {
                let asked = self.ask_leader(metrics, EngineQuestion::ReadIndex);
                Box::pin(async move {
                    match asked.await {
                        Some(EngineAnswer::Index(index)) => Some(index),
                        _ => None,
                    }
                })
            }
        };
        let (own, forwarded) = (std::mem::take(&mut self.reads), std::mem::take(&mut self.forwarded_reads));
        Some(Question { place, own, forwarded, answer })
    }

    pub(super) fn on_index(&mut self, index: Option<u64>) {
        let Some(Question { mut own, forwarded, .. }) = self.question.take() else { return };
        match index {
            Some(index) => {
                for answer in forwarded {
                    let _ = answer.send(EngineAnswer::Index(index));
                }
                let deadline = own.iter().map(|read| read.deadline).max().unwrap_or_else(Instant::now);
                self.push_due(Due { index, deadline, replies: Vec::new(), reads: own });
            }
            None => {
                self.retry_at = Some(Instant::now() + RETRY_AFTER);
                own.append(&mut self.reads);
                self.reads = own;
            }
        }
    }
}
