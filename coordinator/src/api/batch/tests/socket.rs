//! What only a real connection shows: lengths without bodies, and answers to bodies that are still being sent.

use super::files::with_files;
use super::server::{Server, VERSION};
use crate::api::batch::service;
use actix_web::{App, HttpServer, rt};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Serves on loopback until the test ends.
fn listen(server: &Server) -> SocketAddr {
    let api = server.api();
    let http = HttpServer::new(move || App::new().configure(|config| service(config, api.clone())))
        .workers(1)
        .bind(("127.0.0.1", 0))
        .unwrap();
    let address = http.addrs()[0];
    rt::spawn(http.run());
    address
}

/// Sends a request and reads the connection to its end.
async fn exchange(address: SocketAddr, method: &str, path: &str, body: &[u8]) -> String {
    let target = format!("{path}?api-version={VERSION}");
    let length = body.len().to_string();
    let more = [("content-length", length.as_str()), ("content-type", "application/json")];
    let mut head = format!("{method} {target} HTTP/1.1\r\nconnection: close\r\n");
    for (name, value) in Server::signed_headers(method, &target, &more) {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[actix_web::test]
async fn head_carries_the_real_length_and_no_body() {
    let (server, _) = with_files();
    let address = listen(&server);
    let answer = exchange(address, "HEAD", "/jobs/j/tasks/ran/files/stdout.txt", b"").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("content-length: 10\r\n"), "{answer}");
    assert!(answer.contains("\r\ndate: "), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    let answer = exchange(address, "GET", "/jobs/j/tasks/ran/files/stdout.txt", b"").await;
    assert!(answer.contains("content-length: 10\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n0123456789"), "{answer}");
    let answer = exchange(address, "HEAD", "/pools/none", b"").await;
    assert!(answer.starts_with("HTTP/1.1 404") && answer.ends_with("\r\n\r\n"), "{answer}");
}

/// The client must see 413 and halve its batch, not a broken connection.
#[actix_web::test]
async fn a_body_that_is_too_large_is_taken_off_the_connection() {
    let (server, _) = with_files();
    let address = listen(&server);
    let body = vec![b' '; 4 << 20];
    let answer = exchange(address, "POST", "/jobs/j/addtaskcollection", &body).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("RequestBodyTooLarge"), "{answer}");
}
