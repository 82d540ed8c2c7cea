//! A member and a cluster version that its build does not support, on a real folder; and the engine's door.

use crate::engine::{Engine, Unavailable};
use crate::replication::folder::note_version;
use crate::replication::{Config, Error, Replica, open};
use crate::state::version::{NEWEST, Unsupported};
use crate::state::{Action, ClusterVersion, Outcome, keys};
use crate::store::{SledStore, Store};
use lote_shared::model::Timestamp;
use lote_shared::protocol::codec;
use std::path::Path;
use std::time::Duration;

const BEYOND: ClusterVersion = ClusterVersion(NEWEST.0 + 1);

fn raise(to: ClusterVersion) -> Action {
    Action::VersionRaise { to, witnesses: Vec::new() }
}

async fn account(engine: &Engine, name: &str) {
    let add = Action::AccountAdd { name: name.to_owned(), keys: Vec::new() };
    engine.propose(keys::CLUSTER, add).await.unwrap().unwrap();
}

async fn start(folder: &Path) -> Result<(Engine, Replica), Error> {
    open(Config::new(folder)).await
}

#[tokio::test]
async fn what_the_version_does_not_allow_is_not_proposed() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, replica) = start(folder.path()).await.unwrap();
    let not_yet = Unavailable::NotYet { needs: ClusterVersion::V2, has: ClusterVersion::V1 };
    let applied = replica.status().applied;
    assert_eq!(engine.propose(keys::CLUSTER, Action::VersionHold).await, Err(not_yet.clone()));
    assert_eq!(engine.submit_action(keys::CLUSTER, Action::VersionRelease).err(), Some(not_yet));
    assert_eq!(replica.status().applied, applied, "an older build would have stopped at it");
    assert_eq!(engine.propose(keys::CLUSTER, raise(ClusterVersion::V2)).await, Ok(Ok(Outcome::Done)));
    assert_eq!(engine.propose(keys::CLUSTER, Action::VersionHold).await, Ok(Ok(Outcome::Done)));
    replica.shutdown().await;
}

#[tokio::test]
async fn a_member_stops_at_a_raise_that_its_build_does_not_support_and_stores_nothing_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, replica) = start(folder.path()).await.unwrap();
    account(&engine, "a").await;
    let before = replica.status();
    let raised = engine.propose(keys::CLUSTER, raise(BEYOND)).await;
    assert_eq!(raised, Err(Unavailable::NoQuorum));
    let why = replica.stopped().await;
    assert!(why.contains(&format!("version {BEYOND}")) && why.contains("start a newer build"), "{why}");
    let after = replica.status();
    assert_eq!((after.applied, after.state_hash), (before.applied, before.state_hash));
    replica.shutdown().await;
    // The entry is in the log and waits for a build that can apply it.
    let again = start(folder.path()).await.map(|_| ()).unwrap_err().to_string();
    assert!(again.contains(&format!("version {BEYOND}")) && again.contains("start a newer build"), "{again}");
    // What follows the raise must not be lost by a recovery with this build either.
    let error = loop {
        match crate::replication::recover::force_single(folder.path()) {
            // The member that did not start still lets go of its folder.
            Err(Error::Locked { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
            recovered => break recovered.unwrap_err(),
        }
    };
    assert!(error.unsupported().is_some(), "{error}");
}

/// Where the newer build has brought the state, the older one leaves it alone.
#[tokio::test]
async fn a_state_of_a_newer_version_is_refused_and_not_moved_aside() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, replica) = start(folder.path()).await.unwrap();
    account(&engine, "a").await;
    replica.shutdown().await;
    drop(engine);
    let states = folder.path().join("state");
    let current = std::fs::read_to_string(states.join("current")).unwrap();
    let store = SledStore::open(&states.join(current.trim()), 1 << 20).unwrap();
    let row = codec::encode(1, &(BEYOND, Timestamp(7))).unwrap();
    store.write(&[(keys::key(keys::CLUSTER, keys::Table::Membership, &[4]), Some(row))]).unwrap();
    store.flush().unwrap();
    drop(store);
    for _ in 0..2 {
        let error = start(folder.path()).await.map(|_| ()).unwrap_err();
        let is_too_old = |why: &Unsupported| matches!(why, Unsupported::TooOld { .. });
        assert!(matches!(&error, Error::NewerFormat { why, .. } if is_too_old(why)), "{error}");
        assert!(!states.join("damaged").exists());
        assert_eq!(std::fs::read_to_string(states.join("current")).unwrap(), current);
    }
}

#[tokio::test]
async fn the_noted_version_is_refused_before_anything_is_read_and_only_grows() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, replica) = start(folder.path()).await.unwrap();
    replica.shutdown().await;
    drop(engine);
    let noted = || std::fs::read_to_string(folder.path().join("format-version")).unwrap();
    assert_eq!(noted(), "1\n");
    for (version, expected) in [(ClusterVersion::V1, 1), (NEWEST, NEWEST.0), (ClusterVersion::V1, NEWEST.0)] {
        note_version(folder.path(), version).unwrap();
        assert_eq!(noted(), format!("{expected}\n"));
        let (_, replica) = start(folder.path()).await.unwrap();
        replica.shutdown().await;
    }
    note_version(folder.path(), BEYOND).unwrap();
    std::fs::remove_dir_all(folder.path().join("state")).unwrap();
    let error = start(folder.path()).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::NewerFormat { .. }), "{error}");
    assert!(!folder.path().join("state").exists(), "something was made anew");
}
