//! Batches of commands: taken from what waits, put into the log here or sent to the leader, and answered.

use super::{DUE_MAX, Driver, Metrics, Place, RETRY_AFTER};
use crate::replication::due::Due;
use crate::replication::forward::{EngineAnswer, EngineQuestion};
use crate::replication::payload::Payload;
use crate::replication::types::Types;
use crate::replication::waiting::Item;
use crate::state::{ClusterVersion, Reply};
use futures::future::BoxFuture;
use lote_shared::model::Timestamp;
use tokio::time::Instant;

/// What became of a batch: all of it applied by the entry at `index`, or nobody knows.
pub(super) type Landed = Option<(u64, Vec<Reply>)>;

/// A batch under way.
pub(super) struct Flight {
    pub place: Place,
    pub items: Vec<Item>,
    pub landing: BoxFuture<'static, Landed>,
}

impl<C: Types> Driver<C> {
    pub(super) fn take_off(&mut self, place: Place, metrics: &Metrics) -> Option<Flight> {
        if place == Place::Nowhere || self.waiting.is_empty() || self.due.len() >= DUE_MAX {
            return None;
        }
        let items = self.waiting.take();
        if items.is_empty() {
            return None;
        }
        let landing: BoxFuture<'static, Landed> = match place {
            Place::Here(_) => {
                let stamp = self.stamp();
                let version = self.parts.position.borrow().version;
                let payload = entry_of(&items, stamp, version);
                let raft = self.parts.raft.clone();
                Box::pin(async move {
                    let written = raft.client_write(payload).await;
                    let written =
                        written.inspect_err(|error| tracing::debug!(%error, "an entry was not applied"));
                    written.ok().map(|response| (response.log_id.index, response.data))
                })
            }
            _ => {
                let commands = items.iter().flat_map(Item::commands).cloned().collect();
                let asked = self.ask_leader(metrics, EngineQuestion::Propose(commands));
                Box::pin(async move {
                    match asked.await {
                        Some(EngineAnswer::Replies { index, replies }) => Some((index, replies)),
                        _ => None,
                    }
                })
            }
        };
        Some(Flight { place, items, landing })
    }

    pub(super) fn on_landed(&mut self, landed: Landed) {
        let Some(Flight { items, place, .. }) = self.flight.take() else { return };
        let count: usize = items.iter().map(|item| item.commands().len()).sum();
        let landed = landed.filter(|(_, replies)| replies.len() == count);
        let Some((index, replies)) = landed else {
            self.retry_at = Some(Instant::now() + RETRY_AFTER);
            self.waiting.put_back(items);
            if !matches!(place, Place::Here(_)) || self.settled.is_none() {
                self.waiting.turn_away_forwarded();
            }
            return;
        };
        let mut replies = replies.into_iter();
        let mut own = Vec::new();
        for item in items {
            match item {
                Item::Own { answer, .. } => own.extend(answer.zip(replies.next())),
                Item::Forwarded { commands, answer } => {
                    let replies = replies.by_ref().take(commands.len()).collect();
                    let _ = answer.send(EngineAnswer::Replies { index, replies });
                }
            }
        }
        self.push_due(Due { index, deadline: self.give_up_at(), replies: own, reads: Vec::new() });
    }
}

/// The commands of these items as one entry.
/// Builds of before version 2 know no fence in an entry; with one of them about, the look just before has to do.
fn entry_of(items: &[Item], now: Timestamp, version: ClusterVersion) -> Payload {
    let all = || items.iter().flat_map(Item::commands);
    if version < ClusterVersion::V2 {
        let commands: Vec<&[u8]> = all().map(|command| &*command.0).collect();
        return Payload::new(now, commands.into_iter());
    }
    let term = items.iter().find_map(Item::term);
    let commands = items.iter().flat_map(|item| item.commands().iter().map(|command| (command, item.term())));
    let commands: Vec<(&[u8], bool)> =
        commands.map(|(command, fence)| (&*command.0, fence.is_some())).collect();
    Payload::fenced(now, term, commands.into_iter())
}
