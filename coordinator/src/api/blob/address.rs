//! Which account, container and blob a URL names (blob WIRE.md §1). Pure.

use percent_encoding::percent_decode_str;

/// Decoded names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub account: String,
    pub container: Option<String>,
    pub blob: Option<String>,
}

/// A part of the path is not UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotText;

/// What helps to find the account.
#[derive(Debug, Clone, Copy)]
pub struct Hints<'a> {
    /// `Host` header.
    pub host: Option<&'a str>,
    /// Account named by the `Authorization` header.
    pub claimed: Option<&'a str>,
    pub default: &'a str,
}

/// The parts of a URL, none of them decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts<'a> {
    pub scheme: &'a str,
    pub host: &'a str,
    /// Begins with `/`.
    pub path: &'a str,
    pub query: &'a str,
}

/// Takes a URL apart; `None` if it is none. Nothing is normalised: a name may hold `..`.
pub fn split(url: &str) -> Option<Parts<'_>> {
    let (scheme, rest) = url.split_once("://")?;
    let rest = rest.split('#').next().unwrap_or_default();
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (host, path) = match place.find('/') {
        Some(at) => place.split_at(at),
        None => (place, "/"),
    };
    Some(Parts { scheme, host, path, query })
}

/// Splits the raw path and only then decodes, so that `%2F` in a blob's name is a `/` of that name.
///
/// `ACCOUNT.blob.DOMAIN` names its account. Otherwise the first segment is the account if the credentials claim it
/// or it is a known one; else the path starts with the container.
pub fn locate(raw_path: &str, hints: Hints, is_account: impl Fn(&str) -> bool) -> Result<Address, NotText> {
    let path = raw_path.strip_prefix('/').unwrap_or(raw_path);
    if let Some(account) = hints.host.and_then(account_of_host) {
        return within(account.to_owned(), path);
    }
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    let first = decode(first)?;
    if hints.claimed == Some(first.as_str()) || is_account(&first) {
        return within(first, rest);
    }
    within(hints.claimed.unwrap_or(hints.default).to_owned(), path)
}

fn within(account: String, path: &str) -> Result<Address, NotText> {
    let (container, blob) = path.split_once('/').unwrap_or((path, ""));
    let some = |text: &str| match text {
        "" => Ok(None),
        text => decode(text).map(Some),
    };
    Ok(Address { account, container: some(container)?, blob: some(blob)? })
}

fn decode(text: &str) -> Result<String, NotText> {
    Ok(percent_decode_str(text).decode_utf8().map_err(|_| NotText)?.into_owned())
}

fn account_of_host(host: &str) -> Option<&str> {
    let (account, rest) = host.split_once('.')?;
    (rest.starts_with("blob.") && !account.is_empty()).then_some(account)
}

/// 3–63 of a–z, 0–9 and single `-`, beginning and ending with a letter or digit; or one of the service's own.
pub fn is_container_name(name: &str) -> bool {
    if matches!(name, "$root" | "$logs" | "$web") {
        return true;
    }
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (3..=63).contains(&name.len())
        && name.bytes().all(good)
        && !name.contains("--")
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// 1–1024 characters.
pub fn is_blob_name(name: &str) -> bool {
    (1..=1024).contains(&name.chars().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(host: &str, claimed: Option<&str>, path: &str) -> (String, String, String) {
        let hints = Hints { host: Some(host), claimed, default: "dflt" };
        let found = locate(path, hints, |name| name == "acct").unwrap();
        (found.account, found.container.unwrap_or_default(), found.blob.unwrap_or_default())
    }

    #[test]
    fn paths() {
        let ip = "127.0.0.1:11001";
        let cases = [
            (ip, None, "/acct", ("acct", "", "")),
            (ip, None, "/acct/", ("acct", "", "")),
            (ip, None, "/acct/cont", ("acct", "cont", "")),
            (ip, None, "/acct/cont/", ("acct", "cont", "")),
            (ip, None, "/acct/cont/a/b", ("acct", "cont", "a/b")),
            (ip, None, "/acct/cont/a%2Fb%20c%2541+", ("acct", "cont", "a/b c%41+")),
            (ip, None, "/acct/cont//x/", ("acct", "cont", "/x/")),
            (ip, None, "/cont/a", ("dflt", "cont", "a")),
            (ip, None, "/", ("dflt", "", "")),
            (ip, Some("mine"), "/mine/cont/%C3%A4", ("mine", "cont", "ä")),
            (ip, Some("mine"), "/cont/x", ("mine", "cont", "x")),
            ("acct.blob.core.example:80", None, "/acct/x", ("acct", "acct", "x")),
            ("acct.blob.localhost", Some("acct"), "/", ("acct", "", "")),
            ("storage.example.org", None, "/cont/x", ("dflt", "cont", "x")),
        ];
        for (host, claimed, path, (account, container, blob)) in cases {
            let expected = (account.to_owned(), container.to_owned(), blob.to_owned());
            assert_eq!(find(host, claimed, path), expected, "{host}{path}");
        }
        let hints = Hints { host: None, claimed: None, default: "dflt" };
        assert_eq!(locate("/cont/%FF", hints, |_| false), Err(NotText));
    }

    #[test]
    fn names() {
        for good in ["abc", "a-b-c", "0123", "$root", &"a".repeat(63)] {
            assert!(is_container_name(good), "{good}");
        }
        for bad in ["ab", "Abc", "a--b", "-abc", "abc-", "a_b", "a/b", "ä-ö-ü", &"a".repeat(64)] {
            assert!(!is_container_name(bad), "{bad}");
        }
    }
}
