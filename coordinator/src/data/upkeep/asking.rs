//! The questions of `/lote/storage/1` and the answers to them.

use super::Upkeep;
use lote_shared::network::{Incoming, Network, OpenError, PeerId, Protocol, Stream};
use lote_shared::protocol::storage::{HOLDS_MAX, Request, Response};
use std::time::Duration;

/// Longest silence of either side: a disk may be busy.
const IDLE: Duration = Duration::from_secs(20);
const OPEN_WITHIN: Duration = Duration::from_secs(3);

/// A conversation with another coordinator.
pub struct Asked {
    stream: Stream,
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asked").finish_non_exhaustive()
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the stream broke: {0}")]
    Broken(String),
    #[error("no answer in time")]
    Late,
}

impl Asked {
    pub async fn open(network: &Network, peer: PeerId) -> Result<Asked, Error> {
        let open = network.open(peer, Protocol::Storage);
        let stream = tokio::time::timeout(OPEN_WITHIN, open).await.unwrap_or(Err(OpenError::Timeout))?;
        Ok(Asked { stream })
    }

    pub async fn ask(&mut self, request: &Request) -> Result<Response, Error> {
        let asked = async {
            self.stream.send(request).await.map_err(|error| Error::Broken(error.to_string()))?;
            let answer = self.stream.receive().await.map_err(|error| Error::Broken(error.to_string()))?;
            answer.ok_or_else(|| Error::Broken("it ended".to_owned()))
        };
        tokio::time::timeout(IDLE, asked).await.unwrap_or(Err(Error::Late))
    }

    pub async fn close(mut self) {
        self.stream.close().await;
    }
}

/// One question to one coordinator.
pub async fn ask(network: &Network, peer: PeerId, request: &Request) -> Result<Response, Error> {
    let mut asked = Asked::open(network, peer).await?;
    let response = asked.ask(request).await?;
    asked.close().await;
    Ok(response)
}

/// Answers whoever asks, as long as there is a network.
pub async fn serve(mut incoming: Incoming, upkeep: Upkeep) {
    while let Some((peer, stream)) = incoming.next().await {
        let upkeep = upkeep.clone();
        tokio::spawn(async move {
            if let Err(error) = answer(stream, &upkeep).await {
                tracing::debug!(%peer, %error, "a conversation about storage broke off");
            }
        });
    }
}

async fn answer(mut stream: Stream, upkeep: &Upkeep) -> Result<(), Error> {
    let broken = |error: String| Error::Broken(error);
    loop {
        let next =
            tokio::time::timeout(10 * IDLE, stream.receive::<Request>()).await.map_err(|_| Error::Late)?;
        let Some(request) = next.map_err(|error| broken(error.to_string()))? else { break };
        let response = match request {
            Request::Holds { ids } if ids.len() > HOLDS_MAX => Response::TooMany,
            Request::Holds { ids } => {
                let store = upkeep.inner.api.chunks.local();
                let look = move || ids.into_iter().map(|id| store.contains(id)).collect();
                let held =
                    tokio::task::spawn_blocking(look).await.map_err(|error| broken(error.to_string()))?;
                Response::Holds(held)
            }
            Request::Status => Response::Status(Box::new(upkeep.status())),
            Request::Begin(work) => {
                upkeep.begin(work);
                Response::Begun
            }
            Request::Defer => {
                upkeep.defer_here();
                Response::Begun
            }
        };
        stream.send(&response).await.map_err(|error| broken(error.to_string()))?;
    }
    stream.close().await;
    Ok(())
}
