//! Where things are, and how commands are run.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The folder with the workspace's `Cargo.toml`.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in the workspace")
}

/// Cargo's output folder.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// The cargo that runs us, at the workspace's root.
pub fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// Whether `cargo NAME` exists.
pub fn has_cargo_command(name: &str) -> bool {
    let mut look = cargo();
    look.args([name, "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    look.status().is_ok_and(|status| status.success())
}

/// Runs a command to its end, its output going where ours goes.
pub fn run(command: &mut Command) -> Result<()> {
    match run_for_code(command)? {
        0 => Ok(()),
        code => bail!("`{}` ended with {code}", describe(command)),
    }
}

/// As [`run`], but the exit code is the caller's to judge.
pub fn run_for_code(command: &mut Command) -> Result<i32> {
    let line = describe(command);
    println!("$ {line}");
    let status = command.status().with_context(|| format!("could not start `{line}`"))?;
    status.code().with_context(|| format!("`{line}` ended with {status}"))
}

/// As [`run`], but its output is shown only if it fails.
pub fn run_quietly(command: &mut Command) -> Result<()> {
    let line = describe(command);
    println!("$ {line}");
    let output = command.output().with_context(|| format!("could not start `{line}`"))?;
    if !output.status.success() {
        print!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        bail!("`{line}` ended with {}", output.status);
    }
    Ok(())
}

/// Whose tests are to run.
#[derive(Debug, Clone, Copy)]
pub enum Crates {
    Only(&'static str),
    AllBut(&'static str),
}

/// The tests of some crates, by nextest where it is installed; what passes is not listed.
///
/// nextest gets the whole workspace and a filter, because cargo builds other variants of the dependencies for each
/// selection of crates.
pub fn run_tests(crates: Crates, more: &[String]) -> Result<()> {
    let mut command = cargo();
    if has_cargo_command("nextest") {
        command.args(["nextest", "run", "--no-fail-fast", "--show-progress", "none", "--cargo-quiet"]);
        command.args(["--status-level", "slow", "--final-status-level", "slow", "--workspace"]);
        command.arg("--filterset").arg(match crates {
            Crates::Only(name) => format!("package({name})"),
            Crates::AllBut(name) => format!("not package({name})"),
        });
        command.args(more);
    } else {
        command.args(["test", "--no-fail-fast", "--quiet", "--lib", "--bins", "--tests"]);
        match crates {
            Crates::Only(name) => command.args(["--package", name]),
            Crates::AllBut(name) => command.args(["--workspace", "--exclude", name]),
        };
        if !more.is_empty() {
            command.arg("--").args(more);
        }
    }
    run(&mut command)
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}
