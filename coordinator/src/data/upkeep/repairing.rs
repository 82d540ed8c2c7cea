//! One pass of repair: everything that the state refers to, and who holds it.

use super::super::references;
use super::super::repair::{Holding, Silence, Verdict, judge};
use super::asking::{self, Asked};
use super::{Clock, Upkeep};
use lote_shared::chunks::ChunkId;
use lote_shared::network::{OpenError, PeerId};
use lote_shared::protocol::storage::{HOLDS_MAX, Request, Response};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::runtime::Handle;

/// Pause after each copy, so that what clients wait for goes first.
const PAUSE: Duration = Duration::from_millis(2);
/// Names in the sample that tells how often the same chunk is referred to.
const SAMPLE_MAX: usize = 16 * 1024;

pub(super) async fn pass(upkeep: &Upkeep, silence: &mut Silence<PeerId>) -> Result<(), String> {
    let (work, mut silent, runtime) = (upkeep.clone(), std::mem::take(silence), Handle::current());
    let task = tokio::task::spawn_blocking(move || {
        let result = Pass::new(&work, &runtime, &mut silent).run();
        (result, silent)
    });
    let (result, silent) = task.await.map_err(|error| error.to_string())?;
    *silence = silent;
    result
}

struct Pass<'a> {
    upkeep: &'a Upkeep,
    runtime: &'a Handle,
    silence: &'a mut Silence<PeerId>,
    /// This coordinator first.
    peers: Vec<PeerId>,
    /// Conversations with the others, as they are needed.
    open: BTreeMap<PeerId, Asked>,
    batch: Vec<ChunkId>,
    sample: Sample,
    references: u64,
    under: u64,
    lost: u64,
    trouble: Option<String>,
}

impl<'a> Pass<'a> {
    fn new(upkeep: &'a Upkeep, runtime: &'a Handle, silence: &'a mut Silence<PeerId>) -> Pass<'a> {
        let mut peers = vec![upkeep.inner.network.peer()];
        peers.extend((upkeep.inner.others)());
        silence.keep(&peers);
        Pass {
            upkeep,
            runtime,
            silence,
            peers,
            open: BTreeMap::new(),
            batch: Vec::with_capacity(HOLDS_MAX),
            sample: Sample::default(),
            references: 0,
            under: 0,
            lost: 0,
            trouble: None,
        }
    }

    fn run(mut self) -> Result<(), String> {
        let upkeep = self.upkeep.clone();
        let api = &upkeep.inner.api;
        let stopping = || upkeep.is_stopping();
        let mut unreadable = Vec::new();
        let note = |error: lote_shared::chunks::Error| {
            // Its file is beyond help, the others are not.
            if unreadable.len() < 8 {
                unreadable.push(error.to_string());
            }
            Ok(())
        };
        references::for_each(&*api.backend, &api.chunks, &stopping, note, |id| self.meet(id))
            .map_err(|error| error.to_string())?;
        self.look();
        for (_, asked) in std::mem::take(&mut self.open) {
            self.runtime.block_on(asked.close());
        }
        let mut status = upkeep.inner.status.lock();
        status.references = self.references;
        (status.sampled, status.sampled_distinct) = self.sample.counts();
        (status.under_replicated, status.lost) = (self.under, self.lost);
        if let Some(first) = unreadable.first() {
            return Err(format!("a list of chunks is nowhere to be had: {first}"));
        }
        match self.trouble {
            Some(trouble) => Err(trouble),
            None => Ok(()),
        }
    }

    fn meet(&mut self, id: ChunkId) {
        self.references += 1;
        self.sample.meet(id);
        self.batch.push(id);
        if self.batch.len() >= HOLDS_MAX {
            self.look();
        }
    }

    /// Asks about the batch, and makes the copies that are for this coordinator to make.
    fn look(&mut self) {
        let mut ids = std::mem::take(&mut self.batch);
        ids.sort_unstable();
        ids.dedup();
        let store = self.upkeep.inner.api.chunks.clone();
        let mut peers = Vec::new();
        let mut answers = Vec::new();
        for peer in self.peers.clone() {
            let said: Option<Vec<Holding>> = if peer == self.peers[0] {
                Some(ids.iter().map(|id| holding(store.contains(*id))).collect())
            } else {
                self.ask(peer, &ids)
            };
            // Those that are gone for good are left out: the copies are for the others to hold.
            if let Some(said) = said {
                peers.push(peer.to_bytes());
                answers.push(said);
            }
        }
        let names: Vec<&[u8]> = peers.iter().map(Vec::as_slice).collect();
        for (at, id) in ids.iter().enumerate() {
            if self.upkeep.is_stopping() {
                return;
            }
            let said: Vec<Holding> = answers.iter().filter_map(|said| said.get(at).copied()).collect();
            match judge(*id, &names, &said) {
                Verdict::Enough => {}
                Verdict::Lost => {
                    self.lost += 1;
                    tracing::error!(chunk = %id, "a chunk that is referred to lies on no coordinator");
                }
                Verdict::Copy(who) => {
                    self.under += 1;
                    if who.contains(&0) {
                        self.copy(*id);
                    }
                }
            }
        }
        let mut status = self.upkeep.inner.status.lock();
        status.repair.done = self.references;
        status.repair.total = status.references.max(self.references);
    }

    fn copy(&mut self, id: ChunkId) {
        // Reading brings here what is not.
        match self.upkeep.inner.api.chunks.read(id) {
            Ok(_) => {
                self.under -= 1;
                self.upkeep.inner.status.lock().repaired += 1;
            }
            Err(error) => self.trouble = Some(format!("chunk {id} was not copied: {error}")),
        }
        std::thread::sleep(PAUSE);
    }

    /// What another coordinator says; `None` if it has been silent for so long that it counts as gone.
    fn ask(&mut self, peer: PeerId, ids: &[ChunkId]) -> Option<Vec<Holding>> {
        let request = Request::Holds { ids: ids.to_vec() };
        match self.runtime.block_on(self.answer(peer, &request)) {
            Ok(held) if held.len() == ids.len() => {
                self.silence.answered(peer);
                Some(held.into_iter().map(holding).collect())
            }
            Ok(_) => self.silent(peer, ids, "its answer makes no sense"),
            // An older build: it is there, and knows nothing of this.
            Err(asking::Error::Open(OpenError::NotServed)) => {
                self.trouble = Some(format!("{peer} is of a build without repair"));
                Some(vec![Holding::Silent; ids.len()])
            }
            Err(error) => self.silent(peer, ids, &error.to_string()),
        }
    }

    fn silent(&mut self, peer: PeerId, ids: &[ChunkId], why: &str) -> Option<Vec<Holding>> {
        self.trouble = Some(format!("{peer} does not say what it holds: {why}"));
        let longest = self.upkeep.inner.settings.silent_max.as_millis() as u64;
        let gone = self.silence.is_gone(peer, Clock::now().monotonic_ms, longest);
        (!gone).then(|| vec![Holding::Silent; ids.len()])
    }

    async fn answer(&mut self, peer: PeerId, request: &Request) -> Result<Vec<bool>, asking::Error> {
        let mut asked = match self.open.remove(&peer) {
            Some(asked) => asked,
            None => Asked::open(&self.upkeep.inner.network, peer).await?,
        };
        match asked.ask(request).await? {
            Response::Holds(held) => {
                self.open.insert(peer, asked);
                Ok(held)
            }
            other => Err(asking::Error::Broken(format!("an answer out of turn: {other:?}"))),
        }
    }
}

fn holding(holds: bool) -> Holding {
    if holds { Holding::Holds } else { Holding::Lacks }
}

/// References to chunks whose names begin with enough zero bits: names are hashes, so these stand for all.
#[derive(Debug, Default)]
struct Sample {
    bits: u32,
    references: u64,
    /// How often each chunk of the sample was met.
    met: BTreeMap<[u8; 16], u32>,
}

impl Sample {
    fn meet(&mut self, id: ChunkId) {
        let mut name = [0; 16];
        // The first byte names the sub-folder; the sample goes by others.
        name.copy_from_slice(&id.0[16..]);
        if u128::from_be_bytes(name).leading_zeros() < self.bits {
            return;
        }
        self.references += 1;
        *self.met.entry(name).or_default() += 1;
        while self.met.len() > SAMPLE_MAX {
            self.bits += 1;
            let bits = self.bits;
            self.met.retain(|name, _| u128::from_be_bytes(*name).leading_zeros() >= bits);
            self.references = self.met.values().map(|count| u64::from(*count)).sum();
        }
    }

    fn counts(&self) -> (u64, u64) {
        (self.references, self.met.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_sample_tells_how_often_chunks_are_shared() {
        let mut sample = Sample::default();
        let id = |n: u32| ChunkId(*blake3::hash(&n.to_le_bytes()).as_bytes());
        let mut distinct = BTreeSet::new();
        for n in 0..200_000 {
            distinct.insert(n % 80_000);
            sample.meet(id(n % 80_000));
        }
        let (references, different) = sample.counts();
        assert!(different <= SAMPLE_MAX as u64);
        let ratio = references as f64 / different as f64;
        assert!((ratio - 200_000.0 / distinct.len() as f64).abs() < 0.1, "{ratio}");
    }
}
