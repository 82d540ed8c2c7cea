//! Keeps jobs going in time: schedules, wall clocks, grace times, retries that are due, and the cursors of long work.
//!
//! It owns no state: after each change it asks the state which cursors wait and which deadline comes next. Cursors
//! advance one `Continue` at a time, each proposed only after the last was applied, so that other traffic passes
//! between the slices.

use crate::clock;
use crate::engine::Engine;
use crate::state::keys::CLUSTER;
use crate::state::{Action, Deadline};
use lote_shared::model::{AccountId, Timestamp};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;

/// Longest sleep: bounds what a clock that jumped can cost.
const SLEEP_MAX: Duration = Duration::from_secs(5);
/// Retries that are due together travel in one command, at most so many.
const RETRIES_PER_COMMAND: usize = 500;

/// Runs until `stop` changes.
pub async fn run(engine: Engine, mut stop: watch::Receiver<bool>) {
    let mut events = engine.events();
    loop {
        let worked = advance(&engine).await;
        let sleep = if worked { Duration::ZERO } else { next_sleep(&engine) };
        tokio::select! {
            _ = stop.changed() => return,
            _ = tokio::time::sleep(sleep) => {}
            event = events.recv() => {
                if matches!(event, Err(RecvError::Closed)) {
                    return;
                }
                // One look at the state answers everything that happened so far.
                while events.try_recv().is_ok() {}
            }
        }
    }
}

fn next_sleep(engine: &Engine) -> Duration {
    let next = engine.read(|cluster| cluster.deadlines().next().map(|(at, _)| at));
    let until = next.map(|at: Timestamp| at.since_ms(clock::wall()));
    until.map_or(SLEEP_MAX, |ms| Duration::from_millis(ms.max(1)).min(SLEEP_MAX))
}

/// Proposes everything that is due; whether anything was.
async fn advance(engine: &Engine) -> bool {
    let now = clock::wall();
    let mut commands: Vec<(AccountId, Action)> = Vec::new();
    engine.read(|cluster| {
        for cursor in cluster.cursors() {
            commands.push((CLUSTER, Action::Continue { cursor }));
        }
        let mut retries = Vec::new();
        for (at, deadline) in cluster.deadlines() {
            if at > now || commands.len() > RETRIES_PER_COMMAND || retries.len() >= RETRIES_PER_COMMAND {
                break;
            }
            match deadline {
                Deadline::JobWallClock(job) => {
                    commands.push((account_of(cluster, job), Action::JobExpire { job }))
                }
                Deadline::JobEmptyGrace(job) => {
                    commands.push((account_of(cluster, job), Action::JobCheckComplete { job }));
                }
                Deadline::Retry(task) => retries.push(task),
                Deadline::Schedule(schedule) => commands.push((CLUSTER, Action::ScheduleCheck { schedule })),
            }
        }
        if !retries.is_empty() {
            commands.push((CLUSTER, Action::RetryDue { tasks: retries }));
        }
    });
    let mut worked = false;
    for (account, action) in commands {
        match engine.propose(account, action).await {
            Ok(Ok(_)) => worked = true,
            Ok(Err(refusal)) => tracing::debug!(%refusal, "a due command was refused"),
            Err(error) => {
                tracing::debug!(%error, "a due command was not taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    worked
}

fn account_of(cluster: &crate::state::Cluster, job: lote_shared::model::JobKey) -> AccountId {
    cluster.job(job).map_or(CLUSTER, |job| job.account)
}
