//! Tables of bodies and what becomes of them.

use super::{job, pool, task};
use crate::api::batch::errors::{Code, Error};
use lote_shared::model::*;
use serde_json::{Value, json};

/// `base` with the members of `more` put over it; `null` leaves a member out.
fn with(base: Value, more: Value) -> Vec<u8> {
    let (Value::Object(mut base), Value::Object(more)) = (base, more) else { panic!("objects expected") };
    for (name, value) in more {
        if value.is_null() {
            base.remove(&name);
        } else {
            base.insert(name, value);
        }
    }
    Value::Object(base).to_string().into_bytes()
}

/// The code and the member at fault.
fn fault<T: std::fmt::Debug>(result: Result<T, Error>) -> (Code, String) {
    let error = result.expect_err("should be refused");
    let name = error.values.iter().find(|(key, _)| key == "PropertyName");
    (error.code, name.map(|(_, value)| value.clone()).unwrap_or_default())
}

fn pool_body() -> Value {
    json!({
        "id": "Pool-1", "vmSize": "Standard_A1_v2", "targetDedicatedNodes": 2,
        "virtualMachineConfiguration": {
            "imageReference": {"publisher": "canonical", "offer": "ubuntuserver", "sku": "18.04-lts"},
            "nodeAgentSKUId": "batch.node.ubuntu 18.04"
        }
    })
}

#[test]
fn a_plain_pool_gets_every_default() {
    let (spec, extras) = pool::add(&with(pool_body(), json!({}))).unwrap();
    assert_eq!(extras, []);
    let expected = PoolSpec {
        id: PoolId::new("Pool-1").unwrap(),
        vm_size: "Standard_A1_v2".into(),
        target_dedicated: 2,
        target_low_priority: 0,
        resize_timeout: Span::from_secs(900),
        task_slots_per_node: 1,
        fill_type: FillType::Spread,
        job_order: JobOrder::None,
        inter_node_communication: false,
        image_servable: true,
        cold: PoolCold { echo: spec.cold.echo.clone(), ..PoolCold::default() },
    };
    assert_eq!(spec, expected);
    let echo: Value = serde_json::from_str(&spec.cold.echo).unwrap();
    assert_eq!(echo["virtualMachineConfiguration"]["imageReference"]["version"], "latest");
}

#[test]
fn pools_are_refused_by_code_and_member() {
    let vm = |more: Value| {
        let base = pool_body()["virtualMachineConfiguration"].clone();
        json!({"virtualMachineConfiguration": serde_json::from_slice::<Value>(&with(base, more)).unwrap()})
    };
    let table = [
        (json!({"id": null}), Code::MissingRequiredProperty, "id"),
        (json!({"id": "a b"}), Code::InvalidPropertyValue, "id"),
        (json!({"id": "x".repeat(65)}), Code::InvalidPropertyValue, "id"),
        (json!({"vmSize": ""}), Code::InvalidPropertyValue, "vmSize"),
        (json!({"targetDedicatedNodes": null}), Code::MissingRequiredProperty, "targetDedicatedNodes"),
        (json!({"targetDedicatedNodes": -1}), Code::InvalidPropertyValue, "targetDedicatedNodes"),
        (json!({"resizeTimeout": "PT4M59S"}), Code::InvalidPropertyValue, "resizeTimeout"),
        (json!({"taskSlotsPerNode": 0}), Code::InvalidPropertyValue, "taskSlotsPerNode"),
        (json!({"taskSlotsPerNode": 257}), Code::InvalidPropertyValue, "taskSlotsPerNode"),
        (
            json!({"virtualMachineConfiguration": null}),
            Code::MissingRequiredProperty,
            "virtualMachineConfiguration",
        ),
        (
            json!({"cloudServiceConfiguration": {"osFamily": "5"}}),
            Code::InvalidPropertyValue,
            "virtualMachineConfiguration",
        ),
        (
            vm(json!({"imageReference": {"virtualMachineImageId": "/subscriptions/s"}})),
            Code::InvalidPropertyValue,
            "virtualMachineConfiguration.imageReference.virtualMachineImageId",
        ),
        (
            vm(json!({"imageReference": {"publisher": "p", "offer": "o"}})),
            Code::MissingRequiredProperty,
            "virtualMachineConfiguration.imageReference.sku",
        ),
        (
            vm(json!({"containerConfiguration": {"type": "dockerCompatible"}})),
            Code::NotImplemented,
            "virtualMachineConfiguration.containerConfiguration",
        ),
        (
            vm(json!({"nodePlacementConfiguration": {"policy": "Zonal"}})),
            Code::NotImplemented,
            "virtualMachineConfiguration.nodePlacementConfiguration.policy",
        ),
        (
            vm(json!({"dataDisks": [{"lun": 64, "diskSizeGB": 1}]})),
            Code::InvalidPropertyValue,
            "virtualMachineConfiguration.dataDisks.lun",
        ),
        (
            json!({"networkConfiguration": {"subnetId": "/subscriptions/s"}}),
            Code::InvalidPropertyValue,
            "networkConfiguration.subnetId",
        ),
        (json!({"enableAutoScale": true}), Code::NotImplemented, "enableAutoScale"),
        (json!({"autoScaleFormula": "$x=1"}), Code::NotImplemented, "autoScaleFormula"),
        (
            json!({"applicationPackageReferences": [{"applicationId": "a", "version": "../1"}]}),
            Code::InvalidPropertyValue,
            "applicationPackageReferences[0].version",
        ),
        (
            json!({"certificateReferences": [{"thumbprint": "a", "thumbprintAlgorithm": "sha1"}]}),
            Code::NotImplemented,
            "certificateReferences",
        ),
        (json!({"metadata": [{"name": "", "value": "v"}]}), Code::EmptyMetadataKey, "metadata[0].name"),
        (
            json!({"metadata": [{"name": "n", "value": "v".repeat(40_000)}]}),
            Code::MetadataTooLarge,
            "metadata[0].name",
        ),
        (json!({"displayName": "é".repeat(1025)}), Code::InvalidPropertyValue, "displayName"),
        (json!({"startTask": {"commandLine": ""}}), Code::InvalidPropertyValue, "startTask.commandLine"),
        (json!({"startTask": {"commandLine": "x".repeat(33_000)}}), Code::InvalidPropertyValue, "startTask"),
        (
            json!({"startTask": {"commandLine": "a", "userIdentity": {"username": "u"}}}),
            Code::NotImplemented,
            "startTask.userIdentity.username",
        ),
        (
            json!({"startTask": {"commandLine": "a", "maxTaskRetryCount": -2}}),
            Code::InvalidConstraintValue,
            "startTask.maxTaskRetryCount",
        ),
        (
            json!({"userAccounts": [{"name": "u", "password": "p", "linuxUserConfiguration": {"uid": 1}}]}),
            Code::InvalidPropertyValue,
            "userAccounts.linuxUserConfiguration",
        ),
    ];
    for (more, code, name) in table {
        assert_eq!(fault(pool::add(&with(pool_body(), more.clone()))), (code, name.to_owned()), "{more}");
    }
}

#[test]
fn what_only_a_cloud_can_use_is_kept_without_secrets() {
    let more = json!({
        "userAccounts": [{"name": "u", "password": "hush", "linuxUserConfiguration": {"sshPrivateKey": "hush"}}],
        "mountConfiguration": [{"azureFileShareConfiguration": {
            "accountName": "a", "azureFileUrl": "u", "accountKey": "hush", "relativeMountPath": "m"}}],
        "upgradePolicy": {"mode": "Manual"},
        "resourceTags": {"k": "v"},
        "applicationPackageReferences": [],
        "certificateReferences": [],
        "enableAutoScale": false,
        "networkConfiguration": {"endpointConfiguration": {"inboundNATPools": []}}
    });
    let echo = pool::add(&with(pool_body(), more)).unwrap().0.cold.echo;
    assert!(!echo.contains("hush"), "{echo}");
    let echo: Value = serde_json::from_str(&echo).unwrap();
    assert_eq!(echo["upgradePolicy"]["mode"], "manual");
    assert_eq!(echo["resourceTags"]["k"], "v");
    assert_eq!(echo["userAccounts"][0]["name"], "u");
    assert!(echo.get("certificateReferences").is_none());
}

#[test]
fn windows_images_are_taken_and_marked() {
    let windows = json!({"virtualMachineConfiguration": {
        "imageReference": {"publisher": "MicrosoftWindowsServer", "offer": "WindowsServer", "sku": "2022-datacenter"},
        "nodeAgentSKUId": "batch.node.windows amd64"
    }});
    assert!(!pool::add(&with(pool_body(), windows)).unwrap().0.image_servable);
    let classic =
        json!({"virtualMachineConfiguration": null, "cloudServiceConfiguration": {"osFamily": "6"}});
    assert!(!pool::add(&with(pool_body(), classic)).unwrap().0.image_servable);
    let older = json!({"maxTasksPerNode": "4"});
    assert_eq!(pool::add(&with(pool_body(), older)).unwrap().0.task_slots_per_node, 4);
}

#[test]
fn pool_changes() {
    let (patch, _) = pool::patch(br#"{"metadata": [], "startTask": {"commandLine": "echo"}}"#).unwrap();
    assert_eq!(patch.metadata, Some(Vec::new()));
    assert!(matches!(patch.start_task, Some(Some(_))));
    assert_eq!((patch.vm_size, patch.echo), (None, None));
    let all = pool::update_properties(
        br#"{"applicationPackageReferences":[],"metadata":[],"certificateReferences":[]}"#,
    );
    let (all, packages) = all.unwrap();
    assert_eq!((all.start_task, packages), (Some(None), Some(Vec::new())));
    assert_eq!(fault(pool::update_properties(br#"{"metadata":[]}"#)).0, Code::MissingRequiredProperty);
    let resize =
        pool::resize(br#"{"targetDedicatedNodes": 3, "nodeDeallocationOption": "TaskCompletion"}"#).unwrap();
    assert_eq!(resize.dedicated, Some(3));
    assert_eq!(resize.low_priority, None);
    assert_eq!(resize.option, DeallocationOption::TaskCompletion);
    assert_eq!(fault(pool::resize(b"{}")).0, Code::MissingRequiredProperty);
    assert_eq!(fault(pool::resize(b"")).0, Code::InvalidRequestBody);
}

fn job_body() -> Value {
    json!({"id": "Job-1", "poolInfo": {"poolId": "P"}})
}

#[test]
fn a_plain_job_gets_every_default() {
    let (spec, extras) = job::add(&with(job_body(), json!({}))).unwrap();
    assert_eq!(extras, []);
    let expected = JobSpec {
        id: JobId::new("job-1").unwrap(),
        pool: PoolId::new("p").unwrap(),
        priority: 0,
        max_parallel_tasks: -1,
        constraints: JobConstraints::default(),
        on_all_tasks_complete: AllTasksAction::NoAction,
        on_task_failure: TaskFailureAction::NoAction,
        uses_task_dependencies: false,
        allow_task_preemption: false,
        cold: JobCold::default(),
    };
    assert_eq!(spec, expected);
}

#[test]
fn jobs_are_refused_by_code_and_member() {
    let task = json!({"id": "m", "commandLine": "x"});
    let table = [
        (json!({"id": "s:job-1"}), Code::InvalidPropertyValue, "id"),
        (json!({"poolInfo": null}), Code::MissingRequiredProperty, "poolInfo"),
        (json!({"poolInfo": {}}), Code::InvalidPropertyValue, "poolInfo"),
        (
            json!({"poolInfo": {"poolId": "p", "autoPoolSpecification": {"poolLifetimeOption": "job"}}}),
            Code::InvalidPropertyValue,
            "poolInfo",
        ),
        (
            json!({"poolInfo": {"autoPoolSpecification": {"poolLifetimeOption": "Job"}}}),
            Code::MissingRequiredProperty,
            "poolInfo.autoPoolSpecification.pool",
        ),
        (json!({"priority": 1001}), Code::OutOfRangePriority, "priority"),
        (json!({"priority": -100_000}), Code::OutOfRangePriority, "priority"),
        (json!({"maxParallelTasks": 0}), Code::InvalidPropertyValue, "maxParallelTasks"),
        (
            json!({"constraints": {"maxTaskRetryCount": -2}}),
            Code::InvalidConstraintValue,
            "constraints.maxTaskRetryCount",
        ),
        (
            json!({"constraints": {"maxWallClockTime": "PT0S"}}),
            Code::InvalidConstraintValue,
            "constraints.maxWallClockTime",
        ),
        (json!({"onAllTasksComplete": "explode"}), Code::InvalidPropertyValue, "onAllTasksComplete"),
        (json!({"jobManagerTask": {"id": "m"}}), Code::MissingRequiredProperty, "jobManagerTask.commandLine"),
        (json!({"jobManagerTask": {"commandLine": "x"}}), Code::MissingRequiredProperty, "jobManagerTask.id"),
        (json!({"jobReleaseTask": task}), Code::InvalidPropertyValue, "jobReleaseTask"),
        (
            json!({"networkConfiguration": {"subnetId": "/subscriptions/x"}}),
            Code::InvalidPropertyValue,
            "networkConfiguration.subnetId",
        ),
        (
            json!({"commonEnvironmentSettings": [{"name": "A=B", "value": ""}]}),
            Code::InvalidPropertyValue,
            "commonEnvironmentSettings[0].name",
        ),
    ];
    for (more, code, name) in table {
        assert_eq!(fault(job::add(&with(job_body(), more.clone()))), (code, name.to_owned()), "{more}");
    }
}

#[test]
fn a_put_fills_in_what_a_patch_keeps() {
    let (patch, auto_pool) = job::patch(br#"{"priority": "5"}"#).unwrap();
    assert_eq!(auto_pool, None);
    assert_eq!(patch.priority, Some(5));
    assert_eq!((patch.max_parallel_tasks, patch.constraints, patch.metadata), (None, None, None));
    // As a newer client reads it and sends it back.
    let whole = json!({
        "id": "j", "url": "u", "eTag": "0x1", "state": "active", "creationTime": "2025-01-01T00:00:00Z",
        "executionInfo": {"startTime": "2025-01-01T00:00:00Z"}, "poolInfo": {"poolId": "q"}, "priority": 7,
        "jobManagerTask": {"id": "m", "commandLine": "x"}
    });
    let (put, _) = job::put(whole.to_string().as_bytes()).unwrap();
    assert_eq!(put.priority, Some(7));
    assert_eq!(put.pool, Some(PoolId::new("q").unwrap()));
    assert_eq!(put.max_parallel_tasks, Some(-1));
    assert_eq!(put.constraints, Some(JobConstraints::default()));
    assert_eq!(put.metadata, Some(Vec::new()));
    assert_eq!(fault(job::put(b"{}")), (Code::MissingRequiredProperty, "poolInfo".to_owned()));
}

#[test]
fn job_actions() {
    assert_eq!(job::disable(br#"{"disableTasks":"Requeue"}"#), Ok(DisableTasks::Requeue));
    assert_eq!(fault(job::disable(b"{}")).0, Code::MissingRequiredProperty);
    assert_eq!(job::terminate(b""), Ok(None));
    assert_eq!(job::terminate(b" {} "), Ok(None));
    assert_eq!(job::terminate(br#"{"terminateReason":"enough"}"#), Ok(Some("enough".to_owned())));
}

fn task_body() -> Value {
    json!({"id": "t1", "commandLine": "/bin/true"})
}

#[test]
fn tasks_with_files_and_constraints() {
    let more = json!({
        "requiredSlots": 2,
        "constraints": {"maxWallClockTime": "PT1H", "retentionTime": "PT0S", "maxTaskRetryCount": 3},
        "environmentSettings": [{"name": "A", "value": "1"}, {"name": "B"}],
        "userIdentity": {"autoUser": {"scope": "Task", "elevationLevel": "Admin"}},
        "affinityInfo": {"affinityId": "TVM:tvm-1"},
        "resourceFiles": [
            {"httpUrl": "http://h/f", "filePath": "in/f", "fileMode": "0755"},
            {"storageContainerUrl": "http://h/c?sas", "blobPrefix": "p/", "filePath": "d"},
            {"autoStorageContainerName": "c"}
        ],
        "outputFiles": [{
            "filePattern": "../std*.txt",
            "destination": {"container": {"containerUrl": "http://h/c?sas", "path": "t1",
                "uploadHeaders": [{"name": "x-ms-blob-content-type", "value": "text/plain"}]}},
            "uploadOptions": {"uploadCondition": "TaskSuccess"}
        }],
        "dependsOn": {"taskIds": []}, "exitConditions": {}, "applicationPackageReferences": []
    });
    let (add, ties, extras) = task::add(&with(task_body(), more)).unwrap();
    assert!(ties.is_empty() && extras.is_empty());
    assert_eq!((add.slots, add.max_retry_count), (2, Some(3)));
    assert_eq!((add.max_wall_clock, add.retention), (Span::from_secs(3600), Span::default()));
    let spec = add.spec;
    assert_eq!(spec.environment[1], EnvironmentSetting { name: "B".into(), value: String::new() });
    let identity = UserIdentity::AutoUser { scope: AutoUserScope::Task, elevation: ElevationLevel::Admin };
    assert_eq!(spec.user_identity, identity);
    assert_eq!(spec.affinity_id, "TVM:tvm-1");
    assert_eq!(spec.resource_files[0].file_mode, 0o755);
    let source = ResourceSource::ContainerUrl { url: "http://h/c?sas".into(), prefix: "p/".into() };
    assert_eq!(spec.resource_files[1].source, source);
    assert_eq!(spec.output_files[0].condition, UploadCondition::TaskSuccess);
    assert_eq!(spec.output_files[0].destination.headers.len(), 1);
}

#[test]
fn tasks_are_refused_by_code_and_member() {
    let file = |file: Value| json!({"resourceFiles": [file]});
    let output = |container: Value| json!({"outputFiles": [{"filePattern": "x", "destination": {"container": container}}]});
    let table = [
        (json!({"id": null}), Code::MissingRequiredProperty, "id"),
        (json!({"commandLine": null}), Code::MissingRequiredProperty, "commandLine"),
        (json!({"commandLine": "a\u{0}b"}), Code::InvalidPropertyValue, "commandLine"),
        (json!({"requiredSlots": 0}), Code::InvalidPropertyValue, "requiredSlots"),
        (
            json!({"constraints": {"maxTaskRetryCount": -2}}),
            Code::InvalidConstraintValue,
            "constraints.maxTaskRetryCount",
        ),
        (
            json!({"constraints": {"retentionTime": "-PT1S"}}),
            Code::InvalidConstraintValue,
            "constraints.retentionTime",
        ),
        (
            json!({"constraints": {"maxWallClockTime": "PT0S"}}),
            Code::InvalidConstraintValue,
            "constraints.maxWallClockTime",
        ),
        (file(json!({"httpUrl": "http://h/f"})), Code::InvalidPropertyValue, "resourceFiles[0]"),
        (file(json!({"filePath": "f"})), Code::InvalidPropertyValue, "resourceFiles[0]"),
        (
            file(json!({"httpUrl": "u", "storageContainerUrl": "u", "filePath": "f"})),
            Code::InvalidPropertyValue,
            "resourceFiles[0]",
        ),
        (
            file(json!({"httpUrl": "u", "filePath": "f", "blobPrefix": "p"})),
            Code::InvalidPropertyValue,
            "resourceFiles[0]",
        ),
        (
            file(json!({"httpUrl": "u", "filePath": "a/../../b"})),
            Code::InvalidPropertyValue,
            "resourceFiles[0].filePath",
        ),
        (
            file(json!({"autoStorageContainerName": "c", "filePath": "/etc"})),
            Code::InvalidPropertyValue,
            "resourceFiles[0].filePath",
        ),
        (
            file(json!({"httpUrl": "u", "filePath": "f", "fileMode": "0999"})),
            Code::InvalidPropertyValue,
            "resourceFiles[0].fileMode",
        ),
        (
            file(json!({"httpUrl": "u", "filePath": "f", "identityReference": {"resourceId": "r"}})),
            Code::NotImplemented,
            "resourceFiles[0].identityReference",
        ),
        (
            output(json!({})),
            Code::MissingRequiredProperty,
            "outputFiles[0].destination.container.containerUrl",
        ),
        (
            output(json!({"containerUrl": "u", "uploadHeaders": [{"name": "x-evil", "value": ""}]})),
            Code::InvalidPropertyValue,
            "outputFiles[0].destination.container.uploadHeaders[0].name",
        ),
        (json!({"userIdentity": {}}), Code::InvalidPropertyValue, "userIdentity"),
        (json!({"dependsOn": {"taskIds": ["a", "b c"]}}), Code::InvalidPropertyValue, "dependsOn.taskIds"),
        (
            json!({"dependsOn": {"taskIds": vec!["x".repeat(64); 1_001]}}),
            Code::TaskDependencyListTooLong,
            "dependsOn.taskIds",
        ),
        (
            json!({"dependsOn": {"taskIdRanges": [{"start": 1, "end": 2}, {"start": 3, "end": 2}]}}),
            Code::InvalidPropertyValue,
            "dependsOn.taskIdRanges[1].start",
        ),
        (
            json!({"dependsOn": {"taskIdRanges": vec![json!({"start": 1, "end": 1}); 1_001]}}),
            Code::TaskDependencyRangesTooLong,
            "dependsOn.taskIdRanges",
        ),
        (
            json!({"exitConditions": {"exitCodes": [{"code": 1}]}}),
            Code::MissingRequiredProperty,
            "exitConditions.exitCodes[0].exitOptions",
        ),
        (
            json!({"exitConditions": {"exitCodeRanges": [{"start": 2, "end": 1, "exitOptions": {}}]}}),
            Code::InvalidPropertyValue,
            "exitConditions.exitCodeRanges[0].start",
        ),
        (
            json!({"exitConditions": {"default": {"jobAction": "explode"}}}),
            Code::InvalidPropertyValue,
            "exitConditions.default.jobAction",
        ),
        (
            json!({"multiInstanceSettings": {"coordinationCommandLine": "x"}}),
            Code::NotImplemented,
            "multiInstanceSettings",
        ),
        (json!({"containerSettings": {"imageName": "x"}}), Code::NotImplemented, "containerSettings"),
    ];
    for (more, code, name) in table {
        assert_eq!(fault(task::add(&with(task_body(), more.clone()))), (code, name.to_owned()), "{more}");
    }
}

#[test]
fn a_collection_fails_whole_or_by_item() {
    let body = |items: Value| json!({"value": items}).to_string().into_bytes();
    let items = task::collection(&body(json!([
        {"id": "a", "commandLine": "x"},
        {"id": "b c", "commandLine": "x"},
        {"id": "d"},
        {"id": "e", "commandLine": "x", "multiInstanceSettings": {"coordinationCommandLine": "x"}},
    ])))
    .unwrap();
    let codes: Vec<_> = items
        .iter()
        .map(|item| (item.id.as_str(), item.task.as_ref().err().map(|error| error.code)))
        .collect();
    assert_eq!(
        codes,
        [
            ("a", None),
            ("b c", Some(Code::InvalidPropertyValue)),
            ("d", Some(Code::MissingRequiredProperty)),
            // Never a whole answer of 501: clients would send it again for ever.
            ("e", Some(Code::NotImplemented)),
        ]
    );
    assert_eq!(task::collection(&body(json!([]))), Ok(Vec::new()));
    let many: Vec<Value> = (0..101).map(|n| json!({"id": n.to_string(), "commandLine": "x"})).collect();
    let refused = [
        (body(json!(many)), Code::InvalidPropertyValue),
        (body(json!([{"id": "a", "commandLine": "x", "what": 1}])), Code::UnsupportedProperty),
        (body(json!([{"commandLine": "x"}])), Code::MissingRequiredProperty),
        (body(json!([7])), Code::InvalidRequestBody),
        (b"{\"value\": [".to_vec(), Code::InvalidRequestBody),
        (b"[]".to_vec(), Code::InvalidRequestBody),
        (b"{}".to_vec(), Code::MissingRequiredProperty),
        (br#"{"value": [], "x": 1}"#.to_vec(), Code::UnsupportedProperty),
    ];
    for (body, code) in refused {
        assert_eq!(
            fault(task::collection(&body)).0,
            code,
            "{}",
            String::from_utf8_lossy(&body[..40.min(body.len())])
        );
    }
}

#[test]
fn task_updates() {
    let defaults = (Span::UNLIMITED, TaskConstraints::DEFAULT_RETENTION, None);
    assert_eq!(task::put(b"{}"), Ok(defaults));
    let whole = json!({"id": "t", "state": "active", "constraints": {"maxTaskRetryCount": 2}});
    assert_eq!(task::put(whole.to_string().as_bytes()), Ok((defaults.0, defaults.1, Some(2))));
}

proptest::proptest! {
    /// Whatever arrives, it is refused or taken; nothing panics.
    #[test]
    fn no_body_makes_it_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        let _ = (pool::add(&bytes), job::add(&bytes), task::add(&bytes), task::collection(&bytes));
    }
}
