//! Application packages on their way to a node (`files-and-storage.md` §8.2): which versions its pool and a task mean now,
//! as files to lay down and variables that tell where.

use crate::state::{ApplicationRecord, Cluster};
use lote_shared::model::{
    EnvironmentSetting, NodeKey, PACKAGES_LABEL, PackageReference, PackageVersion, PoolExtra, ResourceFile,
    ResourceSource, package_directory,
};

/// A package as it is meant now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meant {
    reference: PackageReference,
    /// Its version, and the container and blob of the zip; or why it is not to be had.
    package: Result<(PackageVersion, String, String), String>,
}

/// Packages of the node's pool, and of a task beside them; `None` if there are some and the node's host is of a build that
/// knows none.
pub(super) fn meant(cluster: &Cluster, node: NodeKey, task: &[PackageReference]) -> Option<Vec<Meant>> {
    let record = cluster.node(node)?;
    let mut references: Vec<&PackageReference> =
        PoolExtra::packages(cluster.pool_extras(record.pool)).iter().collect();
    for reference in task {
        if !references.contains(&reference) {
            references.push(reference);
        }
    }
    let knows = |label: &(String, String)| (label.0.as_str(), label.1.as_str()) == PACKAGES_LABEL;
    let is_known = cluster.host(record.host).is_some_and(|host| host.capacity.labels.iter().any(knows));
    if !references.is_empty() && !is_known {
        return None;
    }
    let all = references.into_iter().map(|reference| {
        let application = cluster.application(record.account, &reference.application);
        Meant { reference: reference.clone(), package: look(application, reference) }
    });
    Some(all.collect())
}

fn look(
    application: Option<&ApplicationRecord>,
    reference: &PackageReference,
) -> Result<(PackageVersion, String, String), String> {
    let application = application.ok_or("the application is not there any more")?;
    match application.meant(reference.version.as_ref()) {
        Some(package) => Ok((package.version.clone(), package.container.clone(), package.blob.clone())),
        None if reference.version.is_some() => Err("the application has no such version any more".to_owned()),
        None => Err("the application has no default version any more".to_owned()),
    }
}

/// Puts packages before the files and settings of a task or start task. `url` gives the address of a blob.
pub(super) fn add(
    packages: Vec<Meant>,
    files: &mut Vec<ResourceFile>,
    environment: &mut Vec<EnvironmentSetting>,
    url: impl Fn(&str, &str) -> String,
) {
    let mut first = Vec::new();
    for Meant { reference, package } in packages {
        let application = reference.application.clone();
        let source = match package {
            Err(why) => ResourceSource::NoPackage { reference, why },
            Ok((version, container, blob)) => {
                let directory =
                    format!("$AZ_BATCH_NODE_ROOT_DIR/{}", package_directory(&application, &version));
                for name in reference.variables() {
                    environment.retain(|setting| setting.name != name);
                    environment.push(EnvironmentSetting { name, value: directory.clone() });
                }
                ResourceSource::Package { application, version, url: url(&container, &blob) }
            }
        };
        first.push(ResourceFile { source, file_path: String::new(), file_mode: ResourceFile::DEFAULT_MODE });
    }
    files.splice(0..0, first);
}
