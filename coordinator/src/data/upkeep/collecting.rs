//! One pass of collection over this coordinator's folder.
//!
//! The folder is worked through in slices of as many sub-folders as hold [`SLICE_MAX`] chunks: a slice is listed, then
//! marked by a walk over everything that the state refers to. So memory does not grow with the store, while the lists of
//! all files are read once for each slice.

use super::super::collect::{Collector, Found, Removal, Slice};
use super::super::references::{self, Error};
use super::{Clock, Upkeep};
use lote_shared::chunks::ChunkId;
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Chunks of a slice, about 48 bytes each. A sub-folder with more alone is looked at in part.
const SLICE_MAX: usize = 512 * 1024;
/// Removals between two pauses.
const BREATH: usize = 64;
const PAUSE: Duration = Duration::from_millis(5);

/// What a pass came to.
#[derive(Debug, Default, Clone, Copy)]
struct Sum {
    chunks: u64,
    bytes: u64,
    unreferenced: u64,
    unreferenced_bytes: u64,
}

pub(super) async fn pass(upkeep: &Upkeep, collector: &mut Collector) -> Result<(), String> {
    let mut sum = Sum::default();
    let mut next = Some(0_u8);
    while let Some(first) = next {
        let held = upkeep.inner.api.chunks.oldest_hold().map(|age| age.as_millis() as u64);
        let slice = collector.begin(Clock::now(), held);
        let work = upkeep.clone();
        let (folders, mut found) = blocking(move || list(&work, first)).await?;
        // Everything that was acknowledged before is in the state that is looked at now.
        upkeep.inner.api.backend.linearize().await.map_err(|error| error.to_string())?;
        let work = upkeep.clone();
        found = blocking(move || mark(&work, found)).await?;
        for chunk in &found {
            sum.chunks += 1;
            sum.bytes += u64::from(chunk.bytes);
            if !chunk.referenced {
                sum.unreferenced += 1;
                sum.unreferenced_bytes += u64::from(chunk.bytes);
            }
        }
        next = folders.end().checked_add(1);
        if let Some(slice) = slice {
            let removals = collector.decide(slice, Clock::now(), folders, &found);
            let work = upkeep.clone();
            let (count, bytes) = blocking(move || remove(&work, slice, &removals)).await?;
            sum.unreferenced = sum.unreferenced.saturating_sub(count);
            sum.unreferenced_bytes = sum.unreferenced_bytes.saturating_sub(bytes);
            (sum.chunks, sum.bytes) = (sum.chunks.saturating_sub(count), sum.bytes.saturating_sub(bytes));
        }
        upkeep.inner.status.lock().collection.done = sum.chunks;
    }
    let mut status = upkeep.inner.status.lock();
    (status.chunks, status.bytes) = (sum.chunks, sum.bytes);
    (status.unreferenced, status.unreferenced_bytes) = (sum.unreferenced, sum.unreferenced_bytes);
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()))
}

fn ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The chunks of as many sub-folders as there is room for, in the order of their names.
fn list(upkeep: &Upkeep, first: u8) -> Result<(RangeInclusive<u8>, Vec<Found>), String> {
    let mut found = Vec::new();
    let mut last = first;
    for byte in first..=255 {
        let before = found.len();
        let listed = upkeep.inner.api.chunks.list(byte, |chunk| {
            if found.len() < SLICE_MAX {
                let bytes = u32::try_from(chunk.bytes).unwrap_or(u32::MAX);
                found.push(Found { id: chunk.id, written_ms: ms(chunk.written), bytes, referenced: false });
            }
        });
        listed.map_err(|error| error.to_string())?;
        last = byte;
        // Another like the last one would not fit.
        if found.len() + (found.len() - before) > SLICE_MAX {
            break;
        }
    }
    found.sort_unstable_by_key(|chunk: &Found| chunk.id);
    Ok((first..=last, found))
}

/// Notes which of them the state refers to.
fn mark(upkeep: &Upkeep, mut found: Vec<Found>) -> Result<Vec<Found>, String> {
    if found.is_empty() {
        return Ok(found);
    }
    let each = |id: ChunkId| {
        if let Ok(at) = found.binary_search_by_key(&id, |chunk| chunk.id) {
            found[at].referenced = true;
        }
    };
    let api = &upkeep.inner.api;
    let stopping = || upkeep.is_stopping();
    // One list that cannot be read, and it is not known what is referred to.
    references::for_each(&*api.backend, &api.chunks, &stopping, |error| Err(Error::List(error)), each)
        .map_err(|error| error.to_string())?;
    Ok(found)
}

/// Number and bytes of what was removed.
fn remove(upkeep: &Upkeep, slice: Slice, removals: &[Removal]) -> Result<(u64, u64), String> {
    let (mut count, mut bytes) = (0, 0);
    for (at, removal) in removals.iter().enumerate() {
        if upkeep.is_stopping() || upkeep.is_deferred() || !slice.stands(Clock::now()) {
            break;
        }
        let before = UNIX_EPOCH + Duration::from_millis(removal.before_ms);
        if upkeep.inner.api.chunks.remove_older(removal.id, before).map_err(|error| error.to_string())? {
            count += 1;
            bytes += u64::from(removal.bytes);
            let mut status = upkeep.inner.status.lock();
            status.collected += 1;
            status.collected_bytes += u64::from(removal.bytes);
        }
        if at % BREATH == BREATH - 1 {
            std::thread::sleep(PAUSE);
        }
    }
    Ok((count, bytes))
}
