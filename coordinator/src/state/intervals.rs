//! A set of integers as its maximal runs: as many entries as there are gaps, whatever it holds.

use std::collections::BTreeMap;

/// Start and end of every run, both included. Runs neither touch nor overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Intervals(BTreeMap<i32, i32>);

/// What one number did to the runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grown {
    /// The run that holds the number now.
    pub run: (i32, i32),
    /// The start of a run that became part of it.
    pub swallowed: Option<i32>,
}

impl Intervals {
    fn run_of(&self, number: i32) -> Option<(i32, i32)> {
        let (start, end) = self.0.range(..=number).next_back()?;
        (number <= *end).then_some((*start, *end))
    }

    pub fn contains(&self, number: i32) -> bool {
        self.run_of(number).is_some()
    }

    /// Puts a number in; `None` if it was there.
    pub fn insert(&mut self, number: i32) -> Option<Grown> {
        if self.contains(number) {
            return None;
        }
        let start = number.checked_sub(1).and_then(|left| self.run_of(left)).map_or(number, |run| run.0);
        let right = number.checked_add(1).and_then(|right| self.run_of(right));
        let swallowed = right.map(|(start, _)| start);
        if let Some(old) = swallowed {
            self.0.remove(&old);
        }
        let run = (start, right.map_or(number, |run| run.1));
        self.0.insert(run.0, run.1);
        Some(Grown { run, swallowed })
    }

    /// Takes a stored run back; an error if it is none or meets another.
    pub fn load(&mut self, start: i32, end: i32) -> Result<(), String> {
        let meets =
            |other: (&i32, &i32)| *other.0 <= end.saturating_add(1) && *other.1 >= start.saturating_sub(1);
        let before = self.0.range(..=end.saturating_add(1)).next_back().is_some_and(meets);
        if end < start || before {
            return Err(format!("the run {start} to {end} meets another or is empty"));
        }
        self.0.insert(start, end);
        Ok(())
    }

    /// The greatest number from `start` to `end` that is not in the set.
    pub fn last_gap(&self, start: i32, end: i32) -> Option<i32> {
        match self.run_of(end) {
            None => Some(end).filter(|gap| *gap >= start),
            Some((run, _)) => run.checked_sub(1).filter(|gap| *gap >= start),
        }
    }

    /// Takes the first run out.
    pub fn pop(&mut self) -> Option<(i32, i32)> {
        self.0.pop_first()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn behaves_as_a_plain_set(numbers in prop::collection::vec(-12..12_i32, 0..40)) {
            let mut set = Intervals::default();
            let mut plain = BTreeSet::new();
            let mut rows = BTreeMap::new();
            for number in numbers {
                let grown = set.insert(number);
                prop_assert_eq!(grown.is_some(), plain.insert(number));
                if let Some(grown) = grown {
                    if let Some(swallowed) = grown.swallowed {
                        rows.remove(&swallowed);
                    }
                    rows.insert(grown.run.0, grown.run.1);
                }
                // What was told is enough to keep rows by.
                prop_assert_eq!(&rows, &set.0);
            }
            for start in -13..13 {
                prop_assert_eq!(set.contains(start), plain.contains(&start));
                for end in start - 1..13 {
                    let gap = (start..=end).rev().find(|n| !plain.contains(n));
                    prop_assert_eq!(set.last_gap(start, end), gap, "{} to {}", start, end);
                }
            }
            let mut again = Intervals::default();
            for (start, end) in rows {
                again.load(start, end).unwrap();
            }
            prop_assert_eq!(again, set);
        }
    }

    #[test]
    fn the_ends_of_the_numbers_are_numbers_like_others() {
        let mut set = Intervals::default();
        for number in [i32::MAX, i32::MIN, i32::MAX - 1] {
            assert!(set.insert(number).is_some());
        }
        assert_eq!(set.last_gap(i32::MIN, i32::MAX), Some(i32::MAX - 2));
        assert_eq!(set.last_gap(i32::MIN, i32::MIN), None);
        assert_eq!(set.last_gap(i32::MAX, i32::MAX), None);
    }

    #[test]
    fn runs_that_could_not_have_been_stored_are_refused() {
        let mut set = Intervals::default();
        set.load(4, 6).unwrap();
        for (start, end) in [(7, 9), (1, 3), (5, 5), (0, 9), (9, 8)] {
            assert!(set.load(start, end).is_err(), "{start} to {end}");
        }
        set.load(8, 8).unwrap();
    }
}
