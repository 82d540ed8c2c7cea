//! The keeper: the small process that owns task processes, so that nothing the worker does or suffers ends them.
//!
//! ```text
//!  worker ──Unix socket── connection threads ─┐        ┌─ spawner threads (≤ one per core, nice 5)
//!  (may die, be paused,   reader │ writer     ├─ State ─┤
//!   be upgraded)                              │ 1 lock  ├─ reaper = main thread: wait(), exits, orphans
//!                                             └─────────┴─ warden: deadline, endings, idle exit
//! ```
//!
//! * **Owns** every process of every attempt of its host, their exits (a `Journal` on disk) and the deadline that fences them.
//!   When the deadline that the worker last passed on is reached, everything is killed, whatever the worker does.
//! * **Survives** the worker: a new connection asks for the list and finds running attempts and unacknowledged
//!   exits, each with the context its worker left. If the keeper itself dies, its processes are killed by the next
//!   keeper of the directory (it knows them by the marker variable); exits are still on disk; the boot id changes,
//!   which tells the leader that attempts were lost.
//! * **Ends** when told, when its directory is gone, on SIGTERM, or when nothing runs and no worker has been
//!   connected for the length of a lease.
//!
//! Cost per short task: one request and one event (both batched), two opens, one `posix_spawn`, two waits and one
//! write. The second wait is the trick that makes leftover processes cheap to exclude: re-parented processes become
//! children of the *main thread* while ours are children of the spawner threads, so one `waitid(__WNOTHREAD)` on the
//! main thread says whether there is any. Only then `/proc` is searched.

pub mod client;
mod spawn;
pub mod sys;
mod table;
mod tree;
mod warden;
pub mod wire;

use crate::journal::Journal;
use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, WaitOptions, WaitStatus, wait, waitid};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use table::{Ending, Reaped, Table};
use wire::{Cause, Event, Exit, Request, Spawn, SpawnError};

/// Tasks run a little behind everything that keeps the cluster alive.
const TASK_NICENESS: i32 = 5;
/// Grace for what an attempt leaves behind after its main process ended by itself.
const LEFTOVER_GRACE_MS: u64 = 5_000;
/// How long the keeper stays without work and worker until a worker has named its lease.
const LEASE_DEFAULT_MS: u64 = 60_000;
/// Acknowledged exits are dropped from the file once it has grown to this.
const RECORDS_KEPT_BYTES: u64 = 64 * 1024;
const SPAWNS_QUEUED_MAX: usize = 20_000;
const EVENTS_PER_FRAME_MAX: usize = 1024;
/// `__WNOTHREAD`: wait only for children of the calling thread.
const WAIT_NO_THREAD: u32 = 0x2000_0000;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a keeper already runs in `{0}`")]
    AlreadyRunning(PathBuf),
    #[error("the keeper must run on the main thread of its process")]
    NotMainThread,
    #[error("{what}: {source}")]
    Io { what: &'static str, source: io::Error },
}

fn context(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Io { what, source }
}

/// A line for `keeper.log`. Not `eprintln!`, which panics when the disk is full: a keeper that lost a thread to that
/// would hold ended attempts for ever.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "lote keeper: {line}");
}

/// Everything the threads share.
struct State {
    table: Table,
    records: Journal<Exit>,
    /// Keys of held exits that are not in `records` because the disk did not take them.
    unrecorded: BTreeSet<String>,
    spawns: VecDeque<Spawn>,
    /// The connection being served, to cut it when a newer one comes.
    stream: Option<UnixStream>,
    finished: bool,
}

struct Keeper {
    directory: PathBuf,
    boot: u64,
    /// Marker values are `<id>/<key>`.
    id: String,
    null: File,
    state: Mutex<State>,
    spawner: Condvar,
    writer: Condvar,
    warden: Condvar,
    reaper: Condvar,
}

/// Name of the socket in the keeper's directory.
pub const SOCKET: &str = "keeper.sock";

/// Runs a keeper in `directory` until it is to end: what the hidden subcommand `lote keeper --dir D` calls. Must be
/// called on the main thread, before others are started, and the process should exit when it returns.
pub fn run(directory: &Path) -> Result<(), Error> {
    if rustix::thread::gettid() != rustix::process::getpid() {
        return Err(Error::NotMainThread);
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(context("create the directory"))?;
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(directory.join("lock"))
        .map_err(context("open the lock file"))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| Error::AlreadyRunning(directory.to_owned()))?;

    sys::block_termination().map_err(context("block signals"))?;
    // A session of our own, away from the terminal `lote up` was started in; refused if we lead one already.
    let _ = rustix::process::setsid();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|e| context("become subreaper")(e.into()))?;

    let id = identity(directory).map_err(context("read the keeper's id"))?;
    tree::kill_marked(&format!("{id}/"));
    let (records, exits) =
        Journal::<Exit>::open(&directory.join("exits")).map_err(context("open the exit records"))?;
    let mut table = Table::default();
    table.lease_ms = LEASE_DEFAULT_MS;
    table.alone_since_ms = sys::boottime_ms();
    for exit in exits {
        table.exited.insert(exit.key.clone(), (exit, Vec::new()));
    }
    let listener = listen(directory).map_err(context("listen on the socket"))?;
    let keeper = Arc::new(Keeper {
        directory: directory.to_owned(),
        boot: rand::random(),
        id,
        null: OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map_err(context("open /dev/null"))?,
        state: Mutex::new(State {
            table,
            records,
            unrecorded: BTreeSet::new(),
            spawns: VecDeque::new(),
            stream: None,
            finished: false,
        }),
        spawner: Condvar::new(),
        writer: Condvar::new(),
        warden: Condvar::new(),
        reaper: Condvar::new(),
    });
    let start = |name: &str, body: fn(&Arc<Keeper>)| {
        let keeper = Arc::clone(&keeper);
        let body = move || body(&keeper);
        thread::Builder::new().name(name.to_owned()).spawn(body).map_err(context("start a thread"))
    };
    for _ in 0..thread::available_parallelism().map_or(1, usize::from).min(4) {
        start("spawner", |keeper| keeper.run_spawner())?;
    }
    start("warden", warden::run)?;
    start("signals", |keeper| {
        while let Ok(signal) = sys::wait_for_termination() {
            // The hang-up of a terminal is none of our business.
            if signal != libc::SIGHUP {
                keeper.shut_down(LEFTOVER_GRACE_MS);
            }
        }
    })?;
    {
        let keeper = Arc::clone(&keeper);
        let accept = move || {
            for stream in listener.incoming().flatten() {
                keeper.connect(stream);
            }
        };
        thread::Builder::new().name("accept".into()).spawn(accept).map_err(context("start a thread"))?;
    }
    keeper.run_reaper();
    let _ = std::fs::remove_file(directory.join(SOCKET));
    drop(lock);
    Ok(())
}

/// The directory's identity, made once: it tells our marked processes from those of another worker's keeper.
fn identity(directory: &Path) -> io::Result<String> {
    let path = directory.join("id");
    match std::fs::read_to_string(&path) {
        Ok(id) if id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit()) => Ok(id),
        _ => {
            let id = format!("{:016x}", rand::random::<u64>());
            std::fs::write(&path, &id)?;
            Ok(id)
        }
    }
}

/// A path for the socket that fits into its address (108 bytes), however deep the directory lies: through the
/// descriptor of the directory, which the caller keeps open meanwhile.
pub(crate) fn socket_path(directory: &Path) -> io::Result<(PathBuf, Option<File>)> {
    let path = directory.join(SOCKET);
    if path.as_os_str().len() < 100 {
        return Ok((path, None));
    }
    let open = File::open(directory)?;
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&open);
    Ok((PathBuf::from(format!("/proc/self/fd/{descriptor}/{SOCKET}")), Some(open)))
}

fn listen(directory: &Path) -> io::Result<UnixListener> {
    let (path, _open) = socket_path(directory)?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

fn exit_code(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 128,
    }
}

/// Reaps dead re-parented processes and says whether living ones remain. Only on the main thread.
fn orphans_live() -> bool {
    let options =
        WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::from_bits_retain(WAIT_NO_THREAD);
    loop {
        match waitid(WaitId::All, options) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

impl Keeper {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The main thread: reaps everything.
    fn run_reaper(&self) {
        loop {
            let started = {
                let state = self.lock();
                if state.finished {
                    return;
                }
                state.table.started_count
            };
            match wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) => {
                    let orphans = orphans_live();
                    let process = pid.as_raw_nonzero().get().unsigned_abs();
                    let now_ms = sys::boottime_ms();
                    let mut state = self.lock();
                    match state.table.reaped(process, exit_code(status), orphans, now_ms) {
                        Reaped::Main(key) => self.main_ended(&mut state, &key, orphans, now_ms),
                        Reaped::Other => {
                            self.warden.notify_one();
                        }
                    }
                }
                Ok(None) | Err(Errno::INTR) => {}
                // No child at all: wait for the next one to be started.
                Err(_) => {
                    let mut state = self.lock();
                    while !state.finished && state.table.started_count == started {
                        self.reaper.wait(&mut state);
                    }
                }
            }
        }
    }

    /// The main process of `key` was reaped.
    fn main_ended(&self, state: &mut State, key: &str, orphans: bool, now_ms: u64) {
        let ends_all = state.table.entries.get(key).is_some_and(|e| !e.leave_children || e.ending.is_some());
        if orphans && !ends_all {
            if let Some(exit) = state.table.linger(key, now_ms) {
                self.record(state, &exit);
            }
        } else if orphans {
            if let Some(entry) = state.table.entries.get_mut(key) {
                entry.ending.get_or_insert_with(|| Ending::new(Cause::Itself, LEFTOVER_GRACE_MS));
            }
            self.warden.notify_one();
        } else {
            self.finish(state, key, 0, now_ms);
        }
    }

    /// Nothing of `key` is left: record, then report.
    fn finish(&self, state: &mut State, key: &str, survivors: u32, now_ms: u64) {
        if let Some(exit) = state.table.finish(key, survivors, now_ms) {
            self.record(state, &exit);
        }
    }

    fn record(&self, state: &mut State, exit: &Exit) {
        // A full disk must not keep the exit from the worker; it is lost only if keeper *and* worker die before there
        // is room again.
        if let Err(error) = state.records.append(std::slice::from_ref(exit)) {
            if state.unrecorded.is_empty() {
                say(&format!("exit of `{}` not recorded, tried again: {error}", exit.key));
            }
            state.unrecorded.insert(exit.key.clone());
        }
        self.writer.notify_all();
    }

    /// Records what could not be recorded when it happened and is still held.
    fn record_again(&self, state: &mut State) {
        if state.unrecorded.is_empty() {
            return;
        }
        let held = state.unrecorded.iter().filter_map(|key| state.table.exited.get(key));
        let exits: Vec<Exit> = held.map(|(exit, _)| exit.clone()).collect();
        if state.records.append(&exits).is_ok() {
            say(&format!("{} exits are recorded late", exits.len()));
            state.unrecorded.clear();
        }
    }

    fn run_spawner(&self) {
        let _ = rustix::process::setpriority_process(None, TASK_NICENESS);
        loop {
            let request = {
                let mut state = self.lock();
                loop {
                    match state.spawns.pop_front() {
                        Some(request) => break request,
                        None => self.spawner.wait(&mut state),
                    }
                }
            };
            let marker = format!("{}/{}", self.id, request.key);
            let started = spawn::spawn(&request, &marker, &self.null);
            let now_ms = sys::boottime_ms();
            let mut state = self.lock();
            match started {
                Ok(process) => {
                    if let Some(orphans) = state.table.spawned(&request.key, process, now_ms) {
                        self.main_ended(&mut state, &request.key, orphans, now_ms);
                    } else if state.table.entries.get(&request.key).is_some_and(|e| e.ending.is_some()) {
                        self.warden.notify_one();
                    }
                    self.reaper.notify_one();
                }
                Err((error, message)) => {
                    state.table.not_spawned(&request.key, error, message);
                    self.writer.notify_all();
                }
            }
        }
    }

    fn shut_down(&self, grace_ms: u64) {
        self.lock().table.shutdown.get_or_insert(grace_ms);
        self.warden.notify_one();
    }

    /// Serves a new connection and cuts the one before.
    fn connect(self: &Arc<Self>, stream: UnixStream) {
        let (Ok(reading), Ok(kept)) = (stream.try_clone(), stream.try_clone()) else { return };
        let number = {
            let mut state = self.lock();
            if let Some(old) = state.stream.replace(kept) {
                let _ = old.shutdown(std::net::Shutdown::Both);
            }
            state.table.connection += 1;
            state.table.connected = true;
            state.table.outbox.clear();
            state.table.connection
        };
        self.writer.notify_all();
        let (reader, writer) = (Arc::clone(self), Arc::clone(self));
        let read = thread::Builder::new().name("reader".into()).spawn(move || {
            reader.run_connection(number, reading);
            reader.disconnected(number);
        });
        let write = thread::Builder::new().name("writer".into()).spawn(move || {
            writer.run_writer(number, stream);
            writer.disconnected(number);
        });
        if read.is_err() || write.is_err() {
            self.disconnected(number);
        }
    }

    fn disconnected(&self, number: u64) {
        let mut state = self.lock();
        if state.table.connection == number && state.table.connected {
            state.table.connected = false;
            state.table.alone_since_ms = sys::boottime_ms();
            if let Some(stream) = state.stream.take() {
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
        }
        self.writer.notify_all();
    }

    fn run_connection(&self, number: u64, stream: UnixStream) {
        let mut stream = io::BufReader::with_capacity(64 * 1024, stream);
        loop {
            let batch: Vec<Request> = match wire::read_frame(&mut stream) {
                Ok(Some(batch)) => batch,
                Ok(None) => return,
                Err(error) => return say(&format!("connection dropped: {error}")),
            };
            let mut state = self.lock();
            if state.table.connection != number {
                return;
            }
            for request in batch {
                self.handle(&mut state, request);
            }
        }
    }

    fn handle(&self, state: &mut State, request: Request) {
        let now_ms = sys::boottime_ms();
        match request {
            Request::Hello => {
                let process = std::process::id();
                state.table.outbox.push_back(Event::Hello { boot: self.boot, process });
                self.writer.notify_all();
            }
            Request::Spawn(mut spawn) => {
                let fenced = state.table.deadline_ms.is_some_and(|deadline| deadline <= now_ms);
                let full = state.spawns.len() >= SPAWNS_QUEUED_MAX || spawn.key.len() > wire::KEY_LENGTH_MAX;
                let context = std::mem::take(&mut spawn.context);
                if fenced || full || !state.table.reserve(&spawn.key, context, spawn.leave_children, now_ms) {
                    let message = if fenced { "the lease has run out" } else { "refused by the keeper" };
                    let (key, error) = (spawn.key, SpawnError::Refused);
                    state.table.outbox.push_back(Event::NotSpawned { key, error, message: message.into() });
                    self.writer.notify_all();
                    return;
                }
                state.spawns.push_back(*spawn);
                self.spawner.notify_one();
            }
            Request::Signal { key, signal } => {
                if let Some(owner) = warden::owners(&state.table).into_iter().find(|o| o.key == key) {
                    self.signal_tree(&warden::owners(&state.table), &owner.key, signal);
                }
            }
            Request::End { key, grace_ms } => {
                state.table.end(&key, Cause::Asked, grace_ms);
                self.warden.notify_one();
            }
            Request::List => {
                // What waits for the writer is contained in the listing.
                state.table.outbox.retain(|event| matches!(event, Event::Hello { .. }));
                let listing = state.table.listing();
                state.table.outbox.push_back(listing);
                self.writer.notify_all();
            }
            Request::Deadline { at_ms, lease_ms } => {
                state.table.deadline_ms = Some(at_ms);
                state.table.lease_ms = lease_ms;
                self.warden.notify_one();
            }
            Request::Acknowledge { key } => {
                state.table.exited.remove(&key);
                state.unrecorded.remove(&key);
                if state.table.exited.is_empty()
                    && let Err(error) = state.records.clear_above(RECORDS_KEPT_BYTES)
                {
                    say(&format!("exit records not emptied: {error}"));
                }
            }
            Request::Shutdown { grace_ms } => {
                state.table.shutdown.get_or_insert(grace_ms);
                self.warden.notify_one();
            }
        }
    }

    fn signal_tree(&self, owners: &[tree::Owner], key: &str, signal: i32) {
        let Some(signal) = rustix::process::Signal::from_named_raw(signal) else { return };
        let members = self.members(&tree::processes(), owners);
        for (id, process) in members.by_key.get(key).into_iter().flatten() {
            tree::signal(*id, process, signal);
        }
    }

    /// Which of these processes belong to these attempts.
    fn members(&self, processes: &BTreeMap<u32, tree::Process>, owners: &[tree::Owner]) -> tree::Members {
        let prefix = format!("{}/", self.id);
        let marker = |id| tree::marker(id)?.strip_prefix(&prefix).map(str::to_owned);
        tree::attribute(std::process::id(), processes, owners, marker)
    }

    fn run_writer(&self, number: u64, mut stream: UnixStream) {
        loop {
            let batch: Vec<Event> = {
                let mut state = self.lock();
                while state.table.outbox.is_empty()
                    && state.table.connection == number
                    && state.table.connected
                {
                    self.writer.wait(&mut state);
                }
                if state.table.connection != number || !state.table.connected {
                    return;
                }
                let count = state.table.outbox.len().min(EVENTS_PER_FRAME_MAX);
                state.table.outbox.drain(..count).collect()
            };
            if let Err(error) = wire::write_frame(&mut stream, &batch) {
                return say(&format!("connection dropped: {error}"));
            }
        }
    }
}

/// Long enough for the last event to be read.
const FAREWELL: Duration = Duration::from_millis(200);
