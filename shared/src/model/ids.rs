//! Identifiers.
//!
//! Two kinds. *Names* are what users choose (`PoolId`, `JobId`, `TaskId`): 1–64 characters, case kept, compared
//! without case (spec `jobs-and-tasks.md` §1.1). *Keys* are what the replicated state counts up when a record is
//! made (`PoolKey`, `JobKey`, …): small integers, never used again, so that a re-used name is never confused with
//! its predecessor.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Why a text is not a valid name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Names have 1 to 64 characters.
    #[error("`{0}` must have 1 to 64 characters")]
    Length(String),
    /// Names consist of letters, digits, `-` and `_`.
    #[error("`{name}` contains `{character}`; only letters, digits, `-` and `_` are allowed")]
    Character {
        /// The text that was refused.
        name: String,
        /// The first character that is not allowed.
        character: char,
    },
}

const NAME_LENGTH_MAX: usize = 64;

/// What a schedule adds to its own name for its jobs: `:job-` and a number.
const RUN_LENGTH_MAX: usize = 15;

fn check_name(text: &str, also_allowed: &[char]) -> Result<(), InvalidName> {
    let of_run = text.contains(':') && also_allowed.contains(&':');
    let most = if of_run { NAME_LENGTH_MAX + RUN_LENGTH_MAX } else { NAME_LENGTH_MAX };
    if text.is_empty() || text.chars().count() > most {
        let shown: String = text.chars().take(NAME_LENGTH_MAX + 1).collect();
        return Err(InvalidName::Length(shown));
    }
    let allowed = |c: &char| c.is_ascii_alphanumeric() || *c == '-' || *c == '_' || also_allowed.contains(c);
    match text.chars().find(|c| !allowed(c)) {
        // What stands for a directory is no name.
        None if text.starts_with('.') => {
            Err(InvalidName::Character { name: text.to_owned(), character: '.' })
        }
        None => Ok(()),
        Some(character) => Err(InvalidName::Character { name: text.to_owned(), character }),
    }
}

macro_rules! define_name {
    ($(#[$doc:meta])* $name:ident, $also:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Serialize, Deserialize)]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks and takes a name as the user wrote it.
            pub fn new(text: &str) -> Result<Self, InvalidName> {
                check_name(text, $also)?;
                Ok(Self(text.into()))
            }

            /// The name as the user wrote it.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The form in which names are compared: ASCII lower case.
            pub fn folded(&self) -> String {
                self.0.to_ascii_lowercase()
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.0.eq_ignore_ascii_case(&other.0)
            }
        }

        impl Eq for $name {}

        impl std::hash::Hash for $name {
            fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
                self.folded().hash(state);
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> std::cmp::Ordering {
                let mine = self.0.bytes().map(|b| b.to_ascii_lowercase());
                let theirs = other.0.bytes().map(|b| b.to_ascii_lowercase());
                mine.cmp(theirs)
            }
        }
    };
}

define_name!(
    /// A pool's name, unique in its account.
    PoolId, &[]
);
define_name!(
    /// A job's name, unique in its account. Jobs of a schedule contain one `:` (`nightly:job-3`).
    JobId, &[':']
);
define_name!(
    /// A task's name, unique in its job.
    TaskId, &[]
);

define_name!(
    /// A job schedule's name, unique in its account among schedules and jobs.
    ScheduleId, &[]
);

define_name!(
    /// An application's name, unique in its account.
    ApplicationId, &[]
);
define_name!(
    /// The name of a version of an application; it may contain `.`, but not begin with it.
    PackageVersion, &['.']
);

impl JobId {
    /// The name of the `number`th job that a schedule makes.
    pub fn of_schedule(schedule: &ScheduleId, number: u32) -> JobId {
        JobId(format!("{schedule}:job-{number}").into())
    }

    /// The schedule that made it.
    pub fn schedule(&self) -> Option<ScheduleId> {
        ScheduleId::new(self.0.split_once(':')?.0).ok()
    }
}

impl TaskId {
    /// The integer that the id is the decimal form of, leading zeros aside; such ids are what ranges address.
    pub fn number(&self) -> Option<i32> {
        self.as_str().parse().ok()
    }
}

macro_rules! define_key {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        pub struct $name(pub $inner);

        impl $name {
            /// The key after this one.
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

define_key!(
    /// An account. Every command and every stored key starts with one.
    AccountId, u32
);
define_key!(
    /// A pool's record.
    PoolKey, u32
);
define_key!(
    /// A job's record.
    JobKey, u32
);
define_key!(
    /// A job schedule's record.
    ScheduleKey, u32
);
define_key!(
    /// A task's record; rises in the order of adding over all jobs.
    TaskKey, u64
);
define_key!(
    /// A node's record.
    NodeKey, u32
);
define_key!(
    /// A joined machine's record.
    HostKey, u32
);
define_key!(
    /// Which run of a task this is. 0 = never placed; the first attempt is 1. Fences everything said about a run.
    Attempt, u32
);
define_key!(
    /// Drawn anew each time a worker's keeper starts with nothing running; tells a restart of the worker process
    /// (same boot) from a loss of its tasks (another boot).
    BootId, u64
);

/// One run of one task: what reports, kills and recalls name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptRef {
    /// The task.
    pub task: TaskKey,
    /// Which of its runs.
    pub attempt: Attempt,
}

/// Who wrote something: an attempt, and the node it was given to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Producer {
    /// Where it ran.
    pub node: NodeKey,
    /// Which run of which task.
    pub attempt: AttemptRef,
}

impl fmt::Display for AttemptRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.task, self.attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_case_and_compare_without_it() {
        let a = JobId::new("Render-01").unwrap();
        assert_eq!(a, JobId::new("rENDER-01").unwrap());
        assert_eq!(a.as_str(), "Render-01");
        assert!(a < JobId::new("render-02").unwrap());
    }

    #[test]
    fn bad_names_say_what_is_wrong() {
        assert_eq!(TaskId::new(""), Err(InvalidName::Length(String::new())));
        assert!(matches!(TaskId::new(&"x".repeat(65)), Err(InvalidName::Length(_))));
        let bad = TaskId::new("a/b").unwrap_err();
        assert_eq!(bad.to_string(), "`a/b` contains `/`; only letters, digits, `-` and `_` are allowed");
        assert!(PoolId::new("s:job-1").is_err());
        assert!(JobId::new("s:job-1").is_ok());
        let longest = ScheduleId::new(&"s".repeat(64)).unwrap();
        let run = JobId::of_schedule(&longest, u32::MAX);
        assert_eq!(JobId::new(run.as_str()), Ok(run.clone()));
        assert_eq!(run.schedule(), Some(longest));
    }
}
