//! Conditional requests, judged on apply (`jobs-and-tasks.md` §1.3, WIRE.md §7).

use super::command::Condition;
use super::reply::{Refusal, RefusalCode, Version};
use lote_shared::model::Timestamp;

impl Condition {
    /// Whether a change of a record of this version may go on. Dates are compared in whole seconds, as HTTP has them.
    pub fn check(&self, version: Version) -> Result<(), Refusal> {
        let text = version.etag_text();
        let named = |tags: &[String]| tags.iter().any(|tag| tag == "*" || tag.eq_ignore_ascii_case(&text));
        let seconds = |time: Timestamp| time.0 / 1000;
        let modified = seconds(version.modified);
        let holds = self.if_match.as_deref().is_none_or(named)
            && !self.if_none_match.as_deref().is_some_and(named)
            && self.if_modified_since.is_none_or(|since| modified > seconds(since))
            && self.if_unmodified_since.is_none_or(|since| modified <= seconds(since));
        if holds { Ok(()) } else { Err(RefusalCode::ConditionNotMet.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_condition_holds_and_fails() {
        let version = Version { etag: 0xAB, modified: Timestamp(10_500) };
        let tags = |tag: &str| Some(vec!["0x1".to_owned(), tag.to_owned()]);
        let cases = [
            (Condition::default(), true),
            (Condition { if_match: tags("0xAB"), ..Default::default() }, true),
            (Condition { if_match: tags("*"), ..Default::default() }, true),
            (Condition { if_match: tags("0xAC"), ..Default::default() }, false),
            (Condition { if_none_match: tags("0xAC"), ..Default::default() }, true),
            (Condition { if_none_match: tags("0xAB"), ..Default::default() }, false),
            (Condition { if_none_match: tags("*"), ..Default::default() }, false),
            (Condition { if_modified_since: Some(Timestamp(9_999)), ..Default::default() }, true),
            (Condition { if_modified_since: Some(Timestamp(10_000)), ..Default::default() }, false),
            (Condition { if_unmodified_since: Some(Timestamp(10_000)), ..Default::default() }, true),
            (Condition { if_unmodified_since: Some(Timestamp(9_999)), ..Default::default() }, false),
        ];
        for (condition, holds) in cases {
            assert_eq!(condition.check(version).is_ok(), holds, "{condition:?}");
        }
    }
}
