//! Both sides of a pull over `/lote/swarm/1`: chunks passed on while they arrive.

use super::arriving::{Arriving, Partial};
use super::fetch::{Error, announced};
use super::tree::ChunkId;
use super::{ChunkStore, store};
use crate::network::rate::Rate;
use crate::protocol::codec;
use crate::protocol::data::{self, StreamError};
use crate::protocol::swarm::{MARK_EVERY, Request, Response, UNIT_FOLLOWS, WAIT};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Chunks asked for ahead of the one that arrives.
const WINDOW: usize = 4;
/// A source that only says that it waits, for so long, is reported as slow.
const PATIENCE: Duration = Duration::from_secs(3);
/// A holder waits so long for a chunk that may still come.
const COMES_WITHIN: Duration = Duration::from_secs(30);

/// Why a source is left.
#[derive(Debug, thiserror::Error)]
pub enum Leave {
    #[error(transparent)]
    Broken(#[from] Error),
    #[error("it has had nothing to pass on for {} s", PATIENCE.as_secs())]
    Slow,
    #[error("it does not hold the content")]
    Missing,
}

impl From<StreamError> for Leave {
    fn from(error: StreamError) -> Leave {
        Leave::Broken(error.into())
    }
}

impl From<io::Error> for Leave {
    fn from(error: io::Error) -> Leave {
        Leave::Broken(error.into())
    }
}

/// The side that pulls, from one source.
#[derive(Debug)]
pub struct Puller<S> {
    stream: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Puller<S> {
    pub fn new(stream: S) -> Puller<S> {
        Puller { stream }
    }

    /// Tells the source that this was all, and gives the stream back.
    pub async fn end(mut self) -> S {
        let _ = self.stream.write_all(&codec::END_MARK).await;
        let _ = self.stream.flush().await;
        self.stream
    }

    /// Brings these chunks into the cache, in this order, those that are not here; `arrived` is told the length of each.
    /// After an error what has arrived is here, and the stream is of no use.
    pub async fn pull(
        &mut self,
        store: &ChunkStore,
        arriving: &Arriving,
        limit: &Rate,
        ids: &[ChunkId],
        arrived: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), Leave> {
        let mut missing = ids.iter().copied().filter(|id| !store.contains(*id));
        let mut asked: VecDeque<ChunkId> = VecDeque::new();
        loop {
            while asked.len() < WINDOW
                && let Some(id) = missing.next()
            {
                if !asked.contains(&id) {
                    data::send(&mut self.stream, &Request::Pull { id }).await?;
                    asked.push_back(id);
                }
            }
            let Some(id) = asked.front().copied() else { return Ok(()) };
            self.stream.flush().await?;
            let length = self.receive(store, arriving, limit, id).await?;
            asked.pop_front();
            arrived(length);
        }
    }

    async fn receive(
        &mut self,
        store: &ChunkStore,
        arriving: &Arriving,
        limit: &Rate,
        id: ChunkId,
    ) -> Result<u64, Leave> {
        let mut marks = Marks::default();
        let (length, trailer) = loop {
            match data::receive(&mut self.stream).await?.ok_or(Error::Protocol)? {
                Response::Chunk { length, trailer } => break (length, trailer),
                Response::Waiting => marks.another()?,
                Response::Missing => return Err(Leave::Missing),
                Response::Sources(_) | Response::Invalid(_) => return Err(Error::Protocol.into()),
            }
        };
        let seal = announced(id, length, &trailer)?;
        let mut chunk: Option<Arc<Partial>> = None;
        let mut unit = Vec::new();
        for index in 0..seal.units.len() {
            let mut marks = Marks::default();
            while self.stream.read_u8().await? != UNIT_FOLLOWS {
                marks.another()?;
            }
            unit.resize(seal.unit_range(index).len(), 0);
            limit.take(unit.len()).await;
            self.stream.read_exact(&mut unit).await?;
            if !seal.check_unit(index, &unit) {
                chunk.inspect(|chunk| arriving.give_up(id, chunk));
                return Err(Error::WrongChunk { id, why: "a unit does not have its value" }.into());
            }
            chunk.get_or_insert_with(|| arriving.begin(id, &seal)).push(index, &unit);
        }
        if let Some(chunk) = chunk {
            keep(store, id, chunk).await?;
            arriving.end(id);
        }
        Ok(seal.length as u64)
    }
}

/// Counts how often a source has said that it waits.
#[derive(Default)]
struct Marks(u32);

impl Marks {
    fn another(&mut self) -> Result<(), Leave> {
        self.0 += 1;
        if MARK_EVERY * self.0 > PATIENCE { Err(Leave::Slow) } else { Ok(()) }
    }
}

async fn keep(store: &ChunkStore, id: ChunkId, chunk: Arc<Partial>) -> Result<(), Error> {
    let store = store.clone();
    let work = move || {
        let mut group: store::Group = store.cache_group();
        chunk.with_bytes(|bytes| group.add_sealed(id, &chunk.seal, bytes))?;
        group.commit()
    };
    Ok(tokio::task::spawn_blocking(work).await.map_err(|_| super::Error::Stopped)??)
}

/// The side that holds content: answers pulls until the peer ends the conversation. `first` is a request that was read
/// already.
pub async fn serve_pulls<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    store: &ChunkStore,
    arriving: &Arriving,
    limit: &Rate,
    first: Request,
) -> Result<(), StreamError> {
    let mut request = Some(first);
    loop {
        let next = match request.take() {
            Some(request) => request,
            None => match data::receive(stream).await? {
                Some(request) => request,
                None => return Ok(()),
            },
        };
        match next {
            Request::Pull { id } => send_chunk(stream, store, arriving, limit, id).await?,
            _ => {
                data::send(stream, &Response::Invalid("only chunks can be asked for here".to_owned())).await?
            }
        }
        stream.flush().await?;
    }
}

async fn send_chunk<S: AsyncWrite + Unpin>(
    stream: &mut S,
    store: &ChunkStore,
    arriving: &Arriving,
    limit: &Rate,
    id: ChunkId,
) -> Result<(), StreamError> {
    let mut waited = Duration::ZERO;
    let mut changes = arriving.watch();
    loop {
        if let Some(chunk) = arriving.get(id) {
            return pass_on(stream, limit, &chunk).await;
        }
        let reading = store.clone();
        let mut reading = tokio::task::spawn_blocking(move || reading.read(id));
        let read = loop {
            tokio::select! {
                read = &mut reading => break read,
                () = tokio::time::sleep(MARK_EVERY) => mark(stream).await?,
            }
        };
        if let Ok(Ok((bytes, seal))) = read {
            let header = Response::Chunk { length: seal.length as u32, trailer: seal.encode() };
            data::send(stream, &header).await?;
            for index in 0..seal.units.len() {
                let range = seal.unit_range(index);
                limit.take(range.len()).await;
                stream.write_u8(UNIT_FOLLOWS).await?;
                stream.write_all(&bytes[range]).await?;
            }
            return Ok(());
        }
        if !arriving.is_expecting() || waited >= COMES_WITHIN {
            return data::send(stream, &Response::Missing).await;
        }
        if tokio::time::timeout(MARK_EVERY, changes.changed()).await.is_err() {
            waited += MARK_EVERY;
            mark(stream).await?;
        }
    }
}

async fn mark<S: AsyncWrite + Unpin>(stream: &mut S) -> Result<(), StreamError> {
    data::send(stream, &Response::Waiting).await?;
    Ok(stream.flush().await?)
}

/// Passes on the units of a chunk as they come.
async fn pass_on<S: AsyncWrite + Unpin>(
    stream: &mut S,
    limit: &Rate,
    chunk: &Partial,
) -> Result<(), StreamError> {
    let seal = &chunk.seal;
    data::send(stream, &Response::Chunk { length: seal.length as u32, trailer: seal.encode() }).await?;
    let mut units = chunk.watch();
    for index in 0..seal.units.len() {
        loop {
            match *units.borrow_and_update() {
                Some(units) if units > index => break,
                Some(_) => {}
                None => return Err(io::Error::other("the chunk that was passed on came to nothing").into()),
            }
            // What is on its way here is on its way there.
            stream.flush().await?;
            if tokio::time::timeout(MARK_EVERY, units.changed()).await.is_err() {
                stream.write_u8(WAIT).await?;
                stream.flush().await?;
            }
        }
        let unit = chunk.unit(index).unwrap_or_default();
        limit.take(unit.len()).await;
        stream.write_u8(UNIT_FOLLOWS).await?;
        stream.write_all(&unit).await?;
    }
    Ok(())
}
