//! The environment of a task's process (`files-and-storage.md` §2): pure, from what the node and the task are.
//!
//! Later beats earlier: defaults (`PATH`, `HOME`, `LANG`, `USER`, `LOGNAME`) < job settings < task settings < the
//! service's `AZ_BATCH_…`. Nothing of the worker's own environment gets through.

use crate::layout::{NodeLayout, TaskLayout};
use lote_shared::model::EnvironmentSetting;
use lote_shared::protocol::host::NodeGrant;
use std::collections::BTreeMap;
use std::path::Path;

/// The search path when the user sets none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the environment is made from.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    pub grant: &'a NodeGrant,
    pub node: &'a NodeLayout,
    pub directories: &'a TaskLayout,
    /// Job id, task id and the job's settings; `None` for the start task.
    pub task: Option<(&'a str, &'a str, &'a [EnvironmentSetting])>,
    /// The task's (or start task's) own settings.
    pub settings: &'a [EnvironmentSetting],
    /// The user the process runs as.
    pub user: &'a str,
    /// Free space below which the node becomes unusable.
    pub reserved_disk_bytes: u64,
}

/// Names and values, sorted by name.
pub fn environment(sources: &Sources<'_>) -> BTreeMap<String, String> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let working = text(&sources.directories.working());
    let root = &sources.node.root;
    let grant = sources.grant;

    let mut service: BTreeMap<&str, String> = BTreeMap::new();
    service.insert("AZ_BATCH_ACCOUNT_NAME", grant.account_name.clone());
    service.insert("AZ_BATCH_ACCOUNT_URL", grant.account_url.clone());
    service.insert("AZ_BATCH_POOL_ID", grant.pool_id.clone());
    service.insert("AZ_BATCH_NODE_ID", grant.node_id.clone());
    service.insert("AZ_BATCH_NODE_IS_DEDICATED", grant.dedicated.to_string());
    service.insert("AZ_BATCH_NODE_ROOT_DIR", text(root));
    service.insert("AZ_BATCH_NODE_SHARED_DIR", text(&root.join("shared")));
    service.insert("AZ_BATCH_NODE_STARTUP_DIR", text(&root.join("startup")));
    service.insert("AZ_BATCH_NODE_STARTUP_WORKING_DIR", text(&root.join("startup/wd")));
    service.insert("AZ_BATCH_NODE_MOUNTS_DIR", text(&root.join("fsmounts")));
    service.insert("AZ_BATCH_TASK_DIR", text(&sources.directories.directory));
    service.insert("AZ_BATCH_TASK_WORKING_DIR", working.clone());
    service
        .insert("AZ_BATCH_TASK_RESERVED_EPHEMERAL_DISK_SPACE_BYTES", sources.reserved_disk_bytes.to_string());
    let mut users: Vec<&EnvironmentSetting> = Vec::new();
    if let Some((job_id, task_id, job_settings)) = sources.task {
        service.insert("AZ_BATCH_JOB_ID", job_id.to_owned());
        service.insert("AZ_BATCH_TASK_ID", task_id.to_owned());
        users.extend(job_settings);
    }
    users.extend(sources.settings);

    let defaults = [
        ("PATH", DEFAULT_PATH),
        ("HOME", working.as_str()),
        ("LANG", "C.UTF-8"),
        ("USER", sources.user),
        ("LOGNAME", sources.user),
    ];
    let mut all: BTreeMap<String, String> =
        defaults.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    for setting in users {
        let value = expand(&setting.value, |name| {
            name.starts_with("AZ_BATCH_").then(|| service.get(name).map(String::as_str)).flatten()
        });
        all.insert(setting.name.clone(), value);
    }
    all.extend(service.into_iter().map(|(name, value)| (name.to_owned(), value)));
    all
}

/// Replaces `$NAME` and `${NAME}` where `lookup` knows the name; everything else, other `$` included, stays.
pub fn expand<'a>(text: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let (name, end) = match braced {
            Some((name, tail)) => (name, tail),
            None => {
                let length =
                    after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
                after.split_at(length)
            }
        };
        match lookup(name) {
            Some(value) => {
                out.push_str(value);
                rest = end;
            }
            None => {
                out.push('$');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use lote_shared::model::{AccountId, NodeKey};

    fn grant() -> NodeGrant {
        NodeGrant {
            node: NodeKey(3),
            node_id: "tvm-3".into(),
            pool_id: "p".into(),
            account: AccountId(1),
            account_name: "local".into(),
            account_url: "http://127.0.0.1:11000".into(),
            dedicated: false,
            slots: 2,
            cores: 2,
            start_task: None,
        }
    }

    fn settings(pairs: &[(&str, &str)]) -> Vec<EnvironmentSetting> {
        let setting = |(name, value): &(&str, &str)| EnvironmentSetting {
            name: (*name).into(),
            value: (*value).into(),
        };
        pairs.iter().map(setting).collect()
    }

    fn build(task: bool, job: &[(&str, &str)], own: &[(&str, &str)]) -> BTreeMap<String, String> {
        let node = NodeLayout::new("/r".into());
        let directories = if task { node.task("j", "t").unwrap() } else { node.startup() };
        let (job, own) = (settings(job), settings(own));
        environment(&Sources {
            grant: &grant(),
            node: &node,
            directories: &directories,
            task: task.then_some(("j", "t", job.as_slice())),
            settings: &own,
            user: "root",
            reserved_disk_bytes: 1_000_000,
        })
    }

    fn check(found: &BTreeMap<String, String>, expected: Expect) {
        let lines: Vec<String> = found.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        expected.assert_eq(&lines.concat());
    }

    #[test]
    fn a_task_sees_the_whole_table() {
        check(
            &build(true, &[], &[]),
            expect![[r#"
                AZ_BATCH_ACCOUNT_NAME=local
                AZ_BATCH_ACCOUNT_URL=http://127.0.0.1:11000
                AZ_BATCH_JOB_ID=j
                AZ_BATCH_NODE_ID=tvm-3
                AZ_BATCH_NODE_IS_DEDICATED=false
                AZ_BATCH_NODE_MOUNTS_DIR=/r/fsmounts
                AZ_BATCH_NODE_ROOT_DIR=/r
                AZ_BATCH_NODE_SHARED_DIR=/r/shared
                AZ_BATCH_NODE_STARTUP_DIR=/r/startup
                AZ_BATCH_NODE_STARTUP_WORKING_DIR=/r/startup/wd
                AZ_BATCH_POOL_ID=p
                AZ_BATCH_TASK_DIR=/r/workitems/j/job-1/t
                AZ_BATCH_TASK_ID=t
                AZ_BATCH_TASK_RESERVED_EPHEMERAL_DISK_SPACE_BYTES=1000000
                AZ_BATCH_TASK_WORKING_DIR=/r/workitems/j/job-1/t/wd
                HOME=/r/workitems/j/job-1/t/wd
                LANG=C.UTF-8
                LOGNAME=root
                PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
                USER=root
            "#]],
        );
    }

    #[test]
    fn the_start_task_has_no_job_and_its_own_directory() {
        let found = build(false, &[], &[]);
        assert_eq!(found.get("AZ_BATCH_JOB_ID"), None);
        assert_eq!(found.get("AZ_BATCH_TASK_ID"), None);
        assert_eq!(found["AZ_BATCH_TASK_DIR"], "/r/startup");
        assert_eq!(found["HOME"], "/r/startup/wd");
    }

    #[test]
    fn task_beats_job_beats_default_and_the_service_beats_all() {
        let found = build(
            true,
            &[("X", "1"), ("Y", "1"), ("PATH", "/opt")],
            &[("X", "2"), ("AZ_BATCH_TASK_ID", "forged"), ("AZ_BATCH_OWN", "kept")],
        );
        for (name, value) in
            [("X", "2"), ("Y", "1"), ("PATH", "/opt"), ("AZ_BATCH_TASK_ID", "t"), ("AZ_BATCH_OWN", "kept")]
        {
            assert_eq!(found[name], value, "{name}");
        }
    }

    #[test]
    fn only_references_to_the_service_are_expanded() {
        for (written, expanded) in [
            ("$AZ_BATCH_TASK_ID", "t"),
            ("a/${AZ_BATCH_TASK_ID}/b", "a/t/b"),
            ("$AZ_BATCH_TASK_ID.$AZ_BATCH_JOB_ID", "t.j"),
            ("$AZ_BATCH_TASK_IDX", "$AZ_BATCH_TASK_IDX"),
            ("$HOME ${PATH} $$ $", "$HOME ${PATH} $$ $"),
            ("p4$$w0rd${", "p4$$w0rd${"),
            ("$AZ_BATCH_OWN", "$AZ_BATCH_OWN"),
            ("ü$AZ_BATCH_TASK_IDü", "ütü"),
        ] {
            let found = build(true, &[], &[("AZ_BATCH_OWN", "x"), ("V", written)]);
            assert_eq!(found["V"], expanded, "{written}");
        }
    }
}
