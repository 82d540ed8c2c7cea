//! Whose task directories lie on the node, and until when (`task-execution.md` §16, `files-and-storage.md` §6). Pure;
//! what it knows survives a restart of the worker through `memory`.

use lote_shared::model::{TaskKey, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Names a directory: job id and task id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    pub job_id: String,
    pub task_id: String,
}

/// What is remembered of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub task: TaskKey,
    /// When it may go; `None` = it stays with the node.
    pub expires: Option<Timestamp>,
}

#[derive(Debug, Default)]
pub struct Retention {
    kept: BTreeMap<Place, Kept>,
    expiring: BTreeSet<(Timestamp, Place)>,
}

impl Retention {
    /// The directory's task has ended here.
    pub fn keep(&mut self, place: Place, kept: Kept) {
        self.forget(&place);
        if let Some(expires) = kept.expires {
            self.expiring.insert((expires, place.clone()));
        }
        self.kept.insert(place, kept);
    }

    /// The directory is in use again, or gone.
    pub fn forget(&mut self, place: &Place) -> Option<Kept> {
        let kept = self.kept.remove(place)?;
        if let Some(expires) = kept.expires {
            self.expiring.remove(&(expires, place.clone()));
        }
        Some(kept)
    }

    /// Whether the directory may be removed for this task: nobody else's, as far as known.
    pub fn belongs_to(&self, place: &Place, task: TaskKey) -> bool {
        self.kept.get(place).is_none_or(|kept| kept.task == task)
    }

    /// Takes out at most `max` directories whose time is over.
    pub fn expired(&mut self, now: Timestamp, max: usize) -> Vec<Place> {
        let mut found = Vec::new();
        while found.len() < max {
            match self.expiring.first() {
                Some((expires, _)) if *expires <= now => {}
                _ => break,
            }
            let Some((_, place)) = self.expiring.pop_first() else { break };
            self.kept.remove(&place);
            found.push(place);
        }
        found
    }

    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.expiring.first().map(|(expires, _)| *expires)
    }
}
