//! Serves the files of this host's nodes to the coordinator (`shared::protocol::files`).
//!
//! Every path is opened relative to the node's root with `openat2` and `RESOLVE_BENEATH`, so neither `..` nor a
//! symbolic link, nor one that a task swaps in meanwhile, leads outside. Files are read as they grow: the length is
//! taken once, after opening. Nothing is kept in memory but one block.

use crate::layout::inside;
use lote_shared::model::{NodeKey, Timestamp};
use lote_shared::network::Stream;
use lote_shared::protocol::files::{Entry, Error, Operation, Properties, Request, Response};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use tokio::io::AsyncWriteExt;

const BLOCK_BYTES: usize = 256 * 1024;
/// Most entries of one answer, whatever was asked for.
const ENTRIES_MAX: u32 = 1_000;
/// Entries looked at for one listing, and directories below each other.
const WALK_MAX: usize = 1_000_000;
const DEPTH_MAX: usize = 256;

/// Answers one request on its own stream. `root_of` finds a node's root; `None` = not on this host.
pub async fn serve(mut stream: Stream, root_of: impl Fn(NodeKey) -> Option<PathBuf>) {
    let Ok(Some(request)) = stream.receive::<Request>().await else { return };
    let root = root_of(request.node);
    let answered = tokio::task::spawn_blocking(move || {
        let root = root.ok_or(Error::NodeUnavailable)?;
        Root::open(&root)?.answer(request.operation)
    });
    let answer = answered.await.unwrap_or_else(|_| Err(Error::Io("the file service failed".to_owned())));
    let outcome = match answer {
        Ok(Answer::Whole(response)) => stream.send(&response).await.map_err(std::io::Error::other),
        Ok(Answer::Content { properties, start, length, file }) => {
            send_content(&mut stream, properties, start, length, file).await
        }
        Err(error) => stream.send(&Response::Error(error)).await.map_err(std::io::Error::other),
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a file stream broke");
    }
    stream.close().await;
}

async fn send_content(
    stream: &mut Stream,
    properties: Properties,
    start: u64,
    length: u64,
    file: File,
) -> std::io::Result<()> {
    stream.send(&Response::Content { properties, start, length }).await.map_err(std::io::Error::other)?;
    let mut left = length;
    let mut file = Some(file);
    let mut block = vec![0; BLOCK_BYTES];
    while left > 0 {
        let Some(mut current) = file.take() else { break };
        let want = usize::try_from(left).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
        let (back, filled, read) = tokio::task::spawn_blocking(move || {
            let read = current.read(&mut block[..want]);
            (current, block, read)
        })
        .await
        .map_err(std::io::Error::other)?;
        (file, block) = (Some(back), filled);
        let read = read?;
        if read == 0 {
            break; // It was cut meanwhile; the receiver sees the missing bytes.
        }
        stream.write_all(&block[..read]).await?;
        left -= read as u64;
    }
    stream.flush().await
}

enum Answer {
    Whole(Response),
    Content { properties: Properties, start: u64, length: u64, file: File },
}

/// An opened node root.
struct Root(OwnedFd);

impl Root {
    fn open(path: &Path) -> Result<Root, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).map(Root).map_err(|_| Error::NodeUnavailable)
    }

    fn answer(&self, operation: Operation) -> Result<Answer, Error> {
        match operation {
            Operation::Stat { path } => self.stat(&path).map(|found| Answer::Whole(Response::Properties(found))),
            Operation::Read { path, start, end } => self.read(&path, start, end),
            Operation::List { path, prefix, recursive, after, max } => {
                let listing = Listing { prefix, recursive, after, max: max.clamp(1, ENTRIES_MAX) };
                self.list(&path, listing).map(Answer::Whole)
            }
            Operation::Delete { path, recursive } => {
                self.delete(&path, recursive).map(|()| Answer::Whole(Response::Deleted))
            }
        }
    }

    /// Opens below the root; links that lead out of it are as good as absent.
    fn beneath(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Error> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve).map_err(refused)
    }

    fn stat(&self, path: &str) -> Result<Properties, Error> {
        let found = self.beneath(&clean(path)?, OFlags::PATH)?;
        Ok(properties(&rustix::fs::fstat(found).map_err(refused)?))
    }

    fn read(&self, path: &str, start: u64, end: Option<u64>) -> Result<Answer, Error> {
        // A named pipe without a writer would block for ever.
        let file = self.beneath(&clean(path)?, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let stat = rustix::fs::fstat(&file).map_err(refused)?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(Error::NotFound);
        }
        let properties = properties(&stat);
        let whole = properties.length;
        let end = end.unwrap_or(whole).min(whole);
        if start > 0 && start >= whole || end < start {
            return Err(Error::InvalidRange { length: whole });
        }
        let mut file = File::from(file);
        file.seek(SeekFrom::Start(start)).map_err(|error| Error::Io(error.to_string()))?;
        Ok(Answer::Content { properties, start, length: end - start, file })
    }

    fn list(&self, path: &str, listing: Listing) -> Result<Response, Error> {
        let directory = self.beneath(&clean(path)?, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut walk = Walk { listing: &listing, seen: 0, found: Vec::new() };
        walk.directory(directory, "", 0)?;
        let mut entries = walk.found;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let max = listing.max as usize;
        let more = entries.len() > max;
        entries.truncate(max);
        Ok(Response::Entries { entries, more })
    }

    fn delete(&self, path: &str, recursive: bool) -> Result<(), Error> {
        let path = clean(path)?;
        let name = path.file_name().ok_or(Error::OutsideRoot)?.to_owned();
        let parent = self.beneath(path.parent().unwrap_or(Path::new("")), OFlags::RDONLY | OFlags::DIRECTORY)?;
        match rustix::fs::unlinkat(&parent, &name, AtFlags::empty()) {
            Ok(()) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(refused(error)),
        }
        if recursive {
            remove_below(parent.as_fd(), Path::new(&name), 0)?;
        }
        rustix::fs::unlinkat(&parent, &name, AtFlags::REMOVEDIR).map_err(refused)
    }
}

/// Removes everything in a directory, never following a link.
fn remove_below(parent: std::os::fd::BorrowedFd<'_>, name: &Path, depth: usize) -> Result<(), Error> {
    if depth > DEPTH_MAX {
        return Err(Error::Io(format!("more than {DEPTH_MAX} directories below each other")));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(refused)?;
    for entry in Dir::read_from(&directory).map_err(refused)? {
        let entry = entry.map_err(refused)?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match rustix::fs::unlinkat(&directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => {
                let path = PathBuf::from(std::ffi::OsString::from(name.to_string_lossy().into_owned()));
                remove_below(directory.as_fd(), &path, depth + 1)?;
                rustix::fs::unlinkat(&directory, name, AtFlags::REMOVEDIR).map_err(refused)?;
            }
            Err(error) => return Err(refused(error)),
        }
    }
    Ok(())
}

struct Listing {
    prefix: String,
    recursive: bool,
    after: Option<String>,
    max: u32,
}

struct Walk<'a> {
    listing: &'a Listing,
    seen: usize,
    found: Vec<Entry>,
}

impl Walk<'_> {
    /// Gathers what the listing wants below `directory`, whose entries' names begin with `base`.
    fn directory(&mut self, directory: OwnedFd, base: &str, depth: usize) -> Result<(), Error> {
        for entry in Dir::read_from(&directory).map_err(refused)? {
            let entry = entry.map_err(refused)?;
            // Names that are not UTF-8 cannot be asked for through the API, so they are not listed.
            let Ok(name) = entry.file_name().to_str() else { continue };
            if matches!(name, "." | "..") {
                continue;
            }
            self.seen += 1;
            if self.seen > WALK_MAX {
                return Err(Error::Io(format!("more than {WALK_MAX} files to list")));
            }
            // Not followed: a link is shown as what it is, and never leads the walk outside.
            let Ok(stat) = rustix::fs::statat(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else {
                continue; // Removed meanwhile.
            };
            let path = format!("{base}{name}");
            let properties = properties(&stat);
            let below = format!("{path}/");
            if properties.directory && self.listing.recursive && depth < DEPTH_MAX && self.may_hold(&below) {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                if let Ok(child) = rustix::fs::openat(&directory, entry.file_name(), flags, Mode::empty()) {
                    self.directory(child, &below, depth + 1)?;
                }
            }
            self.take(Entry { name: path, properties });
        }
        Ok(())
    }

    /// Whether names that begin with `below` can be wanted.
    fn may_hold(&self, below: &str) -> bool {
        let prefix = &self.listing.prefix;
        prefix.starts_with(below) || below.starts_with(prefix.as_str())
    }

    /// Keeps an entry if it is wanted; only the first `max + 1` in order can be, so the rest is dropped early.
    fn take(&mut self, entry: Entry) {
        let past = self.listing.after.as_ref().is_none_or(|after| entry.name > *after);
        if !past || !entry.name.starts_with(&self.listing.prefix) {
            return;
        }
        self.found.push(entry);
        let wanted = self.listing.max as usize + 1;
        if self.found.len() >= 2 * wanted {
            self.found.sort_by(|a, b| a.name.cmp(&b.name));
            self.found.truncate(wanted);
        }
    }
}

fn clean(path: &str) -> Result<PathBuf, Error> {
    inside(&path.replace('\\', "/")).ok_or(Error::OutsideRoot)
}

fn properties(stat: &Stat) -> Properties {
    let file_type = FileType::from_raw_mode(stat.st_mode);
    let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
    let ms = u64::try_from(stat.st_mtime_nsec).unwrap_or(0) / 1_000_000;
    Properties {
        directory: file_type.is_dir(),
        length: if file_type.is_file() { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 },
        modified: Timestamp(seconds.saturating_mul(1000).saturating_add(ms)),
        mode: stat.st_mode,
    }
}

fn refused(error: Errno) -> Error {
    match error {
        // A link that leads outside is a file that does not exist.
        Errno::NOENT | Errno::NOTDIR | Errno::XDEV | Errno::LOOP | Errno::NXIO => Error::NotFound,
        Errno::NOTEMPTY | Errno::EXIST => Error::NotEmpty,
        other => Error::Io(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn tree() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("wd/deep")).unwrap();
        std::fs::write(dir.path().join("secret"), "host").unwrap();
        std::fs::write(root.join("out.txt"), "0123456789").unwrap();
        std::fs::write(root.join("wd/a"), "a").unwrap();
        std::fs::write(root.join("wd/deep/b"), "b").unwrap();
        symlink("../secret", root.join("escape")).unwrap();
        symlink("/etc", root.join("etc")).unwrap();
        symlink("out.txt", root.join("inner")).unwrap();
        let opened = Root::open(&root).unwrap();
        (dir, opened)
    }

    fn read(root: &Root, path: &str, start: u64, end: Option<u64>) -> Result<String, Error> {
        match root.read(path, start, end)? {
            Answer::Content { length, file, .. } => {
                let mut text = String::new();
                file.take(length).read_to_string(&mut text).unwrap();
                Ok(text)
            }
            Answer::Whole(_) => panic!("no content"),
        }
    }

    fn names(root: &Root, path: &str, prefix: &str, recursive: bool, after: Option<&str>, max: u32) -> (Vec<String>, bool) {
        let listing = Listing { prefix: prefix.to_owned(), recursive, after: after.map(str::to_owned), max };
        let Response::Entries { entries, more } = root.list(path, listing).unwrap() else { panic!("no entries") };
        (entries.into_iter().map(|entry| entry.name).collect(), more)
    }

    #[test]
    fn ranges_are_clamped_or_refused() {
        let (_dir, root) = tree();
        assert_eq!(read(&root, "out.txt", 0, None).unwrap(), "0123456789");
        assert_eq!(read(&root, "out.txt", 3, Some(6)).unwrap(), "345");
        assert_eq!(read(&root, "out.txt", 8, Some(99)).unwrap(), "89");
        assert_eq!(read(&root, "out.txt", 10, None), Err(Error::InvalidRange { length: 10 }));
        assert_eq!(read(&root, "inner", 0, None).unwrap(), "0123456789");
    }

    #[test]
    fn nothing_outside_the_root_is_reached() {
        let (_dir, root) = tree();
        for path in ["escape", "etc/passwd", "wd/../../secret"] {
            assert!(read(&root, path, 0, None).is_err(), "{path}");
            assert!(root.stat(path).is_err(), "{path}");
        }
        assert_eq!(root.stat("/etc/passwd"), Err(Error::OutsideRoot));
        assert_eq!(root.stat("..\\secret"), Err(Error::OutsideRoot));
        assert_eq!(root.delete("etc/hostname", true), Err(Error::NotFound));
        assert!(Path::new("/etc/hostname").exists());
    }

    #[test]
    fn directories_and_pipes_are_no_files_to_read() {
        let (dir, root) = tree();
        assert_eq!(read(&root, "wd", 0, None), Err(Error::NotFound));
        assert_eq!(read(&root, "absent", 0, None), Err(Error::NotFound));
        let pipe = dir.path().join("root/pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert_eq!(read(&root, "pipe", 0, None), Err(Error::NotFound));
    }

    #[test]
    fn listings_page_in_order() {
        let (_dir, root) = tree();
        let all = ["escape", "etc", "inner", "out.txt", "wd"].map(str::to_owned).to_vec();
        assert_eq!(names(&root, "", "", false, None, 100), (all.clone(), false));
        assert_eq!(names(&root, "", "", false, None, 2), (all[..2].to_vec(), true));
        assert_eq!(names(&root, "", "", false, Some("etc"), 2), (all[2..4].to_vec(), true));
        let deep = ["wd", "wd/a", "wd/deep", "wd/deep/b"].map(str::to_owned).to_vec();
        assert_eq!(names(&root, "", "wd", true, None, 100), (deep, false));
        assert_eq!(names(&root, "wd", "", true, None, 100).0, ["a", "deep", "deep/b"]);
    }

    #[test]
    fn deleting_a_full_directory_needs_recursive() {
        let (dir, root) = tree();
        assert_eq!(root.delete("wd", false), Err(Error::NotEmpty));
        symlink("/etc", dir.path().join("root/wd/link")).unwrap();
        root.delete("wd", true).unwrap();
        assert_eq!(root.stat("wd"), Err(Error::NotFound));
        assert_eq!(root.delete("wd", true), Err(Error::NotFound));
        assert!(root.delete("", true).is_err());
        root.delete("out.txt", false).unwrap();
        assert!(Path::new("/etc/passwd").exists());
    }
}
