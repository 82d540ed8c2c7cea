//! The driver: turns what waits at the engine's door into log entries and answers it.
//!
//! **Group commit.** One entry is under way at a time. What arrives meanwhile gathers, and the next entry takes all
//! of it, up to [`COMMANDS_MAX`] commands or [`COMMAND_BYTES_MAX`] bytes; beyond that the engine's bounded queue
//! fills and callers are told to come back. So the number of syncs does not depend on how many callers there are.
//!
//! An entry whose leader lost its place is answered `NoQuorum` at once; it may still be applied. While a leader hears
//! no quorum its entry and question wait; with one member that cannot be.
//!
//! **Reads** gather likewise: one question to Raft (is this member still the leader, and is what was committed
//! applied) answers all that came before it.

use super::clock::{ClockCore, Time};
use super::types::{COMMAND_BYTES_MAX, COMMANDS_MAX, Payload, Replies, Types};
use crate::engine::{Proposal, Request, Unavailable};
use crate::state::{Reply, command};
use futures::future::{BoxFuture, OptionFuture};
use openraft::{Raft, ServerState};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// How long a stopping driver waits for its last entry.
const FINISH_WITHIN: Duration = Duration::from_secs(2);

type Answer<T> = oneshot::Sender<Result<T, Unavailable>>;

/// What waits for the next entry and the next question.
#[derive(Default)]
struct Gathered {
    proposals: Vec<Proposal>,
    bytes: usize,
    reads: Vec<Read>,
}

/// A question for Raft; with a term, whether this member leads in just that one.
struct Read {
    term: Option<u64>,
    answer: Answer<()>,
}

impl Gathered {
    /// Whether any one command more surely fits.
    fn has_room(&self) -> bool {
        self.proposals.len() < COMMANDS_MAX
            && self.bytes + command::SIZE_MAX as usize <= COMMAND_BYTES_MAX
            && self.reads.len() < COMMANDS_MAX
    }

    fn take_in(&mut self, request: Request) {
        match request {
            Request::Linearize(answer) => self.reads.push(Read { term: None, answer }),
            Request::Confirm { term, answer } => self.reads.push(Read { term: Some(term), answer }),
            Request::Propose(proposal) if proposal.bytes.len() as u64 > command::SIZE_MAX => {
                let size = proposal.bytes.len() as u64;
                let _ = proposal.answer.send(Err(Unavailable::TooLarge { size, limit: command::SIZE_MAX }));
            }
            Request::Propose(proposal) => {
                self.bytes += proposal.bytes.len();
                self.proposals.push(proposal);
            }
        }
    }

    /// The commands of the next entry and who waits for them; those nobody waits for any more are dropped.
    fn take_proposals(&mut self) -> Vec<Proposal> {
        self.bytes = 0;
        let mut proposals = std::mem::take(&mut self.proposals);
        proposals.retain(|proposal| !proposal.answer.is_closed());
        proposals
    }
}

/// An entry on its way.
type Writing = BoxFuture<'static, (Vec<Answer<Reply>>, Option<Replies>)>;
/// A question on its way.
type Reading = BoxFuture<'static, (Vec<Read>, Led)>;

/// What Raft said to a question: whether this member led, and in which term if that did not change meanwhile.
struct Led {
    at_all: bool,
    term: Option<u64>,
}

pub struct Driver<C: Types> {
    raft: Raft<C>,
    clock: ClockCore,
    time: Arc<dyn Time>,
}

impl<C: Types> Driver<C> {
    /// `clock` starts after the last stamp in the log.
    pub fn new(raft: Raft<C>, clock: ClockCore, time: Arc<dyn Time>) -> Driver<C> {
        Driver { raft, clock, time }
    }

    /// Puts an entry without commands into the log and waits until it and everything before it is applied.
    pub async fn settle(&mut self) -> Result<(), String> {
        let now = self.clock.stamp(self.time.read());
        let payload = Payload::new(now, std::iter::empty());
        self.raft.client_write(payload).await.map(drop).map_err(|error| error.to_string())
    }

    /// Serves the queue until it is closed, `stop` turns true, or Raft fails. What waits then is told so.
    pub async fn run(mut self, mut queue: mpsc::Receiver<Request>, mut stop: watch::Receiver<bool>) {
        let mut gathered = Gathered::default();
        let mut arrived = Vec::new();
        let mut writing: Option<Writing> = None;
        let mut reading: Option<Reading> = None;
        let mut server = self.raft.server_metrics();
        let mut open = true;
        loop {
            if writing.is_none() {
                writing = self.start_writing(&mut gathered);
            }
            if reading.is_none() {
                reading = self.start_reading(&mut gathered);
            }
            if !open && writing.is_none() && reading.is_none() {
                return;
            }
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                changed = server.changed() => {
                    // Raft's metrics end with it.
                    if changed.is_err() {
                        return;
                    }
                    // openraft may never answer what was proposed before leadership was lost. Dropping it tells the
                    // callers that nobody knows.
                    if server.borrow_and_update().state != ServerState::Leader {
                        (writing, reading) = (None, None);
                    }
                }
                Some((answers, replies)) = OptionFuture::from(writing.as_mut()) => {
                    writing = None;
                    answer_all(answers, replies);
                }
                Some((reads, led)) = OptionFuture::from(reading.as_mut()) => {
                    reading = None;
                    for read in reads {
                        let holds = led.at_all && (read.term.is_none() || read.term == led.term);
                        let _ = read.answer.send(if holds { Ok(()) } else { Err(Unavailable::NoQuorum) });
                    }
                }
                count = queue.recv_many(&mut arrived, 1), if open && gathered.has_room() => {
                    open = count > 0;
                    arrived.drain(..).for_each(|request| gathered.take_in(request));
                    while gathered.has_room() && let Ok(request) = queue.try_recv() {
                        gathered.take_in(request);
                    }
                }
            }
        }
        // The entry under way was promised an answer; nobody waits for it for ever.
        if let Some(writing) = writing
            && let Ok((answers, replies)) = tokio::time::timeout(FINISH_WITHIN, writing).await
        {
            answer_all(answers, replies);
        }
    }

    fn start_writing(&mut self, gathered: &mut Gathered) -> Option<Writing> {
        let mut proposals = gathered.take_proposals();
        if proposals.iter().any(|proposal| proposal.term.is_some()) {
            let now = term(&self.raft);
            let (current, past): (Vec<_>, Vec<_>) =
                proposals.into_iter().partition(|proposal| proposal.term.is_none_or(|term| term == now));
            past.into_iter().for_each(|proposal| drop(proposal.answer.send(Err(Unavailable::NoQuorum))));
            proposals = current;
        }
        if proposals.is_empty() {
            return None;
        }
        let now = self.clock.stamp(self.time.read());
        let payload = Payload::new(now, proposals.iter().map(|proposal| proposal.bytes.as_slice()));
        let answers = proposals.into_iter().map(|proposal| proposal.answer).collect();
        let raft = self.raft.clone();
        Some(Box::pin(async move {
            let written = raft.client_write(payload).await;
            let replies = written.map(|response| response.data);
            let replies = replies.inspect_err(|error| tracing::warn!(%error, "an entry was not applied"));
            (answers, replies.ok())
        }))
    }

    fn start_reading(&mut self, gathered: &mut Gathered) -> Option<Reading> {
        let reads = std::mem::take(&mut gathered.reads);
        if reads.is_empty() {
            return None;
        }
        let raft = self.raft.clone();
        // The round goes out after the questions came. Terms only grow, so the same one before and after it was the
        // one in which the quorum answered.
        Some(Box::pin(async move {
            let before = term(&raft);
            let at_all = raft.ensure_linearizable().await.is_ok();
            let led = Led { at_all, term: (term(&raft) == before).then_some(before) };
            (reads, led)
        }))
    }
}

fn term<C: Types>(raft: &Raft<C>) -> u64 {
    raft.metrics().borrow().current_term
}

/// Each command its reply; if the entry has none, nobody knows whether it will be applied.
fn answer_all(answers: Vec<Answer<Reply>>, replies: Option<Replies>) {
    let replies = replies.filter(|replies| replies.len() == answers.len());
    match replies {
        Some(replies) => {
            for (answer, reply) in answers.into_iter().zip(replies) {
                let _ = answer.send(Ok(reply));
            }
        }
        None => {
            for answer in answers {
                let _ = answer.send(Err(Unavailable::NoQuorum));
            }
        }
    }
}
