//! Tokens, certificates, the pinned client, and joining over a real socket.

use super::authority::{Authority, hex};
use super::client::{self, Newcomer};
use super::message::Request;
use super::server::{self, Doors};
use super::throttle::Throttle;
use super::token::{Error as TokenError, Token, hash};
use crate::clock;
use crate::engine::{Engine, direct};
use crate::state::{Action, Cluster, ClusterSettings, ClusterVersion, keys};
use crate::store::MemoryStore;
use actix_web::{App, HttpServer};
use lote_shared::model::{MemberRole, Timestamp, TokenId};
use lote_shared::network::Identity;
use std::net::TcpListener;
use std::sync::Arc;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

fn token(authority: [u8; 32], addresses: &[String]) -> Token {
    Token {
        id: TokenId(0xfeed),
        role: MemberRole::Worker,
        secret: [3; 32],
        authority,
        addresses: addresses.to_vec(),
    }
}

#[test]
fn a_token_reads_back_and_a_bad_copy_says_what_is_wrong() {
    let good = token([9; 32], &["10.0.0.1:11012".to_owned(), "[::1]:11012".to_owned()]);
    let text = good.text().unwrap();
    assert_eq!(Token::parse(&text), Ok(good.clone()));
    assert_eq!(Token::parse(&format!(" {text}\n")), Ok(good));
    assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{text}");
    for cut in [text.len() - 1, text.len() - 8, "lote1.".len()] {
        assert!(matches!(Token::parse(&text[..cut]), Err(TokenError::Damaged(_))), "{cut}");
    }
    for at in "lote1.".len()..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let bad = Token::parse(std::str::from_utf8(&bytes).unwrap());
        assert!(matches!(bad, Err(TokenError::Damaged(_))), "{at}: {bad:?}");
    }
    for text in ["", "hello", "lote.x", "lote0.AAAA", "lote1"] {
        assert_eq!(Token::parse(text), Err(TokenError::NotAToken), "{text}");
    }
    assert_eq!(Token::parse("lote2.AAAA"), Err(TokenError::Newer("lote2".to_owned())));
    let nowhere = token([9; 32], &[]).text().unwrap();
    assert_eq!(Token::parse(&nowhere), Err(TokenError::NoAddress));
    assert!(!format!("{:?}", token([9; 32], &[])).contains("secret"));
}

#[test]
fn a_server_certificate_serves_until_names_change_or_a_year_is_left() {
    let now = clock::wall();
    let authority = Authority::make(now).unwrap();
    let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    let made = authority.server(&names, now).unwrap();
    let ours = hex(&authority.fingerprint().unwrap());
    assert!(made.still_serves(&ours, &names, now));
    assert!(!made.still_serves(&ours, &names[..1], now));
    assert!(!made.still_serves("other", &names, now));
    assert!(!made.still_serves(&ours, &names, now.plus_ms(2 * 365 * DAY_MS)));
    assert!(authority.tls(&made).is_ok());
    let damaged = Authority { key: "no key".to_owned(), ..authority };
    assert!(damaged.server(&names, now).unwrap_err().to_string().contains("restore it"));
}

#[test]
fn who_fails_often_waits_and_nobody_else() {
    let mut throttle = Throttle::default();
    let (bad, good) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
    for _ in 0..20 {
        assert_eq!(throttle.wait_ms(bad, 1_000), None);
        throttle.failed(bad, 1_000);
    }
    assert_eq!(throttle.wait_ms(bad, 2_000), Some(58_000));
    assert_eq!(throttle.wait_ms(good, 2_000), None);
    assert_eq!(throttle.wait_ms(bad, 61_000), None);
    for n in 0..2_000_u32 {
        throttle.failed(std::net::Ipv4Addr::from(n).into(), 61_000);
    }
    assert!(throttle.wait_ms(good, 61_000).is_some(), "a crowd is made to wait as one");
}

/// A join port on loopback whose certificate was made `age_days` ago for thirty days.
struct Port {
    engine: Engine,
    authority: Authority,
    address: String,
}

impl Port {
    async fn start(age_days: u64) -> Port {
        let now = clock::wall();
        let made = Timestamp(now.0 - age_days * DAY_MS);
        let authority = Authority::make(made).unwrap();
        let certificate = authority.server_for_days(&["localhost".to_owned()], made, 30).unwrap();
        let tls = authority.tls(&certificate).unwrap();
        let engine = direct::start(Cluster::new(), Arc::new(MemoryStore::new()), clock::wall);
        let settings = ClusterSettings {
            cluster_id: "c".to_owned(),
            lease_ms: 60_000,
            ca_certificate: authority.certificate.clone(),
        };
        let init = Action::ClusterInit { settings: Box::new(settings) };
        engine.propose(keys::CLUSTER, init).await.unwrap().unwrap();
        let add = Action::TokenAdd {
            token: TokenId(0xfeed),
            secret_hash: hash(&[3; 32]),
            role: MemberRole::Worker,
            expires: now.plus_ms(60_000),
            uses: 1,
            note: String::new(),
        };
        engine.propose(keys::CLUSTER, add).await.unwrap().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let doors = Doors {
            engine: engine.clone(),
            authority: Arc::new(authority.clone()),
            address: address.clone(),
        };
        let server = HttpServer::new(move || App::new().configure(|cfg| server::service(cfg, doors.clone())))
            .workers(1)
            .disable_signals()
            .listen_rustls_0_23(listener, rustls::ServerConfig::clone(&tls))
            .unwrap();
        actix::spawn(server.run());
        Port { engine, authority, address }
    }

    fn token(&self) -> Token {
        token(self.authority.fingerprint().unwrap(), std::slice::from_ref(&self.address))
    }
}

#[test]
fn a_coordinator_of_a_build_that_cannot_work_here_is_sent_away() {
    for (build, cluster, good) in [
        (None, 1, true),
        (None, 2, false),
        (Some("nonsense"), 1, true),
        (Some("nonsense"), 2, false),
        (Some("0.2.0/1-2"), 2, true),
        (Some("0.2.0/1-2"), 3, false),
        (Some("0.9.0/3-4"), 2, false),
    ] {
        let judged = server::judge_build(build, ClusterVersion(cluster));
        assert_eq!(judged.is_ok(), good, "{build:?} in {cluster}: {judged:?}");
    }
}

fn newcomer() -> Newcomer {
    Newcomer { name: "w1".to_owned(), machine: "abc".to_owned(), ..Newcomer::default() }
}

#[actix::test]
async fn a_newcomer_joins_once_and_again_after_a_lost_answer() {
    let port = Port::start(0).await;
    let identity = Identity::ephemeral();
    let mut token = port.token();
    // The first address is somebody who does not listen.
    token.addresses.insert(0, "127.0.0.1:1".to_owned());
    for _ in 0..2 {
        let answer = client::join(&token, &identity, &newcomer()).await.unwrap();
        assert_eq!((answer.cluster_id.as_str(), answer.lease_ms, answer.member), ("c", 60_000, None));
        assert_eq!(answer.ca_certificate, port.authority.certificate);
        assert!(answer.authority.is_none() && answer.account.is_none(), "a worker gets no keys");
    }
    let other = client::join(&token, &Identity::ephemeral(), &newcomer()).await.unwrap_err().to_string();
    assert!(other.contains("used as often") && other.contains("TokenUsedUp"), "{other}");
    let guessed = Token { secret: [4; 32], ..token };
    let guessed = client::join(&guessed, &identity, &newcomer()).await.unwrap_err().to_string();
    assert!(guessed.contains("TokenNotFound"), "{guessed}");
    assert_eq!(port.engine.read(|cluster| cluster.allowed().count()), 1);
}

#[actix::test]
async fn a_server_of_another_authority_or_out_of_date_is_not_told_the_secret() {
    let port = Port::start(0).await;
    let mut token = port.token();
    token.authority = [1; 32];
    let error = client::join(&token, &Identity::ephemeral(), &newcomer()).await.unwrap_err().to_string();
    assert!(error.contains("another cluster"), "{error}");
    // Somebody who knows the authority's certificate but not its key.
    let forger = Authority {
        certificate: port.authority.certificate.clone(),
        ..Authority::make(clock::wall()).unwrap()
    };
    let leaf = forger.server(&["localhost".to_owned()], clock::wall()).unwrap();
    let tls = forger.tls(&leaf).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let forged = token_at(&port, listener.local_addr().unwrap().to_string());
    let server = HttpServer::new(App::new).workers(1).disable_signals();
    actix::spawn(server.listen_rustls_0_23(listener, rustls::ServerConfig::clone(&tls)).unwrap().run());
    let error = client::join(&forged, &Identity::ephemeral(), &newcomer()).await.unwrap_err().to_string();
    assert!(error.contains("invalid peer certificate"), "{error}");
    let old = Port::start(60).await;
    let error =
        client::join(&old.token(), &Identity::ephemeral(), &newcomer()).await.unwrap_err().to_string();
    assert!(error.contains("expired"), "{error}");
    assert_eq!(old.engine.read(|cluster| cluster.allowed().count()), 0);
}

fn token_at(port: &Port, address: String) -> Token {
    Token { addresses: vec![address], ..port.token() }
}

#[actix::test]
async fn nobody_joins_for_somebody_else() {
    let port = Port::start(0).await;
    let (ours, theirs) = (Identity::ephemeral(), Identity::ephemeral());
    let token = port.token();
    let http = reqwest::Client::builder()
        .no_proxy()
        .use_preconfigured_tls(super::pin::client(token.authority).unwrap())
        .build()
        .unwrap();
    let url = format!("https://{}/lote/join", port.address);
    let base64 = |bytes: Vec<u8>| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
    let request = |edit: fn(&mut Request)| {
        let mut request = Request {
            token: token.id.to_string(),
            secret: hex(&token.secret),
            peer: ours.peer().to_string(),
            role: MemberRole::Worker,
            name: "w".to_owned(),
            addresses: Vec::new(),
            machine: String::new(),
            replaces: None,
            date: clock::wall(),
            public_key: base64(ours.public_key()),
            signature: String::new(),
        };
        request.signature = base64(ours.sign(request.statement(&token.authority).as_bytes()).unwrap());
        edit(&mut request);
        request
    };
    let mut stolen = request(|_| ());
    stolen.peer = theirs.peer().to_string();
    let cases = [
        (stolen, 403, "IdentityNotProven"),
        (request(|r| r.name = "other".to_owned()), 403, "IdentityNotProven"),
        (request(|r| r.date = Timestamp(r.date.0 - 3_600_000)), 403, "ClockSkew"),
        (request(|r| r.name = "a b".to_owned()), 400, "InvalidRequest"),
        (request(|r| r.addresses = vec!["nowhere".to_owned()]), 400, "InvalidRequest"),
        (request(|r| r.secret = "00".to_owned()), 400, "InvalidRequest"),
        (request(|r| r.peer = "x".to_owned()), 400, "InvalidRequest"),
    ];
    for (request, status, code) in cases {
        let response = http.post(&url).body(serde_json::to_vec(&request).unwrap()).send().await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{code}");
        let text = response.text().await.unwrap();
        assert!(text.contains(code), "{text}");
    }
    for body in [b"{}".to_vec(), b"[".to_vec(), vec![b' '; 64 * 1024]] {
        let status = http.post(&url).body(body).send().await.unwrap().status();
        assert!(status.is_client_error(), "{status}");
    }
    assert_eq!(port.engine.read(|cluster| cluster.allowed().count()), 0);
}
