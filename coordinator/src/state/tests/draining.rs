//! Workers that are taken out while they run something.

use crate::state::command::Action;
use crate::state::testing::*;
use crate::state::{Event, HostState, MembershipCode, RefusalCode, Reply, TaskPlace};
use lote_shared::model::*;

const PEER: &str = "peer-p-host-0";

fn drain(w: &mut World, peer: &str, forced: bool) -> Reply {
    w.act(Action::HostDrain { peer: peer.to_owned(), forced })
}

fn host(w: &World) -> HostKey {
    w.cluster.host_by_peer(PEER).unwrap().key
}

/// A pool of one node that runs `t` and holds `u`, which has not started.
fn busy() -> (World, PoolKey, NodeKey, TaskKey, TaskKey) {
    let mut w = World::new();
    let pool = w.pool("p", 1, 2);
    w.job("j", "p");
    let node = w.nodes("p")[0];
    let (running, waiting) = (w.task("j", "t"), w.task("j", "u"));
    w.run(node, running);
    w.assign(node, &[waiting]);
    w.take_events();
    (w, pool, node, running, waiting)
}

#[test]
fn a_host_that_is_drained_gives_up_what_runs_before_it_goes() {
    let (mut w, pool, node, running, waiting) = busy();
    drain(&mut w, PEER, false).unwrap();
    assert!(w.cluster.is_draining(host(&w)) && w.cluster.member(PEER).is_some());
    // Its tasks are ended there, and are nobody else's before that is reported.
    let places = |w: &World| [w.record(running).place, w.record(waiting).place];
    assert!(
        matches!(places(&w), [TaskPlace::Running { .. }, TaskPlace::Assigned { .. }]),
        "{:?}",
        places(&w)
    );
    assert_eq!(w.cluster.host(host(&w)).unwrap().state, HostState::Joined);
    assert_eq!(
        w.cluster.pool(pool).unwrap().allocation,
        AllocationState::Resizing,
        "the pool fills up elsewhere"
    );
    let grant = Action::NodeGrant { pool, host: host(&w), node_id: "tvm-x".to_owned(), dedicated: true };
    assert_eq!(code(w.act(grant)), RefusalCode::Fenced, "and not here");
    let before = w.cluster.digest();
    assert_eq!(w.reload().digest(), before);
    // It obeys: kills, wipes its node, says so.
    w.obey();
    assert_eq!(places(&w), [TaskPlace::Ready; 2]);
    assert!(w.cluster.node(node).is_none());
    assert!(w.cluster.member(PEER).is_none() && !w.cluster.is_draining(host(&w)));
    assert_eq!(w.cluster.host(host(&w)).unwrap().state, HostState::Lost);
    assert_eq!(w.reload().digest(), w.cluster.digest());
    let again = drain(&mut w, PEER, false);
    assert_eq!(code(again), RefusalCode::Membership(MembershipCode::MemberNotFound));
}

#[test]
fn a_host_that_does_not_answer_goes_when_its_lease_is_over() {
    for forced in [false, true] {
        let (mut w, _, node, running, _) = busy();
        drain(&mut w, PEER, forced).unwrap();
        assert_eq!(w.cluster.member(PEER).is_none(), forced, "cut off at once, or heard until then");
        let host = host(&w);
        w.ok(Action::HostUnknown { host });
        assert!(matches!(w.record(running).place, TaskPlace::Running { .. }), "it may still run there");
        assert!(w.cluster.node(node).is_some());
        assert_eq!(w.reload().digest(), w.cluster.digest());
        w.take_events();
        w.ok(Action::HostLost { host });
        w.obey();
        assert_eq!(w.record(running).place, TaskPlace::Ready, "now it may run elsewhere");
        assert!(w.cluster.node(node).is_none() && w.cluster.member(PEER).is_none());
        assert!(!w.cluster.is_draining(host));
        assert_eq!(w.reload().digest(), w.cluster.digest());
    }
}

#[test]
fn force_comes_after_patience_and_an_idle_host_goes_at_once() {
    let (mut w, _, _, running, _) = busy();
    drain(&mut w, PEER, false).unwrap();
    drain(&mut w, PEER, true).unwrap();
    assert!(w.cluster.member(PEER).is_none());
    assert!(matches!(w.record(running).place, TaskPlace::Running { .. }));
    // Admitted anew before the lease is over, it stays when its old nodes are gone.
    let key = host(&w);
    w.ok(Action::MemberAdmit { token: None, admission: Box::new(worker(PEER)) });
    w.ok(Action::HostLost { host: key });
    w.obey();
    assert!(w.cluster.member(PEER).is_some() && !w.cluster.is_draining(key));

    let mut w = World::new();
    w.host("idle", 4);
    let peer = w.cluster.hosts().next().unwrap().peer.clone();
    w.take_events();
    drain(&mut w, &peer, false).unwrap();
    assert!(w.cluster.member(&peer).is_none() && w.take_events().contains(&Event::MembersChanged));
    w.ok(Action::MemberAdmit { token: None, admission: Box::new(coordinator("c")) });
    let refused = code(drain(&mut w, "c", false));
    assert_eq!(refused, RefusalCode::Membership(MembershipCode::MemberRoleMismatch));
}
