//! Who this machine is: an ed25519 key pair in a file that only its owner can read.
//!
//! The peer id is derived from the public key, so the file *is* the machine's membership. It is made on first use
//! and never overwritten: a damaged file is an error for a person to look at, because a fresh key would silently be
//! another machine.

use libp2p::PeerId;
use libp2p::identity::{Keypair, PublicKey};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Longest file that can be one of ours.
const FILE_BYTES_MAX: u64 = 1024;
const MODE_OWNER_ONLY: u32 = 0o600;

/// A machine's key pair.
#[derive(Clone)]
pub struct Identity(Keypair);

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} the identity file `{}`: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "the identity file `{}` is damaged ({reason}); restore it, or remove it and join this machine again",
        path.display()
    )]
    Damaged { path: PathBuf, reason: String },
    #[error("the identity file `{}` can be read by others (mode {mode:o}); run chmod 600 on it", path.display())]
    Exposed { path: PathBuf, mode: u32 },
}

impl Identity {
    /// A new identity that lives as long as the process; for tests and throw-away clusters.
    pub fn ephemeral() -> Self {
        Self(Keypair::generate_ed25519())
    }

    /// Reads the identity kept in `path`, or makes one there. Blocks on the disk.
    pub fn load_or_create(path: &Path) -> Result<Self, Error> {
        match Self::load(path) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Self::create(path),
            loaded => loaded,
        }
    }

    /// The id by which others know this machine.
    pub fn peer(&self) -> PeerId {
        self.0.public().to_peer_id()
    }

    /// Signs a statement, so that others can tell that the owner of [`Identity::peer`] made it.
    pub fn sign(&self, statement: &[u8]) -> Result<Vec<u8>, SigningError> {
        self.0.sign(statement).map_err(|error| SigningError(error.to_string()))
    }

    /// What [`verify`] needs to check a signature.
    pub fn public_key(&self) -> Vec<u8> {
        self.0.public().encode_protobuf()
    }

    pub(super) fn keypair(&self) -> &Keypair {
        &self.0
    }

    fn load(path: &Path) -> Result<Self, Error> {
        let io_error = |source| Error::Io { action: "read", path: path.to_owned(), source };
        let damaged = |reason: String| Error::Damaged { path: path.to_owned(), reason };
        let metadata = fs::metadata(path).map_err(io_error)?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(Error::Exposed { path: path.to_owned(), mode });
        }
        if metadata.len() > FILE_BYTES_MAX {
            return Err(damaged(format!("{} bytes", metadata.len())));
        }
        let bytes = fs::read(path).map_err(io_error)?;
        // The encoding holds both halves of the pair, and decoding checks that they belong together.
        let keypair = Keypair::from_protobuf_encoding(&bytes).map_err(|error| damaged(error.to_string()))?;
        Ok(Self(keypair))
    }

    /// Writes a fresh key beside `path` and links it into place, so that a crash leaves either no file or a whole
    /// one, and of two processes that start at once both end up with the key of the first.
    fn create(path: &Path) -> Result<Self, Error> {
        let io_error = |action| move |source| Error::Io { action, path: path.to_owned(), source };
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(folder).map_err(io_error("make the folder of"))?;
        let keypair = Keypair::generate_ed25519();
        let bytes = keypair
            .to_protobuf_encoding()
            .map_err(|error| Error::Damaged { path: path.to_owned(), reason: error.to_string() })?;

        let temporary = folder.join(format!(".identity-{}", uuid::Uuid::new_v4()));
        let written = write_new(&temporary, &bytes).and_then(|()| fs::hard_link(&temporary, path));
        // The temporary name has done its work, whatever came of it.
        fs::remove_file(&temporary).ok();
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Self::load(path),
            Err(error) => return Err(io_error("write")(error)),
        }
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error("sync the folder of"))?;
        Ok(Self(keypair))
    }
}

/// The key did not sign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the identity's key does not sign: {0}")]
pub struct SigningError(String);

/// Whether the owner of `peer` made this statement.
pub fn verify(peer: &PeerId, public_key: &[u8], statement: &[u8], signature: &[u8]) -> bool {
    let Ok(public) = PublicKey::try_decode_protobuf(public_key) else { return false };
    public.to_peer_id() == *peer && public.verify(statement, signature)
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE_OWNER_ONLY).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_once_then_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/identity");
        let first = Identity::load_or_create(&path).unwrap();
        let again = Identity::load_or_create(&path).unwrap();
        assert_eq!(first.peer(), again.peer());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), 1, "temporary files stay behind: {names:?}");
    }

    #[test]
    fn a_statement_is_its_makers_alone() {
        let (ours, other) = (Identity::ephemeral(), Identity::ephemeral());
        let signature = ours.sign(b"statement").unwrap();
        let check = |who: &Identity, key: &Identity, text: &[u8], signature: &[u8]| {
            verify(&who.peer(), &key.public_key(), text, signature)
        };
        assert!(check(&ours, &ours, b"statement", &signature));
        assert!(!check(&other, &ours, b"statement", &signature), "a key of somebody else");
        assert!(!check(&ours, &other, b"statement", &signature));
        assert!(!check(&ours, &ours, b"statements", &signature));
        assert!(!check(&ours, &ours, b"statement", &signature[1..]));
        assert!(!verify(&ours.peer(), b"no key", b"statement", &signature));
    }

    #[test]
    fn every_damaged_byte_is_noticed_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity");
        let peer = Identity::load_or_create(&path).unwrap().peer();
        let good = fs::read(&path).unwrap();
        for position in 0..good.len() {
            let mut bad = good.clone();
            bad[position] ^= 0x20;
            fs::write(&path, &bad).unwrap();
            match Identity::load_or_create(&path) {
                Err(Error::Damaged { .. }) => {}
                Ok(other) => panic!("byte {position}: accepted as {}, was {peer}", other.peer()),
                Err(other) => panic!("byte {position}: {other}"),
            }
            assert_eq!(fs::read(&path).unwrap(), bad);
        }
        for bad in [&b""[..], &good[..good.len() - 1], &[0_u8; 2000]] {
            fs::write(&path, bad).unwrap();
            assert!(matches!(Identity::load_or_create(&path), Err(Error::Damaged { .. })));
        }
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity");
        Identity::load_or_create(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Identity::load_or_create(&path), Err(Error::Exposed { mode: 0o640, .. })));
    }
}
