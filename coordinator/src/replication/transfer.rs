//! Snapshots between coordinators, each on a stream of its own, so that heartbeats do not wait behind it.
//!
//! The file goes as it lies on the disk, after a small head. The receiver believes nothing: the length is bounded,
//! position and membership are read out of the file itself, and the file is verified to its last byte and filled into
//! a fresh store before the state is replaced by that. Whatever fails until then, a full disk above all, is refused: the
//! sender comes back, and meanwhile everything is as it was.

use super::applier;
use super::machine::Machine;
use super::snapshot::{self, SnapshotFile};
use super::state_machine::StateMachine;
use super::types::{MemberId, Types};
use super::wire::{SnapshotAnswer, SnapshotHead};
use lote_shared::network::{Network, OpenError, PeerId, Protocol, Stream, StreamError};
use openraft::{Raft, Snapshot, Vote};
use std::io;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// The largest snapshot that is taken in.
const SIZE_MAX: u64 = 1024 * 1024 * 1024 * 1024;
const PIECE_BYTES: usize = 256 * 1024;
/// Bytes written between two looks at what is left of the disk.
const LOOK_EVERY_BYTES: u64 = 4 * 1024 * 1024;
/// What a snapshot and the store that it is filled into take, in sizes of the snapshot.
const ROOM_FACTOR: u64 = 3;
/// A transfer in which nothing moves for so long is given up.
const STALL_AFTER: Duration = Duration::from_secs(20);
/// Installing fills a fresh store with every row, which may take its time.
const INSTALL_WITHIN: Duration = Duration::from_secs(30 * 60);

/// Why a snapshot did not get to where it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("snapshot file: {0}")]
    File(#[from] io::Error),
    #[error("nothing moved for {} s", STALL_AFTER.as_secs())]
    Stalled,
    #[error("refused: {0}")]
    Refused(String),
    #[error("it is said to have {0} bytes")]
    TooLarge(u64),
    #[error("raft: {0}")]
    Raft(String),
    #[error("the stream ended before the transfer did")]
    Ended,
    #[error(transparent)]
    Snapshot(#[from] snapshot::Error),
    #[error("there is no room on the disk for a snapshot of {0} bytes")]
    NoRoom(u64),
    #[error("it cannot be prepared: {0}")]
    Prepare(#[from] applier::Error),
}

async fn moving<T, E: Into<Error>>(step: impl Future<Output = Result<T, E>>) -> Result<T, Error> {
    match tokio::time::timeout(STALL_AFTER, step).await {
        Ok(result) => result.map_err(Into::into),
        Err(_) => Err(Error::Stalled),
    }
}

/// Sends a snapshot and waits until it is installed; answers the receiver's vote.
pub async fn send(
    network: &Network,
    to: PeerId,
    vote: Vote<MemberId>,
    name: &str,
    snapshot: &SnapshotFile,
) -> Result<Vote<MemberId>, Error> {
    // Once open the file stays, also when a newer snapshot takes its place.
    let mut file = File::open(&snapshot.path).await?;
    let size_bytes = file.metadata().await?.len();
    let mut stream = network.open(to, Protocol::Snapshot).await?;
    moving(stream.send(&SnapshotHead { vote: vote.into(), name: name.to_owned(), size_bytes })).await?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut left = size_bytes;
    while left > 0 {
        let take = usize::try_from(left).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        file.read_exact(&mut piece[..take]).await?;
        moving(stream.write_all(&piece[..take])).await?;
        left -= take as u64;
    }
    moving(stream.flush()).await?;
    let answer = tokio::time::timeout(INSTALL_WITHIN, stream.receive::<SnapshotAnswer>()).await;
    match answer.map_err(|_| Error::Stalled)?? {
        Some(SnapshotAnswer::Done(vote)) => Ok(vote.into()),
        Some(SnapshotAnswer::Refused(why)) => Err(Error::Refused(why)),
        None => Err(Error::Ended),
    }
}

/// Takes in the snapshot that a stream brings, and answers.
pub async fn receive<C: Types, M: Machine>(
    raft: &Raft<C>,
    machine: &StateMachine<M>,
    stream: &mut Stream,
    is_speaker: impl Fn(MemberId) -> bool,
) -> Result<(), Error> {
    let head: SnapshotHead = moving(stream.receive()).await?.ok_or(Error::Ended)?;
    let result = if is_speaker(head.vote.member) {
        take_in(raft, machine, stream, &head).await
    } else {
        Err(Error::Refused(format!("this peer is not member {}", head.vote.member)))
    };
    let answer = match &result {
        Ok(vote) => SnapshotAnswer::Done((*vote).into()),
        Err(error) => SnapshotAnswer::Refused(error.to_string()),
    };
    moving(stream.send(&answer)).await?;
    stream.close().await;
    result.map(drop)
}

async fn take_in<C: Types, M: Machine>(
    raft: &Raft<C>,
    machine: &StateMachine<M>,
    stream: &mut Stream,
    head: &SnapshotHead,
) -> Result<Vote<MemberId>, Error> {
    if head.size_bytes > SIZE_MAX {
        return Err(Error::TooLarge(head.size_bytes));
    }
    // The sender comes back again and again, so it is told before it has sent everything.
    if !machine.room().has(head.size_bytes.saturating_mul(ROOM_FACTOR)) {
        return Err(Error::NoRoom(head.size_bytes));
    }
    let file = raft.begin_receiving_snapshot().await.map_err(|error| Error::Raft(error.to_string()))?;
    let path = file.path.clone();
    let installed = fill_and_install(raft, machine, stream, head, file).await;
    // What is installed is nothing to be discarded any more.
    let _ = machine.discard().await;
    // An installed one was renamed; one that was not needed or is no good goes, if it was created at all.
    let _ = tokio::fs::remove_file(&path).await;
    installed
}

async fn fill_and_install<C: Types, M: Machine>(
    raft: &Raft<C>,
    machine: &StateMachine<M>,
    stream: &mut Stream,
    head: &SnapshotHead,
    file: Box<SnapshotFile>,
) -> Result<Vote<MemberId>, Error> {
    let mut out = File::create(&file.path).await?;
    let mut piece = vec![0; PIECE_BYTES];
    let (mut left, mut allowed) = (head.size_bytes, 0);
    while left > 0 {
        if allowed == 0 {
            if !machine.room().has(LOOK_EVERY_BYTES) {
                return Err(Error::NoRoom(head.size_bytes));
            }
            allowed = LOOK_EVERY_BYTES;
        }
        let room = usize::try_from(left).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        let taken = moving(stream.read(&mut piece[..room])).await?;
        if taken == 0 {
            return Err(Error::Ended);
        }
        out.write_all(&piece[..taken]).await?;
        left -= taken as u64;
        allowed = allowed.saturating_sub(taken as u64);
    }
    out.flush().await?;
    drop(out);
    let arrived = file.clone();
    let verified = tokio::task::spawn_blocking(move || snapshot::verify(&arrived)).await;
    let position = verified.map_err(|error| Error::Raft(error.to_string()))??;
    let meta = position.snapshot_meta();
    if meta.snapshot_id != head.name {
        let why = format!("`{}` was announced and `{}` arrived", head.name, meta.snapshot_id);
        return Err(Error::Refused(why));
    }
    machine.prepare((*file).clone()).await?;
    let snapshot = Snapshot { meta, snapshot: file };
    let installing = raft.install_full_snapshot(head.vote.into(), snapshot);
    let response = tokio::time::timeout(INSTALL_WITHIN, installing).await.map_err(|_| Error::Stalled)?;
    Ok(response.map_err(|error| Error::Raft(error.to_string()))?.vote)
}
