//! Replay and reload, idempotency. (Random histories are in `random`.)

use crate::state::command::{Action, Command, IdempotencyKey};
use crate::state::testing::*;
use crate::state::{Batch, Cluster, Outcome, Stamp, keys};

#[test]
fn the_same_key_answers_as_before_without_applying() {
    let mut w = World::new();
    w.job("j", "p");
    w.task("j", "b");
    let add = |id: u128, names: &[&str]| Command {
        account: ACCOUNT,
        key: IdempotencyKey(id),
        action: Action::TasksAdd { job: job_id("j"), tasks: names.iter().map(|n| task_add(n)).collect() },
    };
    let first = w.apply(add(77_000, &["a", "b", "c"])).unwrap();
    let rows = w.rows.clone();
    assert_eq!(w.apply(add(77_000, &["a", "b", "c"])).unwrap(), first);
    assert_eq!(w.rows, rows);
    let Outcome::TasksAdded(results) = first else { panic!("no results") };
    assert_eq!(results.iter().filter(|(_, result)| result.is_ok()).count(), 2);
    // So does a replica that was rebuilt from its rows.
    let mut reloaded = w.reload();
    let stamp = w.log.last().unwrap().0;
    let again = reloaded.apply(stamp, &add(77_000, &["a", "b", "c"]), &mut Batch::default());
    assert_eq!(again, Ok(Outcome::TasksAdded(results)));
    let refused = w
        .apply(Command { action: Action::JobAdd { spec: Box::new(job_spec("j", "p")) }, ..add(77_001, &[]) });
    let key = IdempotencyKey(77_001);
    w.delete("j").unwrap();
    let again =
        Command { account: ACCOUNT, key, action: Action::JobAdd { spec: Box::new(job_spec("j", "p")) } };
    assert_eq!(w.apply(again), refused);
    w.pass_ms(11 * 60 * 1000);
    w.job("other", "p");
    w.ok(Action::TasksAdd { job: job_id("other"), tasks: vec![] });
    let again =
        Command { account: ACCOUNT, key, action: Action::JobAdd { spec: Box::new(job_spec("j", "p")) } };
    assert!(w.apply(again).is_ok(), "forgotten after ten minutes");
}

#[test]
fn commands_of_one_entry_write_the_counters_once_and_last() {
    let mut w = World::new();
    let mut cluster = w.reload();
    let commands: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .enumerate()
        .map(|(n, id)| Command {
            account: ACCOUNT,
            key: IdempotencyKey(500 + n as u128),
            action: Action::JobAdd { spec: Box::new(job_spec(id, "p")) },
        })
        .collect();
    for entry in [&commands[..2], &commands[2..]] {
        let stamp = Stamp { index: 9, now: START };
        let mut batch = Batch::default();
        for command in entry {
            cluster.apply(stamp, command, &mut batch).unwrap();
        }
        let counters = batch.writes.iter().filter(|(key, _)| *key == keys::meta()).count();
        assert_eq!(counters, 1);
        for (key, value) in batch.writes {
            w.rows.insert(key, value.unwrap());
        }
    }
    assert_eq!(w.reload().digest(), cluster.digest());
}

#[test]
fn time_never_goes_back() {
    let mut w = World::new();
    w.job("j", "p");
    w.now = lote_shared::model::Timestamp(5);
    let a = w.task("j", "a");
    assert_eq!(w.record(a).created, START);
    assert_eq!(w.reload().clock(), START);
}

#[test]
fn an_empty_state_loads() {
    assert_eq!(Cluster::load(std::iter::empty()).unwrap().all_tasks_count(), 0);
    let bad = vec![(vec![0, 0, 0, 1, 8, 0], vec![1, 1, 0])];
    assert!(Cluster::load(bad.into_iter()).is_err());
}
