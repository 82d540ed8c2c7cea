//! SharedKey as the Batch clients sign it (WIRE.md §3).
//!
//! Client generations differ in small things (case of query names, how a missing length is written, whether empty
//! values are signed), so the signature is compared with every form a client may have meant before it is refused.
//! The first form is the common one; the others cost hashing only on the way to a refusal.

use super::{DateError, check_date, decode_signature, query_pairs, verifies};
use actix_web::http::header::HeaderMap;
use lote_shared::model::Timestamp;

/// The parts of a request that are signed, as they stood on the wire.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub method: &'a str,
    /// Raw path of the request target, percent-encoding untouched.
    pub path: &'a str,
    /// Raw query, without `?`.
    pub query: &'a str,
    pub headers: &'a HeaderMap,
}

/// Why nobody is behind a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The header has no form that could be checked: 400 `InvalidAuthenticationInfo`.
    #[error("{0}")]
    Malformed(&'static str),
    /// 403 `AuthenticationFailed`; the text is the `AuthenticationErrorDetail`.
    #[error("{0}")]
    Failed(String),
}

/// What an `Authorization` header claims.
#[derive(Debug, PartialEq, Eq)]
pub struct Claim<'a> {
    /// Account name as written.
    pub account: &'a str,
    pub signature: [u8; 32],
}

/// Reads the `Authorization` header.
pub fn claim<'a>(request: &Request<'a>) -> Result<Claim<'a>, Error> {
    let Some(header) = request.headers.get("authorization") else {
        return Err(Error::Failed(
            "The Authorization header is missing; sign the request with SharedKey".into(),
        ));
    };
    let text = header.to_str().map_err(|_| Error::Malformed("the Authorization header is not plain text"))?;
    let (scheme, rest) = text
        .split_once(' ')
        .ok_or(Error::Malformed("the Authorization header must read `SharedKey <account>:<signature>`"))?;
    if scheme.eq_ignore_ascii_case("bearer") {
        let detail =
            "Bearer tokens are accepted from tasks only, for their own job; sign the request with SharedKey";
        return Err(Error::Failed(detail.into()));
    }
    if !scheme.eq_ignore_ascii_case("sharedkey") {
        return Err(Error::Malformed("the Authorization scheme must be SharedKey"));
    }
    let (account, signature) = rest
        .trim()
        .split_once(':')
        .ok_or(Error::Malformed("the Authorization header must read `SharedKey <account>:<signature>`"))?;
    if account.is_empty() {
        return Err(Error::Malformed("the Authorization header names no account"));
    }
    let signature = decode_signature(signature).ok_or(Error::Malformed(
        "the signature in the Authorization header is not the base64 text of 32 bytes",
    ))?;
    Ok(Claim { account, signature })
}

/// The bearer token of a request, if it carries one.
pub fn bearer<'a>(request: &Request<'a>) -> Option<&'a str> {
    let text = request.headers.get("authorization")?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Checks a claim with the account's keys; either key is good.
pub fn verify(request: &Request, claim: &Claim, keys: &[Vec<u8>], now: Timestamp) -> Result<(), Error> {
    let ocp_date = header(request, "ocp-date");
    let date = ocp_date.or_else(|| header(request, "date"));
    check_date(date, now).map_err(|error| match error {
        DateError::Missing => Error::Failed("The request has neither an ocp-date nor a Date header".into()),
        other => Error::Failed(other.to_string()),
    })?;
    for form in Form::all(request, claim.account) {
        let text = string_to_sign(request, &form);
        if keys.iter().any(|key| verifies(key, &text, &claim.signature)) {
            return Ok(());
        }
    }
    let found = string_to_sign(request, &Form::first(request, claim.account));
    let detail = format!(
        "The MAC signature found in the HTTP request is not the same as any computed signature. \
         Server used following string to sign: '{found}'"
    );
    Err(Error::Failed(detail))
}

/// One way of writing down a request before signing it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Form<'a> {
    account: String,
    content_length: &'a str,
    lower_case_names: bool,
    keep_empty_values: bool,
}

impl<'a> Form<'a> {
    /// The form of the Python and JavaScript clients.
    fn first(request: &Request<'a>, account: &str) -> Form<'a> {
        Form {
            account: account.to_owned(),
            content_length: header(request, "content-length").unwrap_or(""),
            lower_case_names: false,
            keep_empty_values: false,
        }
    }

    /// Every form that differs for this request, the likely ones first.
    fn all(request: &Request<'a>, account: &str) -> Vec<Form<'a>> {
        let first = Form::first(request, account);
        let lengths: &[&str] = match first.content_length {
            "" => &["", "0"],
            "0" => &["0", ""],
            other => &[other],
        };
        let mut accounts = vec![account.to_owned()];
        let lower = account.to_ascii_lowercase();
        if lower != account {
            accounts.push(lower);
        }
        let pairs = query_pairs(request.query);
        let some_upper = pairs.iter().any(|(name, _)| name.bytes().any(|b| b.is_ascii_uppercase()));
        let some_empty = pairs.iter().any(|(_, value)| value.is_empty());
        let mut forms = Vec::new();
        for account in &accounts {
            for lower_case_names in [false, true] {
                for keep_empty_values in [false, true] {
                    if (lower_case_names && !some_upper) || (keep_empty_values && !some_empty) {
                        continue;
                    }
                    for content_length in lengths {
                        forms.push(Form {
                            account: account.clone(),
                            content_length,
                            lower_case_names,
                            keep_empty_values,
                        });
                    }
                }
            }
        }
        forms
    }
}

fn header<'a>(request: &Request<'a>, name: &str) -> Option<&'a str> {
    request.headers.get(name).and_then(|value| value.to_str().ok())
}

/// The signed headers between the method and the `ocp-` ones, in order.
const SIGNED_HEADERS: [&str; 11] = [
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

fn string_to_sign(request: &Request, form: &Form) -> String {
    let mut text = request.method.to_ascii_uppercase();
    let dated_otherwise = request.headers.contains_key("ocp-date");
    for name in SIGNED_HEADERS {
        text.push('\n');
        match name {
            "content-length" => text.push_str(form.content_length),
            "date" if dated_otherwise => {}
            _ => text.push_str(header(request, name).unwrap_or("")),
        }
    }
    text.push('\n');
    let mut own: Vec<(&str, &str)> = request
        .headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("ocp-"))
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap_or("")))
        .collect();
    own.sort_unstable();
    for (name, value) in own {
        text.push_str(&format!("{name}:{value}\n"));
    }
    text.push_str(&format!("/{}{}", form.account, request.path));
    let mut pairs = query_pairs(request.query);
    if form.lower_case_names {
        pairs.iter_mut().for_each(|(name, _)| name.make_ascii_lowercase());
    }
    // The sort is stable, so the first of a repeated name stays first and is the one that counts.
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    pairs.dedup_by(|later, earlier| later.0 == earlier.0);
    for (name, value) in pairs {
        if value.is_empty() && !form.keep_empty_values {
            continue;
        }
        text.push_str(&format!("\n{name}:{value}"));
    }
    text
}

#[cfg(test)]
mod tests;
