//! Messages that survive broken connections: numbered, acknowledged, resent; in both directions. Pure: no clock, no
//! randomness, no I/O.
//!
//! ```text
//!   host                                              leader
//!     │ Resume { session: S or none, durable }           │   first frame on every new stream
//!     │─────────────────────────────────────────────────►│   S is mine? go on : draw a new id, start again
//!     │                  Resume { session: S', durable } │
//!     │◄─────────────────────────────────────────────────│
//!     │ Hello ─► · ◄─ Welcome                            │   inventories, see `host`
//!     │ Message 7, 8, 9 ─►     ◄─ Message 3    ◄─ Ack 8  │
//! ```
//!
//! **Within one session** each message is delivered once and in order: what is not acknowledged is sent again after
//! a reconnect, what arrives again is dropped as a duplicate, and a gap is an error, since streams keep order.
//! A message is acknowledged when its effect is durable, not when it arrives ([`Inbox::durable`]); what is in
//! between is held by the receiving process, which is alive as long as the session is.
//!
//! **When a side has lost its half** (its process ended, another coordinator leads) the session is over, and a new
//! one with a new id begins with number 1 in both directions. Each side is handed back the messages that were not
//! acknowledged; it may not know whether they had an effect, so it decides by the inventories of `Hello` and
//! `Welcome` which of them to say again. Across sessions a message may thus have its effect twice, and must be
//! harmless then: attempts and grants are fenced by their numbers.
//!
//! The accepting side draws the id, and only a pair that holds the same id goes on. So a handshake that breaks off
//! in the middle leaves different ids behind, and the next one starts again; two halves that don't belong together
//! are never joined.

mod inbox;
mod lease;
mod outbox;
#[cfg(test)]
mod tests;

pub use inbox::{Accept, Inbox};
pub use lease::{LeaseBook, LeaseClock};
pub use outbox::{Full, Outbox};

use serde::{Deserialize, Serialize};

/// Names one session; drawn at random by the accepting side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub u64);

/// The first frame of each side on a new stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// The session whose half the sender holds.
    pub session: Option<SessionId>,
    /// Everything up to this number is durable at the sender: an acknowledgement that may have been lost.
    pub durable: u64,
}

/// What became of a session on a new stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Resumed<M> {
    /// It goes on. Send an acknowledgement of [`Inbox::durable_level`], which may have risen since it was put into
    /// the offer, and then [`Outbox::unacked`] again, in order.
    Continued,
    /// A new one began, with number 1 in both directions.
    Restarted {
        /// What had been pushed and was not acknowledged, in order. It is no longer in the outbox.
        unacknowledged: Vec<M>,
    },
}

/// What one side holds at most for the other; both sides have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Messages that are not acknowledged.
    pub messages_max: usize,
    /// Their sizes together.
    pub bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { messages_max: 4_096, bytes_max: 64 * 1024 * 1024 }
    }
}

/// The peer broke the rules. Close the stream; the next one starts a new session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("message {number} arrived where {expected} was expected")]
    Gap { number: u64, expected: u64 },
    #[error("message {number} arrived while {held} are not durable; at most {held_max} may be")]
    Overrun { number: u64, held: u64, held_max: u64 },
    #[error("message {up_to} was acknowledged, but only {pushed} were pushed")]
    AckOfUnsent { up_to: u64, pushed: u64 },
    #[error("message {number} became durable, but only {received} were received")]
    DurableBeforeReceived { number: u64, received: u64 },
    #[error("the answer to a new stream names no session")]
    NoSession,
}

/// One side's half of a session. It lives as long as the process (or the leadership) and sees many streams.
#[derive(Debug)]
pub struct Session<M> {
    id: Option<SessionId>,
    limits: Limits,
    pub outbox: Outbox<M>,
    pub inbox: Inbox,
}

impl<M> Session<M> {
    /// A half that belongs to no session yet. Messages may be pushed already; the first handshake hands them back.
    pub fn new(limits: Limits) -> Self {
        Self { id: None, limits, outbox: Outbox::new(limits), inbox: Inbox::new(limits) }
    }

    pub fn id(&self) -> Option<SessionId> {
        self.id
    }

    /// What the side that opened the stream sends first.
    pub fn offer(&self) -> Resume {
        Resume { session: self.id, durable: self.inbox.durable_level() }
    }

    /// The accepting side's turn: decides, and returns the answer to send. `fresh` is a newly drawn id, used if a
    /// new session begins.
    pub fn on_offer(&mut self, offer: Resume, fresh: SessionId) -> Result<(Resume, Resumed<M>), Error> {
        let resumed = if self.id.is_some() && offer.session == self.id {
            self.go_on(offer.durable)?
        } else {
            self.start_again(fresh)
        };
        Ok((self.offer(), resumed))
    }

    /// The opening side's turn.
    pub fn on_answer(&mut self, answer: Resume) -> Result<Resumed<M>, Error> {
        match answer.session {
            None => {
                self.id = None;
                Err(Error::NoSession)
            }
            id if id == self.id => self.go_on(answer.durable),
            Some(id) => Ok(self.start_again(id)),
        }
    }

    /// Ends the session from this side, say after an [`Error`] of the boxes: the next stream starts a new one.
    pub fn give_up(&mut self) {
        self.id = None;
    }

    fn go_on(&mut self, durable: u64) -> Result<Resumed<M>, Error> {
        if let Err(error) = self.outbox.ack(durable) {
            self.give_up();
            return Err(error);
        }
        Ok(Resumed::Continued)
    }

    fn start_again(&mut self, id: SessionId) -> Resumed<M> {
        self.id = Some(id);
        self.inbox = Inbox::new(self.limits);
        let before = std::mem::replace(&mut self.outbox, Outbox::new(self.limits));
        Resumed::Restarted { unacknowledged: before.into_messages() }
    }
}
