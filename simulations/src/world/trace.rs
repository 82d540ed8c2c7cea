//! A hash over every event of a run, and the last events in words.
//!
//! Two runs with the same hash saw the same events with the same bytes in the same order; so a core that looks at a
//! clock, at chance or at the order of a hash map is found by running a seed twice.

use std::collections::VecDeque;
use std::fmt;

/// Longest text of a line.
const DETAIL_MAX: usize = 400;

/// Who an event belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    World,
    Coordinator,
    Client,
    Host(u32),
}

impl Source {
    fn code(self) -> u64 {
        match self {
            Source::World => 0,
            Source::Coordinator => 1,
            Source::Client => 2,
            Source::Host(number) => 3 + u64::from(number),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::World => f.write_str("world"),
            Source::Coordinator => f.write_str("coordinator"),
            Source::Client => f.write_str("client"),
            Source::Host(number) => write!(f, "host {number}"),
        }
    }
}

/// The hash of everything that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceHash(pub [u8; 32]);

impl fmt::Display for TraceHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// One event in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub at_ms: u64,
    pub source: Source,
    pub kind: &'static str,
    /// What a person wants to know; not hashed.
    pub detail: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9} ms  {:<12} {}", self.at_ms, self.source.to_string(), self.kind)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, "  {}", self.detail) }
    }
}

/// Hears of every event as it happens.
pub type Listener = Box<dyn FnMut(&Line)>;

pub struct Trace {
    hasher: blake3::Hasher,
    events: u64,
    /// How many lines are kept; 0 = none.
    keep: usize,
    lines: VecDeque<Line>,
    listener: Option<Listener>,
}

impl Trace {
    /// Keeps the last `keep` events in words, and tells the listener of all of them.
    pub fn new(keep: usize, listener: Option<Listener>) -> Trace {
        Trace { hasher: blake3::Hasher::new(), events: 0, keep, lines: VecDeque::new(), listener }
    }

    /// Takes an event in. `payload` is hashed; `detail` is for people and made only if somebody wants lines.
    pub fn event(
        &mut self,
        at_ms: u64,
        source: Source,
        kind: &'static str,
        payload: &[u8],
        detail: impl FnOnce() -> String,
    ) {
        self.events += 1;
        let mut head = [0_u8; 32];
        head[..8].copy_from_slice(&at_ms.to_le_bytes());
        head[8..16].copy_from_slice(&source.code().to_le_bytes());
        // Lengths first, so that no two different events look alike.
        head[16..24].copy_from_slice(&(kind.len() as u64).to_le_bytes());
        head[24..].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        self.hasher.update(&head);
        self.hasher.update(kind.as_bytes());
        self.hasher.update(payload);
        if self.keep == 0 && self.listener.is_none() {
            return;
        }
        let line = Line { at_ms, source, kind, detail: detail().chars().take(DETAIL_MAX).collect() };
        if let Some(listener) = &mut self.listener {
            listener(&line);
        }
        if self.keep > 0 {
            if self.lines.len() == self.keep {
                self.lines.pop_front();
            }
            self.lines.push_back(line);
        }
    }

    pub fn events(&self) -> u64 {
        self.events
    }

    pub fn hash(&self) -> TraceHash {
        TraceHash(*self.hasher.finalize().as_bytes())
    }

    /// The last events, oldest first.
    pub fn lines(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Event<'a> = (u64, Source, &'static str, &'a [u8]);

    fn hash(events: &[Event]) -> TraceHash {
        let mut trace = Trace::new(0, None);
        for (at_ms, source, kind, payload) in events {
            trace.event(*at_ms, *source, kind, payload, String::new);
        }
        trace.hash()
    }

    #[test]
    fn every_part_of_an_event_counts() {
        let base = hash(&[(1, Source::Host(0), "kind", b"payload")]);
        assert_eq!(base, hash(&[(1, Source::Host(0), "kind", b"payload")]));
        let others: [&[Event]; 6] = [
            &[(2, Source::Host(0), "kind", b"payload")],
            &[(1, Source::Host(1), "kind", b"payload")],
            &[(1, Source::Client, "kind", b"payload")],
            &[(1, Source::Host(0), "kin", b"dpayload")],
            &[(1, Source::Host(0), "kind", b"payloaD")],
            &[(1, Source::Host(0), "kind", b"pay"), (1, Source::Host(0), "kind", b"load")],
        ];
        for other in others {
            assert_ne!(base, hash(other), "{other:?}");
        }
    }

    #[test]
    fn keeps_the_last_lines() {
        let mut trace = Trace::new(2, None);
        for n in 0..5_u64 {
            trace.event(n, Source::World, "tick", &[], || n.to_string());
        }
        let lines: Vec<&str> = trace.lines().map(|line| line.detail.as_str()).collect();
        assert_eq!((lines, trace.events()), (vec!["3", "4"], 5));
    }
}
