//! Chunks on their way to this machine, which others may already have in part.
//!
//! Whoever receives a chunk begins it here and adds each unit as it is verified; whoever is asked for it meanwhile passes
//! on what there is. A chunk that was begun and left unfinished goes on where it was when the next source sends it: its
//! units are the same bytes whoever they come from.

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
    /// Units that are here.
    units: watch::Sender<usize>,
}

impl Partial {
    fn new(seal: Seal) -> Partial {
        Partial { seal, bytes: Mutex::new(Vec::new()), units: watch::Sender::new(0) }
    }

    /// Units that are here.
    pub fn units(&self) -> usize {
        *self.units.borrow()
    }

    /// Told of every unit that comes.
    pub fn watch(&self) -> watch::Receiver<usize> {
        self.units.subscribe()
    }

    /// Adds a unit that was verified; one that is here already, or comes too early, changes nothing.
    pub fn push(&self, index: usize, unit: &[u8]) {
        let mut bytes = self.bytes.lock();
        if index == self.units() && unit.len() == self.seal.unit_range(index).len() {
            bytes.extend_from_slice(unit);
            self.units.send_replace(index + 1);
        }
    }

    /// A unit that is here.
    pub fn unit(&self, index: usize) -> Option<Vec<u8>> {
        self.bytes.lock().get(self.seal.unit_range(index)).map(<[u8]>::to_vec)
    }

    pub fn is_complete(&self) -> bool {
        self.units() == self.seal.units.len()
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
        self.0.state.lock().transfers -= 1;
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

    /// The chunk of this name with what is here of it. The seal must be the name's.
    pub fn begin(&self, id: ChunkId, seal: &Seal) -> Arc<Partial> {
        let mut state = self.state.lock();
        if !state.chunks.contains_key(&id) && state.chunks.len() >= PARTIAL_MAX {
            state.chunks.pop_first();
        }
        let chunk = state.chunks.entry(id).or_insert_with(|| Arc::new(Partial::new(seal.clone())));
        let chunk = Arc::clone(chunk);
        drop(state);
        self.tell();
        chunk
    }

    /// The chunk is in the store, or will not come.
    pub fn end(&self, id: ChunkId) {
        self.state.lock().chunks.remove(&id);
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
