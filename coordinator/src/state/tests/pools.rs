//! Scenarios of `pools-and-nodes.md` §19 as far as the core decides them.

use crate::state::command::{Action, Condition, PoolPatch};
use crate::state::testing::*;
use crate::state::{Event, RefusalCode, TaskPlace};
use lote_shared::model::*;
use lote_shared::protocol::host::NodePhase;

fn stop_resize(w: &mut World, pool: &str) -> crate::state::Reply {
    w.act(Action::PoolStopResize { pool: pool_id(pool), condition: Condition::default() })
}

fn delete_pool(w: &mut World, pool: &str) -> crate::state::Reply {
    w.act(Action::PoolDelete { pool: pool_id(pool), condition: Condition::default() })
}

fn patch_pool(w: &mut World, pool: &str, patch: PoolPatch) -> crate::state::Reply {
    w.act(Action::PoolPatch { pool: pool_id(pool), condition: Condition::default(), patch: Box::new(patch) })
}

fn allocation(w: &World, pool: &str) -> AllocationState {
    w.cluster.pool(w.pool_key(pool)).unwrap().allocation
}

fn timed_out() -> Vec<ResizeError> {
    vec![ResizeError { code: "AllocationTimedout".to_owned(), message: String::new(), values: Vec::new() }]
}

#[test]
fn spec_p_p1_growth_to_the_target() {
    let mut w = World::new();
    w.ok(Action::PoolAdd { spec: Box::new(pool_spec("p", 2, 1)) });
    assert_eq!(allocation(&w, "p"), AllocationState::Resizing);
    let pool = w.pool_key("p");
    let host = w.host("h", 4);
    let first = w.grant(pool, host, true);
    assert_eq!(allocation(&w, "p"), AllocationState::Resizing);
    let states = |w: &World| w.node(first).state;
    assert_eq!(states(&w), NodeState::Creating);
    w.phase(first, NodePhase::Starting);
    assert_eq!(states(&w), NodeState::Starting);
    w.phase(first, NodePhase::WaitingForStartTask);
    assert_eq!(states(&w), NodeState::WaitingForStartTask);
    w.phase(first, NodePhase::Ready);
    assert_eq!(states(&w), NodeState::Idle);
    w.grant(pool, host, true);
    assert_eq!(allocation(&w, "p"), AllocationState::Steady);
    let counts = w.cluster.node_counts(pool);
    assert_eq!((counts.total(true), counts.of(true, NodeState::Idle), counts.total(false)), (2, 1, 0));
    let more = Action::NodeGrant { pool, host, node_id: "tvm-x".to_owned(), dedicated: true };
    assert_eq!(code(w.act(more)), RefusalCode::Fenced);
}

#[test]
fn spec_p_p2_p3_a_resize_that_ends_early_and_the_next() {
    let mut w = World::new();
    w.ok(Action::PoolAdd { spec: Box::new(pool_spec("p", 4, 1)) });
    let pool = w.pool_key("p");
    let host = w.host("h", 2);
    w.grant(pool, host, true);
    w.grant(pool, host, true);
    w.ok(Action::PoolSettled { pool, errors: timed_out() });
    let record = w.cluster.pool(pool).unwrap();
    assert_eq!((record.allocation, record.target_dedicated), (AllocationState::Steady, 4));
    assert_eq!((record.resize_errors.len(), w.cluster.node_counts(pool).total(true)), (1, 2));
    assert_eq!(code(w.act(Action::PoolSettled { pool, errors: Vec::new() })), RefusalCode::Fenced);
    w.resize("p", 4, DeallocationOption::Requeue).unwrap();
    assert!(w.cluster.pool(pool).unwrap().resize_errors.is_empty());
    w.grant(pool, host, true);
    w.grant(pool, host, true);
    assert_eq!(allocation(&w, "p"), AllocationState::Steady);
}

#[test]
fn spec_p_p4_p6_operations_by_allocation_state() {
    let mut w = World::new();
    w.ok(Action::PoolAdd { spec: Box::new(pool_spec("p", 1, 1)) });
    assert_eq!(code(w.resize("p", 2, DeallocationOption::Requeue)), RefusalCode::PoolBeingResized);
    stop_resize(&mut w, "p").unwrap();
    assert_eq!(allocation(&w, "p"), AllocationState::Stopping);
    assert_eq!(code(w.resize("p", 2, DeallocationOption::Requeue)), RefusalCode::PoolBeingResized);
    stop_resize(&mut w, "p").unwrap();
    let pool = w.pool_key("p");
    w.ok(Action::PoolSettled { pool, errors: Vec::new() });
    assert_eq!(code(stop_resize(&mut w, "p")), RefusalCode::OperationInvalidForCurrentState);
    w.resize("p", 0, DeallocationOption::Requeue).unwrap();
    assert_eq!(allocation(&w, "p"), AllocationState::Steady, "the target is reached already");
    let missing = w.resize("q", 0, DeallocationOption::Requeue);
    assert_eq!(code(missing), RefusalCode::PoolNotFound);
}

#[test]
fn spec_p_p5_stopresize_keeps_what_there_is() {
    let mut w = World::new();
    w.ok(Action::PoolAdd { spec: Box::new(pool_spec("p", 100, 1)) });
    let (pool, host) = (w.pool_key("p"), w.host("h", 64));
    for _ in 0..25 {
        w.grant(pool, host, true);
    }
    stop_resize(&mut w, "p").unwrap();
    let late = Action::NodeGrant { pool, host, node_id: "tvm-late".to_owned(), dedicated: true };
    assert_eq!(code(w.act(late)), RefusalCode::Fenced);
    w.ok(Action::PoolSettled { pool, errors: Vec::new() });
    let record = w.cluster.pool(pool).unwrap();
    assert_eq!((record.allocation, record.target_dedicated), (AllocationState::Steady, 100));
    assert_eq!(w.nodes("p").len(), 25);
}

#[test]
fn spec_p_p7_shrinking_waits_for_tasks_only_if_asked() {
    for (option, place, done) in [
        (DeallocationOption::Requeue, TaskPlace::Ready, true),
        (DeallocationOption::Terminate, TaskPlace::Completed { result: TaskResult::Failure }, true),
        (DeallocationOption::TaskCompletion, TaskPlace::Running { node: NodeKey(1) }, false),
    ] {
        let mut w = World::new();
        let pool = w.pool("p", 2, 1);
        let node = w.nodes("p")[0];
        w.job("j", "p");
        let a = w.task("j", "a");
        let run = w.run(node, a);
        w.resize("p", 1, option).unwrap();
        w.ok(Action::NodeRevoke { node, option });
        w.obey();
        assert_eq!(w.record(a).place, place, "{option:?}");
        assert_eq!(allocation(&w, "p") == AllocationState::Steady, done, "{option:?}");
        if !done {
            assert_eq!(code(w.act(Action::PoolSettled { pool, errors: Vec::new() })), RefusalCode::Fenced);
            w.exit(node, run, 0);
            w.obey();
            assert_eq!(allocation(&w, "p"), AllocationState::Steady);
        }
        assert_eq!(w.nodes("p").len(), 1);
    }
}

#[test]
fn stopresize_keeps_nodes_that_still_wait_for_tasks() {
    let mut w = World::new();
    let pool = w.pool("p", 2, 1);
    let nodes = w.nodes("p");
    w.job("j", "p");
    let (a, b) = (w.task("j", "a"), w.task("j", "b"));
    let run = w.run(nodes[0], a);
    w.resize("p", 0, DeallocationOption::TaskCompletion).unwrap();
    for node in &nodes {
        w.ok(Action::NodeRevoke { node: *node, option: DeallocationOption::TaskCompletion });
    }
    stop_resize(&mut w, "p").unwrap();
    w.obey();
    assert_eq!(w.nodes("p"), [nodes[0]], "the empty one left");
    w.ok(Action::PoolSettled { pool, errors: Vec::new() });
    w.exit(nodes[0], run, 0);
    w.run(nodes[0], b);
}

#[test]
fn spec_p_p11_p12_a_deleted_pool_leaves_its_jobs_alone() {
    let mut w = World::new();
    w.pool("p", 2, 1);
    let node = w.nodes("p")[0];
    w.job("j", "p");
    let a = w.task("j", "a");
    w.run(node, a);
    delete_pool(&mut w, "p").unwrap();
    let pool = w.pool_key("p");
    assert_eq!(w.cluster.pool(pool).unwrap().state, PoolState::Deleting);
    assert_eq!(code(delete_pool(&mut w, "p")), RefusalCode::PoolBeingDeleted);
    assert_eq!(code(w.resize("p", 1, DeallocationOption::Requeue)), RefusalCode::PoolBeingDeleted);
    assert_eq!(code(patch_pool(&mut w, "p", PoolPatch::default())), RefusalCode::PoolBeingDeleted);
    let again = Action::PoolAdd { spec: Box::new(pool_spec("P", 0, 1)) };
    assert_eq!(code(w.act(again.clone())), RefusalCode::PoolBeingDeleted);
    w.obey();
    assert!(w.cluster.pool(pool).is_none());
    let task = w.record(a);
    assert_eq!((task.place, task.requeue_count), (TaskPlace::Ready, 1));
    assert_eq!(w.job_record("j").state, JobState::Active);
    // F6: a pool of that name made anew runs the task.
    w.pool("p", 1, 1);
    assert_ne!(w.pool_key("p"), pool);
    let node = w.nodes("p")[0];
    w.run(node, a);
}

#[test]
fn deleting_a_pool_whose_host_is_lost_does_not_wait_for_it() {
    let mut w = World::new();
    w.pool("p", 2, 1);
    let nodes = w.nodes("p");
    let (gone, away) = (w.node(nodes[0]).host, w.node(nodes[1]).host);
    w.ok(Action::HostLost { host: gone });
    w.ok(Action::HostUnknown { host: away });
    delete_pool(&mut w, "p").unwrap();
    assert_eq!(w.nodes("p"), [nodes[1]]);
    w.ok(Action::HostLost { host: away });
    assert!(w.cluster.pool_by_id(ACCOUNT, &pool_id("p")).is_none());
}

#[test]
fn spec_p_p13_some_members_need_a_pool_without_nodes() {
    let mut w = World::new();
    w.pool("p", 1, 1);
    let size = || PoolPatch { vm_size: Some("standard_d2s_v3".to_owned()), ..PoolPatch::default() };
    assert_eq!(code(patch_pool(&mut w, "p", size())), RefusalCode::OperationNotValidOnPool);
    let metadata = vec![MetadataItem { name: "a".to_owned(), value: "b".to_owned() }];
    let free = PoolPatch { metadata: Some(metadata.clone()), ..PoolPatch::default() };
    patch_pool(&mut w, "p", free).unwrap();
    assert_eq!(w.cluster.pool_cold(w.pool_key("p")).unwrap().metadata, metadata);
    let node = w.nodes("p")[0];
    w.resize("p", 0, DeallocationOption::Requeue).unwrap();
    w.ok(Action::NodeRevoke { node, option: DeallocationOption::Requeue });
    w.obey();
    patch_pool(&mut w, "p", size()).unwrap();
    assert_eq!(w.cluster.pool(w.pool_key("p")).unwrap().vm_size, "standard_d2s_v3");
}

#[test]
fn echoed_members_are_merged() {
    let mut w = World::new();
    let mut spec = pool_spec("p", 0, 1);
    spec.cold.echo = r#"{"a":1,"b":{"c":2}}"#.to_owned();
    w.pool_with(spec);
    let echo = |w: &mut World, text: &str| {
        patch_pool(w, "p", PoolPatch { echo: Some(text.to_owned()), ..PoolPatch::default() }).unwrap();
        w.cluster.pool_cold(w.pool_key("p")).unwrap().echo.clone()
    };
    assert_eq!(echo(&mut w, r#"{"b":3,"d":4}"#), r#"{"a":1,"b":3,"d":4}"#);
    assert_eq!(echo(&mut w, "nonsense"), r#"{"a":1,"b":3,"d":4}"#);
    assert_eq!(echo(&mut w, r#"{"a":null,"b":null,"d":null}"#), "");
}

#[test]
fn the_quota_of_pools() {
    let mut w = World::new();
    for n in 0..crate::state::POOLS_MAX {
        w.pool(&format!("p{n}"), 0, 1);
    }
    let more = Action::PoolAdd { spec: Box::new(pool_spec("more", 0, 1)) };
    assert_eq!(code(w.act(more)), RefusalCode::PoolQuotaReached);
}

#[test]
fn a_node_runs_while_it_holds_a_task_and_pages_are_in_order() {
    let mut w = World::new();
    let pool = w.pool("p", 3, 1);
    let nodes = w.nodes("p");
    w.job("j", "p");
    let a = w.task("j", "a");
    w.take_events();
    let run = w.run(nodes[1], a);
    assert_eq!(w.node(nodes[1]).state, NodeState::Running);
    w.take_events();
    w.exit(nodes[1], run, 0);
    assert_eq!(w.node(nodes[1]).state, NodeState::Idle);
    assert!(w.take_events().contains(&Event::NodeFreed { pool, node: nodes[1] }));
    let first = w.node(nodes[0]);
    let rest: Vec<_> =
        w.cluster.nodes_of(pool, Some((first.allocated, first.id.clone()))).map(|node| node.key).collect();
    assert_eq!(rest, nodes[1..]);
}
