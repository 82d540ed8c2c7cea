//! Networks in one process, over real loopback sockets.

mod lost_peers;

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
    for (number, size) in [0, 1, 1000, 100_000].into_iter().enumerate() {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_are_checked_at_both_ends() {
    let (coordinator, worker) = pair(Role::Coordinator, Role::Worker).await;
    for protocol in Protocol::ALL {
        echo(&coordinator, protocol);
        echo(&worker, protocol);
    }
    // What our own rules forbid is not even sent.
    for (from, to, protocol) in
        [(&coordinator, &worker, Protocol::Session), (&coordinator, &worker, Protocol::Raft)]
    {
        let error = from.open(to.peer(), protocol).await.map(drop).unwrap_err();
        assert_eq!(error, OpenError::NotAllowed { peer: to.peer(), protocol });
        assert!(!error.is_retryable());
    }
    // A worker that believes anything of itself is refused by the other side.
    for protocol in [Protocol::Raft, Protocol::Files] {
        let error = within("refusal", worker.open(coordinator.peer(), protocol)).await.map(drop).unwrap_err();
        assert_eq!(error, OpenError::Refused { peer: coordinator.peer(), protocol });
        assert!(!error.is_retryable());
    }
    // Nothing of this harmed the connection.
    within("echo", echo_once(&worker, coordinator.peer(), Protocol::Session)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_protocol_nobody_accepts_is_not_served_yet() {
    let (coordinator, worker) = pair(Role::Coordinator, Role::Worker).await;
    let error =
        within("answer", worker.open(coordinator.peer(), Protocol::Session)).await.map(drop).unwrap_err();
    assert_eq!(error, OpenError::NotServed);
    assert!(error.is_retryable());

    let incoming = coordinator.accept(Protocol::Session).unwrap();
    assert!(matches!(coordinator.accept(Protocol::Session), Err(Error::AlreadyAccepted(Protocol::Session))));
    drop(incoming);
    echo(&coordinator, Protocol::Session);
    within("echo", echo_once(&worker, coordinator.peer(), Protocol::Session)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_gets_a_handshake_and_nothing_more() {
    let (coordinator, worker) = pair(Role::Coordinator, Role::Worker).await;
    echo(&coordinator, Protocol::Data);
    let mut events = coordinator.connections();
    let stranger = start().await;
    stranger.set_allowed([(coordinator.peer(), Role::Coordinator)].into());
    stranger.add_address(coordinator.peer(), coordinator.addresses()[0].clone());

    let error =
        within("refusal", stranger.open(coordinator.peer(), Protocol::Data)).await.map(drop).unwrap_err();
    assert_eq!(error, OpenError::ConnectionLost);
    assert!(error.is_retryable(), "it may be about to become a member");

    // The member is served; the stranger was never seen as connected.
    within("echo", echo_once(&worker, coordinator.peer(), Protocol::Data)).await.unwrap();
    let event = within("event", events.recv()).await.unwrap();
    assert_eq!(event, ConnectionEvent::Connected(worker.peer()));

    // Nor do we talk to somebody whom we don't know.
    let error = coordinator.open(stranger.peer(), Protocol::Data).await.map(drop).unwrap_err();
    assert!(matches!(error, OpenError::NotAllowed { .. }));

    // Admitted at run time, it is served.
    coordinator.set_allowed([(worker.peer(), Role::Worker), (stranger.peer(), Role::Worker)].into());
    within("echo", echo_once(&stranger, coordinator.peer(), Protocol::Data)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_peer_is_cut() {
    let coordinator = start().await;
    let (removed, kept) = (start().await, start().await);
    introduce(&[(&coordinator, Role::Coordinator), (&removed, Role::Worker), (&kept, Role::Worker)]);
    let mut incoming = coordinator.accept(Protocol::Session).unwrap();
    let mut of_removed = within("open", removed.open(coordinator.peer(), Protocol::Session)).await.unwrap();
    let (_, mut held) = within("accept", incoming.next()).await.unwrap();
    let mut of_kept = within("open", kept.open(coordinator.peer(), Protocol::Session)).await.unwrap();
    let (_, mut held_of_kept) = within("accept", incoming.next()).await.unwrap();
    let waiting = tokio::spawn(async move {
        let received = held.receive::<Message>().await;
        (held, received)
    });
    let mut events = coordinator.connections();

    coordinator.set_allowed([(kept.peer(), Role::Worker)].into());

    let (mut held, received) = within("cut of a waiting read", waiting).await.unwrap();
    assert!(matches!(received, Err(StreamError::Io(_) | StreamError::Cut { .. })), "{received:?}");
    assert!(matches!(held.send(&1_u8).await, Err(StreamError::Io(_))));
    let event = within("event", events.recv()).await.unwrap();
    assert_eq!(event, ConnectionEvent::Disconnected(removed.peer()));
    let received = within("cut at the removed side", of_removed.receive::<Message>()).await;
    assert!(received.is_err(), "{received:?}");
    let error =
        within("refusal", removed.open(coordinator.peer(), Protocol::Session)).await.map(drop).unwrap_err();
    assert_eq!(error, OpenError::ConnectionLost);

    // Its neighbour noticed nothing.
    let message = Message::new(1, 10);
    of_kept.send(&message).await.unwrap();
    assert_eq!(within("receive", held_of_kept.receive::<Message>()).await.unwrap(), Some(message));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_opens_at_once_to_one_peer() {
    let (coordinator, worker) = pair(Role::Coordinator, Role::Worker).await;
    echo(&worker, Protocol::Files);
    for round in 0..5 {
        // The first round also has to connect.
        let opens = (0..8).map(|_| {
            let (network, peer) = (coordinator.clone(), worker.peer());
            tokio::spawn(async move { echo_once(&network, peer, Protocol::Files).await })
        });
        for opened in futures::future::join_all(opens).await {
            assert_eq!(opened.unwrap(), Ok(()), "round {round}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_opens_does_not_end_the_connection() {
    let (coordinator, worker) = pair(Role::Coordinator, Role::Worker).await;
    echo(&worker, Protocol::Files);
    let mut session = coordinator.accept(Protocol::Session).unwrap();
    let mut stream = within("open", worker.open(coordinator.peer(), Protocol::Session)).await.unwrap();
    let (_, mut held) = within("accept", session.next()).await.unwrap();
    let opens = (0..1_000).map(|_| {
        let (network, peer) = (coordinator.clone(), worker.peer());
        tokio::spawn(async move { network.open(peer, Protocol::Files).await.map(drop) })
    });
    for opened in within("flood", futures::future::join_all(opens)).await {
        assert!(matches!(opened.unwrap(), Ok(()) | Err(OpenError::Busy)));
    }
    stream.send(&1_u8).await.unwrap();
    assert_eq!(within("receive", held.receive::<u8>()).await.unwrap(), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_per_peer_are_limited_and_come_back() {
    let coordinator = start().await;
    let (worker, other) = (start().await, start().await);
    introduce(&[(&coordinator, Role::Coordinator), (&worker, Role::Worker), (&other, Role::Worker)]);
    let mut incoming = coordinator.accept(Protocol::Data).unwrap();
    let mut held = Vec::new();
    for _ in 0..Protocol::Data.streams_per_peer_max() {
        let mine = within("open", worker.open(coordinator.peer(), Protocol::Data)).await.unwrap();
        held.push((mine, within("accept", incoming.next()).await.unwrap()));
    }

    let error =
        within("refusal", worker.open(coordinator.peer(), Protocol::Data)).await.map(drop).unwrap_err();
    assert_eq!(error, OpenError::Busy);
    assert!(error.is_retryable());
    // Another peer and another protocol have limits of their own.
    within("open", other.open(coordinator.peer(), Protocol::Data)).await.unwrap();
    let _session = coordinator.accept(Protocol::Session).unwrap();
    within("open", worker.open(coordinator.peer(), Protocol::Session)).await.unwrap();

    // The place is free when both halves of the accepted stream are gone.
    let (_mine, (_, accepted)) = held.pop().unwrap();
    let (send, receive) = accepted.split();
    drop(send);
    let error =
        within("refusal", worker.open(coordinator.peer(), Protocol::Data)).await.map(drop).unwrap_err();
    assert_eq!(error, OpenError::Busy);
    drop(receive);
    within("open", worker.open(coordinator.peer(), Protocol::Data)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_accept_queue_refuses_and_loses_nothing() {
    let coordinator = start().await;
    let mut workers = Vec::new();
    for _ in 0..5 {
        workers.push(start().await);
    }
    let mut members: Vec<(&Network, Role)> = workers.iter().map(|worker| (worker, Role::Worker)).collect();
    members.push((&coordinator, Role::Coordinator));
    introduce(&members);
    let mut incoming = coordinator.accept(Protocol::Data).unwrap();

    let mut opened = Vec::new();
    let mut refused = 0;
    for worker in &workers {
        for _ in 0..Protocol::Data.streams_per_peer_max() {
            match within("answer", worker.open(coordinator.peer(), Protocol::Data)).await {
                Ok(stream) => opened.push(stream),
                Err(error) => {
                    assert_eq!(error, OpenError::Busy);
                    refused += 1;
                    break;
                }
            }
        }
    }
    assert_eq!(opened.len(), 64, "the length of the queue");
    assert_eq!(refused, 1);
    let mut accepted = Vec::new();
    for _ in 0..opened.len() {
        accepted.push(within("accept", incoming.next()).await.unwrap());
    }
    within("open", workers[4].open(coordinator.peer(), Protocol::Data)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_both_ways_at_once() {
    const SIZE: usize = 64 * 1024 * 1024;
    let (a, b) = pair(Role::Worker, Role::Worker).await;
    let mut incoming = b.accept(Protocol::Data).unwrap();
    let mine = within("open", a.open(b.peer(), Protocol::Data)).await.unwrap();
    let (_, theirs) = within("accept", incoming.next()).await.unwrap();

    let mut tasks = Vec::new();
    for (seed, stream) in [(1_u8, mine), (2, theirs)] {
        let (mut send, mut receive) = stream.split();
        tasks.push(tokio::spawn(async move {
            let block: Vec<u8> = (0..64 * 1024_usize).map(|i| (i % 251) as u8 ^ seed).collect();
            send.send(&(SIZE as u64)).await.unwrap();
            for _ in 0..SIZE / block.len() {
                send.write_all(&block).await.unwrap();
            }
            send.close().await;
        }));
        tasks.push(tokio::spawn(async move {
            let expected: Vec<u8> = (0..64 * 1024_usize).map(|i| (i % 251) as u8 ^ seed ^ 3).collect();
            assert_eq!(receive.receive::<u64>().await.unwrap(), Some(SIZE as u64));
            let mut block = vec![0; expected.len()];
            for _ in 0..SIZE / expected.len() {
                receive.read_exact(&mut block).await.unwrap();
                assert!(block == expected);
            }
            assert_eq!(receive.read(&mut block).await.unwrap(), 0);
        }));
    }
    for task in tasks {
        within("64 MiB each way", task).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversized_length_is_refused_before_anything_is_allocated() {
    let (a, b) = pair(Role::Worker, Role::Worker).await;
    let mut incoming = b.accept(Protocol::Data).unwrap();
    let limit = Protocol::Data.frame_bytes_max();
    for (claimed, is_refused) in [(u32::MAX, true), (limit + 1, true), (limit, false)] {
        let mut mine = within("open", a.open(b.peer(), Protocol::Data)).await.unwrap();
        let (_, mut theirs) = within("accept", incoming.next()).await.unwrap();
        mine.write_all(&claimed.to_be_bytes()).await.unwrap();
        mine.write_all(&[1, 1, 0]).await.unwrap();
        mine.shutdown().await.unwrap();
        let error = within("refusal", theirs.receive::<Vec<u8>>()).await.unwrap_err();
        let (_, receive) = theirs.split();
        assert!(receive.allocated() <= 128 * 1024, "{} bytes allocated", receive.allocated());
        match error {
            StreamError::Frame(crate::protocol::codec::Error::TooLarge { size, .. }) => {
                assert!(is_refused);
                assert_eq!(size, u64::from(claimed));
            }
            StreamError::Cut { buffered: 7 } => assert!(!is_refused),
            other => panic!("{claimed}: {other}"),
        }
    }
    // Nor can such a frame be sent.
    let mut mine = within("open", a.open(b.peer(), Protocol::Data)).await.unwrap();
    let (_, mut theirs) = within("accept", incoming.next()).await.unwrap();
    let error = mine.send(&vec![0_u8; limit as usize]).await.unwrap_err();
    assert!(matches!(error, StreamError::Frame(crate::protocol::codec::Error::TooLarge { .. })), "{error}");
    mine.send(&7_u8).await.unwrap();
    assert_eq!(within("receive", theirs.receive::<u8>()).await.unwrap(), Some(7), "the stream lives on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_frames_are_errors() {
    let (a, b) = pair(Role::Worker, Role::Worker).await;
    let mut incoming = b.accept(Protocol::Data).unwrap();
    let cases: [&[u8]; 5] = [
        &[0, 0, 0, 1, 1],            // no version
        &[0, 0, 0, 3, 9, 1, 0],      // another format
        &[0, 0, 0, 3, 1, 99, 0],     // another version
        &[0, 0, 0, 4, 1, 1, 0, 0],   // trailing bytes
        &[0, 0, 0, 4, 1, 1, 253, 1], // a length that is cut off
    ];
    for bytes in cases {
        let mut mine = within("open", a.open(b.peer(), Protocol::Data)).await.unwrap();
        let (_, mut theirs) = within("accept", incoming.next()).await.unwrap();
        mine.write_all(bytes).await.unwrap();
        mine.flush().await.unwrap();
        let error = within("refusal", theirs.receive::<Vec<u8>>()).await.unwrap_err();
        assert!(matches!(error, StreamError::Frame(_)), "{bytes:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_without_a_mark_is_not_clean() {
    let (a, b) = pair(Role::Worker, Role::Worker).await;
    let mut incoming = b.accept(Protocol::Data).unwrap();
    let mut mine = within("open", a.open(b.peer(), Protocol::Data)).await.unwrap();
    let (_, mut theirs) = within("accept", incoming.next()).await.unwrap();
    mine.send(&5_u8).await.unwrap();
    drop(mine);
    assert_eq!(within("receive", theirs.receive::<u8>()).await.unwrap(), Some(5), "what was sent arrives");
    let error = within("end", theirs.receive::<u8>()).await.unwrap_err();
    assert!(matches!(error, StreamError::Cut { buffered: 0 }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receive_may_be_dropped_in_the_middle_of_a_frame() {
    let (a, b) = pair(Role::Worker, Role::Worker).await;
    let mut incoming = b.accept(Protocol::Data).unwrap();
    let mut mine = within("open", a.open(b.peer(), Protocol::Data)).await.unwrap();
    let (_, mut theirs) = within("accept", incoming.next()).await.unwrap();
    let message = Message::new(3, 5_000);
    let mut frame = Vec::new();
    let limit = Protocol::Data.frame_bytes_max();
    crate::protocol::codec::encode_frame(&mut frame, Protocol::Data.frame_version(), &message, limit)
        .unwrap();
    for part in frame.chunks(frame.len() / 3) {
        let early = tokio::time::timeout(Duration::from_millis(20), theirs.receive::<Message>()).await;
        assert!(early.is_err(), "a frame out of nothing");
        mine.write_all(part).await.unwrap();
        mine.flush().await.unwrap();
    }
    assert_eq!(within("receive", theirs.receive::<Message>()).await.unwrap(), Some(message));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_send_dropped_in_the_middle_is_finished_by_the_next() {
    let (a, b) = pair(Role::Worker, Role::Worker).await;
    let mut incoming = b.accept(Protocol::Data).unwrap();
    let mut mine = within("open", a.open(b.peer(), Protocol::Data)).await.unwrap();
    let (_, mut theirs) = within("accept", incoming.next()).await.unwrap();
    // More than the windows hold, to a peer that does not read yet.
    let messages: Vec<Message> = (0..8).map(|number| Message::new(number, 900_000)).collect();
    let mut given_up = 0;
    let reader = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut received = Vec::new();
        while let Some(message) = theirs.receive::<Message>().await.unwrap() {
            received.push(message);
        }
        received
    });
    for message in &messages {
        if tokio::time::timeout(Duration::from_millis(20), mine.send(message)).await.is_err() {
            given_up += 1;
            break;
        }
    }
    assert_eq!(given_up, 1, "the windows swallowed everything; send more");
    mine.send(&Message::new(99, 10)).await.unwrap();
    mine.close().await;
    let received = within("receive", reader).await.unwrap();
    let (last, before) = received.split_last().unwrap();
    assert_eq!(*last, Message::new(99, 10));
    assert!(!before.is_empty() && before == &messages[..before.len()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_key_at_a_known_address() {
    let (worker, impostor) = pair(Role::Worker, Role::Coordinator).await;
    let real = start().await;
    let expected = real.peer();
    echo(&real, Protocol::Session);
    echo(&impostor, Protocol::Session);
    let members: BTreeMap<_, _> =
        [(worker.peer(), Role::Worker), (impostor.peer(), Role::Coordinator), (expected, Role::Coordinator)]
            .into();
    for network in [&worker, &impostor, &real] {
        network.set_allowed(members.clone());
    }
    worker.add_address(expected, impostor.addresses()[0].clone());
    let error = within("refusal", worker.open(expected, Protocol::Session)).await.map(drop).unwrap_err();
    match &error {
        OpenError::WrongPeer { peer, found, .. } => assert_eq!((*peer, *found), (expected, impostor.peer())),
        other => panic!("{other}"),
    }
    assert!(!error.is_retryable());

    // With the right address beside the wrong one, it is found, whichever of the two connects first.
    worker.add_address(expected, real.addresses()[0].clone());
    worker.add_address(expected, impostor.addresses()[0].clone());
    within("echo", echo_once(&worker, expected, Protocol::Session)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_dial_at_the_same_time() {
    for _ in 0..10 {
        let (a, b) = pair(Role::Coordinator, Role::Coordinator).await;
        echo(&a, Protocol::Raft);
        echo(&b, Protocol::Raft);
        let (from_a, from_b) = within("echo", async {
            tokio::join!(echo_once(&a, b.peer(), Protocol::Raft), echo_once(&b, a.peer(), Protocol::Raft))
        })
        .await;
        assert_eq!((from_a, from_b), (Ok(()), Ok(())));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_ends_everything_in_order() {
    let (coordinator, worker) = pair(Role::Coordinator, Role::Worker).await;
    let mut incoming = coordinator.accept(Protocol::Session).unwrap();
    let mut stream = within("open", worker.open(coordinator.peer(), Protocol::Session)).await.unwrap();
    let accepted = within("accept", incoming.next()).await.unwrap();
    within("shutdown", coordinator.shutdown()).await;
    within("shutdown", coordinator.shutdown()).await;
    assert!(within("end", incoming.next()).await.is_none());
    assert!(within("cut", stream.receive::<u8>()).await.is_err());
    drop(accepted);
    let error = coordinator.open(worker.peer(), Protocol::Data).await.map(drop).unwrap_err();
    assert_eq!(error, OpenError::ShutDown);
    let error =
        within("refusal", worker.open(coordinator.peer(), Protocol::Session)).await.map(drop).unwrap_err();
    assert!(matches!(error, OpenError::Unreachable { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_tells_why_it_cannot_listen() {
    let first = start().await;
    let taken = first.addresses()[0].clone();
    let error =
        Network::start(Config::new(Identity::ephemeral(), vec![taken.clone()])).await.map(drop).unwrap_err();
    assert!(error.to_string().contains(&taken.to_string()), "{error}");
    assert!(error.to_string().contains("in use"), "{error}");
}

#[tokio::test]
async fn opens_that_cannot_work() {
    let network = start().await;
    let other = PeerId::random();
    let open = async |peer| network.open(peer, Protocol::Data).await.map(drop).unwrap_err();
    assert_eq!(open(network.peer()).await, OpenError::ToSelf);
    assert_eq!(open(other).await, OpenError::NotAllowed { peer: other, protocol: Protocol::Data });
    network.set_allowed([(other, Role::Worker)].into());
    assert_eq!(open(other).await, OpenError::NoAddress(other));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_role_ends_what_the_old_role_held() {
    let (coordinator, worker) = pair(Role::Coordinator, Role::Worker).await;
    echo(&coordinator, Protocol::Raft);
    let mut incoming = coordinator.accept(Protocol::Session).unwrap();
    let mut stream = within("open", worker.open(coordinator.peer(), Protocol::Session)).await.unwrap();
    let _held = within("accept", incoming.next()).await.unwrap();
    coordinator.set_allowed([(worker.peer(), Role::Coordinator)].into());
    assert!(within("cut", stream.receive::<u8>()).await.is_err());
    within("echo", echo_once(&worker, coordinator.peer(), Protocol::Raft)).await.unwrap();
    let error =
        within("refusal", worker.open(coordinator.peer(), Protocol::Session)).await.map(drop).unwrap_err();
    assert!(matches!(error, OpenError::Refused { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_ends_with_its_last_handle() {
    let (coordinator, worker) = pair(Role::Coordinator, Role::Worker).await;
    let mut incoming = coordinator.accept(Protocol::Session).unwrap();
    let mut stream = within("open", worker.open(coordinator.peer(), Protocol::Session)).await.unwrap();
    let _held = within("accept", incoming.next()).await.unwrap();
    drop(coordinator);
    assert!(within("end", incoming.next()).await.is_none());
    assert!(within("cut", stream.receive::<u8>()).await.is_err());
}
