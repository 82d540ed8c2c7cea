//! Coordinators that are taken out, with the real state, over libp2p: who is no member is not spoken to.

use super::members::{Node, introduce, leader, until, voters, voting};
use crate::members::{Coordinators, take_out};
use crate::replication::MemberId;
use crate::state::{Action, Admission, Outcome, keys};
use lote_shared::model::MemberRole;
use lote_shared::network::{PeerId, Role};
use std::collections::{BTreeMap, BTreeSet};

/// So many members, all of them voters and in the state; Raft and the doors follow the state from here on.
async fn cluster(count: u64) -> Vec<Node> {
    let (nodes, desired) = voting(count).await;
    for node in &nodes {
        let admission = Admission {
            peer: node.network.peer().to_string(),
            role: MemberRole::Coordinator,
            name: format!("c{}", node.id),
            addresses: node.member().addresses,
            endpoints: None,
            machine: String::new(),
            replaces: None,
        };
        let admit = Action::MemberAdmit { token: None, admission: Box::new(admission) };
        let admitted = nodes[0].engine.propose(keys::CLUSTER, admit).await.unwrap().unwrap();
        assert_eq!(admitted, Outcome::MemberAdmitted { member: Some(node.id) });
    }
    // Whoever followed the test's own list rests.
    desired.lock().clear();
    introduce(&nodes.iter().collect::<Vec<_>>());
    for node in &nodes {
        let engine = node.engine.clone();
        node.replica.keep_membership(Coordinators { engine, leadership: node.replica.leadership() });
        let (engine, network) = (node.engine.clone(), node.network.clone());
        tokio::spawn(async move {
            let mut known = BTreeMap::new();
            loop {
                let allowed: BTreeMap<PeerId, Role> = engine.read(|cluster| {
                    let peers = cluster.coordinators().map(|member| member.peer.parse().unwrap());
                    peers.map(|peer| (peer, Role::Coordinator)).collect()
                });
                // A member that is behind knows nobody yet.
                if allowed.len() > known.len() && known.is_empty() || !known.is_empty() && allowed != known {
                    network.set_allowed(allowed.clone());
                    known = allowed;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        });
    }
    nodes
}

fn leave(node: &Node) -> Action {
    Action::CoordinatorLeave { peer: node.network.peer().to_string() }
}

fn known(node: &Node) -> BTreeSet<MemberId> {
    node.engine.read(|cluster| cluster.coordinators().filter_map(|member| member.member).collect())
}

/// Two are taken out at once, each asked of another coordinator; they go one after the other, and the rest goes on.
async fn two_are_taken_out_at_once(count: u64, voters_left: usize) {
    let nodes = cluster(count).await;
    let first = leader(nodes.iter()).await;
    let place = nodes.iter().position(|node| node.id == first).unwrap();
    let others: Vec<&Node> = nodes.iter().filter(|node| node.id != first).collect();
    let (leads, one, two) = (&nodes[place], others[0], others[1]);
    let watching = async {
        loop {
            let leaving: BTreeSet<MemberId> =
                leads.engine.read(|cluster| cluster.leaving().filter_map(|member| member.member).collect());
            // Read after it: nobody gets a vote here, some lose theirs.
            let leaving: Vec<MemberId> = leaving.intersection(&voters(leads)).copied().collect();
            assert!(leaving.len() <= 1, "{leaving:?} vote and are leaving at once");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    // `one` may be out before `two` is, and then hears of nothing any more: it is not asked for its own removal.
    let asking =
        async { tokio::join!(take_out(&leads.engine, leave(one)), take_out(&one.engine, leave(two))) };
    let (first_said, second_said) = tokio::select! {
        said = asking => said,
        () = watching => unreachable!("it watches for ever"),
    };
    first_said.unwrap().unwrap();
    // Whoever asked may have been taken out first; then it is asked of one that stays.
    if !matches!(second_said, Ok(Ok(_))) {
        take_out(&leads.engine, leave(two)).await.unwrap().unwrap();
    }
    let gone = BTreeSet::from([one.id, two.id]);
    let expected: BTreeSet<MemberId> =
        nodes.iter().map(|node| node.id).filter(|id| !gone.contains(id)).collect();
    until("both are out", || (known(leads) == expected).then_some(())).await;
    until("Raft follows", || {
        let raft: BTreeSet<MemberId> = leads.replica.members().into_keys().collect();
        (raft == expected && voters(leads).len() == voters_left).then_some(())
    })
    .await;
    leads.add("after").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_three_are_taken_out_at_once() {
    two_are_taken_out_at_once(3, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_five_are_taken_out_at_once() {
    two_are_taken_out_at_once(5, 3).await;
}

/// Whatever the leader had begun, the next one ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_leaves_a_removal_that_goes_on() {
    let mut nodes = cluster(3).await;
    let first = leader(nodes.iter()).await;
    let place = nodes.iter().position(|node| node.id == first).unwrap();
    let mut leads = nodes.remove(place);
    let leaving = nodes.pop().unwrap();
    let stays = nodes.pop().unwrap();
    take_out(&stays.engine, leave(&leaving)).await.unwrap().unwrap();
    leads.kill();
    let expected = BTreeSet::from([leads.id, stays.id]);
    until("it is out", || (known(&stays) == expected).then_some(())).await;
    until("one votes", || (voters(&stays) == BTreeSet::from([stays.id])).then_some(())).await;
    stays.add("after").await.unwrap();
}
