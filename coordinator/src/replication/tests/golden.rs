//! Recorded logs: what an earlier cluster version wrote must come to the same state for ever.
//!
//! `coordinator/golden/version-N/` holds the log of a member whose cluster was at version N while every kind of command
//! went by, and the index and state hash it had at its end. Whoever raises the newest version records the next one:
//!
//! ```sh
//! LOTE_RECORD_GOLDEN=1 cargo nextest run -p lote-coordinator golden
//! ```
//! A folder that is there is never written again: if its hash changes, the rule that changed has to be gated.

use crate::engine::Engine;
use crate::replication::applier::{Applier, MemoryHome};
use crate::replication::log::{FolderDisk, Log, Options};
use crate::replication::machine::{EngineMachine, load_cluster};
use crate::replication::snapshot::Snapshots;
use crate::replication::types::{self, TypeConfig};
use crate::replication::{Config, open};
use crate::state::blobs::{AccessPolicy, BlobAction, BlobExtra, Copied, Headers};
use crate::state::testing::ACCOUNT;
use crate::state::tests::random;
use crate::state::{Action, Cluster, ClusterVersion, Command, Condition, IdempotencyKey};
use crate::store::{MemoryStore, SwitchStore};
use lote_shared::chunks::{Manifest, Position, Tree, tree};
use lote_shared::model::Timestamp;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Commands that are proposed together, so that entries carry one or several.
const TOGETHER: usize = 5;
const ENTRY_BYTES: usize = 1024 * 1024;
/// The newest version of which there is a log: that of the build without features.
const RECORDED: ClusterVersion = ClusterVersion::V4;

fn folder(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("golden/version-{version}"))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// The index and the state hash to which a log brings an empty state, and that state.
fn replay(golden: &Path) -> (String, Cluster) {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("log");
    copy(&golden.join("log"), &path);
    let options = Options { inline: true, may_create: false, ..Options::default() };
    let log = Log::open(Arc::new(FolderDisk::open(&path).unwrap()), &options).unwrap();
    let store = Arc::new(SwitchStore::new(Arc::new(MemoryStore::new())));
    let (engine, _queue) = Engine::new(Cluster::new(), store.clone());
    let machine = Arc::new(EngineMachine::new(&engine, store));
    let snapshots = Snapshots::open(&scratch.path().join("snapshots")).unwrap();
    let mut applier = Applier::open(machine, Box::new(MemoryHome), snapshots).unwrap();
    let end = log.state().last.unwrap().index + 1;
    let mut next = 0;
    while next < end {
        let entries = log.read(next..end, ENTRY_BYTES).unwrap();
        assert!(!entries.is_empty(), "entry {next} is not there");
        for entry in entries {
            next = entry.id.index + 1;
            applier.apply(&types::from_log::<TypeConfig>(&entry).unwrap()).unwrap();
        }
    }
    let applied = applier.applied();
    let hash: String = applied.hash.iter().map(|byte| format!("{byte:02x}")).collect();
    (format!("{} {hash}\n", applied.index().unwrap()), load_cluster(&**engine.store()).unwrap())
}

/// Files come and go too, of which random histories know nothing.
fn files(version: u32) -> Vec<Command> {
    let manifest = |n: u64| {
        let root = tree::chunk_id(&n.to_le_bytes(), Position::Whole);
        Manifest { length: n + 1, root, tree: Tree::Chunk }
    };
    let (container, any) = ("data".to_owned(), Condition::default());
    let put = |name: &str, n| BlobAction::Put {
        container: container.clone(),
        blob: name.to_owned(),
        condition: any.clone(),
        content: manifest(n),
        headers: Headers { content_md5: Some([n as u8; 16]), ..Headers::default() },
        metadata: vec![("n".to_owned(), n.to_string())],
        composed: None,
    };
    let stage = |n| BlobAction::Stage {
        container: container.clone(),
        blob: "staged".to_owned(),
        id: format!("block-{n}"),
        content: manifest(n),
    };
    let (name, blob) = (container.clone(), "a".to_owned());
    let actions = [
        BlobAction::ContainerCreate { name: name.clone(), metadata: Vec::new() },
        BlobAction::ContainerCreate { name: "other".to_owned(), metadata: Vec::new() },
        put("a", 1),
        put("b", 2),
        put("a", 3),
        stage(4),
        stage(5),
        BlobAction::SetMetadata {
            container: name.clone(),
            blob: "b".to_owned(),
            condition: any.clone(),
            metadata: vec![("k".to_owned(), "v".to_owned())],
        },
        BlobAction::Delete { container: name, blob, condition: any.clone() },
        BlobAction::ContainerDelete { name: "other".to_owned(), condition: any.clone() },
        BlobAction::Sweep,
    ];
    let put_with = |name: &str, extra| BlobAction::PutWith {
        container: container.clone(),
        blob: name.to_owned(),
        condition: any.clone(),
        content: manifest(7),
        headers: Headers::default(),
        metadata: Vec::new(),
        extras: vec![extra],
    };
    let copied = Copied {
        id: "copy".to_owned(),
        source: "http://host/account/container/blob".to_owned(),
        completed: Timestamp(1),
        bytes: 8,
    };
    let policy = AccessPolicy {
        id: "policy".to_owned(),
        start: None,
        expiry: Some(Timestamp(2)),
        permissions: Some("r".to_owned()),
    };
    let since_4 = [
        BlobAction::ContainerPolicies {
            name: container.clone(),
            condition: any.clone(),
            policies: vec![policy],
        },
        put_with("copied", BlobExtra::Copied(copied)),
        put_with("appended", BlobExtra::Append { blocks: 0 }),
        BlobAction::Delete {
            container: container.clone(),
            blob: "copied".to_owned(),
            condition: any.clone(),
        },
    ];
    // One of these is the ETag that the blob has.
    let append = |base| BlobAction::Append {
        container: container.clone(),
        blob: "appended".to_owned(),
        condition: any.clone(),
        base,
        content: manifest(9),
    };
    let since_4 = since_4.into_iter().chain((1..40).map(append)).filter(|_| version >= 4);
    let actions = actions.into_iter().chain(since_4);
    let command = |(number, action)| Command {
        account: ACCOUNT,
        key: IdempotencyKey(u128::MAX - number),
        action: Action::Blob(Box::new(action)),
    };
    (0..).zip(actions).map(command).collect()
}

async fn record(version: u32) {
    let scratch = tempfile::tempdir().unwrap();
    let (engine, replica) = open(Config::new(scratch.path())).await.unwrap();
    // The version comes first; in a cluster without coordinators nobody has to be asked.
    let raise = Command {
        account: ACCOUNT,
        key: IdempotencyKey(u128::MAX / 2),
        action: Action::VersionRaise { to: ClusterVersion(version), witnesses: Vec::new() },
    };
    let mut commands: Vec<Command> = (version > 1).then_some(raise).into_iter().collect();
    commands.extend(random::commands(u64::from(version), 2_000));
    commands.extend(files(version));
    for together in commands.chunks(TOGETHER) {
        let asked = together.iter().map(|command| engine.propose_command(command.clone()));
        for answer in futures::future::join_all(asked).await {
            let _ = answer.unwrap();
        }
    }
    replica.shutdown().await;
    let golden = folder(version);
    copy(&scratch.path().join("raft/log"), &golden.join("log"));
    fs::write(golden.join("expected.txt"), replay(&golden).0).unwrap();
}

#[tokio::test]
async fn golden_logs_come_to_the_recorded_state() {
    let newest = RECORDED.0;
    for version in 1..=newest {
        let golden = folder(version);
        let is_new = version == newest && !golden.exists();
        if is_new && std::env::var_os("LOTE_RECORD_GOLDEN").is_some() {
            record(version).await;
        }
        let how = "record it with LOTE_RECORD_GOLDEN=1";
        let expected = fs::read_to_string(golden.join("expected.txt"));
        let expected = expected.unwrap_or_else(|_| panic!("there is no log of version {version}: {how}"));
        let (found, cluster) = replay(&golden);
        assert_eq!(found, expected, "the log of version {version} comes to another state");
        assert_eq!(cluster.version(), ClusterVersion(version));
        assert!(cluster.all_tasks().count() > 3, "a log of nothing proves nothing");
    }
}
