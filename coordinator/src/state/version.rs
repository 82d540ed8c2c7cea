//! The cluster version: which rules and commands hold (`docs/decisions/0007-rolling-upgrades.md`).
//!
//! A build supports a range of versions. The cluster is at one of them, which is replicated state; it is raised by a
//! command once every coordinator supports the next, and never lowered. What a build does that an older one does not
//! know, or would do otherwise, depends on it: [`Action::since`] says from which version on a command may be proposed,
//! and a rule of `apply` whose outcome changed asks [`Cluster::version`]. So builds whose ranges have the cluster's
//! version in common work side by side, and any of them can be put in the place of another.
//!
//! To add a version: a constant here with what it brings, [`NEWEST`] moved to it, the new commands' place in
//! [`Action::since`], the recorded log of the version before (`replication/tests/golden.rs`).

use super::cluster::Cluster;
use super::command::Action;
use super::keys;
use super::reply::{MembershipCode as Code, Outcome, Refusal, RefusalCode, Reply};
use super::step::{ROW_VERSION, Step};
use lote_shared::model::Timestamp;
use lote_shared::protocol::build::Build;
use lote_shared::protocol::codec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// A set of rules and commands; a later one has all of the earlier ones' commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterVersion(pub u32);

impl ClusterVersion {
    /// What a cluster is at that says nothing of its version: the builds of before there were any.
    pub const V1: ClusterVersion = ClusterVersion(1);
    /// The version itself, and that it can be held; removal of coordinators in two steps, draining of workers, outputs that
    /// are judged by their attempt, entries with a fence, questions between coordinators about clocks and older disks; and
    /// dependencies, exit conditions, job schedules.
    pub const V2: ClusterVersion = ClusterVersion(2);
    /// What jobs and tasks have beyond their specs: auto pools, manager, preparation and release tasks, tokens,
    /// application packages.
    pub const V3: ClusterVersion = ClusterVersion(3);
    /// Stored access policies, append blobs, and copies that say what they are copies of.
    pub const V4: ClusterVersion = ClusterVersion(4);
    /// Of a build for tests, which is to be told from this one by what it does: ETags go up by two, and a command.
    #[cfg(feature = "next-version")]
    pub const NEXT: ClusterVersion = ClusterVersion(5);
}

impl Default for ClusterVersion {
    fn default() -> ClusterVersion {
        ClusterVersion::V1
    }
}

impl fmt::Display for ClusterVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The first version that this build supports.
pub const OLDEST: ClusterVersion = ClusterVersion::V1;
/// The last one.
#[cfg(not(feature = "next-version"))]
pub const NEWEST: ClusterVersion = ClusterVersion::V4;
#[cfg(feature = "next-version")]
pub const NEWEST: ClusterVersion = ClusterVersion::NEXT;

/// What this build calls itself.
#[cfg(not(feature = "next-version"))]
pub const SOFTWARE: &str = env!("CARGO_PKG_VERSION");
#[cfg(feature = "next-version")]
pub const SOFTWARE: &str = concat!(env!("CARGO_PKG_VERSION"), "+next-version");

/// Longest name of a build that is believed.
const SOFTWARE_MAX: usize = 64;

/// A range of versions, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Supported {
    pub oldest: ClusterVersion,
    pub newest: ClusterVersion,
}

/// What this build supports.
pub const SUPPORTED: Supported = Supported { oldest: OLDEST, newest: NEWEST };

/// What a build of before there were versions supports; it does not say so.
pub const UNTOLD: Supported = Supported { oldest: ClusterVersion::V1, newest: ClusterVersion::V1 };

impl Supported {
    pub fn includes(&self, version: ClusterVersion) -> bool {
        (self.oldest..=self.newest).contains(&version)
    }

    /// Whether a build that calls itself `software` can work in a cluster at this version.
    pub fn check(&self, software: &str, cluster: ClusterVersion) -> Result<(), Unsupported> {
        let (software, supported) = (software.to_owned(), *self);
        if cluster > self.newest {
            Err(Unsupported::TooOld { cluster, software, supported })
        } else if cluster < self.oldest {
            Err(Unsupported::TooNew { cluster, software, supported })
        } else {
            Ok(())
        }
    }
}

impl fmt::Display for Supported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.oldest == self.newest {
            write!(f, "version {} alone", self.oldest)
        } else {
            write!(f, "versions {} to {}", self.oldest, self.newest)
        }
    }
}

/// A build cannot work in this cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    #[error(
        "the cluster is at version {cluster}, and lote {software} supports {supported}: start a newer build here, one \
         that supports version {cluster}; a cluster never goes back (next time, `lote upgrade hold` before the upgrade \
         keeps the way back open)"
    )]
    TooOld { cluster: ClusterVersion, software: String, supported: Supported },
    #[error(
        "the cluster is at version {cluster}, and lote {software} supports {supported}: upgrade by way of a build that \
         supports version {cluster} and version {} as well, and see `lote upgrade status` before the next step",
        supported.oldest
    )]
    TooNew { cluster: ClusterVersion, software: String, supported: Supported },
}

/// What this build tells the others of itself.
pub fn build() -> Build {
    Build { software: SOFTWARE.to_owned(), oldest: OLDEST.0, newest: NEWEST.0 }
}

/// What another says of its build, if it makes sense.
pub fn read_build(build: &Build) -> Option<(String, Supported)> {
    let supported = Supported { oldest: ClusterVersion(build.oldest), newest: ClusterVersion(build.newest) };
    let is_sane = supported.oldest >= ClusterVersion::V1
        && supported.oldest <= supported.newest
        && build.software.len() <= SOFTWARE_MAX
        && build.software.bytes().all(|byte| byte.is_ascii_graphic());
    is_sane.then(|| (build.software.clone(), supported))
}

/// Of a build as one word of a header: `0.1.0/1-2`.
pub fn build_text() -> String {
    format!("{SOFTWARE}/{OLDEST}-{NEWEST}")
}

/// What [`build_text`] said.
pub fn parse_build_text(text: &str) -> Option<(String, Supported)> {
    let (software, range) = text.rsplit_once('/')?;
    let (oldest, newest) = range.split_once('-')?;
    let build =
        Build { software: software.to_owned(), oldest: oldest.parse().ok()?, newest: newest.parse().ok()? };
    read_build(&build)
}

/// What a coordinator said of itself when the raise was proposed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    pub peer: String,
    pub supported: Supported,
}

/// The version and since when, as it is stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct VersionRow {
    version: ClusterVersion,
    raised: Timestamp,
}

/// The part of the state that this module owns.
#[derive(Debug, Default)]
pub(super) struct Upgrade {
    row: VersionRow,
    held_since: Option<Timestamp>,
    /// What the build for tests has noted.
    rehearsed: Option<String>,
}

/// Rows of the membership table that are this module's, by the first byte of their key.
pub(super) const VERSION_ROW: u8 = 4;
pub(super) const HOLD_ROW: u8 = 5;
pub(super) const REHEARSAL_ROW: u8 = 255;

impl Upgrade {
    /// Takes a row back into memory; false if it is none of ours.
    pub fn load(&mut self, rest: &[u8], value: &[u8]) -> Result<bool, String> {
        fn decode<T: serde::de::DeserializeOwned>(value: &[u8]) -> Result<T, String> {
            codec::decode(ROW_VERSION, value, codec::LIMIT_DEFAULT).map_err(|error| error.to_string())
        }
        match rest {
            [VERSION_ROW] => self.row = decode(value)?,
            [HOLD_ROW] => self.held_since = Some(decode(value)?),
            [REHEARSAL_ROW] => self.rehearsed = Some(decode(value)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub fn version(&self) -> ClusterVersion {
        self.row.version
    }
}

impl Action {
    /// The version from which on this may be proposed. A build that supports an older one alone cannot decode it, and
    /// would stop at the entry that carries it.
    pub fn since(&self) -> ClusterVersion {
        match self {
            // Before it is proposed at version 1, every coordinator has said that it knows versions.
            Action::VersionRaise { .. } => ClusterVersion::V1,
            Action::VersionHold
            | Action::VersionRelease
            | Action::CoordinatorLeave { .. }
            | Action::CoordinatorLeft { .. }
            | Action::MemberReplace { .. }
            | Action::HostDrain { .. }
            | Action::Output { .. }
            | Action::TiedTasksAdd { .. }
            | Action::ScheduleAdd { .. }
            | Action::ScheduleChange { .. }
            | Action::ScheduleCheck { .. } => ClusterVersion::V2,
            Action::JobAddWith { .. }
            | Action::JobPatchWith { .. }
            | Action::ScheduleAddWith { .. }
            | Action::SchedulePatchWith { .. }
            | Action::TasksAddWith { .. }
            | Action::PoolAddWith { .. }
            | Action::PoolPatchWith { .. }
            | Action::ApplicationChange { .. } => ClusterVersion::V3,
            Action::Blob(action) => action.since(),
            #[cfg(feature = "next-version")]
            Action::Rehearse { .. } => ClusterVersion::NEXT,
            Action::AccountAdd { .. }
            | Action::PoolAdd { .. }
            | Action::PoolPatch { .. }
            | Action::PoolResize { .. }
            | Action::PoolStopResize { .. }
            | Action::PoolDelete { .. }
            | Action::PoolSettled { .. }
            | Action::HostJoined { .. }
            | Action::HostUnknown { .. }
            | Action::HostLost { .. }
            | Action::NodeGrant { .. }
            | Action::NodeRevoke { .. }
            | Action::NodeGone { .. }
            | Action::NodeReport { .. }
            | Action::JobAdd { .. }
            | Action::JobPatch { .. }
            | Action::JobDisable { .. }
            | Action::JobEnable { .. }
            | Action::JobTerminate { .. }
            | Action::JobDelete { .. }
            | Action::JobExpire { .. }
            | Action::JobCheckComplete { .. }
            | Action::TasksAdd { .. }
            | Action::TaskPut { .. }
            | Action::TaskTerminate { .. }
            | Action::TaskReactivate { .. }
            | Action::TaskDelete { .. }
            | Action::Assign { .. }
            | Action::Recalled { .. }
            | Action::Report { .. }
            | Action::RetryDue { .. }
            | Action::Continue { .. }
            | Action::ClusterInit { .. }
            | Action::TokenAdd { .. }
            | Action::TokenRevoke { .. }
            | Action::MemberAdmit { .. }
            | Action::MemberRemove { .. }
            | Action::HostPresented { .. }
            | Action::CoordinatorFounded { .. } => ClusterVersion::V1,
        }
    }
}

/// What is to become of the version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prospect {
    /// Every coordinator supports this version and no newer one.
    Newest,
    /// Would be raised, but for the hold.
    Held(ClusterVersion),
    /// Raised as soon as these coordinators support it: peers, and what each of them supports; `None`: it is silent.
    Waits {
        to: ClusterVersion,
        until: Vec<(String, Option<Supported>)>,
    },
    Raise {
        to: ClusterVersion,
        witnesses: Vec<Witness>,
    },
}

/// What a cluster with these coordinators comes to, of whom `said` have told what they support just now.
pub fn prospect<'a>(
    current: ClusterVersion,
    is_held: bool,
    coordinators: impl Iterator<Item = &'a str>,
    said: &BTreeMap<String, Supported>,
) -> Prospect {
    let all: Vec<(&str, Option<Supported>)> =
        coordinators.map(|peer| (peer, said.get(peer).copied())).collect();
    let told = || all.iter().filter_map(|(_, supported)| *supported);
    let wanted = told().map(|supported| supported.newest).max().unwrap_or(current);
    if wanted <= current {
        return Prospect::Newest;
    }
    let oldest = told().map(|supported| supported.oldest).max().unwrap_or(current);
    let common = told().map(|supported| supported.newest).min().unwrap_or(current);
    let is_complete = all.iter().all(|(_, supported)| supported.is_some());
    if !is_complete || common <= current || oldest > common {
        let lacks = |supported: &Option<Supported>| supported.is_none_or(|it| !it.includes(wanted));
        let until = all.iter().filter(|(_, supported)| lacks(supported));
        let until = until.map(|(peer, supported)| ((*peer).to_owned(), *supported)).collect();
        return Prospect::Waits { to: wanted, until };
    }
    if is_held {
        return Prospect::Held(common);
    }
    let witness = |(peer, supported): &(&str, Option<Supported>)| {
        Some(Witness { peer: (*peer).to_owned(), supported: (*supported)? })
    };
    Prospect::Raise { to: common, witnesses: all.iter().filter_map(witness).collect() }
}

fn refuse(code: Code, detail: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::Membership(code)).because(detail)
}

/// What may be asked.
impl Cluster {
    /// Which rules hold.
    pub fn version(&self) -> ClusterVersion {
        self.upgrade.version()
    }

    /// Since when the version is held, if it is.
    pub fn version_held(&self) -> Option<Timestamp> {
        self.upgrade.held_since
    }

    /// Which build of tests has noted that it was here.
    pub fn rehearsed(&self) -> Option<&str> {
        self.upgrade.rehearsed.as_deref()
    }

    /// How far one change moves the ETags on.
    #[cfg(feature = "next-version")]
    pub(super) fn etag_step(&self) -> u64 {
        if self.version() >= ClusterVersion::NEXT { 2 } else { 1 }
    }

    #[cfg(not(feature = "next-version"))]
    pub(super) fn etag_step(&self) -> u64 {
        1
    }
}

impl Cluster {
    /// Nobody proposes it too early ([`crate::engine::Engine`]), and on all replicas it would be refused alike.
    pub(super) fn check_since(&self, action: &Action) -> Result<(), Refusal> {
        let (since, version) = (action.since(), self.version());
        if since <= version {
            return Ok(());
        }
        let detail = format!("this needs cluster version {since}; the cluster is at {version}");
        Err(Refusal::new(RefusalCode::OperationInvalidForCurrentState).because(detail))
    }

    pub(super) fn raise_version(
        &mut self,
        step: &mut Step,
        to: ClusterVersion,
        witnesses: &[Witness],
    ) -> Reply {
        if to <= self.version() {
            return Ok(Outcome::Done);
        }
        if let Some(since) = self.upgrade.held_since {
            let detail =
                format!("version {} is held since {since}; see `lote upgrade release`", self.version());
            return Err(refuse(Code::VersionHeld, detail));
        }
        // Who was admitted since the witnesses were asked, or comes with another build, has to be asked too.
        for member in self.coordinators() {
            let witness = witnesses.iter().find(|witness| witness.peer == member.peer);
            if !witness.is_some_and(|witness| witness.supported.includes(to)) {
                let detail =
                    format!("coordinator `{}` has not said that it supports version {to}", member.name);
                return Err(refuse(Code::VersionNotSupported, detail));
            }
        }
        self.upgrade.row = VersionRow { version: to, raised: step.now };
        step.put(keys::upgrade(VERSION_ROW), &self.upgrade.row);
        Ok(Outcome::Done)
    }

    pub(super) fn hold_version(&mut self, step: &mut Step) -> Reply {
        if self.upgrade.held_since.is_none() {
            let now = step.now;
            self.upgrade.held_since = Some(now);
            step.put(keys::upgrade(HOLD_ROW), &now);
        }
        Ok(Outcome::Done)
    }

    pub(super) fn release_version(&mut self, step: &mut Step) -> Reply {
        if self.upgrade.held_since.take().is_some() {
            step.delete(keys::upgrade(HOLD_ROW));
        }
        Ok(Outcome::Done)
    }

    #[cfg(feature = "next-version")]
    pub(super) fn rehearse(&mut self, step: &mut Step, software: &str) -> Reply {
        step.put(keys::upgrade(REHEARSAL_ROW), &software.to_owned());
        self.upgrade.rehearsed = Some(software.to_owned());
        Ok(Outcome::Done)
    }
}
