//! The wire between the hosts and the coordinator.
//!
//! Each host has one link, and over it at most a few sessions at a time (an old one whose end was not noticed yet
//! beside its successor). A session is a connection: what one side sends arrives in order, each message after a
//! random delay, or not at all once the connection broke. So messages are reordered between links and never within
//! a session, and the only loss is that of a suffix, when a session ends.
//!
//! ```text
//!   close   other side hears of it behind what was sent before; with a reset the last messages are lost
//!   vanish  nobody says anything; the other side notices after `silence_ms`
//!   cut     messages wait; healed in time they arrive late, else both sides notice the silence and close
//! ```
//!
//! The network makes no events itself: every call says when it wants to be asked again, by [`Arrival`] or [`Notice`].

use super::random::Stream;
use std::collections::{BTreeMap, VecDeque};

/// What is to happen, each with its time in milliseconds.
pub type Due<T> = Vec<(u64, T)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId(pub u32);

/// One connection; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId(pub u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Host,
    Coordinator,
}

impl Side {
    pub fn other(self) -> Side {
        match self {
            Side::Host => Side::Coordinator,
            Side::Coordinator => Side::Host,
        }
    }
}

#[derive(Debug, Clone)]
pub struct NetworkSettings {
    /// Bounds of the one-way delay of a message.
    pub delay_min_ms: u64,
    pub delay_max_ms: u64,
    /// A side that hears nothing for so long takes the connection for broken.
    pub silence_ms: u64,
}

/// Something may have arrived: take it with [`Network::take`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    pub session: SessionId,
    pub to: Side,
}

/// A side may learn that its session is over: ask [`Network::noticed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice {
    pub session: SessionId,
    pub to: Side,
    why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// The other side closed it.
    Closed,
    /// The other side is no more and said nothing.
    Vanished,
    /// This cut of the link lasted too long.
    Cut(u64),
}

#[derive(Debug)]
struct Session<M> {
    link: LinkId,
    /// Whether the host's and the coordinator's end take it for open.
    open: [bool; 2],
    /// On the way to the host's and to the coordinator's end, with the time of arrival.
    on_the_way: [VecDeque<(u64, M)>; 2],
}

impl<M> Session<M> {
    /// The earliest time at which another message may arrive without overtaking.
    fn not_before(&self, to: Side) -> u64 {
        self.on_the_way[to as usize].back().map_or(0, |(due, _)| *due)
    }
}

#[derive(Debug)]
pub struct Network<M> {
    settings: NetworkSettings,
    stream: Stream,
    sessions: BTreeMap<SessionId, Session<M>>,
    next_session: u64,
    /// Links that carry nothing, each with the number of its cut.
    cuts: BTreeMap<LinkId, u64>,
    next_cut: u64,
}

impl<M> Network<M> {
    pub fn new(settings: NetworkSettings, stream: Stream) -> Network<M> {
        let (sessions, cuts) = (BTreeMap::new(), BTreeMap::new());
        Network { settings, stream, sessions, next_session: 1, cuts, next_cut: 1 }
    }

    fn delay(&mut self) -> u64 {
        self.stream.between(self.settings.delay_min_ms, self.settings.delay_max_ms)
    }

    /// When a call for a connection reaches the other side.
    pub fn dial(&mut self, now_ms: u64) -> u64 {
        now_ms + self.delay() + self.delay()
    }

    /// Connects, if the link carries anything.
    pub fn open(&mut self, link: LinkId) -> Option<SessionId> {
        if self.cuts.contains_key(&link) {
            return None;
        }
        let id = SessionId(self.next_session);
        self.next_session += 1;
        let on_the_way = [VecDeque::new(), VecDeque::new()];
        self.sessions.insert(id, Session { link, open: [true; 2], on_the_way });
        Some(id)
    }

    /// Sends; `None` if this side's end is closed and nothing was sent.
    pub fn send(&mut self, now_ms: u64, id: SessionId, from: Side, message: M) -> Option<(u64, Arrival)> {
        let delay = self.delay();
        let to = from.other();
        let session = self.sessions.get_mut(&id).filter(|session| session.open[from as usize])?;
        let due = (now_ms + delay).max(session.not_before(to));
        session.on_the_way[to as usize].push_back((due, message));
        Some((due, Arrival { session: id, to }))
    }

    /// The next message that has arrived at this side, if its end is open and the link is whole.
    pub fn take(&mut self, now_ms: u64, id: SessionId, to: Side) -> Option<M> {
        let session = self.sessions.get_mut(&id)?;
        if self.cuts.contains_key(&session.link) || !session.open[to as usize] {
            return None;
        }
        let way = &mut session.on_the_way[to as usize];
        let due = way.front().is_some_and(|(due, _)| *due <= now_ms);
        if due { way.pop_front().map(|(_, message)| message) } else { None }
    }

    /// The link of a session that at least one side takes for open.
    pub fn link(&self, id: SessionId) -> Option<LinkId> {
        self.sessions.get(&id).map(|session| session.link)
    }

    /// Whether this side takes the session for open.
    pub fn is_open(&self, id: SessionId, side: Side) -> bool {
        self.sessions.get(&id).is_some_and(|session| session.open[side as usize])
    }

    /// One side closes, or its process dies and its system closes for it: `reset` loses messages on the way.
    pub fn close(&mut self, now_ms: u64, id: SessionId, by: Side, reset: bool) -> Option<(u64, Notice)> {
        let delay = self.delay();
        let lost = if reset { self.stream.number() } else { 0 };
        let to = by.other();
        let session = self.end(id, by)?;
        let way = &mut session.on_the_way[to as usize];
        if reset {
            let kept = way.len() - (lost % (way.len() as u64 + 1)) as usize;
            way.truncate(kept);
        }
        let due = (now_ms + delay).max(session.not_before(to));
        Some((due, Notice { session: id, to, why: Why::Closed }))
    }

    /// One side is gone without a word: its power failed.
    pub fn vanish(&mut self, now_ms: u64, id: SessionId, side: Side) -> Option<(u64, Notice)> {
        let silence_ms = self.settings.silence_ms;
        self.end(id, side)?;
        Some((now_ms + silence_ms, Notice { session: id, to: side.other(), why: Why::Vanished }))
    }

    /// Closes one end; the session, if the other end is still open.
    fn end(&mut self, id: SessionId, side: Side) -> Option<&mut Session<M>> {
        let session = self.sessions.get_mut(&id)?;
        session.open[side as usize] = false;
        session.on_the_way[side as usize].clear();
        if session.open == [false; 2] {
            self.sessions.remove(&id);
            return None;
        }
        self.sessions.get_mut(&id)
    }

    /// Whether the side learns from this notice that its session is over; its end is closed then.
    pub fn noticed(&mut self, notice: Notice) -> bool {
        let Some(session) = self.sessions.get(&notice.session) else { return false };
        let cut = self.cuts.get(&session.link).copied();
        let learns = match notice.why {
            Why::Closed => cut.is_none(),
            Why::Vanished => true,
            Why::Cut(number) => cut == Some(number),
        };
        let open = session.open[notice.to as usize];
        if learns && open {
            self.end(notice.session, notice.to);
        }
        learns && open
    }

    pub fn is_cut(&self, link: LinkId) -> bool {
        self.cuts.contains_key(&link)
    }

    /// The link carries nothing from now on.
    pub fn cut(&mut self, now_ms: u64, link: LinkId) -> Vec<(u64, Notice)> {
        if self.cuts.contains_key(&link) {
            return Vec::new();
        }
        let number = self.next_cut;
        self.next_cut += 1;
        self.cuts.insert(link, number);
        let at_ms = now_ms + self.settings.silence_ms;
        let mut notices = Vec::new();
        for (id, session) in self.sessions.iter().filter(|(_, session)| session.link == link) {
            for side in [Side::Host, Side::Coordinator] {
                if session.open[side as usize] {
                    notices.push((at_ms, Notice { session: *id, to: side, why: Why::Cut(number) }));
                }
            }
        }
        notices
    }

    /// The link carries again: what waited arrives after a fresh delay, and whose other side closed meanwhile learns
    /// it.
    pub fn heal(&mut self, now_ms: u64, link: LinkId) -> (Due<Arrival>, Due<Notice>) {
        let (mut arrivals, mut notices) = (Vec::new(), Vec::new());
        if self.cuts.remove(&link).is_none() {
            return (arrivals, notices);
        }
        for (id, session) in self.sessions.iter_mut().filter(|(_, session)| session.link == link) {
            for side in [Side::Host, Side::Coordinator] {
                let mut due_before = now_ms;
                for (due, _) in &mut session.on_the_way[side as usize] {
                    let delay = self.stream.between(self.settings.delay_min_ms, self.settings.delay_max_ms);
                    *due = (now_ms + delay).max(*due).max(due_before);
                    due_before = *due;
                    arrivals.push((*due, Arrival { session: *id, to: side }));
                }
                if session.open[side as usize] && !session.open[side.other() as usize] {
                    let at_ms = due_before + self.settings.delay_max_ms;
                    notices.push((at_ms, Notice { session: *id, to: side, why: Why::Closed }));
                }
            }
        }
        (arrivals, notices)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Queue, Random};
    use super::*;

    const LINK: LinkId = LinkId(4);

    #[derive(Debug)]
    enum Event {
        Arrival(Arrival),
        Notice(Notice),
        Heal,
    }

    struct Rig {
        network: Network<u32>,
        queue: Queue<Event>,
        /// (time, side, message); `None` = noticed the end.
        seen: Vec<(u64, Side, Option<u32>)>,
    }

    impl Rig {
        fn new(seed: u64) -> Rig {
            let settings = NetworkSettings { delay_min_ms: 1, delay_max_ms: 50, silence_ms: 3_000 };
            let network = Network::new(settings, Random::new(seed).stream("network", &[]));
            Rig { network, queue: Queue::default(), seen: Vec::new() }
        }

        fn send(&mut self, id: SessionId, from: Side, numbers: std::ops::Range<u32>) {
            for number in numbers {
                let sent = self.network.send(self.queue.now_ms(), id, from, number);
                let (due, arrival) = sent.expect("the end is open");
                self.queue.at(due, Event::Arrival(arrival));
            }
        }

        fn notices(&mut self, notices: impl IntoIterator<Item = (u64, Notice)>) {
            for (at_ms, notice) in notices {
                self.queue.at(at_ms, Event::Notice(notice));
            }
        }

        fn run(&mut self) {
            while let Some((now_ms, event)) = self.queue.pop() {
                match event {
                    Event::Arrival(Arrival { session, to }) => {
                        while let Some(message) = self.network.take(now_ms, session, to) {
                            self.seen.push((now_ms, to, Some(message)));
                        }
                    }
                    Event::Notice(notice) => {
                        if self.network.noticed(notice) {
                            self.seen.push((now_ms, notice.to, None));
                        }
                    }
                    Event::Heal => {
                        let (arrivals, notices) = self.network.heal(now_ms, LINK);
                        for (at_ms, arrival) in arrivals {
                            self.queue.at(at_ms, Event::Arrival(arrival));
                        }
                        self.notices(notices);
                    }
                }
            }
        }

        fn messages(&self, at: Side) -> Vec<u32> {
            self.seen
                .iter()
                .filter(|(_, side, _)| *side == at)
                .filter_map(|(_, _, message)| *message)
                .collect()
        }
    }

    #[test]
    fn a_session_keeps_its_order_and_links_do_not() {
        let mut overtakes = 0;
        for seed in 0..20 {
            let mut rig = Rig::new(seed);
            let first = rig.network.open(LINK).unwrap();
            let second = rig.network.open(LinkId(5)).unwrap();
            rig.send(first, Side::Host, 0..50);
            rig.send(second, Side::Host, 100..101);
            rig.run();
            let seen = rig.messages(Side::Coordinator);
            let of_first: Vec<u32> = seen.iter().copied().filter(|n| *n < 100).collect();
            assert_eq!(of_first, (0..50).collect::<Vec<_>>());
            overtakes += usize::from(seen.last() != Some(&100));
        }
        assert!(overtakes > 0);
    }

    #[test]
    fn closing_lets_everything_arrive_and_a_reset_loses_a_suffix() {
        let mut lost = 0;
        for seed in 0..20 {
            for reset in [false, true] {
                let mut rig = Rig::new(seed);
                let id = rig.network.open(LINK).unwrap();
                rig.send(id, Side::Host, 0..10);
                rig.send(id, Side::Coordinator, 0..3);
                let notice = rig.network.close(0, id, Side::Host, reset);
                rig.notices(notice);
                assert!(rig.network.send(0, id, Side::Host, 99).is_none());
                rig.run();
                let seen = rig.messages(Side::Coordinator);
                assert_eq!(seen, (0..seen.len() as u32).collect::<Vec<_>>());
                assert!(reset || seen.len() == 10);
                lost += 10 - seen.len();
                assert!(rig.messages(Side::Host).is_empty());
                assert!(
                    matches!(rig.seen.last(), Some((_, Side::Coordinator, None))),
                    "it hears of the end last"
                );
            }
        }
        assert!(lost > 0);
    }

    #[test]
    fn a_short_cut_only_delays_and_a_long_one_breaks_both_ends() {
        for (heal_at_ms, breaks) in [(2_000, false), (9_000, true)] {
            let mut rig = Rig::new(1);
            let id = rig.network.open(LINK).unwrap();
            rig.send(id, Side::Host, 0..10);
            let notices = rig.network.cut(0, LINK);
            rig.notices(notices);
            assert_eq!((rig.network.open(LINK), rig.network.is_cut(LINK)), (None, true));
            rig.queue.at(heal_at_ms, Event::Heal);
            rig.run();
            if breaks {
                let ends = [(3_000, Side::Host, None), (3_000, Side::Coordinator, None)];
                assert_eq!(rig.seen, ends);
                assert!(rig.network.sessions.is_empty());
            } else {
                assert_eq!(rig.messages(Side::Coordinator), (0..10).collect::<Vec<_>>());
                assert!(rig.seen.iter().all(|(at_ms, _, message)| *at_ms > heal_at_ms && message.is_some()));
                assert!(rig.network.is_open(id, Side::Host));
            }
        }
    }

    #[test]
    fn an_end_closed_during_a_cut_is_told_after_it() {
        let mut rig = Rig::new(3);
        let id = rig.network.open(LINK).unwrap();
        let notices = rig.network.cut(0, LINK);
        rig.notices(notices);
        let notice = rig.network.close(10, id, Side::Coordinator, false);
        rig.notices(notice);
        rig.queue.at(1_000, Event::Heal);
        rig.run();
        assert!(
            matches!(rig.seen[..], [(at_ms, Side::Host, None)] if (1_000..1_200).contains(&at_ms)),
            "{:?}",
            rig.seen
        );
    }

    #[test]
    fn who_vanishes_is_missed_after_the_silence() {
        let mut rig = Rig::new(2);
        let id = rig.network.open(LINK).unwrap();
        rig.send(id, Side::Coordinator, 0..5);
        let notice = rig.network.vanish(0, id, Side::Host);
        rig.notices(notice);
        rig.run();
        assert_eq!(rig.seen, [(3_000, Side::Coordinator, None)]);
    }
}
