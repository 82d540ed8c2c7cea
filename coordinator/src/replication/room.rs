//! Room on the disk: a member whose disk is nearly full steps back before a write fails, and goes on by itself.
//!
//! [`next`] decides and is pure, [`watch_disk`] looks. While there is too little, the driver turns proposals away as
//! busy, entries of a leader are refused, this member asks for no votes, and if it leads others it falls silent, so
//! that they elect one of them. The **ballast**, a file of nothing, is given up then: what must be written all the same
//! (a vote, the end of what was under way, the store) finds its bytes there, even if somebody else has filled the disk
//! to the last one.

use super::skew::watch::Clocks;
use super::types::Types;
use openraft::Raft;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

const MIB: u64 = 1024 * 1024;
/// Less than this is too little, or than this part of a small disk.
const RESERVE_BYTES: u64 = 64 * MIB;
const RESERVE_PART: u64 = 16;
const BALLAST_BYTES: u64 = 8 * MIB;
const LOOK_EVERY: Duration = Duration::from_millis(50);
const BALLAST: &str = "ballast";

/// What a disk of some size is measured by, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limits {
    /// With less there is no room.
    low: u64,
    /// With so much there is room again, also when the ballast has been laid down.
    enough: u64,
    ballast: u64,
}

impl Limits {
    fn of(total: u64) -> Limits {
        let low = RESERVE_BYTES.min(total / RESERVE_PART);
        let ballast = BALLAST_BYTES.min(low / 2);
        Limits { low, enough: low * 2, ballast }
    }
}

/// Whether there is room now that so much is free.
fn next(had_room: bool, free: u64, limits: Limits) -> bool {
    free >= if had_room { limits.low } else { limits.enough }
}

/// The file that gives way. It goes with this value, too.
#[derive(Debug)]
struct Ballast {
    path: PathBuf,
}

impl Ballast {
    fn lay(&self, bytes: u64) -> io::Result<()> {
        let file = File::create(&self.path)?;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)?;
        Ok(())
    }

    fn give_up(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// Where the ballast of a member's folder lies.
pub fn ballast(folder: &Path) -> PathBuf {
    folder.join(BALLAST)
}

/// Gives up what a process that was killed left lying: on a full disk a start needs the bytes.
pub fn make_way(folder: &Path) {
    Ballast { path: ballast(folder) }.give_up();
}

/// Free bytes and size of the disk below a folder.
fn measure(folder: &Path) -> io::Result<(u64, u64)> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok((disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize)))
}

/// What asks before an entry is written.
#[derive(Debug, Clone)]
pub struct Gate {
    folder: PathBuf,
    has_room: watch::Receiver<bool>,
    clocks: watch::Receiver<Clocks>,
}

impl Gate {
    /// With the sender for [`watch_disk`].
    pub fn new(folder: &Path, clocks: watch::Receiver<Clocks>) -> (watch::Sender<bool>, Gate) {
        let (sender, has_room) = watch::channel(true);
        (sender, Gate { folder: folder.to_owned(), has_room, clocks })
    }

    /// Whether this member should not lead: the last look at the disk found too little, or its clock is off.
    pub fn steps_back(&self) -> bool {
        !*self.has_room.borrow() || !self.clocks.borrow().duty.leads
    }

    /// Whether an entry may be written now. Looks at the disk as well: it may have been filled since the last look.
    pub fn is_open(&self) -> bool {
        let is_low = |(free, total)| !next(true, free, Limits::of(total));
        *self.has_room.borrow() && !measure(&self.folder).is_ok_and(is_low)
    }
}

/// Who writes much at once, a snapshot say, asks here: it must not be what makes this member step back.
#[derive(Clone)]
pub struct Room(Arc<dyn Fn(u64) -> bool + Send + Sync>);

impl Room {
    /// On the disk below a folder.
    pub fn below(folder: &Path) -> Room {
        let folder = folder.to_owned();
        // A disk that cannot be measured is not called full.
        Room(Arc::new(move |bytes| {
            measure(&folder).map_or(true, |(free, total)| free >= Limits::of(total).low.saturating_add(bytes))
        }))
    }

    /// Where nobody has to step back.
    pub fn boundless() -> Room {
        Room(Arc::new(|_| true))
    }

    #[cfg(test)]
    pub fn scripted(has: impl Fn(u64) -> bool + Send + Sync + 'static) -> Room {
        Room(Arc::new(has))
    }

    /// Whether so many more bytes may be written.
    pub fn has(&self, bytes: u64) -> bool {
        (self.0)(bytes)
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Room")
    }
}

/// Tells whether there is room and has Raft behave accordingly, until Raft ends.
/// What the clocks forbid ([`super::skew`]) is forbidden here as well: one place speaks to Raft.
pub async fn watch_disk<C: Types>(
    raft: Raft<C>,
    folder: PathBuf,
    has_room: watch::Sender<bool>,
    clocks: watch::Receiver<Clocks>,
) {
    let ballast = Ballast { path: ballast(&folder) };
    let mut is_laid = false;
    let metrics = raft.metrics();
    while metrics.has_changed().is_ok() {
        // A disk that cannot be measured is not called full.
        if let Ok((free, total)) = measure(&folder) {
            let limits = Limits::of(total);
            let had_room = *has_room.borrow();
            let room = next(had_room, free, limits);
            if room != had_room {
                tell(room, free, &folder);
                has_room.send_replace(room);
            }
            if room && !is_laid && free >= limits.enough {
                is_laid = ballast.lay(limits.ballast).is_ok();
            } else if !room && is_laid {
                ballast.give_up();
                is_laid = false;
            }
        }
        let membership = metrics.borrow().membership_config.clone();
        let is_alone = membership.membership().voter_ids().count() < 2;
        let (room, duty) = (*has_room.borrow(), clocks.borrow().duty);
        raft.runtime_config().elect(is_alone || (room && duty.stands));
        raft.runtime_config().heartbeat(is_alone || (room && duty.leads));
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn tell(room: bool, free: u64, folder: &Path) {
    let folder = folder.display();
    if room {
        tracing::warn!(free, %folder, "there is room on the disk again; this member goes on");
    } else {
        tracing::error!(free, %folder, "the disk is full; this member steps back until there is room");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_full_before_its_last_byte_and_has_room_only_with_some_to_spare() {
        for (total, low) in [(64 * MIB, 4 * MIB), (1024 * MIB, 64 * MIB), (u64::MAX, 64 * MIB)] {
            let limits = Limits::of(total);
            assert_eq!(limits.low, low);
            assert!(limits.enough - limits.ballast > limits.low, "laying the ballast fills no disk");
            assert!(limits.ballast > 0 && limits.ballast < limits.low);
            for (had_room, free, expected) in [
                (true, low, true),
                (true, low - 1, false),
                (false, limits.ballast, false),
                (false, limits.enough - 1, false),
                (false, limits.enough, true),
            ] {
                assert_eq!(next(had_room, free, limits), expected, "{free} of {total} with {had_room}");
            }
        }
    }

    #[test]
    fn the_ballast_takes_its_bytes_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(BALLAST);
        let ballast = Ballast { path: path.clone() };
        ballast.lay(100_000).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 100_000);
        drop(ballast);
        assert!(!path.exists());
        File::create(&path).unwrap();
        make_way(folder.path());
        assert!(!path.exists());
    }
}
