//! Applications and their packages (`spec/files-and-storage.md` §8).

use super::ids::{ApplicationId, PackageVersion};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A package that a pool or a task is to have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PackageReference {
    pub application: ApplicationId,
    /// `None`: the application's default version, as it is when the package is laid down on a node.
    pub version: Option<PackageVersion>,
}

impl fmt::Display for PackageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Some(version) => write!(f, "{}:{version}", self.application),
            None => write!(f, "{}", self.application),
        }
    }
}

impl PackageReference {
    /// The names of the variable that tells where it lies: as the ids are written, and in lower case if that differs.
    pub fn variables(&self) -> Vec<String> {
        let ids = match &self.version {
            Some(version) => format!("{}_{version}", self.application),
            None => self.application.to_string(),
        };
        let name = |ids: &str| format!("AZ_BATCH_APP_PACKAGE_{}", ids.replace(['.', '-', '#'], "_"));
        let mut names = vec![name(&ids)];
        let lower = name(&ids.to_ascii_lowercase());
        if lower != names[0] {
            names.push(lower);
        }
        names
    }
}

/// Where a version of an application lies below a node's root.
pub fn package_directory(application: &ApplicationId, version: &PackageVersion) -> String {
    format!("applications/{}/{}", application.folded(), version.folded())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(application: &str, version: Option<&str>) -> PackageReference {
        PackageReference {
            application: ApplicationId::new(application).unwrap(),
            version: version.map(|version| PackageVersion::new(version).unwrap()),
        }
    }

    #[test]
    fn variables_are_named_as_the_service_does() {
        assert_eq!(reference("blender", Some("2.7")).variables(), ["AZ_BATCH_APP_PACKAGE_blender_2_7"]);
        assert_eq!(reference("blender", None).variables(), ["AZ_BATCH_APP_PACKAGE_blender"]);
        let both = reference("Agent-linux-x64", Some("1.1.46.0")).variables();
        let expected = [
            "AZ_BATCH_APP_PACKAGE_Agent_linux_x64_1_1_46_0",
            "AZ_BATCH_APP_PACKAGE_agent_linux_x64_1_1_46_0",
        ];
        assert_eq!(both, expected);
    }

    #[test]
    fn versions_cannot_leave_their_directory() {
        for bad in ["..", ".", ".1", "a/b", "", "1 2"] {
            assert!(PackageVersion::new(bad).is_err(), "{bad}");
        }
        assert!(PackageVersion::new("1.0.0-rc_1").is_ok());
        assert!(ApplicationId::new("a.b").is_err());
    }
}
