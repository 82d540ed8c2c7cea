//! `true` tasks through a whole worker, beside bare spawns by the keeper's own road, on this machine:
//! `cargo run --release -p lote-worker --example throughput [tasks]`.
//!
//! CPU is that of all processes together (this one with the scripted leader in it, the keeper, and the tasks), so the
//! difference of the two figures is what the worker costs above the bare spawn.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

#[path = "../tests/support/mod.rs"]
mod support;

use lote_shared::network::Identity;
use lote_worker::keeper::client::{Config, connect};
use lote_worker::keeper::wire::{Event, Request, Spawn};
use std::path::Path;
use std::time::{Duration, Instant};
use support::{Leader, NODE, grant, launch, worker};

const SLOTS: u16 = 2;

/// User and system time in microseconds of this process and of the keeper with its ended tasks.
fn cpu_us(directory: &Path) -> u64 {
    let ticks = |stat: &str| -> u64 {
        let fields: Vec<&str> = stat[stat.rfind(')').unwrap()..].split_whitespace().collect();
        fields[12..16].iter().map(|field| field.parse::<u64>().unwrap()).sum()
    };
    let mut sum = ticks(&std::fs::read_to_string("/proc/self/stat").unwrap());
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        if command.contains("--dir") && command.contains(directory.to_str().unwrap()) {
            sum += ticks(&std::fs::read_to_string(entry.path().join("stat")).unwrap());
        }
    }
    sum * 10_000
}

/// User and system time of this process alone, in ticks.
fn own_ticks() -> (u64, u64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap()..].split_whitespace().collect();
    (fields[12].parse().unwrap(), fields[13].parse().unwrap())
}

fn report(what: &str, tasks: u64, began: Instant, cpu: u64) {
    let seconds = began.elapsed().as_secs_f64();
    println!("{what}: {:.0} tasks/s, {} us CPU a task", tasks as f64 / seconds, cpu / tasks);
}

async fn bare(directory: &Path, tasks: u64) {
    let config = Config {
        directory: directory.join("bare"),
        command: vec![std::env::current_exe().unwrap().into(), "keeper".into()],
    };
    let mut connection = connect(&config).await.unwrap();
    let (began, before) = (Instant::now(), cpu_us(directory));
    let spawn = |n: u64| {
        let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
        let spawn = Spawn {
            key: format!("k/{n}"),
            arguments: vec!["/bin/true".into()],
            environment: vec![],
            directory: path(""),
            stdout: path("out"),
            stderr: path("err"),
            context: vec![],
            leave_children: false,
        };
        connection.link.send(Request::Spawn(Box::new(spawn))).unwrap();
    };
    let (mut sent, mut ended) = (u64::from(SLOTS), 0);
    (0..sent).for_each(spawn);
    while ended < tasks {
        for event in connection.events.recv().await.unwrap() {
            let Event::Exited(exit) = event else { panic!("{event:?}") };
            connection.link.send(Request::Acknowledge { key: exit.key }).unwrap();
            ended += 1;
            if sent < tasks {
                spawn(sent);
                sent += 1;
            }
        }
    }
    report("keeper alone", tasks, began, cpu_us(directory) - before);
    connection.link.send(Request::Shutdown { grace_ms: 0 }).unwrap();
    while connection.events.recv().await.is_some() {}
}

async fn whole(directory: &Path, tasks: u64) {
    let identity = Identity::ephemeral();
    let mut leader = Leader::new(identity.peer()).await;
    leader.grants = vec![grant(NODE, SLOTS, None)];
    let worker = worker(directory, &leader, &identity).await;
    leader.greet().await;
    leader.ready().await;
    leader.until("asks", |leader| leader.asked > 0).await;
    let (began, before) = (Instant::now(), cpu_us(directory));
    let own = own_ticks();
    let (mut sent, mut ended, mut asked) = (0, 0, 0);
    while ended < tasks {
        let room = u64::from(leader.asked).saturating_sub(sent - ended).min(tasks - sent);
        if room > 0 {
            leader.run((sent..sent + room).map(|n| launch(n, "true")).collect()).await;
            sent += room;
        }
        leader.turn().await;
        asked = asked.max(leader.asked);
        ended = leader.ends.len() as u64;
        leader.forget_heard();
    }
    report("whole worker", tasks, began, cpu_us(directory) - before);
    let (user, system) = own_ticks();
    let share = |ticks: u64, before: u64| (ticks - before) * 10_000 / tasks;
    println!("  of it in this process: {} us user, {} us system", share(user, own.0), share(system, own.1));
    println!("  asked for up to {asked} slots");
    worker.shutdown(Duration::from_secs(1)).await;
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, command, _, directory] = arguments.as_slice()
        && command == "keeper"
    {
        return lote_worker::keeper::run(Path::new(directory)).unwrap();
    }
    let tasks = arguments.get(1).map_or(5_000, |text| text.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let directory = tempfile::tempdir().unwrap();
        bare(directory.path(), tasks).await;
        whole(directory.path(), tasks).await;
    });
}
