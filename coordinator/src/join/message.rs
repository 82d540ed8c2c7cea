//! What a newcomer and a coordinator say to each other: JSON, bounded and checked for shape before anything believes it.

use super::authority::{Authority, hex};
use crate::state::Admission;
use libp2p::{Multiaddr, PeerId};
use lote_shared::model::{MemberRole, Timestamp, TokenId};
use serde::{Deserialize, Serialize};

/// Path of the call.
pub const PATH: &str = "/lote/join";
/// The newcomer's build and what it supports. Not a member of the request, which older coordinators would refuse for it.
pub const BUILD_HEADER: &str = "lote-build";
pub const BODY_MAX: usize = 16 * 1024;
/// How far a request's date may be from ours.
pub const CLOCK_SKEW_MAX_MS: u64 = crate::api::auth::CLOCK_SKEW_MAX_MS;
const NAME_MAX: usize = 64;
const ADDRESSES_MAX: usize = 8;
const ADDRESS_MAX: usize = 256;

/// A newcomer asks in.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Request {
    pub token: String,
    /// Hexadecimal.
    pub secret: String,
    pub peer: String,
    pub role: MemberRole,
    pub name: String,
    pub addresses: Vec<String>,
    pub machine: String,
    pub replaces: Option<String>,
    pub date: Timestamp,
    /// The identity's public key and its signature of [`Request::statement`], base64.
    pub public_key: String,
    pub signature: String,
}

/// A member as the answer tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    pub peer: String,
    pub role: MemberRole,
    pub name: String,
    pub addresses: Vec<String>,
    pub member: Option<u64>,
}

/// A key of an account, for the file that clients read.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub name: String,
    /// Base64.
    pub key: String,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The newcomer is a member.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    pub cluster_id: String,
    pub lease_ms: u64,
    /// Certificate of the authority, PEM.
    pub ca_certificate: String,
    /// The coordinators.
    pub members: Vec<Member>,
    /// A coordinator's number, and what it needs to be one.
    pub member: Option<u64>,
    pub authority: Option<Authority>,
    pub account: Option<Account>,
}

/// The newcomer is none.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Refused {
    pub code: String,
    pub message: String,
}

impl Request {
    /// What the newcomer signs: everything it asks for, and in which cluster, so that nothing of it can be used for
    /// anything else.
    pub fn statement(&self, authority: &[u8; 32]) -> String {
        format!(
            "lote join 1\n{}\n{}\n{}\n{}\n{:?}\n{:?}\n{}\n{:?}\n{}",
            hex(authority),
            self.token,
            self.peer,
            self.role,
            self.name,
            self.addresses,
            self.machine,
            self.replaces,
            self.date.0,
        )
    }

    /// The admission that is asked for, if its shape is good; the error is a sentence.
    pub fn check(&self) -> Result<(TokenId, [u8; 32], Admission), String> {
        let token = self.token.parse::<TokenId>().map_err(|error| error.to_string())?;
        let secret = blake3::Hash::from_hex(&self.secret).map_err(|_| "the secret is not one".to_owned())?;
        self.peer.parse::<PeerId>().map_err(|_| "the peer id is not one".to_owned())?;
        check_name(&self.name)?;
        if let Some(replaces) = &self.replaces {
            check_name(replaces)?;
        }
        if self.machine.len() > NAME_MAX || !self.machine.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("the machine's hash is not one".to_owned());
        }
        if self.addresses.len() > ADDRESSES_MAX {
            return Err(format!("{} addresses; at most {ADDRESSES_MAX}", self.addresses.len()));
        }
        for address in &self.addresses {
            if address.len() > ADDRESS_MAX || address.parse::<Multiaddr>().is_err() {
                let shown: String = address.chars().take(ADDRESS_MAX).collect();
                return Err(format!("`{shown}` is no multiaddress"));
            }
        }
        if self.role == MemberRole::Coordinator && self.addresses.is_empty() {
            return Err("a coordinator must say where it can be reached".to_owned());
        }
        let admission = Admission {
            peer: self.peer.clone(),
            role: self.role,
            name: self.name.clone(),
            addresses: self.addresses.clone(),
            machine: self.machine.clone(),
            endpoints: None,
            replaces: self.replaces.clone(),
        };
        Ok((token, *secret.as_bytes(), admission))
    }
}

/// Names are shown and typed by people.
pub fn check_name(name: &str) -> Result<(), String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=NAME_MAX).contains(&name.len()) && name.chars().all(good) {
        return Ok(());
    }
    let shown: String = name.chars().take(NAME_MAX).collect();
    Err(format!("`{shown}` is no name: 1 to {NAME_MAX} letters, digits, `-`, `_`, `.`"))
}
