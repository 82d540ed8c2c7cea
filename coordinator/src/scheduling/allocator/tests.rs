use super::*;
use crate::state::command::{Action, Condition};
use crate::state::testing::*;
use lote_shared::model::*;

struct Rig {
    w: World,
    allocator: Allocator,
}

impl Rig {
    /// A pool `p` of one-core nodes.
    fn new(target: u32, change: impl FnOnce(&mut PoolSpec)) -> Rig {
        let mut w = World::new();
        let mut spec = pool_spec("p", target, 1);
        change(&mut spec);
        w.ok(Action::PoolAdd { spec: Box::new(spec) });
        Rig { w, allocator: Allocator::default() }
    }

    fn plan(&mut self) -> Vec<Allocation> {
        self.allocator.plan(self.w.now, &self.w.cluster)
    }

    /// Carries out decisions until there are none; new nodes become ready, leaving ones are wiped.
    fn settle(&mut self) {
        loop {
            let decisions = self.plan();
            if decisions.is_empty() {
                return;
            }
            for decision in decisions {
                match decision {
                    Allocation::Grant { pool, host, node_id, dedicated } => {
                        let reply = self.w.act(Action::NodeGrant { pool, host, node_id, dedicated });
                        self.allocator.on_grant_result(pool, host, dedicated);
                        if let Ok(crate::state::Outcome::NodeGranted(node)) = reply {
                            self.w.ready(node);
                        }
                    }
                    Allocation::Revoke { node, option } => {
                        self.w.ok(Action::NodeRevoke { node, option });
                        self.allocator.on_revoke_result(node);
                    }
                    Allocation::Settle { pool, errors } => {
                        self.w.ok(Action::PoolSettled { pool, errors });
                        self.allocator.on_settle_result(pool);
                    }
                }
            }
            self.w.obey();
        }
    }

    fn pool(&self) -> &PoolRecord {
        self.w.cluster.pool(self.w.pool_key("p")).unwrap()
    }

    fn errors(&self) -> Vec<&str> {
        self.pool().resize_errors.iter().map(|error| error.code.as_str()).collect()
    }

    fn current(&self, dedicated: bool) -> u32 {
        self.w.cluster.node_counts(self.pool().key).total(dedicated)
    }

    fn stop(&mut self) {
        self.w.ok(Action::PoolStopResize { pool: pool_id("p"), condition: Condition::default() });
    }
}

#[test]
fn spec_p_p1_reaches_its_target_spread_over_hosts() {
    let mut rig = Rig::new(4, |_| ());
    let hosts: Vec<_> = (0..2).map(|n| rig.w.host(&format!("h{n}"), 8)).collect();
    rig.settle();
    assert_eq!((rig.pool().allocation, rig.current(true)), (AllocationState::Steady, 4));
    assert!(rig.errors().is_empty());
    for host in hosts {
        assert_eq!(rig.w.cluster.nodes_on_host(host).count(), 2);
    }
}

#[test]
fn nodes_that_talk_to_one_another_share_a_host() {
    let mut rig = Rig::new(3, |spec| spec.inter_node_communication = true);
    rig.w.host("small", 2);
    let large = rig.w.host("large", 8);
    rig.settle();
    assert_eq!(rig.w.cluster.nodes_on_host(large).count(), 3);
}

#[test]
fn spec_p_p2_p3_times_out_below_target_and_grows_on_request() {
    let mut rig = Rig::new(4, |spec| spec.resize_timeout = Span::from_secs(300));
    rig.w.host("a", 2);
    rig.settle();
    assert_eq!((rig.pool().allocation, rig.current(true)), (AllocationState::Resizing, 2));
    assert_eq!(rig.allocator.wake_at(START, &rig.w.cluster), Some(START.plus_ms(300_000)));
    rig.w.pass_ms(299_999);
    rig.settle();
    assert_eq!(rig.pool().allocation, AllocationState::Resizing);
    rig.w.pass_ms(1);
    rig.settle();
    let pool = rig.pool();
    assert_eq!((pool.allocation, pool.target_dedicated), (AllocationState::Steady, 4));
    assert_eq!(rig.errors(), ["AllocationTimedout"]);
    assert!(pool.resize_errors[0].values.contains(&("Allocated".to_owned(), "2".to_owned())));
    rig.w.host("b", 2);
    rig.settle();
    assert_eq!(rig.current(true), 2, "a pool that gave up rests");
    rig.w.resize("p", 4, DeallocationOption::Requeue).unwrap();
    rig.settle();
    assert_eq!((rig.current(true), rig.errors().len()), (4, 0));
}

#[test]
fn spec_p_p5_a_stopped_resize_keeps_what_it_got() {
    let mut rig = Rig::new(100, |_| ());
    rig.w.host("a", 25);
    rig.settle();
    rig.stop();
    rig.settle();
    assert_eq!((rig.pool().allocation, rig.current(true)), (AllocationState::Steady, 25));
    assert_eq!(rig.errors(), ["ResizeStopped"]);
    assert_eq!(rig.pool().target_dedicated, 100);
}

#[test]
fn what_cannot_be_had_fails_at_once() {
    let mut rig = Rig::new(1, |spec| {
        spec.image_servable = false;
        spec.target_low_priority = 2;
    });
    rig.settle();
    assert_eq!(rig.errors(), ["AllocationFailed", "AllocationFailed"], "one per kind");
    let mut rig = Rig::new(1, |spec| spec.vm_size = "Standard_D16s_v3".to_owned());
    rig.settle();
    assert_eq!(rig.pool().allocation, AllocationState::Resizing, "no host has joined yet");
    rig.w.host("small", 4);
    rig.settle();
    assert_eq!(rig.errors(), ["AllocationFailed"]);
}

#[test]
fn a_full_or_absent_host_is_waited_for() {
    let mut rig = Rig::new(1, |spec| spec.vm_size = "standard_a4_v2".to_owned());
    let host = rig.w.host("a", 4);
    rig.w.ok(Action::HostUnknown { host });
    rig.settle();
    assert_eq!((rig.pool().allocation, rig.current(true)), (AllocationState::Resizing, 0));
    rig.w.host("a", 4);
    rig.settle();
    assert_eq!(rig.current(true), 1);
    rig.w.ok(Action::PoolAdd { spec: Box::new(pool_spec("q", 1, 1)) });
    assert_eq!(rig.plan(), [], "its four cores are taken");
}

#[test]
fn spec_p_p7_the_useless_leave_first_then_the_idle() {
    let mut rig = Rig::new(5, |_| ());
    for n in 0..5 {
        rig.w.host(&format!("h{n}"), 1);
    }
    rig.settle();
    let nodes = rig.w.nodes("p");
    rig.w.job("j", "p");
    let task = rig.w.task("j", "a");
    rig.w.run(nodes[4], task);
    rig.w.phase(nodes[1], lote_shared::protocol::host::NodePhase::Unusable);
    for (target, left) in [(4, &[0, 2, 3, 4][..]), (2, &[0, 4]), (1, &[4]), (0, &[])] {
        rig.w.resize("p", target, DeallocationOption::Requeue).unwrap();
        rig.settle();
        let expected: Vec<_> = left.iter().map(|n| nodes[*n]).collect();
        assert_eq!(rig.w.nodes("p"), expected, "target {target}");
        assert_eq!(rig.pool().allocation, AllocationState::Steady);
    }
    assert_eq!(rig.w.record(task).requeue_count, 1);
}

#[test]
fn a_drain_is_waited_for_beyond_the_timeout() {
    let mut rig = Rig::new(1, |_| ());
    rig.w.host("a", 1);
    rig.settle();
    let node = rig.w.nodes("p")[0];
    rig.w.job("j", "p");
    let task = rig.w.task("j", "a");
    let run = rig.w.run(node, task);
    rig.w.resize("p", 0, DeallocationOption::TaskCompletion).unwrap();
    rig.settle();
    rig.w.pass_ms(3_600_000);
    rig.settle();
    assert_eq!(rig.pool().allocation, AllocationState::Resizing);
    rig.w.exit(node, run, 0);
    rig.w.obey();
    assert_eq!(rig.pool().allocation, AllocationState::Steady);
}

#[test]
fn both_kinds_move_on_their_own() {
    let mut rig = Rig::new(1, |spec| spec.target_low_priority = 2);
    rig.w.host("a", 8);
    rig.settle();
    assert_eq!((rig.current(true), rig.current(false)), (1, 2));
    rig.w.ok(Action::PoolResize {
        pool: pool_id("p"),
        condition: Condition::default(),
        dedicated: Some(2),
        low_priority: Some(1),
        timeout: Span::from_secs(900),
        option: DeallocationOption::Requeue,
    });
    rig.settle();
    assert_eq!((rig.current(true), rig.current(false)), (2, 1));
}

#[test]
fn nothing_is_proposed_twice_and_names_differ() {
    let mut rig = Rig::new(3, |_| ());
    rig.w.host("a", 8);
    let first = rig.plan();
    assert_eq!(first.len(), 3);
    assert_eq!(rig.plan(), []);
    let names: BTreeSet<_> = first
        .iter()
        .map(|decision| match decision {
            Allocation::Grant { node_id, .. } => node_id.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(names.len(), 3);
    let name = names.first().unwrap();
    assert!(name.starts_with("tvm-") && name.ends_with("_1-20231114t221320z"), "{name}");
    // All of them were lost on the way.
    let pool = rig.pool().key;
    for _ in 0..3 {
        rig.allocator.on_grant_result(pool, HostKey(1), true);
    }
    rig.settle();
    assert_eq!(rig.current(true), 3);
}

#[test]
fn what_is_there_or_under_way_is_counted() {
    let mut rig = Rig::new(1, |_| ());
    rig.w.host("a", 3);
    rig.settle();
    rig.w.resize("p", 2, DeallocationOption::Requeue).unwrap();
    assert_eq!(rig.plan().len(), 1, "one is there already");
    // One core is left while that grant is under way.
    rig.w.ok(Action::PoolAdd { spec: Box::new(pool_spec("q", 2, 1)) });
    assert_eq!(rig.plan().len(), 1);
    assert_eq!(rig.plan(), []);
}

#[test]
fn a_node_is_revoked_once() {
    let mut rig = Rig::new(3, |_| ());
    rig.w.host("a", 3);
    rig.settle();
    rig.w.resize("p", 1, DeallocationOption::Requeue).unwrap();
    let first = rig.plan();
    assert_eq!(first.len(), 2);
    assert_eq!(rig.plan(), []);
    let Allocation::Revoke { node, .. } = first[1] else { panic!("{first:?}") };
    rig.allocator.on_revoke_result(node);
    assert_eq!(rig.plan(), first[1..], "it was lost on the way");
}
