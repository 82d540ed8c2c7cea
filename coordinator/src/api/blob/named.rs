//! What a request or a URL names, and what its credentials allow: for requests, for sources of copies, and for URLs that
//! come from members of the cluster.

use super::address::{self, Address, Hints};
use super::backend::AccountAccess;
use super::{BlobApi, Head};
use crate::api::auth::blob::{self as auth, Access, Denied, Level};
use crate::engine::Unavailable;

/// The account, and what of it is named.
pub struct Named {
    pub account: AccountAccess,
    pub container: Option<String>,
    pub blob: Option<String>,
    pub access: Result<Access, Denied>,
}

/// Why nothing is named.
#[derive(Debug, thiserror::Error)]
pub enum Unnamed {
    #[error("the path is not UTF-8")]
    NotText,
    #[error("there is no account `{0}`")]
    NoAccount(String),
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl Named {
    pub async fn of(head: Head<'_>, api: &BlobApi) -> Result<Named, Unnamed> {
        let claimed = auth::claimed_account(head.headers);
        let hints = Hints { host: head.host, claimed, default: &api.default_account };
        let is_account = |name: &str| api.backend.account(name).is_some();
        let Address { account, container, blob } =
            address::locate(head.path, hints, is_account).map_err(|_| Unnamed::NotText)?;
        let unknown = || Unnamed::NoAccount(account.chars().take(64).collect());
        let keys = api.backend.account(&account).ok_or_else(unknown)?;
        let credentials = auth::Request {
            method: head.method,
            path: head.path,
            query: head.query,
            headers: head.headers,
            account: &account,
            container: container.as_deref(),
            blob: blob.as_deref(),
            secure: head.secure,
            peer: head.peer,
        };
        let access = match auth::named_policy(&credentials, &keys.keys) {
            Err(denied) => Err(denied),
            Ok(name) => {
                let policy = api.policy(keys.id, container.as_deref(), name).await?;
                auth::authorise(&credentials, &keys.keys, policy.as_ref(), (api.clock)())
            }
        };
        Ok(Named { account: keys, container, blob, access })
    }

    pub fn level(&self) -> Level {
        match (&self.container, &self.blob) {
            (None, _) => Level::Service,
            (_, None) => Level::Container,
            _ => Level::Blob,
        }
    }
}
