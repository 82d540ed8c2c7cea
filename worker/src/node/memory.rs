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
        let (_, records) = Journal::<Record>::open(&path)?;
        let mut records = records.into_iter();
        let Some(Record::Node { boot: written, grant }) = records.next() else { return Ok(None) };
        let same_boot = written == boot;
        let notes = condense(records.filter_map(|record| match record {
            Record::Note(Note::StartTask { .. }) if !same_boot => None,
            Record::Note(note) => Some(note),
            Record::Node { .. } => None,
        }));
        let memory = write(directory, boot, &grant, notes.clone())?;
        Ok(Some((memory, Found { grant, notes, same_boot })))
    }

    pub fn append(&mut self, notes: Vec<Note>) -> io::Result<()> {
        let records: Vec<Record> = notes.into_iter().map(Record::Note).collect();
        self.journal.append(&records)?;
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
            *self = write(&self.directory.clone(), self.boot, grant, condense(notes))?;
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
    Ok(Memory { journal, directory: directory.to_owned(), boot, grant: grant.clone(), compacted_bytes })
}
