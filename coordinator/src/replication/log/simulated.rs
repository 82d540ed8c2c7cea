//! A disk in memory that can lose power.
//!
//! It keeps apart what was written and what was synced. At a crash every page written since the last sync of its
//! file survives or not by the toss of a coin, and of the changes of names since the last sync of the folder some
//! first part survives. It can also stop at the n-th change (the machine is off) or run full.

use super::disk::{Disk, File};
use parking_lot::Mutex;
use rand::Rng;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

const PAGE: usize = 4_096;

#[derive(Debug, Default)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Debug, Clone)]
enum NameChange {
    Link(String, usize),
    Unlink(String),
}

#[derive(Debug, Default)]
struct Inner {
    files: Vec<Content>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending_names: Vec<NameChange>,
    changes: u64,
    off_after: Option<u64>,
    full_after_bytes: Option<usize>,
    syncs_fail: bool,
    syncs: u64,
}

/// Shared handle; clones see the same disk.
#[derive(Debug, Clone, Default)]
pub struct SimulatedDisk {
    inner: Arc<Mutex<Inner>>,
}

impl SimulatedDisk {
    pub fn new() -> SimulatedDisk {
        SimulatedDisk::default()
    }

    /// From the `changes`-th change of anything on, every call fails.
    pub fn turn_off_after(&self, changes: u64) {
        let mut inner = self.inner.lock();
        inner.off_after = Some(inner.changes + changes);
    }

    /// Writes beyond so many bytes in all files together fail with "no space left".
    pub fn run_full_at(&self, bytes: usize) {
        self.inner.lock().full_after_bytes = Some(bytes);
    }

    /// From now on syncs of files fail; whether what was written before stays is left open, as with a real disk.
    pub fn fail_syncs(&self) {
        self.inner.lock().syncs_fail = true;
    }

    /// Changes so far, and syncs of files so far.
    pub fn counts(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        (inner.changes, inner.syncs)
    }

    /// What a new start finds after the power went away now.
    pub fn crash(&self, rng: &mut impl Rng) -> SimulatedDisk {
        let inner = self.inner.lock();
        let kept = rng.random_range(0..=inner.pending_names.len());
        let mut names = inner.durable_names.clone();
        for change in &inner.pending_names[..kept] {
            apply(&mut names, change);
        }
        let files = inner.files.iter().map(|content| survivor(content, rng)).collect();
        let after = Inner { files, durable_names: names.clone(), names, ..Inner::default() };
        SimulatedDisk { inner: Arc::new(Mutex::new(after)) }
    }

    /// What a new start finds after only the process was killed.
    pub fn kill(&self) -> SimulatedDisk {
        let inner = self.inner.lock();
        let files = inner
            .files
            .iter()
            .map(|content| Content { live: content.live.clone(), durable: content.live.clone() })
            .collect();
        let names = inner.names.clone();
        let after = Inner { files, durable_names: names.clone(), names, ..Inner::default() };
        SimulatedDisk { inner: Arc::new(Mutex::new(after)) }
    }

    /// Changes a file's bytes, as bad hardware would.
    pub fn tamper(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut inner = self.inner.lock();
        if let Some(&number) = inner.names.get(name) {
            let content = &mut inner.files[number];
            change(&mut content.live);
            content.durable = content.live.clone();
        }
    }
}

/// Content after a crash: page by page the old or the new one; the size somewhere between.
fn survivor(content: &Content, rng: &mut impl Rng) -> Content {
    if content.live == content.durable {
        return Content { live: content.live.clone(), durable: content.live.clone() };
    }
    let (small, large) = order(content.live.len(), content.durable.len());
    let size = if rng.random() { rng.random_range(small..=large) } else { large };
    let mut bytes = vec![0; size];
    for at in (0..size).step_by(PAGE) {
        let source = if rng.random() { &content.live } else { &content.durable };
        let end = (at + PAGE).min(size).min(source.len());
        if at < end {
            bytes[at..end].copy_from_slice(&source[at..end]);
        }
    }
    Content { live: bytes.clone(), durable: bytes }
}

fn order(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

fn apply(names: &mut BTreeMap<String, usize>, change: &NameChange) {
    match change {
        NameChange::Link(name, number) => {
            // A rename is one step: the old name goes as the new one comes.
            names.retain(|_, linked| linked != number);
            names.insert(name.clone(), *number);
        }
        NameChange::Unlink(name) => {
            names.remove(name);
        }
    }
}

impl Inner {
    fn change(&mut self) -> io::Result<()> {
        self.changes += 1;
        match self.off_after {
            Some(limit) if self.changes > limit => Err(io::Error::other("the machine is off")),
            _ => Ok(()),
        }
    }

    fn rename(&mut self, change: NameChange) {
        apply(&mut self.names, &change);
        self.pending_names.push(change);
    }

    fn find(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for SimulatedDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.inner.lock().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut inner = self.inner.lock();
        inner.change()?;
        let number = inner.files.len();
        inner.files.push(Content::default());
        inner.rename(NameChange::Link(name.to_owned(), number));
        Ok(Arc::new(SimulatedFile { inner: self.inner.clone(), number }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let number = self.inner.lock().find(name)?;
        Ok(Arc::new(SimulatedFile { inner: self.inner.clone(), number }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.change()?;
        let number = inner.find(from)?;
        inner.rename(NameChange::Link(to.to_owned(), number));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.change()?;
        inner.find(name)?;
        inner.rename(NameChange::Unlink(name.to_owned()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.change()?;
        inner.durable_names = inner.names.clone();
        inner.pending_names.clear();
        Ok(())
    }
}

#[derive(Debug)]
struct SimulatedFile {
    inner: Arc<Mutex<Inner>>,
    number: usize,
}

impl File for SimulatedFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.inner.lock().files[self.number].live.len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let inner = self.inner.lock();
        let start = offset as usize;
        let bytes = inner.files[self.number].live.get(start..start + into.len());
        into.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.change()?;
        let used: usize = inner.files.iter().map(|content| content.live.len()).sum();
        let end = offset as usize + bytes.len();
        let live = &inner.files[self.number].live;
        let grows = end.saturating_sub(live.len());
        if inner.full_after_bytes.is_some_and(|limit| grows > 0 && used + grows > limit) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let live = &mut inner.files[self.number].live;
        if live.len() < end {
            live.resize(end, 0);
        }
        live[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.change()?;
        inner.files[self.number].live.resize(size as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.change()?;
        if inner.syncs_fail {
            return Err(io::Error::other("the device reported an error"));
        }
        inner.syncs += 1;
        let content = &mut inner.files[self.number];
        content.durable = content.live.clone();
        Ok(())
    }
}
