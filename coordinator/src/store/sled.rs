//! [`Store`] on sled 0.34, trusted as little as it deserves (`docs/dependencies.md`).
//!
//! sled survives a killed process, but not power loss, and answers damage by panicking or by silently losing rows.
//! What is stored here can always be rebuilt from snapshot and log, so every doubt becomes [`Error::Damaged`] and
//! the caller moves the folder aside:
//!
//! * every call into sled runs under `catch_unwind`;
//! * a row's value is preceded by a CRC-32C over key and value, checked on every read;
//! * one more row holds how many rows there are and the sum of their checksums, changed in the same batch as the
//!   rows, so that a row that vanished is noticed when the store is opened and walked.
//!
//! Layout of the one tree: `[0]` → the totals, `[1] ++ key` → `crc32c ++ value`.

use super::{Error, Store, Write};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::thread;
use std::time::Duration;

const TOTALS_KEY: &[u8] = &[0];
const ROW_PREFIX: u8 = 1;
const CRC_SIZE: usize = 4;
/// Version, row count, checksum sum, and a CRC-32C of these.
const TOTALS_SIZE: usize = 1 + 8 + 8 + CRC_SIZE;
const TOTALS_VERSION: u8 = 1;

/// How often, and how far apart, a folder whose lock is still held is tried again. sled's own background threads keep
/// a folder that was just closed locked until their last work is done.
const LOCK_TRIES: u32 = 150;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// What the rows must add up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Totals {
    rows: u64,
    /// Wrapping sum of all rows' checksums; the order of rows does not matter.
    sum: u64,
}

impl Totals {
    fn add(&mut self, crc: u32) {
        self.rows = self.rows.wrapping_add(1);
        self.sum = self.sum.wrapping_add(u64::from(crc));
    }

    fn take(&mut self, crc: u32) {
        self.rows = self.rows.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(u64::from(crc));
    }

    fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(TOTALS_SIZE);
        out.push(TOTALS_VERSION);
        out.extend_from_slice(&self.rows.to_le_bytes());
        out.extend_from_slice(&self.sum.to_le_bytes());
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Totals> {
        let (body, crc) = bytes.split_last_chunk::<CRC_SIZE>()?;
        if bytes.len() != TOTALS_SIZE || crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let (version, body) = body.split_first()?;
        let (rows, sum) = body.split_first_chunk::<8>()?;
        let sum: [u8; 8] = sum.try_into().ok()?;
        (*version == TOTALS_VERSION)
            .then_some(Totals { rows: u64::from_le_bytes(*rows), sum: u64::from_le_bytes(sum) })
    }
}

/// One sled folder, opened by one process.
pub struct SledStore {
    db: ::sled::Db,
    /// Also keeps writers apart.
    totals: Mutex<Totals>,
}

impl fmt::Debug for SledStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledStore").field("totals", &self.totals.lock()).finish_non_exhaustive()
    }
}

impl SledStore {
    /// Opens or creates the folder and walks all of it. `Damaged` whenever anything is not as it was written.
    pub fn open(folder: &Path, cache_bytes: u64) -> Result<SledStore, Error> {
        let config = ::sled::Config::new()
            .path(folder)
            .cache_capacity(cache_bytes)
            .flush_every_ms(None)
            .mode(::sled::Mode::HighThroughput);
        let db = guard(|| open_unlocked(&config))?;
        let store = SledStore { db, totals: Mutex::new(Totals::default()) };
        let found = store.walk()?;
        *store.totals.lock() = found;
        Ok(store)
    }

    /// Checks every row and that they add up.
    fn walk(&self) -> Result<Totals, Error> {
        guard(|| {
            let mut found = Totals::default();
            let mut expected = None;
            for item in self.db.iter() {
                let (key, value) = item?;
                match key.split_first() {
                    Some((&ROW_PREFIX, _)) => match open_row(&key, &value) {
                        Some((crc, _)) => found.add(crc),
                        None => return Ok(Err(damaged_row(&key))),
                    },
                    _ if key == TOTALS_KEY => match Totals::decode(&value) {
                        Some(totals) => expected = Some(totals),
                        None => return Ok(Err(Error::Damaged("the row of totals is unreadable".to_owned()))),
                    },
                    _ => return Ok(Err(damaged_row(&key))),
                }
            }
            let expected = expected.unwrap_or_default();
            Ok(if found == expected {
                Ok(found)
            } else {
                Err(Error::Damaged(format!(
                    "{} rows with sum {:x} found where {} rows with sum {:x} were written",
                    found.rows, found.sum, expected.rows, expected.sum
                )))
            })
        })?
    }
}

impl Store for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let key = row_key(key);
        match guard(|| self.db.get(&key))? {
            None => Ok(None),
            Some(stored) => match open_row(&key, &stored) {
                Some((_, value)) => Ok(Some(value.to_vec())),
                None => Err(damaged_row(&key)),
            },
        }
    }

    fn scan(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Error> {
        if end.is_some_and(|end| end <= start) {
            return Ok(());
        }
        // After the last possible row key comes the next prefix.
        let end = end.map_or_else(|| vec![ROW_PREFIX + 1], row_key);
        let mut rows = guard(|| Ok(self.db.range(row_key(start)..end)))?;
        loop {
            // Only sled runs guarded: a panic of `each` is the caller's own.
            let Some((key, stored)) = guard(|| rows.next().transpose())? else {
                return Ok(());
            };
            let Some((_, value)) = open_row(&key, &stored) else {
                return Err(damaged_row(&key));
            };
            if !each(&key[1..], value) {
                return Ok(());
            }
        }
    }

    fn write(&self, batch: &[Write]) -> Result<(), Error> {
        // sled keeps no order within a batch, so the last write of each key is chosen here.
        let last: BTreeMap<&[u8], Option<&[u8]>> =
            batch.iter().map(|(key, value)| (key.as_slice(), value.as_deref())).collect();
        let mut totals = self.totals.lock();
        let mut after = *totals;
        guard(|| {
            let mut changes = ::sled::Batch::default();
            for (key, value) in last {
                let key = row_key(key);
                if let Some(old) = self.db.get(&key)? {
                    match open_row(&key, &old) {
                        Some((crc, _)) => after.take(crc),
                        None => return Ok(Err(damaged_row(&key))),
                    }
                }
                match value {
                    Some(value) => {
                        let (crc, stored) = close_row(&key, value);
                        after.add(crc);
                        changes.insert(key, stored);
                    }
                    None => changes.remove(key),
                }
            }
            changes.insert(TOTALS_KEY, after.encode());
            self.db.apply_batch(changes).map(Ok)
        })??;
        *totals = after;
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        guard(|| self.db.flush())?;
        Ok(())
    }
}

/// Opens the folder, waiting a while for whoever closed it last to let go of its lock.
fn open_unlocked(config: &::sled::Config) -> Result<::sled::Db, ::sled::Error> {
    for _ in 1..LOCK_TRIES {
        match config.open() {
            Err(::sled::Error::Io(error)) if is_locked(&error) => thread::sleep(LOCK_PAUSE),
            other => return other,
        }
    }
    config.open()
}

/// sled wraps the system's error into a text.
fn is_locked(error: &std::io::Error) -> bool {
    error.to_string().starts_with("could not acquire lock")
}

fn row_key(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + key.len());
    out.push(ROW_PREFIX);
    out.extend_from_slice(key);
    out
}

fn row_crc(key: &[u8], value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), value)
}

/// Checksum and stored form of a row; `key` with its prefix.
fn close_row(key: &[u8], value: &[u8]) -> (u32, Vec<u8>) {
    let crc = row_crc(key, value);
    let mut stored = Vec::with_capacity(CRC_SIZE + value.len());
    stored.extend_from_slice(&crc.to_le_bytes());
    stored.extend_from_slice(value);
    (crc, stored)
}

/// Checksum and value of a stored row, if they fit.
fn open_row<'a>(key: &[u8], stored: &'a [u8]) -> Option<(u32, &'a [u8])> {
    let (crc, value) = stored.split_first_chunk::<CRC_SIZE>()?;
    let crc = u32::from_le_bytes(*crc);
    (row_crc(key, value) == crc).then_some((crc, value))
}

fn damaged_row(key: &[u8]) -> Error {
    let hex: String = key.iter().take(24).map(|byte| format!("{byte:02x}")).collect();
    Error::Damaged(format!("row {hex} does not match its checksum"))
}

/// Calls into sled. A panic there means damage; so do sled's own words for it.
fn guard<T>(call: impl FnOnce() -> Result<T, ::sled::Error>) -> Result<T, Error> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(::sled::Error::Io(error))) if is_damage(&error) => Err(Error::Damaged(error.to_string())),
        Ok(Err(::sled::Error::Io(error))) => Err(Error::Io(error.to_string())),
        Ok(Err(error)) => Err(Error::Damaged(error.to_string())),
        Err(panic) => Err(Error::Damaged(format!("sled panicked: {}", panic_text(&*panic)))),
    }
}

fn is_damage(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a message")
}
