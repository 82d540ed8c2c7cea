//! Both halves over a link that breaks.

use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;

const LIMITS: Limits = Limits { messages_max: 8, bytes_max: 100 };

fn unacked(outbox: &Outbox<u32>) -> Vec<(u64, u32)> {
    outbox.unacked().map(|(number, message)| (number, *message)).collect()
}

#[test]
fn an_outbox_numbers_from_one_and_forgets_what_is_acknowledged() {
    let mut outbox = Outbox::new(LIMITS);
    assert_eq!([70, 71, 72].map(|message| outbox.push(message, 1).unwrap()), [1, 2, 3]);
    outbox.ack(2).unwrap();
    assert_eq!(unacked(&outbox), [(3, 72)]);
    outbox.ack(1).unwrap();
    assert_eq!(outbox.acknowledged(), 2, "old news");
    assert_eq!(outbox.ack(4), Err(Error::AckOfUnsent { up_to: 4, pushed: 3 }));
    assert_eq!(outbox.push(73, 1), Ok(4));
    assert_eq!(
        [0, 2, 3, 4, 5].map(|number| outbox.get(number).copied()),
        [None, None, Some(72), Some(73), None]
    );
    outbox.ack(4).unwrap();
    assert!(outbox.is_empty());
}

#[test]
fn an_outbox_is_bounded_by_count_and_by_size() {
    let mut outbox = Outbox::new(LIMITS);
    for message in 0..8 {
        outbox.push(message, 1).unwrap();
    }
    assert_eq!(outbox.push(8, 1), Err(Full { message: 8, messages: 8, bytes: 8 }));
    outbox.ack(1).unwrap();
    assert_eq!(outbox.push(8, 93), Ok(9));
    outbox.ack(2).unwrap();
    assert_eq!(outbox.push(9, 2), Err(Full { message: 9, messages: 7, bytes: 99 }));
    outbox.ack(9).unwrap();
    assert_eq!(outbox.push(9, u64::MAX), Ok(10), "an empty outbox takes anything");
    assert!(outbox.push(10, 0).is_err());
    outbox.ack(10).unwrap();
    assert_eq!(outbox.push(10, 100), Ok(11));
}

#[test]
fn an_inbox_tells_new_from_known_and_refuses_gaps() {
    let mut inbox = Inbox::new(LIMITS);
    assert_eq!(inbox.accept(2), Err(Error::Gap { number: 2, expected: 1 }));
    assert_eq!(inbox.accept(0), Err(Error::Gap { number: 0, expected: 1 }));
    assert_eq!(inbox.accept(1), Ok(Accept::New));
    assert_eq!(inbox.accept(1), Ok(Accept::Duplicate));
    assert_eq!(inbox.accept(2), Ok(Accept::New));
    assert_eq!((inbox.received_level(), inbox.durable_level()), (2, 0));
}

#[test]
fn durability_in_any_order_acknowledges_what_is_contiguous() {
    let mut inbox = Inbox::new(LIMITS);
    for number in 1..=5 {
        inbox.accept(number).unwrap();
    }
    let cases = [(3, None), (2, None), (2, None), (1, Some(3)), (1, None), (5, None), (4, Some(5))];
    for (number, level) in cases {
        assert_eq!(inbox.durable(number), Ok(level), "{number}");
    }
    assert_eq!(inbox.durable(6), Err(Error::DurableBeforeReceived { number: 6, received: 5 }));
}

#[test]
fn a_peer_that_ignores_acknowledgements_is_stopped() {
    let mut inbox = Inbox::new(LIMITS);
    for number in 1..=8 {
        inbox.accept(number).unwrap();
    }
    assert_eq!(inbox.accept(9), Err(Error::Overrun { number: 9, held: 8, held_max: 8 }));
    inbox.durable(2).unwrap();
    assert!(inbox.accept(9).is_err(), "a hole acknowledges nothing");
    inbox.durable(1).unwrap();
    assert_eq!(inbox.accept(9), Ok(Accept::New));
}

/// Both sides agree on a session over a stream that lives long enough.
fn shake_hands(
    host: &mut Session<u32>,
    leader: &mut Session<u32>,
    fresh: u64,
) -> (Resumed<u32>, Resumed<u32>) {
    let (answer, at_leader) = leader.on_offer(host.offer(), SessionId(fresh)).unwrap();
    let at_host = host.on_answer(answer).unwrap();
    assert!(host.id().is_some() && host.id() == leader.id());
    (at_host, at_leader)
}

fn restarted(messages: &[u32]) -> Resumed<u32> {
    Resumed::Restarted { unacknowledged: messages.to_vec() }
}

#[test]
fn a_reconnect_goes_on_and_makes_up_for_lost_acknowledgements() {
    let (mut host, mut leader) = (Session::new(LIMITS), Session::new(LIMITS));
    assert_eq!(shake_hands(&mut host, &mut leader, 1), (restarted(&[]), restarted(&[])));
    for message in [10, 11, 12] {
        let number = host.outbox.push(message, 1).unwrap();
        leader.inbox.accept(number).unwrap();
    }
    leader.inbox.durable(1).unwrap();
    leader.inbox.durable(2).unwrap();
    // The acknowledgement is lost with the stream.
    assert_eq!(shake_hands(&mut host, &mut leader, 2), (Resumed::Continued, Resumed::Continued));
    assert_eq!(host.id(), Some(SessionId(1)));
    assert_eq!(unacked(&host.outbox), [(3, 12)]);
    assert_eq!(leader.inbox.accept(3), Ok(Accept::Duplicate));
}

#[test]
fn a_side_that_restarted_begins_with_one_again() {
    let (mut host, mut leader) = (Session::new(LIMITS), Session::new(LIMITS));
    shake_hands(&mut host, &mut leader, 1);
    for message in [10, 11, 12] {
        let number = host.outbox.push(message, 1).unwrap();
        leader.inbox.accept(number).unwrap();
    }
    leader.inbox.durable(1).unwrap();
    host.outbox.ack(1).unwrap();
    leader.outbox.push(20, 1).unwrap();
    host.inbox.accept(1).unwrap();

    // Another coordinator leads.
    let mut successor = Session::new(LIMITS);
    assert_eq!(shake_hands(&mut host, &mut successor, 2), (restarted(&[11, 12]), restarted(&[])));
    assert_eq!(host.outbox.push(11, 1), Ok(1));
    assert_eq!(successor.inbox.accept(1), Ok(Accept::New));
    successor.outbox.push(20, 1).unwrap();
    assert_eq!(host.inbox.accept(1), Ok(Accept::New));

    // The host's process is another.
    let mut host = Session::new(LIMITS);
    assert_eq!(shake_hands(&mut host, &mut successor, 3), (restarted(&[]), restarted(&[20])));
    assert_eq!(host.outbox.push(30, 1), Ok(1));
    assert_eq!(successor.inbox.accept(1), Ok(Accept::New));

    // The old leader comes back to power with its old half: nothing of it is used.
    assert_eq!(shake_hands(&mut host, &mut leader, 4), (restarted(&[30]), restarted(&[20])));
    assert_eq!(leader.inbox.accept(1), Ok(Accept::New));
}

#[test]
fn a_handshake_that_breaks_off_never_joins_what_does_not_belong_together() {
    let (mut host, mut leader) = (Session::new(LIMITS), Session::new(LIMITS));
    shake_hands(&mut host, &mut leader, 1);
    let number = host.outbox.push(10, 1).unwrap();
    leader.inbox.accept(number).unwrap();
    // A second process with the host's identity takes the session over, then the first one is back; the answer to
    // it is lost, so it still holds session 1 while the leader's numbers began again.
    let mut intruder: Session<u32> = Session::new(LIMITS);
    shake_hands(&mut intruder, &mut leader, 2);
    leader.on_offer(host.offer(), SessionId(3)).unwrap();
    assert_eq!(shake_hands(&mut host, &mut leader, 4), (restarted(&[10]), restarted(&[])));
    assert_eq!(host.id(), Some(SessionId(4)));
}

#[test]
fn lies_in_a_handshake_end_the_session() {
    let (mut host, mut leader) = (Session::new(LIMITS), Session::new(LIMITS));
    shake_hands(&mut host, &mut leader, 1);
    leader.outbox.push(20, 1).unwrap();
    let lie = Resume { session: Some(SessionId(1)), durable: 2 };
    assert_eq!(leader.on_offer(lie, SessionId(2)), Err(Error::AckOfUnsent { up_to: 2, pushed: 1 }));
    assert_eq!(shake_hands(&mut host, &mut leader, 3), (restarted(&[]), restarted(&[20])));
    assert_eq!(host.on_answer(Resume { session: None, durable: 0 }), Err(Error::NoSession));
    assert_eq!(host.offer().session, None);
}

/// What travels on a stream.
#[derive(Debug, Clone, Copy)]
enum Wire {
    Offer(Resume),
    Answer(Resume),
    Message(u64, u32),
    Ack(u64),
}

/// One side with its user: what it said, what it heard, what it still has to make durable.
#[derive(Debug)]
struct Side {
    session: Session<u32>,
    /// May speak on the current stream.
    ready: bool,
    said: u32,
    heard: Vec<u32>,
    undurable: Vec<(u64, u32)>,
    made_durable: Vec<u32>,
    restarts: u32,
}

impl Side {
    fn new() -> Self {
        Self {
            session: Session::new(LIMITS),
            ready: false,
            said: 0,
            heard: Vec::new(),
            undurable: Vec::new(),
            made_durable: Vec::new(),
            restarts: 0,
        }
    }

    fn say(&mut self, out: &mut VecDeque<Wire>) {
        // Before the first handshake there is no session to number for.
        if self.session.id().is_none() {
            return;
        }
        if let Ok(number) = self.session.outbox.push(self.said, 1) {
            if self.ready {
                out.push_back(Wire::Message(number, self.said));
            }
            self.said += 1;
        }
    }

    fn settle(&mut self, which: usize, out: &mut VecDeque<Wire>) {
        if self.undurable.is_empty() {
            return;
        }
        let (number, message) = self.undurable.swap_remove(which % self.undurable.len());
        self.made_durable.push(message);
        let level = self.session.inbox.durable(number).unwrap();
        out.extend(level.filter(|_| self.ready).map(Wire::Ack));
    }

    fn on_resumed(&mut self, resumed: Resumed<u32>, out: &mut VecDeque<Wire>) {
        self.ready = true;
        match resumed {
            Resumed::Continued => {
                out.push_back(Wire::Ack(self.session.inbox.durable_level()));
                out.extend(self.session.outbox.unacked().map(|(number, m)| Wire::Message(number, *m)));
            }
            Resumed::Restarted { unacknowledged } => {
                self.restarts += 1;
                // What was still to be settled belonged to the old session's numbers.
                self.undurable.clear();
                for message in unacknowledged {
                    let number = self.session.outbox.push(message, 1).unwrap();
                    out.push_back(Wire::Message(number, message));
                }
            }
        }
    }

    fn on_wire(&mut self, wire: Wire, fresh: SessionId, out: &mut VecDeque<Wire>) {
        match wire {
            Wire::Offer(offer) => {
                let (answer, resumed) = self.session.on_offer(offer, fresh).unwrap();
                out.push_back(Wire::Answer(answer));
                self.on_resumed(resumed, out);
            }
            Wire::Answer(answer) => {
                let resumed = self.session.on_answer(answer).unwrap();
                self.on_resumed(resumed, out);
            }
            Wire::Message(number, message) => {
                if self.session.inbox.accept(number).unwrap() == Accept::New {
                    self.heard.push(message);
                    self.undurable.push((number, message));
                }
            }
            Wire::Ack(up_to) => self.session.outbox.ack(up_to).unwrap(),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    HostSays,
    LeaderSays,
    /// The next thing on the way to the host or to the leader arrives.
    ToHost,
    ToLeader,
    HostSettles(usize),
    LeaderSettles(usize),
    /// The stream breaks, with everything on the way, and a new one is opened.
    Break,
    /// Another coordinator leads: the leader's half is gone, what it made durable is not.
    LeaderChanges,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::HostSays),
        4 => Just(Step::LeaderSays),
        10 => Just(Step::ToHost),
        10 => Just(Step::ToLeader),
        4 => any::<usize>().prop_map(Step::HostSettles),
        4 => any::<usize>().prop_map(Step::LeaderSettles),
        1 => Just(Step::Break),
    ]
}

struct World {
    host: Side,
    leader: Side,
    to_host: VecDeque<Wire>,
    to_leader: VecDeque<Wire>,
    fresh: u64,
    /// By leaders that are gone.
    durable_before: Vec<u32>,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            host: Side::new(),
            leader: Side::new(),
            to_host: VecDeque::new(),
            to_leader: VecDeque::new(),
            fresh: 0,
            durable_before: Vec::new(),
        };
        world.step(Step::Break);
        world
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::HostSays => self.host.say(&mut self.to_leader),
            Step::LeaderSays => self.leader.say(&mut self.to_host),
            Step::ToHost => {
                if let Some(wire) = self.to_host.pop_front() {
                    self.host.on_wire(wire, SessionId(0), &mut self.to_leader);
                }
            }
            Step::ToLeader => {
                if let Some(wire) = self.to_leader.pop_front() {
                    self.fresh += 1;
                    self.leader.on_wire(wire, SessionId(self.fresh), &mut self.to_host);
                }
            }
            Step::HostSettles(which) => self.host.settle(which, &mut self.to_leader),
            Step::LeaderSettles(which) => self.leader.settle(which, &mut self.to_host),
            Step::LeaderChanges => {
                self.durable_before.append(&mut self.leader.made_durable);
                self.leader = Side::new();
                self.step(Step::Break);
            }
            Step::Break => {
                self.to_host.clear();
                self.to_leader.clear();
                (self.host.ready, self.leader.ready) = (false, false);
                self.to_leader.push_back(Wire::Offer(self.host.session.offer()));
            }
        }
    }

    /// The link stays up and everybody does their work.
    fn come_to_rest(&mut self) {
        for _ in 0..100 {
            for step in [Step::ToHost, Step::ToLeader, Step::HostSettles(0), Step::LeaderSettles(0)] {
                self.step(step);
            }
        }
    }
}

/// The leader's half may start a session whose answer is lost; until both are in one, nothing is said by the host,
/// and what the leader said is handed back. So the leader begins to speak only after the first handshake.
fn after_first_handshake() -> World {
    let mut world = World::new();
    world.step(Step::ToLeader);
    world.step(Step::ToHost);
    assert!(world.host.ready && world.leader.ready);
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn every_message_arrives_once_and_in_order(steps in prop::collection::vec(step(), 0..400)) {
        let mut world = after_first_handshake();
        for step in steps {
            world.step(step);
        }
        world.step(Step::Break);
        world.come_to_rest();
        let World { host, leader, .. } = world;
        prop_assert_eq!(&leader.heard, &(0..host.said).collect::<Vec<_>>());
        prop_assert_eq!(&host.heard, &(0..leader.said).collect::<Vec<_>>());
        prop_assert!(host.session.outbox.is_empty() && leader.session.outbox.is_empty());
        prop_assert_eq!((host.restarts, leader.restarts), (1, 1), "breaks alone never end a session");
    }

    /// Every host message has its effect, whatever leaders come and go; and under one leader it has it once.
    #[test]
    fn changes_of_leader_lose_nothing_of_the_hosts(
        steps in prop::collection::vec(
            prop_oneof![30 => step(), 1 => Just(Step::LeaderChanges)],
            0..400,
        ),
    ) {
        let mut world = after_first_handshake();
        for step in steps {
            // A leader speaks only to a host that has presented itself.
            if !matches!(step, Step::LeaderSays) {
                world.step(step);
            }
        }
        world.step(Step::Break);
        world.come_to_rest();
        let World { host, leader, mut durable_before, .. } = world;
        prop_assert!(leader.heard.is_sorted_by(|a, b| a < b), "once and in order: {:?}", leader.heard);
        durable_before.extend(leader.made_durable);
        let mut effects = durable_before.clone();
        effects.sort_unstable();
        effects.dedup();
        prop_assert_eq!(effects, (0..host.said).collect::<Vec<_>>());
        prop_assert!(host.session.outbox.is_empty());
    }
}
