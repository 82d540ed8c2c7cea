//! The data folder of an embedded cluster: its lock, its version, its account, and the file clients read.
//!
//! ```text
//! <data-dir>/lock            held while a cluster runs on it
//!            format-version  what wrote it; newer than this build is refused
//!            account.json    name and key of the account, made once
//!            lote.env        endpoints and keys while it runs
//!            coordinator/    identity, raft, state, chunks
//!            workers/N/      identity, keeper, nodes
//! ```

use anyhow::{Context, bail};
use base64::Engine as _;
use rand::RngCore;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Layout of the folder this build writes.
const FORMAT_VERSION: u32 = 1;
const ACCOUNT_NAME: &str = "lote";
const KEY_BYTES: usize = 64;

/// A locked data folder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

/// The one account of an embedded cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Account {
    pub name: String,
    /// Base64, as clients want it.
    pub key: String,
}

impl Account {
    pub fn key_bytes(&self) -> anyhow::Result<Vec<u8>> {
        base64::engine::general_purpose::STANDARD.decode(&self.key).context("the account key is not base64")
    }
}

impl Folder {
    /// Makes or opens the folder and locks it.
    pub fn open(path: &Path) -> anyhow::Result<Folder> {
        fs::create_dir_all(path).with_context(|| {
            format!("cannot make the data folder {}; choose a writable place with --data-dir", path.display())
        })?;
        let path = fs::canonicalize(path).with_context(|| format!("resolving {}", path.display()))?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .with_context(|| {
            format!("the data folder {} is not writable; choose another with --data-dir", path.display())
        })?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!(
                "another `lote` is running on {}; stop it or choose another folder with --data-dir",
                path.display()
            );
        }
        check_version(&path)?;
        Ok(Folder { path, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn env_path(&self) -> PathBuf {
        self.path.join("lote.env")
    }

    /// The account of this folder, made on first use.
    pub fn account(&self) -> anyhow::Result<Account> {
        let path = self.path.join("account.json");
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| {
                format!("{} is damaged; restore it from a copy (it holds the account's key)", path.display())
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mut key = [0_u8; KEY_BYTES];
                rand::rng().fill_bytes(&mut key);
                let key = base64::engine::general_purpose::STANDARD.encode(key);
                let account = Account { name: ACCOUNT_NAME.to_owned(), key };
                write_private(&path, &serde_json::to_vec_pretty(&account)?)?;
                Ok(account)
            }
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// Takes over the account of a cluster that was joined.
    pub fn keep_account(&self, account: &Account) -> anyhow::Result<()> {
        write_private(&self.path.join("account.json"), &serde_json::to_vec_pretty(account)?)
    }

    /// Tells clients where to go; written by rename once everything answers.
    pub fn write_env(&self, pairs: &[(&str, String)]) -> anyhow::Result<()> {
        let mut text = String::new();
        for (name, value) in pairs {
            text.push_str(&format!("{name}='{}'\n", value.replace('\'', r"'\''")));
        }
        write_private(&self.env_path(), text.as_bytes())
    }

    /// Before the start and after the end there is nowhere to go.
    pub fn remove_env(&self) -> anyhow::Result<()> {
        match fs::remove_file(self.env_path()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", self.env_path().display()))
            }
            _ => Ok(()),
        }
    }
}

fn check_version(path: &Path) -> anyhow::Result<()> {
    let file = path.join("format-version");
    match fs::read_to_string(&file) {
        Ok(text) => {
            let found: u32 = text
                .trim()
                .parse()
                .with_context(|| format!("{} is damaged: `{}`", file.display(), text.trim()))?;
            if found > FORMAT_VERSION {
                bail!(
                    "{} was written by a newer lote (format {found}; this build reads {FORMAT_VERSION}); use that version or another --data-dir",
                    path.display()
                );
            }
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            write_private(&file, format!("{FORMAT_VERSION}\n").as_bytes())
        }
        Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
    }
}

/// Writes a file that only its owner reads, all or nothing, and durable.
pub fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let temporary = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file =
            OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        if let Some(parent) = path.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(())
    };
    write().with_context(|| format!("writing {}", path.display()))
}

/// Reads a `lote.env`.
pub fn read_env(path: &Path) -> anyhow::Result<std::collections::BTreeMap<String, String>> {
    let text = fs::read_to_string(path).with_context(|| {
        format!("no cluster seems to run here: cannot read {}; start one with `lote up`", path.display())
    })?;
    let pair = |line: &str| {
        let (name, value) = line.split_once('=')?;
        let value = value.strip_prefix('\'')?.strip_suffix('\'')?;
        Some((name.to_owned(), value.replace(r"'\''", "'")))
    };
    Ok(text.lines().filter_map(pair).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_locked_versioned_and_keeps_its_account() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        let account = folder.account().unwrap();
        assert_eq!(account.key_bytes().unwrap().len(), KEY_BYTES);
        assert_eq!(folder.account().unwrap().key, account.key);
        assert!(Folder::open(dir.path()).unwrap_err().to_string().contains("another `lote` is running"));
        drop(folder);
        fs::write(dir.path().join("format-version"), "2\n").unwrap();
        assert!(Folder::open(dir.path()).unwrap_err().to_string().contains("newer lote (format 2"));
    }

    #[test]
    fn the_env_file_is_shell_quoted_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        folder.write_env(&[("A", "x y".to_owned()), ("B", "it's".to_owned())]).unwrap();
        let text = fs::read_to_string(folder.env_path()).unwrap();
        assert_eq!(text, "A='x y'\nB='it'\\''s'\n");
        let env = read_env(&folder.env_path()).unwrap();
        assert_eq!((env["A"].as_str(), env["B"].as_str()), ("x y", "it's"));
        folder.remove_env().unwrap();
        assert!(read_env(&folder.env_path()).is_err());
    }
}
