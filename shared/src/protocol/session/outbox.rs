//! Messages on their way out, kept until the other side has them for good.

use super::{Error, Limits};
use std::collections::VecDeque;

/// Pushed messages that are not acknowledged, bounded by count and by size.
#[derive(Debug)]
pub struct Outbox<M> {
    /// In order; the number of the first is `acknowledged + 1`.
    waiting: VecDeque<Waiting<M>>,
    acknowledged: u64,
    bytes: u64,
    limits: Limits,
}

#[derive(Debug)]
struct Waiting<M> {
    message: M,
    size_bytes: u64,
}

/// The other side does not keep up; the message comes back.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{messages} messages of {bytes} bytes wait for their acknowledgement")]
pub struct Full<M> {
    pub message: M,
    /// What waits already.
    pub messages: usize,
    pub bytes: u64,
}

impl<M> Outbox<M> {
    pub(super) fn new(limits: Limits) -> Self {
        Self { waiting: VecDeque::new(), acknowledged: 0, bytes: 0, limits }
    }

    /// Takes a message and returns its number, the one after the last. `size_bytes` is what it counts for against
    /// the limit. An empty outbox takes any message, so that a large one cannot be stuck for ever; the frame limit
    /// bounds it.
    pub fn push(&mut self, message: M, size_bytes: u64) -> Result<u64, Full<M>> {
        let fits = self.waiting.len() < self.limits.messages_max
            && self.bytes.saturating_add(size_bytes) <= self.limits.bytes_max;
        if !fits && !self.waiting.is_empty() {
            return Err(Full { message, messages: self.waiting.len(), bytes: self.bytes });
        }
        self.bytes = self.bytes.saturating_add(size_bytes);
        self.waiting.push_back(Waiting { message, size_bytes });
        Ok(self.pushed())
    }

    /// Drops everything up to this number. Levels that are old news change nothing.
    pub fn ack(&mut self, up_to: u64) -> Result<(), Error> {
        let pushed = self.pushed();
        if up_to > pushed {
            return Err(Error::AckOfUnsent { up_to, pushed });
        }
        while self.acknowledged < up_to {
            let Some(first) = self.waiting.pop_front() else { break };
            self.bytes = self.bytes.saturating_sub(first.size_bytes);
            self.acknowledged += 1;
        }
        Ok(())
    }

    /// What is not acknowledged, with numbers, in order: to be sent again after a reconnect.
    pub fn unacked(&self) -> impl ExactSizeIterator<Item = (u64, &M)> {
        let first = self.acknowledged + 1;
        self.waiting.iter().enumerate().map(move |(index, waiting)| (first + index as u64, &waiting.message))
    }

    /// One message by its number, while it is not acknowledged. A sender that goes through the numbers with this
    /// sends each once without keeping copies.
    pub fn get(&self, number: u64) -> Option<&M> {
        let index = number.checked_sub(self.acknowledged + 1)?;
        self.waiting.get(usize::try_from(index).ok()?).map(|waiting| &waiting.message)
    }

    /// Number of the last message pushed; 0 = none.
    pub fn pushed(&self) -> u64 {
        self.acknowledged + self.waiting.len() as u64
    }

    /// Everything up to this number is acknowledged; 0 = nothing.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn into_messages(self) -> Vec<M> {
        self.waiting.into_iter().map(|waiting| waiting.message).collect()
    }
}
