//! How a list goes on: the position behind the last item shown, as an opaque `$skiptoken`, inside an absolute link
//! that repeats every parameter of the request (WIRE.md §8).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Longest position; anything longer was not made by us.
const POSITION_MAX: usize = 4_096;

/// What may stand unencoded in a query value.
const VALUE: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Names also keep the `$`.
const NAME: AsciiSet = VALUE.remove(b'$');

/// A position as a token: base64url survives being decoded and encoded again.
pub fn token(position: &str) -> String {
    URL_SAFE_NO_PAD.encode(position)
}

/// The position in a token; `None` if it is none of ours.
pub fn position(token: &str) -> Option<String> {
    if token.len() > POSITION_MAX * 2 {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).ok()?;
    String::from_utf8(bytes).ok().filter(|text| text.len() <= POSITION_MAX)
}

/// The link to the page behind `after`. `address` is scheme, host, port and raw path; `query` the request's pairs.
pub fn next_link(address: &str, query: &[(String, String)], after: &str) -> String {
    let mut link = address.to_owned();
    let kept = query.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("$skiptoken"));
    let position = ("$skiptoken".to_owned(), token(after));
    for (index, (name, value)) in kept.chain([&position]).enumerate() {
        link.push(if index == 0 { '?' } else { '&' });
        link.extend(utf8_percent_encode(name, &NAME));
        link.push('=');
        link.extend(utf8_percent_encode(value, &VALUE));
    }
    link
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::auth::query_pairs;

    #[test]
    fn links_repeat_every_parameter_and_replace_the_token() {
        let query = query_pairs("api-version=1&$filter=state%20eq%20'a'&$skiptoken=old&maxresults=2");
        let link = next_link("http://h:1/jobs", &query, "job/é?");
        assert!(
            link.starts_with(
                "http://h:1/jobs?api-version=1&$filter=state%20eq%20%27a%27&maxresults=2&$skiptoken="
            ),
            "{link}"
        );
        let again = query_pairs(link.split_once('?').unwrap().1);
        assert_eq!(again.len(), 4);
        assert_eq!(again[1].1, "state eq 'a'");
        assert_eq!(position(&again[3].1).as_deref(), Some("job/é?"));
    }

    #[test]
    fn foreign_tokens_are_refused() {
        for text in ["", "%%%", "a b", "!!!!"] {
            assert!(position(text).is_none_or(|text| text.is_empty()), "{text}");
        }
        assert_eq!(position(&token(&"x".repeat(POSITION_MAX + 1))), None);
        assert_eq!(position(&URL_SAFE_NO_PAD.encode([0xff, 0xfe])), None);
    }

    proptest::proptest! {
        #[test]
        fn positions_survive(text in "\\PC{0,60}") {
            proptest::prop_assert_eq!(position(&token(&text)), Some(text));
        }
    }
}
