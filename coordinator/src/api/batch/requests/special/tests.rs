use super::super::{job, schedule, task};
use crate::api::batch::answers::job as answers;
use crate::api::batch::errors::{Code, Error};
use crate::api::batch::json::{Select, object};
use lote_shared::model::{
    ApplicationId, AutoPool, JobExtra, PackageReference, PackageVersion, PoolExtra, PoolLifetime, Span,
    TaskExtra,
};
use serde_json::{Value, json};

fn pool() -> Value {
    json!({
        "vmSize": "standard_a1_v2", "targetDedicatedNodes": 2, "taskSlotsPerNode": 4,
        "virtualMachineConfiguration": {
            "imageReference": {"publisher": "canonical", "offer": "ubuntuserver", "sku": "18.04-lts"},
            "nodeAgentSKUId": "batch.node.ubuntu 18.04"
        },
        "applicationPackageReferences": [{"applicationId": "app", "version": "1.0"}],
        "startTask": {"commandLine": "/bin/true"}, "metadata": [{"name": "a", "value": "b"}]
    })
}

fn whole() -> Value {
    json!({
        "id": "j",
        "poolInfo": {"autoPoolSpecification": {
            "autoPoolIdPrefix": "pre", "poolLifetimeOption": "Job", "keepAlive": true, "pool": pool()
        }},
        "jobManagerTask": {
            "id": "m", "commandLine": "x", "killJobOnCompletion": false, "requiredSlots": 3,
            "authenticationTokenSettings": {"access": ["Job"]},
            "applicationPackageReferences": [{"applicationId": "app"}],
            "constraints": {"maxTaskRetryCount": 2, "retentionTime": "PT1H"}
        },
        "jobPreparationTask": {"commandLine": "p", "constraints": {"maxTaskRetryCount": -1}},
        "jobReleaseTask": {"id": "r", "commandLine": "q", "maxWallClockTime": "PT5M"}
    })
}

fn reference(application: &str, version: Option<&str>) -> PackageReference {
    PackageReference {
        application: ApplicationId::new(application).unwrap(),
        version: version.map(|version| PackageVersion::new(version).unwrap()),
    }
}

fn add(body: &Value) -> Result<job::NewJob, Error> {
    job::add(body.to_string().as_bytes())
}

fn refused(change: impl FnOnce(&mut Value)) -> (Code, String) {
    let mut body = whole();
    change(&mut body);
    let error = add(&body).expect_err("should be refused");
    let name = error.values.iter().find(|(key, _)| key == "PropertyName");
    (error.code, name.map(|(_, value)| value.clone()).unwrap_or_default())
}

#[test]
fn what_is_given_is_kept_and_the_rest_has_its_default() {
    let (_, extras) = add(&whole()).unwrap();
    let auto = JobExtra::auto_pool(&extras).unwrap();
    assert_eq!((auto.prefix.as_str(), auto.lifetime, auto.keep_alive), ("pre", PoolLifetime::Job, true));
    assert_eq!((auto.pool.target_dedicated, auto.pool.task_slots_per_node), (2, 4));
    assert_eq!(PoolExtra::packages(&auto.extras), [reference("app", Some("1.0"))]);
    let manager = JobExtra::manager(&extras).unwrap();
    assert_eq!((manager.slots, manager.max_retry_count), (3, Some(2)));
    assert_eq!(manager.extras, [TaskExtra::Token, TaskExtra::Packages(vec![reference("app", None)])]);
    assert!(!manager.kill_job_on_completion && manager.run_exclusive && manager.allow_low_priority_node);
    let preparation = JobExtra::preparation(&extras).unwrap();
    assert_eq!(preparation.spec.id.as_str(), "jobpreparation");
    assert_eq!(preparation.constraints.max_retry_count, -1);
    assert!(preparation.wait_for_success && preparation.rerun_on_reboot);
    let release = JobExtra::release(&extras).unwrap();
    assert_eq!((release.spec.id.as_str(), release.max_wall_clock), ("r", Span::from_secs(300)));
}

#[test]
fn what_a_client_reads_it_can_send_back() {
    let (spec, extras) = add(&whole()).unwrap();
    let read = object(None::<&Select>, |object| answers::write_spec(object, &spec, &extras));
    let mut read: Value = serde_json::from_slice(&read).unwrap();
    assert_eq!(read["jobManagerTask"]["authenticationTokenSettings"], json!({"access": ["job"]}));
    assert_eq!(read["poolInfo"]["autoPoolSpecification"]["pool"]["metadata"][0]["name"], "a");
    read["id"] = json!("j");
    assert_eq!(add(&read).unwrap(), (spec, extras.clone()));
    // With a PUT it tells the pool as it is to be.
    let (patch, auto) = job::put(read.to_string().as_bytes()).unwrap();
    assert_eq!((patch.pool, auto.as_deref()), (None, JobExtra::auto_pool(&extras)));
    // And as the specification of a schedule.
    read.as_object_mut().unwrap().remove("id");
    let body = json!({"id": "s", "schedule": {}, "jobSpecification": read});
    assert_eq!(schedule::add(body.to_string().as_bytes()).unwrap().1, extras);
}

#[test]
fn a_pool_for_a_schedule_is_made_by_a_schedule() {
    let mut body = whole();
    body["poolInfo"]["autoPoolSpecification"]["poolLifetimeOption"] = json!("jobschedule");
    assert_eq!(add(&body).unwrap_err().code, Code::InvalidPropertyValue);
    body.as_object_mut().unwrap().remove("id");
    let body = json!({"id": "s", "schedule": {}, "jobSpecification": body});
    let (_, extras) = schedule::add(body.to_string().as_bytes()).unwrap();
    let auto: Option<&AutoPool> = JobExtra::auto_pool(&extras);
    assert_eq!(auto.map(|auto| auto.lifetime), Some(PoolLifetime::JobSchedule));
}

#[test]
fn wrong_ones_are_refused_by_name() {
    let auto = "poolInfo.autoPoolSpecification";
    let long = "x".repeat(21);
    let at = |member: &str| format!("{auto}.{member}");
    for (path, value, code, name) in [
        (
            "/poolInfo/autoPoolSpecification/autoPoolIdPrefix",
            json!(long),
            Code::InvalidPropertyValue,
            at("autoPoolIdPrefix"),
        ),
        (
            "/poolInfo/autoPoolSpecification/autoPoolIdPrefix",
            json!("a b"),
            Code::InvalidPropertyValue,
            at("autoPoolIdPrefix"),
        ),
        (
            "/poolInfo/autoPoolSpecification/pool/taskSlotsPerNode",
            json!(0),
            Code::InvalidPropertyValue,
            at("pool.taskSlotsPerNode"),
        ),
        (
            "/jobReleaseTask/maxWallClockTime",
            json!("PT16M"),
            Code::InvalidPropertyValue,
            "jobReleaseTask.maxWallClockTime".into(),
        ),
        (
            "/jobPreparationTask/commandLine",
            json!(""),
            Code::InvalidPropertyValue,
            "jobPreparationTask.commandLine".into(),
        ),
        (
            "/jobManagerTask/requiredSlots",
            json!(0),
            Code::InvalidPropertyValue,
            "jobManagerTask.requiredSlots".into(),
        ),
        ("/jobManagerTask/id", json!("jobpreparation"), Code::TaskIdSameAsJobPreparationTask, String::new()),
        ("/jobManagerTask/id", json!("R"), Code::TaskIdSameAsJobReleaseTask, String::new()),
        ("/jobReleaseTask/id", json!("jobpreparation"), Code::TaskIdSameAsJobReleaseTask, String::new()),
    ] {
        let shown = format!("{path} = {value}");
        let found = refused(|body| {
            let (parent, member) = path.rsplit_once('/').unwrap();
            body.pointer_mut(parent).unwrap()[member] = value;
        });
        assert_eq!(found, (code, name), "{shown}");
    }
}

#[test]
fn tokens_are_for_the_job_alone() {
    let task = |access: Value| {
        let body = json!({"id": "t", "commandLine": "x", "authenticationTokenSettings": access});
        task::add(body.to_string().as_bytes())
    };
    let (add, _, extras) = task(json!({"access": ["job"]})).unwrap();
    assert_eq!(extras, [TaskExtra::Token]);
    assert!(add.spec.echo.contains("authenticationTokenSettings"));
    assert_eq!(task(json!({"access": []})).unwrap().2, []);
    assert_eq!(task(json!({"access": ["pool"]})).unwrap_err().code, Code::InvalidPropertyValue);
}
