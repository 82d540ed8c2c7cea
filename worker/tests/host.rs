//! The whole worker against a scripted leader: real network, keeper, processes and files.

#![expect(clippy::disallowed_methods, reason = "a test gives up by the real clock")]

mod support;

use lote_shared::model::{AttemptOutcome, NodeKey};
use lote_shared::network::{Identity, Protocol};
use lote_shared::protocol::files::{Operation, Request, Response};
use lote_shared::protocol::host::{HostMessage, KillReason, LeaderMessage, NodePhase, TaskDirectory};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::{Leader, NODE, attempt, grant, keeper_command, launch, start_task, worker, worker_with};
use tokio::io::AsyncReadExt;

fn exited(exit_code: i32) -> AttemptOutcome {
    AttemptOutcome::Exited { exit_code, upload: None }
}

struct Rig {
    directory: tempfile::TempDir,
    identity: Identity,
    leader: Leader,
    worker: Option<lote_worker::Worker>,
}

impl Rig {
    async fn new(slots: u16) -> Rig {
        Rig::with_grants(vec![grant(NODE, slots, None)], 10_000).await
    }

    async fn with_grants(grants: Vec<lote_shared::protocol::host::NodeGrant>, lease_ms: u64) -> Rig {
        let directory = tempfile::tempdir().unwrap();
        let identity = Identity::ephemeral();
        let mut leader = Leader::new(identity.peer()).await;
        leader.grants = grants;
        leader.lease_ms = lease_ms;
        let worker = Some(worker(directory.path(), &leader, &identity).await);
        let mut rig = Rig { directory, identity, leader, worker };
        assert!(rig.leader.greet().await);
        rig
    }

    async fn restart(&mut self) -> bool {
        self.worker = Some(worker(self.directory.path(), &self.leader, &self.identity).await);
        self.leader.greet().await
    }

    fn task(&self, task: u64) -> PathBuf {
        self.directory.path().join(format!("data/nodes/tvm-3/root/workitems/job/job-1/t{task}"))
    }

    fn read(&self, task: u64, name: &str) -> String {
        std::fs::read_to_string(self.task(task).join(name)).unwrap()
    }

    async fn stop(mut self) {
        if let Some(worker) = self.worker.take() {
            worker.shutdown(Duration::from_millis(200)).await;
        }
        let keeper = self.directory.path().join("data/keeper");
        assert!(!keeper.join("keeper.sock").exists(), "the keeper is gone");
        let id = std::fs::read_to_string(keeper.join("id")).unwrap();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            let environment = String::from_utf8_lossy(&environment);
            assert!(!environment.contains(&id), "{} lives on", entry.path().display());
        }
    }
}

async fn eventually(what: &str, done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(30), "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_run_and_are_reported() {
    let mut rig = Rig::new(2).await;
    rig.leader.ready().await;
    rig.leader.until("it asks for work", |leader| leader.asked >= 2).await;
    rig.leader
        .run(vec![
            launch(1, "true"),
            launch(2, "sh -c 'echo out; echo err >&2; exit 3'"),
            launch(3, "echo $HOME 'a  b'"),
            launch(4, "no-such-program"),
            launch(5, "sh -c 'echo \"$AZ_BATCH_TASK_ID $AZ_BATCH_JOB_ID $AZ_BATCH_NODE_ID $PWD $HOME\"'"),
            launch(6, "sh -c 'unclosed"),
        ])
        .await;
    assert_eq!(rig.leader.outcome(1).await, exited(0));
    assert_eq!(rig.leader.outcome(2).await, exited(3));
    assert_eq!((rig.read(2, "stdout.txt").as_str(), rig.read(2, "stderr.txt").as_str()), ("out\n", "err\n"));
    assert_eq!(rig.leader.outcome(3).await, exited(0));
    assert_eq!(rig.read(3, "stdout.txt"), "$HOME a  b\n", "no shell");
    for (task, code) in [(4, "CommandProgramNotFound"), (6, "CommandLaunchFailed")] {
        let AttemptOutcome::NotStarted(failure) = rig.leader.outcome(task).await else { panic!("{task}") };
        assert_eq!(failure.code, code);
    }
    assert_eq!(rig.leader.outcome(5).await, exited(0));
    let working = rig.task(5).canonicalize().unwrap().join("wd");
    let working = working.display();
    assert_eq!(rig.read(5, "stdout.txt"), format!("t5 job tvm-3 {working} {working}\n"));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_attempt_begins_in_an_empty_directory() {
    let mut rig = Rig::new(1).await;
    rig.leader.ready().await;
    rig.leader.run(vec![launch(1, "sh -c 'ls -A; touch left; echo x'")]).await;
    assert_eq!(rig.leader.outcome(1).await, exited(0));
    let mut again = launch(1, "sh -c 'ls -A . ..'");
    again.attempt.attempt = again.attempt.attempt.next();
    let second = again.attempt;
    rig.leader.run(vec![again]).await;
    rig.leader.until("the second attempt ends", |leader| leader.ends.contains_key(&second)).await;
    assert_eq!(rig.read(1, "stdout.txt"), ".:\n\n..:\nstderr.txt\nstdout.txt\nwd\n");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_and_wall_clocks_end_trees() {
    let mut rig = Rig::new(4).await;
    rig.leader.ready().await;
    let mut timed = launch(1, "sh -c 'sleep 1000 & sleep 1000'");
    timed.wall_clock_ms = Some(200);
    rig.leader
        .run(vec![timed, launch(2, "sh -c 'setsid sleep 1000 & sleep 1000'"), launch(3, "sleep 1000")])
        .await;
    assert_eq!(rig.leader.outcome(1).await, AttemptOutcome::WallClock { exit_code: Some(143) });
    rig.leader.started(2).await;
    let kill = |task| LeaderMessage::Kill { node: NODE, attempt: attempt(task), reason: KillReason::Ended };
    rig.leader.say(kill(2)).await;
    assert_eq!(rig.leader.outcome(2).await, AttemptOutcome::Killed { exit_code: Some(143) });
    rig.leader
        .say(LeaderMessage::WallClock { node: NODE, attempt: attempt(3), wall_clock_ms: Some(10) })
        .await;
    assert_eq!(rig.leader.outcome(3).await, AttemptOutcome::WallClock { exit_code: Some(143) });
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_worker_finds_its_tasks_again() {
    let mut rig = Rig::with_grants(
        vec![grant(NODE, 3, Some(start_task("sh -c 'echo x >> ../../shared/starts'")))],
        20_000,
    )
    .await;
    rig.leader.ready().await;
    rig.leader
        .run(vec![
            launch(1, "sh -c 'while [ ! -e ../go ]; do sleep 0.02; done; exit 4'"),
            launch(2, "sh -c 'sleep 0.5; exit 5'"),
            launch(3, "sleep 0.1"),
            launch(4, "echo queued"),
        ])
        .await;
    rig.leader.started(1).await;
    rig.leader.started(2).await;
    // Ends, is collected, and its report is never acknowledged.
    rig.leader.acknowledges = false;
    assert_eq!(rig.leader.outcome(3).await, exited(0));
    assert_eq!(rig.leader.outcome(4).await, exited(0));
    let boot = rig.leader.hello.as_ref().unwrap().boot;
    rig.worker.take().unwrap().detach().await;
    rig.leader.hang_up();
    tokio::time::sleep(Duration::from_millis(600)).await;

    rig.leader.acknowledges = true;
    assert!(rig.restart().await, "another process, another session");
    let hello = rig.leader.hello.clone().unwrap();
    assert_eq!(hello.boot, boot, "but nothing was lost");
    assert_eq!(hello.nodes, [NODE]);
    let inventory: Vec<_> = hello.attempts.iter().map(|(_, a)| a.task.0).collect();
    assert_eq!(inventory, [1, 2, 3, 4], "running, ended meanwhile, ended and not acknowledged");
    assert_eq!(rig.leader.outcome(2).await, exited(5));
    assert_eq!(rig.leader.outcome(3).await, exited(0));
    std::fs::write(rig.task(1).join("go"), "").unwrap();
    assert_eq!(rig.leader.outcome(1).await, exited(4));
    let starts = rig.directory.path().join("data/nodes/tvm-3/root/shared/starts");
    assert_eq!(std::fs::read_to_string(starts).unwrap(), "x\n", "the start task ran once");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_stream_costs_nothing_and_fenced_attempts_end() {
    let mut rig = Rig::new(3).await;
    rig.leader.ready().await;
    rig.leader
        .run(vec![launch(1, "sh -c 'sleep 0.3; exit 7'"), launch(2, "sleep 1000"), launch(3, "sleep 1000")])
        .await;
    rig.leader.started(1).await;
    rig.leader.started(2).await;
    rig.leader.hang_up();
    tokio::time::sleep(Duration::from_millis(400)).await;
    rig.leader.keep = Some([attempt(1), attempt(2)].into());
    assert!(!rig.leader.greet().await, "the session goes on");
    assert_eq!(rig.leader.outcome(1).await, exited(7));
    assert!(rig.task(3).exists());
    let inventory = |leader: &Leader| leader.hello.clone().unwrap().attempts.len();
    assert_eq!(inventory(&rig.leader), 3);
    tokio::time::sleep(Duration::from_millis(500)).await;
    rig.leader.hang_up();
    rig.leader.keep = None;
    rig.leader.greet().await;
    assert_eq!(inventory(&rig.leader), 1, "the fenced one is gone without a word");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_lease_tasks_are_killed() {
    let mut rig = Rig::with_grants(vec![grant(NODE, 1, None)], 600).await;
    rig.leader.ready().await;
    rig.leader.run(vec![launch(1, "sh -c 'trap \"\" TERM; while :; do sleep 0.05; done'")]).await;
    rig.leader.started(1).await;
    rig.leader.renews = false;
    let lost = rig.leader.outcome(1).await;
    assert!(matches!(&lost, AttemptOutcome::Lost { reason } if reason.contains("lease")), "{lost:?}");
    rig.leader.renews = true;
    rig.leader.run(vec![launch(2, "true")]).await;
    // Until the next ping is answered, nothing starts; so it may take two.
    if rig.leader.outcome(2).await != exited(0) {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut again = launch(2, "true");
        again.attempt.attempt = again.attempt.attempt.next();
        let second = again.attempt;
        rig.leader.run(vec![again]).await;
        rig.leader.until("it runs", |leader| leader.ends.contains_key(&second)).await;
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_keeper_is_another_boot() {
    let mut rig = Rig::new(1).await;
    rig.leader.ready().await;
    rig.leader.run(vec![launch(1, "sleep 1000")]).await;
    rig.leader.started(1).await;
    let boot = rig.leader.hello.as_ref().unwrap().boot;
    let keeper = rig.directory.path().join("data/keeper").canonicalize().unwrap();
    let process = std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        let ours = String::from_utf8_lossy(&command).contains(keeper.to_str()?);
        ours.then(|| entry.file_name().to_str()?.parse::<i32>().ok()).flatten()
    });
    let process = rustix::process::Pid::from_raw(process.unwrap()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    while rig.leader.turn().await {}
    rig.leader.forget_heard();
    rig.leader.greet().await;
    let hello = rig.leader.hello.clone().unwrap();
    assert_ne!(hello.boot, boot);
    assert_eq!((hello.nodes, hello.attempts), (vec![NODE], vec![]));
    rig.leader.ready().await;
    rig.leader.run(vec![launch(2, "true")]).await;
    assert_eq!(rig.leader.outcome(2).await, exited(0));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_come_and_go() {
    let failing = grant(NodeKey(4), 1, Some(start_task("sh -c 'echo no >&2; exit 1'")));
    let mut rig = Rig::with_grants(vec![grant(NODE, 1, None), failing], 10_000).await;
    rig.leader.ready().await;
    let nodes = rig.directory.path().join("data/nodes");
    rig.leader
        .until("the start task fails", |leader| {
            leader.heard(|m| match m {
                HostMessage::Node { phase: NodePhase::StartTaskFailed, start_task: Some(info), .. } => {
                    info.exit_code == Some(1)
                }
                _ => false,
            })
        })
        .await;
    assert_eq!(std::fs::read_to_string(nodes.join("tvm-4/root/startup/stderr.txt")).unwrap(), "no\n");
    rig.leader.run(vec![launch(1, "sleep 1000")]).await;
    rig.leader.started(1).await;
    rig.leader.say(LeaderMessage::Revoke(NODE)).await;
    // The same name, given again before the old one is gone.
    let mut again = grant(NodeKey(9), 1, None);
    again.node_id = "tvm-3".into();
    rig.leader.say(LeaderMessage::Grant(again)).await;
    rig.leader.say(LeaderMessage::Revoke(NodeKey(77))).await;
    for node in [NODE, NodeKey(77)] {
        rig.leader
            .until("the node is gone", |leader| {
                leader.heard(|m| matches!(m, HostMessage::NodeGone { node: gone } if *gone == node))
            })
            .await;
    }
    rig.leader
        .until("the new one is ready", |leader| {
            leader.heard(|m| matches!(m, HostMessage::Node { node: NodeKey(9), phase: NodePhase::Ready, .. }))
        })
        .await;
    assert!(nodes.join("tvm-3/root/workitems").exists());
    assert!(!nodes.join("tvm-3/root/workitems/job").exists());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_read_while_they_grow_and_cleaned_when_told() {
    let mut rig = Rig::new(1).await;
    rig.leader.ready().await;
    rig.leader
        .run(vec![launch(1, "sh -c 'echo one; while [ ! -e ../go ]; do sleep 0.02; done; echo two'")])
        .await;
    rig.leader.started(1).await;
    let peer = rig.identity.peer();
    let network = rig.leader.network.clone();
    let ask = async |operation: Operation, node: NodeKey| {
        let mut stream = network.open(peer, Protocol::Files).await.unwrap();
        stream.send(&Request { node, operation }).await.unwrap();
        let response: Response = stream.receive().await.unwrap().unwrap();
        let mut content = String::new();
        if let Response::Content { length, .. } = &response {
            let mut bytes = vec![0; *length as usize];
            stream.read_exact(&mut bytes).await.unwrap();
            content = String::from_utf8(bytes).unwrap();
        }
        (response, content)
    };
    let path = "workitems/job/job-1/t1/stdout.txt".to_owned();
    eventually("there is output", || !rig.read(1, "stdout.txt").is_empty()).await;
    let read = |start, end| Operation::Read { path: path.clone(), start, end };
    assert_eq!(ask(read(0, None), NODE).await.1, "one\n");
    std::fs::write(rig.task(1).join("go"), "").unwrap();
    assert_eq!(rig.leader.outcome(1).await, exited(0));
    assert_eq!(ask(read(4, None), NODE).await.1, "two\n");
    let gone = ask(read(0, None), NodeKey(99)).await.0;
    assert_eq!(gone, Response::Error(lote_shared::protocol::files::Error::NodeUnavailable));
    let directory =
        |task| TaskDirectory { job_id: "job".into(), task_id: "t1".into(), task: attempt(task).task };
    rig.leader.say(LeaderMessage::Clean { node: NODE, directories: vec![directory(8), directory(1)] }).await;
    rig.leader.run(vec![launch(2, "true")]).await;
    rig.leader.outcome(2).await;
    let task = rig.task(1);
    eventually("the directory is removed", || !task.exists()).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_worker_hands_its_tasks_back() {
    let mut rig = Rig::new(1).await;
    rig.leader.ready().await;
    rig.leader.run(vec![launch(1, "sleep 1000"), launch(2, "sleep 1000")]).await;
    rig.leader.started(1).await;
    let worker = rig.worker.take().unwrap();
    let stopping = tokio::spawn(worker.shutdown(Duration::from_secs(5)));
    for task in [1, 2] {
        let lost = rig.leader.outcome(task).await;
        assert_eq!(lost, AttemptOutcome::Lost { reason: "host stopping".into() });
    }
    while rig.leader.turn().await {}
    stopping.await.unwrap();
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_follows_the_leader_and_remembers_who_coordinates() {
    let mut rig = Rig::new(2).await;
    rig.leader.ready().await;
    rig.leader
        .run(vec![launch(1, "sleep 1000"), launch(2, "sh -c 'while [ ! -e go ]; do sleep 0.05; done'")])
        .await;
    rig.leader.started(1).await;
    rig.leader.started(2).await;

    // Another leads now. The first knows it; the host did not.
    let mut second = Leader::new(rig.identity.peer()).await;
    second.grants = rig.leader.grants.clone();
    second.members = vec![second.member()];
    rig.leader.hang_up();
    std::fs::write(rig.task(2).join("wd/go"), "").unwrap();
    rig.leader.redirect(None).await;
    rig.leader.redirect(Some(&second)).await;
    assert!(second.greet().await, "a session of its own");
    let mut held: Vec<_> =
        second.hello.as_ref().unwrap().attempts.iter().map(|(_, held)| held.task.0).collect();
    held.sort_unstable();
    assert_eq!(held, [1, 2], "what runs and what ended meanwhile");
    assert_eq!(second.outcome(2).await, exited(0), "the result of the gap");
    // A leader may ask for a sign of life at any time.
    let pings = second.pings;
    second.probe().await;
    second.until("it pings", |leader| leader.pings > pings).await;

    // The first is gone for good, and it is all the new process is given.
    rig.leader.network.shutdown().await;
    rig.worker.take().unwrap().detach().await;
    rig.worker = Some(worker(rig.directory.path(), &rig.leader, &rig.identity).await);
    second.greet().await;
    let held = &second.hello.as_ref().unwrap().attempts;
    assert!(held.iter().any(|(_, held)| *held == attempt(1)), "the running task was adopted");
    second.say(LeaderMessage::Kill { node: NODE, attempt: attempt(1), reason: KillReason::Ended }).await;
    assert_eq!(second.outcome(1).await, AttemptOutcome::Killed { exit_code: Some(143) });
    rig.stop().await;
}

/// What still has to do with the directory: by its command line.
fn processes_of(directory: &std::path::Path) -> Vec<String> {
    let directory = directory.to_string_lossy();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let commands = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let commands = commands.map(|command| String::from_utf8_lossy(&command).replace('\0', " "));
    commands.filter(|command| command.contains(&*directory)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_stopped_while_its_keeper_starts_leaves_none() {
    let directory = tempfile::tempdir().unwrap();
    let identity = Identity::ephemeral();
    let leader = Leader::new(identity.peer()).await;
    let begun = directory.path().join("begun");
    // A keeper that takes its time, as on a loaded machine.
    let script = format!("touch {}; sleep 1; exec \"$@\"", begun.display());
    let mut command: Vec<std::ffi::OsString> = vec!["sh".into(), "-c".into(), script.into(), "sh".into()];
    command.extend(keeper_command());
    let worker = worker_with(directory.path(), &leader, &identity, command).await;
    eventually("the keeper is being started", || begun.exists()).await;
    worker.shutdown(Duration::from_millis(200)).await;
    eventually("nothing is left", || processes_of(directory.path()).is_empty()).await;
    let keeper = directory.path().join("data/keeper");
    assert!(keeper.join("id").exists(), "it was waited for");
    assert!(!keeper.join("keeper.sock").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_stopped_between_two_tries_ends_its_keeper() {
    let directory = tempfile::tempdir().unwrap();
    let identity = Identity::ephemeral();
    let leader = Leader::new(identity.peer()).await;
    // Every generation fails once it has a keeper.
    std::fs::create_dir_all(directory.path().join("data")).unwrap();
    std::fs::write(directory.path().join("data/nodes"), "no directory").unwrap();
    let worker = worker(directory.path(), &leader, &identity).await;
    let keeper = directory.path().join("data/keeper");
    eventually("the keeper runs", || keeper.join("keeper.sock").exists()).await;
    worker.shutdown(Duration::from_millis(200)).await;
    eventually("nothing is left", || processes_of(directory.path()).is_empty()).await;
    assert!(!keeper.join("keeper.sock").exists());
}
