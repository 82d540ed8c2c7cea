//! An application and its packages as apply sees them.

use super::super::reply::Version;
use lote_shared::model::{AccountId, ApplicationId, PackageVersion, Timestamp};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageRecord {
    pub version: PackageVersion,
    /// The blob with the zip, in a container of the account's own storage.
    pub container: String,
    pub blob: String,
    pub activated: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplicationRecord {
    pub account: AccountId,
    pub id: ApplicationId,
    pub version: Version,
    pub display_name: Option<String>,
    /// Whether packages can be replaced and deleted.
    pub allow_updates: bool,
    pub default_version: Option<PackageVersion>,
    /// In the order of first activation.
    pub packages: Vec<PackageRecord>,
}

impl ApplicationRecord {
    pub fn package(&self, version: &PackageVersion) -> Option<&PackageRecord> {
        self.packages.iter().find(|package| package.version == *version)
    }

    /// The package that a reference means now.
    pub fn meant(&self, version: Option<&PackageVersion>) -> Option<&PackageRecord> {
        self.package(version.or(self.default_version.as_ref())?)
    }
}
