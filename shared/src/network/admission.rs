//! What becomes of a stream that a peer opens: role check, limits, the queue to whoever accepts it.
//!
//! The first byte on every stream is our answer, so that the opener knows whether it was taken, must wait, or may
//! not. A place in the queue is reserved before the answer is sent: what was answered with `ACCEPTED` arrives.

use super::members::Members;
use super::protocol::{Protocol, Role};
use super::stream::{Origin, Stream};
use futures::AsyncWriteExt as _;
use libp2p::PeerId;
use parking_lot::Mutex;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

/// Answers to an opener.
pub(super) const ACCEPTED: u8 = 1;
pub(super) const BUSY: u8 = 2;
pub(super) const NOT_ALLOWED: u8 = 3;
pub(super) const NOT_SERVED: u8 = 4;

/// How long the answer may take to get into the connection.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

type Accepted = (PeerId, Stream);

/// Where accepted streams go, by protocol.
#[derive(Default)]
pub(super) struct Acceptors([Mutex<Option<mpsc::Sender<Accepted>>>; Protocol::ALL.len()]);

impl Acceptors {
    /// The queue of a protocol, for the one who serves it; `None` while somebody holds it already.
    pub(super) fn register(&self, protocol: Protocol) -> Option<mpsc::Receiver<Accepted>> {
        let mut acceptor = self.0[protocol.index()].lock();
        if acceptor.as_ref().is_some_and(|sender| !sender.is_closed()) {
            return None;
        }
        let (sender, receiver) = mpsc::channel(protocol.accept_queue_max());
        *acceptor = Some(sender);
        Some(receiver)
    }

    /// Ends all queues: every [`super::Incoming`] gives out what it holds and then `None`.
    pub(super) fn close(&self) {
        for acceptor in &self.0 {
            acceptor.lock().take();
        }
    }

    fn get(&self, protocol: Protocol) -> Option<mpsc::Sender<Accepted>> {
        self.0[protocol.index()].lock().clone()
    }
}

/// A stream for which there is room.
struct Admitted {
    slot: OwnedSemaphorePermit,
    place: mpsc::OwnedPermit<Accepted>,
}

/// Checks one inbound stream; the error is the byte to answer with.
fn admit(
    members: &Members,
    acceptors: &Acceptors,
    peer: &PeerId,
    protocol: Protocol,
) -> Result<Admitted, u8> {
    let member = members.get(peer).ok_or(NOT_ALLOWED)?;
    let role: Role = member.role;
    if !protocol.may_open(role) {
        tracing::warn!(%peer, %role, %protocol, "stream refused: not for this role");
        return Err(NOT_ALLOWED);
    }
    let acceptor = acceptors.get(protocol).ok_or(NOT_SERVED)?;
    let slot = member.take_slot(protocol).ok_or(BUSY)?;
    let place = acceptor.try_reserve_owned().map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => BUSY,
        mpsc::error::TrySendError::Closed(_) => NOT_SERVED,
    })?;
    Ok(Admitted { slot, place })
}

/// Answers an inbound stream and passes it on, or refuses it.
pub(super) async fn greet(
    members: &Members,
    acceptors: &Acceptors,
    peer: PeerId,
    protocol: Protocol,
    mut stream: libp2p::Stream,
    cut: CancellationToken,
) {
    let admitted = admit(members, acceptors, &peer, protocol);
    let answer = match &admitted {
        Ok(_) => ACCEPTED,
        Err(refusal) => *refusal,
    };
    let answering = async {
        stream.write_all(&[answer]).await?;
        match admitted {
            Ok(_) => stream.flush().await,
            Err(_) => stream.close().await,
        }
    };
    match tokio::time::timeout(ANSWER_TIMEOUT, answering).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return tracing::debug!(%peer, %protocol, %error, "stream broke before the answer"),
        Err(_) => return tracing::debug!(%peer, %protocol, "peer does not take the answer"),
    }
    if let Ok(Admitted { slot, place }) = admitted {
        let origin = Origin { peer, protocol, cut, _slot: Some(slot) };
        place.send((peer, Stream::new(stream, origin)));
    }
}
