//! The directories of an attempt: fresh before it, removed after its retention. Blocking; callers are on threads
//! where that is allowed.

use super::fetch::local_failure;
use crate::layout::TaskLayout;
use lote_shared::model::FailureInfo;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// Makes the task directory and an empty `wd`. Whatever an earlier attempt, or an earlier task of the same name,
/// left there is removed (`task-execution.md` §2).
pub fn prepare(task: &TaskLayout) -> Result<(), FailureInfo> {
    make(task).map_err(|error| {
        let message = format!("the task directory cannot be created: {error}");
        local_failure(&error, "ResourceDirectoryCreateFailed", message)
    })
}

fn make(task: &TaskLayout) -> io::Result<()> {
    match fs::create_dir(&task.directory) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            empty(&task.directory)?;
        }
        Err(error) if error.kind() == ErrorKind::NotFound => fs::create_dir_all(&task.directory)?,
        Err(error) => return Err(error),
    }
    fs::create_dir(task.working())
}

/// Removes everything below a directory. The directory itself must be one, not a link.
fn empty(directory: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(directory)?.is_dir() {
        return Err(io::Error::new(ErrorKind::NotADirectory, "the task directory is not a directory"));
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() { remove_tree(&path)? } else { fs::remove_file(&path)? }
    }
    Ok(())
}

/// Removes a directory tree; links in it are removed, not followed. Directories a task made unreadable are opened
/// first. Missing is as good as removed.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
        other => return other,
    }
    make_writable(path);
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn make_writable(path: &Path) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    if !metadata.is_dir() {
        return;
    }
    let _ = fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700));
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        make_writable(&entry.path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn every_attempt_starts_clean_and_touches_nothing_else() {
        let base = tempfile::tempdir().unwrap();
        let outside = base.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("keep"), "x").unwrap();
        let task = TaskLayout { directory: base.path().join("workitems/j/job-1/t") };
        prepare(&task).unwrap();
        fs::write(task.stdout(), "old").unwrap();
        fs::create_dir_all(task.working().join("a/b")).unwrap();
        symlink(&outside, task.working().join("a/link")).unwrap();
        symlink(&outside, task.directory.join("link")).unwrap();
        fs::set_permissions(task.working().join("a"), PermissionsExt::from_mode(0o000)).unwrap();
        prepare(&task).unwrap();
        let left: Vec<_> = fs::read_dir(&task.directory).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["wd"]);
        assert_eq!(fs::read_dir(task.working()).unwrap().count(), 0);
        assert!(outside.join("keep").exists());

        // A task directory that is a link is not walked through.
        fs::remove_dir_all(&task.directory).unwrap();
        symlink(&outside, &task.directory).unwrap();
        let failure = prepare(&task).unwrap_err();
        assert_eq!(failure.code, "ResourceDirectoryCreateFailed");
        assert!(outside.join("keep").exists());
        assert!(remove_tree(&base.path().join("none")).is_ok());
    }
}
