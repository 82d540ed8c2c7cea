//! The demo's data, and the local computation its result is compared with.

use anyhow::Context;
use std::collections::BTreeMap;

/// Real text that comes with the binary.
const TEXTS: [&str; 2] = [include_str!("../../../LICENSE"), include_str!("../../../ARCHITECTURE.md")];

/// The texts cut at line ends into so many parts of about equal length.
pub fn parts(count: usize) -> Vec<String> {
    let lines: Vec<&str> = TEXTS.iter().flat_map(|text| text.lines()).collect();
    let mut parts = vec![String::new(); count];
    for (number, line) in lines.iter().enumerate() {
        let part = &mut parts[number * count / lines.len()];
        part.push_str(line);
        part.push('\n');
    }
    parts
}

/// How often each word occurs: runs of ASCII letters, in lower case.
pub fn count(parts: &[String]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for part in parts {
        for word in part.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty()) {
            *counts.entry(word.to_ascii_lowercase()).or_insert(0) += 1;
        }
    }
    counts
}

/// Reads lines of a count and a word.
pub fn parse(text: &str) -> anyhow::Result<BTreeMap<String, u64>> {
    let pair = |line: &str| {
        let (count, word) = line.trim().split_once(' ')?;
        Some((word.to_owned(), count.parse().ok()?))
    };
    text.lines().map(|line| pair(line).with_context(|| format!("not a count and a word: `{line}`"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_hold_every_line_once() {
        let parts = parts(7);
        assert_eq!(parts.len(), 7);
        assert!(parts.iter().all(|part| !part.is_empty()));
        let lines: usize = parts.iter().map(|part| part.lines().count()).sum();
        assert_eq!(lines, TEXTS.iter().map(|text| text.lines().count()).sum::<usize>());
    }

    #[test]
    fn counting_and_reading_agree() {
        let counted = count(&["The cat, the CAT-flap\n".to_owned()]);
        assert_eq!(counted, parse("2 the\n   2 cat\n1 flap\n").unwrap());
        assert!(parse("nonsense").is_err());
    }
}
