//! Which version the cluster is at, who may work in it, and what raises it.

use crate::state::command::Action;
use crate::state::testing::*;
use crate::state::version::*;
use crate::state::{LoadError, MembershipCode, Outcome, RefusalCode};
use lote_shared::protocol::build::Build;
use std::collections::BTreeMap;

fn range(oldest: u32, newest: u32) -> Supported {
    Supported { oldest: ClusterVersion(oldest), newest: ClusterVersion(newest) }
}

fn admit(w: &mut World, peer: &str) {
    w.ok(Action::MemberAdmit { token: None, admission: Box::new(coordinator(peer)) });
}

fn witnesses(told: &[(&str, u32, u32)]) -> Vec<Witness> {
    let witness = |&(peer, oldest, newest): &(&str, u32, u32)| Witness {
        peer: peer.to_owned(),
        supported: range(oldest, newest),
    };
    told.iter().map(witness).collect()
}

#[test]
fn what_the_version_comes_to() {
    let raise = |to, told: &[(&str, u32, u32)]| Prospect::Raise {
        to: ClusterVersion(to),
        witnesses: witnesses(told),
    };
    let waits = |to, until: &[(&str, Option<(u32, u32)>)]| Prospect::Waits {
        to: ClusterVersion(to),
        until: until
            .iter()
            .map(|(peer, told)| ((*peer).to_owned(), told.map(|(oldest, newest)| range(oldest, newest))))
            .collect(),
    };
    // Version, held, coordinators, what was told, what it comes to.
    for (current, held, coordinators, told, expected) in [
        (1, false, &["a"][..], &[("a", 1, 2)][..], raise(2, &[("a", 1, 2)])),
        (2, false, &["a"], &[("a", 1, 2)], Prospect::Newest),
        (1, true, &["a"], &[("a", 1, 2)], Prospect::Held(ClusterVersion(2))),
        (2, true, &["a"], &[("a", 1, 2)], Prospect::Newest),
        // A build of before there were versions, one that is down, one that has left.
        (1, false, &["a", "b"], &[("a", 1, 2), ("b", 1, 1)], waits(2, &[("b", Some((1, 1)))])),
        (1, false, &["a", "b"], &[("a", 1, 2)], waits(2, &[("b", None)])),
        (1, true, &["a", "b"], &[("a", 1, 2)], waits(2, &[("b", None)])),
        (1, false, &["a"], &[("a", 1, 2), ("b", 1, 1)], raise(2, &[("a", 1, 2)])),
        // Several steps at once, and no further than all can go.
        (1, false, &["a", "b"], &[("a", 1, 3), ("b", 1, 4)], raise(3, &[("a", 1, 3), ("b", 1, 4)])),
        (3, false, &["a", "b"], &[("a", 1, 3), ("b", 3, 4)], waits(4, &[("a", Some((1, 3)))])),
        // Nobody could go on together.
        (1, false, &["a", "b"], &[("a", 1, 2), ("b", 3, 4)], waits(4, &[("a", Some((1, 2)))])),
        (2, false, &["a"], &[], Prospect::Newest),
    ] {
        let said: BTreeMap<String, Supported> =
            told.iter().map(|&(peer, oldest, newest)| (peer.to_owned(), range(oldest, newest))).collect();
        let found = prospect(ClusterVersion(current), held, coordinators.iter().copied(), &said);
        assert_eq!(found, expected, "at {current}, held {held}, {coordinators:?}, {told:?}");
    }
}

#[test]
fn a_build_that_cannot_work_here_is_told_both_versions_and_the_remedy() {
    for (supported, cluster, words) in [
        (range(1, 2), 1, &[][..]),
        (range(1, 2), 2, &[]),
        (range(1, 2), 3, &["version 3", "lote 9.9", "versions 1 to 2", "start a newer build", "hold"]),
        (range(1, 1), 2, &["version 2", "version 1 alone"]),
        (range(3, 4), 2, &["version 2", "versions 3 to 4", "by way of", "version 3 as well"]),
    ] {
        let told = supported.check("9.9", ClusterVersion(cluster));
        assert_eq!(told.is_ok(), words.is_empty(), "{supported} in {cluster}");
        assert_eq!(told.is_ok(), supported.includes(ClusterVersion(cluster)));
        let text = told.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
}

#[test]
fn what_a_build_says_of_itself_reads_back_and_nonsense_does_not() {
    let own = (SOFTWARE.to_owned(), SUPPORTED);
    assert_eq!(read_build(&build()), Some(own.clone()));
    assert_eq!(parse_build_text(&build_text()), Some(own));
    for text in ["", "0.1.0", "0.1.0/1", "0.1.0/2-1", "0.1.0/0-1", "0.1.0/a-b", "a b/1-2", "x/1-99999999999"]
    {
        assert_eq!(parse_build_text(text), None, "{text}");
    }
    let long = Build { software: "x".repeat(65), oldest: 1, newest: 2 };
    assert_eq!(read_build(&long), None);
}

#[test]
fn the_version_is_raised_by_the_word_of_every_coordinator_and_never_lowered() {
    let mut w = World::before_versions();
    admit(&mut w, "a");
    admit(&mut w, "b");
    assert_eq!(w.cluster.version(), ClusterVersion::V1);
    let raise = |w: &mut World, to: u32, told: &[(&str, u32, u32)]| {
        w.act(Action::VersionRaise { to: ClusterVersion(to), witnesses: witnesses(told) })
    };
    let not_supported = RefusalCode::Membership(MembershipCode::VersionNotSupported);
    for told in [&[][..], &[("a", 1, 2)], &[("a", 1, 2), ("b", 1, 1)], &[("a", 1, 2), ("b", 3, 4)]] {
        assert_eq!(code(raise(&mut w, 2, told)), not_supported, "{told:?}");
    }
    let both = [("a", 1, 2), ("b", 1, 3), ("gone", 1, 1)];
    assert_eq!(raise(&mut w, 2, &both), Ok(Outcome::Done));
    assert_eq!(w.cluster.version(), ClusterVersion::V2);
    // Somebody who comes later to the same conclusion, and somebody far behind.
    for to in [2, 1] {
        assert_eq!(raise(&mut w, to, &both), Ok(Outcome::Done));
        assert_eq!(w.cluster.version(), ClusterVersion::V2);
    }
    let reloaded = w.reload();
    assert_eq!((reloaded.version(), reloaded.digest()), (ClusterVersion::V2, w.cluster.digest()));
}

#[test]
fn what_is_held_stays_until_it_is_released() {
    let mut w = World::before_versions();
    admit(&mut w, "a");
    let newer = NEWEST.0 + 1;
    let raise =
        |to: u32| Action::VersionRaise { to: ClusterVersion(to), witnesses: witnesses(&[("a", 1, newer)]) };
    // At version 1 nobody can hold anything: an older build would not understand it.
    assert_eq!(code(w.act(Action::VersionHold)), RefusalCode::OperationInvalidForCurrentState);
    w.ok(raise(2));
    w.ok(Action::VersionHold);
    let since = w.cluster.version_held();
    assert_eq!(since, Some(w.now));
    w.pass_ms(1_000);
    w.ok(Action::VersionHold);
    assert_eq!(w.cluster.version_held(), since, "it is held since it was held");
    let held = RefusalCode::Membership(MembershipCode::VersionHeld);
    assert_eq!(code(w.act(raise(newer))), held);
    assert_eq!(w.reload().version_held(), since);
    w.ok(Action::VersionRelease);
    w.ok(Action::VersionRelease);
    assert_eq!((w.cluster.version_held(), w.reload().version_held()), (None, None));
    // This build could not go on; whoever can, can.
    w.ok(raise(newer));
    assert_eq!(w.cluster.version(), ClusterVersion(newer));
    let rows = w.rows.iter().map(|(key, value)| (key.clone(), value.clone()));
    let refused = crate::state::Cluster::load(rows).unwrap_err();
    assert!(matches!(refused, LoadError::Version(Unsupported::TooOld { .. })), "{refused}");
}

/// The build of the other feature is to be told from this one by its rules, and by them alone.
#[test]
fn rules_of_a_version_hold_from_its_raise_on() {
    let mut w = World::before_versions();
    let step = |w: &mut World, id: &str| {
        let etag = |w: &World| w.cluster.job_by_id(ACCOUNT, &job_id(id)).unwrap().version.etag;
        w.job(id, "p");
        let before = etag(w);
        w.ok(Action::JobDisable {
            job: job_id(id),
            condition: Default::default(),
            tasks: lote_shared::model::DisableTasks::Requeue,
        });
        etag(w) - before
    };
    let at_first = step(&mut w, "j1");
    w.ok(Action::VersionRaise { to: NEWEST, witnesses: Vec::new() });
    let at_last = step(&mut w, "j2");
    let is_next = cfg!(feature = "next-version");
    assert_eq!(at_last / at_first, if is_next { 2 } else { 1 }, "{at_first} and {at_last}");
}
