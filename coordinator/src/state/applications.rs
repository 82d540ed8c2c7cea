//! Applications: packages added, replaced and deleted, and references to them (`files-and-storage.md` §8).
//!
//! The content of a package is a blob of the account's own storage, written before it is activated here.

use super::cluster::{Cluster, LoadError};
use super::command::PackageChange;
use super::keys;
use super::records::{ApplicationRecord, PackageRecord};
use super::reply::{Outcome, Refusal, RefusalCode, Reply};
use super::step::Step;
use lote_shared::model::{AccountId, ApplicationId, PackageReference, PackageVersion};
use std::collections::BTreeSet;

/// Applications of one account.
pub const APPLICATIONS_MAX: usize = 200;
/// Packages of one application.
pub const PACKAGES_MAX: usize = 40;
/// References of one pool or task.
pub const REFERENCES_MAX: usize = 10;

fn bad_references(why: String) -> Refusal {
    Refusal::new(RefusalCode::InvalidApplicationPackageReferences).because(why)
}

impl Cluster {
    pub(super) fn change_application(
        &mut self,
        step: &mut Step,
        id: &ApplicationId,
        change: &PackageChange,
    ) -> Reply {
        match change {
            PackageChange::Activate { version, container, blob, is_default } => {
                let package = PackageRecord {
                    version: version.clone(),
                    container: container.clone(),
                    blob: blob.clone(),
                    activated: step.now,
                };
                self.activate(step, id, package, *is_default)
            }
            PackageChange::Delete { version } => self.delete_package(step, id, version),
            PackageChange::Settings { display_name, allow_updates, default_version } => {
                let mut record = self.application_named(step, id)?.clone();
                if let Some(Some(version)) = default_version
                    && record.package(version).is_none()
                {
                    return Err(RefusalCode::ApplicationNotFound.into());
                }
                record.display_name = display_name.clone().unwrap_or(record.display_name);
                record.allow_updates = allow_updates.unwrap_or(record.allow_updates);
                record.default_version = default_version.clone().unwrap_or(record.default_version);
                Ok(self.keep_application(step, record))
            }
            PackageChange::Remove => self.remove_application(step, id),
        }
    }

    fn application_named(&mut self, step: &Step, id: &ApplicationId) -> Result<&ApplicationRecord, Refusal> {
        let missing = || Refusal::new(RefusalCode::ApplicationNotFound);
        self.account_mut(step.account)?.applications.get(id).ok_or_else(missing)
    }

    fn activate(
        &mut self,
        step: &mut Step,
        id: &ApplicationId,
        package: PackageRecord,
        is_default: bool,
    ) -> Reply {
        let account = self.account_mut(step.account)?;
        let full =
            |what: String| Err(Refusal::new(RefusalCode::OperationInvalidForCurrentState).because(what));
        let mut record = match account.applications.get(id) {
            Some(record) => record.clone(),
            None if account.applications.len() >= APPLICATIONS_MAX => {
                return full(format!("the account has {APPLICATIONS_MAX} applications; delete one first"));
            }
            None => ApplicationRecord {
                account: step.account,
                id: id.clone(),
                version: Default::default(),
                display_name: None,
                allow_updates: true,
                default_version: None,
                packages: Vec::new(),
            },
        };
        if is_default {
            record.default_version = Some(package.version.clone());
        }
        let known = record.packages.iter().position(|known| known.version == package.version);
        match known {
            Some(_) if !record.allow_updates => {
                return full(format!("the packages of `{id}` cannot be replaced: its allowUpdates is false"));
            }
            Some(at) => record.packages[at] = package,
            None if record.packages.len() >= PACKAGES_MAX => {
                return full(format!("`{id}` has {PACKAGES_MAX} packages; delete one first"));
            }
            None => record.packages.push(package),
        }
        Ok(self.keep_application(step, record))
    }

    fn delete_package(&mut self, step: &mut Step, id: &ApplicationId, version: &PackageVersion) -> Reply {
        let mut record = self.application_named(step, id)?.clone();
        if record.package(version).is_none() {
            return Err(RefusalCode::ApplicationNotFound.into());
        }
        if !record.allow_updates {
            return Err(Refusal::new(RefusalCode::OperationInvalidForCurrentState)
                .because(format!("the packages of `{id}` cannot be deleted: its allowUpdates is false")));
        }
        record.packages.retain(|package| package.version != *version);
        if record.default_version.as_ref() == Some(version) {
            record.default_version = None;
        }
        Ok(self.keep_application(step, record))
    }

    fn remove_application(&mut self, step: &mut Step, id: &ApplicationId) -> Reply {
        let record = self.application_named(step, id)?;
        if !record.packages.is_empty() {
            return Err(Refusal::new(RefusalCode::OperationInvalidForCurrentState)
                .because(format!("`{id}` still has packages; delete them first")));
        }
        step.delete(keys::application(step.account, id));
        self.account_mut(step.account)?.applications.remove(id);
        Ok(Outcome::Done)
    }

    fn keep_application(&mut self, step: &mut Step, mut record: ApplicationRecord) -> Outcome {
        record.version = self.next_version(step);
        let version = record.version;
        step.put(keys::application(record.account, &record.id), &record);
        // Its account was found before.
        let _ = self.enter_application(record);
        Outcome::Record(version)
    }

    pub(super) fn enter_application(&mut self, record: ApplicationRecord) -> Result<(), LoadError> {
        let missing = || LoadError::Inconsistent(format!("application `{}` has no account", record.id));
        let account = self.accounts.get_mut(&record.account).ok_or_else(missing)?;
        account.applications.insert(record.id.clone(), record);
        Ok(())
    }

    /// Refuses references to what is not there, to the same thing twice, and to too many.
    pub(super) fn check_packages(
        &self,
        account: AccountId,
        references: &[PackageReference],
    ) -> Result<(), Refusal> {
        if references.len() > REFERENCES_MAX {
            return Err(bad_references(format!(
                "{} references; at most {REFERENCES_MAX} are allowed",
                references.len()
            )));
        }
        let mut variables = BTreeSet::new();
        for reference in references {
            let record = self.application(account, &reference.application);
            let record = record.ok_or_else(|| {
                bad_references(format!("there is no application `{}`", reference.application))
            })?;
            if record.meant(reference.version.as_ref()).is_none() {
                let what = match &reference.version {
                    Some(version) => {
                        format!("application `{}` has no version `{version}`", reference.application)
                    }
                    None => {
                        format!("application `{}` has no default version; name one", reference.application)
                    }
                };
                return Err(bad_references(what));
            }
            if !reference.variables().into_iter().all(|name| variables.insert(name)) {
                return Err(bad_references(format!("two references have the variable of `{reference}`")));
            }
        }
        Ok(())
    }

    pub fn application(&self, account: AccountId, id: &ApplicationId) -> Option<&ApplicationRecord> {
        self.accounts.get(&account)?.applications.get(id)
    }

    /// Applications of an account by id.
    pub fn applications(&self, account: AccountId) -> impl Iterator<Item = &ApplicationRecord> {
        self.accounts.get(&account).into_iter().flat_map(|account| account.applications.values())
    }
}
