//! Benches: each prints its figures beside a baseline of the same run on the same machine.

use crate::clients;
use crate::steps::Steps;
use crate::workspace::{self, cargo, root, target};
use anyhow::Context;
use clap::ValueEnum;
use std::process::Command;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Bench {
    /// One large blob through HTTP, beside nginx and `dd conv=fsync`; needs root, nginx and curl.
    Blob,
    /// `true` tasks per second and CPU per task on two slots, beside `xargs -P2`.
    Dispatch,
    /// One file to many hosts over slow links, beside the floor and plain HTTP; needs root.
    Distribute,
    /// Leader killed → next accepted write and next task start, on hosts made of network namespaces; needs root.
    Failover,
    /// Applying an entry while a snapshot is built, and without.
    Snapshot,
    /// Simulated seconds for one of the CPU's, with faults; a million tasks and ten thousand nodes.
    Sim,
}

/// What `bench sim` runs.
const SIMULATED: [&[&str]; 4] = [
    &["sweep", "storm", "--seeds", "200", "--jobs", "1"],
    &["sweep", "leader-storm", "--seeds", "20", "--jobs", "1"],
    &["sweep", "ten-thousand-nodes", "--seeds", "1", "--jobs", "1"],
    &["sweep", "one-million-tasks", "--seeds", "1", "--jobs", "1"],
];

/// Builds an optimised `lote` and runs the bench against it; `more` goes to the bench.
pub fn run(steps: &mut Steps, bench: Bench, more: &[String]) {
    if let Bench::Snapshot = bench {
        steps.run("bench snapshot_latency", || {
            let example = ["--package", "lote-coordinator", "--example", "snapshot_latency"];
            workspace::run(cargo().args(["run", "--release", "--quiet"]).args(example).arg("--").args(more))
        });
        return;
    }
    let build = || workspace::run(cargo().args(["build", "--release", "--quiet", "--package", "lote"]));
    if !steps.run("optimised build of lote", build) {
        return;
    }
    if let Bench::Sim = bench {
        for arguments in SIMULATED {
            let name = format!("lote sim {}", arguments.join(" "));
            steps.run(&name, || {
                workspace::run(
                    Command::new(target().join("release/lote")).arg("sim").args(arguments).args(more),
                )
            });
        }
        return;
    }
    let script = match bench {
        Bench::Blob => "blob.py",
        Bench::Dispatch => "dispatch.py",
        Bench::Distribute => "distribute.py",
        Bench::Failover => "failover.py",
        Bench::Snapshot | Bench::Sim => return,
    };
    steps.run(&format!("bench {script}"), || {
        let python = clients::environment("py15")?;
        let modules = [root().join("tests/clients"), root().join("tests/cluster")];
        let modules = std::env::join_paths(modules).context("the path of the workspace has a colon")?;
        let mut command = Command::new(python);
        command
            .arg(root().join("tests/bench").join(script))
            .args(more)
            .env("LOTE_BIN", target().join("release/lote"))
            .env("PYTHONPATH", modules)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        workspace::run(&mut command)
    });
}
