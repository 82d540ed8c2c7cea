//! The pattern language of output files (`files-and-storage.md` §5).
//!
//! `*` any run within a name, `?` one character, `[a-c]` and `[!a-c]` sets, `**` any directories. Special characters
//! are written in brackets. A wildcard never matches a leading dot. A pattern is split into a *base*, its longest
//! leading part without wildcards, and the rest; names of matches are relative to the base.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// More matches than this are not looked for.
const MATCHES_MAX: usize = 100_000;
/// Deeper directories are not descended into.
const DEPTH_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Character(char),
    /// `?`
    One,
    /// `*`
    Run,
    Set {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Name(String),
    Wild(Vec<Token>),
    /// `**`
    Any,
}

/// A parsed pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// Absolute; the file itself if the pattern has no wildcard.
    pub base: PathBuf,
    rest: Vec<Part>,
}

/// A file that matches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Match {
    pub path: PathBuf,
    /// Relative to the pattern's base, `/`-separated; the file name if the pattern has no wildcard.
    pub name: String,
}

impl Pattern {
    /// `text` with its variables already expanded; relative patterns start at `working`.
    pub fn parse(text: &str, working: &Path) -> Pattern {
        let mut base = if text.starts_with('/') { PathBuf::from("/") } else { working.to_owned() };
        let mut rest: Vec<Part> = Vec::new();
        for part in text.split('/').filter(|part| !part.is_empty() && *part != ".") {
            match (parse_part(part), rest.is_empty()) {
                (Part::Name(name), true) if name == ".." => {
                    base.pop();
                }
                (Part::Name(name), true) => base.push(name),
                // `**/**` is `**`.
                (Part::Any, false) if rest.last() == Some(&Part::Any) => {}
                (other, _) => rest.push(other),
            }
        }
        Pattern { base, rest }
    }

    pub fn has_wildcard(&self) -> bool {
        !self.rest.is_empty()
    }

    /// The regular files that match now, sorted by name. Unreadable directories are passed over.
    pub fn find(&self) -> Vec<Match> {
        let mut found = Vec::new();
        if self.rest.is_empty() {
            if self.base.is_file() {
                let name =
                    self.base.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                found.push(Match { path: self.base.clone(), name });
            }
            return found;
        }
        descend(&self.base, "", &self.rest, 0, &mut found);
        found.sort();
        found.dedup();
        found
    }
}

fn descend(directory: &Path, prefix: &str, rest: &[Part], depth: usize, found: &mut Vec<Match>) {
    let Some((part, after)) = rest.split_first() else { return };
    if found.len() >= MATCHES_MAX || depth > DEPTH_MAX {
        return;
    }
    let below = |name: &str| if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
    let take = |name: &str, found: &mut Vec<Match>| {
        let path = directory.join(name);
        if !after.is_empty() {
            if path.is_dir() {
                descend(&path, &below(name), after, depth + 1, found);
            }
        } else if path.is_file() {
            found.push(Match { path, name: below(name) });
        }
    };
    match part {
        Part::Name(name) => take(name, found),
        Part::Wild(tokens) => {
            for name in names(directory) {
                if matches(tokens, &name) {
                    take(&name, found);
                }
            }
        }
        Part::Any => {
            // No directory at all, ...
            match after {
                [] => {
                    for name in names(directory).into_iter().filter(|name| !name.starts_with('.')) {
                        take(&name, found);
                    }
                }
                after => descend(directory, prefix, after, depth, found),
            }
            // ... or one more. Links to directories are not followed here: they may lead in circles.
            for name in names(directory).into_iter().filter(|name| !name.starts_with('.')) {
                let path = directory.join(&name);
                if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
                    descend(&path, &below(&name), rest, depth + 1, found);
                }
            }
        }
    }
}

/// The names in a directory; names that are not UTF-8 cannot be blob names and are left out.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn parse_part(text: &str) -> Part {
    if text == "**" {
        return Part::Any;
    }
    let mut tokens = Vec::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '?' => tokens.push(Token::One),
            '*' if tokens.last() == Some(&Token::Run) => {}
            '*' => tokens.push(Token::Run),
            '[' => match parse_set(characters.as_str()) {
                Some((token, rest)) => {
                    tokens.push(token);
                    characters = rest.chars();
                }
                None => tokens.push(Token::Character('[')),
            },
            other => tokens.push(Token::Character(other)),
        }
    }
    let plain: Option<String> = tokens
        .iter()
        .map(|token| match token {
            Token::Character(c) => Some(*c),
            _ => None,
        })
        .collect();
    plain.map_or(Part::Wild(tokens), Part::Name)
}

/// What follows `[`: the set and what is behind its `]`. A `]` in first place stands for itself. A set of one
/// character is that character: this is how special characters are escaped.
fn parse_set(text: &str) -> Option<(Token, &str)> {
    let (negated, body) = match text.strip_prefix('!') {
        Some(body) => (true, body),
        None => (false, text),
    };
    let first = body.chars().next()?.len_utf8();
    let end = first + body.get(first..)?.find(']')?;
    let (inner, rest) = (body.get(..end)?, body.get(end + 1..)?);
    let mut ranges = Vec::new();
    let mut characters = inner.chars().peekable();
    while let Some(low) = characters.next() {
        let mut ahead = characters.clone();
        match (ahead.next(), ahead.next()) {
            (Some('-'), Some(high)) => {
                ranges.push((low, high));
                characters = ahead;
            }
            _ => ranges.push((low, low)),
        }
    }
    match ranges.as_slice() {
        [(low, high)] if !negated && low == high => Some((Token::Character(*low), rest)),
        _ => Some((Token::Set { negated, ranges }, rest)),
    }
}

fn matches(tokens: &[Token], name: &str) -> bool {
    if name.starts_with('.') && tokens.first() != Some(&Token::Character('.')) {
        return false;
    }
    let name: Vec<char> = name.chars().collect();
    // Greedy with one way back: to the last `*` seen.
    let (mut token, mut at) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    loop {
        let one = match (tokens.get(token), name.get(at)) {
            (None, None) => return true,
            (Some(Token::Run), _) => {
                back = Some((token + 1, at));
                token += 1;
                continue;
            }
            (Some(Token::One), Some(_)) => true,
            (Some(Token::Character(wanted)), Some(found)) => wanted == found,
            (Some(Token::Set { negated, ranges }), Some(found)) => {
                ranges.iter().any(|(low, high)| low <= found && found <= high) != *negated
            }
            _ => false,
        };
        if one {
            (token, at) = (token + 1, at + 1);
            continue;
        }
        match &mut back {
            Some((resume, from)) if *from < name.len() => {
                *from += 1;
                (token, at) = (*resume, *from);
            }
            _ => return false,
        }
    }
}

/// Whether a path, with `.` and `..` resolved by name only, lies in `root`.
pub fn lies_in(path: &Path, root: &Path) -> bool {
    path.starts_with(root) && !path.components().any(|c| c == Component::ParentDir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(paths: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for path in paths {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        directory
    }

    #[test]
    fn the_table_of_the_specification() {
        let task = tree(&[
            "stdout.txt",
            "stderr.txt",
            "fileuploadout.txt",
            "wd/out.txt",
            "wd/a.txt",
            "wd/d/a.txt",
            "wd/d/e/a.txt",
            "wd/d/.hidden/a.txt",
            "wd/.dot.txt",
            "wd/.profile",
            "wd/log-3.txt",
            "wd/log-12.txt",
            "wd/log-x.txt",
            "wd/star*.txt",
            "wd/res/a/b.csv",
            "wd/res/c.csv",
            "wd/a-b",
        ]);
        let working = task.path().join("wd");
        let check = |text: &str, expected: &[&str]| {
            let names: Vec<String> =
                Pattern::parse(text, &working).find().into_iter().map(|found| found.name).collect();
            assert_eq!(names, expected, "{text}");
        };
        check("out.txt", &["out.txt"]);
        check("./d//a.txt", &["a.txt"]);
        check("missing.txt", &[]);
        check("d", &[]);
        check("o*.txt", &["out.txt"]);
        check("**/a.txt", &["a.txt", "d/a.txt", "d/e/a.txt"]);
        check("d/**", &["a.txt", "e/a.txt"]);
        check("d/**/e/*", &["e/a.txt"]);
        check("**/**/b.*", &["res/a/b.csv"]);
        check("../std*.txt", &["stderr.txt", "stdout.txt"]);
        check("../fileupload*.txt", &["fileuploadout.txt"]);
        check("log-[0-9].txt", &["log-3.txt"]);
        check("log-[!0-9].txt", &["log-x.txt"]);
        check("log-??.txt", &["log-12.txt"]);
        check("log-[0-9x].txt", &["log-3.txt", "log-x.txt"]);
        check(".*", &[".dot.txt", ".profile"]);
        check("*", &["a-b", "a.txt", "log-12.txt", "log-3.txt", "log-x.txt", "out.txt", "star*.txt"]);
        check("star[*].txt", &["star*.txt"]);
        check("res/**/*.csv", &["a/b.csv", "c.csv"]);
        check("*/c.csv", &["res/c.csv"]);
        check("a[-x]b", &["a-b"]);
        check("[", &[]);
        check("", &[]);
        let absolute = working.join("res/*.csv");
        check(absolute.to_str().unwrap(), &["c.csv"]);
    }

    #[test]
    fn escaped_characters_make_no_wildcard() {
        let working = Path::new("/w");
        assert!(!Pattern::parse("a[*]/b[?].txt", working).has_wildcard());
        assert_eq!(Pattern::parse("a[*]/b[?].txt", working).base, Path::new("/w/a*/b?.txt"));
        assert_eq!(Pattern::parse("a/b*/c", working).base, Path::new("/w/a"));
        assert_eq!(Pattern::parse("../../../../x", working).base, Path::new("/x"));
        assert_eq!(Pattern::parse("[[]x[]]", working).base, Path::new("/w/[x]"));
    }

    #[test]
    fn circles_of_links_end() {
        let task = tree(&["a/file"]);
        std::os::unix::fs::symlink("..", task.path().join("a/up")).unwrap();
        std::os::unix::fs::symlink("a/file", task.path().join("link")).unwrap();
        let find =
            |text| Pattern::parse(text, task.path()).find().into_iter().map(|m| m.name).collect::<Vec<_>>();
        assert_eq!(find("**/file"), ["a/file"]);
        assert_eq!(find("*"), ["link"]);
        assert_eq!(find("a/up/a/f*"), ["file"]);
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let Part::Wild(tokens) = parse_part("*a*a*a*a*a*a*a*a*a*a*b") else { panic!("wild") };
        assert!(!matches(&tokens, &"a".repeat(2000)));
        assert!(matches(&tokens, &format!("{}b", "a".repeat(2000))));
    }
}
