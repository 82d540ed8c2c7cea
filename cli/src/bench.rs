//! `lote bench`: figures beside a baseline of the same run (`cargo xtask bench` calls it on a release build).

use crate::client::Client;
use crate::output::Output;
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Tasks per request, the interface's limit.
const COLLECTION: usize = 100;
const SLOTS: usize = 2;
const TIMEOUT: Duration = Duration::from_secs(600);
/// Clock ticks of /proc/PID/stat; fixed on Linux.
const TICKS_PER_SECOND: u64 = 100;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, clap::Subcommand)]
enum Bench {
    /// Start-to-end rate of `true` tasks through the whole system, beside `xargs -P2`
    Dispatch {
        #[arg(long, default_value_t = 5_000)]
        tasks: usize,
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
}

pub fn main(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Bench::Dispatch { tasks, output } = arguments.bench;
    let figures = crate::block_on(dispatch(tasks))??;
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&figures)?),
        Output::Text => print(&figures),
    }
    Ok(ExitCode::SUCCESS)
}

/// What one side took.
#[derive(Debug, Clone, Copy)]
struct Cost {
    wall: Duration,
    cpu: Duration,
}

impl Cost {
    fn json(self, tasks: usize) -> Value {
        json!({
            "seconds": self.wall.as_secs_f64(),
            "tasksPerSecond": tasks as f64 / self.wall.as_secs_f64(),
            "cpuMicrosecondsPerTask": self.cpu.as_secs_f64() * 1e6 / tasks as f64,
        })
    }
}

#[allow(clippy::disallowed_methods)] // A benchmark reads the clock.
fn now() -> Instant {
    Instant::now()
}

async fn dispatch(tasks: usize) -> anyhow::Result<Value> {
    let baseline = xargs(tasks)?;
    let folder = tempfile::Builder::new().prefix("lote-bench-").tempdir()?;
    let mut cluster = UpProcess::start(folder.path())?;
    let lote = cluster.measure(tasks).await;
    let stopped = cluster.stop();
    let lote = lote?;
    stopped?;
    Ok(json!({
        "command": format!("lote bench dispatch --tasks {tasks}"),
        "tasks": tasks,
        "slots": SLOTS,
        "lote": lote.json(tasks),
        "xargs": baseline.json(tasks),
        "rateRatio": baseline.wall.as_secs_f64() / lote.wall.as_secs_f64(),
        "cpuRatio": lote.cpu.as_secs_f64() / baseline.cpu.as_secs_f64(),
    }))
}

/// `seq N | xargs -P2 -n1 true`: a bare spawn per task, nothing durable.
fn xargs(tasks: usize) -> anyhow::Result<Cost> {
    let before = children_cpu()?;
    let start = now();
    let script = format!("seq {tasks} | xargs -P{SLOTS} -n1 /bin/true");
    let status = Command::new("/bin/sh").args(["-c", &script]).status().context("running xargs")?;
    ensure!(status.success(), "xargs ended with {status}");
    Ok(Cost { wall: start.elapsed(), cpu: children_cpu()? - before })
}

/// CPU time of this process's ended and awaited children.
fn children_cpu() -> anyhow::Result<Duration> {
    let (_, children) = cpu_of("self")?;
    Ok(children)
}

/// Own CPU time of a process, and that of its ended and awaited children.
fn cpu_of(pid: &str) -> anyhow::Result<(Duration, Duration)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let fields: Vec<u64> = after_name.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    let ticks = |a: usize, b: usize| {
        let sum = fields.get(a).unwrap_or(&0) + fields.get(b).unwrap_or(&0);
        Duration::from_millis(sum * 1000 / TICKS_PER_SECOND)
    };
    // utime and stime are the 14th and 15th field, cutime and cstime follow; the state is the third.
    Ok((ticks(11, 12), ticks(13, 14)))
}

/// `lote up` as a process of its own, so that its CPU time is not the client's.
struct UpProcess {
    child: Child,
    client: Client,
}

impl UpProcess {
    fn start(folder: &Path) -> anyhow::Result<UpProcess> {
        let child = Command::new(std::env::current_exe()?)
            .args([
                "up",
                "--workers",
                "1",
                "--batch-port",
                "0",
                "--blob-port",
                "0",
                "--p2p-port",
                "0",
                "--data-dir",
            ])
            .arg(folder)
            .stdout(Stdio::null())
            .spawn()
            .context("starting `lote up`")?;
        let env = folder.join("lote.env");
        let start = now();
        while !env.exists() {
            ensure!(start.elapsed() < Duration::from_secs(60), "`lote up` did not come up within 60 s");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(UpProcess { child, client: Client::from_env_file(&env)? })
    }

    /// CPU of the cluster's process, its keepers, and the tasks they ran.
    fn cpu(&self) -> anyhow::Result<Duration> {
        let (own, children) = cpu_of(&self.child.id().to_string())?;
        let mut all = own + children;
        for keeper in self.keepers()? {
            let (own, children) = cpu_of(&keeper)?;
            all += own + children;
        }
        Ok(all)
    }

    /// Keepers are processes of this program that were started with the subcommand `keeper` since.
    fn keepers(&self) -> anyhow::Result<Vec<String>> {
        let program = std::env::current_exe()?;
        let mut keepers = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let pid = entry?.file_name().to_string_lossy().into_owned();
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let is_keeper = command.split(|byte| *byte == 0).nth(1) == Some(b"keeper");
            if is_keeper && std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program) {
                keepers.push(pid);
            }
        }
        Ok(keepers)
    }

    async fn measure(&mut self, tasks: usize) -> anyhow::Result<Cost> {
        let pool = json!({
            "id": "bench", "vmSize": "standard_d2s_v3", "targetDedicatedNodes": 1, "taskSlotsPerNode": SLOTS,
            "virtualMachineConfiguration": {
                "imageReference": {
                    "publisher": "canonical", "offer": "0001-com-ubuntu-server-jammy", "sku": "22_04-lts"
                },
                "nodeAgentSKUId": "batch.node.ubuntu 22.04"
            }
        });
        self.client.post("/pools", &pool).await?;
        self.client.post("/jobs", &json!({ "id": "bench", "poolInfo": { "poolId": "bench" } })).await?;
        let idle = async {
            while self.client.get("/pools/bench/nodes").await?["value"][0]["state"] != "idle" {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(TIMEOUT, idle).await.context("the node did not become idle")??;

        let before = self.cpu()?;
        let start = now();
        for first in (0..tasks).step_by(COLLECTION) {
            let ids = first..tasks.min(first + COLLECTION);
            let value: Vec<Value> =
                ids.map(|id| json!({ "id": format!("t{id}"), "commandLine": "/bin/true" })).collect();
            self.client.post("/jobs/bench/addtaskcollection", &json!({ "value": value })).await?;
        }
        loop {
            let counts = self.client.get("/jobs/bench/taskcounts").await?;
            let counts = &counts["taskCounts"];
            if counts["completed"].as_u64() == Some(tasks as u64) {
                ensure!(counts["failed"] == 0, "{} tasks failed", counts["failed"]);
                break;
            }
            ensure!(start.elapsed() < TIMEOUT, "not finished after {} s: {counts}", TIMEOUT.as_secs());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Cost { wall: start.elapsed(), cpu: self.cpu()? - before })
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        Command::new("kill").arg(self.child.id().to_string()).status()?;
        self.child.wait()?;
        Ok(())
    }
}

fn print(figures: &Value) {
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    println!("$ {}", figures["command"].as_str().unwrap_or_default());
    println!("{:<14}{:>12}{:>12}{:>20}", "", "seconds", "tasks/s", "CPU us per task");
    for side in ["lote", "xargs"] {
        let cost = &figures[side];
        println!(
            "{side:<14}{:>12.2}{:>12.0}{:>20.0}",
            number(&cost["seconds"]),
            number(&cost["tasksPerSecond"]),
            number(&cost["cpuMicrosecondsPerTask"])
        );
    }
    println!(
        "rate: {:.2} x xargs; CPU: {:.2} x xargs",
        number(&figures["rateRatio"]),
        number(&figures["cpuRatio"])
    );
}
