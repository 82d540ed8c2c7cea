//! The worker's end of the keeper's socket: finds or starts the keeper, says hello, asks for the list.
//!
//! [`connect`] returns when boot id and list are there; from then on requests go through a [`Link`], gathered into
//! frames, and batches of events arrive on a bounded channel. When that channel ends, the connection is gone: the
//! keeper may live or not, and only connecting again tells (same boot id: everything still runs).

use super::wire::{self, Event, Exit, Request, Running};
use super::{SOCKET, socket_path};
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

/// A keeper that was just started has this long to open its socket, and any keeper to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
const REQUESTS_QUEUED_MAX: usize = 65_536;
const REQUESTS_PER_FRAME_MAX: usize = 512;
const EVENT_BATCHES_QUEUED_MAX: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the keeper cannot be started by `{command}`: {source}")]
    Start { command: String, source: io::Error },
    #[error("the keeper in `{0}` does not answer")]
    NoAnswer(PathBuf),
    #[error("the keeper's connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("the keeper's answer cannot be understood: {0}")]
    Wire(#[from] wire::Error),
    #[error("the keeper is gone or far behind")]
    Gone,
}

/// Where the keeper is and how to start one.
#[derive(Debug, Clone)]
pub struct Config {
    pub directory: PathBuf,
    /// Program and first arguments; `--dir <directory>` is added.
    pub command: Vec<OsString>,
}

/// Sends requests. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Link {
    requests: mpsc::Sender<Request>,
}

impl Link {
    /// Hands a request over. An error means the connection is as good as gone.
    pub fn send(&self, request: Request) -> Result<(), Error> {
        self.requests.try_send(request).map_err(|_| Error::Gone)
    }
}

/// A fresh connection and what the keeper holds.
#[derive(Debug)]
pub struct Connection {
    pub boot: u64,
    pub running: Vec<Running>,
    /// Exits not yet acknowledged, with their context (empty if an earlier keeper saw them).
    pub exited: Vec<(Exit, Vec<u8>)>,
    pub link: Link,
    pub events: mpsc::Receiver<Vec<Event>>,
}

/// Connects to the keeper of `config.directory`, starting one if none listens there.
pub async fn connect(config: &Config) -> Result<Connection, Error> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(2);
    let mut child: Option<std::process::Child> = None;
    loop {
        if let Ok(stream) = open(config).await {
            let left = ANSWER_WITHIN.saturating_sub(started.elapsed()).max(Duration::from_secs(1));
            match timeout(left, greet(stream)).await {
                Ok(Ok(connection)) => {
                    reap_in_time(child);
                    return Ok(connection);
                }
                // It may be on its way out: its socket goes with it.
                Ok(Err(_)) => {}
                Err(_) => return Err(Error::NoAnswer(config.directory.clone())),
            }
        }
        let running = child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
        if !running {
            child = Some(start(config)?);
        }
        if started.elapsed() > ANSWER_WITHIN {
            reap_in_time(child);
            return Err(Error::NoAnswer(config.directory.clone()));
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Connects to the keeper of `config.directory` if one listens there; starts none.
pub async fn find(config: &Config) -> Result<Connection, Error> {
    let silent = |_| Error::NoAnswer(config.directory.clone());
    timeout(ANSWER_WITHIN, greet(open(config).await?)).await.map_err(silent)?
}

/// A keeper is our child until we die; somebody has to wait for it. It outlives us or ends at our request, so a
/// parked thread of 16 KiB is the simplest waiter.
fn reap_in_time(child: Option<std::process::Child>) {
    let Some(mut child) = child else { return };
    let waiter = std::thread::Builder::new().name("keeper-wait".into()).stack_size(16 * 1024);
    let _ = waiter.spawn(move || child.wait());
}

async fn open(config: &Config) -> io::Result<UnixStream> {
    if !config.directory.join(SOCKET).exists() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let (path, _open) = socket_path(&config.directory)?;
    UnixStream::connect(path).await
}

/// Starts the keeper detached: it makes a session of its own, and reads and writes nothing of ours.
fn start(config: &Config) -> Result<std::process::Child, Error> {
    let failed = |source: io::Error| {
        let words: Vec<_> = config.command.iter().map(|w| w.to_string_lossy()).collect();
        Error::Start { command: words.join(" "), source }
    };
    let (program, arguments) =
        config.command.split_first().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    std::fs::create_dir_all(&config.directory).map_err(failed)?;
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(config.directory.join("keeper.log"))
        .map_err(failed)?;
    Command::new(program)
        .args(arguments)
        .arg("--dir")
        .arg(&config.directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(failed)
}

async fn greet(stream: UnixStream) -> Result<Connection, Error> {
    let (mut reading, mut writing) = stream.into_split();
    writing.write_all(&wire::encode(&[Request::Hello, Request::List])?).await?;
    let mut boot = None;
    loop {
        let Some(batch) = read(&mut reading).await? else { return Err(Error::Gone) };
        for event in batch {
            match event {
                Event::Hello { boot: found, .. } => boot = Some(found),
                Event::Listing { running, exited } => {
                    let Some(boot) = boot else { return Err(Error::Gone) };
                    let (requests, queue) = mpsc::channel(REQUESTS_QUEUED_MAX);
                    let (sender, events) = mpsc::channel(EVENT_BATCHES_QUEUED_MAX);
                    tokio::spawn(write_requests(writing, queue));
                    tokio::spawn(read_events(reading, sender));
                    return Ok(Connection { boot, running, exited, link: Link { requests }, events });
                }
                // What happened before the listing is contained in it.
                _ => {}
            }
        }
    }
}

async fn read(stream: &mut OwnedReadHalf) -> Result<Option<Vec<Event>>, Error> {
    let mut prefix = [0_u8; 4];
    match stream.read_exact(&mut prefix).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    let mut body = vec![0; wire::frame_length(prefix)?];
    stream.read_exact(&mut body).await?;
    Ok(Some(wire::decode(&body)?))
}

async fn read_events(mut stream: OwnedReadHalf, events: mpsc::Sender<Vec<Event>>) {
    loop {
        match read(&mut stream).await {
            Ok(Some(batch)) => {
                if events.send(batch).await.is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(error) => return tracing::warn!(%error, "keeper connection lost"),
        }
    }
}

async fn write_requests(mut stream: OwnedWriteHalf, mut queue: mpsc::Receiver<Request>) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, REQUESTS_PER_FRAME_MAX).await > 0 {
        let written = match wire::encode(&batch) {
            Ok(frame) => stream.write_all(&frame).await.map_err(Error::from),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = written {
            return tracing::warn!(%error, "keeper connection lost");
        }
        batch.clear();
    }
}
