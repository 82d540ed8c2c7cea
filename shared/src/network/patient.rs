//! Bulk streams with a bound on silence.

use super::stream::Stream;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// A stream that fails when the peer neither sends nor takes anything for too long.
pub struct Patient {
    stream: Stream,
    idle: Duration,
    until: Pin<Box<Sleep>>,
}

impl Patient {
    pub fn new(stream: Stream, idle: Duration) -> Patient {
        Patient { stream, idle, until: Box::pin(tokio::time::sleep(idle)) }
    }

    pub fn into_inner(self) -> Stream {
        self.stream
    }

    /// Every step forward sets the clock back.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        step: impl FnOnce(Pin<&mut Stream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match step(Pin::new(&mut self.stream), cx) {
            Poll::Pending => match self.until.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                Poll::Pending => Poll::Pending,
            },
            ready => {
                let until = Instant::now() + self.idle;
                self.until.as_mut().reset(until);
                ready
            }
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.watch(cx, |stream, cx| stream.poll_read(cx, out))
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.watch(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watch(cx, |stream, cx| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watch(cx, |stream, cx| stream.poll_shutdown(cx))
    }
}
