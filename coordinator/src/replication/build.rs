//! Building a snapshot while entries go on being applied.
//!
//! ```text
//! lote-raft (a task)          lote-apply                                   a thread for blocking work
//! begin ────────────────────► freeze the rows at this position
//!                             … entries, each keeping aside what it changes …
//! next slice ───────────────► read a slice                       ┐
//!                             … entries …                        │ until the last one
//! write ──────────────────────────────────────────────────────► the file
//! finish ─────────────────────────────────────────────────────► sync, name, flush the store
//! end ──────────────────────► it is the current one
//! ```
//! An entry waits for one slice at most ([`SLICE`]), and no disk is waited for between entries. What is kept aside
//! takes memory until the cursor has passed it, so slices grow with it, up to [`SLICE_GROWTH`] times; where even that
//! is not enough, at [`KEPT_BYTES_MAX`], entries wait until a slice has made room. A build is not given up for that:
//! under a load that never ends it would never succeed, and the log would grow for ever.
//!
//! A snapshot that is installed meanwhile ends the build: what it froze is no longer this member's state. For want of
//! room it ends too, and what there is stays; it is begun anew after a pause, until there is room. openraft does not hear
//! of that: it would take an error for the end of this member, and the old snapshot for a reason to ask again at once.

use super::applied::Applied;
use super::applier::{Applier, Error, View};
use super::machine::Machine;
use super::snapshot::{self, SnapshotFile, Writer};
use super::state_machine::StateMachine;
use super::types::{Member, MemberId};
use crate::store::{self, Frozen, Row, SliceMax, Store};
use openraft::SnapshotMeta;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A slice while nothing is kept aside: a millisecond or two.
const SLICE: SliceMax = SliceMax { rows: 1_024, bytes: 256 * 1024 };
const SLICE_GROWTH: usize = 8;
/// Entries wait while more than so many bytes are kept aside. One batch more may be kept at that moment.
const KEPT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// After a build for which there was no room, doubled each time.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The applier's side of a build.
#[derive(Debug)]
pub struct Build {
    number: u64,
    frozen: Frozen,
}

/// What [`Applier::begin_build`] froze.
pub struct Begun {
    number: u64,
    position: Applied,
    store: Arc<dyn Store>,
    create: Box<dyn FnOnce() -> Result<Writer, snapshot::Error> + Send>,
}

/// What a slice brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Slice {
    Rows(Vec<Row>),
    Last,
    /// Another state has taken the place of the one that was frozen.
    Superseded,
}

impl Build {
    pub fn new(number: u64, store: Arc<dyn Store>) -> Build {
        Build { number, frozen: Frozen::new(store) }
    }

    pub fn number(&self) -> u64 {
        self.number
    }

    /// To be called before an entry's rows are written.
    pub fn before_write<'a>(
        &mut self,
        keys: impl Iterator<Item = &'a [u8]>,
        view: &View,
    ) -> Result<(), store::Error> {
        self.frozen.before_write(keys)?;
        view.set_pressed(self.frozen.kept_bytes() > KEPT_BYTES_MAX);
        Ok(())
    }

    fn next_slice(&mut self, view: &View) -> Result<Slice, store::Error> {
        let slice = self.frozen.next_slice(slice_max(self.frozen.kept_bytes()))?;
        view.set_pressed(self.frozen.kept_bytes() > KEPT_BYTES_MAX);
        Ok(slice.map_or(Slice::Last, Slice::Rows))
    }
}

/// The next slice, with so much kept aside.
fn slice_max(kept_bytes: usize) -> SliceMax {
    let grow =
        |base: usize| base + base * (SLICE_GROWTH - 1) * kept_bytes.min(KEPT_BYTES_MAX) / KEPT_BYTES_MAX;
    SliceMax { rows: grow(SLICE.rows), bytes: grow(SLICE.bytes) }
}

impl<M: Machine> Applier<M> {
    /// Freezes the rows as they are. `None`: the current snapshot is of this very position.
    pub fn begin_build(&mut self) -> Result<Option<Begun>, Error> {
        self.check_running()?;
        let position = self.applied().clone();
        if position.id.is_some()
            && self.snapshots().current().is_some_and(|(current, _)| *current == position)
        {
            return Ok(None);
        }
        let create = Box::new(self.snapshots().writer(&position));
        let (number, store) = self.start_build();
        Ok(Some(Begun { number, position, store, create }))
    }

    /// The next rows of the build with this number.
    pub fn next_slice(&mut self, number: u64) -> Result<Slice, Error> {
        let view = self.view();
        match self.build_mut().filter(|build| build.number == number) {
            Some(build) => Ok(build.next_slice(&view)?),
            None => Ok(Slice::Superseded),
        }
    }

    /// Nothing is kept aside any more. With a finished file it becomes the current snapshot, unless there is a newer
    /// one; the file that may go.
    pub fn end_build(&mut self, number: u64, built: Option<(Applied, PathBuf)>) -> Option<PathBuf> {
        self.drop_build(number);
        built.and_then(|(position, path)| self.snapshots_mut().keep(position, path))
    }
}

/// Entries do not wait for a build that is no more, however it ended.
struct Release(Arc<View>);

impl Drop for Release {
    fn drop(&mut self) {
        self.0.set_pressed(false);
    }
}

type Current = Option<(SnapshotMeta<MemberId, Member>, SnapshotFile)>;

/// Builds a snapshot of the state as it is now, or as it is once there is room; gives the newest there is then. Where
/// there is no clock to wait by, that is the old one for want of room.
pub async fn build<M: Machine>(machine: &StateMachine<M>) -> Result<Current, Error> {
    loop {
        match try_build(machine).await {
            Ok(()) => {
                machine.view().set_trouble(None);
                break;
            }
            Err(error) if is_passing(&error) => {
                let failures = machine.view().set_trouble(Some(error.to_string()));
                let pause = PAUSE_MIN.saturating_mul(1 << failures.saturating_sub(1).min(6)).min(PAUSE_MAX);
                let again_in_s = pause.as_secs();
                tracing::warn!(%error, again_in_s, "no snapshot is made; the old one and the log stay");
                if !machine.pause(pause).await {
                    break;
                }
            }
            Err(error) => return Err(error),
        }
    }
    machine.call(|applier| Ok(applier.current_snapshot())).await
}

/// Whether it may go better later, and nothing is wrong with what there is.
fn is_passing(error: &Error) -> bool {
    // The store says so in words only if it is for want of room; damage is another kind.
    matches!(error, Error::Snapshot(snapshot::Error::NoRoom { .. }) | Error::Unflushed(_))
}

async fn try_build<M: Machine>(machine: &StateMachine<M>) -> Result<(), Error> {
    let Some(begun) = machine.call(Applier::begin_build).await? else { return Ok(()) };
    let Begun { number, position, store, create } = begun;
    let release = Release(machine.view());
    let written = write_slices(machine, number, store, create).await;
    let path = match written {
        Ok(path) => path,
        Err(error) => {
            let _ = machine.call(move |applier| Ok(applier.end_build(number, None))).await;
            return Err(error);
        }
    };
    drop(release);
    let built = path.map(|path| (position, path));
    let old = machine.call(move |applier| Ok(applier.end_build(number, built))).await?;
    if let Some(old) = old {
        // Only space is lost if this fails; the next start removes it.
        let _ = machine.blocking(move || std::fs::remove_file(old)).await?;
    }
    Ok(())
}

/// The path of the finished file; `None` if the build was superseded.
async fn write_slices<M: Machine>(
    machine: &StateMachine<M>,
    number: u64,
    store: Arc<dyn Store>,
    create: Box<dyn FnOnce() -> Result<Writer, snapshot::Error> + Send>,
) -> Result<Option<PathBuf>, Error> {
    let mut writer = machine.blocking(create).await??;
    loop {
        let rows = match machine.call(move |applier| applier.next_slice(number)).await? {
            Slice::Rows(rows) => rows,
            Slice::Last => break,
            Slice::Superseded => {
                machine.blocking(move || drop(writer)).await?;
                return Ok(None);
            }
        };
        let write = move || writer.write(&rows).map(|()| writer);
        writer = machine.blocking(write).await??;
    }
    let finish = move || -> Result<PathBuf, Error> {
        // The log may be purged next, so the store must have what it loses.
        store.flush().map_err(|error| match error {
            store::Error::Io(why) => Error::Unflushed(why),
            damaged => damaged.into(),
        })?;
        Ok(writer.finish()?)
    };
    machine.blocking(finish).await?.map(Some)
}

#[cfg(test)]
mod tests;
