//! `lote backup` and `lote restore`: the state of a cluster and the content of its files as one folder.
//!
//! ```text
//! backup.json      index, state hash, and the hashes of the files below; written last, so that with it all is there
//! state.snapshot   all rows of the state at that index, with a hash at its end
//! account.json     name and key of the account; beside it the cluster's settings and authority, if it has them
//! content/         the chunks that the state refers to, each named by its content
//! ```

use crate::client::Client;
use crate::output::Output;
use anyhow::{Context, bail, ensure};
use futures::{StreamExt, TryStreamExt};
use lote_coordinator::replication::recover::{read_snapshot, restore as restore_state};
use lote_shared::chunks::read::references;
use lote_shared::chunks::seal::{self, Seal};
use lote_shared::chunks::{self, ChunkId, ChunkStore, Manifest};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Layout of the folder this build writes.
const FORMAT: u32 = 1;
const SNAPSHOT: &str = "state.snapshot";
const CONTENT: &str = "content";
const LIST: &str = "backup.json";
/// Small files of the data folder that belong to the cluster and not to this machine, as far as they are there.
const FILES: [&str; 3] = ["account.json", "cluster.json", "ca.pem"];
/// Largest of them that is believed.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Chunks fetched at once.
const FETCHES: usize = 8;

#[derive(Debug, clap::Args)]
pub struct BackupArguments {
    /// Folder for the backup; it must not exist, or be empty.
    destination: PathBuf,
    /// Data folder of the running cluster [default: ./.lote]
    #[arg(long, env = "LOTE_DATA_DIR", default_value = ".lote")]
    data_dir: PathBuf,
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub struct RestoreArguments {
    /// Folder of a backup.
    source: PathBuf,
    /// Data folder to make; it must not exist, or be empty.
    #[arg(long)]
    data_dir: PathBuf,
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct List {
    format: u32,
    software: String,
    created: String,
    /// Last entry in the state, and the running hash there.
    index: Option<u64>,
    state_hash: String,
    chunks: u64,
    /// BLAKE3 of each file in hex, by name.
    files: BTreeMap<String, String>,
}

pub fn backup(arguments: BackupArguments) -> anyhow::Result<ExitCode> {
    let output = arguments.output;
    let list = crate::block_on(async move { take(&arguments).await })??;
    print(output, "backed up", &list)
}

pub fn restore(arguments: RestoreArguments) -> anyhow::Result<ExitCode> {
    let list = bring_back(&arguments.source, &arguments.data_dir)?;
    print(arguments.output, "restored", &list)
}

fn print(output: Output, done: &str, list: &List) -> anyhow::Result<ExitCode> {
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(list)?),
        Output::Text => {
            let index = list.index.map_or("nothing".to_owned(), |index| index.to_string());
            println!("{done} the state as of entry {index} and {} chunks", list.chunks);
            println!("state hash {}", list.state_hash);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes a folder that is not there or empty.
fn make_empty(folder: &Path, flag: &str) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let mut entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    ensure!(entries.next().is_none(), "{} is not empty; choose another {flag}", folder.display());
    Ok(())
}

fn hash_of(path: &Path) -> anyhow::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let file = fs::File::open(path).with_context(|| format!("reading {}", path.display()))?;
    hasher.update_reader(file).with_context(|| format!("reading {}", path.display()))?;
    Ok(hasher.finalize().to_string())
}

/// Copies a small file that only its owner is to read.
fn copy_file(name: &str, from: &Path, to: &Path) -> anyhow::Result<()> {
    let path = from.join(name);
    let size = fs::metadata(&path).with_context(|| format!("reading {}", path.display()))?.len();
    ensure!(size <= FILE_BYTES_MAX, "{} has {size} bytes; that is none of Lote's", path.display());
    let content = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    crate::folder::write_private(&to.join(name), &content)
}

async fn take(arguments: &BackupArguments) -> anyhow::Result<List> {
    let folder = &arguments.destination;
    make_empty(folder, "destination")?;
    let client = Client::from_env_file(&arguments.data_dir.join("lote.env"))?;
    let snapshot = folder.join(SNAPSHOT);
    client.get_to_file("/lote/backup/snapshot", &snapshot).await.context("fetching the state")?;
    let (index, state_hash, cluster) = read_snapshot(&snapshot)?;
    let store = ChunkStore::open(&folder.join(CONTENT))?;
    let mut manifests = Vec::new();
    cluster.blobs().for_each_manifest(|manifest| manifests.push(*manifest));
    let chunks = fetch_content(&client, &store, &manifests).await?;
    let mut files = BTreeMap::from([(SNAPSHOT.to_owned(), hash_of(&snapshot)?)]);
    for name in FILES.into_iter().filter(|name| arguments.data_dir.join(name).exists()) {
        copy_file(name, &arguments.data_dir, folder)?;
        files.insert(name.to_owned(), hash_of(&folder.join(name))?);
    }
    let list = List {
        format: FORMAT,
        software: env!("CARGO_PKG_VERSION").to_owned(),
        created: lote_coordinator::clock::wall().to_string(),
        index,
        state_hash,
        chunks,
        files,
    };
    crate::folder::write_private(&folder.join(LIST), &serde_json::to_vec_pretty(&list)?)?;
    Ok(list)
}

/// Fetches every chunk the manifests need, lists first; how many there are.
async fn fetch_content(client: &Client, store: &ChunkStore, manifests: &[Manifest]) -> anyhow::Result<u64> {
    let mut needed = BTreeSet::new();
    for manifest in manifests {
        loop {
            match references(store, manifest, &mut |id| {
                needed.insert(id);
            }) {
                Ok(()) => break,
                // A node of a list: what is below it is known once it is here.
                Err(chunks::Error::Missing(id)) => fetch(client, store, id).await?,
                Err(error) => return Err(error.into()),
            }
        }
    }
    let missing = needed.iter().copied().filter(|id| !store.contains(*id));
    futures::stream::iter(missing)
        .map(|id| fetch(client, store, id))
        .buffer_unordered(FETCHES)
        .try_collect::<()>()
        .await?;
    Ok(needed.len() as u64)
}

async fn fetch(client: &Client, store: &ChunkStore, id: ChunkId) -> anyhow::Result<()> {
    let bytes = client.get_bytes(&format!("/lote/backup/chunks/{id}")).await?;
    let tail = &bytes[bytes.len().saturating_sub(seal::MAX)..];
    let damaged = |why: &str| anyhow::anyhow!("chunk {id} arrived damaged: {why}");
    let seal = Seal::decode(id, tail, bytes.len() as u64).map_err(damaged)?;
    let is_true =
        |index: usize| bytes.get(seal.unit_range(index)).is_some_and(|unit| seal.check_unit(index, unit));
    ensure!((0..seal.units.len()).all(is_true), damaged("a part of it does not have its hash"));
    let data = bytes.get(..seal.length).ok_or_else(|| damaged("it is too short"))?;
    let mut group = store.group();
    group.add_sealed(id, &seal, data)?;
    Ok(group.commit()?)
}

fn bring_back(source: &Path, data_dir: &Path) -> anyhow::Result<List> {
    let path = source.join(LIST);
    let text = fs::read(&path).with_context(|| {
        format!("{} cannot be read: this is no backup, or one that was not finished", path.display())
    })?;
    let list: List =
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))?;
    if list.format > FORMAT {
        bail!("{} was made by a newer lote (format {}); use that version", source.display(), list.format);
    }
    ensure!(list.files.contains_key(SNAPSHOT), "{} names no state; it is damaged", path.display());
    let names = FILES.into_iter().chain([SNAPSHOT]);
    for (name, expected) in names.filter_map(|name| Some((name, list.files.get(name)?))) {
        let found = hash_of(&source.join(name))?;
        ensure!(found == *expected, "{name} in the backup is damaged: its hash is {found}, not {expected}");
    }
    let (_, _, cluster) = read_snapshot(&source.join(SNAPSHOT))?;
    make_empty(data_dir, "--data-dir")?;
    let folder = crate::folder::Folder::open(data_dir)?;
    for name in FILES.into_iter().filter(|name| list.files.contains_key(*name)) {
        copy_file(name, source, folder.path())?;
    }
    let home = folder.path().join("coordinator");
    fs::create_dir_all(&home).with_context(|| format!("making {}", home.display()))?;
    let mut manifests = Vec::new();
    cluster.blobs().for_each_manifest(|manifest| manifests.push(*manifest));
    copy_content(&source.join(CONTENT), &home.join("chunks"), &manifests)?;
    // Last: from here on the folder can be started.
    let restored = restore_state(&source.join(SNAPSHOT), &home)?;
    ensure!(
        restored.state_hash == list.state_hash && restored.index == list.index,
        "the restored state has hash {} at {:?}, the backup {} at {:?}",
        restored.state_hash,
        restored.index,
        list.state_hash,
        list.index
    );
    Ok(list)
}

/// Copies what the manifests need; every chunk is verified on the way.
fn copy_content(from: &Path, to: &Path, manifests: &[Manifest]) -> anyhow::Result<()> {
    let (from, to) = (ChunkStore::open(from)?, ChunkStore::open(to)?);
    let mut needed = BTreeSet::new();
    for manifest in manifests {
        references(&from, manifest, &mut |id| {
            needed.insert(id);
        })
        .context("the backup's content")?;
    }
    let mut group = to.group();
    for id in needed {
        let (bytes, seal) = from.read(id).context("the backup's content")?;
        group.add_sealed(id, &seal, &bytes)?;
    }
    Ok(group.commit()?)
}
