//! From a [`Spawn`] request to a process: program look-up, streams, environment, failure kinds.

use super::sys;
use super::wire::{Spawn, SpawnError};
use rustix::fs::{Access, access};
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Name of the variable that marks every process of an attempt. Its value is `<keeper's id>/<key>`.
pub const MARKER: &str = "LOTE_ATTEMPT";

/// A failure and the sentence for the user.
pub type Failure = (SpawnError, String);

/// Starts the process and returns its id. `marker` is the value of [`MARKER`].
pub fn spawn(request: &Spawn, marker: &str, null: &File) -> Result<u32, Failure> {
    let program = find_program(request)?;
    let launch = |what: &str, error: io::Error| (SpawnError::Launch, format!("{what}: {error}"));
    let stdout = create(&request.stdout).map_err(|e| launch("stdout.txt cannot be created", e))?;
    let stderr = create(&request.stderr).map_err(|e| launch("stderr.txt cannot be created", e))?;
    let text = |text: &[u8]| {
        CString::new(text).map_err(|_| {
            (SpawnError::Launch, "the command line or the environment contains a NUL character".to_owned())
        })
    };
    let arguments = request.arguments.iter().map(|a| text(a.as_bytes())).collect::<Result<Vec<_>, _>>()?;
    let mut environment = Vec::with_capacity(request.environment.len() + 1);
    for (name, value) in &request.environment {
        if name.is_empty() || name.contains('=') {
            let message = format!("`{name}` cannot be the name of an environment variable");
            return Err((SpawnError::Launch, message));
        }
        if name != MARKER {
            environment.push(text(format!("{name}={value}").as_bytes())?);
        }
    }
    environment.push(text(format!("{MARKER}={marker}").as_bytes())?);
    let image = sys::Image {
        program: &text(program.as_os_str().as_bytes())?,
        arguments: &arguments,
        environment: &environment,
        directory: &text(request.directory.as_bytes())?,
        stdin: null.as_fd(),
        stdout: stdout.as_fd(),
        stderr: stderr.as_fd(),
    };
    sys::spawn(&image).map_err(|error| {
        let reason = match error.raw_os_error() {
            Some(libc::ENOEXEC) => {
                "it is neither a program for this machine nor a script with a `#!` line".into()
            }
            Some(libc::ENOENT) => "its interpreter does not exist".into(),
            Some(libc::E2BIG) => "the command line and environment are too long".into(),
            _ => error.to_string(),
        };
        (SpawnError::Launch, format!("`{}` cannot be executed: {reason}", program.display()))
    })
}

/// Streams are new files: whatever an earlier attempt left, a link included, is not written through.
fn create(path: &str) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

/// The program's path by the rules of `task-execution.md` §5: absolute, relative to the working directory, else
/// along `PATH`.
fn find_program(request: &Spawn) -> Result<PathBuf, Failure> {
    let Some(name) = request.arguments.first().filter(|name| !name.is_empty()) else {
        return Err((SpawnError::NotFound, "the command line names no program".to_owned()));
    };
    if name.contains('/') {
        let path = Path::new(&request.directory).join(name);
        return match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {
                Err((SpawnError::Launch, format!("`{name}` is a directory")))
            }
            Ok(_) => Ok(path),
            Err(_) => Err((SpawnError::NotFound, format!("there is no program `{name}`"))),
        };
    }
    let search = request.environment.iter().rev().find(|(n, _)| n == "PATH").map_or("", |(_, v)| v.as_str());
    let mut denied = None;
    for directory in search.split(':') {
        let path = Path::new(&request.directory).join(directory).join(name);
        if directory.is_empty() || !path.is_file() {
            continue;
        }
        if access(&path, Access::EXEC_OK).is_ok() {
            return Ok(path);
        }
        denied = Some(path);
    }
    match denied {
        Some(path) => Err((SpawnError::Launch, format!("`{}` is not executable", path.display()))),
        None => Err((SpawnError::NotFound, format!("there is no program `{name}` in `{search}`"))),
    }
}
