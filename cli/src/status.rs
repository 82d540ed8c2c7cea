//! `lote status`: what a running cluster consists of and is doing.

use crate::client::Client;
use crate::output::{Output, table};
use anyhow::Context;
use lote_coordinator::replication::CLOCK_OFF_MS;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Data folder of the cluster [default: ./.lote]
    #[arg(long, env = "LOTE_DATA_DIR", default_value = ".lote")]
    data_dir: PathBuf,
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub fn main(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let status = crate::block_on(async move {
        let client = Client::from_env_file(&arguments.data_dir.join("lote.env"))?;
        anyhow::Ok((gather(&client).await?, arguments.output))
    })?;
    let (status, output) = status?;
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&status)?),
        Output::Text => print(&status),
    }
    Ok(ExitCode::SUCCESS)
}

/// Everything the text and the JSON form show.
async fn gather(client: &Client) -> anyhow::Result<Value> {
    let mut status = client.get("/lote/status").await.context("asking the coordinator")?;
    status["endpoints"] = json!({ "batch": client.batch_endpoint, "blob": client.blob_endpoint });
    status["account"] = json!(client.account);
    Ok(status)
}

fn print(status: &Value) {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    println!("batch    {}", text(&status["endpoints"]["batch"]));
    println!("blob     {}", text(&status["endpoints"]["blob"]));
    println!("account  {}", text(&status["account"]));
    let replica = &status["replica"];
    println!(
        "state    {} in term {}, log {} applied {}, {}",
        text(&replica["role"]),
        text(&replica["term"]),
        text(&replica["lastLogIndex"]),
        text(&replica["appliedIndex"]),
        text(&replica["stateHash"]),
    );
    println!("version  {}", crate::upgrade::sentence(status));
    if !replica["snapshotTrouble"].is_null() {
        println!("         no new snapshot, tried again: {}", text(&replica["snapshotTrouble"]));
    }
    let section = |name: &str, headings: &[&str], members: &[&str]| {
        let rows = status[name].as_array().into_iter().flatten();
        let rows: Vec<Vec<String>> =
            rows.map(|row| members.iter().map(|member| text(&row[*member])).collect()).collect();
        println!("\n{}", if rows.is_empty() { format!("no {name}") } else { table(headings, &rows) });
    };
    let coordinators =
        status["members"].as_array().into_iter().flatten().filter(|m| m["role"] == "coordinator");
    let rows = coordinators.map(|member| {
        let duty = match (member["member"] == replica["leader"], member["voter"] == true) {
            (true, _) => "leader",
            (false, true) => "voter",
            (false, false) => "learner",
        };
        let duty = if member["leaving"] == true { format!("{duty}, leaving") } else { duty.to_owned() };
        let addresses = member["addresses"].as_array().into_iter().flatten().map(&text);
        vec![
            text(&member["member"]),
            text(&member["name"]),
            duty,
            text(&member["matchedIndex"]),
            text(&member["software"]),
            crate::upgrade::range(&member["supports"]),
            addresses.collect::<Vec<_>>().join(" "),
        ]
    });
    println!(
        "\n{}",
        table(
            &["MEMBER", "COORDINATOR", "DUTY", "LOG", "SOFTWARE", "SUPPORTS", "ADDRESSES"],
            &rows.collect::<Vec<_>>()
        )
    );
    let clocks = status["clocks"]["offMs"].as_object().into_iter().flatten();
    for line in clocks.filter_map(|(member, off_ms)| wrong_clock(member, off_ms.as_i64()?)) {
        println!("\n{line}");
    }
    section(
        "hosts",
        &["HOST", "NAME", "STATE", "CORES", "NODES", "SILENT MS", "LOST IN MS", "SOFTWARE"],
        &["host", "name", "state", "cores", "nodes", "silentMs", "lostInMs", "software"],
    );
    section(
        "pools",
        &["POOL", "STATE", "ALLOCATION", "NODES", "TARGET", "GROUP RESTARTS", "LAST FAILURE"],
        &["pool", "state", "allocation", "nodes", "target", "restarts", "lastFailure"],
    );
    section(
        "jobs",
        &["JOB", "STATE", "ACTIVE", "RUNNING", "SUCCEEDED", "FAILED"],
        &["job", "state", "active", "running", "succeeded", "failed"],
    );
}

/// What to say of a member whose clock is so many milliseconds off the median of the members, if it is too far off.
fn wrong_clock(member: &str, off_ms: i64) -> Option<String> {
    let seconds = off_ms.unsigned_abs().div_ceil(1_000);
    let side = if off_ms > 0 { "ahead of" } else { "behind" };
    (off_ms.unsigned_abs() > CLOCK_OFF_MS).then(|| {
        format!(
            "The clock of member {member} is {seconds} s {side} the median of the members: it does not lead while \
             another can. Set it right."
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_wrong_clocks_are_spoken_of() {
        for (off_ms, expected) in [
            (0, None),
            (5_000, None),
            (-5_000, None),
            (5_001, Some("The clock of member 3 is 6 s ahead of the median")),
            (-3_600_000, Some("The clock of member 3 is 3600 s behind the median")),
            (i64::MIN, Some("The clock of member 3 is")),
        ] {
            let said = wrong_clock("3", off_ms);
            assert_eq!(said.is_some(), expected.is_some(), "{off_ms}");
            assert!(said.unwrap_or_default().starts_with(expected.unwrap_or_default()), "{off_ms}");
        }
    }
}
