//! House rules as a test: what a compiler cannot see, and a reviewer should not have to.
//!
//! Each rule is a function from the tree to complaints that name a file and a line. The rules look at what git
//! knows or would add, so nothing in `target/` or `.lote/` counts.

use crate::workspace::root;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Longest Rust file. No reader holds more in the head.
const LINES_MAX: usize = 700;

/// What must not stay in the tree. Spelled in two parts so that this file does not complain about itself.
const LEFT_OVERS: [&str; 4] =
    [concat!("todo", "!("), concat!("unimpl", "emented!("), concat!("dbg", "!("), concat!("#[ig", "nore")];

/// The pure cores (`ARCHITECTURE.md`): they decide and touch nothing.
const CORES: [&str; 5] = [
    "coordinator/src/state/",
    "coordinator/src/scheduling/",
    "coordinator/src/autoscale/",
    "worker/src/attempt/machine",
    "worker/src/node/machine",
];

/// What a core may not mention: clocks, randomness, disk, threads, async, and maps without an order.
const DOORS: [&str; 12] = [
    "SystemTime",
    "Instant",
    "HashMap",
    "HashSet",
    "tokio::",
    "actix",
    "libp2p",
    "rand::",
    "std::fs",
    "std::thread",
    "async fn",
    ".await",
];

/// One file of the tree.
#[derive(Debug)]
struct File {
    /// From the root, with `/`.
    path: String,
    text: String,
}

/// Fails with every complaint there is.
pub fn check() -> Result<()> {
    let files = tree()?;
    let rules = [lengths, left_overs, stories, cores, links, named_tests, dependencies];
    let complaints: Vec<String> = rules.iter().flat_map(|rule| rule(&files)).collect();
    if complaints.is_empty() {
        println!("{} files keep {} rules", files.len(), rules.len());
        return Ok(());
    }
    for complaint in &complaints {
        println!("{complaint}");
    }
    bail!("{} complaints", complaints.len());
}

/// Every text file that is in git or would be added.
fn tree() -> Result<Vec<File>> {
    let output = Command::new("git")
        .current_dir(root())
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .output()
        .context("could not start git")?;
    if !output.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let mut files = Vec::new();
    for path in output.stdout.split(|byte| *byte == 0).filter(|path| !path.is_empty()) {
        let path = String::from_utf8_lossy(path).into_owned();
        // What cannot be read as text is a picture or was deleted just now.
        if let Ok(text) = fs::read_to_string(root().join(&path)) {
            files.push(File { path, text });
        }
    }
    Ok(files)
}

fn rust(files: &[File]) -> impl Iterator<Item = &File> {
    files.iter().filter(|file| file.path.ends_with(".rs"))
}

/// The lines before the first test module, numbered from 1.
fn code(file: &File) -> impl Iterator<Item = (usize, &str)> {
    let lines = file.text.lines().take_while(|line| line.trim() != "#[cfg(test)]");
    lines.enumerate().map(|(index, line)| (index + 1, line))
}

fn lengths(files: &[File]) -> Vec<String> {
    let too_long = rust(files).filter_map(|file| {
        let lines = file.text.lines().count();
        let complaint = format!("{}: {lines} lines; at most {LINES_MAX}. Does it tell one thing?", file.path);
        (lines > LINES_MAX).then_some(complaint)
    });
    too_long.collect()
}

fn left_overs(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in rust(files) {
        for (index, line) in file.text.lines().enumerate() {
            for word in LEFT_OVERS.iter().filter(|word| line.contains(**word)) {
                complaints.push(format!("{}:{}: `{word}` is left", file.path, index + 1));
            }
        }
    }
    complaints
}

/// A module opens with its story. Files of tests tell it in their names.
fn stories(files: &[File]) -> Vec<String> {
    let told = |file: &File| file.text.trim_start().starts_with("//!");
    let is_test = |file: &File| file.path.ends_with("/tests.rs") || file.path.contains("/tests/");
    let without = rust(files).filter(|file| !is_test(file) && !told(file));
    without.map(|file| format!("{}: does not open with `//!`", file.path)).collect()
}

fn cores(files: &[File]) -> Vec<String> {
    let in_core = |file: &&File| {
        CORES.iter().any(|core| file.path.starts_with(core)) && !file.path.ends_with("tests.rs")
    };
    let mut complaints = Vec::new();
    for file in rust(files).filter(in_core) {
        for (line, text) in code(file) {
            let text = text.split("//").next().unwrap_or_default();
            for door in DOORS.iter().filter(|door| text.contains(**door)) {
                complaints.push(format!("{}:{line}: a core mentions `{door}`", file.path));
            }
        }
    }
    complaints
}

/// Links between documents lead somewhere.
fn links(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        let folder = Path::new(&file.path).parent().unwrap_or(Path::new(""));
        for target in link_targets(&file.text) {
            if target.contains("://") || target.starts_with('#') {
                continue;
            }
            let path = target.split('#').next().unwrap_or_default();
            if !root().join(folder).join(path).exists() {
                complaints.push(format!("{}: the link to `{target}` leads nowhere", file.path));
            }
        }
    }
    complaints
}

/// The targets of `[text](target)`.
fn link_targets(text: &str) -> Vec<&str> {
    let after = text.split("](").skip(1);
    after.filter_map(|rest| rest.split_once(')')).map(|(target, _)| target).collect()
}

/// README calls something seen working by naming the test that sees it: the test has to exist.
fn named_tests(files: &[File]) -> Vec<String> {
    let Some(readme) = files.iter().find(|file| file.path == "README.md") else {
        return vec!["README.md: is missing".to_owned()];
    };
    let tests = files.iter().filter(|file| file.path.starts_with("tests/") && file.path.ends_with(".py"));
    let defined: BTreeSet<&str> = tests
        .flat_map(|file| file.text.split("def ").skip(1))
        .filter_map(|rest| rest.split('(').next())
        .collect();
    let quoted = readme.text.split('`').skip(1).step_by(2);
    let named = quoted.filter(|name| name.starts_with("test_") && !name.contains(['.', '/', ' ']));
    let unknown = named.filter(|name| !defined.contains(name));
    unknown.map(|name| format!("README.md: there is no test `{name}`")).collect()
}

/// Every shared dependency is used by a crate, and `docs/dependencies.md` says why it is there.
fn dependencies(files: &[File]) -> Vec<String> {
    let text_of =
        |path: &str| files.iter().find(|file| file.path == path).map_or("", |file| file.text.as_str());
    let manifest = text_of("Cargo.toml");
    let document = text_of("docs/dependencies.md");
    let members: Vec<&File> = files.iter().filter(|file| file.path.ends_with("/Cargo.toml")).collect();
    let section = manifest.split("[workspace.dependencies]").nth(1).unwrap_or_default();
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    let names = lines.filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.trim());
    let mut complaints = Vec::new();
    for name in names.filter(|name| !name.starts_with("lote-")) {
        let uses = [format!("\n{name}.workspace"), format!("\n{name} = {{ workspace")];
        if !members.iter().any(|member| uses.iter().any(|spelled| member.text.contains(spelled))) {
            complaints.push(format!("Cargo.toml: no crate uses `{name}`"));
        }
        if !document.contains(&format!("`{name}`")) {
            complaints.push(format!("docs/dependencies.md: does not say why `{name}` is here"));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_keeps_the_house_rules() {
        if let Err(error) = check() {
            panic!("{error:#}, listed above");
        }
    }

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn each_rule_finds_what_it_looks_for() {
        let long = "//! Long.\n".to_owned() + &"\n".repeat(LINES_MAX);
        let left = format!("//! Left.\nfn f() {{ {}) }}\n", LEFT_OVERS[0]);
        let core = "//! Core.\nuse std::time::Instant; // why\n// Instant in a comment is fine.\n#[cfg(test)]\nHashMap";
        let cargo = "[workspace.dependencies]\nused = \"1\"\nunused = \"1\"\n[profile.dev]\nx = 1\n";
        let files = [
            file("a/src/long.rs", &long),
            file("a/src/left.rs", &left),
            file("a/src/silent.rs", "fn f() {}\n"),
            file("a/src/silent/tests.rs", "fn f() {}\n"),
            file("coordinator/src/state/x.rs", core),
            file("README.md", "[a](none.md) [b](https://x/y) `test_known` `test_unknown` [c](Cargo.toml#x)"),
            file("tests/clients/test_x.py", "def test_known(sdk):\n"),
            file("Cargo.toml", cargo),
            file("a/Cargo.toml", "[dependencies]\nused.workspace = true\n"),
            file("docs/dependencies.md", "`used` and `unused`"),
        ];
        let found = |rule: fn(&[File]) -> Vec<String>| rule(&files).join("\n");
        assert_eq!(found(lengths), "a/src/long.rs: 701 lines; at most 700. Does it tell one thing?");
        assert_eq!(found(left_overs), format!("a/src/left.rs:2: `{}` is left", LEFT_OVERS[0]));
        assert_eq!(found(stories), "a/src/silent.rs: does not open with `//!`");
        assert_eq!(found(cores), "coordinator/src/state/x.rs:2: a core mentions `Instant`");
        assert_eq!(found(links), "README.md: the link to `none.md` leads nowhere");
        assert_eq!(found(named_tests), "README.md: there is no test `test_unknown`");
        assert_eq!(found(dependencies), "Cargo.toml: no crate uses `unused`");
    }
}
