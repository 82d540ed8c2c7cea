//! `cargo xtask`: everything that one does to this repository besides building it.
//!
//! Each step says what it runs before it runs it, and a summary with times ends every call. `verify` looks and
//! never writes, `fix` writes. Nothing here keeps state but `target/`: virtual environments and temporary data.

mod bench;
mod clients;
mod cluster;
mod steps;
mod tidy;
mod workspace;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use std::process::ExitCode;
use steps::Steps;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Test, measure and check Lote")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Runs the tests.
    Test {
        #[arg(value_enum, default_value = "all")]
        suite: Suite,
        /// Handed on to the test runner: `cargo xtask test clients -- -k blob`.
        #[arg(last = true)]
        more: Vec<String>,
    },
    /// Measures something, beside a baseline of the same run.
    Bench {
        #[arg(value_enum)]
        name: bench::Bench,
        /// Handed on to the bench.
        #[arg(last = true)]
        more: Vec<String>,
    },
    /// Checks format, lints and house rules; writes nothing.
    Verify,
    /// Formats, and applies what clippy can mend by itself.
    Fix,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// Unit tests of every crate, doc examples and house rules.
    Unit,
    /// The simulator's runs.
    Sim,
    /// End-to-end, with the real Python packages.
    Clients,
    /// Several hosts as network namespaces, and what goes wrong between them; needs root.
    Cluster,
    /// All of them, the long ones in a short form.
    All,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut steps = Steps::default();
    match &arguments.task {
        Task::Test { suite, more } => test(&mut steps, *suite, more),
        Task::Bench { name, more } => bench::run(&mut steps, *name, more),
        Task::Verify => verify(&mut steps),
        Task::Fix => fix(&mut steps),
    }
    steps.finish()
}

fn test(steps: &mut Steps, suite: Suite, more: &[String]) {
    let wanted = |one| suite == one || suite == Suite::All;
    if wanted(Suite::Unit) {
        steps.run("unit tests of every crate", || unit(more));
        steps.run("doc examples", doc_examples);
    }
    if wanted(Suite::Sim) {
        steps.run("simulator", || simulator(more));
    }
    if wanted(Suite::Clients) {
        clients::run(steps, more);
    }
    if wanted(Suite::Cluster) {
        cluster::run(steps, more);
    }
}

/// Every crate but the simulator. House rules are tests of this crate, so they run here as well.
fn unit(more: &[String]) -> Result<()> {
    workspace::run_tests(workspace::Crates::AllBut("lote-simulations"), more)
}

fn simulator(more: &[String]) -> Result<()> {
    workspace::run_tests(workspace::Crates::Only("lote-simulations"), more)
}

/// nextest does not run them. Their output is shown only if one fails: a crate without any would end this run with
/// the words `0 passed`.
fn doc_examples() -> Result<()> {
    workspace::run_quietly(workspace::cargo().args(["test", "--workspace", "--doc", "--quiet"]))
}

fn verify(steps: &mut Steps) {
    steps.run("format", || workspace::run(workspace::cargo().args(["fmt", "--all", "--check"])));
    steps.run("house rules", tidy::check);
    steps.run("clippy", || {
        let clippy = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
        workspace::run(workspace::cargo().args(clippy))
    });
    if workspace::has_cargo_command("deny") {
        steps.run("licences and advisories", || workspace::run(workspace::cargo().args(["deny", "check"])));
    } else {
        steps.note("licences and advisories were not checked: cargo-deny is not installed");
    }
}

fn fix(steps: &mut Steps) {
    steps.run("clippy --fix", || {
        let clippy = ["clippy", "--fix", "--allow-dirty", "--workspace", "--all-targets"];
        workspace::run(workspace::cargo().args(clippy))
    });
    steps.run("format", || workspace::run(workspace::cargo().args(["fmt", "--all"])));
}
