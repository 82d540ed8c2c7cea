//! `lote storage`: the chunks of all coordinators, whether they are whole and where they should be, and the work on them.

use crate::client::Client;
use crate::members::{Common, client, show};
use crate::output::{Output, table};
use anyhow::{Context, ensure};
use indicatif::{BinaryBytes, ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;

/// How often work that goes on is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// Looks that may fail in a row.
const FAILS_MAX: u32 = 20;

#[derive(Debug, clap::Subcommand)]
pub enum Storage {
    /// Show what is stored, on how many coordinators, what may go, and what is being done about it.
    Status {
        #[command(flatten)]
        common: Common,
    },
    /// Read every chunk on every coordinator; damaged ones are set aside and made anew from another copy.
    Verify {
        #[command(flatten)]
        common: Common,
    },
    /// Look for chunks that lie on too few coordinators and make the missing copies.
    Repair {
        #[command(flatten)]
        common: Common,
    },
}

pub fn main(command: Storage) -> anyhow::Result<ExitCode> {
    crate::block_on(async move {
        let (common, work) = match &command {
            Storage::Status { common } => (common, None),
            Storage::Verify { common } => (common, Some(("verify", "verification"))),
            Storage::Repair { common } => (common, Some(("repair", "repair"))),
        };
        let client = client(common)?;
        let status = match work {
            None => client.get("/lote/storage").await?,
            Some((path, member)) => follow(&client, path, member).await?,
        };
        match common.output {
            Output::Json => show(&status)?,
            Output::Text => println!("{}", text(&status)),
        }
        let whole = status["lost"].as_u64().unwrap_or(0) == 0;
        Ok(if work.is_none() || whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })?
}

/// Has the work begun everywhere and waits until every coordinator that answers is through with it.
async fn follow(client: &Client, path: &str, member: &str) -> anyhow::Result<Value> {
    let before = client.post(&format!("/lote/storage/{path}"), &json!({})).await?;
    let before: Value = serde_json::from_slice(&before).context("reading the answer")?;
    let finished = |status: &Value| -> Vec<(String, Value, bool, u64, u64)> {
        let all = status["coordinators"].as_array().into_iter().flatten();
        all.filter(|one| !one["storage"].is_null())
            .map(|one| {
                let pass = &one["storage"][member];
                let count = |name: &str| pass[name].as_u64().unwrap_or(0);
                let peer = one["peer"].as_str().unwrap_or_default().to_owned();
                let running = pass["running"].as_bool() == Some(true);
                (peer, pass["started"].clone(), running, count("done"), count("total"))
            })
            .collect()
    };
    let was = finished(&before);
    // Draws nothing where nobody looks.
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} chunks")?);
    let mut fails = 0;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let status = match client.get("/lote/storage").await {
            Ok(status) => status,
            Err(error) => {
                fails += 1;
                ensure!(fails < FAILS_MAX, error.context("looking how far it is"));
                continue;
            }
        };
        fails = 0;
        let now = finished(&status);
        let (done, total) = now.iter().fold((0, 0), |sum, one| (sum.0 + one.3, sum.1 + one.4.max(one.3)));
        // A pass that was under way is followed by the one that was asked for.
        let is_through = now.iter().all(|(peer, started, running, _, _)| {
            let earlier = was.iter().find(|one| one.0 == *peer);
            !running && earlier.is_none_or(|earlier| earlier.1 != *started)
        });
        bar.set_length(total);
        bar.set_position(done);
        if is_through {
            bar.finish_and_clear();
            return Ok(status);
        }
    }
}

fn text(status: &Value) -> String {
    let number = |value: &Value| value.as_u64().map_or("-".to_owned(), |number| number.to_string());
    let size = |value: &Value| value.as_u64().map_or("-".to_owned(), |bytes| BinaryBytes(bytes).to_string());
    let ratio = status["deduplicationRatio"].as_f64().map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
    let mut lines = vec![
        format!("files    {}, {}", number(&status["files"]), size(&status["fileBytes"])),
        format!(
            "chunks   {}, {}, on {} coordinator(s) each; deduplication {ratio}",
            number(&status["chunks"]),
            size(&status["bytes"]),
            number(&status["copies"])
        ),
        format!(
            "unused   {}, {}, removed after the grace period",
            number(&status["unreferencedChunks"]),
            size(&status["unreferencedBytes"])
        ),
        format!(
            "trouble  {} with too few copies, {} lost, {} damaged and set aside",
            number(&status["underReplicated"]),
            number(&status["lost"]),
            number(&status["damaged"])
        ),
    ];
    let rows: Vec<Vec<String>> = status["coordinators"].as_array().into_iter().flatten().map(row).collect();
    lines.push(String::new());
    lines.push(table(&["COORDINATOR", "CHUNKS", "BYTES", "COLLECTION", "REPAIR", "VERIFICATION"], &rows));
    for one in status["coordinators"].as_array().into_iter().flatten() {
        for member in ["collection", "repair", "verification"] {
            if let Some(trouble) = one["storage"][member]["trouble"].as_str() {
                lines.push(format!("{} {member}: {trouble}", name(one)));
            }
        }
    }
    lines.join("\n")
}

fn name(one: &Value) -> String {
    one["name"].as_str().or(one["peer"].as_str()).unwrap_or("-").to_owned()
}

fn row(one: &Value) -> Vec<String> {
    let storage = &one["storage"];
    if storage.is_null() {
        return vec![name(one), "silent".to_owned()];
    }
    let pass = |pass: &Value| {
        if pass["running"].as_bool() == Some(true) {
            return format!("{} of {}", pass["done"], pass["total"]);
        }
        pass["finished"].as_str().unwrap_or("never").to_owned()
    };
    vec![
        name(one),
        storage["chunks"].to_string(),
        storage["bytes"].as_u64().map_or("-".to_owned(), |bytes| BinaryBytes(bytes).to_string()),
        pass(&storage["collection"]),
        pass(&storage["repair"]),
        pass(&storage["verification"]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_things_in_words() {
        let idle = json!({ "running": false, "finished": "noon", "done": 3, "total": 3, "trouble": null });
        let busy =
            json!({ "running": true, "finished": null, "done": 1, "total": 3, "trouble": "c3 is silent" });
        let storage =
            json!({ "chunks": 3, "bytes": 2048, "collection": idle, "repair": busy, "verification": idle });
        let status = json!({
            "files": 2, "fileBytes": 4096, "copies": 2, "chunks": 3, "bytes": 1_572_864,
            "unreferencedChunks": 0, "unreferencedBytes": 0, "underReplicated": 1, "lost": 0, "damaged": 0,
            "deduplicationRatio": 1.5,
            "coordinators": [{ "name": "c1", "storage": storage }, { "name": "c2", "storage": null }],
        });
        let text = text(&status);
        for expected in [
            "files    2, 4.00 KiB",
            "chunks   3, 1.50 MiB, on 2 coordinator(s) each; deduplication 1.50",
            "trouble  1 with too few copies, 0 lost",
            "c1           3       2.00 KiB  noon        1 of 3  noon",
            "c2           silent",
            "c1 repair: c3 is silent",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
    }
}
