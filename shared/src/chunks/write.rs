//! Cutting a stream of bytes into chunks, in bounded memory.
//!
//! [`FileWriter`] blocks; [`Upload`] is its asynchronous form: one buffer fills while the chunk before it is hashed
//! and written on another thread, so a slow disk slows the sender down and an upload holds about three chunks.

use super::list::{Builder, Entry};
use super::manifest::{Manifest, Tree};
use super::store::Group;
use super::tree::{CHUNK, ChunkId, Folder, Position};
use super::{ChunkStore, Error};
use tokio::task::JoinHandle;

/// Sees all bytes of a file in order, on the thread that hashes them. For an MD5, say.
pub trait Tap: Send + 'static {
    fn data(&mut self, bytes: &[u8]);
}

impl Tap for () {
    fn data(&mut self, _bytes: &[u8]) {}
}

/// Writes one file chunk by chunk.
#[derive(Debug)]
pub struct FileWriter<T> {
    group: Group,
    list: Builder,
    folder: Folder,
    tap: T,
}

impl<T: Tap> FileWriter<T> {
    pub fn new(store: &ChunkStore, tap: T) -> FileWriter<T> {
        FileWriter { group: store.group(), list: Builder::default(), folder: Folder::default(), tap }
    }

    /// Adds a full chunk that is not the last one.
    fn full_chunk(&mut self, chunk: &[u8]) -> Result<(), Error> {
        debug_assert_eq!(chunk.len(), CHUNK);
        self.tap.data(chunk);
        self.part(chunk)
    }

    fn part(&mut self, chunk: &[u8]) -> Result<(), Error> {
        let position = Position::Part { offset: self.list.length() };
        let id = self.group.add(chunk, position)?;
        self.folder.push(id);
        let group = &mut self.group;
        let entry = Entry { id, length: chunk.len() as u64 };
        self.list.push(entry, &mut |node: Vec<u8>| group.add(&node, Position::Whole))
    }

    /// Adds the last bytes, at most a chunk, and returns once everything is durable.
    fn finish(mut self, last: &[u8]) -> Result<(Manifest, T), Error> {
        debug_assert!(last.len() <= CHUNK);
        self.tap.data(last);
        if self.list.entries() == 0 {
            if last.is_empty() {
                return Ok((Manifest::empty(), self.tap));
            }
            let root = self.group.add(last, Position::Whole)?;
            self.group.commit()?;
            return Ok((Manifest { length: last.len() as u64, root, tree: Tree::Chunk }, self.tap));
        }
        if !last.is_empty() {
            self.part(last)?;
        }
        let length = self.list.length();
        let group = &mut self.group;
        let top = self.list.finish(&mut |node: Vec<u8>| group.add(&node, Position::Whole))?;
        self.group.commit()?;
        // At least one chunk was pushed, so there is a top and a root.
        let ((top, depth), Some(root)) = (top.unwrap_or((ChunkId([0; 32]), 0)), self.folder.root()) else {
            return Err(Error::Stopped);
        };
        Ok((Manifest { length, root, tree: Tree::List { top, depth } }, self.tap))
    }

    /// Writes everything from a reader.
    pub fn copy_from(mut self, mut reader: impl std::io::Read) -> Result<(Manifest, T), Error> {
        // One byte more than a chunk shows whether the chunk is the last one.
        let mut buffer = Vec::with_capacity(CHUNK + 1);
        loop {
            let wanted = (CHUNK + 1 - buffer.len()) as u64;
            let mut limited = std::io::Read::take(&mut reader, wanted);
            std::io::Read::read_to_end(&mut limited, &mut buffer).map_err(Error::io("reading the source"))?;
            if buffer.len() <= CHUNK {
                return self.finish(&buffer);
            }
            self.full_chunk(&buffer[..CHUNK])?;
            buffer.drain(..CHUNK);
        }
    }
}

/// An asynchronous writer of one file. Dropped before [`Upload::finish`], it leaves nothing that counts.
#[derive(Debug)]
pub struct Upload<T: Tap> {
    /// The writer when it is not at work elsewhere.
    idle: Option<FileWriter<T>>,
    busy: Option<JoinHandle<Result<FileWriter<T>, Error>>>,
    buffer: Vec<u8>,
    length: u64,
}

impl<T: Tap> Upload<T> {
    pub fn new(store: &ChunkStore, tap: T) -> Upload<T> {
        let idle = Some(FileWriter::new(store, tap));
        Upload { idle, busy: None, buffer: Vec::new(), length: 0 }
    }

    /// Bytes given so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Takes more bytes; waits while the disk is behind.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        self.length += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.buffer.len() == CHUNK {
                self.spill().await?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// Hands the full buffer, which is not the last chunk, to another thread.
    async fn spill(&mut self) -> Result<(), Error> {
        let mut writer = self.writer().await?;
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.busy = Some(tokio::task::spawn_blocking(move || {
            writer.full_chunk(&chunk)?;
            Ok(writer)
        }));
        Ok(())
    }

    async fn writer(&mut self) -> Result<FileWriter<T>, Error> {
        if let Some(busy) = self.busy.take() {
            return busy.await.map_err(|_| Error::Stopped)?;
        }
        // Missing only after an error, when the caller should have stopped.
        self.idle.take().ok_or(Error::Stopped)
    }

    /// Returns once every byte is on stable storage.
    pub async fn finish(mut self) -> Result<(Manifest, T), Error> {
        let writer = self.writer().await?;
        let last = std::mem::take(&mut self.buffer);
        tokio::task::spawn_blocking(move || writer.finish(&last)).await.map_err(|_| Error::Stopped)?
    }
}
