//! One pass of verification: every chunk on this disk is read.

use super::Upkeep;
use lote_shared::chunks::{ChunkId, Error};
use std::time::Duration;

/// Pause after each chunk when nobody waits for the pass: at most 10 MiB/s.
const PAUSE: Duration = Duration::from_millis(100);

/// `asked`: an operator waits for it.
pub(super) async fn pass(upkeep: &Upkeep, asked: bool) -> Result<(), String> {
    let upkeep = upkeep.clone();
    let work = move || verify(&upkeep, if asked { Duration::ZERO } else { PAUSE });
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()))
}

fn verify(upkeep: &Upkeep, pause: Duration) -> Result<(), String> {
    let store = upkeep.inner.api.chunks.local();
    let total = {
        let mut status = upkeep.inner.status.lock();
        status.verification.total = status.chunks;
        status.chunks
    };
    let mut done = 0;
    for byte in 0..=255_u8 {
        let mut ids: Vec<ChunkId> = Vec::new();
        store.list(byte, |chunk| ids.push(chunk.id)).map_err(|error| error.to_string())?;
        for id in ids {
            if upkeep.is_stopping() {
                return Err("the coordinator stops".to_owned());
            }
            match store.read(id) {
                // What is collected meanwhile is not missing.
                Ok(_) | Err(Error::Missing(_)) => {}
                Err(Error::Damaged { .. }) => upkeep.inner.status.lock().damaged = store.damaged_count(),
                Err(error) => return Err(error.to_string()),
            }
            done += 1;
            let mut status = upkeep.inner.status.lock();
            (status.verification.done, status.verification.total) = (done, total.max(done));
            drop(status);
            std::thread::sleep(pause);
        }
    }
    Ok(())
}
