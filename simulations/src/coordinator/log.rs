//! Proposals on their way into the log: while one entry is being made durable, arriving commands gather, and the
//! next entry takes them all.

use super::disk::Disk;
use lote_coordinator::state::{Action, Command, IdempotencyKey, Stamp};
use lote_shared::model::{AccountId, NodeKey, PoolKey, TaskKey};

use crate::world::SessionId;
use lote_coordinator::scheduling::Allocation;

/// Who wants to know what became of a proposal.
#[derive(Debug, Clone)]
pub enum Waiter {
    Nobody,
    /// A request of the client.
    Client(u64),
    /// A session whose host said hello.
    Joined(SessionId),
    /// One of the proposals that settle what a returning host no longer has.
    Settled(SessionId),
    /// A numbered message of a host.
    Report(SessionId, u64),
    Assign {
        pool: PoolKey,
        generation: u64,
        node: NodeKey,
        asked: Vec<TaskKey>,
    },
    Allocation(Allocation),
    /// Something that was due: a cursor, a retry, a deadline.
    Due,
}

/// One entry on its way.
#[derive(Debug)]
pub struct Entry {
    pub stamp: Stamp,
    pub commands: Vec<Command>,
    pub waiters: Vec<Waiter>,
}

#[derive(Debug, Default)]
pub struct Log {
    waiting: Vec<(Command, Waiter)>,
    in_flight: Option<Entry>,
    index: u64,
    proposed: u128,
}

impl Log {
    /// A log whose last entry has this index; `epoch` tells idempotency keys of different leaders apart.
    pub fn new(index: u64, epoch: u64) -> Log {
        Log { waiting: Vec::new(), in_flight: None, index, proposed: u128::from(epoch) << 64 }
    }

    pub fn propose(&mut self, account: AccountId, action: Action, waiter: Waiter) {
        self.proposed += 1;
        self.waiting.push((Command { account, key: IdempotencyKey(self.proposed), action }, waiter));
    }

    /// Begins the next entry, if there is something to write and nothing on its way. The caller has it made durable.
    pub fn begin(&mut self, now: lote_shared::model::Timestamp) -> bool {
        if self.in_flight.is_some() || self.waiting.is_empty() {
            return false;
        }
        self.index += 1;
        let (commands, waiters) = std::mem::take(&mut self.waiting).into_iter().unzip();
        self.in_flight = Some(Entry { stamp: Stamp { index: self.index, now }, commands, waiters });
        true
    }

    /// The entry on its way is durable.
    pub fn committed(&mut self, disk: &mut Disk) -> Option<Entry> {
        let entry = self.in_flight.take()?;
        disk.commit(entry.stamp, entry.commands.clone());
        Some(entry)
    }

    /// The leader is gone: everything not durable is lost, but for the entry that may have become so unheard.
    pub fn crash(self) -> Option<Entry> {
        self.in_flight
    }
}
