//! Judging conditional headers against a record as it is now.

use super::super::Condition;
use super::super::reply::{RefusalCode, Version};

/// Why a condition does not hold. A write answers 412 to both; a read answers 304 to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmet {
    /// `If-Match` or `If-Unmodified-Since`.
    Changed,
    /// `If-None-Match` or `If-Modified-Since`.
    NotChanged,
}

/// Judges the condition; `version` is `None` if there is no such record.
pub fn check(condition: &Condition, version: Option<Version>) -> Result<(), Unmet> {
    let Some(version) = version else {
        return match condition.if_match {
            Some(_) => Err(Unmet::Changed),
            None => Ok(()),
        };
    };
    let text = version.etag_text();
    let names = |tags: &[String]| tags.iter().any(|tag| tag == "*" || tag.eq_ignore_ascii_case(&text));
    if condition.if_match.as_deref().is_some_and(|tags| !names(tags)) {
        return Err(Unmet::Changed);
    }
    // The client saw whole seconds.
    let modified = version.modified.0 / 1000;
    if condition.if_unmodified_since.is_some_and(|since| modified > since.0 / 1000) {
        return Err(Unmet::Changed);
    }
    match &condition.if_none_match {
        // A date beside ETags does not count (RFC 9110 §13.2.2).
        Some(tags) if names(tags) => Err(Unmet::NotChanged),
        Some(_) => Ok(()),
        None if condition.if_modified_since.is_some_and(|since| modified <= since.0 / 1000) => {
            Err(Unmet::NotChanged)
        }
        None => Ok(()),
    }
}

/// As [`check`], for a write to a blob: `If-None-Match: *` over an existing one has a code of its own.
pub(super) fn check_write(condition: &Condition, version: Option<Version>) -> Result<(), RefusalCode> {
    check(condition, version).map_err(|unmet| {
        let only_new = condition.if_none_match.as_deref().is_some_and(|tags| tags.iter().any(|t| t == "*"));
        match unmet {
            Unmet::NotChanged if only_new => RefusalCode::BlobAlreadyExists,
            _ => RefusalCode::ConditionNotMet,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lote_shared::model::Timestamp;

    #[test]
    fn table() {
        let version = Version { etag: 0xAB, modified: Timestamp(10_500) };
        let tags = |list: &[&str]| Some(list.iter().map(|tag| (*tag).to_owned()).collect());
        let at = |ms| Some(Timestamp(ms));
        let any = Condition::default;
        let changed = Err(Unmet::Changed);
        let same = Err(Unmet::NotChanged);
        // Condition, answer for the record, answer if there is none.
        let cases = [
            (any(), Ok(()), Ok(())),
            (Condition { if_match: tags(&["0xAB"]), ..any() }, Ok(()), changed),
            (Condition { if_match: tags(&["0xAC", "0xab"]), ..any() }, Ok(()), changed),
            (Condition { if_match: tags(&["0xAC"]), ..any() }, changed, changed),
            (Condition { if_match: tags(&["*"]), ..any() }, Ok(()), changed),
            (Condition { if_none_match: tags(&["0xAB"]), ..any() }, same, Ok(())),
            (Condition { if_none_match: tags(&["0xAC"]), ..any() }, Ok(()), Ok(())),
            (Condition { if_none_match: tags(&["*"]), ..any() }, same, Ok(())),
            (Condition { if_modified_since: at(9_000), ..any() }, Ok(()), Ok(())),
            (Condition { if_modified_since: at(10_000), ..any() }, same, Ok(())),
            (Condition { if_modified_since: at(11_000), ..any() }, same, Ok(())),
            (Condition { if_unmodified_since: at(9_000), ..any() }, changed, Ok(())),
            (Condition { if_unmodified_since: at(10_000), ..any() }, Ok(()), Ok(())),
            (
                Condition { if_none_match: tags(&["0xAC"]), if_modified_since: at(11_000), ..any() },
                Ok(()),
                Ok(()),
            ),
        ];
        for (condition, there, missing) in cases {
            assert_eq!(check(&condition, Some(version)), there, "{condition:?}");
            assert_eq!(check(&condition, None), missing, "{condition:?}, missing");
        }
        let only_new = Condition { if_none_match: tags(&["*"]), ..any() };
        assert_eq!(check_write(&only_new, Some(version)), Err(RefusalCode::BlobAlreadyExists));
        let other = Condition { if_none_match: tags(&["0xAB"]), ..any() };
        assert_eq!(check_write(&other, Some(version)), Err(RefusalCode::ConditionNotMet));
    }
}
