//! The tests of `tests/cluster`: several hosts as network namespaces, and everything that can go wrong between them.
//!
//! They need root, `ip` and `tc`. What the machine lacks is for the tests themselves to find out: they leave with a code
//! of their own, and what they could not do becomes a note of the summary, so that nobody takes silence for success.

use crate::clients;
use crate::steps::Steps;
use crate::workspace::{self, cargo, root, target};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The generation of azure-batch that gives the load.
const GENERATION: &str = "py14";

/// The exit code of `tests/cluster/conftest.py` for a machine that cannot carry the rig.
const NOT_HERE: i32 = 77;

/// Builds `lote` and runs the tests; `more` goes to pytest.
pub fn run(steps: &mut Steps, more: &[String]) {
    // The next build first: the one that is left in place of `lote` is the one that everybody means.
    let next = target().join("next-version/lote");
    if !steps.run("build of the next lote, for upgrades", || build_next(&next)) {
        return;
    }
    if !steps.run("build of lote", || build(&[])) {
        return;
    }
    let mut python = PathBuf::new();
    let made = steps.run(&format!("packages of {GENERATION} for the cluster tests"), || {
        python = clients::environment(GENERATION)?;
        Ok(())
    });
    if !made {
        return;
    }
    let notes = target().join("clients/cluster-notes.txt");
    let lote = target().join("debug/lote");
    steps.run("cluster", || pytest(&python, [&lote, &next], &notes, more));
    for note in fs::read_to_string(&notes).unwrap_or_default().lines() {
        steps.note(note);
    }
}

fn build(more: &[&str]) -> Result<()> {
    workspace::run(cargo().args(["build", "--quiet", "--package", "lote"]).args(more))
}

/// Another build, which supports one cluster version more. Cargo keeps the parts of both, so that only the programs are
/// linked anew.
fn build_next(program: &Path) -> Result<()> {
    build(&["--features", "next-version"])?;
    let at = || format!("could not write {}", program.display());
    let folder = program.parent().context("a path with a folder")?;
    fs::create_dir_all(folder).with_context(at)?;
    // It may be running, left by a test that was killed.
    let new = program.with_extension("new");
    fs::copy(target().join("debug/lote"), &new).with_context(at)?;
    fs::rename(&new, program).with_context(at)
}

fn pytest(python: &Path, [lote, next]: [&Path; 2], notes: &Path, more: &[String]) -> Result<()> {
    fs::write(notes, "").with_context(|| format!("could not write {}", notes.display()))?;
    let mut command = Command::new(python);
    command
        .current_dir(root().join("tests/cluster"))
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
        .args(more)
        .env("LOTE_BIN", lote)
        .env("LOTE_NEXT_BIN", next)
        .env("LOTE_NOTES", notes)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONUNBUFFERED", "1");
    match workspace::run_for_code(&mut command)? {
        0 => Ok(()),
        NOT_HERE => {
            println!("!!! the cluster tests were NOT RUN, see above");
            Ok(())
        }
        clients::NO_TESTS if !more.is_empty() => {
            println!("nothing of this selection is a cluster test");
            Ok(())
        }
        code => bail!("pytest ended with {code}"),
    }
}
