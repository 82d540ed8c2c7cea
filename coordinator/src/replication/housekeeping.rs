//! Keeps the log short in bytes; openraft itself only counts entries, of which 50 000 can be 50 GB.

use super::log::Log;
use super::types::Types;
use openraft::Raft;
use openraft::error::Fatal;
use std::sync::Arc;
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_secs(1);
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Whenever the log takes more than `bytes_max` on disk, has a snapshot made and purges what it covers. Ends with
/// Raft.
pub async fn keep_log_short<C: Types>(raft: Raft<C>, log: Arc<Log>, bytes_max: u64) {
    let mut metrics = raft.metrics();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let applied = metrics.borrow_and_update().last_applied;
        let Some(applied) = applied.filter(|_| log.size_bytes() > bytes_max) else {
            if metrics.has_changed().is_err() {
                return;
            }
            continue;
        };
        let shortened = async {
            raft.trigger().snapshot().await?;
            let snapshot = loop {
                let reached = metrics.wait_for(|metrics| metrics.snapshot >= Some(applied));
                let reached = tokio::time::timeout(ASK_AGAIN_AFTER, reached).await;
                let reached = reached.map(|metrics| metrics.ok().and_then(|metrics| metrics.snapshot));
                match reached {
                    Ok(snapshot) => break snapshot,
                    // Raft takes no notice while it builds another, and there may have been no room for this one.
                    Err(_) => raft.trigger().snapshot().await?,
                }
            };
            match snapshot {
                Some(snapshot) => raft.trigger().purge_log(snapshot.index).await,
                None => Err(Fatal::Stopped),
            }
        };
        if shortened.await.is_err() {
            return;
        }
    }
}
