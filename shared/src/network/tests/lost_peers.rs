//! Peers that die, and peers that only fall silent.

use super::*;

/// A network with a runtime of its own, so that it can die as a killed process does.
struct Elsewhere {
    network: Network,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Elsewhere {
    fn start(config: Config) -> Self {
        std::thread::spawn(|| {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let network = runtime.block_on(Network::start(config)).unwrap();
            Self { network, runtime: Some(runtime) }
        })
        .join()
        .unwrap()
    }

    fn run(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.runtime.as_ref().unwrap().spawn(future);
    }

    fn echo(&self, protocol: Protocol) {
        let network = self.network.clone();
        self.run(async move { echo(&network, protocol) });
    }

    fn die(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_peer_is_noticed_and_found_again() {
    let worker = start().await;
    let identity = Identity::ephemeral();
    let mut coordinator =
        Elsewhere::start(Config::new(identity.clone(), vec![ANY_LOOPBACK_PORT.parse().unwrap()]));
    introduce(&[(&worker, Role::Worker), (&coordinator.network, Role::Coordinator)]);
    coordinator.echo(Protocol::Session);
    let peer = coordinator.network.peer();
    let mut events = worker.connections();
    let mut stream = within("open", worker.open(peer, Protocol::Session)).await.unwrap();
    stream.send(&Message::new(1, 1)).await.unwrap();
    within("echo", stream.receive::<Message>()).await.unwrap();
    assert_eq!(within("event", events.recv()).await.unwrap(), ConnectionEvent::Connected(peer));
    let address = coordinator.network.addresses()[0].clone();

    coordinator.die();

    assert_eq!(within("event", events.recv()).await.unwrap(), ConnectionEvent::Disconnected(peer));
    assert!(within("cut", stream.receive::<Message>()).await.is_err());
    within("closed listener", refused(&address)).await;
    let error = within("refusal", worker.open(peer, Protocol::Session)).await.map(drop).unwrap_err();
    assert!(matches!(error, OpenError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("refused"), "the system's reason is lost: {error}");
    assert!(error.is_retryable());

    // The same machine at the same address again: the next open connects by itself.
    let coordinator = Elsewhere::start(Config::new(identity, vec![address]));
    introduce(&[(&worker, Role::Worker), (&coordinator.network, Role::Coordinator)]);
    coordinator.echo(Protocol::Session);
    within("echo", echo_once(&worker, peer, Protocol::Session)).await.unwrap();
    assert_eq!(within("event", events.recv()).await.unwrap(), ConnectionEvent::Connected(peer));
}

/// The IPv4 address and the port of a TCP multiaddress.
fn socket(address: &Multiaddr) -> (std::net::Ipv4Addr, u16) {
    let mut parts = address.iter();
    match (parts.next(), parts.next()) {
        (Some(MultiaddrProtocol::Ip4(ip)), Some(MultiaddrProtocol::Tcp(port))) => (ip, port),
        _ => panic!("{address}"),
    }
}

/// A runtime that is shut down in the background closes its listener a little later; until then connections are
/// taken and reset, not refused.
async fn refused(address: &Multiaddr) {
    while tokio::net::TcpStream::connect(socket(address)).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Forwards connections to `target` until it is told to freeze: then both sides' sockets stay open and nothing moves
/// any more, as after a power loss.
async fn freezable_link(target: &Multiaddr) -> (Multiaddr, CancellationToken) {
    let target = socket(target);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", listener.local_addr().unwrap().port()).parse().unwrap();
    let freeze = CancellationToken::new();
    let frozen = freeze.clone();
    tokio::spawn(async move {
        while let Ok((mut inbound, _)) = listener.accept().await {
            let frozen = frozen.clone();
            let mut outbound = tokio::net::TcpStream::connect(target).await.unwrap();
            tokio::spawn(async move {
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut inbound, &mut outbound) => {}
                    () = frozen.cancelled() => std::future::pending::<()>().await,
                }
            });
        }
    });
    (address, freeze)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_peer_is_given_up_even_if_nothing_can_be_written_to_it() {
    let coordinator = start().await;
    let mut pinging = config();
    pinging.ping_interval = Duration::from_millis(100);
    pinging.ping_timeout = Duration::from_millis(500);
    let worker = Network::start(pinging).await.unwrap();
    let members: BTreeMap<_, _> =
        [(coordinator.peer(), Role::Coordinator), (worker.peer(), Role::Worker)].into();
    coordinator.set_allowed(members.clone());
    worker.set_allowed(members);
    let (link, freeze) = freezable_link(&coordinator.addresses()[0]).await;
    worker.add_address(coordinator.peer(), link);
    echo(&coordinator, Protocol::Session);
    let mut incoming = coordinator.accept(Protocol::Data).unwrap();
    let mut events = worker.connections();
    let mut stream = within("open", worker.open(coordinator.peer(), Protocol::Data)).await.unwrap();
    let (_, mut theirs) = within("accept", incoming.next()).await.unwrap();
    tokio::spawn(async move { tokio::io::copy(&mut theirs, &mut tokio::io::sink()).await });
    assert_eq!(within("event", events.recv()).await.unwrap(), ConnectionEvent::Connected(coordinator.peer()));
    assert_eq!(worker.connected(), [coordinator.peer()].into());

    // Written until long after the link froze, so that the sockets' buffers are full and no farewell gets through.
    let writing = tokio::spawn(async move {
        let block = vec![0; 64 * 1024];
        loop {
            if let Err(error) = stream.write_all(&block).await {
                return error;
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    freeze.cancel();

    let event = within("event", events.recv()).await.unwrap();
    assert_eq!(event, ConnectionEvent::Disconnected(coordinator.peer()));
    within("end of the stream", writing).await.unwrap();
    assert!(worker.connected().is_empty());
    // By another way it is reached at once; the dead connection is in nobody's way.
    worker.add_address(coordinator.peer(), coordinator.addresses()[0].clone());
    within("echo", echo_once(&worker, coordinator.peer(), Protocol::Session)).await.unwrap();
}
