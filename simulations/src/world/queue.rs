//! The one event queue: virtual milliseconds, ties broken by the order in which events were put in.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Events in the order in which they happen.
#[derive(Debug)]
pub struct Queue<E> {
    heap: BinaryHeap<Reverse<Entry<E>>>,
    next_sequence: u64,
    now_ms: u64,
}

#[derive(Debug)]
struct Entry<E> {
    at_ms: u64,
    sequence: u64,
    event: E,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Queue { heap: BinaryHeap::new(), next_sequence: 0, now_ms: 0 }
    }
}

impl<E> Queue<E> {
    /// Time of the event that was taken last.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Puts an event in; one for the past happens now, after what is already due.
    pub fn at(&mut self, at_ms: u64, event: E) {
        let at_ms = at_ms.max(self.now_ms);
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.heap.push(Reverse(Entry { at_ms, sequence, event }));
    }

    /// Takes the next event and moves time on to it.
    pub fn pop(&mut self) -> Option<(u64, E)> {
        let Reverse(entry) = self.heap.pop()?;
        self.now_ms = entry.at_ms;
        Some((entry.at_ms, entry.event))
    }

    pub fn len(&self) -> usize {
        self.heap.len()
    }

    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

// Only time and sequence decide; sequences never repeat, so no two entries are equal.
impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at_ms, self.sequence).cmp(&(other.at_ms, other.sequence))
    }
}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Entry<E> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_first_then_order_of_insertion_and_never_backwards() {
        let mut queue = Queue::default();
        for (at_ms, name) in [(5, "c"), (3, "a"), (5, "d"), (3, "b")] {
            queue.at(at_ms, name);
        }
        let mut seen = Vec::new();
        while let Some((at_ms, name)) = queue.pop() {
            seen.push((at_ms, name));
            if name == "c" {
                queue.at(1, "late"); // The past is over: it happens now.
            }
        }
        assert_eq!(seen, [(3, "a"), (3, "b"), (5, "c"), (5, "d"), (5, "late")]);
        assert_eq!(queue.now_ms(), 5);
    }
}
