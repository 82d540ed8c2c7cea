//! SharedKey as Blob clients sign it (blob WIRE.md §3).
//!
//! Clients differ in two things: the order of `x-ms-` headers with odd names, and what a plus in a query means. The
//! signature is compared with every form a client may have meant before it is refused.

use super::super::{decode_signature, query_pairs, verifies};
use super::{Denied, Request, header, query_pairs_literal};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Headers that are signed by value, in this order, after the verb. `Date` is handled apart.
const SIGNED: [&str; 11] = [
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
];

/// In which order `x-ms-` headers are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As .NET collates.
    Collated,
    Bytes,
}

/// Checks the `Authorization` header with the account's keys.
pub fn verify(request: &Request, keys: &[Vec<u8>]) -> Result<(), Denied> {
    let failed = |why: &str| Denied::Failed(why.to_owned());
    let text = header(request.headers, "authorization").unwrap_or_default();
    let (scheme, rest) =
        text.split_once(' ').ok_or_else(|| failed("the Authorization header has no scheme"))?;
    if !scheme.eq_ignore_ascii_case("sharedkey") {
        return Err(Denied::Failed(format!("the scheme must be SharedKey, not `{}`", shorten(scheme))));
    }
    let (account, signature) =
        rest.trim().split_once(':').ok_or_else(|| failed("the Authorization header names no account"))?;
    if account != request.account {
        return Err(failed("the request is signed for another account than it is addressed to"));
    }
    let signature =
        decode_signature(signature).ok_or_else(|| failed("the signature is not base64 of 32 bytes"))?;
    for order in [Order::Collated, Order::Bytes] {
        for plus_is_space in [false, true] {
            let text = string_to_sign(request, order, plus_is_space);
            if keys.iter().any(|key| verifies(key, &text, &signature)) {
                return Ok(());
            }
            if !request.query.contains('+') {
                break;
            }
        }
    }
    let expected = string_to_sign(request, Order::Collated, false);
    Err(Denied::Failed(format!("the signature does not match; the server signed `{expected}`")))
}

fn shorten(text: &str) -> String {
    text.chars().take(32).collect()
}

/// The text that is signed.
pub fn string_to_sign(request: &Request, order: Order, plus_is_space: bool) -> String {
    let mut text = String::from(request.method);
    text.push('\n');
    for name in SIGNED {
        let value = header(request.headers, name).unwrap_or_default();
        let empty = match name {
            "content-length" => value == "0",
            "date" => request.headers.contains_key("x-ms-date"),
            _ => false,
        };
        if !empty {
            text.push_str(value);
        }
        text.push('\n');
    }
    for (name, value) in ms_headers(request, order) {
        text.push_str(&name);
        text.push(':');
        text.push_str(&value);
        text.push('\n');
    }
    text.push('/');
    text.push_str(request.account);
    text.push_str(request.path);
    let pairs = match plus_is_space {
        true => query_pairs(request.query),
        false => query_pairs_literal(request.query),
    };
    let mut by_name: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in pairs {
        by_name.entry(name.to_lowercase()).or_default().push(value);
    }
    for (name, mut values) in by_name {
        values.sort_unstable();
        text.push('\n');
        text.push_str(&name);
        text.push(':');
        text.push_str(&values.join(","));
    }
    text
}

fn ms_headers(request: &Request, order: Order) -> Vec<(String, String)> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in request.headers {
        let name = name.as_str().to_ascii_lowercase();
        if name.starts_with("x-ms-") {
            let value = String::from_utf8_lossy(value.as_bytes()).trim().to_owned();
            found.entry(name).or_default().push(value);
        }
    }
    let mut list: Vec<_> = found.into_iter().map(|(name, values)| (name, values.join(","))).collect();
    if order == Order::Collated {
        list.sort_by(|(a, _), (b, _)| collate(a, b));
    }
    list
}

/// The order in which .NET sorts header names: `-` counts only between otherwise equal names; `_` before digits
/// before letters.
pub fn collate(a: &str, b: &str) -> Ordering {
    let weight = |c: char| match c {
        '_' => (0, c),
        c if c.is_ascii_digit() => (2, c),
        c if c.is_alphabetic() => (3, c),
        c => (1, c),
    };
    let letters = |text: &str| text.chars().filter(|c| *c != '-').map(weight).collect::<Vec<_>>();
    letters(a).cmp(&letters(b)).then_with(|| a.cmp(b))
}
