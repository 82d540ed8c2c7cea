//! The newcomer's side of joining.

use super::authority::hex;
use super::message::{Answer, BUILD_HEADER, PATH, Refused, Request};
use super::pin;
use super::token::Token;
use crate::clock;
use crate::state::version;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lote_shared::network::Identity;
use std::time::Duration;

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const ANSWER_MAX: usize = 4 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the cluster refuses: {message} ({code})")]
    Refused { code: String, message: String },
    #[error("no coordinator of the token answers: {0}")]
    Unreachable(String),
    #[error("the coordinator's answer cannot be read: {0}")]
    Answer(String),
    #[error("this machine's identity does not sign: {0}")]
    Identity(#[from] lote_shared::network::identity::SigningError),
    #[error("the HTTPS client cannot be made: {0}")]
    Client(String),
}

/// What the newcomer says of itself.
#[derive(Debug, Clone, Default)]
pub struct Newcomer {
    pub name: String,
    /// Multiaddresses at which it listens; empty if it only dials.
    pub addresses: Vec<String>,
    pub machine: String,
    /// The coordinator whose place it takes.
    pub replaces: Option<String>,
}

/// Asks each address of the token in turn until one answers yes or no. Safe to repeat.
pub async fn join(token: &Token, identity: &Identity, newcomer: &Newcomer) -> Result<Answer, Error> {
    let mut request = Request {
        token: token.id.to_string(),
        secret: hex(&token.secret),
        peer: identity.peer().to_string(),
        role: token.role,
        name: newcomer.name.clone(),
        addresses: newcomer.addresses.clone(),
        machine: newcomer.machine.clone(),
        replaces: newcomer.replaces.clone(),
        date: clock::wall(),
        public_key: STANDARD.encode(identity.public_key()),
        signature: String::new(),
    };
    request.signature = STANDARD.encode(identity.sign(request.statement(&token.authority).as_bytes())?);
    let tls = pin::client(token.authority).map_err(|error| Error::Client(error.to_string()))?;
    let http = reqwest::Client::builder()
        .no_proxy()
        .use_preconfigured_tls(tls)
        .connect_timeout(CONNECT_WITHIN)
        .timeout(ANSWER_WITHIN)
        .build()
        .map_err(|error| Error::Client(error.to_string()))?;
    let mut tried = Vec::new();
    for address in &token.addresses {
        match ask(&http, address, &request).await {
            Ok(answer) => return Ok(answer),
            Err(Trouble::Final(error)) => return Err(error),
            Err(Trouble::Here(why)) => tried.push(format!("{address}: {why}")),
        }
    }
    Err(Error::Unreachable(tried.join("; ")))
}

enum Trouble {
    /// Another coordinator may do better.
    Here(String),
    Final(Error),
}

async fn ask(http: &reqwest::Client, address: &str, request: &Request) -> Result<Answer, Trouble> {
    let body =
        serde_json::to_vec(request).map_err(|error| Trouble::Final(Error::Client(error.to_string())))?;
    let call = http.post(format!("https://{address}{PATH}")).header("content-type", "application/json");
    let call = call.header(BUILD_HEADER, version::build_text()).body(body);
    let mut response = call.send().await.map_err(|error| Trouble::Here(root_cause(&error)))?;
    let status = response.status();
    let mut bytes = Vec::new();
    while let Some(part) = response.chunk().await.map_err(|error| Trouble::Here(root_cause(&error)))? {
        if bytes.len() + part.len() > ANSWER_MAX {
            return Err(Trouble::Final(Error::Answer("it is too long".to_owned())));
        }
        bytes.extend_from_slice(&part);
    }
    let unreadable = |error: serde_json::Error| Trouble::Final(Error::Answer(error.to_string()));
    if status.is_success() {
        return serde_json::from_slice(&bytes).map_err(unreadable);
    }
    let refused: Refused =
        serde_json::from_slice(&bytes).map_err(|_| Trouble::Here(format!("it answers {status}")))?;
    if status.is_server_error() {
        return Err(Trouble::Here(refused.message));
    }
    Err(Trouble::Final(Error::Refused { code: refused.code, message: refused.message }))
}

/// The innermost reason: what lies around it only repeats the address.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
