//! Lengths of time as the API writes them: ISO 8601 with a tick of 100 ns.
//!
//! Our own type because none of the time crates takes the API's "no limit" value
//! (`P10675199DT2H48M5.4775807S`, the largest number of ticks); see `docs/dependencies.md`.

use serde::{Deserialize, Serialize};
use std::fmt;

const TICKS_PER_MS: i64 = 10_000;
const TICKS_PER_SECOND: i64 = 10_000_000;
const TICKS_PER_DAY: i64 = 86_400 * TICKS_PER_SECOND;
/// Spans of this many days or more mean "no limit" (WIRE.md §9).
const UNLIMITED_DAYS: f64 = 10_675_199.0;

/// A signed length of time in ticks of 100 ns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Span(pub i64);

impl Span {
    /// No limit.
    pub const UNLIMITED: Span = Span(i64::MAX);

    /// So many whole milliseconds.
    pub const fn from_ms(ms: i64) -> Span {
        Span(ms.saturating_mul(TICKS_PER_MS))
    }

    /// So many whole seconds.
    pub const fn from_secs(seconds: i64) -> Span {
        Span(seconds.saturating_mul(TICKS_PER_SECOND))
    }

    /// Whether this span never ends.
    pub fn is_unlimited(self) -> bool {
        self == Span::UNLIMITED
    }

    /// Whole milliseconds, rounded up, `None` for no limit; negative spans give 0.
    pub fn as_limit_ms(self) -> Option<u64> {
        if self.is_unlimited() {
            return None;
        }
        let ms = self.0.max(0).saturating_add(TICKS_PER_MS - 1) / TICKS_PER_MS;
        u64::try_from(ms).ok()
    }

    /// Reads an ISO 8601 duration of days, hours, minutes and seconds (weeks too; months and years have no fixed
    /// length and are refused). Anything of 10 675 199 days or more is no limit.
    pub fn parse(text: &str) -> Option<Span> {
        let text = text.trim();
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let rest = text.strip_prefix(['P', 'p'])?;
        let (date, time) = match rest.split_once(['T', 't']) {
            Some((date, time)) => (date, Some(time)),
            None => (rest, None),
        };
        if rest.is_empty() || time.is_some_and(str::is_empty) {
            return None;
        }
        let mut seconds = 0.0_f64;
        let mut ticks = 0_i64;
        let units = components(date, &[('W', 604_800), ('D', 86_400)])?;
        let clock = components(time.unwrap_or(""), &[('H', 3_600), ('M', 60), ('S', 1)])?;
        for (number, unit_seconds) in units.into_iter().chain(clock) {
            let (whole, fraction) = number.split_once(['.', ',']).unwrap_or((&number, ""));
            let whole_value: f64 = whole.parse().ok()?;
            seconds += whole_value * unit_seconds as f64;
            let whole_ticks = whole.parse::<i64>().ok().and_then(|n| n.checked_mul(unit_seconds));
            let whole_ticks = whole_ticks.and_then(|n| n.checked_mul(TICKS_PER_SECOND));
            ticks = ticks.saturating_add(whole_ticks.unwrap_or(i64::MAX));
            if !fraction.is_empty() {
                if !fraction.bytes().all(|b| b.is_ascii_digit()) {
                    return None;
                }
                let digits: String = fraction.chars().chain("0000000".chars()).take(7).collect();
                let fraction_ticks = digits.parse::<i64>().ok()?.checked_mul(unit_seconds)?;
                ticks = ticks.saturating_add(fraction_ticks);
            }
        }
        if seconds >= UNLIMITED_DAYS * 86_400.0 {
            return (!negative).then_some(Span::UNLIMITED);
        }
        Some(Span(if negative { -ticks } else { ticks }))
    }
}

/// Splits `1H30M` into its numbers and the seconds of their units, units in the order given, each at most once.
fn components(text: &str, units: &[(char, i64)]) -> Option<Vec<(String, i64)>> {
    let mut found = Vec::new();
    let mut units = units.iter();
    let mut number = String::new();
    for c in text.chars() {
        if c.is_ascii_digit() || c == '.' || c == ',' {
            number.push(c);
            continue;
        }
        let (_, seconds) = units.find(|(letter, _)| *letter == c.to_ascii_uppercase())?;
        if !number.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        found.push((std::mem::take(&mut number), *seconds));
    }
    number.is_empty().then_some(found)
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("PT0S");
        }
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let ticks = self.0.unsigned_abs();
        let per_second = TICKS_PER_SECOND.unsigned_abs();
        let days = ticks / TICKS_PER_DAY.unsigned_abs();
        let seconds = ticks / per_second % 86_400;
        let fraction = ticks % per_second;
        f.write_str("P")?;
        if days > 0 {
            write!(f, "{days}D")?;
        }
        if seconds == 0 && fraction == 0 {
            return Ok(());
        }
        f.write_str("T")?;
        if seconds >= 3_600 {
            write!(f, "{}H", seconds / 3_600)?;
        }
        if seconds % 3_600 >= 60 {
            write!(f, "{}M", seconds % 3_600 / 60)?;
        }
        let seconds = seconds % 60;
        if fraction > 0 {
            let digits = format!("{fraction:07}");
            write!(f, "{seconds}.{}S", digits.trim_end_matches('0'))
        } else if seconds > 0 {
            write!(f, "{seconds}S")
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, written: &str) {
        let span = Span::parse(text).unwrap_or_else(|| panic!("`{text}` was refused"));
        assert_eq!(span.to_string(), written, "from `{text}`");
        assert_eq!(Span::parse(written), Some(span));
    }

    #[test]
    fn reads_what_the_sdks_send() {
        check("PT20M", "PT20M");
        check("PT20M00S", "PT20M");
        check("PT01H30M00S", "PT1H30M");
        check("P7DT00H00M00.000005S", "P7DT0.000005S");
        check("P7D", "P7D");
        check("PT0S", "PT0S");
        check("-PT1S", "-PT1S");
        check("PT100H", "P4DT4H");
    }

    #[test]
    fn every_spelling_of_no_limit_is_no_limit() {
        for text in [
            "P10675199DT2H48M5.4775807S",
            "P10675199DT2H48M5.477581S",
            "P999999999DT23H59M59.999999S",
            "P1000000000D",
        ] {
            assert_eq!(Span::parse(text), Some(Span::UNLIMITED), "{text}");
        }
        assert_eq!(Span::UNLIMITED.to_string(), "P10675199DT2H48M5.4775807S");
        assert_eq!(Span::UNLIMITED.as_limit_ms(), None);
    }

    #[test]
    fn refuses_what_has_no_fixed_length_or_form() {
        for text in ["", "P", "PT", "20M", "P1Y", "P1M", "PT1M1H", "PT.5S", "PTS", "PT1", "P-1D", "PT1.x5S"] {
            assert_eq!(Span::parse(text), None, "{text}");
        }
    }

    #[test]
    fn limits_round_up() {
        assert_eq!(Span(1).as_limit_ms(), Some(1));
        assert_eq!(Span::from_ms(1500).as_limit_ms(), Some(1500));
        assert_eq!(Span::from_secs(-4).as_limit_ms(), Some(0));
    }
}
