//! A disk of a few KiB for tests of what happens when it is full.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A tmpfs, mounted until this is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    directory: tempfile::TempDir,
}

impl SmallDisk {
    /// `None`, with a word on stderr, where this process may not mount: these tests need root.
    pub fn mount(kib: u32) -> Option<SmallDisk> {
        let directory = tempfile::tempdir().unwrap();
        let size = format!("size={kib}k");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(directory.path()).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(SmallDisk { directory });
        }
        eprintln!("SKIPPED: a small disk cannot be mounted here; it takes root");
        None
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Takes every byte there is but for about `left`.
    pub fn fill(&self, left: usize) {
        let mut filler = fs::File::create(self.filler()).unwrap();
        while filler.write_all(&[7; 512]).is_ok() {}
        let length = filler.metadata().unwrap().len();
        // Whole pages are what a tmpfs gives back.
        filler.set_len(length.saturating_sub(left.next_multiple_of(4096) as u64)).unwrap();
    }

    pub fn make_room(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}
