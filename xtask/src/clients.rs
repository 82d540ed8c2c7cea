//! The end-to-end tests of `tests/clients`: real client packages against a real `lote up`.
//!
//! Each generation of azure-batch has a virtual environment of its own below `target/clients/`, made from a file
//! that pins every package in it. An environment is used again as long as that file and the Python are the same.

use crate::steps::Steps;
use crate::workspace::{self, cargo, root, target};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const GENERATIONS: [&str; 2] = ["py14", "py15"];

/// pytest's exit code when it ran nothing; a failure unless somebody asked for a few tests only.
pub const NO_TESTS: i32 = 5;

/// Builds `lote` and runs the tests once with each generation; `more` goes to pytest.
pub fn run(steps: &mut Steps, more: &[String]) {
    let build = || workspace::run(cargo().args(["build", "--quiet", "--package", "lote"]));
    if !steps.run("build of lote", build) {
        return;
    }
    let lote = target().join("debug/lote");
    let others = Others::find(steps);
    for generation in GENERATIONS {
        let mut python = PathBuf::new();
        let made = steps.run(&format!("packages of {generation}"), || {
            python = environment(generation)?;
            Ok(())
        });
        if made {
            steps.run(&format!("clients with {generation}"), || pytest(&python, &lote, &others, more));
        }
    }
}

/// The Python of the virtual environment of this generation, made if it is not there.
pub fn environment(generation: &str) -> Result<PathBuf> {
    let requirements = root().join(format!("tests/clients/requirements/{generation}.txt"));
    let pinned = fs::read_to_string(&requirements)
        .with_context(|| format!("could not read {}", requirements.display()))?;
    let base = std::env::var("LOTE_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let version = version_of(&base)?;
    let folder = target().join("clients").join(generation);
    let python = folder.join("bin/python");
    let stamp = folder.join("made-from.txt");
    let made_from = format!("# {version}\n{pinned}");
    if python.exists() && fs::read_to_string(&stamp).is_ok_and(|text| text == made_from) {
        println!("{} is up to date ({version})", folder.display());
        return Ok(python);
    }
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("could not remove {}", folder.display()))?;
    }
    workspace::run(Command::new(&base).args(["-m", "venv"]).arg(&folder))
        .context("on Debian the package python3-venv is needed for this")?;
    let pip = ["-m", "pip", "--disable-pip-version-check"];
    // The file names every package, so nothing is looked up, and nothing is built from source.
    let install = ["install", "--quiet", "--no-deps", "--only-binary", ":all:", "--requirement"];
    workspace::run(Command::new(&python).args(pip).args(install).arg(&requirements))?;
    workspace::run(Command::new(&python).args(pip).arg("check"))?;
    fs::write(&stamp, made_from).with_context(|| format!("could not write {}", stamp.display()))?;
    Ok(python)
}

/// What `python3 --version` says; errors name what is missing.
fn version_of(python: &str) -> Result<String> {
    let output = Command::new(python)
        .args(["-c", "import sys; print(sys.version.split()[0], *sys.version_info[:2])"])
        .output()
        .with_context(|| format!("there is no `{python}`; LOTE_PYTHON may name another"))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let mut words = text.split(' ');
    let (version, major, minor) = (words.next(), words.next(), words.next());
    let number = |word: Option<&str>| word.and_then(|word| word.parse::<u32>().ok()).unwrap_or(0);
    let (major, minor) = (number(major), number(minor));
    if (major, minor) < (3, 10) {
        bail!("`{python}` is Python {text:?}; the client packages need 3.10 or newer");
    }
    Ok(format!("Python {}", version.unwrap_or_default()))
}

/// Clients that are not Python's. What the machine lacks is left out, and noted, so that nobody takes silence for success.
struct Others {
    /// The folder with the JavaScript package.
    javascript: Option<PathBuf>,
}

impl Others {
    fn find(steps: &mut Steps) -> Others {
        let mut javascript = None;
        if is_here("npm") && has_node() {
            steps.run("packages of JavaScript", || {
                javascript = Some(javascript_packages()?);
                Ok(())
            });
        } else {
            steps.note(
                "the tests with the JavaScript package were NOT RUN: there is no npm with Node.js 20 or newer",
            );
        }
        if !is_here("rclone") {
            steps.note("the tests with rclone were NOT RUN: there is no rclone (Debian: rclone)");
        }
        Others { javascript }
    }
}

/// Whether Node.js is as new as the package needs.
fn has_node() -> bool {
    let output = Command::new("node").arg("--version").output();
    let version =
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let major = version.trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    major.is_some_and(|major| major >= 20)
}

fn is_here(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Installs what the lock file says, unless it is there.
fn javascript_packages() -> Result<PathBuf> {
    let (from, folder) = (root().join("tests/clients/js"), target().join("clients/js"));
    fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
    let lock = "package-lock.json";
    let pinned = fs::read_to_string(from.join(lock)).context("could not read the lock file")?;
    let stamp = folder.join("made-from.json");
    if fs::read_to_string(&stamp).is_ok_and(|text| text == pinned) {
        println!("{} is up to date", folder.display());
        return Ok(folder);
    }
    for file in ["package.json", lock] {
        fs::copy(from.join(file), folder.join(file)).with_context(|| format!("could not copy {file}"))?;
    }
    workspace::run(Command::new("npm").current_dir(&folder).args([
        "ci",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--loglevel=error",
    ]))?;
    fs::write(&stamp, pinned).with_context(|| format!("could not write {}", stamp.display()))?;
    Ok(folder)
}

fn pytest(python: &Path, lote: &Path, others: &Others, more: &[String]) -> Result<()> {
    let mut command = Command::new(python);
    if let Some(folder) = &others.javascript {
        command.env("LOTE_JS", folder);
    }
    command
        .current_dir(root().join("tests/clients"))
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
        .args(more)
        .env("LOTE_BIN", lote)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONUNBUFFERED", "1");
    match workspace::run_for_code(&mut command)? {
        0 => Ok(()),
        NO_TESTS if !more.is_empty() => {
            println!("nothing of this selection is for this generation");
            Ok(())
        }
        code => bail!("pytest ended with {code}"),
    }
}
