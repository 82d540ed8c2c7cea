//! Where the files of nodes come from. The hosts have them; this trait is the way there, so that the routes can be
//! tested without a network.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use lote_shared::model::NodeKey;
use lote_shared::protocol::files::{Entry, Error, Properties};

/// An opened file: its properties, and exactly `length` bytes from `start`.
pub struct Content {
    pub properties: Properties,
    pub start: u64,
    pub length: u64,
    pub bytes: BoxStream<'static, Result<Bytes, std::io::Error>>,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Content { properties, start, length, .. } = self;
        write!(f, "Content {{ {properties:?}, {length} bytes from {start} }}")
    }
}

/// Reads the files of nodes. Paths are relative to the node's root, `/`-separated, without `..`; the host checks them
/// again. A host that is not connected is [`Error::NodeUnavailable`], within two seconds.
#[async_trait]
pub trait NodeFiles: Send + Sync + 'static {
    async fn stat(&self, node: NodeKey, path: &str) -> Result<Properties, Error>;

    /// Bytes `start .. end` of a file as it is now (`end` excluded, clamped to the length; `None` = to the end).
    /// Dropping the stream ends the transfer; reading it slowly slows the host down.
    async fn read(&self, node: NodeKey, path: &str, start: u64, end: Option<u64>) -> Result<Content, Error>;

    /// At most `max` entries below a directory, sorted by name, whose names (relative to it) start with `prefix`
    /// and come after `after`; and whether there are more.
    async fn list(&self, node: NodeKey, listing: Listing) -> Result<(Vec<Entry>, bool), Error>;

    async fn delete(&self, node: NodeKey, path: &str, recursive: bool) -> Result<(), Error>;
}

/// What to list; the members of [`lote_shared::protocol::files::Operation::List`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Directory, relative to the node's root; empty = the root.
    pub path: String,
    pub prefix: String,
    pub recursive: bool,
    pub after: Option<String>,
    pub max: u32,
}

/// No host is ever connected: for a coordinator without workers.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoFiles;

#[async_trait]
impl NodeFiles for NoFiles {
    async fn stat(&self, _: NodeKey, _: &str) -> Result<Properties, Error> {
        Err(Error::NodeUnavailable)
    }

    async fn read(&self, _: NodeKey, _: &str, _: u64, _: Option<u64>) -> Result<Content, Error> {
        Err(Error::NodeUnavailable)
    }

    async fn list(&self, _: NodeKey, _: Listing) -> Result<(Vec<Entry>, bool), Error> {
        Err(Error::NodeUnavailable)
    }

    async fn delete(&self, _: NodeKey, _: &str, _: bool) -> Result<(), Error> {
        Err(Error::NodeUnavailable)
    }
}
