//! What a worker and its keeper say to each other over the Unix socket.
//!
//! **Frozen.** A worker of a newer build talks to the keeper an older build started, so this protocol has a version
//! of its own and only grows at the end of its enums; a keeper that reads an unknown request drops the connection
//! and goes on holding its processes. Nothing of Lote's model appears here: an attempt is a `key` (a short text)
//! and a `context` (bytes only the worker understands, handed back after a restart).
//!
//! A frame is a 32-bit little-endian length and that many bytes, the codec's encoding of a *batch* of messages.
//! Times are milliseconds of `CLOCK_BOOTTIME`, which both sides read and which counts on while a machine sleeps.

use lote_shared::protocol::codec;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::{self, Read, Write};

/// Version of this protocol.
pub const VERSION: u8 = 1;

/// Largest frame; one spawn request with its context is far below.
pub const FRAME_LIMIT_BYTES: u32 = 16 * 1024 * 1024;

/// Largest key; keys stand in the environment of every process of an attempt.
pub const KEY_LENGTH_MAX: usize = 120;

/// A process to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spawn {
    pub key: String,
    /// Program and arguments. A program without `/` is looked up in `PATH` of `environment`; one with `/` is
    /// relative to `directory`.
    pub arguments: Vec<String>,
    /// The whole environment as names and values; the keeper adds its marker.
    pub environment: Vec<(String, String)>,
    pub directory: String,
    /// Created or truncated before the process starts.
    pub stdout: String,
    pub stderr: String,
    /// Handed back by [`Event::Listing`].
    pub context: Vec<u8>,
    /// Processes that outlive the main one stay (services of a start task) until the key is ended.
    pub leave_children: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// First on a connection. A newer connection replaces an older one.
    Hello,
    Spawn(Box<Spawn>),
    /// Send one signal to every process of an attempt.
    Signal {
        key: String,
        signal: i32,
    },
    /// End an attempt's processes: SIGTERM, `grace_ms`, SIGKILL until none is left.
    End {
        key: String,
        grace_ms: u64,
    },
    /// Answered by [`Event::Listing`].
    List,
    /// Every attempt is killed when `CLOCK_BOOTTIME` reaches `at_ms`; a later request replaces an earlier one.
    /// `lease_ms` is also how long the keeper outlives its last connection while nothing runs.
    Deadline {
        at_ms: u64,
        lease_ms: u64,
    },
    /// The exit of this attempt need not be kept any longer.
    Acknowledge {
        key: String,
    },
    /// End everything with this grace and exit.
    Shutdown {
        grace_ms: u64,
    },
}

/// Who ended an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// Its main process ended by itself.
    Itself,
    /// [`Request::End`] or [`Request::Shutdown`].
    Asked,
    /// The deadline passed.
    Deadline,
}

/// How an attempt's processes ended. No process of the attempt is left, but for `survivors`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    pub key: String,
    /// The main process's exit code; 128 + n for death by signal n.
    pub exit_code: i32,
    pub cause: Cause,
    pub started_ms: u64,
    /// When the main process ended.
    pub ended_ms: u64,
    /// Processes that did not die of SIGKILL in time (stuck in the kernel).
    pub survivors: u32,
}

/// Why a process was not started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SpawnError {
    /// There is no such program.
    NotFound,
    /// It is there but could not be executed, or its streams could not be opened.
    Launch,
    /// The keeper is ending or has too much to do.
    Refused,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    pub key: String,
    pub started_ms: u64,
    pub context: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// Answer to [`Request::Hello`]. `boot` was drawn when this keeper started with nothing running.
    Hello {
        boot: u64,
        process: u32,
    },
    NotSpawned {
        key: String,
        error: SpawnError,
        message: String,
    },
    Exited(Exit),
    /// Everything held now: running attempts and exits not yet acknowledged, these with their context if this
    /// keeper started them.
    Listing {
        running: Vec<Running>,
        exited: Vec<(Exit, Vec<u8>)>,
    },
    /// The last word before the keeper exits.
    Bye,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("frame of {0} bytes exceeds the limit")]
    TooLarge(u64),
    #[error(transparent)]
    Codec(#[from] codec::Error),
}

/// A frame with its length in front.
pub fn encode<T: Serialize>(batch: &[T]) -> Result<Vec<u8>, Error> {
    let body = codec::encode(VERSION, &batch)?;
    let length = u32::try_from(body.len())
        .ok()
        .filter(|l| *l <= FRAME_LIMIT_BYTES)
        .ok_or(Error::TooLarge(body.len() as u64))?;
    let mut frame = Vec::with_capacity(body.len() + 4);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// The batch in a frame's body.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<Vec<T>, Error> {
    Ok(codec::decode(VERSION, body, u64::from(FRAME_LIMIT_BYTES))?)
}

/// The length a frame announces, checked.
pub fn frame_length(prefix: [u8; 4]) -> Result<usize, Error> {
    let length = u32::from_le_bytes(prefix);
    if length > FRAME_LIMIT_BYTES {
        return Err(Error::TooLarge(u64::from(length)));
    }
    Ok(length as usize)
}

/// Blocking read of one frame; `None` at the end of the stream.
pub fn read_frame<T: DeserializeOwned>(stream: &mut impl Read) -> Result<Option<Vec<T>>, Error> {
    let mut prefix = [0_u8; 4];
    match stream.read_exact(&mut prefix) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = frame_length(prefix)?;
    // Grows with what really arrives, not with what is announced.
    let mut body = Vec::new();
    stream.take(length as u64).read_to_end(&mut body)?;
    if body.len() < length {
        return Ok(None);
    }
    decode(&body).map(Some)
}

/// Blocking write of one frame.
pub fn write_frame<T: Serialize>(stream: &mut impl Write, batch: &[T]) -> Result<(), Error> {
    Ok(stream.write_all(&encode(batch)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of version 1: a keeper started by an old build must understand them for ever.
    #[test]
    fn the_protocol_is_frozen() {
        let spawn = Spawn {
            key: "3/17#1".into(),
            arguments: vec!["true".into()],
            environment: vec![("A".into(), "b".into())],
            directory: "/w".into(),
            stdout: "/o".into(),
            stderr: "/e".into(),
            context: vec![7],
            leave_children: false,
        };
        let requests = [
            Request::Hello,
            Request::Spawn(Box::new(spawn)),
            Request::Signal { key: "k".into(), signal: 15 },
            Request::End { key: "k".into(), grace_ms: 5 },
            Request::List,
            Request::Deadline { at_ms: 1, lease_ms: 2 },
            Request::Acknowledge { key: "k".into() },
            Request::Shutdown { grace_ms: 3 },
        ];
        let hex: String = encode(&requests).unwrap().iter().map(|b| format!("{b:02x}")).collect();
        expect_test::expect!["34000000010108000106332f313723310104747275650101410162022f77022f6f022f6501070002016b1e03016b050405010206016b0703"].assert_eq(&hex);
        let exit = Exit {
            key: "k".into(),
            exit_code: 143,
            cause: Cause::Deadline,
            started_ms: 1,
            ended_ms: 2,
            survivors: 0,
        };
        let events = [
            Event::Hello { boot: 9, process: 4 },
            Event::NotSpawned { key: "k".into(), error: SpawnError::Launch, message: "m".into() },
            Event::Exited(exit.clone()),
            Event::Listing {
                running: vec![Running { key: "k".into(), started_ms: 1, context: vec![1] }],
                exited: vec![(exit, vec![])],
            },
            Event::Bye,
        ];
        let hex: String = encode(&events).unwrap().iter().map(|b| format!("{b:02x}")).collect();
        expect_test::expect![
            "2900000001010500090401016b01016d02016bfb1e01020102000301016b01010101016bfb1e01020102000004"
        ]
        .assert_eq(&hex);
    }

    #[test]
    fn frames_are_bounded_and_whole() {
        let bytes = encode(&[Request::List, Request::Hello]).unwrap();
        assert_eq!(
            read_frame::<Request>(&mut &bytes[..]).unwrap(),
            Some(vec![Request::List, Request::Hello])
        );
        assert_eq!(read_frame::<Request>(&mut &bytes[..bytes.len() - 1]).unwrap(), None);
        assert_eq!(read_frame::<Request>(&mut &[][..]).unwrap(), None);
        assert!(matches!(read_frame::<Request>(&mut &[255, 255, 255, 255, 0][..]), Err(Error::TooLarge(_))));
    }
}
