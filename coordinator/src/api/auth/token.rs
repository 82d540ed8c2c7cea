//! Tokens with which a task may work on its own job (`jobs-and-tasks.md` §9): made for an attempt when it goes to its
//! node, signed with a key of the account, good as long as that attempt is its task's latest and has not ended.
//!
//! `lote1.<account>.<job>.<task>.<attempt>.<MAC>`, numbers in decimal, the HMAC-SHA256 of what stands before it in
//! base64 for URLs.

use super::{sign, verifies};
use crate::state::{Cluster, TaskPlace};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lote_shared::model::{AccountId, Attempt, AttemptRef, JobKey, TaskKey};

/// The variable that holds it in a task's environment.
pub const VARIABLE: &str = "AZ_BATCH_AUTHENTICATION_TOKEN";
const PREFIX: &str = "lote1";
/// Longer texts are none of ours.
const LENGTH_MAX: usize = 256;

/// What a token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobToken {
    pub account: AccountId,
    pub job: JobKey,
    /// For whom it was made.
    pub attempt: AttemptRef,
}

impl JobToken {
    fn text(&self) -> String {
        let JobToken { account, job, attempt } = self;
        format!("{PREFIX}.{}.{}.{}.{}", account.0, job.0, attempt.task.0, attempt.attempt.0)
    }

    /// The token, with a key of the account.
    pub fn sign(&self, key: &[u8]) -> String {
        let text = self.text();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(sign(key, &text)))
    }

    /// What a text claims, and its MAC.
    fn parse(text: &str) -> Option<(JobToken, [u8; 32])> {
        if text.len() > LENGTH_MAX {
            return None;
        }
        let (claim, mac) = text.rsplit_once('.')?;
        let mac = URL_SAFE_NO_PAD.decode(mac).ok()?.try_into().ok()?;
        let mut parts = claim.split('.');
        if parts.next() != Some(PREFIX) {
            return None;
        }
        let account = AccountId(parts.next()?.parse().ok()?);
        let job = JobKey(parts.next()?.parse().ok()?);
        let task = TaskKey(parts.next()?.parse().ok()?);
        let attempt = AttemptRef { task, attempt: Attempt(parts.next()?.parse().ok()?) };
        let token = JobToken { account, job, attempt };
        // Only the one way of writing it down counts.
        (parts.next().is_none() && token.text() == claim).then_some((token, mac))
    }

    /// The token, if a text is one that is good now.
    pub fn check(text: &str, cluster: &Cluster) -> Option<JobToken> {
        let (token, mac) = JobToken::parse(text)?;
        let account = cluster.account(token.account)?;
        let is_signed = account.keys.iter().any(|key| verifies(key, &token.text(), &mac));
        let task = cluster.task(token.attempt.task).filter(|task| task.job == token.job)?;
        let runs = matches!(
            task.place,
            TaskPlace::Assigned { .. } | TaskPlace::Preparing { .. } | TaskPlace::Running { .. }
        );
        (is_signed && runs && task.attempt == token.attempt.attempt).then_some(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: JobToken = JobToken {
        account: AccountId(1),
        job: JobKey(7),
        attempt: AttemptRef { task: TaskKey(12), attempt: Attempt(2) },
    };

    #[test]
    fn a_token_says_what_it_was_made_for() {
        let text = TOKEN.sign(b"key");
        assert!(text.starts_with("lote1.1.7.12.2."), "{text}");
        assert_eq!(JobToken::parse(&text).map(|(token, _)| token), Some(TOKEN));
        let (_, mac) = JobToken::parse(&text).unwrap();
        assert!(verifies(b"key", &TOKEN.text(), &mac));
        assert!(!verifies(b"other", &TOKEN.text(), &mac));
    }

    #[test]
    fn other_texts_are_no_tokens() {
        let text = TOKEN.sign(b"key");
        let (claim, mac) = text.rsplit_once('.').unwrap();
        for wrong in [
            String::new(),
            claim.to_owned(),
            format!("{claim}."),
            format!("{claim}.{mac}x"),
            format!("{claim}.1.{mac}"),
            format!("lote2.1.7.12.2.{mac}"),
            format!("lote1.01.7.12.2.{mac}"),
            format!("lote1.1.7.12.{mac}"),
            format!("lote1.1.7.12.-2.{mac}"),
            "lote1.".repeat(1_000),
        ] {
            assert_eq!(JobToken::parse(&wrong), None, "{wrong}");
        }
    }
}
