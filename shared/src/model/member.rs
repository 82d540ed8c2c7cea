//! Who belongs to a cluster, as both sides name it.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What a member is: it keeps the state, or it runs tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberRole {
    Coordinator,
    Worker,
}

impl MemberRole {
    pub const ALL: [MemberRole; 2] = [MemberRole::Coordinator, MemberRole::Worker];

    pub const fn as_str(self) -> &'static str {
        match self {
            MemberRole::Coordinator => "coordinator",
            MemberRole::Worker => "worker",
        }
    }
}

impl fmt::Display for MemberRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names nothing of the kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAName {
    #[error("`{0}` is no role; a member is a `coordinator` or a `worker`")]
    Role(String),
    #[error("`{0}` is no token id; `lote token list` shows them (16 hexadecimal digits)")]
    Token(String),
}

impl FromStr for MemberRole {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<MemberRole, NotAName> {
        let named = MemberRole::ALL.into_iter().find(|role| role.as_str() == text);
        named.ok_or_else(|| NotAName::Role(text.chars().take(64).collect()))
    }
}

/// Names a join token, for people and in the list of them; it is no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenId(pub u64);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for TokenId {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<TokenId, NotAName> {
        let wrong = || NotAName::Token(text.chars().take(64).collect());
        if text.len() != 16 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        u64::from_str_radix(text, 16).map(TokenId).map_err(|_| wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_others_are_refused() {
        for role in MemberRole::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        assert!("Worker".parse::<MemberRole>().is_err());
        for id in [TokenId(0), TokenId(0xab), TokenId(u64::MAX)] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for bad in ["", "ab", "+00000000000000a", "000000000000000g", "00000000000000000"] {
            assert_eq!(bad.parse::<TokenId>(), Err(NotAName::Token(bad.to_owned())), "{bad}");
        }
    }
}
