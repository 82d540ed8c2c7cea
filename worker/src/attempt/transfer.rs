//! The door through which files come and go: [`Source`] and [`Sink`].
//!
//! `http` implements both for any URL. `own` stands before it: it recognises the cluster's own storage and hands
//! everything else on. Content is streamed between network and disk; nothing here ever holds a whole file.

use futures::future::BoxFuture;
use lote_shared::chunks::Manifest;
use lote_shared::model::Producer;
use rand::Rng;
use std::io;
use std::path::Path;
use std::time::Duration;

/// Why a transfer failed, in the terms the failure codes need.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the server answered 404")]
    NotFound,
    #[error("the server answered {0}")]
    Denied(u16),
    #[error("the server answered {0}")]
    Conflict(u16),
    #[error("no answer in time")]
    TimedOut,
    #[error("the server answered {0}")]
    Status(u16),
    /// The connection or the content was broken; trying again may help.
    #[error("{0}")]
    Broken(String),
    /// Trying again cannot help: a bad URL, a refused redirect.
    #[error("{0}")]
    Refused(String),
    #[error("the local file cannot be created: {0}")]
    Create(io::Error),
    #[error("the local file cannot be written: {0}")]
    Write(io::Error),
    #[error("the local file cannot be read: {0}")]
    Read(io::Error),
}

impl Error {
    /// Whether the same request may well succeed a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::TimedOut | Error::Broken(_) => true,
            Error::Status(status) => matches!(status, 408 | 429 | 500..=599),
            _ => false,
        }
    }

    pub fn http_status(&self) -> Option<u16> {
        match self {
            Error::NotFound => Some(404),
            Error::Denied(status) | Error::Conflict(status) | Error::Status(status) => Some(*status),
            _ => None,
        }
    }
}

/// A blob of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    pub length: u64,
    /// Where the store says so.
    pub content: Option<Manifest>,
}

/// A file to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub url: String,
    /// If it is known already.
    pub content: Option<Manifest>,
}

impl Wanted {
    /// Of which nothing is known yet.
    pub fn at(url: impl Into<String>) -> Wanted {
        Wanted { url: url.into(), content: None }
    }
}

/// A part of a container's list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    pub blobs: Vec<Listed>,
    /// Where the next part begins; `None` at the end.
    pub next: Option<String>,
}

/// Where files come from.
pub trait Source: Send + Sync {
    /// Makes files ready that will be fetched next, where that is less work for all of them together, and gives them with
    /// what has become known. Whatever goes wrong here is for [`Source::fetch`] to say.
    fn gather(&self, files: Vec<Wanted>) -> BoxFuture<'_, Vec<Wanted>> {
        Box::pin(async { files })
    }

    /// Streams the content of `file` into the new or emptied file `target` with permission bits `mode`. Complete and
    /// checked (length; MD5 where given) when this returns; after an error the file's content is undefined.
    fn fetch<'a>(
        &'a self,
        file: &'a Wanted,
        target: &'a Path,
        mode: u32,
    ) -> BoxFuture<'a, Result<u64, Error>>;

    /// One part of the blobs of a container whose names start with `prefix`, in the server's order.
    fn list<'a>(
        &'a self,
        container: &'a str,
        prefix: &'a str,
        marker: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Page, Error>>;

    /// The URL of one blob of a container.
    fn blob_url(&self, container: &str, name: &str) -> Result<String, Error>;
}

/// Where files go.
pub trait Sink: Send + Sync {
    /// Stores the present content of `file` as blob `name` of the container, over whatever was there. Durable by
    /// the store's own promise when this returns the number of bytes. The cluster's own storage takes it only as long as
    /// `producer` is the task's latest attempt.
    fn upload<'a>(
        &'a self,
        container: &'a str,
        name: &'a str,
        file: &'a Path,
        headers: &'a [(String, String)],
        producer: Option<Producer>,
    ) -> BoxFuture<'a, Result<u64, Error>>;
}

/// How often a transient fault is tried again, and how long is waited first.
#[derive(Debug, Clone, Copy)]
pub struct Retries {
    pub count: u32,
    /// Before the first; doubles each time, with up to half of it added at random.
    pub first_delay: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Retries { count: 3, first_delay: Duration::from_millis(500) }
    }
}

/// Runs `operation`, again after transient faults.
pub async fn retrying<T, F>(retries: Retries, mut operation: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut delay = retries.first_delay;
    for _ in 0..retries.count {
        match operation().await {
            Err(error) if error.is_transient() => {
                let jitter = delay.mul_f64(rand::rng().random_range(0.0..0.5));
                tracing::debug!(%error, "transfer is tried again");
                tokio::time::sleep(delay + jitter).await;
                delay *= 2;
            }
            other => return other,
        }
    }
    operation().await
}

/// A URL as it may be shown: without query (signatures) and user information.
pub fn shown(url: &str) -> String {
    let bare = url.split(['?', '#']).next().unwrap_or_default();
    match bare.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}{path}")
        }
        None => bare.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        for (url, expected) in [
            ("https://a.blob/c/b?sig=s3cret#x", "https://a.blob/c/b"),
            ("http://user:pw@h:80/p", "http://h:80/p"),
            ("http://h", "http://h"),
            ("nonsense?sig=1", "nonsense"),
        ] {
            assert_eq!(shown(url), expected);
        }
    }

    #[tokio::test]
    async fn only_transient_faults_are_tried_again() {
        let retries = Retries { count: 3, first_delay: Duration::from_millis(1) };
        for (error, tries) in [
            ((|| Error::Status(503)) as fn() -> Error, 4),
            (|| Error::TimedOut, 4),
            (|| Error::Broken("x".into()), 4),
            (|| Error::NotFound, 1),
            (|| Error::Denied(403), 1),
            (|| Error::Status(400), 1),
            (|| Error::Write(io::ErrorKind::StorageFull.into()), 1),
        ] {
            let mut count = 0;
            let result: Result<(), Error> = retrying(retries, || {
                count += 1;
                async { Err(error()) }
            })
            .await;
            assert!(result.is_err());
            assert_eq!(count, tries, "{}", error());
        }
    }
}
