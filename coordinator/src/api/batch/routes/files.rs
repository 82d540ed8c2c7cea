//! Files of tasks and nodes (`files-and-storage.md` §7). Both are files below a directory of some node; only where
//! that is differs.

use super::{field, list_answer};
use crate::api::batch::answers::file as answers;
use crate::api::batch::call::Call;
use crate::api::batch::errors::{Code, Error};
use crate::api::batch::files::Listing;
use crate::api::batch::lookup;
use crate::api::batch::requests::parts::stays_inside;
use crate::api::batch::response::{Answer, Body, row};
use crate::api::odata::{Field, Kind, Operators};
use crate::state::{Cluster, TaskPlace};
use futures::StreamExt;
use lote_shared::model::{NodeKey, task_directory};
use lote_shared::protocol::files::{Error as FileError, Properties};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

const FIELDS: [Field; 1] = [field("name", Kind::Text, Operators::Prefix)];
/// What stays as it is in a file's URL.
const PATH: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
/// What stays as it is in a header that carries an encoded URL.
const HEADER: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where the files of a request lie.
#[derive(Debug)]
pub struct Place {
    node: NodeKey,
    /// Below the node's root; empty = the root itself.
    directory: String,
    /// URL of the file operations of this task or node.
    url: String,
    /// Whether the retention time of the task has passed.
    retention_over: bool,
    /// The file's path as the client gave it, slashes only; empty for lists.
    path: String,
}

/// Files of a task, in the directory of its latest attempt.
pub async fn of_task(call: &Call<'_>) -> Result<Place, Error> {
    let look = |cluster: &Cluster| lookup::task(cluster, call.account, call.parameter(0), call.parameter(1));
    let task = call.read(look).await??;
    let node = task.place.as_ref().and_then(|place| place.key).ok_or(Code::TaskFilesUnavailable)?;
    let ended = task.record.ended.filter(|_| matches!(task.record.place, TaskPlace::Completed { .. }));
    let retention_ms = task.record.constraints.retention.as_limit_ms();
    let over =
        |ended: lote_shared::model::Timestamp| retention_ms.is_some_and(|ms| ended.plus_ms(ms) < call.now);
    Ok(Place {
        node,
        directory: task_directory(&task.job, &task.record.id),
        url: format!("{}/jobs/{}/tasks/{}/files", call.base, task.job, task.record.id),
        retention_over: ended.is_some_and(over),
        path: path(call.parameter(2))?,
    })
}

/// Files of a node, from its root.
pub async fn of_node(call: &Call<'_>) -> Result<Place, Error> {
    let look = |cluster: &Cluster| {
        let (pool, node) = lookup::node_record(cluster, call.account, call.parameter(0), call.parameter(1))?;
        let url = super::super::answers::node::url(&call.base, pool.id.as_str(), &node.id);
        Ok::<_, Error>((node.key, format!("{url}/files")))
    };
    let (node, url) = call.read(look).await??;
    let path = path(call.parameter(2))?;
    Ok(Place { node, directory: String::new(), url, retention_over: false, path })
}

/// A path with single slashes only that stays where it belongs; empty for the directory itself.
fn path(given: &str) -> Result<String, Error> {
    if !stays_inside(given.trim_start_matches(['/', '\\'])) {
        return Err(Error::new(Code::InvalidUri).because("The path of a file must not contain `..`."));
    }
    let parts = given.split(['/', '\\']).filter(|part| !part.is_empty() && *part != ".");
    Ok(parts.collect::<Vec<_>>().join("/"))
}

impl Place {
    /// The file of the request, below the node's root. The directory that all files lie in is not one of them.
    fn file(&self) -> Result<String, Error> {
        if self.path.is_empty() {
            return Err(Code::FileNotFound.into());
        }
        Ok(self.below(&self.path))
    }

    /// A path below the node's root.
    fn below(&self, path: &str) -> String {
        match (self.directory.is_empty(), path.is_empty()) {
            (true, _) => path.to_owned(),
            (false, true) => self.directory.clone(),
            (false, false) => format!("{}/{path}", self.directory),
        }
    }

    fn url_of(&self, path: &str) -> String {
        format!("{}/{}", self.url, utf8_percent_encode(path, &PATH))
    }

    fn refuse(&self, error: FileError) -> Error {
        match error {
            FileError::NotFound if self.retention_over => Code::TaskFilesCleanedup.into(),
            FileError::NotFound => Code::FileNotFound.into(),
            FileError::NodeUnavailable => Code::TaskFilesUnavailable.into(),
            FileError::NotEmpty => Error::new(Code::OperationInvalidForCurrentState)
                .because("The directory is not empty; ask for recursive deletion."),
            FileError::InvalidRange { length } => {
                Error::new(Code::InvalidRange).with("ContentLength", length.to_string())
            }
            FileError::OutsideRoot => {
                Error::new(Code::InvalidUri).because("The path leaves the files of the node.")
            }
            FileError::Io(why) => {
                tracing::warn!(node = %self.node, %why, "a node could not read a file");
                Error::new(Code::InternalError).because("The node could not read the file.")
            }
        }
    }

    /// Headers that describe a file.
    fn describe(&self, answer: Answer, properties: &Properties) -> Answer {
        let encoded = utf8_percent_encode(&self.url_of(&self.path), &HEADER).to_string();
        answer
            .header("last-modified", properties.modified.to_http_date())
            .header("etag", format!("0x{:X}{:X}", properties.modified.0, properties.length))
            .header("ocp-batch-file-isdirectory", if properties.directory { "True" } else { "False" })
            .header("ocp-batch-file-mode", answers::mode_text(properties.mode))
            .header("ocp-batch-file-url", encoded)
            .header("content-type", answers::CONTENT_TYPE)
    }
}

/// A byte range: from, and up to but without; or so many from the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Range {
    From(u64, Option<u64>),
    Last(u64),
}

/// Reads `ocp-range: bytes=a-b`; both ends are included there.
fn range(call: &Call) -> Result<Option<Range>, Error> {
    let Some(text) = call.headers.get("ocp-range").and_then(|value| value.to_str().ok()) else {
        return Ok(None);
    };
    parse_range(text).map(Some).ok_or_else(|| Error::new(Code::InvalidRange).with("HeaderValue", text))
}

fn parse_range(text: &str) -> Option<Range> {
    let (unit, range) = text.trim().split_once('=')?;
    let (first, last) = range.split_once('-')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    match (first.trim(), last.trim()) {
        ("", last) => last.parse().ok().filter(|count| *count > 0).map(Range::Last),
        (first, "") => Some(Range::From(first.parse().ok()?, None)),
        (first, last) => {
            let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
            (first <= last).then(|| Range::From(first, Some(last.saturating_add(1))))
        }
    }
}

/// Judges the two dates that reads of files take: 304 or 412.
fn check_dates(call: &Call, properties: &Properties) -> Result<(), Error> {
    let condition = call.condition()?;
    let seconds = |time: lote_shared::model::Timestamp| time.0 / 1000;
    let modified = seconds(properties.modified);
    if condition.if_modified_since.is_some_and(|since| modified <= seconds(since)) {
        return Err(Error::not_modified());
    }
    if condition.if_unmodified_since.is_some_and(|since| modified > seconds(since)) {
        return Err(Code::ConditionNotMet.into());
    }
    Ok(())
}

/// The bytes, streamed; with a range too the status is 200 (WIRE.md §5).
pub async fn get(call: &Call<'_>, place: &Place) -> Result<Answer, Error> {
    let wanted = range(call)?;
    let path = place.file()?;
    let refuse = |error| place.refuse(error);
    let (start, end) = match wanted {
        None => (0, None),
        Some(Range::From(start, end)) => (start, end),
        Some(Range::Last(count)) => {
            let properties = call.api.files.stat(place.node, &path).await.map_err(refuse)?;
            (properties.length.saturating_sub(count), None)
        }
    };
    let content = call.api.files.read(place.node, &path, start, end).await.map_err(refuse)?;
    if content.properties.directory {
        return Err(Code::FileNotFound.into());
    }
    check_dates(call, &content.properties)?;
    let body = Body::File { length: content.length, bytes: content.bytes };
    Ok(place.describe(Answer { status: 200, headers: Vec::new(), body }, &content.properties))
}

/// The headers alone, with the file's real length.
pub async fn properties(call: &Call<'_>, place: &Place) -> Result<Answer, Error> {
    let path = place.file()?;
    let properties = call.api.files.stat(place.node, &path).await.map_err(|error| place.refuse(error))?;
    check_dates(call, &properties)?;
    let length = if properties.directory { 0 } else { properties.length };
    let body = Body::File { length, bytes: futures::stream::empty().boxed() };
    Ok(place.describe(Answer { status: 200, headers: Vec::new(), body }, &properties))
}

pub async fn delete(call: &Call<'_>, place: &Place) -> Result<Answer, Error> {
    let recursive = call.query.boolean("recursive")?;
    let path = place.file()?;
    call.api.files.delete(place.node, &path, recursive).await.map_err(|error| place.refuse(error))?;
    Ok(Answer::empty(200))
}

/// Children of the directory, or everything below it; a prefix with slashes narrows the directory itself.
pub async fn list(call: &Call<'_>, place: &Place) -> Result<Answer, Error> {
    let wanted = call.query.max_results(super::PAGE_MAX)?;
    let after = call.query.after()?;
    let recursive = call.query.boolean("recursive")?;
    let filter = call.query.filter(&FIELDS)?;
    let prefix = match &filter {
        None => String::new(),
        Some(filter) => {
            filter.only_prefix("name").map(|prefix| prefix.replace('\\', "/")).ok_or_else(|| {
                let reason = "files can only be filtered by one startswith(name, …)";
                Error::query(Code::InvalidQueryParameterValue, "$filter", "", reason)
            })?
        }
    };
    if !stays_inside(&prefix) {
        // Nothing that this may name has such a name.
        return Ok(list_answer(call, "files", &[], None));
    }
    let (narrowed, prefix) = match prefix.rsplit_once('/') {
        Some((directory, rest)) => (format!("{directory}/"), rest.to_owned()),
        None => (String::new(), prefix),
    };
    let listing = Listing {
        path: place.below(narrowed.trim_end_matches('/')),
        prefix,
        recursive,
        after: after.map(|name| name.strip_prefix(&narrowed).map(str::to_owned).unwrap_or(name)),
        max: u32::try_from(wanted).unwrap_or(u32::MAX),
    };
    let (entries, more) = match call.api.files.list(place.node, listing).await {
        Ok(found) => found,
        // A prefix that names a directory which is not there selects nothing.
        Err(FileError::NotFound) if !narrowed.is_empty() => (Vec::new(), false),
        Err(error) => return Err(place.refuse(error)),
    };
    let select = call.query.select();
    let mut rows = Vec::with_capacity(entries.len());
    let mut last = None;
    for entry in entries {
        let name = format!("{narrowed}{}", entry.name);
        rows.push(row(select.as_ref(), |object| {
            answers::write(object, &place.url_of(&name), &name, &entry.properties);
        }));
        last = Some(name);
    }
    Ok(list_answer(call, "files", &rows, last.filter(|_| more)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let check = |text: &str, expected: Option<Range>| assert_eq!(parse_range(text), expected, "{text}");
        check("bytes=0-1023", Some(Range::From(0, Some(1024))));
        check("Bytes = 5-5", Some(Range::From(5, Some(6))));
        check("bytes=7-", Some(Range::From(7, None)));
        check("bytes=-9", Some(Range::Last(9)));
        check("bytes=0-18446744073709551615", Some(Range::From(0, Some(u64::MAX))));
        for bad in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=-0",
            "bytes=5-4",
            "bytes=a-b",
            "lines=1-2",
            "bytes=1-2,4-5",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn paths_keep_inside() {
        assert_eq!(path("wd\\out.txt").unwrap(), "wd/out.txt");
        assert_eq!(path("/wd//a/").unwrap(), "wd/a");
        assert_eq!(path("./wd/./a").unwrap(), "wd/a");
        for directory in ["", "/", ".", "./", "\\"] {
            assert_eq!(path(directory).unwrap(), "", "{directory}");
        }
        for bad in ["..", "a/../b", "a\\..\\..\\b"] {
            assert_eq!(path(bad).unwrap_err().code, Code::InvalidUri, "{bad}");
        }
    }
}
