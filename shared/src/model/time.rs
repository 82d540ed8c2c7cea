//! Points in time, in whole milliseconds of cluster time.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Milliseconds since 1970-01-01T00:00:00Z, as stamped by the leader. Cores only ever see these; no core reads a
/// clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The latest time that can be written.
    pub const MAX: Timestamp = Timestamp(253_402_207_200_999);

    /// This time moved on by so many milliseconds.
    pub fn plus_ms(self, ms: u64) -> Timestamp {
        Timestamp(self.0.saturating_add(ms).min(Self::MAX.0))
    }

    /// Milliseconds from `earlier` to this time; 0 if `earlier` is later.
    pub fn since_ms(self, earlier: Timestamp) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    fn to_jiff(self) -> jiff::Timestamp {
        let ms = i64::try_from(self.0.min(Self::MAX.0)).unwrap_or(i64::MAX);
        jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX)
    }

    /// RFC 1123 form for HTTP headers, second precision: `Thu, 07 Sep 2023 06:26:58 GMT`.
    pub fn to_http_date(self) -> String {
        self.to_jiff().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
    }

    /// Reads ISO 8601 in UTC or with an offset, or RFC 1123.
    pub fn parse(text: &str) -> Option<Timestamp> {
        let text = text.trim();
        let parsed = text
            .parse::<jiff::Timestamp>()
            .ok()
            .or_else(|| jiff::fmt::rfc2822::parse(text).ok().map(|zoned| zoned.timestamp()))
            .or_else(|| {
                let civil: jiff::civil::DateTime = text.trim_end_matches('Z').parse().ok()?;
                Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
            })?;
        u64::try_from(parsed.as_millisecond()).ok().map(Timestamp).filter(|t| *t <= Self::MAX)
    }
}

/// ISO 8601 UTC with `Z`, up to three fraction digits, trailing zeros trimmed.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_jiff().strftime("%Y-%m-%dT%H:%M:%S"))?;
        let ms = self.0.min(Self::MAX.0) % 1000;
        if ms > 0 {
            let digits = format!("{ms:03}");
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        f.write_str("Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_and_reads_the_wire_forms() {
        let t = Timestamp(1_694_068_018_250);
        assert_eq!(t.to_string(), "2023-09-07T06:26:58.25Z");
        assert_eq!(t.to_http_date(), "Thu, 07 Sep 2023 06:26:58 GMT");
        assert_eq!(Timestamp::parse("2023-09-07T06:26:58.2500000Z"), Some(t));
        assert_eq!(Timestamp::parse("Thu, 07 Sep 2023 06:26:58 GMT"), Some(Timestamp(1_694_068_018_000)));
        assert_eq!(Timestamp::parse("2025-01-01"), Some(Timestamp(1_735_689_600_000)));
        assert_eq!(Timestamp::parse("yesterday"), None);
        assert_eq!(Timestamp(u64::MAX).to_string(), "9999-12-30T22:00:00.999Z");
    }
}
