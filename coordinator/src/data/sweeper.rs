//! Drives [`BlobAction::Sweep`]: the records say that there is something to remove, this proposes the slices.
//!
//! Any number of coordinators may run it; a sweep that finds nothing to do changes nothing. Only the leader should,
//! to save the proposals.

use crate::api::blob::BlobApi;
use crate::state::Outcome;
use crate::state::blobs::BlobAction;
use std::time::Duration;

/// Pause between looks when there is nothing to do.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Pause between slices, so that other traffic goes first.
const SLICE_PAUSE: Duration = Duration::from_millis(20);

/// Runs until dropped. `is_leader` is asked before each round.
pub async fn run(api: BlobApi, is_leader: impl Fn() -> bool) {
    loop {
        if is_leader() {
            round(&api, &is_leader).await;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// One round over all accounts: removes everything that is due now.
pub async fn round(api: &BlobApi, is_leader: impl Fn() -> bool) {
    let accounts = api.backend.read(|blobs| blobs.to_sweep((api.clock)())).unwrap_or_default();
    for account in accounts {
        while is_leader() {
            match api.backend.propose(account, BlobAction::Sweep).await {
                Ok(Ok(Outcome::Continued { more: true })) => tokio::time::sleep(SLICE_PAUSE).await,
                Ok(Ok(_)) => break,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "a sweep of blobs was refused");
                    break;
                }
                // Busy or without quorum: the next round will do.
                Err(error) => {
                    tracing::debug!(%error, "a sweep of blobs was not proposed");
                    return;
                }
            }
        }
    }
}
