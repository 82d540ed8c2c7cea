//! The door to the disk: one folder of files, as little of it as the log needs, so that a simulator can stand
//! behind it (see [`super::simulated`]).

use std::fmt::Debug;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A folder. Names are plain file names.
pub trait Disk: Debug + Send + Sync + 'static {
    fn list(&self) -> io::Result<Vec<String>>;
    /// A new empty file; an old one of that name is emptied.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes all names durable.
    fn sync(&self) -> io::Result<()>;
}

/// An open file; it stays readable after it was removed.
pub trait File: Debug + Send + Sync + 'static {
    fn size(&self) -> io::Result<u64>;
    /// Fills the whole buffer or fails.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    fn truncate(&self, size: u64) -> io::Result<()>;
    /// Everything written before is on stable storage when this returns.
    fn sync(&self) -> io::Result<()>;
}

/// A real folder.
#[derive(Debug)]
pub struct FolderDisk {
    folder: PathBuf,
    /// A file of nothing that gives way when a write finds the disk full.
    ballast: Option<PathBuf>,
}

impl FolderDisk {
    /// The folder is created if it is missing.
    pub fn open(folder: &Path) -> io::Result<FolderDisk> {
        create_folder(folder)?;
        Ok(FolderDisk { folder: folder.to_owned(), ballast: None })
    }

    #[must_use]
    pub fn with_ballast(self, ballast: PathBuf) -> FolderDisk {
        FolderDisk { ballast: Some(ballast), ..self }
    }

    fn file(&self, file: std::fs::File) -> Arc<dyn File> {
        match &self.ballast {
            Some(ballast) => Arc::new(GivingWay { file, ballast: ballast.clone() }),
            None => Arc::new(file),
        }
    }
}

/// A file whose writes take the ballast's bytes if there are no others: whoever watches the disk looks now and then, and
/// somebody else may have filled it in between.
#[derive(Debug)]
struct GivingWay<F> {
    file: F,
    ballast: PathBuf,
}

impl<F: File> File for GivingWay<F> {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, into)
    }

    /// What was written before the disk was full is written again, to the same place.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match self.file.write_at(offset, bytes) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                if std::fs::remove_file(&self.ballast).is_err() {
                    return Err(error);
                }
                tracing::error!("a write of the log found the disk full, and takes the ballast's bytes");
                self.file.write_at(offset, bytes)
            }
            result => result,
        }
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.file.truncate(size)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}

/// Makes a folder and those above it, each one's name durable before anything is put into it.
pub fn create_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = match folder.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    create_folder(parent)?;
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_folder(parent),
    }
}

/// Makes the names in a folder durable.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    std::fs::File::open(folder)?.sync_all()
}

impl Disk for FolderDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let path = self.folder.join(name);
        Ok(self.file(OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.file(OpenOptions::new().read(true).write(true).open(self.folder.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.folder.join(from), self.folder.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.folder.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        sync_folder(&self.folder)
    }
}

impl File for std::fs::File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(into, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.set_len(size)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file on a disk that is full as long as the ballast is there.
    #[derive(Debug)]
    struct Full {
        file: std::fs::File,
        ballast: PathBuf,
    }

    impl File for Full {
        fn size(&self) -> io::Result<u64> {
            self.file.size()
        }

        fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
            <std::fs::File as File>::read_at(&self.file, offset, into)
        }

        fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            if self.ballast.exists() {
                <std::fs::File as File>::write_at(&self.file, offset, &bytes[..bytes.len() / 2])?;
                return Err(io::ErrorKind::StorageFull.into());
            }
            <std::fs::File as File>::write_at(&self.file, offset, bytes)
        }

        fn truncate(&self, size: u64) -> io::Result<()> {
            self.file.truncate(size)
        }

        fn sync(&self) -> io::Result<()> {
            File::sync(&self.file)
        }
    }

    #[test]
    fn a_write_that_finds_the_disk_full_takes_the_ballasts_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let ballast = folder.path().join("ballast");
        std::fs::write(&ballast, b"nothing").unwrap();
        let full = Full { file: tempfile::tempfile().unwrap(), ballast: ballast.clone() };
        let file = GivingWay { file: full, ballast: ballast.clone() };
        file.write_at(3, b"entry").unwrap();
        assert!(!ballast.exists());
        let mut found = [0; 5];
        file.read_at(3, &mut found).unwrap();
        assert_eq!(&found, b"entry");
        // With nothing left to give up the error stands.
        std::fs::create_dir(&ballast).unwrap();
        assert_eq!(file.write_at(3, b"entry").unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
