//! Opening a log: replays all segments, cuts a torn tail, and refuses everything else that is not as written.

use super::disk::{Disk, File};
use super::index::{Index, Place};
use super::record::{Chain, Flaw, Record, State};
use super::segment::{self, HeadFlaw, Mark, Scan};
use super::{Error, io_error};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

const TEMPORARY_SUFFIX: &str = ".new";

/// The segment that is written to.
#[derive(Debug)]
pub(super) struct Current {
    pub number: u64,
    pub file: Arc<dyn File>,
    /// Where the next record goes.
    pub end: u64,
    /// Up to where it was synced.
    pub durable: u64,
    pub mark: Mark,
    pub chain: Chain,
}

pub(super) struct Recovered {
    pub index: Index,
    pub files: BTreeMap<u64, Arc<dyn File>>,
    pub segments: Segments,
    pub current: Current,
}

/// For each segment the greatest index of an entry in it, truncated or not.
pub(super) type Segments = BTreeMap<u64, Option<u64>>;

/// Reads what is there; makes the first segment if there is nothing and `may_create`.
pub(super) fn recover(disk: &dyn Disk, may_create: bool) -> Result<Recovered, Error> {
    let names = disk.list().map_err(|error| io_error(".", "list", error))?;
    for name in names.iter().filter(|name| name.ends_with(TEMPORARY_SUFFIX)) {
        // A segment that was being made; nothing was written to it that anybody was promised.
        disk.remove(name).map_err(|error| io_error(name, "remove", error))?;
    }
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment::file_number(name)).collect();
    numbers.sort_unstable();
    let Some((&first, &last)) = numbers.first().zip(numbers.last()) else {
        if !may_create {
            return Err(Error::Missing);
        }
        let current = create(disk, 1, Chain::default(), State::default())?;
        let files = BTreeMap::from([(1, current.file.clone())]);
        let segments = Segments::from([(1, None)]);
        return Ok(Recovered { index: Index::default(), files, segments, current });
    };
    if let Some(gap) = (first..=last).find(|number| !numbers.contains(number)) {
        return Err(Error::MissingSegment { file: segment::file_name(gap) });
    }
    let mut replay =
        Replay { index: Index::default(), files: BTreeMap::new(), segments: Segments::new(), chain: None };
    let mut current = None;
    for number in first..=last {
        current = Some(replay.segment(disk, number, number == last)?);
    }
    let Replay { index, files, segments, .. } = replay;
    let current = current.ok_or(Error::Missing)?;
    index.check_complete().map_err(|why| Error::Damaged {
        file: segment::file_name(first),
        offset: segment::RECORDS_AT,
        why: why.to_string(),
    })?;
    Ok(Recovered { index, files, segments, current })
}

/// Makes a segment that is complete and durable before it gets its name.
pub(super) fn create(disk: &dyn Disk, number: u64, chain: Chain, state: State) -> Result<Current, Error> {
    let name = segment::file_name(number);
    let temporary = format!("{name}{TEMPORARY_SUFFIX}");
    let (bytes, chain) = segment::begin(number, chain, state);
    let end = bytes.len() as u64;
    let mark = Mark { sequence: 1, end, sealed: false };
    let file = disk.create(&temporary).map_err(|error| io_error(&temporary, "create", error))?;
    file.write_at(0, &bytes)
        .and_then(|()| Mark { sequence: 0, ..mark }.write(&*file))
        .and_then(|()| mark.write(&*file))
        .and_then(|()| file.sync())
        .map_err(|error| io_error(&temporary, "write", error))?;
    disk.rename(&temporary, &name)
        .and_then(|()| disk.sync())
        .map_err(|error| io_error(&name, "create", error))?;
    Ok(Current { number, file, end, durable: end, mark, chain })
}

struct Replay {
    index: Index,
    files: BTreeMap<u64, Arc<dyn File>>,
    segments: Segments,
    /// Chain value at the end of the segment before; the oldest segment is taken at its word.
    chain: Option<Chain>,
}

impl Replay {
    fn segment(&mut self, disk: &dyn Disk, number: u64, is_last: bool) -> Result<Current, Error> {
        let name = segment::file_name(number);
        let damaged = |offset: u64, why: &dyn std::fmt::Display| Error::Damaged {
            file: name.clone(),
            offset,
            why: why.to_string(),
        };
        let file = disk.open(&name).map_err(|error| io_error(&name, "open", error))?;
        let size = file.size().map_err(|error| io_error(&name, "read", error))?;
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| damaged(0, &"it is too large"))?];
        file.read_at(0, &mut bytes).map_err(|error| io_error(&name, "read", error))?;
        let head = segment::read_head(number, &bytes).map_err(|flaw| match flaw {
            HeadFlaw::Newer(found) => Error::NewerFormat { found, supported: segment::VERSION },
            flaw => damaged(0, &flaw),
        })?;
        if self.chain.is_some_and(|chain| chain != head.chain) {
            return Err(damaged(0, &Flaw::Chain));
        }
        if is_last && head.mark.sealed {
            return Err(Error::MissingSegment { file: segment::file_name(number + 1) });
        }
        let mut scan = Scan::new(Bytes::from(bytes), head.chain);
        let mut is_first_record = true;
        let mut greatest = None;
        let flaw = loop {
            match scan.step() {
                Err(flaw) => break Some(flaw),
                Ok(None) => break None,
                Ok(Some((record, offset, size))) => {
                    if is_first_record != matches!(record, Record::State(_)) {
                        return Err(damaged(offset, &"the state does not stand first, and once"));
                    }
                    is_first_record = false;
                    if let Record::Entry(entry) = &record {
                        greatest = greatest.max(Some(entry.id.index));
                    }
                    let place = Place { segment: number, offset, size };
                    self.index.apply(&record, Some(place), false).map_err(|why| damaged(offset, &why))?;
                }
            }
        };
        let end = scan.offset();
        let promised = head.mark.end;
        if end < promised {
            return Err(match flaw {
                // The file is whole as far as it goes: its tail was lost.
                None | Some(Flaw::Short) if size < promised => {
                    Error::BehindMark { file: name, end, mark: promised }
                }
                flaw => damaged(end, &flaw.unwrap_or(Flaw::Short)),
            });
        }
        if let Some(flaw) = flaw {
            if !is_last {
                return Err(damaged(end, &flaw));
            }
            tracing::warn!(file = name, from = end, to = size, %flaw, "cutting a torn tail that was never acknowledged");
            file.truncate(end)
                .and_then(|()| file.sync())
                .map_err(|error| io_error(&name, "cut the tail of", error))?;
        }
        self.chain = Some(scan.chain());
        self.files.insert(number, file.clone());
        self.segments.insert(number, greatest);
        // What was readable may still be in the page cache only, if the process was killed before its sync.
        let durable = promised;
        Ok(Current { number, file, end, durable, mark: head.mark, chain: scan.chain() })
    }
}
