//! Who becomes a member, stays one, and gets in as one.

use crate::state::command::{Action, Admission, TokenClaim};
use crate::state::members::{COORDINATORS_MAX, TOKEN_KEPT_MS, TOKENS_MAX};
use crate::state::testing::*;
use crate::state::{
    ClusterSettings, Event, HostState, MembershipCode, Outcome, RefusalCode, Reply, TaskPlace,
};
use lote_shared::model::*;

const SECRET: [u8; 32] = [7; 32];
const HOUR_MS: u64 = 3_600_000;

fn token(w: &mut World, id: u64, role: MemberRole, uses: u32) -> TokenId {
    let expires = w.now.plus_ms(HOUR_MS);
    let note = String::new();
    w.ok(Action::TokenAdd { token: TokenId(id), secret_hash: SECRET, role, expires, uses, note });
    TokenId(id)
}

fn admit(w: &mut World, token: TokenId, admission: Admission) -> Reply {
    let claim = TokenClaim { token, secret_hash: SECRET };
    w.act(Action::MemberAdmit { token: Some(claim), admission: Box::new(admission) })
}

fn own(w: &mut World, admission: Admission) -> Reply {
    w.act(Action::MemberAdmit { token: None, admission: Box::new(admission) })
}

fn number(reply: Reply) -> u64 {
    match reply {
        Ok(Outcome::MemberAdmitted { member: Some(number) }) => number,
        other => panic!("{other:?}"),
    }
}

fn membership(reply: Reply) -> MembershipCode {
    match code(reply) {
        RefusalCode::Membership(code) => code,
        other => panic!("{other:?}"),
    }
}

fn present(w: &mut World, peer: &str, machine: &str) -> Reply {
    w.act(Action::HostPresented {
        peer: peer.to_owned(),
        name: peer.to_owned(),
        boot: BootId(1),
        capacity: capacity(4),
        address: String::new(),
        software: String::new(),
        machine: machine.to_owned(),
    })
}

fn uses_left(w: &World, id: TokenId) -> u32 {
    w.cluster.tokens().find(|token| token.id == id).map_or(0, |token| token.uses_left)
}

#[test]
fn a_cluster_has_one_name() {
    let settings = |id: &str| {
        let settings =
            ClusterSettings { cluster_id: id.to_owned(), lease_ms: 60_000, ca_certificate: "PEM".to_owned() };
        Action::ClusterInit { settings: Box::new(settings) }
    };
    let mut w = World::new();
    assert_eq!(w.act(settings("a")), Ok(Outcome::Done));
    assert!(w.take_events().contains(&Event::MembersChanged));
    assert_eq!(w.act(settings("a")), Ok(Outcome::Done));
    assert_eq!(membership(w.act(settings("b"))), MembershipCode::ClusterMismatch);
    assert_eq!(w.cluster.settings().map(|s| s.cluster_id.as_str()), Some("a"));
    assert_eq!(w.reload().digest(), w.cluster.digest());
}

#[test]
fn every_token_that_is_no_good_is_refused_by_its_own_name() {
    let mut w = World::new();
    let good = token(&mut w, 1, MemberRole::Worker, 1);
    let revoked = token(&mut w, 2, MemberRole::Worker, 1);
    let empty = token(&mut w, 3, MemberRole::Worker, 0);
    w.ok(Action::TokenRevoke { token: revoked });
    let digest = |w: &World| (w.cluster.members().count(), w.rows.len());
    let before = digest(&w);
    let cases = [
        (TokenId(9), worker("p"), MembershipCode::TokenNotFound),
        (revoked, worker("p"), MembershipCode::TokenRevoked),
        (empty, worker("p"), MembershipCode::TokenUsedUp),
        (good, coordinator("p"), MembershipCode::TokenRoleMismatch),
    ];
    for (token, admission, expected) in cases {
        assert_eq!(membership(admit(&mut w, token, admission)), expected);
    }
    let claim = TokenClaim { token: good, secret_hash: [8; 32] };
    let guessed = Action::MemberAdmit { token: Some(claim), admission: Box::new(worker("p")) };
    assert_eq!(membership(w.act(guessed)), MembershipCode::TokenNotFound);
    assert_eq!(digest(&w).0, before.0);
    w.pass_ms(HOUR_MS);
    assert_eq!(membership(admit(&mut w, good, worker("p"))), MembershipCode::TokenExpired);
    assert_eq!(membership(w.act(Action::TokenRevoke { token: TokenId(9) })), MembershipCode::TokenNotFound);
    assert_eq!(w.cluster.allowed().count(), 0);
    assert_eq!(uses_left(&w, good), 1, "refusals use nothing");
}

#[test]
fn a_lost_answer_may_be_asked_for_again() {
    let mut w = World::new();
    let id = token(&mut w, 1, MemberRole::Coordinator, 2);
    assert_eq!(number(admit(&mut w, id, coordinator("a"))), 1);
    assert_eq!(number(admit(&mut w, id, coordinator("b"))), 2);
    assert_eq!(uses_left(&w, id), 0);
    let moved = Admission { addresses: vec!["/ip4/10.0.0.9/tcp/1".to_owned()], ..coordinator("a") };
    assert_eq!(number(admit(&mut w, id, moved.clone())), 1, "the same peer, its number, no further use");
    assert_eq!(w.cluster.member("a").map(|m| &m.addresses), Some(&moved.addresses));
    assert_eq!(membership(admit(&mut w, id, coordinator("c"))), MembershipCode::TokenUsedUp);
    // Neither does a copy of the identity on another machine come in by that.
    let copy = Admission { machine: "other".to_owned(), ..coordinator("a") };
    assert_eq!(membership(admit(&mut w, id, copy)), MembershipCode::TokenUsedUp);
    assert_eq!(w.reload().digest(), w.cluster.digest());
}

#[test]
fn a_coordinator_takes_the_place_of_another_in_one_step() {
    let mut w = World::new();
    let named = |peer: &str, name: &str| Admission { name: name.to_owned(), ..coordinator(peer) };
    for n in 1..=COORDINATORS_MAX {
        assert_eq!(number(own(&mut w, named(&format!("p{n}"), &format!("c{n}")))), n as u64);
    }
    assert_eq!(membership(own(&mut w, coordinator("p6"))), MembershipCode::MemberQuotaReached);
    let instead = |peer: &str, of: &str| Admission { replaces: Some(of.to_owned()), ..named(peer, "c2") };
    assert_eq!(membership(own(&mut w, instead("p6", "nobody"))), MembershipCode::MemberNotFound);
    assert_eq!(number(own(&mut w, instead("p6", "c2"))), 6, "numbers never come back");
    assert_eq!(number(own(&mut w, instead("p6", "c2"))), 6, "asked again");
    assert!(w.cluster.member("p2").is_none());
    assert_eq!(number(own(&mut w, instead("p7", "p3"))), 7, "by peer id");
    assert_eq!(number(own(&mut w, instead("p8", "4"))), 8, "by number");
    assert_eq!(
        membership(own(&mut w, instead("p9", "c2"))),
        MembershipCode::MemberNotFound,
        "three have that name"
    );
    let peers: Vec<_> = w.cluster.coordinators().map(|m| m.peer.as_str()).collect();
    assert_eq!(peers, ["p1", "p5", "p6", "p7", "p8"]);
    let worker = Admission { replaces: Some("p1".to_owned()), ..worker("w") };
    assert_eq!(membership(own(&mut w, worker)), MembershipCode::MemberRoleMismatch);
    assert_eq!(w.reload().digest(), w.cluster.digest());
}

#[test]
fn the_last_coordinator_stays_and_roles_do_not_change() {
    let mut w = World::new();
    own(&mut w, coordinator("a")).unwrap();
    own(&mut w, coordinator("b")).unwrap();
    assert_eq!(membership(own(&mut w, worker("a"))), MembershipCode::MemberRoleMismatch);
    w.ok(Action::MemberRemove { peer: "a".to_owned() });
    let last = w.act(Action::MemberRemove { peer: "b".to_owned() });
    assert_eq!(membership(last), MembershipCode::LastCoordinator);
    let gone = w.act(Action::MemberRemove { peer: "a".to_owned() });
    assert_eq!(membership(gone), MembershipCode::MemberNotFound);
}

fn leave(w: &mut World, peer: &str) -> Reply {
    w.act(Action::CoordinatorLeave { peer: peer.to_owned() })
}

fn left(w: &mut World, peer: &str) -> Reply {
    w.act(Action::CoordinatorLeft { peer: peer.to_owned() })
}

/// Coordinators `c1`, `c2` and so on, of whom these vote in Raft, and of whom these are leaving.
fn coordinators(count: u64, voters: &[&[u64]], leaving: &[&str]) -> World {
    let mut w = World::new();
    for number in 1..=count {
        own(&mut w, coordinator(&format!("c{number}"))).unwrap();
    }
    for peer in leaving {
        leave(&mut w, peer).unwrap();
    }
    w.cluster.set_voters(voters.iter().map(|set| set.iter().copied().collect()).collect());
    w
}

#[test]
fn one_voter_leaves_at_a_time_and_a_majority_stays() {
    use MembershipCode::{CoordinatorLeaving, LastCoordinator, MemberNotFound, NoMajority};
    for (what, count, voters, leaving, peer, expected) in [
        ("one of three", 3, &[&[1, 2, 3][..]][..], &[][..], "c3", None),
        ("one of two, which learns", 2, &[&[1]], &[], "c2", None),
        ("one of two, which alone votes", 2, &[&[1]], &[], "c1", Some(NoMajority)),
        ("the one that alone votes, of three", 3, &[&[1]], &[], "c1", Some(NoMajority)),
        ("the last", 1, &[&[1]], &[], "c1", Some(LastCoordinator)),
        ("the last that stays", 2, &[&[2]], &["c1"], "c2", Some(LastCoordinator)),
        ("nobody", 3, &[&[1, 2, 3]], &[], "c9", Some(MemberNotFound)),
        ("again", 3, &[&[1, 2, 3]], &["c3"], "c3", None),
        ("another at the same time", 3, &[&[1, 2, 3]], &["c3"], "c2", Some(CoordinatorLeaving)),
        ("another of five", 5, &[&[1, 2, 3, 4, 5]], &["c5"], "c4", Some(CoordinatorLeaving)),
        ("another that learns", 4, &[&[1, 2, 3]], &["c3"], "c4", None),
        ("another when the first has lost its vote", 5, &[&[1, 2, 3]], &["c5"], "c3", None),
        ("on the way from three to one", 3, &[&[1, 2, 3], &[1]], &["c3"], "c2", Some(CoordinatorLeaving)),
        ("then the learner", 3, &[&[1]], &["c3"], "c2", None),
        ("then the one that stayed", 3, &[&[1]], &["c3"], "c1", Some(NoMajority)),
        ("on the way from one to three", 3, &[&[1], &[1, 2, 3]], &[], "c1", Some(NoMajority)),
        ("and one of the new ones", 3, &[&[1], &[1, 2, 3]], &[], "c3", None),
        ("without Raft one goes", 3, &[], &[], "c3", None),
        ("and no other", 3, &[], &["c3"], "c2", Some(CoordinatorLeaving)),
    ] {
        let mut w = coordinators(count, voters, leaving);
        let before = w.cluster.digest();
        let reply = leave(&mut w, peer);
        assert_eq!(reply.clone().err().map(|_| membership(reply)), expected, "{what}");
        let is_leaving = w.cluster.leaving().any(|member| member.peer == peer);
        assert_eq!(is_leaving, expected.is_none() || leaving.contains(&peer), "{what}");
        assert_eq!(w.cluster.coordinators().count() as u64, count, "{what}: nobody is cut off yet");
        if expected.is_some() {
            assert_eq!(w.cluster.leaving().count(), leaving.len(), "{what}");
        } else if !leaving.contains(&peer) {
            assert_ne!(w.cluster.digest(), before, "{what}");
        }
        assert_eq!(w.reload().digest(), w.cluster.digest(), "{what}");
    }
}

#[test]
fn whoever_leaves_is_gone_when_raft_has_let_it_go() {
    let mut w = coordinators(3, &[&[1, 2, 3]], &[]);
    assert_eq!(membership(left(&mut w, "c3")), MembershipCode::MemberNotFound, "it is not leaving");
    leave(&mut w, "c3").unwrap();
    assert_eq!(membership(left(&mut w, "c3")), MembershipCode::CoordinatorVotes);
    w.take_events();
    w.cluster.set_voters(vec![[1].into()]);
    left(&mut w, "c3").unwrap();
    assert!(w.take_events().contains(&Event::MembersChanged));
    assert!(w.cluster.member("c3").is_none() && w.cluster.leaving().next().is_none());
    assert_eq!(membership(left(&mut w, "c3")), MembershipCode::MemberNotFound);
    assert_eq!(w.reload().digest(), w.cluster.digest());
    // Under the same identity it may come again, and stays.
    assert_eq!(number(own(&mut w, coordinator("c3"))), 4);
    assert_eq!(w.cluster.staying().count(), 3);
}

#[test]
fn whoever_is_replaced_leaves_in_two_steps_as_well() {
    let replace = |w: &mut World, peer: &str, replaced: &str| {
        let admission = Admission { replaces: Some(replaced.to_owned()), ..coordinator(peer) };
        w.act(Action::MemberReplace { token: None, admission: Box::new(admission) })
    };
    let mut w = coordinators(5, &[&[1, 2, 3, 4, 5]], &[]);
    assert_eq!(number(replace(&mut w, "c6", "c5")), 6, "there is room for it");
    assert_eq!(number(replace(&mut w, "c6", "c5")), 6, "asked again");
    assert_eq!(w.cluster.leaving().map(|member| member.peer.as_str()).collect::<Vec<_>>(), ["c5"]);
    assert_eq!(membership(replace(&mut w, "c7", "c4")), MembershipCode::CoordinatorLeaving);
    assert_eq!(membership(own(&mut w, coordinator("c7"))), MembershipCode::MemberQuotaReached);
    assert!(w.cluster.member("c7").is_none(), "who replaces nobody does not come either");
    w.cluster.set_voters(vec![[1, 2, 3, 4, 6].into()]);
    left(&mut w, "c5").unwrap();
    assert_eq!(w.cluster.coordinators().count(), 5);
    assert_eq!(number(replace(&mut w, "c6", "c5")), 6, "asked once more");
    assert_eq!(w.reload().digest(), w.cluster.digest());
    // In the place of the only one that votes nobody comes: what it holds would be gone with it.
    let mut w = coordinators(2, &[&[1]], &[]);
    assert_eq!(membership(replace(&mut w, "c3", "c1")), MembershipCode::NoMajority);
}

#[test]
fn only_an_admitted_worker_on_its_own_machine_gets_in() {
    let mut w = World::new();
    own(&mut w, coordinator("c")).unwrap();
    own(&mut w, Admission { machine: "m1".to_owned(), ..worker("w") }).unwrap();
    assert_eq!(membership(present(&mut w, "stranger", "m1")), MembershipCode::HostNotAdmitted);
    assert_eq!(membership(present(&mut w, "c", "m1")), MembershipCode::HostNotAdmitted);
    assert_eq!(membership(present(&mut w, "w", "m2")), MembershipCode::HostIdentityCopied);
    assert_eq!(membership(present(&mut w, "w", "")), MembershipCode::HostIdentityCopied);
    assert_eq!(w.cluster.hosts().count(), 0);
    assert!(present(&mut w, "w", "m1").is_ok());
}

#[test]
fn a_removed_host_loses_everything_at_once() {
    let mut w = World::new();
    let pool = w.pool("p", 1, 1);
    w.job("j", "p");
    let node = w.nodes("p")[0];
    let task = w.task("j", "t");
    w.ok(Action::Assign { node, tasks: vec![task] });
    w.take_events();
    w.ok(Action::MemberRemove { peer: "peer-p-host-0".to_owned() });
    assert_eq!(w.cluster.host_by_peer("peer-p-host-0").map(|host| host.state), Some(HostState::Lost));
    assert_eq!(w.cluster.nodes_of(pool, None).count(), 0);
    assert_eq!(w.record(task).place, TaskPlace::Ready, "it runs elsewhere");
    assert_eq!(w.cluster.pool(pool).unwrap().allocation, AllocationState::Resizing, "and the pool fills up");
    assert!(w.take_events().contains(&Event::MembersChanged));
    assert_eq!(membership(present(&mut w, "peer-p-host-0", "")), MembershipCode::HostNotAdmitted);
    assert_eq!(w.reload().digest(), w.cluster.digest());
    // Admitted anew it is the host it was, without nodes.
    let host = w.host("p-host-0", 4);
    let node = w.grant(pool, host, true);
    w.ready(node);
    assert_eq!(w.cluster.pool(pool).unwrap().allocation, AllocationState::Steady);
}

#[test]
fn tokens_are_bounded_and_go_a_day_after_they_expire() {
    let mut w = World::new();
    for id in 0..TOKENS_MAX as u64 {
        token(&mut w, id, MemberRole::Worker, 1);
    }
    let expires = w.now.plus_ms(2 * HOUR_MS + TOKEN_KEPT_MS);
    let (role, note) = (MemberRole::Worker, String::new());
    let more = |id| Action::TokenAdd {
        token: TokenId(id),
        secret_hash: SECRET,
        role,
        expires,
        uses: 1,
        note: note.clone(),
    };
    assert_eq!(membership(w.act(more(0))), MembershipCode::TokenExists);
    assert_eq!(membership(w.act(more(5_000))), MembershipCode::TokenQuotaReached);
    w.pass_ms(HOUR_MS + TOKEN_KEPT_MS);
    assert_eq!(membership(w.act(more(5_000))), MembershipCode::TokenQuotaReached, "known for a day");
    w.pass_ms(1);
    w.ok(more(5_000));
    assert!(w.cluster.tokens().count() < TOKENS_MAX);
    assert_eq!(w.reload().digest(), w.cluster.digest());
}

#[test]
fn one_that_founds_alone_has_the_number_that_replication_gave_it() {
    let founded = |w: &mut World, admission: Admission, member: u64| {
        w.act(Action::CoordinatorFounded { admission: Box::new(admission), member })
    };
    let mut w = World::new();
    assert_eq!(number(founded(&mut w, coordinator("a"), 1)), 1, "a new cluster");
    assert_eq!(number(own(&mut w, coordinator("b"))), 2, "the count goes on");
    assert_eq!(number(own(&mut w, coordinator("c"))), 3);
    own(&mut w, worker("w")).unwrap();
    for (what, admission, member, code) in [
        ("a worker", worker("c"), 4, MembershipCode::MemberRoleMismatch),
        ("a worker's peer", coordinator("w"), 4, MembershipCode::MemberRoleMismatch),
        (
            "instead of another",
            Admission { replaces: Some("a".to_owned()), ..coordinator("c") },
            4,
            MembershipCode::MemberRoleMismatch,
        ),
        ("nobody's number", coordinator("c"), 0, MembershipCode::MemberNumberGiven),
        ("another's number", coordinator("c"), 2, MembershipCode::MemberNumberGiven),
        ("a number of old for a newcomer", coordinator("d"), 3, MembershipCode::MemberNumberGiven),
    ] {
        assert_eq!(membership(founded(&mut w, admission, member)), code, "{what}");
    }
    assert_eq!(w.cluster.members().count(), 4, "nothing changed");

    w.take_events();
    assert_eq!(number(founded(&mut w, coordinator("c"), 7)), 7, "recovered");
    assert!(w.take_events().contains(&Event::MembersChanged));
    let peers: Vec<_> = w.cluster.members().map(|m| (m.peer.as_str(), m.member)).collect();
    assert_eq!(peers, [("c", Some(7)), ("w", None)], "the workers stay, the others are gone");
    assert_eq!(number(founded(&mut w, coordinator("c"), 7)), 7, "asked again");
    assert!(!w.take_events().contains(&Event::MembersChanged));
    assert_eq!(number(own(&mut w, coordinator("c"))), 7, "its announcement keeps the number");
    assert_eq!(number(own(&mut w, coordinator("a"))), 8, "one of the old ones is a newcomer");
    assert_eq!(number(founded(&mut w, coordinator("e"), 9)), 9, "restored on another machine");
    let peers: Vec<_> = w.cluster.coordinators().map(|m| m.peer.as_str()).collect();
    assert_eq!(peers, ["e"]);
    assert_eq!(w.reload().digest(), w.cluster.digest());
}
