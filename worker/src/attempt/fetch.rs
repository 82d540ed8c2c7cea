//! Laying down resource files in `wd` (`files-and-storage.md` §4, codes §12).
//!
//! Sources are taken in the order of the request. Runs of single URLs, and the blobs of one part of a container's
//! list, are fetched side by side; where two name the same file the later one wins, as it would one by one.

use super::packages;
use super::transfer::{Error, Retries, Source, Wanted, retrying, shown};
use crate::layout::inside;
use futures::{StreamExt, stream};
use lote_shared::model::{FailureInfo, ResourceFile, ResourceSource};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Files on their way at the same time.
const FETCHES_AT_ONCE: usize = 8;

/// One file to fetch.
struct Item {
    file: Wanted,
    mode: u32,
}

/// Fetches everything, or says what failed first. Files go below `working`, application packages below the node's root.
pub async fn fetch_all(
    source: &dyn Source,
    files: &[ResourceFile],
    (working, root): (&Path, &Path),
    retries: Retries,
) -> Result<(), FailureInfo> {
    let mut run: BTreeMap<PathBuf, Item> = BTreeMap::new();
    for file in files {
        let path = inside(&file.file_path).ok_or_else(|| outside(&file.file_path))?;
        let (container, prefix) = match &file.source {
            ResourceSource::HttpUrl(url) => {
                if path.as_os_str().is_empty() {
                    return Err(outside(&file.file_path));
                }
                run.insert(path, Item { file: Wanted::at(url), mode: file.file_mode });
                continue;
            }
            ResourceSource::ContainerUrl { url, prefix } => (url, prefix),
            ResourceSource::Package { application, version, url } => {
                packages::deploy(source, root, (application, version), url, retries).await?;
                continue;
            }
            ResourceSource::NoPackage { reference, why } => return Err(packages::failure(reference, why)),
            ResourceSource::AutoStorage { container, .. } => {
                let message = format!("container `{container}` reached the node without its URL");
                return Err(FailureInfo::server("ResourceContainerListMiscError", message));
            }
        };
        fetch_run(source, std::mem::take(&mut run), working, retries).await?;
        fetch_container(source, (container, prefix), &path, file.file_mode, working, retries).await?;
    }
    fetch_run(source, run, working, retries).await
}

async fn fetch_container(
    source: &dyn Source,
    (container, prefix): (&str, &str),
    below: &Path,
    mode: u32,
    working: &Path,
    retries: Retries,
) -> Result<(), FailureInfo> {
    let mut marker: Option<String> = None;
    loop {
        let page = retrying(retries, || source.list(container, prefix, marker.as_deref()))
            .await
            .map_err(|error| list_failure(&error, container))?;
        let mut run = BTreeMap::new();
        for blob in page.blobs.into_iter().filter(|blob| blob.name.starts_with(prefix)) {
            let path = inside(&blob.name).ok_or_else(|| outside(&blob.name))?;
            // A blob that only stands for a directory.
            if blob.name.ends_with('/') && blob.length == 0 {
                make_directory(&working.join(below).join(path)).await?;
                continue;
            }
            let url =
                source.blob_url(container, &blob.name).map_err(|error| list_failure(&error, container))?;
            run.insert(below.join(path), Item { file: Wanted { url, content: blob.content }, mode });
        }
        fetch_run(source, run, working, retries).await?;
        match page.next {
            // A server that gives the same marker again would keep us here for ever.
            Some(next) if marker.as_ref() != Some(&next) => marker = Some(next),
            _ => return Ok(()),
        }
    }
}

async fn fetch_run(
    source: &dyn Source,
    run: BTreeMap<PathBuf, Item>,
    working: &Path,
    retries: Retries,
) -> Result<(), FailureInfo> {
    let (places, files): (Vec<_>, Vec<_>) =
        run.into_iter().map(|(path, item)| ((path, item.mode), item.file)).unzip();
    let files = source.gather(files).await;
    let fetches = places.into_iter().zip(files).map(|((path, mode), file)| async move {
        let target = working.join(&path);
        if let Some(parent) = target.parent() {
            make_directory(parent).await?;
        }
        retrying(retries, || source.fetch(&file, &target, mode))
            .await
            .map(drop)
            .map_err(|error| fetch_failure(&error, &file.url, &path))
    });
    let mut fetches = stream::iter(fetches).buffer_unordered(FETCHES_AT_ONCE);
    while let Some(result) = fetches.next().await {
        result?;
    }
    Ok(())
}

async fn make_directory(path: &Path) -> Result<(), FailureInfo> {
    tokio::fs::create_dir_all(path).await.map_err(|error| {
        let message = format!("the directory of a resource file cannot be created: {error}");
        local_failure(&error, "ResourceDirectoryCreateFailed", message)
    })
}

/// No space is a failure of its own, whatever was being written.
pub fn local_failure(error: &io::Error, code: &str, message: String) -> FailureInfo {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FailureInfo::server("DiskFull", message),
        _ => FailureInfo::server(code, message),
    }
}

fn outside(path: &str) -> FailureInfo {
    let message = format!("`{path}` is no path inside the task's working directory");
    FailureInfo::server("ResourceFileCreateFailed", message).with("FilePath", path)
}

fn with_status(failure: FailureInfo, error: &Error) -> FailureInfo {
    match error.http_status() {
        Some(status) => failure.with("HttpStatus", status.to_string()),
        None => failure,
    }
}

fn fetch_failure(error: &Error, url: &str, path: &Path) -> FailureInfo {
    let message = format!("a resource file could not be downloaded: {error}");
    let failure = match error {
        Error::NotFound => FailureInfo::user("BlobNotFound", message),
        Error::Denied(_) => FailureInfo::user("BlobAccessDenied", message),
        Error::TimedOut => FailureInfo::server("BlobDownloadTimedOut", message),
        Error::Create(inner) => local_failure(inner, "ResourceFileCreateFailed", message),
        Error::Write(inner) | Error::Read(inner) => local_failure(inner, "ResourceFileWriteFailed", message),
        Error::Conflict(_) | Error::Status(_) | Error::Broken(_) | Error::Refused(_) => {
            FailureInfo::server("BlobDownloadMiscError", message)
        }
    };
    with_status(failure, error).with("FilePath", path.to_string_lossy()).with("Url", shown(url))
}

fn list_failure(error: &Error, container: &str) -> FailureInfo {
    let message = format!("a container of resource files could not be listed: {error}");
    let failure = match error {
        Error::NotFound => FailureInfo::user("ResourceContainerNotFound", message),
        Error::Denied(_) => FailureInfo::user("ResourceContainerAccessDenied", message),
        Error::TimedOut => FailureInfo::server("ResourceContainerListTimedOut", message),
        _ => FailureInfo::server("ResourceContainerListMiscError", message),
    };
    with_status(failure, error).with("Url", shown(container))
}
