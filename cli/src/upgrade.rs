//! `lote upgrade`: the cluster version, which keeps the way back to an older build open as long as it is held.

use crate::members::{Common, client, show};
use crate::output::Output;
use serde_json::{Value, json};
use std::process::ExitCode;

#[derive(Debug, clap::Subcommand)]
pub enum Upgrade {
    /// Show the cluster version, whether it is held, and what its raise waits for.
    Status {
        #[command(flatten)]
        common: Common,
    },
    /// Keep the cluster version where it is, so that the present build can come back.
    Hold {
        #[command(flatten)]
        common: Common,
    },
    /// Let the cluster version rise as soon as every coordinator supports the next; there is no way back then.
    Release {
        #[command(flatten)]
        common: Common,
    },
}

pub fn main(command: Upgrade) -> anyhow::Result<ExitCode> {
    crate::block_on(async move {
        let (common, order) = match &command {
            Upgrade::Status { common } => (common, None),
            Upgrade::Hold { common } => (common, Some("/lote/upgrade/hold")),
            Upgrade::Release { common } => (common, Some("/lote/upgrade/release")),
        };
        let client = client(common)?;
        if let Some(path) = order {
            client.post(path, &json!({})).await?;
        }
        let status = client.get("/lote/status").await?;
        match common.output {
            Output::Json => show(&status["version"])?,
            Output::Text => println!("the cluster is at version {}", sentence(&status)),
        }
        Ok(ExitCode::SUCCESS)
    })?
}

/// The version and what becomes of it, from a status.
pub fn sentence(status: &Value) -> String {
    let version = &status["version"];
    if version.is_null() {
        return "1 or unknown: the coordinator that answered is of a build without versions".to_owned();
    }
    let mut text = version["cluster"].to_string();
    if let Some(since) = version["heldSince"].as_str() {
        text.push_str(&format!(", held since {since}"));
    }
    let waits: Vec<String> = version["waitsFor"].as_array().into_iter().flatten().map(waits).collect();
    match &version["next"] {
        Value::Null => {}
        next if !waits.is_empty() => text.push_str(&format!("; {next} waits for {}", waits.join(", "))),
        next if version["heldSince"].is_string() => text.push_str(&format!("; {next} waits for the release")),
        next => text.push_str(&format!("; {next} comes in a moment")),
    }
    text
}

fn waits(coordinator: &Value) -> String {
    let name = coordinator["name"].as_str().or(coordinator["peer"].as_str()).unwrap_or("-");
    match &coordinator["supports"] {
        Value::Null => format!("{name} (silent)"),
        supports => format!("{name} (supports {})", range(supports)),
    }
}

/// `1-2`, or a dash for a coordinator that is silent.
pub fn range(supports: &Value) -> String {
    if supports.is_null() { "-".to_owned() } else { format!("{}-{}", supports["oldest"], supports["newest"]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_in_a_sentence() {
        let waiting = json!([
            { "name": "c2", "peer": "p2", "supports": { "oldest": 1, "newest": 2 } },
            { "name": null, "peer": "p3", "supports": null },
        ]);
        for (version, expected) in [
            (Value::Null, "1 or unknown: the coordinator that answered is of a build without versions"),
            (json!({ "cluster": 2 }), "2"),
            (json!({ "cluster": 2, "heldSince": "noon" }), "2, held since noon"),
            (json!({ "cluster": 2, "next": 3 }), "2; 3 comes in a moment"),
            (
                json!({ "cluster": 2, "next": 3, "heldSince": "noon" }),
                "2, held since noon; 3 waits for the release",
            ),
            (
                json!({ "cluster": 2, "next": 3, "waitsFor": waiting }),
                "2; 3 waits for c2 (supports 1-2), p3 (silent)",
            ),
        ] {
            assert_eq!(sentence(&json!({ "version": version })), expected);
        }
    }
}
