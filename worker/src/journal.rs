//! A small append file of checked records: length, check, bincode. One `write` per batch, no fsync: it has to survive
//! the death of a process, not of the machine, which loses its tasks anyway.
//!
//! Reading ends at the first torn or damaged record, and the file is cut there.

use lote_shared::protocol::codec;
use serde::{Serialize, de::DeserializeOwned};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::path::Path;

const VERSION: u8 = 1;
/// Anything longer in the file is damage.
const RECORD_LIMIT_BYTES: u32 = 1024 * 1024;

#[derive(Debug)]
pub struct Journal<T> {
    file: File,
    length: u64,
    /// Half a batch may stand behind `length`.
    torn: bool,
    records: PhantomData<fn(T)>,
}

impl<T: Serialize + DeserializeOwned> Journal<T> {
    /// Opens or makes the file and returns the records in it.
    pub fn open(path: &Path) -> io::Result<(Journal<T>, Vec<T>)> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let (records, length) = parse(&bytes);
        file.set_len(length)?;
        Ok((Journal { file, length, torn: false, records: PhantomData }, records))
    }

    /// All of the records, or none of them: after an error the same may be tried again.
    pub fn append(&mut self, records: &[T]) -> io::Result<()> {
        let mut frames = Vec::new();
        for record in records {
            let body = codec::encode(VERSION, record).map_err(io::Error::other)?;
            frames.extend_from_slice(&u32::try_from(body.len()).map_err(io::Error::other)?.to_le_bytes());
            frames.extend_from_slice(&check(&body));
            frames.extend_from_slice(&body);
        }
        if self.torn {
            self.file.set_len(self.length)?;
        }
        // What a full disk took of the batch would hide everything behind it from the next reader.
        self.torn = true;
        if let Err(error) = self.file.write_all(&frames) {
            self.torn = self.file.set_len(self.length).is_err();
            return Err(error);
        }
        self.torn = false;
        self.length += frames.len() as u64;
        Ok(())
    }

    /// Drops every record if the file has grown above `bytes`.
    pub fn clear_above(&mut self, bytes: u64) -> io::Result<()> {
        if self.length > bytes {
            self.file.set_len(0)?;
            self.length = 0;
            self.torn = false;
        }
        Ok(())
    }

    pub fn length(&self) -> u64 {
        self.length
    }
}

fn check(body: &[u8]) -> [u8; 4] {
    let hash = blake3::hash(body);
    let mut check = [0; 4];
    check.copy_from_slice(&hash.as_bytes()[..4]);
    check
}

/// The whole records at the start of `bytes`, and how many bytes they take.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> (Vec<T>, u64) {
    let mut records = Vec::new();
    let mut rest = bytes;
    while let Some((head, tail)) = rest.split_first_chunk::<8>() {
        let [a, b, c, d, hash @ ..] = *head;
        let length = u32::from_le_bytes([a, b, c, d]);
        let Some((body, next)) = tail.split_at_checked(length as usize) else { break };
        if length > RECORD_LIMIT_BYTES || check(body) != hash {
            break;
        }
        let Ok(record) = codec::decode(VERSION, body, u64::from(RECORD_LIMIT_BYTES)) else { break };
        records.push(record);
        rest = next;
    }
    (records, (bytes.len() - rest.len()) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_again_up_to_a_torn_or_damaged_tail() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("exits");
        let (mut journal, found) = Journal::<String>::open(&path).unwrap();
        assert!(found.is_empty());
        journal.append(&["a".to_owned(), "b".to_owned()]).unwrap();
        drop(journal);

        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (_, found) = Journal::<String>::open(&path).unwrap();
            let expected: &[&str] = if cut < whole.len() / 2 { &[] } else { &["a"] };
            assert_eq!(found, expected, "cut at {cut}");
        }
        for flipped in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[flipped] ^= 0x20;
            std::fs::write(&path, &bytes).unwrap();
            let (mut journal, found) = Journal::<String>::open(&path).unwrap();
            assert!(found.len() < 2, "byte {flipped} was flipped");
            journal.append(&["c".to_owned()]).unwrap();
            let (_, again) = Journal::<String>::open(&path).unwrap();
            assert_eq!(again.last().map(String::as_str), Some("c"), "appended behind the cut");
        }
    }

    #[test]
    fn a_full_disk_leaves_no_half_a_record_before_the_next() {
        let Some(disk) = crate::small_disk::SmallDisk::mount(64) else { return };
        let path = disk.path().join("exits");
        let (mut journal, _) = Journal::<String>::open(&path).unwrap();
        journal.append(&["first".to_owned()]).unwrap();
        // Its start fits into the page that the file has already.
        let long = "x".repeat(10_000);
        disk.fill(0);
        for _ in 0..3 {
            journal.append(std::slice::from_ref(&long)).unwrap_err();
        }
        journal.append(&["short".to_owned()]).unwrap();
        disk.make_room();
        journal.append(std::slice::from_ref(&long)).unwrap();
        let (_, found) = Journal::<String>::open(&path).unwrap();
        assert_eq!(found, ["first".to_owned(), "short".to_owned(), long]);
    }
}
