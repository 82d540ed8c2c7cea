//! What the interface needs of the replicated state. A trait, so that the interface can be tested without a cluster.

use crate::engine::{Engine, Unavailable};
use crate::state::blobs::{BlobAction, Blobs};
use crate::state::{Action, ClusterVersion, Reply};
use async_trait::async_trait;
use lote_shared::model::{AccountId, Producer};

/// An account and the keys that sign for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountAccess {
    pub id: AccountId,
    pub name: String,
    pub keys: Vec<Vec<u8>>,
}

#[async_trait]
pub trait Backend: Send + Sync + 'static {
    fn account(&self, name: &str) -> Option<AccountAccess>;

    /// Looks at the records. Keep it short: applying waits meanwhile.
    fn look(&self, look: &mut dyn FnMut(&Blobs));

    /// Waits until reads see every write acknowledged before this call.
    async fn linearize(&self) -> Result<(), Unavailable>;

    /// Has an action made durable and applied.
    async fn propose(&self, account: AccountId, action: BlobAction) -> Result<Reply, Unavailable>;

    /// As [`Backend::propose`] for what an attempt on the host `peer` wrote; refused as `Fenced` if that was given up.
    async fn propose_output(
        &self,
        account: AccountId,
        producer: Producer,
        peer: String,
        put: BlobAction,
    ) -> Result<Reply, Unavailable>;
}

impl dyn Backend {
    /// As [`Backend::look`], with a result.
    pub fn read<T>(&self, look: impl FnOnce(&Blobs) -> T) -> Option<T> {
        let mut look = Some(look);
        let mut found = None;
        self.look(&mut |blobs| found = look.take().map(|look| look(blobs)));
        found
    }
}

/// The engine as it is.
#[async_trait]
impl Backend for Engine {
    fn account(&self, name: &str) -> Option<AccountAccess> {
        Engine::read(self, |cluster| {
            let (id, record) = cluster.account_by_name(name)?;
            Some(AccountAccess { id, name: record.name.clone(), keys: record.keys.clone() })
        })
    }

    fn look(&self, look: &mut dyn FnMut(&Blobs)) {
        Engine::read(self, |cluster| look(cluster.blobs()));
    }

    async fn linearize(&self) -> Result<(), Unavailable> {
        Engine::linearize(self).await
    }

    async fn propose(&self, account: AccountId, action: BlobAction) -> Result<Reply, Unavailable> {
        Engine::propose(self, account, Action::Blob(Box::new(action))).await
    }

    async fn propose_output(
        &self,
        account: AccountId,
        producer: Producer,
        peer: String,
        put: BlobAction,
    ) -> Result<Reply, Unavailable> {
        let put = Box::new(put);
        // Beside coordinators of an older build outputs are written as they always were.
        let action = if self.version() < ClusterVersion::V2 {
            Action::Blob(put)
        } else {
            Action::Output { producer, peer, put }
        };
        Engine::propose(self, account, action).await
    }
}
