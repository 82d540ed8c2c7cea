//! `lote recover --force-single`: the best state a folder still has becomes a cluster of one, under a new member number.
//!
//! Candidates are every snapshot that verifies, the state on sled if all of it does, and nothing at all; each is
//! brought forward by the entries of the log that can be read and follow without a gap. Whatever comes furthest is
//! taken. With several coordinators the log may hold entries that no quorum had; they are applied too: nobody was told
//! that they were not.

use super::applied::Applied;
use super::applier::{self, Applier, MemoryHome};
use super::folder::{Folder, io_error};
use super::found::{self, found};
use super::log::salvage::{Salvage, salvage};
use super::log::{self, EntryId, FolderDisk, Log};
use super::machine::{EngineMachine, Machine, load_cluster};
use super::snapshot::{self, SnapshotFile, Snapshots};
use super::types::{self, MemberId, TypeConfig};
use super::{Error, load_error};
use crate::engine::Engine;
use crate::state::Cluster;
use crate::store::{self, MemoryStore, SledStore, Store, SwitchStore};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SCRATCH: &str = "recovering.scratch";
const CACHE_BYTES: u64 = 64 * 1024 * 1024;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Number of the one member there is now.
    pub member: MemberId,
    /// Last entry in the state; `None` for an empty one.
    pub index: Option<u64>,
    /// Running hash of the state as of `index`, in hex.
    pub state_hash: String,
    /// What the state was made from.
    pub source: String,
    /// The last entry that the folder knows of, if that is further: what lies between is lost.
    pub known_until: Option<u64>,
    /// What is damaged or missing, in words.
    pub flaws: Vec<String>,
    /// The folder was a sound cluster of one already, and nothing was changed.
    pub unchanged: bool,
}

/// A state and where it came from.
struct Candidate {
    source: String,
    rows: Rows,
    applied: Applied,
    /// Where the log brings it.
    reach: Option<u64>,
}

enum Rows {
    None,
    Snapshot(SnapshotFile),
    Store(Arc<dyn Store>),
}

/// Recovers the folder of a coordinator that is not running.
pub fn force_single(root: &Path) -> Result<Recovery, Error> {
    if !root.is_dir() {
        let source = std::io::Error::from(std::io::ErrorKind::NotFound);
        return Err(Error::Io { path: root.to_owned(), source });
    }
    let (folder, mut flaws) = Folder::open_damaged(root)?;
    if found::is_unfinished(root) {
        found::finish(root)?;
    }
    let scratch = Scratch::new(root)?;
    let known = folder.member();
    if let Err(error) = &known {
        flaws.push(error.to_string());
    }
    let log_folder = root.join("raft/log");
    let found_log = match log_folder.is_dir() {
        true => salvage(&FolderDisk::open(&log_folder).map_err(io_error(&log_folder))?)
            .map_err(io_error(&log_folder))?,
        false => Salvage::default(),
    };
    if !found_log.found {
        flaws.push("the log is missing".to_owned());
    }
    flaws.extend(found_log.flaws.iter().cloned());
    // The judge of a log is whoever opens it at a start: what is missing as a whole shows only there.
    if found_log.found && found_log.flaws.is_empty() {
        let disk = FolderDisk::open(&log_folder).map_err(io_error(&log_folder))?;
        let options = log::Options { inline: true, may_create: false, ..log::Options::default() };
        if let Err(error) = Log::open(Arc::new(disk), &options) {
            flaws.push(error.to_string());
        }
    }
    let candidates = candidates(root, &found_log, &mut flaws);
    let best = candidates.into_iter().max_by_key(|candidate| (candidate.reach, candidate.applied.index()));
    let Some(best) = best else { return Err(Error::Raft("there is nothing to recover".to_owned())) };
    let source = best.source.clone();
    let (applied, store) = bring_forward(best, &found_log, &scratch.path, &mut flaws)?;

    if applied.id.is_none() && (found_log.greatest.is_some() || known.as_ref().ok() != Some(&None)) {
        return Err(Error::NothingLeft { path: root.to_owned() });
    }
    let greatest = found_log.greatest.map(|id| id.index);
    let members = found::members(&applied);
    let known = known.ok().flatten();
    let is_whole = flaws.is_empty() && greatest <= applied.index();
    let state_hash = applied.hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut recovery = Recovery {
        member: known.unwrap_or_default(),
        index: applied.index(),
        state_hash,
        source,
        known_until: greatest.filter(|_| greatest > applied.index()),
        flaws,
        unchanged: true,
    };
    if is_whole && known.is_some_and(|known| members.iter().eq([&known])) {
        return Ok(recovery);
    }
    let voted = found_log.vote.map(|vote| vote.node);
    // The state counts numbers that Raft never had: of members that were admitted, and gone before they were added.
    let given = load_cluster(&*store).map_err(load_error(root))?.last_member();
    let numbers = members.into_iter().chain(known).chain(voted).chain([given]);
    let next = numbers.max().unwrap_or(0).checked_add(1);
    recovery.member =
        next.ok_or_else(|| Error::Raft("there is no number left for a new member".to_owned()))?;
    recovery.unchanged = false;
    let term = found_log.vote.map_or(0, |vote| vote.term).max(found_log.greatest.map_or(0, |id| id.term));
    found(root, recovery.member, term, &applied, &*store)?;
    Ok(recovery)
}

/// Makes a folder, which must not exist yet, a cluster of one with the state of a snapshot file.
pub fn restore(snapshot: &Path, root: &Path) -> Result<Recovery, Error> {
    let folder = Folder::open_new(root)?;
    let scratch = Scratch::new(root)?;
    let store = SledStore::open(&scratch.path.join("state"), CACHE_BYTES)?;
    let applied = snapshot::load(&SnapshotFile { path: snapshot.to_owned() }, &store)?;
    applier::check_position(&store, &applied)?;
    let given = load_cluster(&store).map_err(load_error(snapshot))?.last_member();
    let greatest = found::members(&applied).into_iter().chain([given]).max().unwrap_or(0);
    let member = greatest.saturating_add(1);
    found(root, member, applied.id.map_or(0, |id| id.term), &applied, &store)?;
    drop(folder);
    Ok(Recovery {
        member,
        index: applied.index(),
        state_hash: applied.hash.iter().map(|byte| format!("{byte:02x}")).collect(),
        source: format!("snapshot {}", applied.name()),
        known_until: None,
        flaws: Vec::new(),
        unchanged: false,
    })
}

/// Reads a snapshot to its end and checks it; gives its position's index and hash, and its state.
pub fn read_snapshot(path: &Path) -> Result<(Option<u64>, String, Cluster), Error> {
    let store = MemoryStore::new();
    let applied = snapshot::load(&SnapshotFile { path: path.to_owned() }, &store)?;
    applier::check_position(&store, &applied)?;
    let hash = applied.hash.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((applied.index(), hash, load_cluster(&store).map_err(load_error(path))?))
}

/// The newest whole snapshot file of a running member's folder.
pub fn newest_snapshot(root: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(root.join("raft/snapshots")).ok()?;
    let names = entries.filter_map(|entry| Some(entry.ok()?.path()));
    // Names begin with the index in hex.
    names.filter(|path| path.extension().is_some_and(|extension| extension == "snapshot")).max()
}

fn candidates(root: &Path, log: &Salvage, flaws: &mut Vec<String>) -> Vec<Candidate> {
    let mut found = vec![(String::from("the log alone"), Rows::None, Applied::default())];
    let snapshots = fs::read_dir(root.join("raft/snapshots")).into_iter().flatten().flatten();
    for path in snapshots.map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.ends_with(".snapshot") && !name.ends_with(".damaged") {
            continue;
        }
        let file = SnapshotFile { path };
        match snapshot::verify(&file) {
            Ok(applied) => found.push((format!("snapshot {name}"), Rows::Snapshot(file), applied)),
            Err(error) => flaws.push(error.to_string()),
        }
    }
    match current_state(root) {
        Ok(Some((store, applied))) => {
            found.push(("the stored state".to_owned(), Rows::Store(store), applied));
        }
        Ok(None) => {}
        // It can be built again from the others, and is then no loss.
        Err(why) => tracing::warn!(why, "the stored state cannot be used"),
    }
    let candidates = found.into_iter().map(|(source, rows, applied)| {
        let reach = reach(&applied, log);
        Candidate { source, rows, applied, reach }
    });
    candidates.collect()
}

/// A store and what was applied to it.
type Stored = (Arc<dyn Store>, Applied);

fn current_state(root: &Path) -> Result<Option<Stored>, String> {
    let states = root.join("state");
    let Ok(name) = fs::read_to_string(states.join("current")) else { return Ok(None) };
    let folder = states.join(name.trim());
    if u64::from_str_radix(name.trim(), 16).is_err() || !folder.is_dir() {
        return Err("its folder is missing".to_owned());
    }
    let store: Arc<dyn Store> =
        Arc::new(SledStore::open(&folder, CACHE_BYTES).map_err(|error| error.to_string())?);
    let applied = applier::read_applied(&*store).map_err(|error| error.to_string())?;
    load_cluster(&*store).map_err(|error| error.to_string())?;
    Ok(Some((store, applied)))
}

/// The index that a state comes to by entries that follow it without a gap.
fn reach(applied: &Applied, log: &Salvage) -> Option<u64> {
    let same = |id: &EntryId| log.entries.get(&id.index).is_none_or(|entry| entry.id == *id);
    if !applied.id.as_ref().is_none_or(same) {
        return applied.index(); // The log tells another story.
    }
    let mut next = applied.index().map_or(0, |index| index + 1);
    let mut term = applied.id.map_or(0, |id| id.term);
    while let Some(entry) = log.entries.get(&next).filter(|entry| entry.id.term >= term) {
        term = entry.id.term;
        next += 1;
    }
    next.checked_sub(1)
}

/// Copies the rows and applies what follows. An entry that cannot be applied ends the story before it.
fn bring_forward(
    candidate: Candidate,
    log: &Salvage,
    scratch: &Path,
    flaws: &mut Vec<String>,
) -> Result<(Applied, Arc<dyn Store>), Error> {
    let mut reach = candidate.reach;
    for attempt in 0_u64.. {
        let store: Arc<dyn Store> =
            Arc::new(SledStore::open(&scratch.join(format!("state-{attempt}")), CACHE_BYTES)?);
        match &candidate.rows {
            Rows::None => {}
            Rows::Snapshot(file) => drop(snapshot::load(file, &*store)?),
            Rows::Store(from) => copy(&**from, &*store)?,
        }
        let switch = Arc::new(SwitchStore::new(store.clone()));
        let (engine, _queue) = Engine::new(Cluster::new(), switch.clone());
        let machine = Arc::new(EngineMachine::new(&engine, switch));
        machine.load(store.clone()).map_err(load_error(scratch))?;
        let snapshots = Snapshots::open(&scratch.join("snapshots"))?;
        let mut applier = Applier::open(machine, Box::new(MemoryHome), snapshots)?;
        let first = candidate.applied.index().map_or(0, |index| index + 1);
        let end = reach.map_or(0, |reach| reach + 1);
        let mut stuck = None;
        for entry in (first..end).map_while(|index| log.entries.get(&index)) {
            let applied =
                types::from_log::<TypeConfig>(entry).map_err(|error| error.to_string()).and_then(|entry| {
                    match applier.apply(&entry).map_err(Error::from) {
                        Ok(_) => Ok(Ok(())),
                        // Nothing is wrong with it, and all that follows would be lost.
                        Err(error) if error.unsupported().is_some() => Ok(Err(error)),
                        Err(error) => Err(error.to_string()),
                    }
                });
            match applied {
                Ok(usable) => usable?,
                Err(why) => {
                    stuck = Some((entry.id.index, why));
                    break;
                }
            }
        }
        match stuck {
            None => return Ok((applier.applied().clone(), store)),
            // What is in memory and on the store may be half of that entry.
            Some((index, why)) => {
                flaws.push(format!("entry {index} cannot be applied: {why}"));
                reach = index.checked_sub(1).filter(|before| Some(*before) >= candidate.applied.index());
            }
        }
    }
    Err(Error::Raft("no state could be made".to_owned()))
}

fn copy(from: &dyn Store, to: &dyn Store) -> Result<(), Error> {
    const BATCH: usize = 4_096;
    let mut batch = Vec::with_capacity(BATCH);
    for row in store::rows(from) {
        let (key, value) = row?;
        batch.push((key, Some(value)));
        if batch.len() == BATCH {
            to.write(&batch)?;
            batch.clear();
        }
    }
    Ok(to.write(&batch)?)
}

/// A folder for the time of the work.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new(root: &Path) -> Result<Scratch, Error> {
        let path = root.join(SCRATCH);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).map_err(io_error(&path))?;
        Ok(Scratch { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
