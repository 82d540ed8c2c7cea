//! The host's half of its session with the leader, shared by the nodes, which push messages, and the session task,
//! which sends them.
//!
//! It lives as long as a generation of the host. Final reports are remembered with the number of the message that
//! carries them, so that an acknowledgement can be passed on to the node, which lets the keeper forget the exit.

use lote_shared::model::{AttemptRef, NodeKey};
use lote_shared::protocol::host::{Frame, HostMessage};
use lote_shared::protocol::session::{Accept, Error, Limits, Resume, Resumed, Session};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::sync::Notify;

/// What counts against the session's limit of bytes for a message's fixed parts.
const MESSAGE_BYTES: u64 = 64;
const REPORT_BYTES: u64 = 64;

/// Final reports that the leader now has for good, by node.
pub type Acknowledged = Vec<(NodeKey, Vec<AttemptRef>)>;

#[derive(Debug)]
struct State {
    session: Session<HostMessage>,
    /// Messages for which the outbox has no room, as while there is no leader. Bounded by what the nodes hold: a node
    /// says what it wants only once here, and of each attempt that it started and that it ended; and a leader gives no
    /// more attempts without hearing of the old ones. Nothing is ever dropped for lack of room. When another leader
    /// answers, all of it goes but `NodeGone`, since the inventory says it anew.
    overflow: VecDeque<HostMessage>,
    /// Final reports by the number of their message.
    finals: BTreeMap<u64, (NodeKey, Vec<AttemptRef>)>,
    /// The last number handed out for sending on the present stream.
    sent: u64,
}

#[derive(Debug, Clone)]
pub struct Outgoing {
    state: Arc<Mutex<State>>,
    wake: Arc<Notify>,
}

impl Outgoing {
    pub fn new() -> Outgoing {
        let session = Session::new(Limits::default());
        let state = State { session, overflow: VecDeque::new(), finals: BTreeMap::new(), sent: 0 };
        Outgoing { state: Arc::new(Mutex::new(state)), wake: Arc::default() }
    }

    /// Takes a message for the leader; it is kept until acknowledged, over reconnects.
    pub fn push(&self, message: HostMessage) {
        let mut state = self.state.lock();
        match state.superseded(&message) {
            Some(earlier) => *earlier = message,
            None => state.overflow.push_back(message),
        }
        state.fill();
        drop(state);
        self.wake.notify_one();
    }

    /// Waits until something was pushed.
    pub async fn pushed(&self) {
        self.wake.notified().await;
    }

    /// Opens a handshake on a new stream.
    pub fn offer(&self) -> Resume {
        self.state.lock().session.offer()
    }

    /// The leader's answer to it. Returns whether a new session began; of the messages of the old one only those
    /// are said again here that the nodes would not say again.
    pub fn on_answer(&self, answer: Resume) -> Result<(bool, Acknowledged), Error> {
        let mut state = self.state.lock();
        match state.session.on_answer(answer)? {
            Resumed::Continued => {
                state.sent = state.session.outbox.acknowledged();
                let acknowledged = state.acknowledged();
                state.fill();
                Ok((false, acknowledged))
            }
            Resumed::Restarted { unacknowledged } => {
                state.finals.clear();
                state.sent = 0;
                let waiting: Vec<HostMessage> =
                    unacknowledged.into_iter().chain(std::mem::take(&mut state.overflow)).collect();
                let gone = waiting.into_iter().filter(|m| matches!(m, HostMessage::NodeGone { .. }));
                state.overflow = gone.collect();
                state.fill();
                Ok((true, Vec::new()))
            }
        }
    }

    /// The next frames to send, at most `max`, each once per stream.
    pub fn take(&self, max: usize) -> Vec<Frame<HostMessage>> {
        let mut state = self.state.lock();
        let mut frames = Vec::new();
        while frames.len() < max {
            let number = state.sent + 1;
            let Some(message) = state.session.outbox.get(number).cloned() else { break };
            state.sent = number;
            frames.push(Frame::Message { number, message });
        }
        frames
    }

    /// The leader has everything up to this number for good.
    pub fn on_ack(&self, up_to: u64) -> Result<Acknowledged, Error> {
        let mut state = self.state.lock();
        state.session.outbox.ack(up_to)?;
        let acknowledged = state.acknowledged();
        let waited = !state.overflow.is_empty();
        state.fill();
        if waited {
            self.wake.notify_one();
        }
        Ok(acknowledged)
    }

    /// A message of the leader: whether it is new, and the level to acknowledge. What is received is as good as
    /// durable here: if this process ends, so does the session, and inventories settle the rest.
    pub fn on_message(&self, number: u64) -> Result<(bool, Option<u64>), Error> {
        let mut state = self.state.lock();
        match state.session.inbox.accept(number)? {
            Accept::Duplicate => Ok((false, Some(state.session.inbox.durable_level()))),
            Accept::New => Ok((true, state.session.inbox.durable(number)?)),
        }
    }

    /// The level to acknowledge at the start of a stream.
    pub fn received(&self) -> u64 {
        self.state.lock().session.inbox.durable_level()
    }

    /// After a breach of the rules: the next stream starts a new session.
    pub fn give_up(&self) {
        self.state.lock().session.give_up();
    }

    /// Whether nothing waits for an acknowledgement.
    pub fn is_empty(&self) -> bool {
        let state = self.state.lock();
        state.session.outbox.is_empty() && state.overflow.is_empty()
    }
}

impl Default for Outgoing {
    fn default() -> Self {
        Outgoing::new()
    }
}

impl State {
    /// A waiting message that the new one makes void: levels, not deltas.
    fn superseded(&mut self, new: &HostMessage) -> Option<&mut HostMessage> {
        let HostMessage::Ask { node: asking, .. } = new else { return None };
        let is_same = |m: &&mut HostMessage| matches!(m, HostMessage::Ask { node, .. } if node == asking);
        self.overflow.iter_mut().find(is_same)
    }

    /// Moves messages into the outbox as far as there is room.
    fn fill(&mut self) {
        while let Some(message) = self.overflow.pop_front() {
            let (size_bytes, finals) = weigh(&message);
            match self.session.outbox.push(message, size_bytes) {
                Ok(number) => {
                    if let Some(finals) = finals {
                        self.finals.insert(number, finals);
                    }
                }
                Err(full) => {
                    self.overflow.push_front(full.message);
                    return;
                }
            }
        }
    }

    /// Takes out what the outbox no longer holds.
    fn acknowledged(&mut self) -> Acknowledged {
        let rest = self.finals.split_off(&(self.session.outbox.acknowledged() + 1));
        std::mem::replace(&mut self.finals, rest).into_values().collect()
    }
}

/// A message's size, near enough, and the final reports in it.
fn weigh(message: &HostMessage) -> (u64, Option<(NodeKey, Vec<AttemptRef>)>) {
    let HostMessage::Report { node, attempts } = message else { return (MESSAGE_BYTES, None) };
    let finals: Vec<AttemptRef> =
        attempts.iter().filter(|report| report.end.is_some()).map(|report| report.attempt).collect();
    let size_bytes = MESSAGE_BYTES + REPORT_BYTES * attempts.len() as u64;
    (size_bytes, (!finals.is_empty()).then_some((*node, finals)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lote_shared::model::{Attempt, AttemptOutcome, TaskKey, Timestamp};
    use lote_shared::protocol::host::{AttemptEnd, AttemptReport};
    use lote_shared::protocol::session::SessionId;

    const NODE: NodeKey = NodeKey(1);

    fn attempt(task: u64) -> AttemptRef {
        AttemptRef { task: TaskKey(task), attempt: Attempt(1) }
    }

    fn report(task: u64) -> HostMessage {
        let end =
            AttemptEnd { at: Timestamp(1), outcome: AttemptOutcome::Exited { exit_code: 0, upload: None } };
        let report = AttemptReport { attempt: attempt(task), started: None, end: Some(end) };
        HostMessage::Report { node: NODE, attempts: vec![report] }
    }

    fn numbers(frames: &[Frame<HostMessage>]) -> Vec<u64> {
        let number = |frame: &Frame<_>| match frame {
            Frame::Message { number, .. } => Some(*number),
            _ => None,
        };
        frames.iter().filter_map(number).collect()
    }

    fn answer(id: u64, durable: u64) -> Resume {
        Resume { session: Some(SessionId(id)), durable }
    }

    #[test]
    fn final_reports_are_acknowledged_with_their_message_even_over_a_reconnect() {
        let outgoing = Outgoing::new();
        assert_eq!(outgoing.on_answer(answer(5, 0)).unwrap(), (true, vec![]));
        for task in 1..=4 {
            outgoing.push(report(task));
        }
        assert_eq!(numbers(&outgoing.take(3)), [1, 2, 3]);
        assert_eq!(numbers(&outgoing.take(3)), [4]);
        assert_eq!(outgoing.on_ack(1).unwrap(), [(NODE, vec![attempt(1)])]);
        // The acknowledgement of 2 was lost with the stream; the handshake says it.
        assert_eq!(outgoing.on_answer(answer(5, 2)).unwrap(), (false, vec![(NODE, vec![attempt(2)])]));
        assert_eq!(numbers(&outgoing.take(9)), [3, 4], "resent on the new stream");
        assert!(outgoing.on_ack(9).is_err());
        assert_eq!(outgoing.on_ack(4).unwrap().len(), 2);
        assert!(outgoing.is_empty());
    }

    #[test]
    fn a_new_session_leaves_retelling_to_the_nodes_but_for_nodes_that_are_gone() {
        let outgoing = Outgoing::new();
        outgoing.push(report(1));
        outgoing.push(HostMessage::NodeGone { node: NODE });
        assert_eq!(outgoing.on_answer(answer(5, 0)).unwrap(), (true, vec![]));
        let frames = outgoing.take(9);
        assert_eq!(frames, [Frame::Message { number: 1, message: HostMessage::NodeGone { node: NODE } }]);
        assert_eq!(outgoing.on_message(1).unwrap(), (true, Some(1)));
        assert_eq!(outgoing.on_message(1).unwrap(), (false, Some(1)));
        assert!(outgoing.on_message(3).is_err());
    }

    #[test]
    fn more_than_the_outbox_takes_waits_its_turn() {
        let outgoing = Outgoing::new();
        outgoing.on_answer(answer(5, 0)).unwrap();
        let limit = Limits::default().messages_max as u64;
        for task in 1..=limit + 2 {
            outgoing.push(report(task));
        }
        assert_eq!(outgoing.take(usize::MAX).len() as u64, limit);
        assert_eq!(outgoing.on_ack(limit).unwrap().len() as u64, limit);
        assert_eq!(numbers(&outgoing.take(usize::MAX)), [limit + 1, limit + 2]);
    }

    #[test]
    fn what_a_node_wants_waits_once() {
        let outgoing = Outgoing::new();
        outgoing.on_answer(answer(5, 0)).unwrap();
        let limit = Limits::default().messages_max as u64;
        (1..=limit).for_each(|task| outgoing.push(report(task)));
        for slots in 1..=1_000 {
            outgoing.push(HostMessage::Ask { node: NODE, slots });
        }
        outgoing.push(HostMessage::Ask { node: NodeKey(2), slots: 7 });
        let waiting: Vec<HostMessage> = outgoing.state.lock().overflow.iter().cloned().collect();
        let expected = [(NODE, 1_000), (NodeKey(2), 7)];
        assert_eq!(waiting, expected.map(|(node, slots)| HostMessage::Ask { node, slots }));
    }
}
