//! Records in memory and their rows in the store. Both hold the same; a row adds the names that lead to it.

use super::super::reply::Version;
use lote_shared::chunks::Manifest;
use lote_shared::model::Timestamp;
use lote_shared::protocol::codec;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the encoding of rows.
const VERSION: u8 = 1;
/// Longest row that is read back.
const SIZE_MAX: u64 = 256 * 1024;

/// `x-ms-meta-…` names without the prefix, and values.
pub type Metadata = Vec<(String, String)>;

/// Headers that are stored with a blob and given back with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Headers {
    /// `None`: `application/octet-stream`.
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    pub content_language: Option<String>,
    pub content_disposition: Option<String>,
    pub cache_control: Option<String>,
    pub content_md5: Option<[u8; 16]>,
}

/// A stored access policy: what signatures that name it allow, and until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessPolicy {
    pub id: String,
    pub start: Option<Timestamp>,
    pub expiry: Option<Timestamp>,
    pub permissions: Option<String>,
}

/// What a blob is beyond its record. Grows only at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlobExtra {
    /// It is an append blob, of so many blocks.
    Append { blocks: u32 },
    /// It came to be as a copy.
    Copied(Copied),
}

/// Of a copy that is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    pub id: String,
    /// URL without its query.
    pub source: String,
    pub completed: Timestamp,
    pub bytes: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Container {
    pub name: Box<str>,
    pub created: Timestamp,
    pub version: Version,
    pub metadata: Metadata,
    pub policies: Vec<AccessPolicy>,
    pub(super) blobs: BTreeMap<Box<str>, Blob>,
    /// Set of staged blocks by blob name.
    pub(super) staged: BTreeMap<Box<str>, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    pub(super) key: u64,
    pub created: Timestamp,
    pub version: Version,
    pub content: Manifest,
    /// File with the ids and lengths of the committed blocks, if it was made from blocks.
    pub blocks: Option<Box<Manifest>>,
    pub metadata: Box<[(String, String)]>,
    pub(super) content_md5: Option<[u8; 16]>,
    /// All headers but the MD5, which nearly every blob has and most have alone.
    pub(super) other_headers: Option<Box<Headers>>,
    pub(super) extras: Box<[BlobExtra]>,
}

impl Blob {
    pub fn headers(&self) -> Headers {
        let mut headers = self.other_headers.as_deref().cloned().unwrap_or_default();
        headers.content_md5 = self.content_md5;
        headers
    }

    /// Blocks of an append blob; `None` if it is a block blob.
    pub fn appended(&self) -> Option<u32> {
        self.extras.iter().find_map(|extra| match extra {
            BlobExtra::Append { blocks } => Some(*blocks),
            BlobExtra::Copied(_) => None,
        })
    }

    /// The copy that made it, if one did.
    pub fn copied(&self) -> Option<&Copied> {
        self.extras.iter().find_map(|extra| match extra {
            BlobExtra::Copied(copied) => Some(copied),
            BlobExtra::Append { .. } => None,
        })
    }

    pub(super) fn set_headers(&mut self, headers: &Headers) {
        self.content_md5 = headers.content_md5;
        let others = Headers { content_md5: None, ..headers.clone() };
        self.other_headers = (others != Headers::default()).then(|| Box::new(others));
    }
}

/// Staged blocks of one blob name.
#[derive(Debug, PartialEq, Eq)]
pub struct BlockSet {
    pub(super) container: u64,
    pub(super) blob: Box<str>,
    /// Changes with every block that is added; never 0.
    pub generation: u64,
    /// When the last block was added.
    pub(super) last: Timestamp,
    /// By block id, as text in base64.
    pub blocks: BTreeMap<Box<str>, Block>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Block {
    pub(super) n: u64,
    pub content: Manifest,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ContainerRow {
    pub name: Box<str>,
    pub created: Timestamp,
    pub version: Version,
    pub metadata: Metadata,
    pub deleted: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct BlobRow {
    pub container: u64,
    pub name: Box<str>,
    pub created: Timestamp,
    pub version: Version,
    pub content: Manifest,
    pub blocks: Option<Manifest>,
    pub metadata: Metadata,
    pub headers: Headers,
}

/// What a blob is beyond its record.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExtrasRow {
    pub container: u64,
    pub name: Box<str>,
    pub extras: Vec<BlobExtra>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct SetRow {
    pub container: u64,
    pub blob: Box<str>,
    pub generation: u64,
    pub last: Timestamp,
    /// No blob name leads to it any more.
    pub dead: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct BlockRow {
    pub id: Box<str>,
    pub content: Manifest,
}

/// What is stored as one value.
pub trait Row: Serialize + DeserializeOwned {}

impl Row for ContainerRow {}
impl Row for BlobRow {}
impl Row for SetRow {}
impl Row for BlockRow {}
/// The policies of a container.
impl Row for Vec<AccessPolicy> {}
impl Row for ExtrasRow {}
/// The counter.
impl Row for u64 {}

pub fn encode(row: &impl Row) -> Vec<u8> {
    // Rows hold only plain data of bounded size, for which the codec has no error.
    codec::encode(VERSION, row).unwrap_or_default()
}

pub fn decode<T: Row>(value: &[u8]) -> Result<T, String> {
    codec::decode(VERSION, value, SIZE_MAX).map_err(|error| error.to_string())
}

impl Container {
    pub fn row(&self, deleted: bool) -> ContainerRow {
        ContainerRow {
            name: self.name.clone(),
            created: self.created,
            version: self.version,
            metadata: self.metadata.clone(),
            deleted,
        }
    }
}

impl From<ContainerRow> for Container {
    fn from(row: ContainerRow) -> Container {
        Container {
            name: row.name,
            created: row.created,
            version: row.version,
            metadata: row.metadata,
            policies: Vec::new(),
            blobs: BTreeMap::new(),
            staged: BTreeMap::new(),
        }
    }
}

impl Blob {
    pub(super) fn row(&self, container: u64, name: &str) -> BlobRow {
        BlobRow {
            container,
            name: name.into(),
            created: self.created,
            version: self.version,
            content: self.content,
            blocks: self.blocks.as_deref().copied(),
            metadata: self.metadata.to_vec(),
            headers: self.headers(),
        }
    }

    pub(super) fn extras_row(&self, container: u64, name: &str) -> ExtrasRow {
        ExtrasRow { container, name: name.into(), extras: self.extras.to_vec() }
    }
}

impl BlobRow {
    pub(super) fn into_blob(self, key: u64) -> Blob {
        let mut blob = Blob {
            key,
            created: self.created,
            version: self.version,
            content: self.content,
            blocks: self.blocks.map(Box::new),
            metadata: self.metadata.into(),
            content_md5: None,
            other_headers: None,
            extras: Box::default(),
        };
        blob.set_headers(&self.headers);
        blob
    }
}

impl BlockSet {
    pub(super) fn row(&self, dead: bool) -> SetRow {
        let (container, blob) = (self.container, self.blob.clone());
        SetRow { container, blob, generation: self.generation, last: self.last, dead }
    }
}

impl From<SetRow> for BlockSet {
    fn from(row: SetRow) -> BlockSet {
        BlockSet {
            container: row.container,
            blob: row.blob,
            generation: row.generation,
            last: row.last,
            blocks: BTreeMap::new(),
        }
    }
}
