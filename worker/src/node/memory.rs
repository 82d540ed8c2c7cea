//! What a node remembers over a restart of the worker: an append file beside its root.
//!
//! The first record says which node this is and in which boot of the host it was made; [`Note`]s follow. The file
//! is written anew when it is opened, with only what still counts.

use super::machine::Note;
use super::retention::Place;
use crate::journal::Journal;
use lote_shared::model::BootId;
use lote_shared::protocol::host::NodeGrant;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

const FILE: &str = "state";
/// The file is written anew while it is in use, too, once it has grown to this and doubled.
const COMPACT_ABOVE_BYTES: u64 = 4 * 1024 * 1024;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Record {
    Node { boot: BootId, grant: NodeGrant },
    Note(Note),
}

/// Above this only the last word about each thing waits for room on the disk.
const WAITING_MAX: usize = 4_096;

/// What was found on disk.
#[derive(Debug)]
pub struct Found {
    pub grant: NodeGrant,
    /// Those about the start task only if they are of this boot.
    pub notes: Vec<Note>,
    pub same_boot: bool,
}

#[derive(Debug)]
pub struct Memory {
    journal: Journal<Record>,
    directory: PathBuf,
    boot: BootId,
    grant: NodeGrant,
    compacted_bytes: u64,
    /// Notes that the disk did not take yet.
    waiting: Vec<Note>,
}

impl Memory {
    /// For a new node.
    pub fn create(directory: &Path, boot: BootId, grant: &NodeGrant) -> io::Result<Memory> {
        std::fs::create_dir_all(directory)?;
        write(directory, boot, grant, Vec::new())
    }

    /// For a node that was here before; `None` if the directory holds none.
    pub fn open(directory: &Path, boot: BootId) -> io::Result<Option<(Memory, Found)>> {
        let path = directory.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let (journal, records) = Journal::<Record>::open(&path)?;
        let mut records = records.into_iter();
        let Some(Record::Node { boot: written, grant }) = records.next() else { return Ok(None) };
        let same_boot = written == boot;
        let notes = condense(records.filter_map(|record| match record {
            Record::Note(Note::StartTask { .. }) if !same_boot => None,
            Record::Note(note) => Some(note),
            Record::Node { .. } => None,
        }));
        let memory = write(directory, boot, &grant, notes.clone()).unwrap_or_else(|error| {
            // On a full disk the node goes on with the file it has: without it, its ended tasks would run again.
            tracing::warn!(path = %path.display(), %error, "the node's memory is not written anew");
            let compacted_bytes = journal.length();
            let (directory, grant) = (directory.to_owned(), grant.clone());
            Memory { journal, directory, boot, grant, compacted_bytes, waiting: Vec::new() }
        });
        Ok(Some((memory, Found { grant, notes, same_boot })))
    }

    /// What could not be written is kept and written with the next notes.
    pub fn append(&mut self, notes: Vec<Note>) -> io::Result<()> {
        self.waiting.extend(notes);
        if self.waiting.len() > WAITING_MAX {
            self.waiting = condense(std::mem::take(&mut self.waiting).into_iter());
        }
        let records: Vec<Record> = self.waiting.iter().cloned().map(Record::Note).collect();
        self.journal.append(&records)?;
        self.waiting.clear();
        if self.journal.length() > COMPACT_ABOVE_BYTES.max(2 * self.compacted_bytes)
            && let Some((memory, _)) = Memory::open(&self.directory.clone(), self.boot)?
        {
            *self = memory;
        }
        Ok(())
    }

    /// The leader changed the grant.
    pub fn set_grant(&mut self, grant: &NodeGrant) -> io::Result<()> {
        if *grant != self.grant {
            let (_, records) = Journal::<Record>::open(&self.directory.join(FILE))?;
            let notes = records.into_iter().filter_map(|record| match record {
                Record::Note(note) => Some(note),
                Record::Node { .. } => None,
            });
            let notes = condense(notes.chain(self.waiting.iter().cloned()));
            *self = write(&self.directory.clone(), self.boot, grant, notes)?;
        }
        Ok(())
    }
}

/// Only the last word about each thing.
fn condense(notes: impl Iterator<Item = Note>) -> Vec<Note> {
    let mut start = None;
    let mut kept: BTreeMap<Place, Note> = BTreeMap::new();
    for note in notes {
        match note {
            Note::StartTask { .. } => start = Some(note),
            Note::Kept(ref place, _) => {
                kept.insert(place.clone(), note);
            }
            Note::Removed(place) => {
                kept.remove(&place);
            }
        }
    }
    start.into_iter().chain(kept.into_values()).collect()
}

/// Beside the old file, then in its place.
fn write(directory: &Path, boot: BootId, grant: &NodeGrant, notes: Vec<Note>) -> io::Result<Memory> {
    let temporary = directory.join("state.new");
    let _ = std::fs::remove_file(&temporary);
    let (mut journal, _) = Journal::open(&temporary)?;
    let first = Record::Node { boot, grant: grant.clone() };
    let records: Vec<Record> = std::iter::once(first).chain(notes.into_iter().map(Record::Note)).collect();
    journal.append(&records)?;
    std::fs::rename(&temporary, directory.join(FILE))?;
    let compacted_bytes = journal.length();
    let (directory, grant) = (directory.to_owned(), grant.clone());
    Ok(Memory { journal, directory, boot, grant, compacted_bytes, waiting: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::retention::Kept;
    use crate::small_disk::SmallDisk;
    use lote_shared::model::{AccountId, NodeKey, TaskKey};

    fn grant() -> NodeGrant {
        NodeGrant {
            node: NodeKey(3),
            node_id: "tvm-3".to_owned(),
            pool_id: "pool".to_owned(),
            account: AccountId(1),
            account_name: "local".to_owned(),
            account_url: "http://batch".to_owned(),
            dedicated: true,
            slots: 1,
            cores: 1,
            start_task: None,
        }
    }

    fn kept(task: u64) -> Note {
        let place = Place { job_id: "j".repeat(500), task_id: format!("t{task}") };
        Note::Kept(place, Kept { task: TaskKey(task), expires: None })
    }

    #[test]
    fn notes_wait_for_room_on_a_full_disk_and_the_node_is_found_meanwhile() {
        let Some(disk) = SmallDisk::mount(64) else { return };
        let directory = disk.path().join("tvm-3");
        let mut memory = Memory::create(&directory, BootId(1), &grant()).unwrap();
        memory.append(vec![kept(1)]).unwrap();
        disk.fill(0);
        memory.append((2..20).map(kept).collect()).unwrap_err();
        // A worker that starts now finds the node as far as it was written.
        let (found, known) = Memory::open(&directory, BootId(1)).unwrap().unwrap();
        assert_eq!((known.grant, known.notes), (grant(), vec![kept(1)]));
        drop(found);
        disk.make_room();
        memory.append(vec![kept(20)]).unwrap();
        let (_, known) = Memory::open(&directory, BootId(1)).unwrap().unwrap();
        assert_eq!(known.notes.len(), 20);
    }
}
