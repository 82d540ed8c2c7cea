//! `lote inspect`: why a task waits or what became of its attempts, how a pool's group is doing, what a node holds.

use crate::client::Client;
use crate::output::{Output, table};
use anyhow::Context;
use serde_json::Value;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Data folder of the cluster [default: ./.lote]
    #[arg(long, env = "LOTE_DATA_DIR", default_value = ".lote", global = true)]
    data_dir: PathBuf,
    #[arg(long, value_enum, default_value_t, global = true)]
    output: Output,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Why a task waits, or what happened to each of its attempts.
    Task { job: String, task: String },
    /// A pool: its actor group, its nodes and what they hold.
    Pool { pool: String },
    /// A node: what it holds now.
    Node { pool: String, node: String },
}

pub fn main(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let path = match &arguments.what {
        What::Task { job, task } => format!("/lote/inspect/tasks/{job}/{task}"),
        What::Pool { pool } => format!("/lote/inspect/pools/{pool}"),
        What::Node { pool, node } => format!("/lote/inspect/nodes/{pool}/{node}"),
    };
    let env_file = arguments.data_dir.join("lote.env");
    let found = crate::block_on(async move {
        Client::from_env_file(&env_file)?.get(&path).await.context("asking the coordinator")
    })??;
    let text = match (arguments.output, &arguments.what) {
        (Output::Json, _) => serde_json::to_string_pretty(&found)?,
        (Output::Text, What::Task { .. }) => of_task(&found),
        (Output::Text, What::Pool { .. }) => of_pool(&found),
        (Output::Text, What::Node { .. }) => of_node(&found),
    };
    println!("{text}");
    Ok(ExitCode::SUCCESS)
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

/// Name and value of each member, one a line.
fn facts(of: &Value, members: &[(&str, &str)]) -> Vec<String> {
    let width = members.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    members.iter().map(|(name, member)| format!("{name:<width$}  {}", text(&of[*member]))).collect()
}

fn rows(list: &Value, headings: &[&str], members: &[&str], none: &str) -> String {
    let list = list.as_array().into_iter().flatten();
    let rows: Vec<Vec<String>> =
        list.map(|row| members.iter().map(|member| text(&row[*member])).collect()).collect();
    if rows.is_empty() { none.to_owned() } else { table(headings, &rows) }
}

fn of_task(task: &Value) -> String {
    let mut lines = facts(
        task,
        &[
            ("task", "task"),
            ("job", "job"),
            ("pool", "pool"),
            ("state", "state"),
            ("since", "stateChanged"),
            ("slots", "requiredSlots"),
        ],
    );
    let optional = [("waitsBecause", "waits because"), ("failure", "failed with")];
    for (member, name) in optional.into_iter().filter(|(member, _)| !task[*member].is_null()) {
        lines.push(format!("{name}: {}", text(&task[member])));
    }
    lines.push(String::new());
    lines.push(rows(
        &task["attempts"],
        &["ATTEMPT", "NODE", "STARTED", "ENDED", "EXIT CODE", "OUTCOME"],
        &["attempt", "node", "started", "ended", "exitCode", "outcome"],
        "no attempt has started",
    ));
    let shown = task["attempts"].as_array().map_or(0, Vec::len) as u64;
    if let Some(more) =
        task["attemptsGiven"].as_u64().and_then(|given| given.checked_sub(shown)).filter(|more| *more > 0)
    {
        lines.push(format!("{more} more: given back unstarted, or too long ago to be kept"));
    }
    lines.join("\n")
}

fn of_pool(pool: &Value) -> String {
    let mut lines = facts(
        pool,
        &[
            ("pool", "pool"),
            ("state", "state"),
            ("allocation", "allocation"),
            ("target nodes", "target"),
            ("tasks ready", "tasksReady"),
        ],
    );
    for error in pool["resizeErrors"].as_array().into_iter().flatten() {
        lines.push(format!("resize error: {}", text(error)));
    }
    lines.push(String::new());
    if pool["group"].is_null() {
        lines.push("no actor group runs for it on this coordinator".to_owned());
    } else {
        lines.extend(facts(
            &pool["group"],
            &[
                ("group generation", "generation"),
                ("restarts in the last minute", "restartsLastMinute"),
                ("waits for its back-off", "waitsForBackOff"),
                ("last failure", "lastFailure"),
                ("nodes asking for work", "nodesAsking"),
                ("proposals in flight", "proposalsInFlight"),
                ("tasks assigned by this generation", "assignedByThisGeneration"),
            ],
        ));
    }
    lines.push(String::new());
    lines.push(rows(
        &pool["nodes"],
        &["NODE", "STATE", "HOST", "TAKES TASKS", "SLOTS", "RUNNING", "NOT STARTED", "ENDING"],
        &["node", "state", "host", "takesTasks", "slots", "running", "notStarted", "ending"],
        "no nodes",
    ));
    lines.join("\n")
}

fn of_node(node: &Value) -> String {
    let mut lines = facts(
        node,
        &[
            ("node", "node"),
            ("pool", "pool"),
            ("host", "host"),
            ("peer", "peer"),
            ("state", "state"),
            ("since", "stateChanged"),
            ("takes tasks", "takesTasks"),
            ("slots", "slots"),
            ("tasks run", "tasksRun"),
        ],
    );
    for error in node["errors"].as_array().into_iter().flatten() {
        lines.push(format!("error: {}", text(error)));
    }
    lines.push(String::new());
    lines.push(rows(
        &node["holds"],
        &["JOB", "TASK", "ATTEMPT", "SLOTS", "STARTED", "ENDING"],
        &["job", "task", "attempt", "slots", "started", "ending"],
        "it holds no task",
    ));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_waiting_task_tells_its_reason_and_its_attempts() {
        let attempt = json!({ "attempt": 2, "node": "tvm-1", "started": "s", "ended": "e", "exitCode": 3,
            "outcome": "ended by itself, retried" });
        let found = json!({ "task": "t", "job": "j", "pool": "p", "state": "active", "stateChanged": "c",
            "requiredSlots": 4, "waitsBecause": "needs 4 slots, largest free node has 2", "failure": null,
            "attempts": [attempt], "attemptsGiven": 3 });
        expect_test::expect![[r"
            task   t
            job    j
            pool   p
            state  active
            since  c
            slots  4
            waits because: needs 4 slots, largest free node has 2

            ATTEMPT  NODE   STARTED  ENDED  EXIT CODE  OUTCOME
            2        tvm-1  s        e      3          ended by itself, retried
            2 more: given back unstarted, or too long ago to be kept"]]
        .assert_eq(&of_task(&found));
    }
}
