use lote_coordinator::scheduling::*;
use lote_coordinator::state::command::*;
use lote_coordinator::state::testing::*;
use lote_coordinator::state::*;
use lote_shared::model::*;
use std::time::Instant;
fn rss() -> u64 {
    let s = std::fs::read_to_string("/proc/self/statm").unwrap();
    s.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
fn main() {
    let n: usize = std::env::args().nth(1).unwrap().parse().unwrap();
    let mut w = World::new();
    let pool = w.pool("p", 4, 64);
    w.job("j", "p");
    println!("TaskRecord {} bytes", std::mem::size_of::<TaskRecord>());
    let r0 = rss();
    let t = Instant::now();
    let mut bytes = 0usize;
    let mut index = 1000;
    let mut apply = |w: &mut World, action: Action, bytes: &mut usize| {
        index += 1;
        let mut b = Batch::default();
        let c = Command { account: ACCOUNT, key: IdempotencyKey(index as u128 * 7919 + (1 << 100)), action };
        let r = w.cluster.apply(Stamp { index, now: START }, &c, &mut b);
        *bytes += b.writes.iter().map(|(k, v)| k.len() + v.as_ref().map_or(0, |v| v.len())).sum::<usize>();
        r.unwrap()
    };
    for c in 0..n / 100 {
        let tasks = (0..100).map(|i| task_add(&format!("task-{:07}", c * 100 + i))).collect();
        apply(&mut w, Action::TasksAdd { job: job_id("j"), tasks }, &mut bytes);
    }
    println!(
        "add: {:?} per task, {} B rows/task, rss +{} B/task",
        t.elapsed() / n as u32,
        bytes / n,
        (rss() - r0) / n as u64
    );
    let mut d = Dispatcher::new(pool);
    for node in w.nodes("p") {
        d.on_ask(node, 512);
    }
    let t = Instant::now();
    let mut done = 0;
    bytes = 0;
    let mut plan_time = std::time::Duration::ZERO;
    while done < n / 10 {
        let p = Instant::now();
        let ds = d.plan(START, &w.cluster);
        plan_time += p.elapsed();
        for dec in ds {
            let Decision::Assign { node, tasks } = dec else { continue };
            let Outcome::Assigned(given) =
                apply(&mut w, Action::Assign { node, tasks: tasks.clone() }, &mut bytes)
            else {
                panic!()
            };
            d.on_assign_result(node, &tasks);
            done += given.len();
            let attempts = given
                .iter()
                .map(|a| lote_shared::protocol::host::AttemptReport {
                    attempt: *a,
                    started: Some(START),
                    end: Some(lote_shared::protocol::host::AttemptEnd { at: START, outcome: exited(0) }),
                })
                .collect();
            apply(&mut w, Action::Report { node, attempts }, &mut bytes);
            d.on_node_changed(node);
        }
    }
    println!(
        "assign+report: {:?} per task, plan {:?}, {} B rows/task",
        t.elapsed() / done as u32,
        plan_time / done as u32,
        bytes / done
    );
}
