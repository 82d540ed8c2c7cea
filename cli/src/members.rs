//! `lote token` and `lote host`: who may join, who has, and who is to go.

use crate::client::Client;
use crate::duration::Seconds;
use crate::output::{Output, table};
use anyhow::{Context, bail};
use lote_shared::model::{MemberRole, TokenId};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// What all these commands take.
#[derive(Debug, clap::Args)]
pub struct Common {
    /// Data folder of a running coordinator [default: ./.lote]
    #[arg(long, env = "LOTE_DATA_DIR", default_value = ".lote")]
    data_dir: PathBuf,
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// How often a host that is draining is looked at.
const DRAIN_LOOK: Duration = Duration::from_millis(300);
/// How often in a row that may fail.
const DRAIN_FAILS_MAX: u32 = 20;

#[derive(Debug, clap::Subcommand)]
pub enum Token {
    /// Make a token with which machines join.
    Create {
        /// What they join as: worker or coordinator.
        #[arg(long, default_value = "worker")]
        role: MemberRole,
        /// How many machines may join with it.
        #[arg(long, default_value_t = 1)]
        uses: u32,
        /// How long it is good, e.g. 90s, 10m, 1h, 2d.
        #[arg(long, default_value = "1h")]
        expires: Seconds,
        /// For people.
        #[arg(long, default_value = "")]
        note: String,
        #[command(flatten)]
        common: Common,
    },
    /// Show the tokens there are; never their secrets.
    List {
        #[command(flatten)]
        common: Common,
    },
    /// Make a token good for nothing.
    Revoke {
        id: TokenId,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, clap::Subcommand)]
pub enum Host {
    /// Show the members and what they are doing.
    List {
        #[command(flatten)]
        common: Common,
    },
    /// Remove a host: it ends what it runs, which starts elsewhere, and is then cut off.
    Remove {
        /// Name or peer id.
        host: String,
        /// Cut a worker off at once; what it ran starts elsewhere when its lease is over.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        common: Common,
    },
}

pub fn token(command: Token) -> anyhow::Result<ExitCode> {
    crate::block_on(async move {
        match command {
            Token::Create { role, uses, expires, note, common } => {
                let body = json!({ "role": role, "uses": uses, "expiresSeconds": expires.0, "note": note });
                let made: Value =
                    serde_json::from_slice(&client(&common)?.post("/lote/tokens", &body).await?)?;
                match common.output {
                    Output::Json => show(&made)?,
                    // The token alone, so that a script can take it.
                    Output::Text => println!("{}", made["token"].as_str().unwrap_or_default()),
                }
            }
            Token::List { common } => {
                let found = client(&common)?.get("/lote/tokens").await?;
                let columns = ["id", "role", "state", "usesLeft", "expires", "note"];
                list(
                    &common,
                    &found,
                    "tokens",
                    &["TOKEN", "ROLE", "STATE", "USES LEFT", "EXPIRES", "NOTE"],
                    &columns,
                )?;
            }
            Token::Revoke { id, common } => {
                client(&common)?.delete(&format!("/lote/tokens/{id}")).await?;
                match common.output {
                    Output::Json => show(&json!({ "revoked": id.to_string() }))?,
                    Output::Text => println!("token {id} is revoked"),
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    })?
}

pub fn host(command: Host) -> anyhow::Result<ExitCode> {
    crate::block_on(async move {
        match command {
            Host::List { common } => {
                let found = client(&common)?.get("/lote/members").await?;
                let columns = ["name", "role", "state", "cores", "nodes", "peer"];
                list(
                    &common,
                    &found,
                    "members",
                    &["NAME", "ROLE", "STATE", "CORES", "NODES", "PEER"],
                    &columns,
                )?;
            }
            Host::Remove { host, force, common } => {
                let client = client(&common)?;
                let found = client.get("/lote/members").await?;
                let peer = find(&found, &host)?;
                let query = if force { "?force=true" } else { "" };
                let answer = client.delete(&format!("/lote/members/{peer}{query}")).await?;
                let mut answer: Value = serde_json::from_slice(&answer)?;
                if answer["draining"].is_string() {
                    wait_until_drained(&client, &peer, &host, &answer, common.output).await?;
                    answer = json!({ "removed": peer });
                }
                match common.output {
                    Output::Json => show(&answer)?,
                    Output::Text if answer["leaving"].is_string() => {
                        println!(
                            "{host} ({peer}) is leaving; it is out once a coordinator that is to vote in its place has \
                             caught up, which `lote status` of another one shows"
                        );
                    }
                    Output::Text if answer["nodesUntilLeaseEnds"].as_u64().unwrap_or(0) > 0 => {
                        println!(
                            "{host} ({peer}) is removed; what it ran starts elsewhere when its lease is over"
                        );
                    }
                    Output::Text => println!("{host} ({peer}) is removed"),
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    })?
}

/// The host gives its nodes up one by one, at the latest when its lease is over. It goes on when nobody waits.
async fn wait_until_drained(
    client: &Client,
    peer: &str,
    host: &str,
    begun: &Value,
    output: Output,
) -> anyhow::Result<()> {
    let mut nodes = begun["nodes"].as_u64();
    let mut failed = 0;
    loop {
        if output == Output::Text {
            eprintln!("{host} is draining: {} nodes to give up", nodes.unwrap_or(0));
        }
        let shown = nodes;
        while nodes == shown {
            tokio::time::sleep(DRAIN_LOOK).await;
            let found = match client.get("/lote/members").await {
                Ok(found) => found,
                // Another coordinator may be about to lead.
                Err(_) if failed < DRAIN_FAILS_MAX => {
                    failed += 1;
                    continue;
                }
                Err(error) => return Err(error.context(format!("{host} goes on draining"))),
            };
            failed = 0;
            let members = found["members"].as_array().context("the coordinator's answer has no members")?;
            let Some(member) = members.iter().find(|member| member["peer"] == peer) else { return Ok(()) };
            nodes = member["nodes"].as_u64();
        }
    }
}

pub fn client(common: &Common) -> anyhow::Result<Client> {
    Client::from_env_file(&common.data_dir.join("lote.env"))
}

/// The peer id of the member with this name or id.
fn find(found: &Value, wanted: &str) -> anyhow::Result<String> {
    let members = found["members"].as_array().context("the coordinator's answer has no members")?;
    let named: Vec<&str> = members
        .iter()
        .filter(|member| member["peer"] == wanted || member["name"] == wanted)
        .filter_map(|member| member["peer"].as_str())
        .collect();
    match named.as_slice() {
        [peer] => Ok((*peer).to_owned()),
        [] => bail!("no member is called `{wanted}`; `lote host list` shows them"),
        _ => bail!("{} members are called `{wanted}`; name one by its peer id", named.len()),
    }
}

pub fn show(value: &Value) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

fn list(
    common: &Common,
    found: &Value,
    name: &str,
    headings: &[&str],
    columns: &[&str],
) -> anyhow::Result<()> {
    if common.output == Output::Json {
        return show(found);
    }
    let cell = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let rows = found[name].as_array().into_iter().flatten();
    let rows: Vec<Vec<String>> =
        rows.map(|row| columns.iter().map(|column| cell(&row[*column])).collect()).collect();
    println!("{}", if rows.is_empty() { format!("no {name}") } else { table(headings, &rows) });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_found_by_name_or_id_if_it_is_one() {
        let found = json!({ "members": [
            { "peer": "p1", "name": "a" }, { "peer": "p2", "name": "b" }, { "peer": "p3", "name": "b" },
        ] });
        assert_eq!(find(&found, "a").unwrap(), "p1");
        assert_eq!(find(&found, "p3").unwrap(), "p3");
        assert!(find(&found, "b").unwrap_err().to_string().contains("2 members"));
        assert!(find(&found, "c").unwrap_err().to_string().contains("host list"));
    }
}
