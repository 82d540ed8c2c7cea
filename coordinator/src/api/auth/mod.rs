//! Who sent a request. [`batch`] and [`blob`] know the two forms of SharedKey (and SAS); this module has what both
//! use: the signature itself, the clock rule, and the query as it is signed. Pure: keys and the time are arguments.

pub mod batch;
pub mod blob;
pub mod token;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use lote_shared::model::Timestamp;
use sha2::Sha256;

/// How far a request's date may be from ours (WIRE.md §3.1).
pub const CLOCK_SKEW_MAX_MS: u64 = 15 * 60 * 1000;

/// The signature of `text`. Any key length is fine for HMAC.
pub fn sign(key: &[u8], text: &str) -> [u8; 32] {
    let mut mac = mac(key);
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().into()
}

/// Whether `signature` is that of `text`, compared in constant time.
pub fn verifies(key: &[u8], text: &str, signature: &[u8; 32]) -> bool {
    let mut mac = mac(key);
    mac.update(text.as_bytes());
    mac.verify_slice(signature).is_ok()
}

fn mac(key: &[u8]) -> Hmac<Sha256> {
    // HMAC hashes longer keys and pads shorter ones, so this never fails.
    Hmac::<Sha256>::new_from_slice(key).unwrap_or_else(|_| Hmac::<Sha256>::new(&Default::default()))
}

/// A signature as it is written in headers and queries.
pub fn encode_signature(signature: &[u8; 32]) -> String {
    STANDARD.encode(signature)
}

/// Reads a signature; anything but the 32 bytes of an HMAC-SHA256 is none.
pub fn decode_signature(text: &str) -> Option<[u8; 32]> {
    STANDARD.decode(text.trim()).ok()?.try_into().ok()
}

/// Why a request's date is not good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DateError {
    #[error("the request has no date")]
    Missing,
    #[error("`{0}` is not an RFC 1123 date")]
    Malformed(String),
    #[error("the request is dated {date}, which is more than 15 minutes from the server's time, {now}")]
    Skewed { date: Timestamp, now: Timestamp },
}

/// Checks the date a request was signed with. A re-sent request carries the same date, so there is no replay cache.
pub fn check_date(text: Option<&str>, now: Timestamp) -> Result<(), DateError> {
    let text = text.ok_or(DateError::Missing)?;
    let date = Timestamp::parse(text).ok_or_else(|| DateError::Malformed(text.chars().take(64).collect()))?;
    if date.since_ms(now).max(now.since_ms(date)) > CLOCK_SKEW_MAX_MS {
        return Err(DateError::Skewed { date, now });
    }
    Ok(())
}

/// Percent-decodes a part of a URL; bytes that are not UTF-8 are replaced. `plus` makes `+` a space.
pub fn percent_decode(text: &str, plus: bool) -> String {
    let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    if plus && text.contains('+') { decode(&text.replace('+', " ")) } else { decode(text) }
}

/// Names and decoded values of a query, in the order sent. A name without `=` has the empty value.
pub fn query_pairs(query: &str) -> Vec<(String, String)> {
    let parts = query.split('&').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (percent_decode(name, true), percent_decode(value, true))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_round_trip_and_differ_by_key_and_text() {
        let signature = sign(b"key", "text");
        assert!(verifies(b"key", "text", &signature));
        assert!(!verifies(b"key", "texts", &signature));
        assert!(!verifies(b"other", "text", &signature));
        assert_eq!(decode_signature(&encode_signature(&signature)), Some(signature));
        for bad in ["", "AAAA", "not base64!", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIj"] {
            assert_eq!(decode_signature(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_quarter_of_an_hour_either_way_is_good() {
        let now = Timestamp::parse("2025-07-15T12:00:00Z").unwrap();
        let check = |minutes: i64, seconds: i64| {
            let ms = (minutes * 60 + seconds) * 1000;
            let date = Timestamp(now.0.checked_add_signed(ms).unwrap());
            check_date(Some(&date.to_http_date()), now)
        };
        assert_eq!(check(0, 0), Ok(()));
        assert_eq!(check(15, 0), Ok(()));
        assert_eq!(check(-15, 0), Ok(()));
        assert!(matches!(check(15, 1), Err(DateError::Skewed { .. })));
        assert!(matches!(check(-15, -1), Err(DateError::Skewed { .. })));
        assert_eq!(check_date(None, now), Err(DateError::Missing));
        assert!(matches!(check_date(Some("noon"), now), Err(DateError::Malformed(_))));
    }

    #[test]
    fn queries_decode_names_and_values() {
        let pairs = query_pairs("api-version=1&%24filter=state+eq%20%27a%27&flag&empty=&&x=a=b");
        let pairs: Vec<_> = pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(
            pairs,
            [("api-version", "1"), ("$filter", "state eq 'a'"), ("flag", ""), ("empty", ""), ("x", "a=b")]
        );
    }
}
