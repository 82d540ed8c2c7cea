//! Exits on disk: an append file of checked frames, so that an exit survives the worker that should have heard of
//! it and the keeper that saw it. One `write` per exit, no fsync: a machine that loses power loses its tasks too.
//!
//! The file is emptied when nothing in it waits for an acknowledgement any more.

use super::wire::Exit;
use lote_shared::protocol::codec;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

const VERSION: u8 = 1;
/// An exit is well below this; anything longer in the file is damage.
const RECORD_LIMIT_BYTES: u32 = 4096;
/// Acknowledged exits are dropped once the file has grown to this.
const TRUNCATE_ABOVE_BYTES: u64 = 64 * 1024;

#[derive(Debug)]
pub struct Records {
    file: File,
    length: u64,
}

impl Records {
    /// Opens the file and returns the exits in it; a torn or damaged tail ends the reading.
    pub fn open(path: &Path) -> io::Result<(Records, Vec<Exit>)> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let (exits, length) = parse(&bytes);
        file.set_len(length)?;
        Ok((Records { file, length }, exits))
    }

    pub fn append(&mut self, exit: &Exit) -> io::Result<()> {
        let body = codec::encode(VERSION, exit).map_err(io::Error::other)?;
        let mut frame = Vec::with_capacity(body.len() + 8);
        frame.extend_from_slice(&u32::try_from(body.len()).map_err(io::Error::other)?.to_le_bytes());
        frame.extend_from_slice(&check(&body));
        frame.extend_from_slice(&body);
        self.file.write_all(&frame)?;
        self.length += frame.len() as u64;
        Ok(())
    }

    /// Called when no exit waits for its acknowledgement.
    pub fn all_acknowledged(&mut self) -> io::Result<()> {
        if self.length > TRUNCATE_ABOVE_BYTES {
            self.clear()?;
        }
        Ok(())
    }

    pub fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.length = 0;
        Ok(())
    }
}

fn check(body: &[u8]) -> [u8; 4] {
    let hash = blake3::hash(body);
    let mut check = [0; 4];
    check.copy_from_slice(&hash.as_bytes()[..4]);
    check
}

/// The whole records at the start of `bytes`, and how many bytes they take.
fn parse(bytes: &[u8]) -> (Vec<Exit>, u64) {
    let mut exits = Vec::new();
    let mut rest = bytes;
    while let Some((head, tail)) = rest.split_first_chunk::<8>() {
        let [a, b, c, d, hash @ ..] = *head;
        let length = u32::from_le_bytes([a, b, c, d]);
        let Some((body, next)) = tail.split_at_checked(length as usize) else { break };
        if length > RECORD_LIMIT_BYTES || check(body) != hash {
            break;
        }
        let Ok(exit) = codec::decode(VERSION, body, u64::from(RECORD_LIMIT_BYTES)) else { break };
        exits.push(exit);
        rest = next;
    }
    (exits, (bytes.len() - rest.len()) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::wire::Cause;

    fn exit(key: &str) -> Exit {
        Exit {
            key: key.into(),
            exit_code: 1,
            cause: Cause::Itself,
            started_ms: 2,
            ended_ms: 3,
            survivors: 0,
        }
    }

    #[test]
    fn exits_are_read_again_up_to_a_torn_or_damaged_tail() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("exits");
        let (mut records, found) = Records::open(&path).unwrap();
        assert!(found.is_empty());
        records.append(&exit("a")).unwrap();
        records.append(&exit("b")).unwrap();
        drop(records);

        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (_, found) = Records::open(&path).unwrap();
            let expected: &[Exit] = if cut < whole.len() / 2 { &[] } else { &[exit("a")] };
            assert_eq!(found, expected, "cut at {cut}");
        }
        for flipped in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[flipped] ^= 0x20;
            std::fs::write(&path, &bytes).unwrap();
            let (mut records, found) = Records::open(&path).unwrap();
            assert!(found.len() < 2, "byte {flipped} was flipped");
            records.append(&exit("c")).unwrap();
            let (_, again) = Records::open(&path).unwrap();
            assert_eq!(again.last(), Some(&exit("c")), "appended after the damaged tail was cut");
        }
    }
}
