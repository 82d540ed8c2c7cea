//! Founding a cluster of one on a state from elsewhere: what `lote recover` salvaged, or what `lote restore` brings.
//!
//! ```text
//! recovering.new/raft/   being written           recovering/raft/   whole, about to be put in place
//! replaced/              what was there before; the latest only
//! ```
//! The new folder has a snapshot at the position of the state, a log that begins after it, and a member number of its
//! own. The membership in the snapshot is that member alone, so it never looks for the old ones. A crash in between
//! leaves either the old folder or a `recovering` that [`finish`] puts in place; the start refuses the latter.

use super::Error;
use super::applied::Applied;
use super::folder::{self, io_error, write_small};
use super::log::disk::{create_folder, sync_folder};
use super::log::{self, FolderDisk, Log, Vote};
use super::snapshot::Snapshots;
use super::types::{Member, MemberId, MembershipRow};
use crate::store::Store;
use openraft::Membership;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

const DRAFT: &str = "recovering.new";
const READY: &str = "recovering";
const REPLACED: &str = "replaced";

/// Whether a founding was interrupted before its last step.
pub(super) fn is_unfinished(root: &Path) -> bool {
    root.join(READY).exists()
}

/// Members that a position speaks of.
pub(super) fn members(applied: &Applied) -> BTreeSet<MemberId> {
    let membership: Membership<MemberId, Member> = applied.membership.clone().into();
    membership.nodes().map(|(id, _)| *id).collect()
}

/// The position with this member as the whole cluster.
fn alone(applied: &Applied, member: MemberId) -> Applied {
    let nodes = BTreeMap::from([(member, Member::default())]);
    let membership = Membership::new(vec![BTreeSet::from([member])], nodes);
    Applied { membership_id: applied.id, membership: MembershipRow::from(&membership), ..applied.clone() }
}

/// Makes the folder's next life: `store` holds the rows of the state as of `applied` and gets the new position.
/// `term`: the greatest one that anybody may have seen.
pub(super) fn found(
    root: &Path,
    member: MemberId,
    term: u64,
    applied: &Applied,
    store: &dyn Store,
) -> Result<(), Error> {
    let draft = root.join(DRAFT);
    remove(&draft)?;
    let raft = draft.join("raft");
    create_folder(&raft).map_err(io_error(&raft))?;
    let log_folder = raft.join("log");
    let open_log = |may_create| -> Result<Log, Error> {
        let disk = FolderDisk::open(&log_folder).map_err(io_error(&log_folder))?;
        Ok(Log::open(Arc::new(disk), &log::Options { inline: true, may_create, ..log::Options::default() })?)
    };
    let log = open_log(true)?;
    if let Some(id) = applied.id {
        let position = alone(applied, member);
        let row = position.encode().map_err(|error| Error::Raft(error.to_string()))?;
        store.write(&[(Applied::key(), Some(row))])?;
        Snapshots::open(&raft.join("snapshots"))?.build(&position, store)?;
        log.save_vote(Vote { term: term.max(id.term), node: member, committed: false }, Box::new(drop))?;
        log.purge(id, Box::new(drop))?;
    }
    log.close();
    // What a start would find counts, not what was meant to be written.
    let written = open_log(false)?.state();
    if written.purged != applied.id
        || written.last != applied.id
        || written.vote.is_some() != applied.id.is_some()
    {
        return Err(Error::Raft(format!("the new log does not say what was written to it: {written:?}")));
    }
    folder::write_member(&raft.join("member"), member)?;
    sync_folder(&raft).map_err(io_error(&raft))?;
    sync_folder(&draft).map_err(io_error(&draft))?;
    let ready = root.join(READY);
    fs::rename(&draft, &ready).map_err(io_error(&ready))?;
    sync_folder(root).map_err(io_error(root))?;
    finish(root)
}

/// Puts what is ready in place. The old state goes first: beside the new log it would bring the old members back.
pub(super) fn finish(root: &Path) -> Result<(), Error> {
    let ready = root.join(READY);
    let replaced = root.join(REPLACED);
    if ready.join("raft").exists() {
        if root.join("state").exists() || root.join("raft").exists() {
            if root.join("raft").exists() && root.join("state").exists() {
                remove(&replaced)?;
            }
            create_folder(&replaced).map_err(io_error(&replaced))?;
        }
        for name in ["state", "raft"] {
            let (from, to) = (root.join(name), replaced.join(name));
            if from.exists() {
                remove(&to)?;
                fs::rename(&from, &to).map_err(io_error(&from))?;
                sync_folder(root).map_err(io_error(root))?;
            }
        }
        fs::rename(ready.join("raft"), root.join("raft")).map_err(io_error(&ready))?;
    }
    write_small(&root.join("format-version"), &format!("{}\n", folder::FORMAT_VERSION))?;
    remove(&ready)?;
    sync_folder(root).map_err(io_error(root))
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error(path)(error)),
        _ => Ok(()),
    }
}
