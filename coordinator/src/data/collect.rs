//! Which chunks may go: the decisions of collection. Pure; [`super::upkeep`] lists, marks and removes.
//!
//! A chunk that nothing refers to is first *condemned*, and removed by a later pass when it has been so for the whole grace
//! period, without a pass that found it referred to, and nobody has met it since. What makes this safe
//! (`docs/decisions/0010-upkeep-of-chunks.md`):
//!
//! * Whoever is about to have a record name chunks holds the store ([`lote_shared::chunks::store::Hold`]) before it writes
//!   or meets the first of them, and every chunk that is written or met gets the present time. A chunk is condemned only
//!   if it is older than every hold that is open. So whoever met it was through before it was condemned, and the record
//!   that it may have proposed has a grace period to be applied.
//! * The mark is taken from a state that has everything that was acknowledged before it ([`crate::engine`] linearizes), and
//!   after the chunks were listed. A chunk that is met between listing and removal is too young to be removed.
//! * The times of files are the wall clock's. If that jumps, everything that was condemned is forgotten, and nothing is
//!   condemned as long as a hold from before the jump is open and until a grace period has passed.

use super::upkeep::Clock;
use lote_shared::chunks::ChunkId;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Most chunks that are condemned at a time; further ones wait until those are gone. About 24 MiB.
pub const CONDEMNED_MAX: usize = 512 * 1024;
/// Times of files may lie this much before the moment they were written: kernels stamp them with a coarse clock.
pub const MARGIN_MS: u64 = 1_000;
/// Clocks that differ by more than this from one look to the next have jumped.
pub const JUMP_MS: u64 = 10_000;

/// Half of a chunk's name, which tells it from any other.
type Key = [u8; 16];

fn key(id: ChunkId) -> Key {
    let mut key = [0; 16];
    key.copy_from_slice(&id.0[..16]);
    key
}

/// A chunk of the slice that a pass looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    pub id: ChunkId,
    /// Wall clock, ms.
    pub written_ms: u64,
    /// Of its file.
    pub bytes: u32,
    /// By the mark that was taken after the listing.
    pub referenced: bool,
}

/// A chunk that may go, unless it was written at or after `before_ms` (wall clock).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removal {
    pub id: ChunkId,
    pub bytes: u32,
    pub before_ms: u64,
}

/// What a slice began with. Taken before its chunks are listed.
#[derive(Debug, Clone, Copy)]
pub struct Slice {
    began: Clock,
    /// Chunks written at or after this stay what they are. Wall clock, ms.
    limit_ms: u64,
}

impl Slice {
    /// Whether the times of files still mean what they meant when the slice began. Asked again before each removal.
    pub fn stands(&self, now: Clock) -> bool {
        !has_jumped(self.began, now)
    }
}

fn has_jumped(before: Clock, after: Clock) -> bool {
    let walled = i128::from(after.wall_ms) - i128::from(before.wall_ms);
    let passed = i128::from(after.monotonic_ms) - i128::from(before.monotonic_ms);
    (walled - passed).unsigned_abs() > u128::from(JUMP_MS)
}

/// Both times are of the monotonic clock, ms.
#[derive(Debug, Clone, Copy)]
struct Condemned {
    since_ms: u64,
    /// When the grace period is over.
    ripe_ms: u64,
}

/// The chunks that wait for the end of their grace period.
#[derive(Debug)]
pub struct Collector {
    grace_ms: u64,
    condemned: BTreeMap<Key, Condemned>,
    last: Option<Clock>,
    /// When a jump of the clock was last noticed, by the monotonic clock.
    jumped_ms: Option<u64>,
}

impl Collector {
    pub fn new(grace_ms: u64) -> Collector {
        Collector { grace_ms, condemned: BTreeMap::new(), last: None, jumped_ms: None }
    }

    /// Begins to look at a slice; `None` if nothing may be collected now. `oldest_hold_ms`: for how long the oldest hold
    /// has been open; asked before `now` was taken, or after it, but before anything is listed.
    pub fn begin(&mut self, now: Clock, oldest_hold_ms: Option<u64>) -> Option<Slice> {
        if self.last.is_some_and(|last| has_jumped(last, now)) {
            self.condemned.clear();
            self.jumped_ms = Some(now.monotonic_ms);
        }
        self.last = Some(now);
        if let Some(jumped) = self.jumped_ms {
            let since = now.monotonic_ms.saturating_sub(jumped);
            if since < self.grace_ms || oldest_hold_ms.is_some_and(|age| age >= since) {
                return None;
            }
        }
        // A grace period of age as well: whoever forgets to hold has that much time.
        let age = oldest_hold_ms.unwrap_or(0).max(self.grace_ms).saturating_add(MARGIN_MS);
        Some(Slice { began: now, limit_ms: now.wall_ms.saturating_sub(age) })
    }

    /// What of the slice goes. `found` is everything in these folders; `marked` is when the mark was complete.
    pub fn decide(
        &mut self,
        slice: Slice,
        marked: Clock,
        folders: RangeInclusive<u8>,
        found: &[Found],
    ) -> Vec<Removal> {
        let mut first = [0; 16];
        first[0] = *folders.start();
        let mut last = [0xff; 16];
        last[0] = *folders.end();
        // What is not found again is gone, and is forgotten with this.
        let before: BTreeMap<Key, Condemned> =
            self.condemned.range(first..=last).map(|(key, condemned)| (*key, *condemned)).collect();
        for key in before.keys() {
            self.condemned.remove(key);
        }
        if !slice.stands(marked) {
            return Vec::new();
        }
        let mut removals = Vec::new();
        for chunk in found.iter().filter(|chunk| !chunk.referenced && chunk.written_ms < slice.limit_ms) {
            let now_ms = slice.began.monotonic_ms;
            let entry = before.get(&key(chunk.id)).filter(|entry| {
                // Met since it was condemned: that counts as new.
                chunk.written_ms < self.wall_of(slice.began, entry.since_ms)
            });
            match entry {
                Some(entry) if entry.ripe_ms <= now_ms => {
                    let before_ms = self.wall_of(slice.began, entry.since_ms).min(slice.limit_ms);
                    removals.push(Removal { id: chunk.id, bytes: chunk.bytes, before_ms });
                }
                Some(entry) => {
                    self.condemned.insert(key(chunk.id), *entry);
                }
                None if self.condemned.len() < CONDEMNED_MAX => {
                    // Readers have the whole period from the mark on, writers from before the listing.
                    let ripe_ms = marked.monotonic_ms.saturating_add(self.grace_ms);
                    self.condemned.insert(key(chunk.id), Condemned { since_ms: now_ms, ripe_ms });
                }
                None => {}
            }
        }
        removals
    }

    /// Chunks that wait for the end of their grace period.
    pub fn waiting(&self) -> usize {
        self.condemned.len()
    }

    /// A time of the monotonic clock as the wall clock's, a margin earlier.
    fn wall_of(&self, now: Clock, monotonic_ms: u64) -> u64 {
        let ago = now.monotonic_ms.saturating_sub(monotonic_ms);
        now.wall_ms.saturating_sub(ago.saturating_add(MARGIN_MS))
    }
}

#[cfg(test)]
mod crashes;
#[cfg(test)]
mod tests;
