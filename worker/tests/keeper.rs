//! The keeper as a real process: exits, process trees, re-adoption, deadlines, its own end.

#![expect(clippy::disallowed_methods, reason = "a test gives up by the real clock")]

#[path = "../src/small_disk.rs"]
mod small_disk;

use lote_worker::keeper::client::{Config, Connection, connect};
use lote_worker::keeper::sys::boottime_ms;
use lote_worker::keeper::wire::{Cause, Event, Exit, Request, Spawn, SpawnError};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

struct Bench {
    directory: tempfile::TempDir,
    connection: Connection,
    /// Events read but not asked for yet.
    seen: Vec<Event>,
}

fn config(directory: &Path) -> Config {
    Config {
        directory: directory.join("keeper"),
        command: vec![env!("CARGO_BIN_EXE_lote-test-keeper").into()],
    }
}

impl Bench {
    async fn new() -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let connection = connect(&config(directory.path())).await.unwrap();
        Bench { directory, connection, seen: Vec::new() }
    }

    /// With its keeper elsewhere; tasks write here.
    async fn on(config: Config) -> Bench {
        let connection = connect(&config).await.unwrap();
        Bench { directory: tempfile::tempdir().unwrap(), connection, seen: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn send(&self, request: Request) {
        self.connection.link.send(request).unwrap();
    }

    fn spawn(&self, key: &str, arguments: &[&str]) {
        self.spawn_with(key, arguments, &[("PATH", "/usr/bin:/bin"), ("KEY", key)]);
    }

    fn spawn_with(&self, key: &str, arguments: &[&str], environment: &[(&str, &str)]) {
        let path = |name: &str| self.path(name).to_str().unwrap().to_owned();
        self.send(Request::Spawn(Box::new(Spawn {
            key: key.to_owned(),
            arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
            environment: environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            directory: path(""),
            stdout: path(&format!("{key}.out")),
            stderr: path(&format!("{key}.err")),
            context: key.as_bytes().to_vec(),
            leave_children: key.starts_with("service"),
        })));
    }

    fn shell(&self, key: &str, script: &str) {
        self.spawn(key, &["sh", "-c", script]);
    }

    async fn next(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        let started = Instant::now();
        loop {
            if let Some(found) = self.seen.iter().position(&wanted) {
                return self.seen.remove(found);
            }
            let left = PATIENCE.saturating_sub(started.elapsed());
            let batch =
                tokio::time::timeout(left, self.connection.events.recv()).await.expect("no event in time");
            self.seen.extend(batch.expect("the connection ended"));
        }
    }

    async fn exit(&mut self, key: &str) -> Exit {
        let wanted = |event: &Event| match event {
            Event::Exited(exit) => exit.key == key,
            Event::NotSpawned { key: found, .. } => found == key,
            _ => false,
        };
        match self.next(wanted).await {
            Event::Exited(exit) => exit,
            other => panic!("{other:?}"),
        }
    }

    async fn failure(&mut self, key: &str) -> (SpawnError, String) {
        match self.next(|event| matches!(event, Event::NotSpawned { key: found, .. } if found == key)).await {
            Event::NotSpawned { error, message, .. } => (error, message),
            other => panic!("{other:?}"),
        }
    }

    /// Waits until a file has `lines` lines.
    async fn lines(&self, name: &str, lines: usize) -> Vec<String> {
        let started = Instant::now();
        loop {
            let text = std::fs::read_to_string(self.path(name)).unwrap_or_default();
            let found: Vec<String> = text.lines().map(str::to_owned).collect();
            if found.len() >= lines {
                return found;
            }
            assert!(started.elapsed() < PATIENCE, "`{name}` has only {found:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn shut_down(mut self) {
        self.send(Request::Shutdown { grace_ms: 100 });
        while self.connection.events.recv().await.is_some() {}
    }
}

/// Processes (not zombies) whose marker ends in `key`.
fn alive(directory: &Path, key: &str) -> Vec<String> {
    let id = std::fs::read_to_string(directory.join("keeper/id")).unwrap();
    let marker = format!("LOTE_ATTEMPT={id}/{key}");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|b| *b == 0).any(|e| e == marker.as_bytes()) {
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            found.push(String::from_utf8_lossy(&command).replace('\0', " "));
        }
    }
    found
}

fn is_alive(process: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[tokio::test]
async fn exit_codes_and_streams() {
    let mut bench = Bench::new().await;
    for (key, script, code) in [
        ("zero", "echo out; echo err >&2", 0),
        ("seven", "exit 7", 7),
        ("segv", "kill -SEGV $$", 139),
        ("term", "kill -TERM $$", 143),
        ("env", "echo $KEY $LOTE_ATTEMPT; pwd", 0),
        ("stdin", "cat; nice; cut -d' ' -f6 /proc/self/stat; echo $$", 0),
    ] {
        bench.shell(key, script);
        let exit = bench.exit(key).await;
        assert_eq!((exit.exit_code, exit.cause, exit.survivors), (code, Cause::Itself, 0), "{key}");
        assert!(exit.started_ms <= exit.ended_ms && exit.ended_ms <= boottime_ms());
    }
    assert_eq!((bench.read("zero.out").as_str(), bench.read("zero.err").as_str()), ("out\n", "err\n"));
    let id = bench.read("keeper/id");
    let here = bench.directory.path().canonicalize().unwrap();
    assert_eq!(bench.read("env.out"), format!("env {id}/env\n{}\n", here.display()));
    let lines = bench.lines("stdin.out", 3).await;
    assert_eq!(lines[0], "5", "niceness");
    assert_eq!(lines[1], lines[2], "leads a session of its own");
    bench.shut_down().await;
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let mut bench = Bench::new().await;
    std::fs::write(bench.path("plain"), "no program").unwrap();
    std::fs::write(bench.path("script"), "#!/no/such/interpreter\n").unwrap();
    for name in ["script", "noexec"] {
        std::fs::write(bench.path(name), "#!/no/such/interpreter\n").unwrap();
    }
    let mut mode = std::fs::metadata(bench.path("script")).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o755);
    std::fs::set_permissions(bench.path("script"), mode).unwrap();
    for (key, program, error, message) in [
        ("a", "no-such-program", SpawnError::NotFound, "there is no program `no-such-program`"),
        ("b", "./missing", SpawnError::NotFound, "there is no program `./missing`"),
        ("c", "/no/where", SpawnError::NotFound, "there is no program `/no/where`"),
        ("d", "./plain", SpawnError::Launch, "Permission denied"),
        ("e", "./script", SpawnError::Launch, "interpreter does not exist"),
        ("f", "/usr", SpawnError::Launch, "is a directory"),
        ("g", "", SpawnError::NotFound, "names no program"),
    ] {
        bench.spawn(key, &[program]);
        let failure = bench.failure(key).await;
        assert!(failure.0 == error && failure.1.contains(message), "{key}: {failure:?}");
    }
    bench.spawn_with("h", &["/bin/true"], &[("A=B", "c")]);
    assert_eq!(bench.failure("h").await.0, SpawnError::Launch);
    bench.spawn_with("i", &["/bin/true", "a\0b"], &[]);
    assert_eq!(bench.failure("i").await.0, SpawnError::Launch);
    // A key that is held cannot be used again.
    bench.spawn("j", &["true"]);
    bench.exit("j").await;
    bench.spawn("j", &["true"]);
    assert_eq!(bench.failure("j").await.0, SpawnError::Refused);
    bench.shut_down().await;
}

/// Daemons of every kind: own group, own session, double fork, without environment, deaf to SIGTERM.
const DAEMONS: &str = r#"
    setsid sh -c 'echo $$ >> daemons; trap "" TERM; while :; do sleep 1; done' &
    (setsid sh -c '(echo $(exec sh -c "echo \$PPID") >> daemons; exec sleep 1000) & ' &)
    setsid env -i /bin/sh -c 'echo $$ >> daemons; exec /bin/sleep 1000' &
    sleep 1000 & echo $! >> daemons
"#;

#[tokio::test]
async fn ending_leaves_no_process_of_the_tree() {
    let mut bench = Bench::new().await;
    bench.shell("tree", &format!("{DAEMONS} wait"));
    let daemons = bench.lines("daemons", 4).await;
    assert!(alive(bench.directory.path(), "tree").len() >= 4);
    bench.send(Request::End { key: "tree".into(), grace_ms: 300 });
    let exit = bench.exit("tree").await;
    assert_eq!((exit.exit_code, exit.cause, exit.survivors), (143, Cause::Asked, 0));
    assert_eq!(alive(bench.directory.path(), "tree"), Vec::<String>::new());
    assert!(!daemons.iter().any(|process| is_alive(process)), "{daemons:?}");
    bench.shut_down().await;
}

#[tokio::test]
async fn leftovers_of_a_normal_exit_are_ended_and_neighbours_live() {
    let mut bench = Bench::new().await;
    bench.shell("neighbour", "setsid sh -c 'echo $$ > child; exec sleep 1000' & wait");
    let child = bench.lines("child", 1).await.remove(0);
    bench
        .shell("main", &format!("{DAEMONS} while [ $(wc -l < daemons) -lt 4 ]; do sleep 0.01; done; exit 3"));
    let exit = bench.exit("main").await;
    assert_eq!((exit.exit_code, exit.cause), (3, Cause::Itself), "leftovers don't change the outcome");
    assert_eq!(alive(bench.directory.path(), "main"), Vec::<String>::new());
    let daemons = bench.lines("daemons", 4).await;
    // The one without environment in a session of its own may be the neighbour's by all that can be known.
    assert!(daemons.iter().filter(|process| is_alive(process)).count() <= 1);
    assert!(is_alive(&child));
    bench.send(Request::End { key: "neighbour".into(), grace_ms: 1000 });
    bench.exit("neighbour").await;
    assert!(!is_alive(&child));
    assert!(!daemons.iter().any(|process| is_alive(process)), "with the last possible owner it goes too");
    bench.shut_down().await;
}

#[tokio::test]
async fn services_of_a_start_task_stay_until_they_are_ended() {
    let mut bench = Bench::new().await;
    bench.shell("service", "setsid sleep 1000 & echo $! > child");
    assert_eq!(bench.exit("service").await.exit_code, 0);
    let child = bench.lines("child", 1).await.remove(0);
    bench.shell("task", "setsid sleep 1000 & exit 2");
    assert_eq!(bench.exit("task").await.exit_code, 2);
    assert_eq!(alive(bench.directory.path(), "task"), Vec::<String>::new());
    bench.send(Request::Deadline { at_ms: 1, lease_ms: 60_000 });
    bench.send(Request::List);
    let listing = bench.next(|event| matches!(event, Event::Listing { .. })).await;
    let Event::Listing { running, exited } = listing else { panic!("{listing:?}") };
    assert_eq!((running.len(), exited.len()), (0, 2));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(is_alive(&child));
    bench.send(Request::End { key: "service".into(), grace_ms: 100 });
    gone(child.parse().unwrap()).await;
    bench.shut_down().await;
}

#[tokio::test]
async fn grace_lets_a_task_tidy_up() {
    let mut bench = Bench::new().await;
    bench.shell("polite", "trap 'echo bye; exit 9' TERM; echo ready; while :; do sleep 0.02; done");
    bench.lines("polite.out", 1).await;
    bench.send(Request::End { key: "polite".into(), grace_ms: 20_000 });
    assert_eq!(bench.exit("polite").await.exit_code, 9);
    assert_eq!(bench.read("polite.out"), "ready\nbye\n");
    bench.shell("stopped", "echo ready; kill -STOP $$; exit 4");
    bench.lines("stopped.out", 1).await;
    bench.send(Request::End { key: "stopped".into(), grace_ms: 20_000 });
    assert_eq!(bench.exit("stopped").await.exit_code, 143, "a stopped process hears SIGTERM too");
    bench.shut_down().await;
}

/// Stands for a worker that is killed: its connection simply ends.
#[tokio::test]
async fn a_new_client_finds_running_attempts_and_exits_again() {
    let mut bench = Bench::new().await;
    bench.shell("long", "while [ ! -e stop ]; do sleep 0.01; done; exit 6");
    bench.spawn("short", &["true"]);
    bench.exit("short").await;
    let boot = bench.connection.boot;
    let Bench { directory, connection, .. } = bench;
    drop(connection);

    let connection = connect(&config(directory.path())).await.unwrap();
    assert_eq!(connection.boot, boot);
    let running: Vec<_> = connection.running.iter().map(|r| (r.key.as_str(), r.context.as_slice())).collect();
    assert_eq!(running, [("long", &b"long"[..])]);
    let exited: Vec<_> = connection.exited.iter().map(|(e, c)| (e.key.as_str(), c.as_slice())).collect();
    assert_eq!(exited, [("short", &b"short"[..])]);
    let mut bench = Bench { directory, connection, seen: Vec::new() };
    bench.send(Request::Acknowledge { key: "short".into() });
    std::fs::write(bench.path("stop"), "").unwrap();
    assert_eq!(bench.exit("long").await.exit_code, 6);

    // The newer connection replaced this one.
    let second = connect(&config(bench.directory.path())).await.unwrap();
    assert_eq!(second.exited.len(), 1);
    while bench.connection.events.recv().await.is_some() {}
    bench.connection = second;
    bench.shut_down().await;
}

#[tokio::test]
async fn a_dead_keeper_leaves_no_process_and_its_exits_are_found_again() {
    let mut bench = Bench::new().await;
    bench.spawn("done", &["sh", "-c", "exit 5"]);
    bench.exit("done").await;
    bench.shell("running", "setsid sleep 1000 & echo ready; wait");
    bench.lines("running.out", 1).await;
    let id = alive(bench.directory.path(), "running");
    assert!(!id.is_empty());
    kill_keeper(bench.directory.path());
    while bench.connection.events.recv().await.is_some() {}

    let boot = bench.connection.boot;
    bench.connection = connect(&config(bench.directory.path())).await.unwrap();
    assert_ne!(bench.connection.boot, boot, "tasks were lost, so it is another boot");
    assert_eq!(alive(bench.directory.path(), "running"), Vec::<String>::new());
    assert!(bench.connection.running.is_empty());
    let exited: Vec<_> =
        bench.connection.exited.iter().map(|(e, c)| (e.key.as_str(), e.exit_code, c.len())).collect();
    assert_eq!(exited, [("done", 5, 0)]);
    bench.shut_down().await;
}

fn kill_keeper(directory: &Path) {
    let pid = rustix::process::Pid::from_raw(keeper_process(directory)).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

fn keeper_process(directory: &Path) -> i32 {
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        if command.contains("lote-test-keeper")
            && command.contains(&*directory.join("keeper").to_string_lossy())
        {
            return entry.file_name().to_str().unwrap().parse().unwrap();
        }
    }
    panic!("no keeper of {} runs", directory.display());
}

#[tokio::test]
async fn the_deadline_kills_without_a_worker() {
    let mut bench = Bench::new().await;
    bench.shell("fenced", "trap '' TERM; setsid sleep 1000 & while :; do sleep 0.05; done");
    let at_ms = boottime_ms() + 700;
    bench.send(Request::Deadline { at_ms, lease_ms: 60_000 });
    // No word to the keeper from here on, as if this worker were stopped; only reading.
    let exit = bench.exit("fenced").await;
    assert_eq!((exit.cause, exit.exit_code), (Cause::Deadline, 137));
    assert!(exit.ended_ms >= at_ms);
    assert_eq!(alive(bench.directory.path(), "fenced"), Vec::<String>::new());
    bench.spawn("late", &["true"]);
    assert_eq!(bench.failure("late").await, (SpawnError::Refused, "the lease has run out".into()));
    bench.send(Request::Deadline { at_ms: boottime_ms() + 60_000, lease_ms: 60_000 });
    bench.spawn("again", &["true"]);
    assert_eq!(bench.exit("again").await.exit_code, 0);
    bench.shut_down().await;
}

#[tokio::test]
async fn the_keeper_ends_with_its_directory_or_when_abandoned() {
    let bench = Bench::new().await;
    let process = keeper_process(bench.directory.path());
    bench.shell("orphan", "sleep 1000");
    drop(bench);
    gone(process).await;

    let bench = Bench::new().await;
    let process = keeper_process(bench.directory.path());
    bench.send(Request::Deadline { at_ms: boottime_ms() + 60_000, lease_ms: 50 });
    bench.shell("short", "sleep 0.2");
    let Bench { directory, connection, .. } = bench;
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(connection);
    gone(process).await;
    let connection = connect(&config(directory.path())).await.unwrap();
    assert_eq!(connection.exited.len(), 1, "what ended meanwhile is on disk");
    Bench { directory, connection, seen: Vec::new() }.shut_down().await;
}

async fn gone(process: i32) {
    let started = Instant::now();
    while is_alive(&process.to_string()) {
        assert!(started.elapsed() < PATIENCE, "keeper {process} lives on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn five_hundred_short_tasks_each_end_once() {
    let mut bench = Bench::new().await;
    for n in 0..500 {
        bench.spawn(&format!("t{n}"), &["true"]);
    }
    let mut ends = BTreeMap::new();
    while ends.len() < 500 {
        let Event::Exited(exit) = bench.next(|event| matches!(event, Event::Exited(_))).await else {
            continue;
        };
        bench.send(Request::Acknowledge { key: exit.key.clone() });
        assert_eq!(exit.exit_code, 0);
        assert_eq!(ends.insert(exit.key, exit.ended_ms), None);
    }
    bench.send(Request::List);
    let listing = bench.next(|event| matches!(event, Event::Listing { .. })).await;
    assert_eq!(listing, Event::Listing { running: vec![], exited: vec![] });
    bench.shut_down().await;
}

#[tokio::test]
async fn a_deep_directory_is_no_obstacle_for_the_socket() {
    let directory = tempfile::tempdir().unwrap();
    let deep = directory.path().join("d".repeat(100)).join("e".repeat(60));
    std::fs::create_dir_all(&deep).unwrap();
    let connection = connect(&config(&deep)).await.unwrap();
    Bench { directory, connection, seen: Vec::new() }.shut_down().await;
}

#[tokio::test]
async fn a_full_disk_loses_no_exit() {
    let Some(disk) = small_disk::SmallDisk::mount(256) else { return };
    let mut bench = Bench::on(config(disk.path())).await;
    let log = disk.path().join("keeper/keeper.log");
    disk.fill(0);
    // More than the page that the files have already. Some leave a process behind: the warden looks for those while
    // others are being started, which are none of theirs.
    let keys: Vec<String> = (0..200).map(|n| format!("{n}-{}", "k".repeat(90))).collect();
    for (n, key) in keys.iter().enumerate() {
        match n % 20 {
            0 => bench.shell(key, "sleep 1000 & exit 3"),
            _ => bench.shell(key, "exit 3"),
        }
    }
    for key in &keys {
        assert_eq!(bench.exit(key).await.exit_code, 3);
    }
    bench.spawn(&"k".repeat(110), &["no-such-program"]);
    assert_eq!(bench.failure(&"k".repeat(110)).await.0, SpawnError::NotFound);
    disk.make_room();
    // Once there is room the keeper writes down what it holds, so that now it may die.
    let started = Instant::now();
    while !std::fs::read_to_string(&log).unwrap().contains("recorded late") {
        assert!(started.elapsed() < PATIENCE, "nothing is recorded");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    kill_keeper(disk.path());
    while bench.connection.events.recv().await.is_some() {}
    bench.connection = connect(&config(disk.path())).await.unwrap();
    let mut found: Vec<_> = bench.connection.exited.iter().map(|(exit, _)| exit.key.clone()).collect();
    found.sort();
    let mut keys = keys;
    keys.sort();
    assert_eq!(found, keys);
    bench.shut_down().await;
}
