//! Chunks on their way to this machine, which others may already have in part.
//!
//! Whoever receives a chunk begins it here and adds each unit as it is verified; whoever is asked for it meanwhile passes
//! on what there is. A chunk that was begun and left unfinished goes on where it was when the next source sends it: its
//! units are the same bytes whoever they come from. What turns out to be wrong is given up, and so is what nobody brings
//! any more; whoever passes it on breaks off then.

use super::seal::Seal;
use super::tree::ChunkId;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// Unfinished chunks that are kept; each holds up to 1 MiB. Above it the smallest name gives way.
const PARTIAL_MAX: usize = 64;

/// One chunk, from its first unit on.
#[derive(Debug)]
pub struct Partial {
    pub seal: Seal,
    bytes: Mutex<Vec<u8>>,
    /// Units that are here; `None` once it is given up.
    units: watch::Sender<Option<usize>>,
}

impl Partial {
    fn new(seal: Seal) -> Partial {
        Partial { seal, bytes: Mutex::new(Vec::new()), units: watch::Sender::new(Some(0)) }
    }

    /// Told how many units are here, and `None` once no more will come.
    pub fn watch(&self) -> watch::Receiver<Option<usize>> {
        self.units.subscribe()
    }

    /// Adds a unit that was verified; one that is here already, or comes too early, changes nothing.
    pub fn push(&self, index: usize, unit: &[u8]) {
        let mut bytes = self.bytes.lock();
        let is_next = *self.units.borrow() == Some(index);
        if is_next && unit.len() == self.seal.unit_range(index).len() {
            bytes.extend_from_slice(unit);
            self.units.send_replace(Some(index + 1));
        }
    }

    fn give_up(&self) {
        self.units.send_replace(None);
    }

    /// A unit that is here.
    pub fn unit(&self, index: usize) -> Option<Vec<u8>> {
        self.bytes.lock().get(self.seal.unit_range(index)).map(<[u8]>::to_vec)
    }

    /// Looks at all of its bytes so far.
    pub fn with_bytes<T>(&self, look: impl FnOnce(&[u8]) -> T) -> T {
        look(&self.bytes.lock())
    }
}

#[derive(Debug, Default)]
struct State {
    chunks: BTreeMap<ChunkId, Arc<Partial>>,
    /// Transfers that may begin any chunk.
    transfers: usize,
}

/// All chunks on their way. Clones mean the same.
#[derive(Debug, Clone, Default)]
pub struct Arriving {
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<u64>>,
}

/// As long as it lives, chunks that are not here may still come.
#[derive(Debug)]
pub struct Transfer(Arriving);

impl Drop for Transfer {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.transfers -= 1;
        if state.transfers == 0 {
            std::mem::take(&mut state.chunks).values().for_each(|chunk| chunk.give_up());
        }
        drop(state);
        self.0.tell();
    }
}

impl Arriving {
    pub fn transfer(&self) -> Transfer {
        self.state.lock().transfers += 1;
        Transfer(self.clone())
    }

    /// Whether what is not here may still come.
    pub fn is_expecting(&self) -> bool {
        self.state.lock().transfers > 0
    }

    pub fn get(&self, id: ChunkId) -> Option<Arc<Partial>> {
        self.state.lock().chunks.get(&id).cloned()
    }

    /// The chunk of this name with what is here of it. A unit of it must have been verified by this seal: until then a
    /// wrong place or length in it goes unnoticed. An earlier seal that says something else gives way.
    pub fn begin(&self, id: ChunkId, seal: &Seal) -> Arc<Partial> {
        let mut state = self.state.lock();
        if let Some(chunk) = state.chunks.get(&id)
            && chunk.seal == *seal
        {
            return Arc::clone(chunk);
        }
        let chunk = Arc::new(Partial::new(seal.clone()));
        if let Some(earlier) = state.chunks.insert(id, Arc::clone(&chunk)) {
            earlier.give_up();
        }
        if state.chunks.len() > PARTIAL_MAX {
            let least = state.chunks.keys().copied().find(|least| *least != id);
            least.and_then(|least| state.chunks.remove(&least)).inspect(|chunk| chunk.give_up());
        }
        drop(state);
        self.tell();
        chunk
    }

    /// The chunk is in the store.
    pub fn end(&self, id: ChunkId) {
        self.state.lock().chunks.remove(&id);
        self.tell();
    }

    /// It came out that the chunk is not what it was said to be.
    pub fn give_up(&self, id: ChunkId, chunk: &Arc<Partial>) {
        chunk.give_up();
        let mut state = self.state.lock();
        if state.chunks.get(&id).is_some_and(|current| Arc::ptr_eq(current, chunk)) {
            state.chunks.remove(&id);
        }
        drop(state);
        self.tell();
    }

    /// Told when a chunk begins or ends, and when a transfer ends.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn tell(&self) {
        self.changed.send_modify(|version| *version = version.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunks::tree::{Position, UNIT};

    fn sealed(byte: u8) -> (ChunkId, Seal, Vec<u8>) {
        let bytes = vec![byte; 2 * UNIT + 77];
        let (id, seal) = Seal::of(&bytes, Position::Part { offset: 0 });
        (id, seal, bytes)
    }

    #[test]
    fn what_was_begun_goes_on_and_another_seal_takes_its_place() {
        let (id, seal, bytes) = sealed(1);
        let arriving = Arriving::default();
        let _transfer = arriving.transfer();
        let wrong = arriving.begin(id, &Seal { length: seal.length - 1, ..seal.clone() });
        let right = arriving.begin(id, &seal);
        assert_eq!(*wrong.watch().borrow(), None, "whoever passes it on is told");
        right.push(0, &bytes[..UNIT]);
        right.push(2, &bytes[2 * UNIT..]);
        let again = arriving.begin(id, &seal);
        assert_eq!(*again.watch().borrow(), Some(1));
        assert_eq!(again.unit(0).as_deref(), Some(&bytes[..UNIT]));
        // The wrong one was replaced already: giving it up takes nothing away.
        arriving.give_up(id, &wrong);
        assert!(arriving.get(id).is_some());
        arriving.give_up(id, &right);
        assert!(arriving.get(id).is_none());
    }

    #[test]
    fn with_the_last_transfer_what_is_left_is_given_up() {
        let (id, seal, _) = sealed(1);
        let arriving = Arriving::default();
        let transfers = [arriving.transfer(), arriving.transfer()];
        let chunk = arriving.begin(id, &seal);
        let [one, two] = transfers;
        drop(one);
        assert!(arriving.get(id).is_some() && arriving.is_expecting());
        drop(two);
        assert!(arriving.get(id).is_none() && !arriving.is_expecting());
        assert_eq!(*chunk.watch().borrow(), None);
    }

    #[test]
    fn there_are_never_more_than_the_bound() {
        let arriving = Arriving::default();
        let _transfer = arriving.transfer();
        let all: Vec<_> = (0..=PARTIAL_MAX).map(|byte| sealed(byte as u8)).collect();
        let begun: Vec<_> = all.iter().map(|(id, seal, _)| arriving.begin(*id, seal)).collect();
        let kept = all.iter().filter(|(id, ..)| arriving.get(*id).is_some()).count();
        assert_eq!(kept, PARTIAL_MAX);
        assert_eq!(begun.iter().filter(|chunk| chunk.watch().borrow().is_none()).count(), 1);
        assert!(arriving.get(all[PARTIAL_MAX].0).is_some(), "the last one is not what gives way");
    }
}
