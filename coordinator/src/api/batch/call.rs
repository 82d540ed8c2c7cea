//! One request, authenticated and routed: its parameters, what it may be asked, and the ways into the engine.

use super::BatchApi;
use super::errors::{Code, Error};
use super::json::Select;
use crate::api::auth::query_pairs;
use crate::api::odata::{Field, Filter, page};
use crate::state::reply::Version;
use crate::state::{Action, Cluster, Condition, Outcome};
use actix_web::http::header::HeaderMap;
use bytes::Bytes;
use lote_shared::model::{AccountId, Timestamp};

/// Versions that are spoken (WIRE.md §1). They differ in shape only, so one superset serves them all.
pub const VERSIONS: [&str; 14] = [
    "2018-12-01.8.0",
    "2019-06-01.9.0",
    "2019-08-01.10.0",
    "2020-03-01.11.0",
    "2020-09-01.12.0",
    "2021-06-01.14.0",
    "2022-01-01.15.0",
    "2022-10-01.16.0",
    "2023-05-01.17.0",
    "2023-11-01.18.0",
    "2024-02-01.19.0",
    "2024-07-01.20.0",
    "2025-06-01",
    "2026-10-01",
];

/// Parameters of a query; names are matched without case, the first of a repeated name counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(pub Vec<(String, String)>);

impl Query {
    pub fn parse(text: &str) -> Query {
        Query(query_pairs(text))
    }

    /// A parameter with a value that is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// The api-version, which is mandatory.
    pub fn version(&self) -> Result<&'static str, Error> {
        let Some(text) = self.get("api-version") else {
            let error = Error::new(Code::MissingRequiredQueryParameter);
            return Err(error.with("QueryParameterName", "api-version"));
        };
        let known = VERSIONS.iter().find(|version| version.eq_ignore_ascii_case(text));
        known.copied().ok_or_else(|| {
            let reason = format!("supported versions are {}", VERSIONS.join(", "));
            Error::query(Code::UnsupportedRequestVersion, "api-version", text, reason)
        })
    }

    /// `maxresults`, from 1 to `most`, which is also the default.
    pub fn max_results(&self, most: usize) -> Result<usize, Error> {
        let Some(text) = self.get("maxresults") else { return Ok(most) };
        let refused = |code, reason: String| Err(Error::query(code, "maxresults", text, reason));
        match text.trim().parse::<i64>().map(usize::try_from) {
            Ok(Ok(number)) if (1..=most).contains(&number) => Ok(number),
            Ok(_) => refused(Code::OutOfRangeQueryParameterValue, format!("it must be from 1 to {most}")),
            Err(_) => refused(Code::InvalidQueryParameterValue, "it is not a number".into()),
        }
    }

    pub fn boolean(&self, name: &str) -> Result<bool, Error> {
        match self.get(name) {
            None => Ok(false),
            Some(text) if text.eq_ignore_ascii_case("true") => Ok(true),
            Some(text) if text.eq_ignore_ascii_case("false") => Ok(false),
            Some(text) => Err(Error::query(
                Code::InvalidQueryParameterValue,
                name,
                text,
                "it is neither true nor false",
            )),
        }
    }

    pub fn filter(&self, fields: &[Field]) -> Result<Option<Filter>, Error> {
        let Some(text) = self.get("$filter") else { return Ok(None) };
        let refused = |error: crate::api::odata::filter::Error| {
            Error::query(Code::InvalidQueryParameterValue, "$filter", text, error.to_string())
        };
        Filter::parse(text, fields).map(Some).map_err(refused)
    }

    pub fn select(&self) -> Option<Select> {
        self.get("$select").and_then(Select::parse)
    }

    /// Statistics are not kept yet, and an absent `stats` says so honestly; anything else cannot be expanded.
    pub fn check_expand(&self) -> Result<(), Error> {
        match self.get("$expand") {
            None => Ok(()),
            Some(text) if text.split(',').all(|name| name.trim() == "stats") => Ok(()),
            Some(text) => Err(Error::query(
                Code::InvalidQueryParameterValue,
                "$expand",
                text,
                "only stats can be expanded",
            )),
        }
    }

    /// The position behind which a list goes on.
    pub fn after(&self) -> Result<Option<String>, Error> {
        let Some(token) = self.get("$skiptoken") else { return Ok(None) };
        let foreign = || {
            let reason = "it was not made by this service";
            Error::query(Code::InvalidQueryParameterValue, "$skiptoken", token, reason)
        };
        page::position(token).filter(|text| !text.is_empty()).map(Some).ok_or_else(foreign)
    }
}

/// Reads the conditional headers.
pub fn condition(headers: &HeaderMap) -> Result<Condition, Error> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let tags = |name: &str| text(name).map(|text| text.split(',').map(bare_tag).collect::<Vec<_>>());
    let date = |name: &str| {
        let read = |text: &str| {
            let refused =
                Error::new(Code::InvalidHeaderValue).with("HeaderName", name).with("HeaderValue", text);
            Timestamp::parse(text).ok_or(refused)
        };
        text(name).map(read).transpose()
    };
    let condition = Condition {
        if_match: tags("if-match"),
        if_none_match: tags("if-none-match"),
        if_modified_since: date("if-modified-since")?,
        if_unmodified_since: date("if-unmodified-since")?,
    };
    let given = [
        condition.if_match.is_some(),
        condition.if_none_match.is_some(),
        condition.if_modified_since.is_some(),
        condition.if_unmodified_since.is_some(),
    ];
    if given.into_iter().filter(|given| *given).count() > 1 {
        return Err(Code::MultipleConditionHeadersNotSupported.into());
    }
    Ok(condition)
}

/// An ETag without the quotes and the `W/` that some clients put round it.
fn bare_tag(text: &str) -> String {
    let text = text.trim();
    let text = text.strip_prefix("W/").unwrap_or(text);
    text.trim_matches('"').to_owned()
}

/// One request on its way through a handler.
#[derive(Debug)]
pub struct Call<'a> {
    pub api: &'a BatchApi,
    pub account: AccountId,
    /// Scheme, host and port as the client used them, and the prefix of the path, if any.
    pub base: String,
    /// `base` and the raw path.
    pub address: String,
    pub query: Query,
    pub version: &'static str,
    pub headers: &'a HeaderMap,
    /// Decoded parameters of the path.
    pub parameters: Vec<String>,
    pub body: Bytes,
    pub now: Timestamp,
}

impl Call<'_> {
    /// A parameter of the path.
    pub fn parameter(&self, index: usize) -> &str {
        self.parameters.get(index).map_or("", String::as_str)
    }

    pub fn condition(&self) -> Result<Condition, Error> {
        condition(self.headers)
    }

    /// Checks the conditional headers of a read.
    pub fn check_read(&self, version: Version) -> Result<(), Error> {
        self.condition()?.check(version).map_err(|_| Error::not_modified())
    }

    pub async fn propose(&self, action: Action) -> Result<Outcome, Error> {
        let reply = self.api.engine.propose(self.account, action).await;
        self.api.metrics.proposed(matches!(&reply, Ok(Ok(_))));
        Ok(reply??)
    }

    /// Looks at the state as it is after every write that was acknowledged before this call.
    pub async fn read<T>(&self, look: impl FnOnce(&Cluster) -> T) -> Result<T, Error> {
        self.api.engine.linearize().await?;
        Ok(self.api.engine.read(look))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::{HeaderName, HeaderValue};

    #[test]
    fn versions_are_mandatory_and_known() {
        assert_eq!(Query::parse("api-version=2025-06-01").version(), Ok("2025-06-01"));
        assert_eq!(Query::parse("API-VERSION=2024-02-01.19.0").version(), Ok("2024-02-01.19.0"));
        assert_eq!(Query::parse("a=b").version().unwrap_err().code, Code::MissingRequiredQueryParameter);
        assert_eq!(
            Query::parse("api-version=").version().unwrap_err().code,
            Code::MissingRequiredQueryParameter
        );
        let unknown = Query::parse("api-version=1999-01-01").version();
        assert_eq!(unknown.unwrap_err().code, Code::UnsupportedRequestVersion);
    }

    #[test]
    fn page_sizes_are_bounded() {
        let check = |text: &str| Query::parse(text).max_results(1000).map_err(|error| error.code);
        assert_eq!(check(""), Ok(1000));
        assert_eq!(check("maxresults=1"), Ok(1));
        assert_eq!(check("maxResults=1000"), Ok(1000));
        for text in ["maxresults=0", "maxresults=1001", "maxresults=-5"] {
            assert_eq!(check(text), Err(Code::OutOfRangeQueryParameterValue), "{text}");
        }
        assert_eq!(check("maxresults=all"), Err(Code::InvalidQueryParameterValue));
    }

    #[test]
    fn flags_expansions_and_tokens() {
        assert_eq!(Query::parse("force=True").boolean("force"), Ok(true));
        assert_eq!(Query::parse("").boolean("force"), Ok(false));
        assert!(Query::parse("force=1").boolean("force").is_err());
        assert!(Query::parse("$expand=stats").check_expand().is_ok());
        assert!(Query::parse("$expand=tasks").check_expand().is_err());
        assert!(Query::parse("$skiptoken=%21%21").after().is_err());
        let token = page::token("x");
        assert_eq!(Query::parse(&format!("$skiptoken={token}")).after(), Ok(Some("x".to_owned())));
    }

    #[test]
    fn conditions_come_bare_or_quoted_and_one_at_a_time() {
        let read = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            condition(&headers)
        };
        let tags = |condition: Condition| condition.if_match.unwrap_or_default();
        assert_eq!(tags(read(&[("if-match", "0x8D1")]).unwrap()), ["0x8D1"]);
        assert_eq!(tags(read(&[("if-match", "\"0x8D1\"")]).unwrap()), ["0x8D1"]);
        assert_eq!(tags(read(&[("if-match", "W/\"a\", *")]).unwrap()), ["a", "*"]);
        let date = read(&[("if-modified-since", "Tue, 15 Jul 2025 12:00:00 GMT")]).unwrap();
        assert_eq!(date.if_modified_since, Timestamp::parse("2025-07-15T12:00:00Z"));
        assert_eq!(read(&[("if-modified-since", "then")]).unwrap_err().code, Code::InvalidHeaderValue);
        let both = read(&[("if-match", "*"), ("if-none-match", "*")]);
        assert_eq!(both.unwrap_err().code, Code::MultipleConditionHeadersNotSupported);
        assert_eq!(read(&[]), Ok(Condition::default()));
    }
}
