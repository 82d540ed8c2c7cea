//! Answers that are remembered, so that a command proposed twice is applied once.
//!
//! A proposal that timed out may have been applied. Whoever proposes it again uses the same key and gets the first
//! answer. Remembered are the last [`ANSWERS_MAX`] of the last [`KEPT_MS`], in order, as stored rows; so a replica
//! that was rebuilt answers alike. The driver repeats a command for 10 s, so [`ANSWERS_MAX`] is enough for 10 000
//! remembered commands a second, and an add of a hundred tasks is one. Commands that change nothing when applied again
//! are not remembered ([`Action::is_repeatable`]): they are the bulk of the traffic, and a repeat of one may be answered
//! differently (a report that arrived is then fenced).

use super::command::{Action, Command, IdempotencyKey, TaskAdd};
use super::keys;
use super::reply::{Outcome, Refusal, Reply, Version};
use super::step::Step;
use lote_shared::model::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub const ANSWERS_MAX: usize = 100_000;
/// Attempt references in all remembered answers together, so that chunks of assignments do not fill the memory.
pub const WEIGHT_MAX: u64 = 1_000_000;
pub const KEPT_MS: u64 = 10 * 60 * 1000;
/// Rows forgotten by one apply beyond the one it adds.
const FORGET_MAX: usize = 16;

impl Action {
    /// Whether a second apply of the same command changes nothing by itself: levels, and reports fenced by attempts.
    pub fn is_repeatable(&self) -> bool {
        matches!(
            self,
            Action::AccountAdd { .. }
                | Action::HostUnknown { .. }
                | Action::HostLost { .. }
                | Action::NodeGone { .. }
                | Action::NodeReport { .. }
                | Action::JobExpire { .. }
                | Action::JobCheckComplete { .. }
                | Action::Recalled { .. }
                | Action::Report { .. }
                | Action::RetryDue { .. }
                | Action::Continue { .. }
                | Action::ScheduleCheck { .. }
                | Action::ClusterInit { .. }
                | Action::TokenRevoke { .. }
                | Action::CoordinatorFounded { .. }
                | Action::CoordinatorLeft { .. }
        )
    }
}

/// A reply in the form in which it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    Whole(Reply),
    /// An add of tasks: the ids come from the repeated command. Versions count up from the first, refusals aside.
    Added {
        first: Version,
        refused: Vec<(u32, Refusal)>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Remembered {
    key: IdempotencyKey,
    at: Timestamp,
    answer: Answer,
}

#[derive(Debug, Default)]
pub(super) struct Answers {
    by_sequence: BTreeMap<u64, (IdempotencyKey, Timestamp, u64)>,
    by_key: BTreeMap<IdempotencyKey, (u64, Answer)>,
    last: u64,
    weight: u64,
}

impl Answers {
    /// The answer given before.
    pub fn find(&self, command: &Command) -> Option<Reply> {
        let (_, answer) = self.by_key.get(&command.key)?;
        match (answer, &command.action) {
            (Answer::Whole(reply), _) => Some(reply.clone()),
            (Answer::Added { first, refused }, Action::TasksAdd { tasks, .. }) => {
                Some(Ok(Outcome::TasksAdded(expand(*first, refused, tasks.iter()))))
            }
            (Answer::Added { first, refused }, Action::TiedTasksAdd { tasks, .. }) => {
                let tasks = tasks.iter().map(|(task, _)| task);
                Some(Ok(Outcome::TasksAdded(expand(*first, refused, tasks))))
            }
            // The key was drawn twice for different commands; both were meant.
            (Answer::Added { .. }, _) => None,
        }
    }

    pub fn remember(&mut self, step: &mut Step, command: &Command, reply: &Reply) {
        if command.action.is_repeatable() {
            return;
        }
        for _ in 0..FORGET_MAX {
            let Some((sequence, (key, at, weight))) =
                self.by_sequence.first_key_value().map(|(s, e)| (*s, *e))
            else {
                break;
            };
            let expired = step.now.since_ms(at) > KEPT_MS;
            if !expired && self.by_sequence.len() < ANSWERS_MAX && self.weight <= WEIGHT_MAX {
                break;
            }
            self.by_sequence.remove(&sequence);
            self.weight = self.weight.saturating_sub(weight);
            if self.by_key.get(&key).is_some_and(|(current, _)| *current == sequence) {
                self.by_key.remove(&key);
            }
            step.delete(keys::remembered(sequence));
        }
        let remembered = Remembered { key: command.key, at: step.now, answer: compact(reply) };
        let sequence = self.last + 1;
        step.put(keys::remembered(sequence), &remembered);
        self.load(sequence, remembered);
    }

    /// Takes one back into memory.
    pub fn load(&mut self, sequence: u64, remembered: Remembered) {
        self.last = self.last.max(sequence);
        let weight = match &remembered.answer {
            Answer::Whole(Ok(Outcome::Assigned(attempts))) => attempts.len() as u64,
            _ => 0,
        };
        self.weight += weight;
        self.by_sequence.insert(sequence, (remembered.key, remembered.at, weight));
        // Rows arrive in order, so a key drawn twice keeps its latest answer.
        self.by_key.insert(remembered.key, (sequence, remembered.answer));
    }

    pub fn len(&self) -> usize {
        self.by_sequence.len()
    }
}

fn compact(reply: &Reply) -> Answer {
    let Ok(Outcome::TasksAdded(tasks)) = reply else { return Answer::Whole(reply.clone()) };
    let first = tasks.iter().find_map(|(_, result)| result.as_ref().ok().copied()).unwrap_or_default();
    let refused = (0_u32..)
        .zip(tasks)
        .filter_map(|(at, (_, result))| result.as_ref().err().map(|refusal| (at, refusal.clone())))
        .collect();
    Answer::Added { first, refused }
}

fn expand<'a>(
    first: Version,
    refused: &[(u32, Refusal)],
    tasks: impl ExactSizeIterator<Item = &'a TaskAdd>,
) -> Vec<(lote_shared::model::TaskId, Result<Version, Refusal>)> {
    let mut version = first;
    let mut refused = refused.iter().peekable();
    let mut out = Vec::with_capacity(tasks.len());
    for (at, task) in (0_u32..).zip(tasks) {
        let result = match refused.next_if(|(index, _)| *index == at) {
            Some((_, refusal)) => Err(refusal.clone()),
            None => {
                let mine = version;
                version.etag += 1;
                Ok(mine)
            }
        };
        out.push((task.spec.id.clone(), result));
    }
    out
}
