//! The shell of an attempt: carries out what [`AttemptMachine`] wants and feeds back what came of it.
//!
//! One actor per attempt, on the host's own thread; disk work goes to the blocking pool, transfers are futures. Every
//! step runs under `catch_unwind`: a panic ends this attempt as `Lost` and nothing else. What must survive a restart
//! of the worker travels in the keeper's context ([`Kept`]).

use super::environment::{Sources, environment};
use super::machine::{AttemptMachine, Effect, Input, Plan, ProcessEnd};
use super::upload::Place;
use super::{directories, fetch, upload};
use crate::context::{HostContext, NodeContext, guarded};
use crate::keeper::wire::{Request, Spawn, SpawnError};
use crate::layout::TaskLayout;
use crate::node::machine::{Now, Work};
use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, Recipient, SpawnHandle,
    WrapFuture,
};
use futures::FutureExt;
use lote_shared::model::{
    AttemptOutcome, AttemptRef, EnvironmentSetting, FailureInfo, NodeKey, OutputFile, Producer, ResourceFile,
    StartTask,
};
use lote_shared::protocol::codec;
use lote_shared::protocol::host::{JobPart, TaskLaunch};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

/// What is run.
#[derive(Debug, Clone)]
pub enum Subject {
    Task(Box<Work>),
    Start { task: Box<StartTask>, run: u32 },
}

/// Which attempt of a node something is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    Task(AttemptRef),
    Start(u32),
}

/// The keeper's key of an attempt: `<node>/<task>#<attempt>` or `<node>/start#<run>`.
pub fn key(node: NodeKey, name: Name) -> String {
    match name {
        Name::Task(attempt) => format!("{node}/{attempt}"),
        Name::Start(run) => format!("{node}/start#{run}"),
    }
}

/// Reads what [`key`] wrote.
pub fn parse_key(key: &str) -> Option<(NodeKey, Name)> {
    let (node, rest) = key.split_once('/')?;
    let (task, number) = rest.split_once('#')?;
    let number = number.parse().ok()?;
    let name = match task {
        "start" => Name::Start(number),
        task => Name::Task(AttemptRef {
            task: lote_shared::model::TaskKey(task.parse().ok()?),
            attempt: lote_shared::model::Attempt(number),
        }),
    };
    Some((NodeKey(node.parse().ok()?), name))
}

/// What the keeper holds for us: enough to go on with the attempt after a restart of the worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Kept {
    Task { started_ms: u64, job: JobPart, launch: Box<TaskLaunch> },
    Start { started_ms: u64 },
}

const KEPT_VERSION: u8 = 1;

impl Kept {
    pub fn decode(bytes: &[u8]) -> Option<Kept> {
        codec::decode(KEPT_VERSION, bytes, codec::LIMIT_DEFAULT).ok()
    }
}

/// The attempt is over.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Done {
    pub name: Name,
    pub outcome: AttemptOutcome,
    pub survivors: u32,
}

/// Something happened to the attempt.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Feed(pub Input);

pub struct AttemptActor {
    machine: AttemptMachine,
    host: Arc<HostContext>,
    node: Arc<NodeContext>,
    subject: Subject,
    name: Name,
    started: Now,
    directories: TaskLayout,
    parent: Recipient<Done>,
    /// First inputs, or none for a fresh attempt.
    first: Vec<Effect>,
    transfer: Option<SpawnHandle>,
    tick: Option<SpawnHandle>,
    done: bool,
}

impl AttemptActor {
    /// A new attempt. `None` if its ids cannot be names of directories.
    pub fn new(
        host: Arc<HostContext>,
        node: Arc<NodeContext>,
        subject: Subject,
        started: Now,
        parent: Recipient<Done>,
    ) -> Option<AttemptActor> {
        let (machine, first) = AttemptMachine::start(plan(&host, &subject), started.ms);
        AttemptActor::build(host, node, subject, started, parent, machine, first)
    }

    /// An attempt whose process the keeper kept.
    pub fn adopt(
        host: Arc<HostContext>,
        node: Arc<NodeContext>,
        subject: Subject,
        started: Now,
        parent: Recipient<Done>,
    ) -> Option<AttemptActor> {
        let machine = AttemptMachine::adopt(plan(&host, &subject), started.ms);
        AttemptActor::build(host, node, subject, started, parent, machine, Vec::new())
    }

    fn build(
        host: Arc<HostContext>,
        node: Arc<NodeContext>,
        subject: Subject,
        started: Now,
        parent: Recipient<Done>,
        machine: AttemptMachine,
        first: Vec<Effect>,
    ) -> Option<AttemptActor> {
        let (name, directories) = match &subject {
            Subject::Task(work) => {
                let directories = node.layout.task(&work.job.job_id, work.launch.spec.id.as_str())?;
                (Name::Task(work.launch.attempt), directories)
            }
            Subject::Start { run, .. } => (Name::Start(*run), node.layout.startup()),
        };
        let (transfer, tick) = (None, None);
        Some(AttemptActor {
            machine,
            host,
            node,
            subject,
            name,
            started,
            directories,
            parent,
            first,
            transfer,
            tick,
            done: false,
        })
    }

    fn key(&self) -> String {
        key(self.node.grant.node, self.name)
    }

    fn resource_files(&self) -> &[ResourceFile] {
        match &self.subject {
            Subject::Task(work) => &work.launch.spec.resource_files,
            Subject::Start { task, .. } => &task.resource_files,
        }
    }

    fn environment(&self) -> BTreeMap<String, String> {
        let (task, settings): (_, &[EnvironmentSetting]) = match &self.subject {
            Subject::Task(work) => {
                let (job, spec) = (&work.job, &work.launch.spec);
                (Some((job.job_id.as_str(), spec.id.as_str(), job.environment.as_slice())), &spec.environment)
            }
            Subject::Start { task, .. } => (None, &task.environment),
        };
        environment(&Sources {
            grant: &self.node.grant,
            node: &self.node.layout,
            directories: &self.directories,
            task,
            settings,
            user: &self.host.user,
            reserved_disk_bytes: self.host.reserved_disk_bytes,
        })
    }

    /// One step of the machine and everything that follows from it.
    fn step(&mut self, input: Input, ctx: &mut Context<Self>) {
        let now_ms = self.host.clock.now().ms;
        let stepped = guarded(|| {
            let effects = self.machine.on(now_ms, input);
            self.carry_out(effects, ctx);
        });
        if let Err(fault) = stepped {
            self.crash(&fault, ctx);
        }
    }

    fn crash(&mut self, fault: &str, ctx: &mut Context<Self>) {
        tracing::error!(attempt = self.key(), fault, "an attempt's actor failed");
        self.host.ask_keeper(Request::End { key: self.key(), grace_ms: 0 });
        let outcome = AttemptOutcome::Lost { reason: format!("fault of the node software: {fault}") };
        self.finish(outcome, 0, ctx);
    }

    fn finish(&mut self, outcome: AttemptOutcome, survivors: u32, ctx: &mut Context<Self>) {
        if !std::mem::replace(&mut self.done, true) {
            self.parent.do_send(Done { name: self.name, outcome, survivors });
        }
        ctx.stop();
    }

    fn carry_out(&mut self, effects: Vec<Effect>, ctx: &mut Context<Self>) {
        let mut queue: VecDeque<Effect> = effects.into();
        while let Some(effect) = queue.pop_front() {
            match effect {
                Effect::Prepare => {
                    let directories = self.directories.clone();
                    let work = tokio::task::spawn_blocking(move || directories::prepare(&directories));
                    let work = async move { work.await.map_err(|fault| fault.to_string()) };
                    self.spawn_step(work, Input::Prepared, ctx);
                }
                Effect::Fetch => {
                    let (host, working) = (Arc::clone(&self.host), self.directories.working());
                    let root = self.node.layout.root.clone();
                    let files = self.resource_files().to_vec();
                    let work = async move {
                        Ok(fetch::fetch_all(&*host.source, &files, (&working, &root), host.retries).await)
                    };
                    self.transfer = Some(self.spawn_step(work, Input::Fetched, ctx));
                }
                Effect::Upload(indices) => {
                    let host = Arc::clone(&self.host);
                    let files = self.output_files(&indices);
                    let place = Place {
                        node_root: self.node.layout.root.clone(),
                        directories: self.directories.clone(),
                        environment: self.environment(),
                        producer: self.producer(),
                    };
                    let work = async move {
                        let files: Vec<&OutputFile> = files.iter().collect();
                        Ok(upload::upload_all(&*host.sink, &files, &place, host.retries).await)
                    };
                    self.transfer = Some(self.spawn_step(work, Input::Uploaded, ctx));
                }
                Effect::CancelTransfer => {
                    if let Some(transfer) = self.transfer.take() {
                        ctx.cancel_future(transfer);
                    }
                }
                Effect::Launch => match self.launch() {
                    Ok(spawn) => self.host.ask_keeper(Request::Spawn(Box::new(spawn))),
                    Err(message) => {
                        let end = ProcessEnd::NotSpawned { error: SpawnError::Launch, message };
                        let now_ms = self.host.clock.now().ms;
                        queue.extend(self.machine.on(now_ms, Input::Process(end)));
                    }
                },
                Effect::EndProcess { grace_ms } => {
                    self.host.ask_keeper(Request::End { key: self.key(), grace_ms });
                }
                Effect::Finish { outcome, survivors } => self.finish(outcome, survivors, ctx),
            }
        }
        self.arm(ctx);
    }

    fn producer(&self) -> Option<Producer> {
        match self.name {
            Name::Task(attempt) => Some(Producer { node: self.node.grant.node, attempt }),
            Name::Start(_) => None,
        }
    }

    fn output_files(&self, indices: &[usize]) -> Vec<OutputFile> {
        let Subject::Task(work) = &self.subject else { return Vec::new() };
        indices.iter().filter_map(|index| work.launch.spec.output_files.get(*index)).cloned().collect()
    }

    /// Runs a future beside the actor; its result is the machine's next input, its panic the attempt's end.
    fn spawn_step<T: 'static>(
        &self,
        work: impl Future<Output = Result<T, String>> + 'static,
        input: impl FnOnce(T) -> Input + 'static,
        ctx: &mut Context<Self>,
    ) -> SpawnHandle {
        let caught = AssertUnwindSafe(work).catch_unwind();
        ctx.spawn(caught.into_actor(self).map(move |result, actor, ctx| {
            actor.transfer = None;
            match result {
                Ok(Ok(value)) => actor.step(input(value), ctx),
                Ok(Err(fault)) => actor.crash(&fault, ctx),
                Err(_) => actor.crash("a transfer panicked", ctx),
            }
        }))
    }

    /// The request that starts the process.
    fn launch(&self) -> Result<Spawn, String> {
        let (command_line, leave_children, kept) = match &self.subject {
            Subject::Task(work) => {
                let kept = Kept::Task {
                    started_ms: self.started.ms,
                    job: (*work.job).clone(),
                    launch: Box::new(work.launch.clone()),
                };
                (&work.launch.spec.command_line, false, kept)
            }
            Subject::Start { task, .. } => {
                (&task.command_line, true, Kept::Start { started_ms: self.started.ms })
            }
        };
        let arguments = shell_words::split(command_line)
            .map_err(|_| "the command line has a quote that is not closed".to_owned())?;
        let text = |path: std::path::PathBuf| {
            path.into_os_string()
                .into_string()
                .map_err(|_| "the data directory's name is not UTF-8".to_owned())
        };
        Ok(Spawn {
            key: self.key(),
            arguments,
            environment: self.environment().into_iter().collect(),
            directory: text(self.directories.working())?,
            stdout: text(self.directories.stdout())?,
            stderr: text(self.directories.stderr())?,
            context: codec::encode(KEPT_VERSION, &kept).map_err(|error| error.to_string())?,
            leave_children,
        })
    }

    fn arm(&mut self, ctx: &mut Context<Self>) {
        if let Some(tick) = self.tick.take() {
            ctx.cancel_future(tick);
        }
        let Some(at) = self.machine.next_tick_ms() else { return };
        let wait_ms = at.saturating_sub(self.host.clock.now().ms);
        self.tick =
            Some(ctx.run_later(Duration::from_millis(wait_ms), |actor, ctx| actor.step(Input::Tick, ctx)));
    }
}

fn plan(host: &HostContext, subject: &Subject) -> Plan {
    match subject {
        Subject::Task(work) => Plan {
            has_resource_files: !work.launch.spec.resource_files.is_empty(),
            uploads: work.launch.spec.output_files.iter().map(|file| file.condition).collect(),
            wall_clock_ms: work.launch.wall_clock_ms,
            last_try: work.launch.last_try,
            grace_ms: host.grace_ms,
        },
        Subject::Start { task, .. } => Plan {
            has_resource_files: !task.resource_files.is_empty(),
            uploads: Vec::new(),
            wall_clock_ms: None,
            last_try: true,
            grace_ms: host.grace_ms,
        },
    }
}

/// An attempt that cannot even have a directory.
pub fn unnameable() -> AttemptOutcome {
    AttemptOutcome::NotStarted(FailureInfo::server(
        "ResourceDirectoryCreateFailed",
        "the job's or task's id cannot be the name of a directory",
    ))
}

impl Actor for AttemptActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let first = std::mem::take(&mut self.first);
        if let Err(fault) = guarded(|| self.carry_out(first, ctx)) {
            self.crash(&fault, ctx);
        }
    }
}

impl Handler<Feed> for AttemptActor {
    type Result = ();

    fn handle(&mut self, Feed(input): Feed, ctx: &mut Self::Context) {
        if !self.done {
            self.step(input, ctx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lote_shared::model::{Attempt, TaskKey};

    #[test]
    fn keys_are_read_back() {
        let attempt = AttemptRef { task: TaskKey(u64::MAX), attempt: Attempt(u32::MAX) };
        for name in [Name::Task(attempt), Name::Start(3)] {
            let text = key(NodeKey(7), name);
            assert!(text.len() < crate::keeper::wire::KEY_LENGTH_MAX);
            assert_eq!(parse_key(&text), Some((NodeKey(7), name)));
        }
        for bad in ["", "7", "7/", "7/x#1", "x/1#1", "7/1#", "7/1", "7/start#"] {
            assert_eq!(parse_key(bad), None, "{bad}");
        }
    }
}
