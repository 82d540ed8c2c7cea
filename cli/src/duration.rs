//! Durations as people type them: `90s`, `10m`, `1h`, `2d`.

use std::str::FromStr;

/// Whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct Seconds(pub u64);

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Seconds, String> {
        let wrong = || format!("`{text}` is no duration; write it like 90s, 10m, 1h or 2d");
        let unit = text.chars().last().ok_or_else(wrong)?;
        let factor = match unit {
            's' => 1,
            'm' => 60,
            'h' => 60 * 60,
            'd' => 24 * 60 * 60,
            _ => return Err(wrong()),
        };
        let number = &text[..text.len() - 1];
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        let number: u64 = number.parse().map_err(|_| wrong())?;
        number.checked_mul(factor).map(Seconds).ok_or_else(wrong)
    }
}

impl TryFrom<String> for Seconds {
    type Error = String;

    fn try_from(text: String) -> Result<Seconds, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_needed_and_known() {
        for (text, seconds) in [("90s", 90), ("10m", 600), ("1h", 3_600), ("2d", 172_800), ("0s", 0)] {
            assert_eq!(text.parse(), Ok(Seconds(seconds)), "{text}");
        }
        for text in
            ["", "s", "5", "1w", "-1s", "+1s", "1.5h", "99999999999999999999s", "300000000000000000d", "1µ"]
        {
            assert!(text.parse::<Seconds>().is_err(), "{text}");
        }
    }
}
