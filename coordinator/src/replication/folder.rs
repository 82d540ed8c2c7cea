//! The data folder of a coordinator.
//!
//! ```text
//! lock             held while a process uses the folder
//! format-version   the cluster version of what is below; a build that does not know it touches nothing
//! raft/member      this member's number and a checksum; written once its log exists
//! raft/log/        segments            raft/snapshots/   the newest snapshot
//! state/current    name of the folder that holds the state: state/0000000000000001/ …
//! ```
//! The log and the vote are the truth. A state folder that cannot be trusted, or is behind what the log still has,
//! is moved aside and rebuilt from snapshot and log.

use super::Error;
use super::applied::Applied;
use super::applier::{self, Home};
use super::found;
use super::log::disk::{create_folder, sync_folder};
use super::log::{self, EntryId};
use super::snapshot::{self, Snapshots};
use super::types::MemberId;
use crate::state::version::{self, ClusterVersion};
use crate::store::{self, SledStore, Store};
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a new folder says; [`note_version`] raises it.
pub const FORMAT_VERSION: u32 = ClusterVersion::V1.0;
const POINTER: &str = "current";

/// An opened folder; it is locked until this is dropped.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    /// The lock goes with the file.
    _lock: File,
}

pub(super) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}

impl Folder {
    /// Creates the folder if it is missing, locks it, and checks its version.
    pub fn open(root: &Path) -> Result<Folder, Error> {
        create_folder(root).map_err(io_error(root))?;
        let folder = Folder::lock(root)?;
        folder.check_version()?;
        if found::is_unfinished(root) {
            return Err(Error::Unfinished { path: root.to_owned() });
        }
        Ok(folder)
    }

    /// As [`Folder::open`] for a folder that may be damaged: an unreadable version is taken for this one. Also what
    /// was wrong.
    pub(super) fn open_damaged(root: &Path) -> Result<(Folder, Vec<String>), Error> {
        let folder = Folder::lock(root)?;
        match folder.check_version() {
            Ok(()) => Ok((folder, Vec::new())),
            Err(error @ Error::Unversioned { .. }) => Ok((folder, vec![error.to_string()])),
            Err(error) => Err(error),
        }
    }

    /// A folder that holds no coordinator yet.
    pub(super) fn open_new(root: &Path) -> Result<Folder, Error> {
        if root.join("raft").exists() || root.join("state").exists() || root.join("format-version").exists() {
            return Err(Error::Exists { path: root.to_owned() });
        }
        Folder::open(root)
    }

    fn lock(root: &Path) -> Result<Folder, Error> {
        let lock_path = root.join("lock");
        let lock = File::create(&lock_path).map_err(io_error(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Folder { root: root.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Error::Locked { path: root.to_owned() }),
            Err(TryLockError::Error(source)) => Err(Error::Io { path: lock_path, source }),
        }
    }

    fn check_version(&self) -> Result<(), Error> {
        let path = self.root.join("format-version");
        let Some(text) = read_small(&path)? else {
            if self.root.join("raft").exists() || self.root.join("state").exists() {
                return Err(Error::Unversioned { path: self.root.clone() });
            }
            return write_small(&path, &format!("{FORMAT_VERSION}\n"));
        };
        match text.trim().parse::<u32>() {
            Ok(0) | Err(_) => Err(Error::Unversioned { path: self.root.clone() }),
            // It may lag behind the state, which is what counts: only too new a number says something.
            Ok(found) if found <= version::NEWEST.0 => Ok(()),
            Ok(found) => {
                let refused = version::SUPPORTED.check(version::SOFTWARE, ClusterVersion(found));
                refused.map_err(|why| Error::NewerFormat { path: self.root.clone(), why })
            }
        }
    }

    /// This member's number, if it has run before. A number that cannot be believed is an error: under another one it
    /// could vote twice.
    pub fn member(&self) -> Result<Option<MemberId>, Error> {
        let path = self.root.join("raft/member");
        let Some(text) = read_small(&path)? else {
            // The state is made after the number was written, so it must have been there.
            if self.root.join("state").join(POINTER).exists() {
                return Err(Error::MemberUnknown { path });
            }
            return Ok(None);
        };
        match text.strip_suffix('\n').map(|line| line.split_once(' ')) {
            Some(Some((number, crc))) if crc == crc_of(number) => {
                number.parse().map(Some).map_err(|_| Error::MemberUnknown { path })
            }
            // As the first builds wrote it.
            Some(None) => {
                let line = text.trim_end_matches('\n');
                let member = line.parse().map_err(|_| Error::MemberUnknown { path })?;
                self.set_member(member)?;
                Ok(Some(member))
            }
            _ => Err(Error::MemberUnknown { path }),
        }
    }

    /// From now on the log is expected to be there.
    pub fn set_member(&self, member: MemberId) -> Result<(), Error> {
        write_member(&self.root.join("raft/member"), member)
    }

    pub fn log_disk(&self) -> Result<log::FolderDisk, Error> {
        let path = self.root.join("raft/log");
        let disk = log::FolderDisk::open(&path).map_err(io_error(&path))?;
        Ok(disk.with_ballast(super::room::ballast(&self.root)))
    }

    pub fn snapshots(&self) -> Result<Snapshots, Error> {
        Ok(Snapshots::open(&self.root.join("raft/snapshots"))?)
    }

    pub fn states(&self, cache_bytes: u64) -> Result<StateFolders, Error> {
        StateFolders::open(&self.root.join("state"), cache_bytes)
    }
}

/// The folders of states, of which one is current.
#[derive(Debug)]
pub struct StateFolders {
    folder: PathBuf,
    cache_bytes: u64,
    current: Option<String>,
    /// Made by [`Home::fresh`], not yet adopted.
    fresh: Option<String>,
    next: u64,
}

impl StateFolders {
    /// Finds the current one and removes leftovers, except damaged ones, which somebody may want to look at.
    fn open(folder: &Path, cache_bytes: u64) -> Result<StateFolders, Error> {
        create_folder(folder).map_err(io_error(folder))?;
        // A name that is none of ours would lead elsewhere; without one the state is built anew.
        let is_ours = |name: &String| name.len() == 16 && u64::from_str_radix(name, 16).is_ok();
        let current = read_small(&folder.join(POINTER))?.map(|text| text.trim().to_owned()).filter(is_ours);
        let mut next = 1;
        for entry in fs::read_dir(folder).map_err(io_error(folder))? {
            let path = entry.map_err(io_error(folder))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if let Ok(number) = u64::from_str_radix(name, 16) {
                next = next.max(number + 1);
                if current.as_deref() != Some(name) {
                    fs::remove_dir_all(&path).map_err(io_error(&path))?;
                }
            }
        }
        Ok(StateFolders { folder: folder.to_owned(), cache_bytes, current, fresh: None, next })
    }

    /// The store of the state: the current one, or one rebuilt from the snapshot if that is damaged or ends before
    /// `purged`, from where on the log can bring it forward. `usable` judges what was opened.
    pub fn open_state(
        &mut self,
        purged: Option<EntryId>,
        snapshots: &Snapshots,
        usable: impl Fn(Arc<dyn Store>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if let Some(name) = self.current.clone() {
            let why = match self.try_current(&name, purged).map(&usable) {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => {
                    self.refuse_unsupported(&error)?;
                    error.to_string()
                }
                Err(why) => why,
            };
            tracing::warn!(state = name, why, "the state is rebuilt from snapshot and log");
            self.set_aside(&name)?;
        }
        let store = self.fresh()?;
        let position = match snapshots.current() {
            Some((_, file)) => {
                let position = snapshot::load(&file, &*store)?;
                applier::check_position(&*store, &position)?;
                position
            }
            None => Applied::default(),
        };
        if position.index() < purged.map(|id| id.index) {
            return Err(Error::StateLost {
                snapshot: position.index(),
                purged: purged.map_or(0, |id| id.index),
            });
        }
        if let Err(error) = usable(store) {
            self.refuse_unsupported(&error)?;
            return Err(error);
        }
        self.adopt()?;
        Ok(())
    }

    /// A state that another build can use is left alone.
    fn refuse_unsupported(&self, error: &Error) -> Result<(), Error> {
        match error.unsupported() {
            Some(why) => Err(Error::NewerFormat { path: self.folder.clone(), why: why.clone() }),
            None => Ok(()),
        }
    }

    fn try_current(&self, name: &str, purged: Option<EntryId>) -> Result<Arc<dyn Store>, String> {
        let store = SledStore::open(&self.folder.join(name), self.cache_bytes).map_err(|e| e.to_string())?;
        let applied = applier::read_applied(&store).map_err(|error| error.to_string())?;
        if applied.index() < purged.map(|id| id.index) {
            return Err(format!("it ends at {:?}, the log begins after {purged:?}", applied.id));
        }
        Ok(Arc::new(store))
    }

    fn set_aside(&mut self, name: &str) -> Result<(), Error> {
        let from = self.folder.join(name);
        if !from.exists() {
            return Ok(());
        }
        let aside = self.folder.join("damaged");
        // One is kept: the latest.
        if aside.exists() {
            fs::remove_dir_all(&aside).map_err(io_error(&aside))?;
        }
        fs::rename(&from, &aside).map_err(io_error(&from))
    }
}

impl Home for StateFolders {
    fn fresh(&mut self) -> Result<Arc<dyn Store>, applier::Error> {
        let name = format!("{:016x}", self.next);
        self.next += 1;
        let path = self.folder.join(&name);
        if path.exists() {
            fs::remove_dir_all(&path).map_err(|error| applier::Error::Home(error.to_string()))?;
        }
        let store = SledStore::open(&path, self.cache_bytes)?;
        self.fresh = Some(name);
        Ok(Arc::new(store))
    }

    fn adopt(&mut self) -> Result<(), applier::Error> {
        let Some(name) = self.fresh.take() else {
            return Err(applier::Error::Home("no fresh state was made".to_owned()));
        };
        write_small(&self.folder.join(POINTER), &format!("{name}\n"))
            .map_err(|error| applier::Error::Home(error.to_string()))?;
        // The old folder may still be open here; it goes at the next start.
        self.current = Some(name);
        Ok(())
    }

    fn discard(&mut self) {
        if let Some(name) = self.fresh.take() {
            // What sled's own threads still write there goes at the next start.
            let _ = fs::remove_dir_all(self.folder.join(name));
        }
    }
}

/// Writes down that what is in the folder has come to this version, so that a build that does not support it says so
/// before it reads anything; also one of before there were versions, which takes it for the folder's format.
pub fn note_version(root: &Path, version: ClusterVersion) -> Result<(), Error> {
    let path = root.join("format-version");
    let noted = read_small(&path)?.and_then(|text| text.trim().parse::<u32>().ok());
    if noted.is_none_or(|noted| noted < version.0) {
        write_small(&path, &format!("{version}\n"))?;
    }
    Ok(())
}

/// `number checksum`: a flipped bit must not make it another member's.
pub(super) fn write_member(path: &Path, member: MemberId) -> Result<(), Error> {
    let number = member.to_string();
    write_small(path, &format!("{number} {}\n", crc_of(&number)))
}

fn crc_of(number: &str) -> String {
    format!("{:08x}", crc32c::crc32c(number.as_bytes()))
}

/// The text of a small file, if it exists.
fn read_small(path: &Path) -> Result<Option<String>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes[..bytes.len().min(256)]).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { path: path.to_owned(), source }),
    }
}

/// Replaces a small file: the old or the new text is there, whatever happens.
pub(super) fn write_small(path: &Path, text: &str) -> Result<(), Error> {
    let temporary = path.with_extension("new");
    let parent = path.parent().unwrap_or(Path::new("."));
    File::create(&temporary)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| sync_folder(parent))
        .map_err(io_error(path))
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Error {
        Error::Apply(error.into())
    }
}
