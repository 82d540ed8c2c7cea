//! The host's cache of chunks, which all its nodes and tasks share: how large it gets, and what goes first.
//!
//! Files are laid down from it, so what one task fetched another does not. When it is larger than its limit the chunks
//! that were used longest ago go. Whoever fetches or lays down holds the store and touches what it needs, and nothing that
//! was written or touched since the oldest hold began is removed: the cache is larger than its limit rather than short of
//! what a running fetch needs. Nothing depends on it: what is missing is fetched again.

use lote_shared::chunks::{self, ChunkId, ChunkStore, Manifest, read};
use std::time::{Duration, SystemTime};

const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Times of files are those of a coarse clock.
const MARGIN: Duration = Duration::from_secs(1);
/// What the default size is at most and at least.
const SIZE_MAX: u64 = 20 << 30;
const SIZE_MIN: u64 = 1 << 30;

/// The size of a cache whose owner was told none: a tenth of the disk, between 1 and 20 GiB.
pub fn default_size(disk_bytes: u64) -> u64 {
    (disk_bytes / 10).clamp(SIZE_MIN, SIZE_MAX)
}

/// A chunk in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cached {
    used: SystemTime,
    id: ChunkId,
    bytes: u64,
}

/// What goes, so that no more than this many bytes stay; a tenth more, so that not every look removes something. Nothing
/// used at or after `before` goes.
fn evictions(mut cached: Vec<Cached>, bytes_max: u64, before: SystemTime) -> Vec<ChunkId> {
    let mut bytes = cached.iter().map(|chunk| chunk.bytes).fold(0, u64::saturating_add);
    if bytes <= bytes_max {
        return Vec::new();
    }
    cached.sort_unstable_by_key(|chunk| (chunk.used, chunk.id));
    let goal = bytes_max - bytes_max / 10;
    let mut gone = Vec::new();
    for chunk in cached.iter().take_while(|chunk| chunk.used < before) {
        if bytes <= goal {
            break;
        }
        bytes = bytes.saturating_sub(chunk.bytes);
        gone.push(chunk.id);
    }
    gone
}

/// Marks all chunks of a file as used now; whether all of them are here. Blocks.
pub fn touch(cache: &ChunkStore, manifest: &Manifest) -> bool {
    let mut group = cache.cache_group();
    let mut all_here = true;
    let walked = read::references(cache, manifest, &mut |id| all_here &= group.adopt(id).is_ok());
    walked.is_ok() && all_here
}

/// Keeps the cache within its size, now and every minute.
pub async fn keep(cache: ChunkStore, bytes_max: u64) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    loop {
        ticks.tick().await;
        let cache = cache.clone();
        let swept = tokio::task::spawn_blocking(move || sweep(&cache, bytes_max)).await;
        if let Ok(Err(error)) = swept {
            tracing::warn!(%error, "the cache of chunks was not cleaned");
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "compared with the file system's times, which are this clock's"
)]
fn sweep(cache: &ChunkStore, bytes_max: u64) -> Result<(), chunks::Error> {
    let age = cache.oldest_hold().unwrap_or(Duration::ZERO).saturating_add(MARGIN);
    let Some(before) = SystemTime::now().checked_sub(age) else { return Ok(()) };
    let mut cached = Vec::new();
    for byte in 0..=255_u8 {
        cache.list(byte, |chunk| {
            cached.push(Cached { used: chunk.written, id: chunk.id, bytes: chunk.bytes });
        })?;
    }
    let gone = evictions(cached, bytes_max, before);
    // One that was touched since stays.
    gone.into_iter().try_for_each(|id| cache.remove_older(id, before).map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lote_shared::chunks::FileWriter;

    #[test]
    fn what_was_used_longest_ago_goes_first_and_nothing_young() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let chunk = |n: u8, used| Cached { used: at(used), id: ChunkId([n; 32]), bytes: 100 };
        let cached = vec![chunk(1, 30), chunk(2, 10), chunk(3, 20), chunk(4, 40)];
        let gone = |max, before| -> Vec<u8> {
            evictions(cached.clone(), max, at(before)).iter().map(|id| id.0[0]).collect()
        };
        assert!(gone(400, 100).is_empty());
        assert_eq!(gone(399, 100), [2]);
        assert_eq!(gone(210, 100), [2, 3, 1]);
        assert_eq!(gone(0, 100), [2, 3, 1, 4]);
        assert_eq!(gone(0, 30), [2, 3], "used since");
    }

    #[test]
    fn a_file_that_is_held_and_touched_stays_and_goes_later() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ChunkStore::open(folder.path()).unwrap();
        let file = |seed: u8| {
            let bytes = vec![seed; 3 * 1024 * 1024];
            FileWriter::cached(&cache, ()).copy_from(bytes.as_slice()).unwrap().0
        };
        let (old, needed) = (file(1), file(2));
        std::thread::sleep(MARGIN + Duration::from_millis(200));
        let hold = cache.hold();
        assert!(touch(&cache, &needed));
        std::thread::sleep(MARGIN + Duration::from_millis(200));
        sweep(&cache, 0).unwrap();
        assert!(!touch(&cache, &old));
        assert!(touch(&cache, &needed), "a hold that began before it was touched");
        drop(hold);
        std::thread::sleep(MARGIN + Duration::from_millis(200));
        sweep(&cache, 0).unwrap();
        assert!(!touch(&cache, &needed));
    }

    #[test]
    fn the_default_follows_the_disk() {
        assert_eq!(default_size(0), 1 << 30);
        assert_eq!(default_size(100 << 30), 10 << 30);
        assert_eq!(default_size(1 << 50), 20 << 30);
    }
}
