//! `lote demo`: the whole workflow on an embedded cluster, checked against a local computation.
//!
//! The work is a word count: the texts that come with Lote are cut into parts, each part is uploaded and counted by
//! a task of its own, and a last task merges the counts. Every step goes through the public REST interfaces.

mod words;

use crate::client::Client;
use crate::settings::UpSettings;
use crate::up::Cluster;
use anyhow::{Context, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use lote_coordinator::api::auth::blob::sas::{self, ContainerSas};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Tasks that count; one more merges.
const PARTS: usize = 24;
const SAS_VALID_MS: u64 = 3_600_000;
const JOB_TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Keep the cluster's folder here instead of in a temporary one that is removed
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

pub fn main(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let temporary = tempfile::Builder::new().prefix("lote-demo-").tempdir()?;
    let data_dir = arguments.data_dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    let kept = arguments.data_dir.is_some();
    crate::block_on(async move {
        println!("Starting a cluster in {} ...", data_dir.display());
        let cluster = Cluster::start(&UpSettings::embedded(&data_dir)).await?;
        println!("  batch {}   blob {}", cluster.batch_endpoint, cluster.blob_endpoint);
        let client = Client::from_env(&cluster.env)?;
        let outcome = run(&client).await;
        cluster.stop().await?;
        let report = outcome?;
        println!("\n{report}");
        if kept {
            println!(
                "The cluster's folder stays at {}: `lote up --data-dir` goes on with it.",
                data_dir.display()
            );
        }
        println!("Next: `lote up`, and point an Azure Batch program at it (README.md).");
        anyhow::Ok(ExitCode::SUCCESS)
    })?
}

async fn run(client: &Client) -> anyhow::Result<String> {
    let parts = words::parts(PARTS);
    println!("Uploading {} texts ...", parts.len());
    client.create_container("texts").await?;
    client.create_container("counts").await?;
    for (number, part) in parts.iter().enumerate() {
        client.put_blob("texts", &format!("part-{number:02}.txt"), part.clone().into_bytes()).await?;
    }

    println!("Creating a pool of 2 nodes with 4 slots each, and a job ...");
    client.post("/pools", &pool()).await?;
    client.post("/jobs", &json!({ "id": "wordcount", "poolInfo": { "poolId": "demo" } })).await?;

    let tasks: Vec<Value> = (0..parts.len()).map(|number| count_task(client, number)).collect();
    let answer = client.post("/jobs/wordcount/addtaskcollection", &json!({ "value": tasks })).await?;
    let answer: Value = serde_json::from_slice(&answer)?;
    let refused = answer["value"].as_array().into_iter().flatten().find(|item| item["status"] != "success");
    ensure!(refused.is_none(), "a task was refused: {}", refused.unwrap_or(&Value::Null));

    let bar = ProgressBar::new(parts.len() as u64 + 1);
    bar.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} tasks  {msg}")?);
    wait(client, parts.len() as u64, &bar).await?;
    client.post("/jobs/wordcount/tasks", &merge_task(client)).await?;
    wait(client, parts.len() as u64 + 1, &bar).await?;
    bar.finish_with_message("done");

    let merged = client.get_blob("counts", "merged.txt").await?;
    let merged = String::from_utf8(merged).context("the merged counts are not text")?;
    let stdout = client.get_bytes("/jobs/wordcount/tasks/merge/files/stdout.txt").await?;
    let expected = words::count(&parts);
    if words::parse(&merged)? != expected {
        bail!(
            "the cluster's counts differ from the local ones; merged.txt begins with {:?}",
            merged.lines().next()
        );
    }
    let mut report = format!(
        "{} words in {} texts counted by {} tasks; every count equals the local computation.\n",
        expected.values().sum::<u64>(),
        parts.len(),
        parts.len() + 1
    );
    report.push_str(&format!("The merge task said: {}", String::from_utf8_lossy(&stdout)));
    let mut top: Vec<(&String, &u64)> = expected.iter().collect();
    top.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    for (word, count) in top.iter().take(5) {
        report.push_str(&format!("{count:>8}  {word}\n"));
    }
    report.push_str("It lay in blob `counts/merged.txt`, the tasks' output in `counts/part-NN.txt`.");

    client.delete("/jobs/wordcount").await?;
    client.delete("/pools/demo").await?;
    client.delete_container("texts").await?;
    client.delete_container("counts").await?;
    Ok(report)
}

fn pool() -> Value {
    json!({
        "id": "demo",
        "vmSize": "standard_d4s_v3",
        "virtualMachineConfiguration": {
            "imageReference": {
                "publisher": "canonical", "offer": "0001-com-ubuntu-server-jammy", "sku": "22_04-lts"
            },
            "nodeAgentSKUId": "batch.node.ubuntu 22.04"
        },
        "targetDedicatedNodes": 2,
        "taskSlotsPerNode": 4
    })
}

fn container_url(client: &Client, container: &str, permissions: &str) -> String {
    let until = lote_coordinator::clock::wall().plus_ms(SAS_VALID_MS);
    let query = sas::sign_container(&ContainerSas {
        account: &client.account,
        key: client.key(),
        container,
        permissions,
        expiry: until,
        protocol: None,
    });
    format!("{}/{container}?{query}", client.blob_endpoint)
}

fn blob_url(client: &Client, container: &str, blob: &str) -> String {
    let url = container_url(client, container, "r");
    url.replacen('?', &format!("/{blob}?"), 1)
}

fn count_task(client: &Client, number: usize) -> Value {
    let part = format!("part-{number:02}.txt");
    let script = "tr -cs A-Za-z '\\n' < input.txt | tr A-Z a-z | grep . | sort | uniq -c > counts.txt; \
                  echo $(wc -l < counts.txt) different words";
    json!({
        "id": format!("count-{number:02}"),
        "commandLine": format!("/bin/sh -c \"{script}\""),
        "resourceFiles": [{ "httpUrl": blob_url(client, "texts", &part), "filePath": "input.txt" }],
        "outputFiles": [output(client, "counts.txt", &part)]
    })
}

fn merge_task(client: &Client) -> Value {
    let script = "cat parts/part-*.txt | awk '{ n[$2] += $1 } END { for (w in n) print n[w], w }' > merged.txt; \
                  echo merged $(wc -l < merged.txt) different words";
    json!({
        "id": "merge",
        "commandLine": format!("/bin/sh -c \"{script}\""),
        "resourceFiles": [{
            "storageContainerUrl": container_url(client, "counts", "rl"), "blobPrefix": "part-", "filePath": "parts"
        }],
        "outputFiles": [output(client, "merged.txt", "merged.txt")]
    })
}

fn output(client: &Client, pattern: &str, path: &str) -> Value {
    json!({
        "filePattern": pattern,
        "destination": { "container": { "containerUrl": container_url(client, "counts", "rcw"), "path": path } },
        "uploadOptions": { "uploadCondition": "tasksuccess" }
    })
}

/// Follows the job until so many tasks are completed; a failed one ends the demo with its reason.
async fn wait(client: &Client, completed: u64, bar: &ProgressBar) -> anyhow::Result<()> {
    let follow = async {
        loop {
            let counts = client.get("/jobs/wordcount/taskcounts").await?;
            let counts = &counts["taskCounts"];
            let number = |name: &str| counts[name].as_u64().unwrap_or(0);
            bar.set_position(number("completed"));
            bar.set_message(format!("{} running", number("running")));
            if number("failed") > 0 {
                bail!("a task failed: {}", failed_task(client).await?);
            }
            if number("completed") >= completed {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(JOB_TIMEOUT, follow).await.context("the tasks did not finish in time")?
}

async fn failed_task(client: &Client) -> anyhow::Result<String> {
    let tasks = client.get("/jobs/wordcount/tasks").await?;
    let failed = tasks["value"].as_array().into_iter().flatten();
    let failed = failed.into_iter().find(|task| task["executionInfo"]["result"] == "failure");
    Ok(failed.map(|task| format!("{}: {}", task["id"], task["executionInfo"])).unwrap_or_default())
}
