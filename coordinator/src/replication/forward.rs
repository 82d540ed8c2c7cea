//! What a coordinator that does not lead asks of the one that does, and how that one takes it in.
//!
//! The stream is open to coordinators only, but what comes over it is checked as if it came from anywhere: a command
//! that cannot be decoded would, once in the log, stop every member.

use super::types::{COMMAND_BYTES_MAX, COMMANDS_MAX, MemberId};
use super::wire::{Blob, WireId};
use crate::state::{Command, Reply};
use lote_shared::network::Stream;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Questions of one peer that are worked on at a time.
const AT_ONCE_MAX: usize = 16;
/// Questions of all peers that wait for the driver.
pub const FORWARDED_MAX: usize = 64;

/// Grows only at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EngineQuestion {
    /// Encoded commands, to be applied in this order.
    Propose(Vec<Blob>),
    /// How far must I have applied to see every write that is acknowledged by now?
    ReadIndex,
    /// Have you lost your connection to this leader too?
    HasLost(MemberId),
}

/// Grows only at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EngineAnswer {
    /// All of them are applied; the last one by the entry at `index`.
    Replies {
        index: u64,
        replies: Vec<Reply>,
    },
    Index(u64),
    /// This member does not lead, or no longer; nobody knows what became of what was proposed.
    NotLeading,
    /// Whether it is lost, and the last entry of this member's log: who has most should lead next.
    Lost {
        is_lost: bool,
        last: Option<WireId>,
    },
    /// The question was not taken, with the reason in words.
    Refused(String),
}

/// A question on its way to the driver.
#[derive(Debug)]
pub enum Forwarded {
    Propose { commands: Vec<Blob>, answer: oneshot::Sender<EngineAnswer> },
    ReadIndex(oneshot::Sender<EngineAnswer>),
}

/// Answers [`EngineQuestion::HasLost`].
pub type HasLost = Arc<dyn Fn(MemberId) -> EngineAnswer + Send + Sync>;

/// Serves one peer's stream until it ends.
pub async fn serve(stream: Stream, driver: mpsc::Sender<Forwarded>, has_lost: HasLost) {
    let peer = stream.peer();
    let answer = |question: EngineQuestion| {
        let (answer, wait) = oneshot::channel();
        let forwarded = match question {
            EngineQuestion::Propose(commands) => match check(&commands) {
                Ok(()) => Ok(Forwarded::Propose { commands, answer }),
                Err(why) => Err(EngineAnswer::Refused(why)),
            },
            EngineQuestion::ReadIndex => Ok(Forwarded::ReadIndex(answer)),
            EngineQuestion::HasLost(member) => Err(has_lost(member)),
        };
        // Handed over here and not in the future, so that the order of a peer's proposals stays.
        let forwarded = forwarded.and_then(|forwarded| {
            driver.try_send(forwarded).map_err(|_| EngineAnswer::Refused("too much is waiting".to_owned()))
        });
        async move {
            match forwarded {
                Ok(()) => wait.await.unwrap_or(EngineAnswer::NotLeading),
                Err(answer) => answer,
            }
        }
    };
    if let Err(error) = super::link::answer_all(stream, AT_ONCE_MAX, answer).await {
        tracing::debug!(%peer, %error, "a coordinator's stream of proposals ended");
    }
}

fn check(commands: &[Blob]) -> Result<(), String> {
    let bytes: usize = commands.iter().map(|command| command.0.len()).sum();
    if commands.is_empty() || commands.len() > COMMANDS_MAX || bytes > COMMAND_BYTES_MAX {
        return Err(format!("{} commands of {bytes} bytes at once", commands.len()));
    }
    for command in commands {
        Command::decode(&command.0).map_err(|error| format!("a command is unreadable: {error}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_not_get_into_the_log_is_refused() {
        let good = Blob(crate::replication::tests::toy::command("a").encode().unwrap().into());
        assert_eq!(check(std::slice::from_ref(&good)), Ok(()));
        for (what, commands) in [
            ("none", vec![]),
            ("too many", vec![good.clone(); COMMANDS_MAX + 1]),
            ("too large together", vec![Blob(vec![0; COMMAND_BYTES_MAX].into()), good.clone()]),
            ("an unreadable one", vec![good.clone(), Blob(b"\x01\x01nonsense".as_slice().into())]),
            ("an empty one", vec![Blob::default()]),
        ] {
            assert!(check(&commands).is_err(), "{what}");
        }
    }
}
