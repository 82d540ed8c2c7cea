//! A small HTTP server that misbehaves on demand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

#[derive(Debug, Clone)]
pub enum Answer {
    Full {
        status: u16,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    },
    /// Announces more than it sends, then closes.
    Short {
        announced: usize,
        body: Vec<u8>,
    },
    /// Says nothing for ever.
    Silent,
}

pub fn ok(body: impl Into<Vec<u8>>) -> Answer {
    Answer::Full { status: 200, headers: vec![], body: body.into() }
}

pub fn status(status: u16) -> Answer {
    Answer::Full { status, headers: vec![], body: vec![] }
}

type Handler = dyn Fn(&Seen, usize) -> Answer + Send + Sync;

pub struct Server {
    pub base: String,
    pub seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// The handler gets the request and how many of the same target came before.
    pub async fn start(handler: impl Fn(&Seen, usize) -> Answer + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let handler: Arc<Handler> = Arc::new(handler);
        let shared = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&handler), Arc::clone(&shared)));
            }
        });
        Server { base, seen }
    }

    pub fn requests(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

async fn line(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await.ok()? {
            b'\n' => return String::from_utf8(line).ok(),
            b'\r' => {}
            byte => line.push(byte),
        }
    }
}

async fn serve(stream: TcpStream, handler: Arc<Handler>, seen: Arc<Mutex<Vec<Seen>>>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let first = line(&mut stream).await?;
        let mut words = first.split(' ');
        let mut request =
            Seen { method: words.next()?.into(), target: words.next()?.into(), ..Seen::default() };
        loop {
            let header = line(&mut stream).await?;
            let Some((name, value)) = header.split_once(':') else { break };
            request.headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        assert!(!request.headers.contains_key("transfer-encoding"), "bodies have a length");
        let length = request.headers.get("content-length").map_or(0, |l| l.parse().unwrap());
        request.body = vec![0; length];
        stream.read_exact(&mut request.body).await.ok()?;
        let before = {
            let mut seen = seen.lock().unwrap();
            let before = seen.iter().filter(|s| s.target == request.target).count();
            seen.push(request.clone());
            before
        };
        match handler(&request, before) {
            Answer::Full { status, headers, body } => {
                let mut head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n", body.len());
                for (name, value) in headers {
                    head.push_str(&format!("{name}: {value}\r\n"));
                }
                head.push_str("\r\n");
                stream.write_all(head.as_bytes()).await.ok()?;
                stream.write_all(&body).await.ok()?;
            }
            Answer::Short { announced, body } => {
                let head = format!("HTTP/1.1 200 x\r\ncontent-length: {announced}\r\n\r\n");
                stream.write_all(head.as_bytes()).await.ok()?;
                stream.write_all(&body).await.ok()?;
                return stream.shutdown().await.ok();
            }
            Answer::Silent => tokio::time::sleep(Duration::from_secs(3600)).await,
        }
    }
}
