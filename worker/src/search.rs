//! Which coordinator to try next. Pure: told what happened, it says whom to try and how long to wait before.
//!
//! * Who is said to lead is tried at once; so is a coordinator that was not tried since the last session ended.
//! * Otherwise the coordinators are tried in turn, with pauses that double from [`PAUSE_FIRST_MS`]. While coordinators
//!   answer and only a leader is missing, the pause stays below [`ELECTION_PAUSE_MAX_MS`]: an election takes a second,
//!   and the host is to be there when it ends.
//! * Whoever let a session fall silent is tried last. A coordinator that hangs in the handshake gives way to the next
//!   one, and as it may only be slow, there is twice as much patience then.
//! * A rumour is followed only so often in a row, so two coordinators that name each other cost no more than pauses.

use lote_shared::network::PeerId;
use std::collections::VecDeque;

pub const PAUSE_FIRST_MS: u64 = 20;
const PAUSE_MAX_MS: u64 = 1_000;
const ELECTION_PAUSE_MAX_MS: u64 = 150;
/// For each part of the handshake, where somebody else can be asked; and in the end, or where nobody can.
const PATIENCE_FIRST_MS: u64 = 2_000;
const PATIENCE_MAX_MS: u64 = 10_000;
/// Directions followed without a pause.
const HOPS_MAX: u32 = 3;

/// The next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Try {
    pub peer: PeerId,
    /// To wait before it, ± 50 %.
    pub pause_ms: u64,
    /// For each part of the handshake.
    pub patience_ms: u64,
}

#[derive(Debug, Default)]
pub struct Search {
    /// In the order they are to be tried; each once.
    turn: VecDeque<PeerId>,
    /// Tried first, without a pause.
    hint: Option<PeerId>,
    /// How many of `turn` are still to be tried without a pause.
    fresh: usize,
    hops: u32,
    pause_ms: u64,
    /// Handshakes since the last session that took too long.
    slow: u32,
    /// Whose silence is known: a rumour that it leads is old.
    unreachable: Option<PeerId>,
}

impl Search {
    /// Those that can be tried; who is new among them comes last, who is no longer there is forgotten.
    pub fn set_coordinators(&mut self, peers: &[PeerId]) {
        self.turn.retain(|peer| peers.contains(peer));
        for peer in peers {
            if !self.turn.contains(peer) {
                self.turn.push_back(*peer);
            }
        }
        self.hint = self.hint.filter(|peer| peers.contains(peer));
    }

    /// A session began there.
    pub fn welcomed(&mut self, peer: PeerId) {
        *self = Search { turn: std::mem::take(&mut self.turn), ..Search::default() };
        self.move_front(peer);
    }

    /// The session that had begun ended: whoever led may lead on, and so may anybody else.
    pub fn session_ended(&mut self) {
        self.fresh = self.turn.len();
    }

    /// The session that ended had not been renewed: whoever led is cut off, or stands still.
    pub fn fell_silent(&mut self, peer: PeerId) {
        self.unreachable = Some(peer);
        self.move_back(peer);
    }

    /// The handshake there took too long.
    pub fn slow(&mut self, peer: PeerId) {
        self.slow += 1;
        self.failed(peer);
    }

    /// Nobody answered there, or not as it should.
    pub fn failed(&mut self, peer: PeerId) {
        self.unreachable = Some(peer);
        self.tried(peer, PAUSE_MAX_MS);
    }

    /// A coordinator answered that it does not lead, and who does as far as it knows.
    pub fn redirected(&mut self, peer: PeerId, leader: Option<PeerId>) {
        let rumour = leader.filter(|leader| *leader != peer && Some(*leader) != self.unreachable);
        match rumour.filter(|leader| self.turn.contains(leader) && self.hops < HOPS_MAX) {
            Some(leader) => {
                self.hops += 1;
                self.hint = Some(leader);
                self.move_back(peer);
            }
            None => {
                // Whoever could not be reached may be back by the next round.
                self.unreachable = None;
                self.tried(peer, ELECTION_PAUSE_MAX_MS);
            }
        }
    }

    fn tried(&mut self, peer: PeerId, pause_max_ms: u64) {
        self.hops = 0;
        if self.fresh > 0 {
            self.fresh -= 1;
        }
        if self.fresh == 0 {
            self.pause_ms = (self.pause_ms * 2).clamp(PAUSE_FIRST_MS, pause_max_ms);
        }
        self.move_back(peer);
    }

    fn move_back(&mut self, peer: PeerId) {
        if let Some(at) = self.turn.iter().position(|other| *other == peer) {
            self.turn.remove(at);
            self.turn.push_back(peer);
        }
    }

    fn move_front(&mut self, peer: PeerId) {
        if let Some(at) = self.turn.iter().position(|other| *other == peer) {
            self.turn.remove(at);
            self.turn.push_front(peer);
        }
    }

    /// Whom to try now; `None` if nobody is known.
    pub fn next(&mut self) -> Option<Try> {
        let is_only_one = self.turn.len() < 2;
        let patience_ms = if is_only_one { PATIENCE_MAX_MS } else { PATIENCE_FIRST_MS << self.slow.min(8) };
        let patience_ms = patience_ms.min(PATIENCE_MAX_MS);
        if let Some(peer) = self.hint.take() {
            return Some(Try { peer, pause_ms: 0, patience_ms });
        }
        let peer = *self.turn.front()?;
        let pause_ms = if self.fresh > 0 { 0 } else { self.pause_ms };
        Some(Try { peer, pause_ms, patience_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(count: usize) -> (Search, Vec<PeerId>) {
        let peers: Vec<PeerId> = (0..count).map(|_| PeerId::random()).collect();
        let mut search = Search::default();
        search.set_coordinators(&peers);
        (search, peers)
    }

    fn tried(search: &mut Search) -> (PeerId, u64) {
        let next = search.next().unwrap();
        (next.peer, next.pause_ms)
    }

    #[test]
    fn directions_are_followed_at_once() {
        let (mut search, p) = search(3);
        assert_eq!(tried(&mut search), (p[0], 0));
        search.redirected(p[0], Some(p[2]));
        assert_eq!(tried(&mut search), (p[2], 0));
        search.welcomed(p[2]);
        search.session_ended();
        assert_eq!(tried(&mut search), (p[2], 0), "most often it was only the stream");
    }

    #[test]
    fn after_a_leader_is_lost_everybody_is_asked_once_without_a_pause() {
        let (mut search, p) = search(3);
        search.welcomed(p[1]);
        search.session_ended();
        assert_eq!(tried(&mut search), (p[1], 0));
        search.failed(p[1]);
        let (second, pause_ms) = tried(&mut search);
        assert_eq!(pause_ms, 0);
        // It still believes in the old leader, which is known to be gone.
        search.redirected(second, Some(p[1]));
        let (third, pause_ms) = tried(&mut search);
        assert!(third != second && third != p[1] && pause_ms == 0);
        search.redirected(third, None);
        // From here on with pauses, and they stay short while somebody answers.
        let pauses: Vec<u64> = (0..6)
            .map(|_| {
                let (peer, pause_ms) = tried(&mut search);
                if peer == p[1] {
                    search.failed(peer)
                } else {
                    search.redirected(peer, None)
                }
                pause_ms
            })
            .collect();
        assert_eq!(pauses, [20, 40, 80, 150, 300, 150]);
    }

    #[test]
    fn whoever_fell_silent_is_tried_last() {
        let (mut search, p) = search(3);
        search.welcomed(p[1]);
        search.session_ended();
        search.fell_silent(p[1]);
        let (first, pause_ms) = tried(&mut search);
        assert!(first != p[1] && pause_ms == 0);
        search.redirected(first, Some(p[1]));
        let (second, pause_ms) = tried(&mut search);
        assert!(![p[1], first].contains(&second) && pause_ms == 0, "the rumour is old");
        search.failed(second);
        assert_eq!(tried(&mut search).0, p[1]);
    }

    #[test]
    fn a_handshake_gets_more_patience_each_time_it_takes_too_long() {
        let (mut search, p) = search(2);
        let patience = |search: &mut Search| search.next().unwrap().patience_ms;
        let mut waits = Vec::new();
        for _ in 0..40 {
            waits.push(patience(&mut search));
            let slow = search.turn[0];
            search.slow(slow);
        }
        assert_eq!(waits[..5], [2_000, 4_000, 8_000, 10_000, 10_000]);
        assert_eq!(waits[39], 10_000);
        search.failed(p[0]);
        search.welcomed(p[1]);
        assert_eq!(patience(&mut search), 2_000);
        search.set_coordinators(&p[..1]);
        assert_eq!(patience(&mut search), 10_000, "there is nobody else");
    }

    #[test]
    fn pauses_grow_to_a_second_where_nobody_answers() {
        let (mut search, p) = search(1);
        let pauses: Vec<u64> = (0..8)
            .map(|_| {
                let (_, pause_ms) = tried(&mut search);
                search.failed(p[0]);
                pause_ms
            })
            .collect();
        assert_eq!(pauses, [0, 20, 40, 80, 160, 320, 640, 1_000]);
    }

    #[test]
    fn two_that_name_each_other_cost_pauses() {
        let (mut search, p) = search(2);
        let mut waits = 0;
        for _ in 0..40 {
            let (peer, pause_ms) = tried(&mut search);
            waits += u32::from(pause_ms > 0);
            let other = if peer == p[0] { p[1] } else { p[0] };
            search.redirected(peer, Some(other));
        }
        assert!(waits >= 8, "{waits}");
    }

    #[test]
    fn the_list_changes_under_way() {
        let (mut search, p) = search(2);
        search.redirected(p[0], Some(p[1]));
        let new = PeerId::random();
        search.set_coordinators(&[p[0], new]);
        assert_eq!(tried(&mut search).0, p[0], "the hint is no coordinator any more");
        search.failed(p[0]);
        assert_eq!(tried(&mut search).0, new);
        search.set_coordinators(&[]);
        assert_eq!(search.next(), None);
    }
}
