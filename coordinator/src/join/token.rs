//! The text of a join token: one line that holds where to ask, whom to believe, and by what leave.
//!
//! `lote1.` and base64url of a body in the common codec and four bytes of its hash, so that a line that was cut or
//! mistyped is told from one that is no good any more.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lote_shared::model::{MemberRole, TokenId};
use lote_shared::protocol::codec;
use serde::{Deserialize, Serialize};

const PREFIX: &str = "lote1.";
const VERSION: u8 = 1;
const CHECK_BYTES: usize = 4;
const TEXT_MAX: usize = 2_048;
pub const ADDRESSES_MAX: usize = 8;

/// A join token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    pub id: TokenId,
    pub role: MemberRole,
    pub secret: [u8; 32],
    /// SHA-256 of the certificate of the cluster's authority.
    pub authority: [u8; 32],
    /// `host:port` of join ports.
    pub addresses: Vec<String>,
}

/// The secret is not for logs.
impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("id", &self.id).field("role", &self.role).finish_non_exhaustive()
    }
}

/// Why a text is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("that is no join token; one starts with `{PREFIX}` and comes from `lote token create`")]
    NotAToken,
    #[error("the token is of a newer kind (`{0}`); this lote is too old for that cluster")]
    Newer(String),
    #[error("the token was not copied whole: {0}; copy the one line again")]
    Damaged(&'static str),
    #[error("the token names no address to ask at")]
    NoAddress,
}

/// What the state keeps of a secret.
pub fn hash(secret: &[u8; 32]) -> [u8; 32] {
    *blake3::hash(secret).as_bytes()
}

impl Token {
    pub fn text(&self) -> Result<String, codec::Error> {
        let mut bytes = codec::encode(VERSION, self)?;
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(&check.as_bytes()[..CHECK_BYTES]);
        Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    pub fn parse(text: &str) -> Result<Token, Error> {
        let text = text.trim();
        let Some(body) = text.strip_prefix(PREFIX) else {
            let kind = text.split('.').next().unwrap_or("");
            let newer = kind.strip_prefix("lote").is_some_and(|n| n.parse::<u32>().is_ok_and(|n| n > 1));
            return Err(if newer { Error::Newer(kind.to_owned()) } else { Error::NotAToken });
        };
        if text.len() > TEXT_MAX {
            return Err(Error::Damaged("it is too long"));
        }
        let bytes =
            URL_SAFE_NO_PAD.decode(body).map_err(|_| Error::Damaged("a character does not belong there"))?;
        let (bytes, check) =
            bytes.split_last_chunk::<CHECK_BYTES>().ok_or(Error::Damaged("it is too short"))?;
        if blake3::hash(bytes).as_bytes()[..CHECK_BYTES] != check[..] {
            return Err(Error::Damaged("its check sum is wrong"));
        }
        let token: Token = codec::decode(VERSION, bytes, TEXT_MAX as u64)
            .map_err(|_| Error::Damaged("its contents cannot be read"))?;
        if token.addresses.is_empty() || token.addresses.len() > ADDRESSES_MAX {
            return Err(Error::NoAddress);
        }
        Ok(token)
    }
}
