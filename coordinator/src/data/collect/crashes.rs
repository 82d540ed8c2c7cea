//! Random crash points over uploads, compositions, copies, deletions, collection and repair, on three coordinators whose
//! disks lose what was not flushed: no manifest is ever unreadable.
//!
//! The decisions are the real ones ([`Collector`], [`judge`], [`Blobs`] with its paged walk); disks, clocks, the way of a
//! proposal and the threads are played. A disk follows [`lote_shared::chunks::ChunkStore`]: a chunk that is met gets the
//! present time, a name is durable after the commit of a group that wrote or met it. Each run is one seed. The number of
//! crash points is `LOTE_CRASH_POINTS`, or few enough for a second or two. Faults of the rules can be planted, and are found.

use super::super::repair::{Holding, Verdict, judge};
use super::*;
use crate::state::blobs::{BlobAction, Blobs, Composed, Headers, Place};
use crate::state::{Batch, Condition, Stamp};
use lote_shared::chunks::{Manifest, Tree};
use lote_shared::model::{AccountId, Timestamp};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeSet;

const ACCOUNT: AccountId = AccountId(1);
const GRACE: u64 = 60_000;
/// A proposal that was sent is in the log after at most this, or never will be.
const ON_ITS_WAY_MAX: u64 = 50_000;
const COORDINATORS: usize = 3;
const STEPS: usize = 1_500;
const NAMES: u64 = 5;
const CONTENTS: u64 = 30;

/// A rule left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plant {
    Nothing,
    NoGrace,
    NoHold,
    NoLinearize,
    NoAdoption,
    NoTimeCheckAtRemoval,
    Unflushed,
}

#[derive(Debug, Clone, Copy)]
struct File {
    written_ms: u64,
    durable: bool,
}

#[derive(Debug, Default)]
struct Disk {
    files: BTreeMap<ChunkId, File>,
}

impl Disk {
    /// Writes a chunk, or makes the one that is here young.
    fn add(&mut self, id: ChunkId, wall_ms: u64) {
        let durable = self.files.get(&id).is_some_and(|file| file.durable);
        self.files.insert(id, File { written_ms: wall_ms, durable });
    }

    fn flush(&mut self, ids: &[ChunkId]) {
        for id in ids {
            if let Some(file) = self.files.get_mut(id) {
                file.durable = true;
            }
        }
    }
}

/// What a write is at.
#[derive(Debug, Clone)]
enum Stage {
    Write(usize),
    Flush,
    Second(usize),
    Keep,
    Propose,
}

#[derive(Debug, Clone)]
struct Upload {
    at: usize,
    second: usize,
    /// Begin of its hold here, and there once it has begun.
    began: u64,
    second_began: Option<u64>,
    chunks: Vec<ChunkId>,
    /// Those that are only referred to anew, and not written or met here.
    kept: Vec<ChunkId>,
    stage: Stage,
    action: BlobAction,
    /// Takes longer than grace periods.
    is_slow: bool,
}

#[derive(Debug)]
enum Collecting {
    Begun { slice: Slice },
    Marking { slice: Slice, found: Vec<Found>, marked: BTreeSet<ChunkId>, place: Place },
    Removing { slice: Slice, removals: Vec<Removal> },
}

struct Coordinator {
    disk: Disk,
    blobs: Blobs,
    applied: usize,
    collector: Collector,
    collecting: Option<Collecting>,
    repairing: Option<Vec<ChunkId>>,
    /// Of its wall clock.
    offset_ms: i64,
}

struct World {
    rng: StdRng,
    plant: Plant,
    now: u64,
    coordinators: Vec<Coordinator>,
    uploads: Vec<Upload>,
    /// Proposals that were sent, and until when they may come into the log.
    on_their_way: Vec<(u64, BlobAction)>,
    log: Vec<BlobAction>,
    /// The state after all of the log.
    truth: Blobs,
    /// What the lists name.
    lists: BTreeMap<ChunkId, Vec<ChunkId>>,
    crashes: usize,
    removed: usize,
    copied: usize,
}

fn content(n: u64) -> ChunkId {
    ChunkId(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

fn apply(blobs: &mut Blobs, index: usize, action: &BlobAction) {
    let stamp = Stamp { index: index as u64 + 1, now: Timestamp(index as u64) };
    // A refusal is a decision, too.
    let _ = blobs.apply(stamp, ACCOUNT, action, &mut Batch::default());
}

impl World {
    fn new(seed: u64, plant: Plant) -> World {
        let grace = if plant == Plant::NoGrace { 0 } else { GRACE };
        let coordinator = || Coordinator {
            disk: Disk::default(),
            blobs: Blobs::default(),
            applied: 0,
            collector: Collector::new(grace),
            collecting: None,
            repairing: None,
            offset_ms: 0,
        };
        let mut world = World {
            rng: StdRng::seed_from_u64(seed),
            plant,
            now: 1,
            coordinators: (0..COORDINATORS).map(|_| coordinator()).collect(),
            uploads: Vec::new(),
            on_their_way: Vec::new(),
            log: Vec::new(),
            truth: Blobs::default(),
            lists: BTreeMap::new(),
            crashes: 0,
            removed: 0,
            copied: 0,
        };
        world.commit(BlobAction::ContainerCreate { name: "c".into(), metadata: Vec::new() });
        world
    }

    fn clock(&self, at: usize) -> Clock {
        let wall_ms = (100 * 86_400_000 + self.now).saturating_add_signed(self.coordinators[at].offset_ms);
        Clock { monotonic_ms: self.now, wall_ms }
    }

    fn commit(&mut self, action: BlobAction) {
        apply(&mut self.truth, self.log.len(), &action);
        self.log.push(action);
    }

    fn catch_up(&mut self, at: usize, to: usize) {
        let coordinator = &mut self.coordinators[at];
        while coordinator.applied < to {
            apply(&mut coordinator.blobs, coordinator.applied, &self.log[coordinator.applied]);
            coordinator.applied += 1;
        }
    }

    fn references(&self, manifest: &Manifest) -> Vec<ChunkId> {
        let mut all = vec![manifest.root];
        all.extend(self.lists.get(&manifest.root).into_iter().flatten());
        all
    }

    fn needed(&self) -> BTreeSet<ChunkId> {
        let mut needed = BTreeSet::new();
        self.truth.for_each_manifest(|manifest| needed.extend(self.references(manifest)));
        needed
    }

    /// `manifests_readable`: even if all machines lost their power now.
    fn unreadable(&self) -> Option<ChunkId> {
        let is_durable = |id: &ChunkId| {
            let holds = |one: &Coordinator| one.disk.files.get(id).is_some_and(|file| file.durable);
            self.coordinators.iter().any(holds)
        };
        self.needed().into_iter().find(|id| !is_durable(id))
    }

    fn begin_upload(&mut self) {
        let at = self.rng.random_range(0..COORDINATORS);
        let second = (at + self.rng.random_range(1..COORDINATORS)) % COORDINATORS;
        let name = format!("b{}", self.rng.random_range(0..NAMES));
        let mut chunks: Vec<ChunkId> =
            (0..self.rng.random_range(1..4)).map(|_| content(self.rng.random_range(0..CONTENTS))).collect();
        let kind = self.rng.random_range(0..6);
        let source = format!("b{}", self.rng.random_range(0..NAMES));
        let view = &self.coordinators[at].blobs;
        let base = view.blob(ACCOUNT, "c", &name).ok().map(|blob| (blob.version.etag, blob.content));
        let copied = view.blob(ACCOUNT, "c", &source).ok().map(|blob| blob.content);
        let mut kept = Vec::new();
        let mut composed = None;
        let content = match (kind, base, copied) {
            // Composed from the blob as it is and something new: what it keeps is not met here.
            (0, Some((etag, content)), _) => {
                kept =
                    self.references(&content).into_iter().filter(|id| !self.lists.contains_key(id)).collect();
                let list = Manifest { length: 1, root: chunks[0], tree: Tree::Chunk };
                composed = Some(Composed { generation: 0, base: Some(etag), list });
                let mut named = kept.clone();
                named.extend(&chunks);
                self.list(named)
            }
            // A copy of another blob: all of it must be met.
            (1, _, Some(content)) => {
                chunks = self.references(&content);
                if self.plant == Plant::NoAdoption {
                    kept = std::mem::take(&mut chunks);
                }
                content
            }
            _ => self.list(chunks.clone()),
        };
        if !kept.contains(&content.root) && !chunks.contains(&content.root) {
            chunks.push(content.root);
        }
        let action = match kind {
            2 => BlobAction::Stage { container: "c".into(), blob: name, id: "AAAA".into(), content },
            _ => BlobAction::Put {
                container: "c".into(),
                blob: name,
                condition: Condition::default(),
                content,
                headers: Headers::default(),
                metadata: Vec::new(),
                composed,
            },
        };
        let stage = Stage::Write(0);
        let (began, is_slow) = (self.now, self.rng.random_bool(0.3));
        self.uploads.push(Upload {
            at,
            second,
            began,
            second_began: None,
            chunks,
            kept,
            stage,
            action,
            is_slow,
        });
    }

    fn list(&mut self, named: Vec<ChunkId>) -> Manifest {
        let bytes: Vec<u8> = named.iter().flat_map(|id| id.0).collect();
        let root = ChunkId(*blake3::hash(&bytes).as_bytes());
        let length = named.len() as u64;
        self.lists.insert(root, named);
        Manifest { length, root, tree: Tree::Composed { depth: 1 } }
    }

    fn anywhere(&self, id: ChunkId) -> bool {
        self.coordinators.iter().any(|one| one.disk.files.contains_key(&id))
    }

    fn step_upload(&mut self, which: usize) {
        let mut upload = self.uploads.swap_remove(which);
        let (here, there) = (self.clock(upload.at).wall_ms, self.clock(upload.second).wall_ms);
        upload.stage = match upload.stage {
            Stage::Write(next) => match upload.chunks.get(next) {
                Some(id) => {
                    self.coordinators[upload.at].disk.add(*id, here);
                    Stage::Write(next + 1)
                }
                None => Stage::Flush,
            },
            Stage::Flush => {
                if self.plant != Plant::Unflushed {
                    self.coordinators[upload.at].disk.flush(&upload.chunks);
                }
                Stage::Second(0)
            }
            Stage::Second(next) => {
                upload.second_began.get_or_insert(self.now);
                match upload.chunks.iter().chain(&upload.kept).nth(next).copied() {
                    // A chunk that is nowhere is noticed by whoever has to give it, and the write fails.
                    Some(id) if !self.anywhere(id) => return,
                    Some(id) if self.plant == Plant::NoAdoption && upload.kept.contains(&id) => {
                        Stage::Second(next + 1)
                    }
                    Some(id) => {
                        self.coordinators[upload.second].disk.add(id, there);
                        Stage::Second(next + 1)
                    }
                    None => Stage::Keep,
                }
            }
            Stage::Keep => {
                let all: Vec<ChunkId> = upload.chunks.iter().chain(&upload.kept).copied().collect();
                if self.plant != Plant::Unflushed {
                    self.coordinators[upload.second].disk.flush(&all);
                }
                upload.second_began = None;
                Stage::Propose
            }
            Stage::Propose => {
                self.on_their_way.push((self.now + ON_ITS_WAY_MAX, upload.action));
                return;
            }
        };
        self.uploads.push(upload);
    }

    fn oldest_hold(&self, at: usize) -> Option<u64> {
        if self.plant == Plant::NoHold {
            return None;
        }
        let here = self.uploads.iter().filter(|upload| upload.at == at).map(|upload| upload.began);
        let there = self.uploads.iter().filter(|upload| upload.second == at).filter_map(|up| up.second_began);
        here.chain(there).min().map(|began| self.now - began)
    }

    fn listed(&self, at: usize) -> Vec<Found> {
        let files = self.coordinators[at].disk.files.iter();
        let found = |(id, file): (&ChunkId, &File)| Found {
            id: *id,
            written_ms: file.written_ms,
            bytes: 1,
            referenced: false,
        };
        files.map(found).collect()
    }

    fn step_collection(&mut self, at: usize) {
        let step = self.coordinators[at].collecting.take();
        let next = match step {
            None => {
                let (clock, hold) = (self.clock(at), self.oldest_hold(at));
                let Some(slice) = self.coordinators[at].collector.begin(clock, hold) else { return };
                Some(Collecting::Begun { slice })
            }
            Some(Collecting::Begun { slice }) => {
                let found = self.listed(at);
                if self.plant != Plant::NoLinearize {
                    self.catch_up(at, self.log.len());
                }
                Some(Collecting::Marking { slice, found, marked: BTreeSet::new(), place: Place::default() })
            }
            Some(Collecting::Marking { slice, mut found, mut marked, place }) => {
                let (page, next) = self.coordinators[at].blobs.manifests(&place, 3);
                page.iter().for_each(|manifest| marked.extend(self.references(manifest)));
                match next {
                    Some(place) => Some(Collecting::Marking { slice, found, marked, place }),
                    None => {
                        found.iter_mut().for_each(|chunk| chunk.referenced = marked.contains(&chunk.id));
                        let clock = self.clock(at);
                        let collector = &mut self.coordinators[at].collector;
                        let removals = collector.decide(slice, clock, 0..=255, &found);
                        Some(Collecting::Removing { slice, removals })
                    }
                }
            }
            Some(Collecting::Removing { slice, mut removals }) => match removals.pop() {
                Some(removal) if slice.stands(self.clock(at)) => {
                    let files = &mut self.coordinators[at].disk.files;
                    let is_old =
                        files.get(&removal.id).is_some_and(|file| file.written_ms < removal.before_ms);
                    if is_old || self.plant == Plant::NoTimeCheckAtRemoval {
                        files.remove(&removal.id);
                        self.removed += 1;
                    }
                    Some(Collecting::Removing { slice, removals })
                }
                _ => None,
            },
        };
        self.coordinators[at].collecting = next;
    }

    fn step_repair(&mut self, at: usize) {
        let mut left = match self.coordinators[at].repairing.take() {
            Some(left) => left,
            None => {
                let mut all = BTreeSet::new();
                let mut place = Some(Place::default());
                while let Some(from) = place {
                    let (page, next) = self.coordinators[at].blobs.manifests(&from, 100);
                    page.iter().for_each(|manifest| all.extend(self.references(manifest)));
                    place = next;
                }
                all.into_iter().collect()
            }
        };
        let Some(id) = left.pop() else { return };
        let names: Vec<Vec<u8>> = (0..COORDINATORS).map(|n| vec![n as u8]).collect();
        let peers: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        let said: Vec<Holding> = (0..COORDINATORS)
            .map(|n| match self.coordinators[n].disk.files.contains_key(&id) {
                true => Holding::Holds,
                false => Holding::Lacks,
            })
            .collect();
        if let Verdict::Copy(who) = judge(id, &peers, &said)
            && who.contains(&at)
        {
            let wall = self.clock(at).wall_ms;
            self.coordinators[at].disk.add(id, wall);
            self.coordinators[at].disk.flush(&[id]);
            self.copied += 1;
        }
        self.coordinators[at].repairing = Some(left);
    }

    /// The process ends, or the machine does; what it had begun is gone, what it had sent is not.
    fn crash(&mut self, at: usize) {
        self.crashes += 1;
        let loses_power = self.rng.random_bool(0.5);
        let rng = &mut self.rng;
        let coordinator = &mut self.coordinators[at];
        if loses_power {
            coordinator.disk.files.retain(|_, file| file.durable || rng.random_bool(0.5));
            // What is here after a crash was read from the disk.
            coordinator.disk.files.values_mut().for_each(|file| file.durable = true);
        }
        let grace = if self.plant == Plant::NoGrace { 0 } else { GRACE };
        coordinator.collector = Collector::new(grace);
        coordinator.collecting = None;
        coordinator.repairing = None;
        // Whoever is given a second copy by it, or gives it one, notices.
        let sent = |upload: &Upload| matches!(upload.stage, Stage::Propose);
        self.uploads.retain(|upload| upload.at != at && (upload.second != at || sent(upload)));
    }

    /// A disk is lost only when everything is on two others or is on this and another: then nothing may be lost.
    fn lose_disk(&mut self, at: usize) {
        let others = |id: &ChunkId| {
            let holds = |n: &usize| {
                *n != at && self.coordinators[*n].disk.files.get(id).is_some_and(|file| file.durable)
            };
            (0..COORDINATORS).filter(holds).count()
        };
        let is_busy = !self.uploads.is_empty() || !self.on_their_way.is_empty();
        if is_busy || self.needed().iter().any(|id| others(id) == 0) {
            return;
        }
        self.crash(at);
        self.coordinators[at].disk = Disk::default();
    }

    fn step(&mut self) {
        let at = self.rng.random_range(0..COORDINATORS);
        match self.rng.random_range(0..1_000) {
            0..60 if self.uploads.len() < 4 => self.begin_upload(),
            0..400 if !self.uploads.is_empty() => {
                let which = self.rng.random_range(0..self.uploads.len());
                // Slow is what a client sends; once a coordinator has it all, the rest goes fast.
                let is_slow = self.uploads[which].is_slow
                    && matches!(self.uploads[which].stage, Stage::Write(_) | Stage::Second(_));
                if !is_slow || self.rng.random_bool(0.06) {
                    self.step_upload(which);
                }
            }
            0..760 => self.step_collection(at),
            760..870 => self.step_repair(at),
            870..900 => {
                if !self.on_their_way.is_empty() {
                    let which = self.rng.random_range(0..self.on_their_way.len());
                    let (_, action) = self.on_their_way.swap_remove(which);
                    self.commit(action);
                }
            }
            900..930 => {
                let blob = format!("b{}", self.rng.random_range(0..NAMES));
                self.commit(BlobAction::Delete {
                    container: "c".into(),
                    blob,
                    condition: Condition::default(),
                });
            }
            930..950 => {
                let to = self.rng.random_range(self.coordinators[at].applied..=self.log.len());
                self.catch_up(at, to);
            }
            950..952 => {
                let hours = self.rng.random_range(-2_i64..=2);
                self.coordinators[at].offset_ms = hours * 3_600_000;
            }
            952..956 => self.lose_disk(at),
            956..966 => self.crash(at),
            966..972 => self.now += self.rng.random_range(0..2 * GRACE),
            _ => self.commit(BlobAction::Sweep),
        }
        self.now += self.rng.random_range(0..2_000);
        let now = self.now;
        // It is lost then: whoever sent it has long been told.
        self.on_their_way.retain(|(until, _)| *until >= now);
    }

    fn run(mut self) -> Result<World, String> {
        for step in 0..STEPS {
            self.step();
            if let Some(id) = self.unreadable() {
                return Err(format!("step {step}: {id} is referred to and gone"));
            }
        }
        Ok(self)
    }

    /// Nothing else happens: then repair makes two of everything, and collection leaves nothing else.
    fn settle(mut self) -> Result<(), String> {
        self.uploads.clear();
        self.on_their_way.clear();
        for _ in 0..12 {
            for at in 0..COORDINATORS {
                self.catch_up(at, self.log.len());
                self.coordinators[at].repairing = None;
                self.step_repair(at);
                while self.coordinators[at].repairing.is_some() {
                    self.step_repair(at);
                }
                self.step_collection(at);
                while self.coordinators[at].collecting.is_some() {
                    self.step_collection(at);
                }
            }
            // Clocks were wrong by hours, and what they stamped is in the future until then.
            self.now += 30 * GRACE;
        }
        let needed = self.needed();
        for id in &needed {
            let count = self.coordinators.iter().filter(|one| one.disk.files.contains_key(id)).count();
            if count < 2 {
                return Err(format!("{id} lies on {count} coordinators after repair"));
            }
        }
        let waste = |one: &Coordinator| one.disk.files.keys().filter(|id| !needed.contains(id)).count();
        match self.coordinators.iter().map(waste).sum::<usize>() {
            0 => Ok(()),
            waste => Err(format!("{waste} chunks that nothing refers to are left")),
        }
    }
}

#[test]
fn no_crash_point_makes_a_manifest_unreadable() {
    let wanted = std::env::var("LOTE_CRASH_POINTS").ok().and_then(|text| text.parse().ok()).unwrap_or(600);
    let (mut crashes, mut removed, mut copied) = (0, 0, 0);
    let mut seed = 0;
    while crashes < wanted {
        let world = World::new(seed, Plant::Nothing).run().unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        crashes += world.crashes;
        removed += world.removed;
        copied += world.copied;
        world.settle().unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        seed += 1;
    }
    println!("{crashes} crash points in {seed} runs, {removed} chunks removed, {copied} copies made");
    assert!(removed > 0 && copied > 0, "{removed} {copied}");
}

#[test]
fn every_planted_fault_is_found() {
    for plant in [
        Plant::NoGrace,
        Plant::NoHold,
        Plant::NoLinearize,
        Plant::NoAdoption,
        Plant::NoTimeCheckAtRemoval,
        Plant::Unflushed,
    ] {
        let found = (0..4_000).find(|seed| World::new(*seed, plant).run().is_err());
        assert!(found.is_some(), "{plant:?} was not found");
        println!("{plant:?}: seed {found:?}");
    }
}
