//! What the log holds, in memory: where each entry lies, and the recent ones themselves.
//!
//! Pure. The same [`Index::apply`] replays a journal on opening and follows the writer while running.

use super::record::{Entry, EntryId, Record, State};
use bytes::Bytes;
use std::collections::VecDeque;

/// Where an entry's record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub segment: u64,
    pub offset: u64,
    pub size: u32,
}

#[derive(Debug)]
struct Slot {
    id: EntryId,
    /// `None` until it is written.
    place: Option<Place>,
    /// Kept while recent, and always until it is written.
    body: Option<Bytes>,
}

/// A journal that contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    #[error("entry {found} follows entry {last:?}")]
    Gap { last: Option<u64>, found: u64 },
    #[error("truncation from {from} leaves entry {last:?} as the last one")]
    Truncation { from: u64, last: Option<u64> },
    #[error("entries from {from} on are missing before {first:?}")]
    Missing { from: u64, first: Option<u64> },
    #[error("a segment starts with another state than the one before it ended with")]
    State,
}

/// Entries have consecutive indexes ending at `state.last`; those up to `state.purged` are gone.
#[derive(Debug, Default)]
pub struct Index {
    state: State,
    slots: VecDeque<Slot>,
    cached_bytes: usize,
    /// Slots before this position in `slots` hold no body.
    cached_from: usize,
}

/// Where to find an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Here(Entry),
    At(EntryId, Place),
}

impl Index {
    /// An index that only follows the state, see [`Index::follow`].
    pub fn without_entries(state: State) -> Index {
        Index { state, ..Index::default() }
    }

    /// As [`Index::apply`] for somebody who wants the state alone.
    pub fn follow(&mut self, record: &Record) -> Result<(), Contradiction> {
        self.apply(record, None, false)?;
        self.slots.clear();
        self.cached_from = 0;
        Ok(())
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// Takes a record in. `body_kept`: whether an entry's bytes stay in memory until it is placed.
    pub fn apply(
        &mut self,
        record: &Record,
        place: Option<Place>,
        body_kept: bool,
    ) -> Result<(), Contradiction> {
        match record {
            Record::State(state) => {
                let begins = self.state == State::default() && self.slots.is_empty();
                if !begins && self.state != *state {
                    return Err(Contradiction::State);
                }
                self.state = *state;
            }
            Record::Entry(entry) => self.push(entry, place, body_kept)?,
            Record::Vote(vote) => self.state.vote = Some(*vote),
            Record::Committed(id) => self.state.committed = self.state.committed.max(Some(*id)),
            Record::Truncate { from, last } => self.truncate(*from, *last)?,
            Record::Purge(id) => self.purge(*id),
        }
        Ok(())
    }

    fn push(&mut self, entry: &Entry, place: Option<Place>, body_kept: bool) -> Result<(), Contradiction> {
        let last = self.state.last.map(|id| id.index);
        if last.is_some_and(|last| last.checked_add(1) != Some(entry.id.index)) {
            return Err(Contradiction::Gap { last, found: entry.id.index });
        }
        if body_kept {
            self.cached_bytes += entry.body.len();
        } else {
            self.cached_from = self.slots.len() + 1;
        }
        self.slots.push_back(Slot { id: entry.id, place, body: body_kept.then(|| entry.body.clone()) });
        self.state.last = Some(entry.id);
        Ok(())
    }

    fn truncate(&mut self, from: u64, last: Option<EntryId>) -> Result<(), Contradiction> {
        if last.is_some_and(|last| last.index.checked_add(1) != Some(from)) {
            return Err(Contradiction::Truncation { from, last: last.map(|id| id.index) });
        }
        while self.slots.back().is_some_and(|slot| slot.id.index >= from) {
            self.drop_slot(VecDeque::pop_back);
        }
        self.cached_from = self.cached_from.min(self.slots.len());
        self.state.last = last;
        // What is gone cannot be committed.
        self.state.committed = self.state.committed.min(last);
        Ok(())
    }

    fn purge(&mut self, upto: EntryId) {
        while self.slots.front().is_some_and(|slot| slot.id.index <= upto.index) {
            self.drop_slot(VecDeque::pop_front);
            self.cached_from = self.cached_from.saturating_sub(1);
        }
        self.state.purged = self.state.purged.max(Some(upto));
        if self.state.last.is_none_or(|last| last.index < upto.index) {
            self.state.last = Some(upto);
        }
    }

    fn drop_slot(&mut self, pop: impl FnOnce(&mut VecDeque<Slot>) -> Option<Slot>) {
        if let Some(body) = pop(&mut self.slots).and_then(|slot| slot.body) {
            self.cached_bytes -= body.len();
        }
    }

    /// After a replay: nothing between the purged and the last position is missing.
    pub fn check_complete(&self) -> Result<(), Contradiction> {
        let first = self.slots.front().map(|slot| slot.id.index);
        let purged = self.state.purged.map(|id| id.index);
        let last = self.state.last.map(|id| id.index);
        let from = match (purged, last) {
            (_, None) => return Ok(()),
            (Some(purged), Some(last)) if last <= purged => return Ok(()),
            (purged, Some(_)) => purged.map_or(0, |purged| purged + 1),
        };
        if first == Some(from) { Ok(()) } else { Err(Contradiction::Missing { from, first }) }
    }

    /// The writer tells where an entry went; it may have been truncated meanwhile.
    pub fn place(&mut self, id: EntryId, place: Place) {
        if let Some(slot) = self.slot_mut(id.index)
            && slot.id == id
        {
            slot.place = Some(place);
        }
    }

    /// Forgets the bodies of the oldest written entries while there are more than `limit` bytes.
    pub fn evict(&mut self, limit: usize) {
        while self.cached_bytes > limit {
            let Some(slot) = self.slots.get_mut(self.cached_from).filter(|slot| slot.place.is_some()) else {
                return;
            };
            self.cached_bytes -= slot.body.take().map_or(0, |body| body.len());
            self.cached_from += 1;
        }
    }

    /// Entries from `from` to before `end`, as many as there are, at most `bytes_max` (but one at least).
    pub fn find(&self, from: u64, end: u64, bytes_max: usize) -> Vec<Found> {
        let Some(first) = self.slots.front().map(|slot| slot.id.index) else {
            return Vec::new();
        };
        let skip = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
        let mut found = Vec::new();
        let mut bytes = 0;
        for slot in self.slots.iter().skip(skip).take_while(|slot| slot.id.index < end) {
            let size = match (&slot.body, slot.place) {
                (Some(body), _) => body.len(),
                (None, place) => place.map_or(0, |place| place.size as usize),
            };
            bytes += size;
            if !found.is_empty() && bytes > bytes_max {
                break;
            }
            match (&slot.body, slot.place) {
                (Some(body), _) => found.push(Found::Here(Entry { id: slot.id, body: body.clone() })),
                (None, Some(place)) => found.push(Found::At(slot.id, place)),
                (None, None) => break,
            }
        }
        found
    }

    /// The id of an entry that is still here, or of the last purged one.
    pub fn id_at(&self, index: u64) -> Option<EntryId> {
        if let Some(purged) = self.state.purged.filter(|id| id.index == index) {
            return Some(purged);
        }
        let first = self.slots.front()?.id.index;
        let at = usize::try_from(index.checked_sub(first)?).ok()?;
        self.slots.get(at).map(|slot| slot.id)
    }

    fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        let first = self.slots.front()?.id.index;
        let at = usize::try_from(index.checked_sub(first)?).ok()?;
        self.slots.get_mut(at)
    }

    pub fn entries(&self) -> usize {
        self.slots.len()
    }
}
