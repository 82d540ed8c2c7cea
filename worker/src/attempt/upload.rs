//! Uploading output files (`files-and-storage.md` §5, codes §12): find what matches, give it a name, send it, and
//! write down what happened in the task's own logs.

use super::environment::expand;
use super::pattern::{Match, Pattern, lies_in};
use super::transfer::{Error, Retries, Sink, retrying, shown};
use crate::layout::TaskLayout;
use lote_shared::model::{FailureInfo, OutputFile, Producer};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Where and with what the patterns are read.
#[derive(Debug, Clone)]
pub struct Place {
    pub node_root: PathBuf,
    pub directories: TaskLayout,
    pub environment: BTreeMap<String, String>,
    /// Whose files they are.
    pub producer: Option<Producer>,
}

/// A file and the blob it becomes.
#[derive(Debug, PartialEq, Eq)]
struct Item {
    file: PathBuf,
    blob: String,
}

/// Uploads everything these output files match; the first failure is returned, the others are still tried.
pub async fn upload_all(
    sink: &dyn Sink,
    files: &[&OutputFile],
    place: &Place,
    retries: Retries,
) -> Option<FailureInfo> {
    let mut logs = Logs::open(&place.directories.directory);
    let mut first = None;
    for file in files {
        let looked = file.pattern.clone();
        let (wanted, place_) = ((*file).clone(), place.clone());
        let found = tokio::task::spawn_blocking(move || find(&wanted, &place_)).await;
        let (items, left_out) = found.unwrap_or_default();
        for path in left_out {
            logs.out(&format!(
                "`{}` is a link that leads out of the node's directory; not uploaded",
                path.display()
            ));
        }
        if items.is_empty() {
            logs.out(&format!("no file matches `{looked}`"));
        }
        for item in items {
            let container = &file.destination.url;
            let result = retrying(retries, || {
                let headers = &file.destination.headers;
                sink.upload(container, &item.blob, &item.file, headers, place.producer)
            })
            .await;
            let what = format!("`{}` to `{}/{}`", item.file.display(), shown(container), item.blob);
            match result {
                Ok(length) => logs.out(&format!("uploaded {what}, {length} bytes")),
                Err(error) => {
                    logs.err(&format!("could not upload {what}: {error}"));
                    first.get_or_insert_with(|| failure(&error, container, &item.file));
                }
            }
        }
    }
    first
}

/// What one output file matches now, and links left out.
fn find(file: &OutputFile, place: &Place) -> (Vec<Item>, Vec<PathBuf>) {
    let text = expand(&file.pattern, |name| place.environment.get(name).map(String::as_str));
    let pattern = Pattern::parse(&text, &place.directories.working());
    // Links may lead anywhere inside the node's directory. Patterns that start outside of it name files as the
    // task itself could read them, since for now it runs as the same user as we do.
    let confined = lies_in(&pattern.base, &place.node_root);
    let root = place.node_root.canonicalize().unwrap_or_else(|_| place.node_root.clone());
    let (mut items, mut left_out) = (Vec::new(), Vec::new());
    for found in pattern.find() {
        if confined && !found.path.canonicalize().is_ok_and(|real| real.starts_with(&root)) {
            left_out.push(found.path);
            continue;
        }
        let blob = blob_name(&file.destination.path, pattern.has_wildcard(), &found);
        items.push(Item { file: found.path, blob });
    }
    (items, left_out)
}

/// `path` is the blob's name for a plain pattern, a directory for one with wildcards.
fn blob_name(path: &str, wildcard: bool, found: &Match) -> String {
    let path = path.trim_matches('/');
    match (path.is_empty(), wildcard) {
        (true, _) => found.name.clone(),
        (false, false) => path.to_owned(),
        (false, true) => format!("{path}/{}", found.name),
    }
}

fn failure(error: &Error, container: &str, file: &Path) -> FailureInfo {
    let message = format!("an output file could not be uploaded: {error}");
    let failure = match error {
        Error::NotFound => FailureInfo::user("FileUploadContainerNotFound", message),
        Error::Denied(_) => FailureInfo::user("FileUploadAccessDenied", message),
        Error::Conflict(_) => FailureInfo::user("FileUploadConflict", message),
        Error::TimedOut => FailureInfo::server("FileUploadTimedOut", message),
        _ => FailureInfo::server("FileUploadMiscError", message),
    };
    let failure = match error.http_status() {
        Some(status) => failure.with("HttpStatus", status.to_string()),
        None => failure,
    };
    failure.with("FilePath", file.to_string_lossy()).with("Url", shown(container))
}

/// `fileuploadout.txt` and `fileuploaderr.txt`. What cannot be written to them is not worth failing a task for.
struct Logs {
    out: Option<std::fs::File>,
    err: Option<std::fs::File>,
}

impl Logs {
    fn open(directory: &Path) -> Logs {
        let create = |name: &str| std::fs::File::create(directory.join(name)).ok();
        Logs { out: create("fileuploadout.txt"), err: create("fileuploaderr.txt") }
    }

    fn out(&mut self, line: &str) {
        let _ = self.out.as_mut().map(|file| writeln!(file, "{line}"));
    }

    fn err(&mut self, line: &str) {
        let _ = self.err.as_mut().map(|file| writeln!(file, "{line}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lote_shared::model::{ContainerDestination, UploadCondition};

    #[test]
    fn blobs_are_named_by_the_table() {
        let root = tempfile::tempdir().unwrap();
        let task = root.path().join("workitems/j/job-1/t");
        for path in ["stdout.txt", "stderr.txt", "wd/res/a/b.csv", "wd/out.txt", "wd/t-1.log"] {
            std::fs::create_dir_all(task.join(path).parent().unwrap()).unwrap();
            std::fs::write(task.join(path), "x").unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", task.join("wd/escape.txt")).unwrap();
        std::os::unix::fs::symlink("../stdout.txt", task.join("wd/inner.lnk")).unwrap();
        let place = Place {
            node_root: root.path().to_owned(),
            directories: TaskLayout { directory: task.clone() },
            environment: [("AZ_BATCH_TASK_DIR".to_owned(), task.to_string_lossy().into_owned())].into(),
            producer: None,
        };
        let check = |pattern: &str, path: &str, expected: &[&str]| {
            let file = OutputFile {
                pattern: pattern.into(),
                destination: ContainerDestination {
                    url: "http://h/c".into(),
                    path: path.into(),
                    headers: vec![],
                },
                condition: UploadCondition::TaskCompletion,
            };
            let (items, left_out) = find(&file, &place);
            let blobs: Vec<_> = items.iter().map(|item| item.blob.as_str()).collect();
            assert_eq!(blobs, expected, "{pattern} to `{path}`");
            left_out.len()
        };
        check("../std*.txt", "t1", &["t1/stderr.txt", "t1/stdout.txt"]);
        check("../std*.txt", "", &["stderr.txt", "stdout.txt"]);
        check("res/**/*.csv", "x/", &["x/a/b.csv"]);
        check("out.txt", "named", &["named"]);
        check("out.txt", "", &["out.txt"]);
        check("res/a/b.csv", "", &["b.csv"]);
        check("$AZ_BATCH_TASK_DIR/wd/t-?.log", "", &["t-1.log"]);
        check("${AZ_BATCH_TASK_DIR}/stdout.txt", "", &["stdout.txt"]);
        check("*.lnk", "", &["inner.lnk"]);
        assert_eq!(check("e*.txt", "", &[]), 1, "the link that escapes is left out and counted");
        assert_eq!(check("escape.txt", "", &[]), 1);
    }
}
