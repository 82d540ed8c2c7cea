//! Which messages have arrived, and which of them will never have to be sent again.

use super::{Error, Limits};
use std::collections::BTreeSet;

/// Whether an arriving message is to be handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accept {
    New,
    /// It was resent after a reconnect and is here already.
    Duplicate,
}

/// Numbers of one direction, at its receiving end.
///
/// Two levels: everything up to `received` has arrived; everything up to `durable` is settled, so that the sender
/// may forget it. Messages become durable in any order.
#[derive(Debug)]
pub struct Inbox {
    received: u64,
    durable: u64,
    /// Durable numbers beyond a hole: all in `durable + 2 ..= received`.
    ahead: BTreeSet<u64>,
    held_max: u64,
}

impl Inbox {
    pub(super) fn new(limits: Limits) -> Self {
        Self { received: 0, durable: 0, ahead: BTreeSet::new(), held_max: limits.messages_max.max(1) as u64 }
    }

    /// An arriving message's number. `New` counts as received from here on.
    pub fn accept(&mut self, number: u64) -> Result<Accept, Error> {
        let expected = self.received + 1;
        if number == 0 || number > expected {
            return Err(Error::Gap { number, expected });
        }
        if number < expected {
            return Ok(Accept::Duplicate);
        }
        let held = self.received - self.durable;
        if held >= self.held_max {
            return Err(Error::Overrun { number, held, held_max: self.held_max });
        }
        self.received = number;
        Ok(Accept::New)
    }

    /// The effect of a received message is durable. Returns the level to acknowledge if it rose. Saying it twice
    /// changes nothing.
    pub fn durable(&mut self, number: u64) -> Result<Option<u64>, Error> {
        if number > self.received {
            return Err(Error::DurableBeforeReceived { number, received: self.received });
        }
        if number > self.durable {
            self.ahead.insert(number);
        }
        let before = self.durable;
        while self.ahead.first() == Some(&(self.durable + 1)) {
            self.ahead.pop_first();
            self.durable += 1;
        }
        Ok((self.durable > before).then_some(self.durable))
    }

    /// Number of the last message that arrived; 0 = none.
    pub fn received_level(&self) -> u64 {
        self.received
    }

    /// Everything up to this number is durable: what an acknowledgement says.
    pub fn durable_level(&self) -> u64 {
        self.durable
    }
}
