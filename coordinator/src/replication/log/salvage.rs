//! Reading what a damaged log still has, for `lote recover`: nothing is written and nothing is refused.
//!
//! A segment is read from its start to its first flaw. What lies behind that in the same segment cannot be told from
//! garbage; the next segment names the chain value it continues, so it is readable again.

use super::disk::Disk;
use super::record::{Entry, EntryId, Record, State, Vote};
use super::segment::{self, Scan};
use bytes::Bytes;
use std::collections::BTreeMap;

/// What was found.
#[derive(Debug, Default)]
pub struct Salvage {
    /// Entries by index; there may be gaps.
    pub entries: BTreeMap<u64, Entry>,
    pub vote: Option<Vote>,
    /// The greatest position that the log itself, or its state, speaks of.
    pub greatest: Option<EntryId>,
    /// What is missing or unreadable, in words.
    pub flaws: Vec<String>,
    /// Whether there was a segment at all.
    pub found: bool,
}

/// Reads every segment as far as it goes.
pub fn salvage(disk: &dyn Disk) -> std::io::Result<Salvage> {
    let mut salvage = Salvage::default();
    let names = disk.list()?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment::file_number(name)).collect();
    numbers.sort_unstable();
    let mut expected = None;
    for number in numbers {
        let name = segment::file_name(number);
        for gap in expected.unwrap_or(number)..number {
            salvage.flaws.push(format!("log file `{}` is missing", segment::file_name(gap)));
        }
        expected = Some(number.saturating_add(1));
        salvage.found = true;
        if let Err(error) = salvage.segment(disk, number, &name) {
            salvage.flaws.push(format!("log file `{name}` cannot be read: {error}"));
        }
    }
    Ok(salvage)
}

impl Salvage {
    fn segment(&mut self, disk: &dyn Disk, number: u64, name: &str) -> std::io::Result<()> {
        let file = disk.open(name)?;
        let mut bytes = vec![0; usize::try_from(file.size()?).unwrap_or(0)];
        file.read_at(0, &mut bytes)?;
        let head = match segment::read_head(number, &bytes) {
            Ok(head) => head,
            Err(flaw) => {
                self.flaws.push(format!("log file `{name}`: {flaw}"));
                return Ok(());
            }
        };
        let mut scan = Scan::new(Bytes::from(bytes), head.chain);
        let flaw = loop {
            match scan.step() {
                Ok(Some((record, _, _))) => self.take(record),
                Ok(None) => break None,
                Err(flaw) => break Some(flaw),
            }
        };
        let end = scan.offset();
        match flaw {
            // A torn tail that was never promised is no damage.
            Some(_) if end >= head.mark.end => {}
            Some(flaw) => self.flaws.push(format!("log file `{name}` is damaged at offset {end}: {flaw}")),
            None if end < head.mark.end => {
                self.flaws
                    .push(format!("log file `{name}` ends at offset {end}, {} were written", head.mark.end));
            }
            None => {}
        }
        Ok(())
    }

    fn take(&mut self, record: Record) {
        match record {
            Record::State(state) => self.take_state(state),
            Record::Entry(entry) => {
                // A later write of a place takes everything behind it away.
                self.entries.split_off(&entry.id.index);
                while self.entries.last_key_value().is_some_and(|(_, last)| last.id.term > entry.id.term) {
                    self.entries.pop_last();
                }
                self.greatest = self.greatest.max(Some(entry.id));
                self.entries.insert(entry.id.index, entry);
            }
            Record::Vote(vote) => self.take_vote(vote),
            Record::Committed(id) => self.greatest = self.greatest.max(Some(id)),
            Record::Truncate { from, .. } => {
                self.entries.split_off(&from);
            }
            Record::Purge(id) => self.greatest = self.greatest.max(Some(id)),
        }
    }

    /// What the next segment says the log was when it began.
    fn take_state(&mut self, state: State) {
        if let Some(vote) = state.vote {
            self.take_vote(vote);
        }
        self.greatest = self.greatest.max(state.last);
        let Some(last) = state.last else { return };
        self.entries.split_off(&last.index.saturating_add(1));
        if self.entries.get(&last.index).is_some_and(|entry| entry.id != last) {
            // They were replaced where the damage is; which of them still hold cannot be said.
            self.entries.clear();
        }
    }

    fn take_vote(&mut self, vote: Vote) {
        if self.vote.is_none_or(|old| (old.term, old.node) < (vote.term, vote.node)) {
            self.vote = Some(vote);
        }
    }
}
