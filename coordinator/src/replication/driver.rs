//! The driver: has what waits at the engine's door put into the log, by this member or by the one that leads, and
//! answers it.
//!
//! **Group commit.** One batch is under way at a time. What arrives meanwhile gathers, and the next batch takes all of
//! it, up to [`COMMANDS_MAX`] commands or [`COMMAND_BYTES_MAX`] bytes; beyond that the engine's bounded queue fills
//! and callers are told to come back. So the number of syncs does not depend on how many callers there are, and what
//! was submitted in an order is proposed in that order.
//!
//! **Where it goes.** The leader makes one entry of each batch; every other member sends it to the leader as one
//! question, which there gathers with the leader's own. Either way a caller is answered once *this* member has applied
//! the entry.
//!
//! **When the leader goes away**, what was under way may or may not be applied. It is put back before everything that
//! came later and sent again under the same idempotency keys, to whoever leads then, until it is answered or
//! [`Parts::give_up_after`] has passed. Questions of other members are turned away; they do the same at home.
//!
//! **Reads** gather likewise: one question (does this leader still lead, and how far is it) answers all that came
//! before it.
//!
//! **Leading** begins when an entry of this member's own term is applied, so everything before it is too: then cluster
//! time goes on from the greatest stamp there is, an entry that carries the time is written, and only when that is
//! applied is leadership announced.
//!
//! [`COMMANDS_MAX`]: super::types::COMMANDS_MAX
//! [`COMMAND_BYTES_MAX`]: super::types::COMMAND_BYTES_MAX

mod leading;
mod proposals;
mod reads;

use self::leading::reign_led;
use self::proposals::Flight;
use self::reads::Question;
use super::applier::Position;
use super::clock::{ClockCore, Time};
use super::due::{Due, Read};
use super::forward::{EngineAnswer, EngineQuestion, Forwarded};
use super::room::Gate;
use super::transport::{Links, peer_of};
use super::types::{COMMANDS_MAX, Member, MemberId, Types};
use super::waiting::{Item, Waiting};
use crate::engine::{Request, Unavailable};
use crate::leadership::Leadership;
use crate::state::command;
use futures::future::{BoxFuture, OptionFuture};
use lote_shared::model::Timestamp;
use openraft::Raft;
use openraft::metrics::RaftServerMetrics;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};

/// How long a caller waits for a cluster that finds no leader.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(10);
/// How long a stopping driver waits for its last entry.
const FINISH_WITHIN: Duration = Duration::from_secs(2);
/// Before something that failed is tried again with the same leader.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(50);

/// Batches that the leader has answered and this member has not applied; more of them wait until it has.
const DUE_MAX: usize = 64;

type Metrics = RaftServerMetrics<MemberId, Member>;

/// One leadership: its term and its leader.
type Reign = (u64, MemberId);

/// What a driver works with.
pub struct Parts<C: Types> {
    pub raft: Raft<C>,
    /// Starts after the last stamp in the log.
    pub clock: ClockCore,
    pub time: Arc<dyn Time>,
    /// What this member has applied.
    pub position: watch::Receiver<Position>,
    /// Entries up to here were in the log at the start: their stamps say nothing about the time now.
    pub replayed: u64,
    /// The way to the other members, if there is a network.
    pub links: Option<Arc<Links>>,
    /// Questions of other members.
    pub forwarded: mpsc::Receiver<Forwarded>,
    pub leadership: watch::Sender<Leadership>,
    pub give_up_after: Duration,
}

/// Where a batch or question goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Here(Reign),
    There(Reign),
    Nowhere,
}

pub struct Driver<C: Types> {
    parts: Parts<C>,
    /// The leadership of this member that is announced.
    settled: Option<Reign>,
    settling: Option<(Reign, BoxFuture<'static, bool>)>,
    waiting: Waiting,
    flight: Option<Flight>,
    reads: Vec<Read>,
    forwarded_reads: Vec<oneshot::Sender<EngineAnswer>>,
    question: Option<Question>,
    due: Vec<Due>,
    /// Not before then is a leader asked again that did not answer.
    retry_at: Option<Instant>,
    /// Closed while the disk has no room for entries; `None`: nobody looks.
    gate: Option<Gate>,
}

impl<C: Types> Driver<C> {
    pub fn new(parts: Parts<C>) -> Driver<C> {
        Driver {
            parts,
            settled: None,
            settling: None,
            waiting: Waiting::default(),
            flight: None,
            reads: Vec::new(),
            forwarded_reads: Vec::new(),
            question: None,
            due: Vec::new(),
            retry_at: None,
            gate: None,
        }
    }

    /// Asks here before it makes an entry.
    #[must_use]
    pub fn with_gate(mut self, gate: Gate) -> Driver<C> {
        self.gate = Some(gate);
        self
    }

    /// Serves the queue until it is closed, `stop` turns true, or Raft fails. What waits then is told so.
    pub async fn run(mut self, mut queue: mpsc::Receiver<Request>, mut stop: watch::Receiver<bool>) {
        let mut server = self.parts.raft.server_metrics();
        let mut position = self.parts.position.clone();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut arrived = Vec::new();
        let (mut is_open, mut is_forwarding) = (true, true);
        let is_told_to_stop = loop {
            let metrics = server.borrow_and_update().clone();
            let reached = *position.borrow_and_update();
            self.advance(&metrics, reached);
            if !is_open && self.is_idle() {
                break false;
            }
            let leads = self.settled.is_some();
            let has_room = self.waiting.has_room() && self.reads.len() < COMMANDS_MAX;
            let is_ticking = !self.is_idle() || self.retry_at.is_some();
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break true,
                // Raft's metrics end with it.
                changed = server.changed() => if changed.is_err() { break false },
                changed = position.changed() => if changed.is_err() { break false },
                _ = tick.tick(), if is_ticking => self.expire(),
                Some(settled) = OptionFuture::from(self.settling.as_mut().map(|(_, future)| future)) => {
                    self.on_settled(settled, &metrics);
                }
                Some(landed) = OptionFuture::from(self.flight.as_mut().map(|flight| &mut flight.landing)) => {
                    self.on_landed(landed);
                }
                Some(index) = OptionFuture::from(self.question.as_mut().map(|asked| &mut asked.answer)) => {
                    self.on_index(index);
                }
                count = queue.recv_many(&mut arrived, 1), if is_open && has_room => {
                    is_open = count > 0;
                    arrived.drain(..).for_each(|request| self.take_in(request));
                    while self.waiting.has_room()
                        && self.reads.len() < COMMANDS_MAX
                        && let Ok(request) = queue.try_recv()
                    {
                        self.take_in(request);
                    }
                }
                // Whoever does not lead says so at once.
                question = self.parts.forwarded.recv(), if is_forwarding && (has_room || !leads) => {
                    match question {
                        Some(question) => self.take_in_forwarded(question),
                        None => is_forwarding = false,
                    }
                }
            }
        };
        if is_told_to_stop {
            self.finish().await;
        }
        self.parts.leadership.send_modify(|leadership| leadership.is_ours = false);
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty()
            && self.flight.is_none()
            && self.reads.is_empty()
            && self.question.is_none()
            && self.due.is_empty()
    }

    fn take_in(&mut self, request: Request) {
        let deadline = Instant::now() + self.parts.give_up_after;
        match request {
            Request::Linearize(answer) => self.reads.push(Read { answer, term: None, deadline }),
            Request::Confirm { term, answer } => {
                self.reads.push(Read { answer, term: Some(term), deadline });
            }
            Request::Propose(proposal) if proposal.bytes.len() as u64 > command::SIZE_MAX => {
                let size = proposal.bytes.len() as u64;
                let _ = proposal.answer.send(Err(Unavailable::TooLarge { size, limit: command::SIZE_MAX }));
            }
            Request::Propose(proposal) => self.waiting.push(Item::own(proposal, deadline)),
        }
    }

    fn take_in_forwarded(&mut self, question: Forwarded) {
        match question {
            // Dropping the answer says that this member does not lead.
            _ if self.settled.is_none() => {}
            Forwarded::Propose { commands, answer } => {
                self.waiting.push(Item::Forwarded { commands, answer });
            }
            Forwarded::ReadIndex(answer) => self.forwarded_reads.push(answer),
        }
    }

    /// Does what can be done now that Raft stands as `metrics` say and everything up to `reached` is applied.
    fn advance(&mut self, metrics: &Metrics, reached: Position) {
        if reached.id.is_some_and(|id| id.index > self.parts.replayed) {
            self.parts.clock.observe(reached.now, self.parts.time.read());
        }
        self.answer_due(reached);
        let led = reign_led(metrics).filter(|_| !self.steps_back(metrics));
        if self.settled.is_some() && self.settled != led {
            self.settled = None;
            self.waiting.turn_away_forwarded();
            self.forwarded_reads.clear();
        }
        if self.settling.as_ref().is_some_and(|(reign, _)| led != Some(*reign)) {
            self.settling = None;
        }
        self.publish(metrics);
        if let Some(reign) = led
            && self.settled.is_none()
            && self.settling.is_none()
            && reached.id.is_some_and(|id| (id.term, id.node) == reign)
        {
            self.settling = Some((reign, self.settle()));
        }
        let place = self.place(metrics);
        self.give_up_on_other_places(place);
        self.fence();
        let is_full = || self.gate.as_ref().is_some_and(|gate| !gate.is_open());
        if matches!(place, Place::Here(_)) && !self.waiting.is_empty() && is_full() {
            self.waiting.refuse_all();
        }
        if self.retry_at.is_some_and(|at| at > Instant::now()) {
            return;
        }
        self.retry_at = None;
        if self.flight.is_none() {
            self.flight = self.take_off(place, metrics);
        }
        if self.question.is_none() {
            self.question = self.ask(place, metrics);
        }
    }

    /// openraft may never answer what was proposed before leadership was lost, and a leader that another one has
    /// replaced may hang. While nobody leads, one that was asked may still answer.
    fn give_up_on_other_places(&mut self, place: Place) {
        let is_gone = |other: Place| match other {
            Place::Here(_) => other != place,
            _ => other != place && place != Place::Nowhere,
        };
        if self.flight.as_ref().is_some_and(|flight| is_gone(flight.place)) {
            self.on_landed(None);
            self.retry_at = None;
        }
        if self.question.as_ref().is_some_and(|question| is_gone(question.place)) {
            self.on_index(None);
            self.retry_at = None;
        }
    }

    /// What only the leader of another term may say or hear is refused ([`Engine::in_term`]), and so never forwarded.
    /// That is early word for proposals; what counts is the term in the entry, judged when it is applied.
    ///
    /// [`Engine::in_term`]: crate::engine::Engine::in_term
    fn fence(&mut self) {
        let led = self.settled.map(|(term, _)| term);
        self.waiting.fence(led);
        let is_past = |read: &mut Read| read.term.is_some() && read.term != led;
        self.reads.extract_if(.., is_past).for_each(Read::refuse);
    }

    fn stamp(&mut self) -> Timestamp {
        self.parts.clock.stamp(self.parts.time.read())
    }

    /// The leader's answer; `None` if there is no way to it, or it broke.
    fn ask_leader(
        &self,
        metrics: &Metrics,
        question: EngineQuestion,
    ) -> impl Future<Output = Option<EngineAnswer>> + Send + 'static {
        let member = metrics
            .current_leader
            .and_then(|leader| metrics.membership_config.membership().get_node(&leader));
        let link =
            self.parts.links.as_ref().zip(member.and_then(peer_of)).map(|(links, peer)| links.engine(peer));
        async move {
            let answer = link?.ask(question).await;
            if let Ok(EngineAnswer::Refused(why)) = &answer {
                tracing::warn!(why, "the leader refused what was forwarded");
            }
            answer.inspect_err(|error| tracing::debug!(%error, "the leader did not answer")).ok()
        }
    }

    fn give_up_at(&self) -> Instant {
        Instant::now() + self.parts.give_up_after
    }

    fn push_due(&mut self, due: Due) {
        self.due.push(due);
        let reached = *self.parts.position.borrow();
        self.answer_due(reached);
    }

    fn answer_due(&mut self, reached: Position) {
        for due in self.due.extract_if(.., |due| reached.has_reached(due.index)) {
            due.answer();
        }
    }

    /// Tells those whose time is up. What nobody waits for any more is given up where it is under way.
    fn expire(&mut self) {
        let now = Instant::now();
        self.waiting.expire(now);
        self.reads.extract_if(.., |read| read.deadline <= now).for_each(Read::refuse);
        self.due.extract_if(.., |due| due.deadline <= now).for_each(Due::refuse);
        if let Some(flight) = &mut self.flight {
            flight.items.iter_mut().for_each(|item| item.expire(now));
            if !flight.items.iter().any(Item::is_awaited) {
                self.flight = None;
            }
        }
        if let Some(question) = &mut self.question {
            question.own.extract_if(.., |read| read.deadline <= now).for_each(Read::refuse);
        }
    }

    /// The batch under way was promised an answer; nobody waits for it for ever.
    async fn finish(&mut self) {
        let Some(flight) = &mut self.flight else { return };
        if let Ok(landed) = tokio::time::timeout(FINISH_WITHIN, &mut flight.landing).await
            && landed.is_some()
        {
            self.on_landed(landed);
            let indexes = self.due.iter().map(|due| due.index);
            let index = indexes.max().unwrap_or(0);
            let mut position = self.parts.position.clone();
            let applied = position.wait_for(|position| position.has_reached(index));
            if tokio::time::timeout(FINISH_WITHIN, applied).await.is_ok_and(|applied| applied.is_ok()) {
                self.due.drain(..).for_each(Due::answer);
            }
        }
    }
}

#[cfg(test)]
mod tests;
