//! Serves the files of this host's nodes to coordinators (`protocol::files`; spec `files-and-storage.md` §7).
//!
//! Every path is opened by `openat2` with `RESOLVE_BENEATH` from a descriptor of the node's root: `..`, absolute
//! paths and links that lead out are refused by the kernel at the moment of opening, whatever a task does to the tree
//! meanwhile. Links that stay inside are followed. Deletion never follows the last link.

use lote_shared::model::{NodeKey, Timestamp};
use lote_shared::network::{Incoming, Stream};
use lote_shared::protocol::files::{Entry, Error, Operation, Properties, Request, Response};
use parking_lot::RwLock;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, Stat, fstat, openat2, statat, unlinkat,
};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// Entries of one answer.
const ENTRIES_MAX: u32 = 1_000;
const PATH_LENGTH_MAX: usize = 4_096;
const BLOCK_BYTES: usize = 128 * 1024;
/// A coordinator that opens a stream says quickly what it wants.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);

/// Roots of the nodes that are served now. Shared by the host, which fills it, and the serving tasks.
#[derive(Debug, Clone, Default)]
pub struct Roots(Arc<RwLock<BTreeMap<NodeKey, PathBuf>>>);

impl Roots {
    pub fn insert(&self, node: NodeKey, root: PathBuf) {
        self.0.write().insert(node, root);
    }

    pub fn remove(&self, node: NodeKey) {
        self.0.write().remove(&node);
    }

    pub fn clear(&self) {
        self.0.write().clear();
    }

    fn get(&self, node: NodeKey) -> Option<PathBuf> {
        self.0.read().get(&node).cloned()
    }
}

/// Accepts until the network ends; the limits on streams are the network's.
pub async fn serve(mut incoming: Incoming, roots: Roots) {
    while let Some((_, stream)) = incoming.next().await {
        tokio::spawn(answer(stream, roots.clone()));
    }
}

async fn answer(mut stream: Stream, roots: Roots) {
    let Ok(Ok(Some(request))) = tokio::time::timeout(REQUEST_WITHIN, stream.receive::<Request>()).await
    else {
        return;
    };
    let done = tokio::task::spawn_blocking(move || {
        let root = roots.get(request.node).ok_or(Error::NodeUnavailable)?;
        carry_out(&root, request.operation)
    });
    let (response, content) = match done.await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => (Response::Error(error), None),
        Err(fault) => (Response::Error(Error::Io(fault.to_string())), None),
    };
    if stream.send(&response).await.is_err() {
        return;
    }
    if let (Some(file), Response::Content { start, length, .. }) = (content, &response)
        && send_content(&mut stream, file, *start, *length).await.is_err()
    {
        // Dropped without an end: the reader sees that bytes are missing.
        return;
    }
    stream.close().await;
}

async fn send_content(stream: &mut Stream, file: File, start: u64, length: u64) -> std::io::Result<()> {
    let file = Arc::new(file);
    let mut sent = 0;
    while sent < length {
        let file = Arc::clone(&file);
        let wanted = usize::try_from(length - sent).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
        let at = start + sent;
        let block = tokio::task::spawn_blocking(move || {
            let mut block = vec![0; wanted];
            file.read_exact_at(&mut block, at).map(|()| block)
        });
        let block = block.await.map_err(std::io::Error::other)??;
        stream.write_all(&block).await?;
        sent += block.len() as u64;
    }
    stream.flush().await
}

/// One operation, blocking. For a read the opened file comes along.
fn carry_out(root: &Path, operation: Operation) -> Result<(Response, Option<File>), Error> {
    let root = File::open(root).map_err(|_| Error::NodeUnavailable)?;
    let root = Root(root.into());
    let only = |response| Ok((response, None));
    match operation {
        Operation::Stat { path } => {
            let file = root.open(&path, OFlags::PATH)?;
            only(Response::Properties(properties(&fstat(&file).map_err(refuse)?)))
        }
        Operation::Read { path, start, end } => {
            let file = root.open(&path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
            let stat = fstat(&file).map_err(refuse)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Err(Error::NotFound);
            }
            let properties = properties(&stat);
            let length = properties.length;
            let whole = start == 0 && end.is_none();
            let end = end.unwrap_or(length).min(length);
            if (start >= length && !whole) || start > end {
                return Err(Error::InvalidRange { length });
            }
            Ok((Response::Content { properties, start, length: end - start }, Some(File::from(file))))
        }
        Operation::List { path, prefix, recursive, after, max } => {
            let wanted =
                Wanted { prefix: &prefix, after: after.as_deref(), recursive, max: max.min(ENTRIES_MAX) };
            let (entries, more) = root.list(&path, &wanted)?;
            only(Response::Entries { entries, more })
        }
        Operation::Delete { path, recursive } => {
            root.delete(&path, recursive)?;
            only(Response::Deleted)
        }
    }
}

struct Wanted<'a> {
    prefix: &'a str,
    after: Option<&'a str>,
    recursive: bool,
    max: u32,
}

impl Wanted<'_> {
    fn takes(&self, name: &str) -> bool {
        name.starts_with(self.prefix) && self.after.is_none_or(|after| name > after)
    }

    /// Whether anything below this directory can be wanted.
    fn descends(&self, directory: &str) -> bool {
        let below = format!("{directory}/");
        let by_prefix = below.starts_with(self.prefix) || self.prefix.starts_with(&below);
        let by_after = self.after.is_none_or(|after| after < below.as_str() || after.starts_with(&below));
        self.recursive && by_prefix && by_after
    }
}

struct Root(OwnedFd);

impl Root {
    fn open(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Error> {
        if path.len() > PATH_LENGTH_MAX || path.contains('\0') {
            return Err(Error::NotFound);
        }
        // `..` that stays inside would be allowed by the kernel, but nobody needs it.
        if path.starts_with('/') || path.split('/').any(|part| part == "..") {
            return Err(Error::OutsideRoot);
        }
        let path = if path.is_empty() { "." } else { path };
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        loop {
            match openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
                // The tree changed under the kernel's walk.
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other.map_err(refuse),
            }
        }
    }

    fn list(&self, path: &str, wanted: &Wanted<'_>) -> Result<(Vec<Entry>, bool), Error> {
        let base = path.trim_end_matches('/');
        // Names come out in the order of the whole text, in which `a.txt` stands between `a` and `a/b`: so one
        // ordered set of what was seen and not yet visited, not a walk.
        let mut waiting: BTreeMap<String, Properties> = self.children(base, "")?;
        let mut entries = Vec::new();
        while let Some((name, properties)) = waiting.pop_first() {
            let directory = properties.directory;
            if wanted.takes(&name) {
                if entries.len() >= wanted.max as usize {
                    return Ok((entries, true));
                }
                entries.push(Entry { name: name.clone(), properties });
            }
            if directory && wanted.descends(&name) {
                // Gone meanwhile, or a link: nothing to see there.
                waiting.extend(self.children(base, &name).unwrap_or_default());
            }
        }
        Ok((entries, false))
    }

    /// The entries of `base/below` with names relative to `base`. Links are shown as what they lead to, if that is
    /// inside the root; the tree below a linked directory is not walked into.
    fn children(&self, base: &str, below: &str) -> Result<BTreeMap<String, Properties>, Error> {
        let join = |a: &str, b: &str| if a.is_empty() { b.to_owned() } else { format!("{a}/{b}") };
        let path = if below.is_empty() { base.to_owned() } else { join(base, below) };
        let mut flags = OFlags::RDONLY | OFlags::DIRECTORY;
        if !below.is_empty() {
            flags |= OFlags::NOFOLLOW;
        }
        let directory = self.open(&path, flags)?;
        let mut found = BTreeMap::new();
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut reader = RawDir::new(&directory, &mut buffer);
        while let Some(entry) = reader.next() {
            let entry = entry.map_err(refuse)?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name == "." || name == ".." {
                continue;
            }
            let Ok(stat) = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let stat = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Symlink => {
                    let target = self.open(&join(&path, name), OFlags::PATH).ok();
                    let Some(stat) = target.and_then(|file| fstat(file).ok()) else { continue };
                    stat
                }
                _ => stat,
            };
            found.insert(join(below, name), properties(&stat));
        }
        Ok(found)
    }

    fn delete(&self, path: &str, recursive: bool) -> Result<(), Error> {
        let path = path.trim_end_matches('/');
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if name.is_empty() || name == "." || name == ".." {
            return Err(Error::OutsideRoot);
        }
        let parent = self.open(parent, OFlags::PATH | OFlags::DIRECTORY)?;
        let stat = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(refuse)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return unlinkat(&parent, name, AtFlags::empty()).map_err(refuse);
        }
        match unlinkat(&parent, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) if recursive => remove_below(&parent, name),
            other => other.map_err(refuse),
        }
    }
}

/// The standard library's removal is safe against links that are put in its way; the parent is named through its
/// descriptor.
fn remove_below(parent: &OwnedFd, name: &str) -> Result<(), Error> {
    let path = format!("/proc/self/fd/{}/{name}", parent.as_raw_fd());
    std::fs::remove_dir_all(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::NotFound,
        _ => Error::Io(error.to_string()),
    })
}

fn properties(stat: &Stat) -> Properties {
    let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    Properties {
        directory,
        length: if directory { 0 } else { u64::try_from(stat.st_size).unwrap_or(0) },
        modified: Timestamp(seconds.saturating_mul(1_000).saturating_add(stat.st_mtime_nsec / 1_000_000)),
        mode: stat.st_mode,
    }
}

fn refuse(error: Errno) -> Error {
    match error {
        Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::NXIO => Error::NotFound,
        Errno::XDEV | Errno::LOOP => Error::OutsideRoot,
        Errno::NOTEMPTY | Errno::EXIST => Error::NotEmpty,
        other => Error::Io(other.to_string()),
    }
}

#[cfg(test)]
mod tests;
