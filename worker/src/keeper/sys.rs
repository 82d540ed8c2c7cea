//! The system calls of the keeper that neither `std` nor rustix offers: `posix_spawn` into a new session, waiting
//! for signals, and the clock that counts on through sleep.
//!
//! Why not `std::process::Command`: a new session needs `pre_exec`, which makes `std` fork (measured in
//! `docs/dependencies.md`: 26 launches a second from a large parent), and `process_group(0)`, which stays on the fast
//! path, leaves every task in the keeper's session. The session is one of the signs by which processes of an
//! attempt are found again, so it is worth these lines. glibc carries `posix_spawn` out as `clone(CLONE_VM |
//! CLONE_VFORK)`: the cost does not grow with the keeper, and a failure of `exec` comes back as the return value.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// Milliseconds of `CLOCK_BOOTTIME`: never set, the same in all processes of the machine, runs while it sleeps.
pub fn boottime_ms() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec for the call to fill in.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    assert_eq!(result, 0, "CLOCK_BOOTTIME exists since Linux 2.6.39");
    now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000
}

/// What a new process gets.
pub struct Image<'a> {
    pub program: &'a CStr,
    pub arguments: &'a [CString],
    /// `NAME=value` each.
    pub environment: &'a [CString],
    pub directory: &'a CStr,
    pub stdin: BorrowedFd<'a>,
    pub stdout: BorrowedFd<'a>,
    pub stderr: BorrowedFd<'a>,
}

fn check(code: libc::c_int) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}

struct Actions(libc::posix_spawn_file_actions_t);

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialised in `spawn`, destroyed once.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

struct Attributes(libc::posix_spawnattr_t);

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised in `spawn`, destroyed once.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

/// Starts a process as leader of a new session, with default signal handling, and returns its id. All other file
/// descriptors of ours are close-on-exec (Rust's default).
pub fn spawn(image: &Image<'_>) -> io::Result<u32> {
    let pointers = |strings: &[CString]| -> Vec<*mut libc::c_char> {
        strings.iter().map(|s| s.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
    };
    let arguments = pointers(image.arguments);
    let environment = pointers(image.environment);
    let mut pid: libc::pid_t = 0;
    // SAFETY: attributes and actions are initialised before use and destroyed by their guards; every pointer
    // handed over (strings, argument vectors) outlives the call, which copies what it keeps; the vectors end in
    // null as the C interface asks.
    unsafe {
        let mut attributes = MaybeUninit::uninit();
        check(libc::posix_spawnattr_init(attributes.as_mut_ptr()))?;
        let mut attributes = Attributes(attributes.assume_init());
        let mut actions = MaybeUninit::uninit();
        check(libc::posix_spawn_file_actions_init(actions.as_mut_ptr()))?;
        let mut actions = Actions(actions.assume_init());

        let mut signals = MaybeUninit::uninit();
        libc::sigemptyset(signals.as_mut_ptr());
        check(libc::posix_spawnattr_setsigmask(&raw mut attributes.0, signals.as_ptr()))?;
        libc::sigfillset(signals.as_mut_ptr());
        check(libc::posix_spawnattr_setsigdefault(&raw mut attributes.0, signals.as_ptr()))?;
        let flags = libc::POSIX_SPAWN_SETSIGMASK as libc::c_short
            | libc::POSIX_SPAWN_SETSIGDEF as libc::c_short
            | libc::POSIX_SPAWN_SETSID as libc::c_short;
        check(libc::posix_spawnattr_setflags(&raw mut attributes.0, flags))?;

        for (from, to) in [(image.stdin, 0), (image.stdout, 1), (image.stderr, 2)] {
            let from = from.as_raw_fd();
            check(libc::posix_spawn_file_actions_adddup2(&raw mut actions.0, from, to))?;
        }
        check(libc::posix_spawn_file_actions_addchdir_np(&raw mut actions.0, image.directory.as_ptr()))?;
        check(libc::posix_spawn(
            &raw mut pid,
            image.program.as_ptr(),
            &raw const actions.0,
            &raw const attributes.0,
            arguments.as_ptr(),
            environment.as_ptr(),
        ))?;
    }
    u32::try_from(pid).map_err(io::Error::other)
}

fn termination_signals() -> libc::sigset_t {
    let mut signals = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set that the others then change.
    unsafe {
        libc::sigemptyset(signals.as_mut_ptr());
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::sigaddset(signals.as_mut_ptr(), signal);
        }
        signals.assume_init()
    }
}

/// Blocks SIGTERM, SIGINT and SIGHUP in this thread and those it starts later, for [`wait_for_termination`].
pub fn block_termination() -> io::Result<()> {
    let signals = termination_signals();
    // SAFETY: a valid set, no old set wanted.
    check(unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, ptr::null_mut()) })
}

/// Waits for one of the signals that [`block_termination`] blocked.
pub fn wait_for_termination() -> io::Result<i32> {
    let signals = termination_signals();
    let mut signal = 0;
    // SAFETY: a valid set and a place for the answer.
    check(unsafe { libc::sigwait(&raw const signals, &raw mut signal) })?;
    Ok(signal)
}
