//! Laying down application packages, once a node (`files-and-storage.md` §8).
//!
//! A package is unpacked beside its place and moved there when it is complete, so that whoever finds it there finds all of
//! it. Attempts that need the same one at the same time wait for whoever came first.

use super::transfer::{Retries, Source, Wanted, retrying};
use crate::layout::inside;
use lote_shared::model::{ApplicationId, FailureInfo, PackageReference, PackageVersion, package_directory};
use lote_shared::turns::Turns;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use zip::ZipArchive;
use zip::read::ZipFile;

/// Entries of one package.
const ENTRIES_MAX: usize = 500_000;
/// Longest target of a link.
const LINK_MAX: u64 = 4_096;
/// The mode of files of which the zip says none, so that programs run.
const FILE_MODE: u32 = 0o755;

/// Whose turn it is, by directory. One of a process.
static TURNS: Turns<PathBuf> = Turns::new();

/// Why a package is not there.
pub fn failure(reference: &PackageReference, message: impl Into<String>) -> FailureInfo {
    FailureInfo::user("ApplicationPackageError", message)
        .with("ApplicationPackageReference", reference.to_string())
}

/// Lays a package down below the node's root, if it is not there yet.
pub async fn deploy(
    source: &dyn Source,
    root: &Path,
    (application, version): (&ApplicationId, &PackageVersion),
    url: &str,
    retries: Retries,
) -> Result<(), FailureInfo> {
    let reference = PackageReference { application: application.clone(), version: Some(version.clone()) };
    let target = root.join(package_directory(application, version));
    let _turn = TURNS.of(target.clone()).lock_owned().await;
    let failed = |error: String| failure(&reference, format!("the package could not be laid down: {error}"));
    if tokio::fs::try_exists(&target).await.map_err(|error| failed(error.to_string()))? {
        return Ok(());
    }
    let parent = target.parent().unwrap_or(root).to_owned();
    let name = version.folded();
    let (zip, unpacked) = (parent.join(format!(".{name}.zip")), parent.join(format!(".{name}.new")));
    tokio::fs::create_dir_all(&parent).await.map_err(|error| failed(error.to_string()))?;
    let file = Wanted::at(url);
    let fetched = retrying(retries, || source.fetch(&file, &zip, 0o600)).await;
    let result = match fetched {
        Err(error) => Err(failed(error.to_string())),
        Ok(_) => {
            let (from, to) = (zip.clone(), unpacked.clone());
            let work =
                move || unpack(&from, &to).and_then(|()| fs::rename(&to, &target).map_err(Error::from));
            let done = tokio::task::spawn_blocking(work).await;
            done.unwrap_or_else(|error| Err(Error::Io(io::Error::other(error))))
                .map_err(|error| failed(error.to_string()))
        }
    };
    // What is left of a failure is in nobody's way; the next try begins anew.
    let _ = tokio::fs::remove_file(&zip).await;
    result
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is no zip that can be read: {0}")]
    Zip(#[from] zip::result::ZipError),
    #[error("entry `{0}` would leave its directory")]
    Outside(String),
    #[error("it has more than {ENTRIES_MAX} entries")]
    TooMany,
}

/// Unpacks into a directory that is made for it.
fn unpack(zip: &Path, into: &Path) -> Result<(), Error> {
    if into.exists() {
        fs::remove_dir_all(into)?;
    }
    fs::create_dir_all(into)?;
    let mut archive = ZipArchive::new(io::BufReader::new(File::open(zip)?))?;
    if archive.len() > ENTRIES_MAX {
        return Err(Error::TooMany);
    }
    // Links come last: nothing is written through one.
    let mut links = Vec::new();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index)?;
        let name = entry.name()?.into_owned();
        let path = inside(&name).ok_or(Error::Outside(name))?;
        let target = into.join(&path);
        if entry.is_dir() {
            fs::create_dir_all(&target)?;
        } else if entry.is_symlink() {
            links.push((path, link_target(&mut entry)?));
        } else {
            write_file(&mut entry, &target)?;
        }
    }
    for (path, to) in links {
        if !stays_inside(&path, &to) {
            return Err(Error::Outside(path.display().to_string()));
        }
        let place = into.join(&path);
        fs::create_dir_all(place.parent().unwrap_or(into))?;
        symlink(to, place)?;
    }
    Ok(())
}

fn write_file<R: Read>(entry: &mut ZipFile<'_, R>, target: &Path) -> Result<(), Error> {
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    let mode = entry.unix_mode().map(|mode| mode & 0o777).filter(|mode| *mode != 0).unwrap_or(FILE_MODE);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(target)?;
    // No more than it says: what is longer is damaged.
    let said = entry.size();
    let written = io::copy(&mut entry.take(said.saturating_add(1)), &mut file)?;
    if written != said {
        return Err(
            io::Error::new(io::ErrorKind::InvalidData, "an entry has another length than it says").into()
        );
    }
    file.flush()?;
    Ok(file.set_permissions(fs::Permissions::from_mode(mode))?)
}

fn link_target<R: Read>(entry: &mut ZipFile<'_, R>) -> Result<String, Error> {
    let mut text = String::new();
    entry.take(LINK_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Whether a link at `place` that says `to` leads to something below the directory of both.
fn stays_inside(place: &Path, to: &str) -> bool {
    let mut depth = place.components().count().saturating_sub(1);
    for part in Path::new(to).components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    !to.is_empty()
}

#[cfg(test)]
mod tests;
