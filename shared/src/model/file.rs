//! Files that tasks take in and give out (`spec/files-and-storage.md` §4, §5).

use super::application::PackageReference;
use super::ids::{ApplicationId, PackageVersion};
use serde::{Deserialize, Serialize};

/// Where a resource file's content comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResourceSource {
    /// One file by HTTP(S) GET.
    HttpUrl(String),
    /// Every blob of a container (read and list rights in the URL's SAS) whose name starts with `prefix`.
    ContainerUrl {
        /// Container URL with its SAS.
        url: String,
        /// Leading part of the blob names to take; empty takes all.
        prefix: String,
    },
    /// Every blob of a container of the account's own storage whose name starts with `prefix`.
    AutoStorage {
        /// Container name.
        container: String,
        /// Leading part of the blob names to take; empty takes all.
        prefix: String,
    },
    /// A version of an application, laid down once a node outside of `wd`. Only in what a host is sent, and only to
    /// hosts that say they know it ([`PACKAGES_LABEL`]).
    Package {
        application: ApplicationId,
        version: PackageVersion,
        /// Of the zip, with its SAS.
        url: String,
    },
    /// A package that is not to be had, and why; as the one before.
    NoPackage { reference: PackageReference, why: String },
}

/// The label of hosts that lay down application packages.
pub const PACKAGES_LABEL: (&str, &str) = ("lote.packages", "zip");

/// A file, or a container's worth of files, laid down in `wd` before the command starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceFile {
    /// Where the content comes from.
    pub source: ResourceSource,
    /// For one URL the file's path below `wd`; for containers the directory below `wd`. Empty = `wd` itself.
    pub file_path: String,
    /// Unix permission bits, e.g. `0o770`.
    pub file_mode: u32,
}

impl ResourceFile {
    /// The mode of a file whose request named none (`files-and-storage.md` §4).
    pub const DEFAULT_MODE: u32 = 0o770;
}

/// When an output file is uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UploadCondition {
    /// Exit code 0.
    TaskSuccess,
    /// Exit code other than 0, or a time-out.
    TaskFailure,
    /// Either.
    TaskCompletion,
}

/// A container that output goes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerDestination {
    /// Container URL with a SAS that may write.
    pub url: String,
    /// Blob name (pattern without wildcard) or virtual directory (with wildcard); empty = none given.
    pub path: String,
    /// Extra headers for the upload, already checked against the allow-list.
    pub headers: Vec<(String, String)>,
}

/// Files to upload after the command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputFile {
    /// Pattern relative to `wd`, or absolute.
    pub pattern: String,
    /// Where matches go.
    pub destination: ContainerDestination,
    /// When they go there.
    pub condition: UploadCondition,
}
