//! One stream between two members: framed messages, or raw bytes, in both directions.
//!
//! A frame is a length of four bytes, big-endian, and then what [`codec::encode`] wrote. The length is checked
//! against the protocol's limit before anything is allocated, and the buffer grows with what really arrives. A
//! length of zero is the *end mark*: the multiplexer below reports a reset and a broken connection in the same way
//! as an orderly end, so only the mark makes an end clean.
//!
//! Frames and raw bytes may follow each other (`protocol::files` announces raw bytes in a frame). Nobody but the
//! frame before them tells how many raw bytes there are.
//!
//! Every function here may be dropped in the middle (`select!`): a half-read frame stays in the buffer for the next
//! [`ReceiveHalf::receive`], a half-written one is finished by the next write.

use super::protocol::Protocol;
use crate::protocol::codec::{self, FRAME_PREFIX_BYTES};
use bytes::{Buf as _, BytesMut};
use libp2p::PeerId;
use serde::{Serialize, de::DeserializeOwned};
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt as _};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Space asked for at first, and then at a time while a frame arrives.
const READ_FIRST_BYTES: usize = 1024;
const READ_STEP_BYTES: usize = 64 * 1024;
/// A buffer that grew above this is given back once it is empty.
const BUFFER_KEPT_BYTES: usize = 256 * 1024;
/// An orderly end waits this long for a peer that does not read.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a frame could not be sent or received. The stream is of no further use.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The stream was reset, the connection broke, or the peer left the allow-list.
    #[error("the stream broke: {0}")]
    Io(#[from] io::Error),
    /// The other side stopped without an end mark: it died, reset the stream, or the connection broke.
    #[error("the stream ended without an end mark, {buffered} bytes into a frame")]
    Cut { buffered: usize },
    /// A frame that is too large or that does not decode.
    #[error("bad frame: {0}")]
    Frame(#[from] codec::Error),
}

/// Both directions of a stream. Dropping it without [`Stream::close`] tells the peer that something went wrong.
pub struct Stream {
    send: SendHalf,
    receive: ReceiveHalf,
}

/// The direction to the peer.
pub struct SendHalf {
    io: Guarded<tokio::io::WriteHalf<Compat<libp2p::Stream>>>,
    /// A frame on its way out, from `position` on.
    outgoing: Vec<u8>,
    position: usize,
    /// Whether the last thing written was raw bytes, so that an end mark would be taken for content.
    raw: bool,
}

/// The direction from the peer.
pub struct ReceiveHalf {
    io: Guarded<tokio::io::ReadHalf<Compat<libp2p::Stream>>>,
    buffer: BytesMut,
    ended: bool,
}

/// Whose stream this is; shared by its halves.
pub(super) struct Origin {
    pub(super) peer: PeerId,
    pub(super) protocol: Protocol,
    /// Fires when the connection is given up or its peer is no longer a member.
    pub(super) cut: CancellationToken,
    /// For a stream that the peer opened: its place among the streams it may have.
    pub(super) _slot: Option<OwnedSemaphorePermit>,
}

impl Stream {
    pub(super) fn new(stream: libp2p::Stream, origin: Origin) -> Self {
        let origin = Arc::new(origin);
        let (read, write) = tokio::io::split(stream.compat());
        Self {
            send: SendHalf {
                io: Guarded::new(write, origin.clone()),
                outgoing: Vec::new(),
                position: 0,
                raw: false,
            },
            receive: ReceiveHalf { io: Guarded::new(read, origin), buffer: BytesMut::new(), ended: false },
        }
    }

    /// Who is at the other end, proven by the handshake of the connection.
    pub fn peer(&self) -> PeerId {
        self.send.io.origin.peer
    }

    pub fn protocol(&self) -> Protocol {
        self.send.io.origin.protocol
    }

    /// See [`SendHalf::send`].
    pub async fn send<T: Serialize>(&mut self, value: &T) -> Result<(), StreamError> {
        self.send.send(value).await
    }

    /// See [`ReceiveHalf::receive`].
    pub async fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, StreamError> {
        self.receive.receive().await
    }

    /// See [`SendHalf::close`].
    pub async fn close(&mut self) {
        self.send.close().await;
    }

    /// Both directions for use by two tasks, or by two branches of one `select!`.
    pub fn split(self) -> (SendHalf, ReceiveHalf) {
        (self.send, self.receive)
    }
}

impl SendHalf {
    /// Sends one frame; returns once it is handed to the connection, waiting while the peer does not read.
    pub async fn send<T: Serialize>(&mut self, value: &T) -> Result<(), StreamError> {
        poll_fn(|cx| self.poll_drain(cx)).await?;
        let protocol = self.io.origin.protocol;
        codec::encode_frame(&mut self.outgoing, protocol.frame_version(), value, protocol.frame_bytes_max())?;
        self.raw = false;
        poll_fn(|cx| self.poll_drain(cx)).await?;
        Ok(self.io.flush().await?)
    }

    /// Ends this direction in good order. After frames this writes the end mark; after raw bytes it does not, since
    /// the peer knows how many to expect. Errors are of no interest any more, and a peer that does not read is
    /// waited for only briefly.
    pub async fn close(&mut self) {
        let ending = async {
            poll_fn(|cx| self.poll_drain(cx)).await?;
            if !self.raw {
                self.io.write_all(&codec::END_MARK).await?;
            }
            self.io.shutdown().await
        };
        match tokio::time::timeout(CLOSE_TIMEOUT, ending).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::trace!(%error, "stream was not closed in good order"),
            Err(_) => tracing::debug!(peer = %self.io.origin.peer, "peer does not read; stream dropped"),
        }
    }

    /// Writes what is left of the frame on its way out.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.outgoing.get(self.position..).filter(|rest| !rest.is_empty()) {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.position += written;
        }
        self.position = 0;
        self.outgoing.clear();
        self.outgoing.shrink_to(BUFFER_KEPT_BYTES);
        Poll::Ready(Ok(()))
    }
}

impl ReceiveHalf {
    /// Receives one frame. `None` is the clean end: the peer called `close` after its last frame.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, StreamError> {
        let Some(length) = self.fill_frame().await? else { return Ok(None) };
        self.buffer.advance(FRAME_PREFIX_BYTES);
        let body = self.buffer.split_to(length);
        let protocol = self.io.origin.protocol;
        let value = codec::decode(protocol.frame_version(), &body, protocol.frame_bytes_max().into());
        drop(body);
        if self.buffer.is_empty() && length > BUFFER_KEPT_BYTES {
            self.buffer = BytesMut::new();
        }
        Ok(Some(value?))
    }

    #[cfg(test)]
    pub(super) fn allocated(&self) -> usize {
        self.buffer.capacity()
    }

    /// Reads until the buffer begins with a whole frame, and returns the length of its body.
    async fn fill_frame(&mut self) -> Result<Option<usize>, StreamError> {
        while !self.ended {
            let missing = match self.buffer.first_chunk::<FRAME_PREFIX_BYTES>() {
                None => FRAME_PREFIX_BYTES - self.buffer.len(),
                Some(prefix) => {
                    match codec::frame_length(*prefix, self.io.origin.protocol.frame_bytes_max())? {
                        None => {
                            self.ended = true;
                            break;
                        }
                        Some(length) if self.buffer.len() >= FRAME_PREFIX_BYTES + length => {
                            return Ok(Some(length));
                        }
                        Some(length) => FRAME_PREFIX_BYTES + length - self.buffer.len(),
                    }
                }
            };
            // A claimed length alone allocates nothing: the buffer grows as it fills.
            if self.buffer.capacity() == self.buffer.len() {
                self.buffer.reserve(missing.clamp(READ_FIRST_BYTES, READ_STEP_BYTES));
            }
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                return Err(StreamError::Cut { buffered: self.buffer.len() });
            }
        }
        Ok(None)
    }
}

impl AsyncRead for ReceiveHalf {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.buffer.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, out);
        }
        let length = self.buffer.len().min(out.remaining());
        out.put_slice(&self.buffer[..length]);
        self.buffer.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SendHalf {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(cx))?;
        self.raw = true;
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Ends this direction without an end mark; [`SendHalf::close`] is the orderly way after frames.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.receive).poll_read(cx, out)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.send).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.send).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.send).poll_shutdown(cx)
    }
}

/// A direction that fails from the moment its connection is given up, also where the connection itself can no longer
/// be closed in good order because the peer does not read.
struct Guarded<I> {
    io: I,
    origin: Arc<Origin>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<I> Guarded<I> {
    fn new(io: I, origin: Arc<Origin>) -> Self {
        let cut = Box::pin(origin.cut.clone().cancelled_owned());
        Self { io, origin, cut }
    }

    fn poll_guarded<R>(
        &mut self,
        cx: &mut Context<'_>,
        act: impl FnOnce(&mut I, &mut Context<'_>) -> Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        let aborted = || io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was given up");
        if self.origin.cut.is_cancelled() {
            return Poll::Ready(Err(aborted()));
        }
        match act(&mut self.io, cx) {
            Poll::Pending if self.cut.as_mut().poll(cx).is_ready() => Poll::Ready(Err(aborted())),
            result => result,
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Guarded<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_guarded(cx, |io, cx| Pin::new(io).poll_read(cx, out))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Guarded<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_guarded(cx, |io, cx| Pin::new(io).poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_guarded(cx, |io, cx| Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_guarded(cx, |io, cx| Pin::new(io).poll_shutdown(cx))
    }
}
