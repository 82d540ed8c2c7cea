//! Applications and references to their packages (`files-and-storage.md` §8.1, §8.2).

use crate::state::command::{Action, Condition, PackageChange, PoolPatch};
use crate::state::testing::*;
use crate::state::{APPLICATIONS_MAX, Outcome, PACKAGES_MAX, RefusalCode, Reply};
use lote_shared::model::*;

fn app(id: &str) -> ApplicationId {
    ApplicationId::new(id).unwrap()
}

fn version(id: &str) -> PackageVersion {
    PackageVersion::new(id).unwrap()
}

fn change(w: &mut World, id: &str, change: PackageChange) -> Reply {
    w.act(Action::ApplicationChange { application: app(id), change })
}

fn activate(w: &mut World, id: &str, name: &str, is_default: bool) -> Reply {
    let (container, blob) = ("c".to_owned(), format!("{id}/{name}"));
    change(w, id, PackageChange::Activate { version: version(name), container, blob, is_default })
}

fn reference(id: &str, name: Option<&str>) -> PackageReference {
    PackageReference { application: app(id), version: name.map(version) }
}

fn add_pool(w: &mut World, id: &str, packages: Vec<PackageReference>) -> Reply {
    let extras = vec![PoolExtra::Packages(packages)];
    w.act(Action::PoolAddWith { spec: Box::new(pool_spec(id, 0, 1)), extras })
}

fn settings(default_version: Option<Option<&str>>, allow_updates: Option<bool>) -> PackageChange {
    let default_version = default_version.map(|name| name.map(version));
    PackageChange::Settings { display_name: None, allow_updates, default_version }
}

#[test]
fn packages_come_are_replaced_and_go() {
    let mut w = World::new();
    activate(&mut w, "Blender", "2.7", false).unwrap();
    w.pass_ms(5);
    activate(&mut w, "blender", "2.8", true).unwrap();
    activate(&mut w, "blender", "2.7", false).unwrap();
    let record = w.cluster.application(ACCOUNT, &app("BLENDER")).unwrap();
    let names: Vec<_> = record.packages.iter().map(|package| package.version.as_str()).collect();
    assert_eq!((record.id.as_str(), names), ("Blender", vec!["2.7", "2.8"]));
    assert_eq!(record.packages[0].activated, w.now);
    assert_eq!(record.meant(None).unwrap().version, version("2.8"));
    assert_eq!(w.reload().digest(), w.cluster.digest());
    assert_eq!(
        code(change(&mut w, "blender", PackageChange::Remove)),
        RefusalCode::OperationInvalidForCurrentState
    );
    change(&mut w, "blender", PackageChange::Delete { version: version("2.8") }).unwrap();
    assert_eq!(w.cluster.application(ACCOUNT, &app("blender")).unwrap().default_version, None);
    let gone = PackageChange::Delete { version: version("2.8") };
    assert_eq!(code(change(&mut w, "blender", gone)), RefusalCode::ApplicationNotFound);
    change(&mut w, "blender", PackageChange::Delete { version: version("2.7") }).unwrap();
    change(&mut w, "blender", PackageChange::Remove).unwrap();
    assert!(w.cluster.application(ACCOUNT, &app("blender")).is_none());
    assert_eq!(w.reload().digest(), w.cluster.digest());
}

#[test]
fn without_updates_packages_are_added_only() {
    let mut w = World::new();
    activate(&mut w, "a", "1", true).unwrap();
    change(&mut w, "a", settings(None, Some(false))).unwrap();
    assert_eq!(code(activate(&mut w, "a", "1", false)), RefusalCode::OperationInvalidForCurrentState);
    let delete = PackageChange::Delete { version: version("1") };
    assert_eq!(code(change(&mut w, "a", delete)), RefusalCode::OperationInvalidForCurrentState);
    activate(&mut w, "a", "2", false).unwrap();
    change(&mut w, "a", settings(Some(Some("2")), None)).unwrap();
    assert_eq!(code(change(&mut w, "a", settings(Some(Some("3")), None))), RefusalCode::ApplicationNotFound);
    assert_eq!(w.cluster.application(ACCOUNT, &app("a")).unwrap().default_version, Some(version("2")));
}

#[test]
fn there_are_bounds() {
    let mut w = World::new();
    for n in 0..PACKAGES_MAX {
        activate(&mut w, "a", &n.to_string(), false).unwrap();
    }
    assert_eq!(code(activate(&mut w, "a", "more", false)), RefusalCode::OperationInvalidForCurrentState);
    for n in 1..APPLICATIONS_MAX {
        activate(&mut w, &format!("a{n}"), "1", false).unwrap();
    }
    assert_eq!(code(activate(&mut w, "b", "1", false)), RefusalCode::OperationInvalidForCurrentState);
}

#[test]
fn references_must_be_there_when_they_are_made() {
    let mut w = World::new();
    activate(&mut w, "a", "1", false).unwrap();
    activate(&mut w, "a-b", "1", true).unwrap();
    activate(&mut w, "a_b", "1", true).unwrap();
    for (packages, why) in [
        (vec![reference("x", None)], "no application `x`"),
        (vec![reference("a", Some("2"))], "no version `2`"),
        (vec![reference("a", None)], "no default version"),
        (vec![reference("a-b", None), reference("a_b", None)], "the variable of `a_b`"),
        (vec![reference("a", Some("1")); 11], "at most 10"),
    ] {
        let refusal = add_pool(&mut w, "p", packages).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::InvalidApplicationPackageReferences);
        assert!(refusal.detail.contains(why), "{}", refusal.detail);
    }
    add_pool(&mut w, "p", vec![reference("a", Some("1")), reference("a-b", None)]).unwrap();
    let key = w.pool_key("p");
    assert_eq!(PoolExtra::packages(w.cluster.pool_extras(key)).len(), 2);
    let patch = |packages| Action::PoolPatchWith {
        pool: pool_id("p"),
        condition: Condition::default(),
        patch: Box::new(PoolPatch::default()),
        packages,
    };
    assert_eq!(
        code(w.act(patch(vec![reference("x", None)]))),
        RefusalCode::InvalidApplicationPackageReferences
    );
    w.ok(patch(Vec::new()));
    assert_eq!(PoolExtra::packages(w.cluster.pool_extras(key)), []);
    assert_eq!(w.reload().digest(), w.cluster.digest());
    // Tasks stand or fall alone, a job with its manager.
    w.job("j", "p");
    let task = |id: &str, name: &str| {
        let extras = vec![TaskExtra::Packages(vec![reference("a", Some(name))])];
        (task_add(id), TaskTies::default(), extras)
    };
    let tasks = vec![task("good", "1"), task("bad", "2")];
    let Outcome::TasksAdded(results) = w.ok(Action::TasksAddWith { job: job_id("j"), tasks }) else {
        panic!()
    };
    assert!(results[0].1.is_ok());
    let refused = results[1].1.as_ref().unwrap_err().code;
    assert_eq!(refused, RefusalCode::InvalidApplicationPackageReferences);
}

#[test]
fn spec_j_s13_an_auto_pool_with_packages_that_are_not_there() {
    let mut w = World::new();
    let auto = AutoPool {
        prefix: String::new(),
        lifetime: PoolLifetime::Job,
        keep_alive: false,
        pool: pool_spec("x", 0, 1),
        extras: vec![PoolExtra::Packages(vec![reference("a", None)])],
    };
    let extras = vec![JobExtra::AutoPool(Box::new(auto))];
    w.ok(Action::JobAddWith { spec: Box::new(job_spec("j", "x")), extras });
    let job = w.job_record("j");
    assert_eq!(job.state, JobState::Completed);
    let error = JobExtra::scheduling_error(w.cluster.job_extras(job.key)).unwrap();
    assert_eq!(error.code, "InvalidApplicationPackageReferencesInAutoPool");
}
