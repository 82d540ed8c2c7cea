//! Networks in one process, over real loopback sockets.

use super::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const ANY_LOOPBACK_PORT: &str = "/ip4/127.0.0.1/tcp/0";

/// No test waits longer than this for anything; none asserts how fast something was.
const PATIENCE: Duration = Duration::from_secs(30);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: nothing within {PATIENCE:?}"))
}

fn config() -> Config {
    Config::new(Identity::ephemeral(), vec![ANY_LOOPBACK_PORT.parse().unwrap()])
}

async fn start() -> Network {
    Network::start(config()).await.unwrap()
}

/// Makes all of these members of one cluster that know each other's addresses.
fn introduce(members: &[(&Network, Role)]) {
    let allowed: BTreeMap<PeerId, Role> =
        members.iter().map(|(network, role)| (network.peer(), *role)).collect();
    for (network, _) in members {
        network.set_allowed(allowed.clone());
        for (other, _) in members {
            for address in other.addresses() {
                network.add_address(other.peer(), address);
            }
        }
    }
}

async fn pair(a: Role, b: Role) -> (Network, Network) {
    let (first, second) = (start().await, start().await);
    introduce(&[(&first, a), (&second, b)]);
    (first, second)
}

/// Answers every frame with the same frame until the clean end.
fn echo(network: &Network, protocol: Protocol) {
    let mut incoming = network.accept(protocol).unwrap();
    tokio::spawn(async move {
        while let Some((peer, mut stream)) = incoming.next().await {
            assert_eq!(stream.peer(), peer);
            tokio::spawn(async move {
                while let Some(message) = stream.receive::<Message>().await? {
                    stream.send(&message).await?;
                }
                stream.close().await;
                Ok::<(), StreamError>(())
            });
        }
    });
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Message {
    number: u64,
    body: Vec<u8>,
}

impl Message {
    fn new(number: u64, size: usize) -> Self {
        Self { number, body: (0..size).map(|i| (i as u64 * 31 + number) as u8).collect() }
    }
}

async fn echo_once(network: &Network, peer: PeerId, protocol: Protocol) -> Result<(), OpenError> {
    let mut stream = network.open(peer, protocol).await?;
    for (number, size) in [0, 1, 1000, 300_000].into_iter().enumerate() {
        let message = Message::new(number as u64, size);
        stream.send(&message).await.unwrap();
        assert_eq!(stream.receive::<Message>().await.unwrap(), Some(message));
    }
    stream.close().await;
    assert_eq!(stream.receive::<Message>().await.unwrap(), None);
    assert_eq!(stream.receive::<Message>().await.unwrap(), None, "the end is final");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_protocol_echoes() {
    let coordinator = start().await;
    let other_coordinator = start().await;
    let worker = start().await;
    introduce(&[
        (&coordinator, Role::Coordinator),
        (&other_coordinator, Role::Coordinator),
        (&worker, Role::Worker),
    ]);
    for protocol in Protocol::ALL {
        echo(&coordinator, protocol);
        echo(&worker, protocol);
    }
    let cases = [
        (&worker, &coordinator, Protocol::Session),
        (&coordinator, &worker, Protocol::Files),
        (&other_coordinator, &coordinator, Protocol::Files),
        (&worker, &coordinator, Protocol::Data),
        (&coordinator, &worker, Protocol::Data),
        (&other_coordinator, &coordinator, Protocol::Raft),
    ];
    for (from, to, protocol) in cases {
        let opened = within("echo", echo_once(from, to.peer(), protocol)).await;
        assert_eq!(opened, Ok(()), "{protocol}");
    }
}
