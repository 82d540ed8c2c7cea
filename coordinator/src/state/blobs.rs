//! Containers, blobs and staged blocks: the part of the state behind the Blob interface. (In progress.)

use super::reply::{Refusal, RefusalCode, Reply};
use super::{Batch, Stamp};
use lote_shared::model::AccountId;
use serde::{Deserialize, Serialize};

/// Changes to containers and blobs. Grows only at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlobAction {
    ContainerCreate { name: String, metadata: Vec<(String, String)> },
}

/// All containers and blobs of all accounts.
#[derive(Debug, Default)]
pub struct Blobs {}

impl Blobs {
    pub fn apply(
        &mut self,
        _stamp: Stamp,
        _account: AccountId,
        _action: &BlobAction,
        _batch: &mut Batch,
    ) -> Reply {
        Err(Refusal::new(RefusalCode::InternalError))
    }

    /// Takes one hot row of this part back into memory.
    pub fn load(
        &mut self,
        _account: AccountId,
        _table: super::keys::Table,
        _key: &[u8],
        _value: &[u8],
    ) -> Result<(), String> {
        Ok(())
    }
}
