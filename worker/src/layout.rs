//! Where things lie on a host and on a node (`files-and-storage.md` §1).
//!
//! ```text
//! <data dir>/keeper/                 socket, exit records
//! <data dir>/nodes/<node id>/state   what the node knows about itself (`node::memory`)
//! <data dir>/nodes/<node id>/root    AZ_BATCH_NODE_ROOT_DIR: applications fsmounts shared startup volatile workitems
//! ```
//!
//! For now tasks run as the user of the worker process, so the whole tree belongs to that user; users of their own
//! and a mount namespace per node are the matter of `isolation/`.

use lote_shared::model::{JobId, TaskId, task_directory};
use std::path::{Component, Path, PathBuf};

/// Directories every node root has.
pub const NODE_DIRECTORIES: [&str; 6] =
    ["applications", "fsmounts", "shared", "startup", "volatile", "workitems"];

/// The directories of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLayout {
    pub root: PathBuf,
}

/// The directories of one task, or of the start task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskLayout {
    pub directory: PathBuf,
}

impl TaskLayout {
    pub fn working(&self) -> PathBuf {
        self.directory.join("wd")
    }

    pub fn stdout(&self) -> PathBuf {
        self.directory.join("stdout.txt")
    }

    pub fn stderr(&self) -> PathBuf {
        self.directory.join("stderr.txt")
    }
}

impl NodeLayout {
    pub fn new(root: PathBuf) -> NodeLayout {
        NodeLayout { root }
    }

    pub fn startup(&self) -> TaskLayout {
        TaskLayout { directory: self.root.join("startup") }
    }

    /// The directory of a task; `None` if an id is no valid name (ids come over the wire).
    pub fn task(&self, job_id: &str, task_id: &str) -> Option<TaskLayout> {
        Some(TaskLayout { directory: self.root.join(task_path(job_id, task_id)?) })
    }
}

/// The path of a task's directory below its node's root; `None` if an id is no valid name.
pub fn task_path(job_id: &str, task_id: &str) -> Option<String> {
    let (job, task) = (JobId::new(job_id).ok()?, TaskId::new(task_id).ok()?);
    let named = match job.as_str().split_once(':') {
        Some((schedule, run)) => !schedule.is_empty() && !run.is_empty() && !run.contains(':'),
        None => true,
    };
    named.then(|| task_directory(&job, &task))
}

/// A path from a request or a blob's name, made of plain names only: never absolute, never `..`. Empty parts and
/// `.` are dropped, `\` is left alone. `None` if the path could leave its directory.
pub fn inside(path: &str) -> Option<PathBuf> {
    if path.contains('\0') {
        return None;
    }
    let mut clean = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_directories_have_both_forms() {
        assert_eq!(task_path("render", "t1").as_deref(), Some("workitems/render/job-1/t1"));
        assert_eq!(task_path("nightly:job-3", "t1").as_deref(), Some("workitems/nightly/job-3/t1"));
        for (job, task) in
            [("..", "t"), ("a/b", "t"), ("a", ".."), ("a", ""), (":job-1", "t"), ("a:b:c", "t")]
        {
            assert_eq!(task_path(job, task), None, "{job} {task}");
        }
    }

    #[test]
    fn paths_stay_inside() {
        for (path, clean) in [
            ("a/b", Some("a/b")),
            ("a//b/./c", Some("a/b/c")),
            ("", Some("")),
            ("a/", Some("a")),
            ("..a", Some("..a")),
        ] {
            assert_eq!(inside(path), clean.map(PathBuf::from), "{path}");
        }
        for path in ["/a", "../a", "a/../../b", "a/..", "a\0b"] {
            assert_eq!(inside(path), None, "{path}");
        }
    }
}
