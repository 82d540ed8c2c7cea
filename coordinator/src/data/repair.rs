//! Who makes a copy of a chunk that has too few: the decisions of repair. Pure; [`super::upkeep`] asks and pulls.
//!
//! Nobody records which coordinator holds what. Every coordinator goes through the chunks that are referred to, asks the
//! others which of them they hold, and comes by this rule to the same answer as they do: of those that can be asked, the
//! ones that the chunk's name prefers and that lack it make the missing copies. If they did not quite agree, there would be
//! a copy too many, which does no harm.

use lote_shared::chunks::ChunkId;
use std::collections::BTreeMap;

/// What one coordinator said of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holding {
    Holds,
    Lacks,
    /// It did not answer, and not for so long yet that it would count as gone: it is taken to hold what it should.
    Silent,
}

/// What is to be done about a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Enough,
    /// These, by their places in the question, make a copy each.
    Copy(Vec<usize>),
    /// Nobody who answered has it.
    Lost,
}

/// How many coordinators are to hold every chunk.
pub fn copies(coordinators: usize) -> usize {
    coordinators.min(2)
}

/// How much a chunk prefers this coordinator; highest first (rendezvous hashing).
fn preference(id: ChunkId, peer: &[u8]) -> u64 {
    let hash = blake3::Hasher::new().update(&id.0).update(peer).finalize();
    hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// Judges one chunk by what each coordinator, this one included, said of it. `peers` and `said` are of one length and
/// without those that count as gone.
pub fn judge(id: ChunkId, peers: &[&[u8]], said: &[Holding]) -> Verdict {
    let count = |what: Holding| said.iter().filter(|holding| **holding == what).count();
    let (holding, silent) = (count(Holding::Holds), count(Holding::Silent));
    if holding == 0 {
        // The silent ones may have it; that is seen when they answer or are gone.
        return if silent == 0 { Verdict::Lost } else { Verdict::Enough };
    }
    let missing = copies(peers.len()).saturating_sub(holding + silent);
    if missing == 0 {
        return Verdict::Enough;
    }
    let mut lacking: Vec<usize> =
        (0..peers.len()).filter(|at| said.get(*at) == Some(&Holding::Lacks)).collect();
    lacking.sort_by_key(|at| std::cmp::Reverse((preference(id, peers[*at]), *at)));
    lacking.truncate(missing);
    Verdict::Copy(lacking)
}

/// Since when coordinators have been silent, by the monotonic clock in ms: one that is for long counts as gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silence<P> {
    since: BTreeMap<P, u64>,
}

impl<P> Default for Silence<P> {
    fn default() -> Silence<P> {
        Silence { since: BTreeMap::new() }
    }
}

impl<P: Ord + Copy> Silence<P> {
    /// Forgets those that are no longer asked.
    pub fn keep(&mut self, asked: &[P]) {
        self.since.retain(|peer, _| asked.contains(peer));
    }

    pub fn answered(&mut self, peer: P) {
        self.since.remove(&peer);
    }

    /// It did not answer. Whether it counts as gone, since it has not for at least `max_ms`.
    pub fn is_gone(&mut self, peer: P, now_ms: u64, max_ms: u64) -> bool {
        let since = *self.since.entry(peer).or_insert(now_ms);
        now_ms.saturating_sub(since) >= max_ms
    }
}

#[cfg(test)]
mod tests {
    use super::Holding::{Holds, Lacks, Silent};
    use super::*;

    fn id(n: u32) -> ChunkId {
        ChunkId(*blake3::hash(&n.to_le_bytes()).as_bytes())
    }

    #[test]
    fn whoever_is_silent_for_long_counts_as_gone_until_it_answers() {
        let mut silence = Silence::default();
        assert!(!silence.is_gone("a", 1_000, 600));
        assert!(!silence.is_gone("a", 1_599, 600));
        assert!(silence.is_gone("a", 1_600, 600));
        assert!(!silence.is_gone("b", 1_600, 600), "each has its own");
        silence.answered("a");
        assert!(!silence.is_gone("a", 9_000, 600));
        silence.keep(&["b"]);
        assert!(!silence.is_gone("a", 9_999, 600), "a newcomer begins anew");
    }

    #[test]
    fn enough_copies_are_left_alone_and_missing_ones_made_by_one() {
        let peers: [&[u8]; 3] = [b"a", b"b", b"c"];
        for (said, expected) in [
            ([Holds, Holds, Lacks], Some(0)),
            ([Holds, Lacks, Lacks], Some(1)),
            ([Holds, Silent, Lacks], Some(0)),
            ([Lacks, Silent, Lacks], Some(0)),
            ([Holds, Holds, Holds], Some(0)),
            ([Lacks, Lacks, Lacks], None),
        ] {
            let copies = match judge(id(1), &peers, &said) {
                Verdict::Enough => Some(0),
                Verdict::Copy(who) => {
                    assert!(who.iter().all(|at| said[*at] == Lacks));
                    Some(who.len())
                }
                Verdict::Lost => None,
            };
            assert_eq!(copies, expected, "{said:?}");
        }
        assert_eq!(judge(id(1), &[b"a"], &[Holds]), Verdict::Enough);
        assert_eq!(judge(id(1), &[b"a"], &[Lacks]), Verdict::Lost);
    }

    #[test]
    fn the_copies_of_many_chunks_spread_over_those_that_lack_them() {
        let peers: [&[u8]; 5] = [b"a", b"b", b"c", b"d", b"e"];
        let mut made = [0; 5];
        for n in 0..4_000 {
            let Verdict::Copy(who) = judge(id(n), &peers, &[Holds, Lacks, Lacks, Lacks, Lacks]) else {
                panic!("a copy is missing");
            };
            who.iter().for_each(|at| made[*at] += 1);
        }
        assert_eq!(made[0], 0);
        assert!(made[1..].iter().all(|count| (850..1_150).contains(count)), "{made:?}");
    }
}
