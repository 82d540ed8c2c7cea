//! `lote recover`: the best state that a damaged folder, or one without its quorum, still has becomes a cluster of one.

use crate::output::Output;
use anyhow::{Context, bail};
use lote_coordinator::replication::recover::{Recovery, force_single};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Data folder of the stopped coordinator.
    #[arg(long, env = "LOTE_DATA_DIR", default_value = ".lote")]
    data_dir: PathBuf,
    /// Yes: take what this folder has, alone, whatever other coordinators may have.
    #[arg(long)]
    force_single: bool,
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub fn main(arguments: Arguments) -> anyhow::Result<ExitCode> {
    // The folder of `lote up` holds the coordinator's in it.
    let inner = arguments.data_dir.join("coordinator");
    let folder = if inner.is_dir() { inner } else { arguments.data_dir };
    if !arguments.force_single {
        bail!(
            "recovering {} makes it a cluster of one with what it has: writes that only other coordinators have, or \
             that are damaged here, are lost, and the other coordinators must never run again. If one of them is \
             sound, recover that one or let this machine join anew. To go on: --force-single",
            folder.display()
        );
    }
    let recovery = force_single(&folder).with_context(|| format!("recovering {}", folder.display()))?;
    match arguments.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&as_json(&recovery))?),
        Output::Text => println!("{}", as_text(&recovery)),
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json(recovery: &Recovery) -> serde_json::Value {
    json!({
        "member": recovery.member,
        "index": recovery.index,
        "stateHash": recovery.state_hash,
        "source": recovery.source,
        "knownUntil": recovery.known_until,
        "flaws": recovery.flaws,
        "unchanged": recovery.unchanged,
    })
}

fn as_text(recovery: &Recovery) -> String {
    let mut lines: Vec<String> = recovery.flaws.iter().map(|flaw| format!("found: {flaw}")).collect();
    let index = recovery.index.map_or("nothing".to_owned(), |index| format!("entry {index}"));
    if recovery.unchanged {
        lines.push(format!("sound, a cluster of one already: state up to {index}; nothing was changed"));
        return lines.join("\n");
    }
    lines.push(format!("the state reaches {index}, made from {} and the log", recovery.source));
    lines.push(format!("state hash {}", recovery.state_hash));
    lines.push(match (recovery.known_until, recovery.index) {
        (Some(known), index) => {
            let first = index.map_or(0, |index| index + 1);
            format!(
                "lost: entries {first} to {known}, and any after that which stood only in what is damaged"
            )
        }
        (None, _) if recovery.flaws.is_empty() => "nothing that this folder knows of is lost".to_owned(),
        (None, _) => "nothing is known to be lost; what stood only in what is damaged would be".to_owned(),
    });
    lines.push(format!("it is member {} now, alone; start it as usual", recovery.member));
    lines.push("what was there before is in `replaced` until the next recovery".to_owned());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_there_and_what_may_be_lost() {
        let recovery = Recovery {
            member: 4,
            index: Some(70),
            state_hash: "ab".to_owned(),
            source: "snapshot s".to_owned(),
            known_until: Some(90),
            flaws: vec!["log file `1.log` is damaged at offset 7: why".to_owned()],
            unchanged: false,
        };
        expect_test::expect![[r"
            found: log file `1.log` is damaged at offset 7: why
            the state reaches entry 70, made from snapshot s and the log
            state hash ab
            lost: entries 71 to 90, and any after that which stood only in what is damaged
            it is member 4 now, alone; start it as usual
            what was there before is in `replaced` until the next recovery"]]
        .assert_eq(&as_text(&recovery));
    }
}
