//! One long-lived stream to a peer that carries numbered questions, and the other end of it.
//!
//! A [`Link`] opens its stream when it is first asked something and again after it broke. Whoever waits when it
//! breaks is told so and asks again if that is sensible. Answers come in any order; the number tells whose they are.

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use lote_shared::network::{Network, PeerId, Protocol, Stream, StreamError};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Questions that wait to be written, and answers that wait to be.
const QUEUE_MAX: usize = 64;
/// Questions without an answer on one stream; more of them mean that the peer hangs.
const OPEN_QUESTIONS_MAX: usize = 1_024;

/// A question or an answer with its number.
#[derive(Debug, Serialize, Deserialize)]
struct Numbered<T> {
    number: u64,
    body: T,
}

#[derive(Debug)]
struct Call<Q, A> {
    question: Q,
    answer: oneshot::Sender<A>,
}

/// The question was not answered. Nobody knows whether it was heard.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no answer from peer `{peer}`: {why}")]
pub struct Unanswered {
    peer: PeerId,
    why: String,
}

/// A handle to the stream; clone freely. The stream ends with the last one.
#[derive(Debug)]
pub struct Link<Q, A> {
    peer: PeerId,
    calls: mpsc::Sender<Call<Q, A>>,
    /// Why the stream broke last or could not be opened.
    failure: Arc<Mutex<String>>,
}

impl<Q, A> Clone for Link<Q, A> {
    fn clone(&self) -> Link<Q, A> {
        Link { peer: self.peer, calls: self.calls.clone(), failure: self.failure.clone() }
    }
}

impl<Q, A> Link<Q, A>
where
    Q: Serialize + Send + Sync + 'static,
    A: DeserializeOwned + Send + 'static,
{
    /// Lives on the current runtime.
    pub fn start(network: Network, peer: PeerId, protocol: Protocol) -> Link<Q, A> {
        let (calls, queue) = mpsc::channel(QUEUE_MAX);
        let failure = Arc::new(Mutex::new("the link was not used yet".to_owned()));
        tokio::spawn(keep_open(network, peer, protocol, queue, failure.clone()));
        Link { peer, calls, failure }
    }

    /// Waits as long as the peer takes; the caller sets the bound and may drop this at any time.
    pub async fn ask(&self, question: Q) -> Result<A, Unanswered> {
        let (answer, wait) = oneshot::channel();
        let unanswered = || Unanswered { peer: self.peer, why: self.failure.lock().clone() };
        self.calls.send(Call { question, answer }).await.map_err(|_| unanswered())?;
        wait.await.map_err(|_| unanswered())
    }
}

async fn keep_open<Q, A>(
    network: Network,
    peer: PeerId,
    protocol: Protocol,
    mut calls: mpsc::Receiver<Call<Q, A>>,
    failure: Arc<Mutex<String>>,
) where
    Q: Serialize + Send + Sync + 'static,
    A: DeserializeOwned + Send + 'static,
{
    while let Some(first) = calls.recv().await {
        let mut first = Some(first);
        let broken = match network.open(peer, protocol).await {
            Ok(stream) => converse(stream, &mut first, &mut calls).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let Err(why) = broken else { return };
        tracing::debug!(%peer, %protocol, why, "a link is down");
        *failure.lock() = why;
        drop(first);
        // They were asked of a peer that cannot be reached; who asks from now on finds a new attempt.
        while calls.try_recv().is_ok() {}
    }
}

type Open<A> = Mutex<BTreeMap<u64, oneshot::Sender<A>>>;

/// Ends with an error when the stream breaks, in order when nobody holds the link any more.
async fn converse<Q: Serialize, A: DeserializeOwned>(
    stream: Stream,
    first: &mut Option<Call<Q, A>>,
    calls: &mut mpsc::Receiver<Call<Q, A>>,
) -> Result<(), StreamError> {
    let (mut send, mut receive) = stream.split();
    let open: Open<A> = Mutex::default();
    let asking = async {
        let mut number = 0;
        loop {
            let next = match first.take() {
                Some(call) => Some(call),
                None => calls.recv().await,
            };
            let Some(Call { question, answer }) = next else { break };
            if answer.is_closed() {
                continue;
            }
            number += 1;
            {
                let mut open = open.lock();
                if open.len() >= OPEN_QUESTIONS_MAX {
                    open.retain(|_, answer| !answer.is_closed());
                }
                if open.len() >= OPEN_QUESTIONS_MAX {
                    continue;
                }
                open.insert(number, answer);
            }
            send.send(&Numbered { number, body: question }).await?;
        }
        send.close().await;
        Ok(())
    };
    let listening = async {
        while let Some(Numbered { number, body }) = receive.receive().await? {
            if let Some(answer) = open.lock().remove(&number) {
                let _ = answer.send(body);
            }
        }
        Err(StreamError::Cut { buffered: 0 })
    };
    tokio::select! {
        ended = asking => ended,
        ended = listening => ended,
    }
}

/// Answers a peer's questions until its stream ends. `answer` is called in the order of the questions; what it
/// returns may take its time, up to `at_once_max` of them together.
pub async fn answer_all<Q, A, F>(
    stream: Stream,
    at_once_max: usize,
    mut answer: impl FnMut(Q) -> F,
) -> Result<(), StreamError>
where
    Q: DeserializeOwned,
    A: Serialize,
    F: Future<Output = A>,
{
    let (mut send, mut receive) = stream.split();
    let (answers, mut ready) = mpsc::channel::<Numbered<A>>(QUEUE_MAX);
    let working = async move {
        let mut under_way = FuturesUnordered::new();
        loop {
            tokio::select! {
                question = receive.receive(), if under_way.len() < at_once_max => {
                    let Some(Numbered { number, body }) = question? else { break };
                    let work = answer(body);
                    under_way.push(async move { Numbered { number, body: work.await } });
                }
                Some(done) = under_way.next(), if !under_way.is_empty() => {
                    if answers.send(done).await.is_err() {
                        break;
                    }
                }
            }
        }
        Ok(())
    };
    let writing = async move {
        while let Some(answer) = ready.recv().await {
            send.send(&answer).await?;
        }
        send.close().await;
        Ok(())
    };
    tokio::try_join!(working, writing).map(|_| ())
}
