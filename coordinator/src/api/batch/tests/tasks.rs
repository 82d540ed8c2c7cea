//! Tasks: adding, reading, listing, ending.

use super::server::{Server, conforms};
use crate::state::testing::World;
use serde_json::{Value, json};
use std::collections::BTreeSet;

async fn with_job() -> Server {
    let server = Server::new();
    server.post("/jobs", json!({"id": "Job", "poolInfo": {"poolId": "p"}})).await.expect(201);
    server
}

#[actix_web::test]
async fn a_task_is_read_back_as_the_model_says() {
    let server = with_job().await;
    let body = json!({
        "id": "T1", "commandLine": "/bin/sh -c 'echo \"é\"'", "displayName": "d",
        "resourceFiles": [
            {"httpUrl": "http://h/f?sig=x", "filePath": "f"},
            {"storageContainerUrl": "http://h/c?sig=x", "blobPrefix": "p", "fileMode": "755"}
        ],
        "outputFiles": [{"filePattern": "*.txt", "uploadOptions": {"uploadCondition": "TaskCompletion"},
            "destination": {"container": {"containerUrl": "http://h/c", "path": "d",
                "uploadHeaders": [{"name": "x-ms-blob-content-type", "value": "a/b"}]}}}],
        "environmentSettings": [{"name": "A", "value": "1"}],
        "affinityInfo": {"affinityId": "somewhere"}
    });
    let made = server.post("/jobs/job/tasks", body).await.expect(201);
    assert_eq!(made.header("location"), "http://batch.test:1/jobs/job/tasks/T1");
    let got = server.get("/jobs/JOB/tasks/t1").await.expect(200);
    assert_eq!(got.header("etag"), made.header("etag"));
    let task = got.json();
    conforms("BatchTask", &task);
    let expected = json!({
        "odata.metadata": "http://batch.test:1/$metadata#tasks/@Element", "id": "T1", "displayName": "d",
        "url": "http://batch.test:1/jobs/Job/tasks/T1", "commandLine": "/bin/sh -c 'echo \"é\"'",
        "state": "active", "requiredSlots": 1, "nodeInfo": {}, "affinityInfo": {"affinityId": "somewhere"},
        "executionInfo": {"retryCount": 0, "requeueCount": 0},
        "constraints": {
            "maxWallClockTime": "P10675199DT2H48M5.4775807S", "retentionTime": "P7D", "maxTaskRetryCount": 0},
        "userIdentity": {"autoUser": {"scope": "pool", "elevationLevel": "nonadmin"}},
        "resourceFiles": [
            {"httpUrl": "http://h/f?sig=x", "filePath": "f", "fileMode": "0770"},
            {"storageContainerUrl": "http://h/c?sig=x", "blobPrefix": "p", "fileMode": "0755"}
        ],
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&task[name], value, "{name}");
    }
    assert_eq!(task["outputFiles"][0]["destination"]["container"]["uploadHeaders"][0]["value"], "a/b");
    let exists = json!({"id": "t1", "commandLine": "x"});
    let again = server.post("/jobs/job/tasks", exists.clone()).await.refused(409, "TaskExists");
    let sentence = again.json()["message"]["value"].as_str().unwrap().lines().next().unwrap().to_owned();
    assert_eq!(sentence, "The specified task already exists.");
    server.post("/jobs/none/tasks", exists).await.refused(404, "JobNotFound");
    server.get("/jobs/job/tasks/none").await.refused(404, "TaskNotFound");
    let none = server.get("/jobs/job/tasks/T1/subtasksinfo").await.expect(200).json();
    assert_eq!(none["value"], json!([]));
}

#[actix_web::test]
async fn a_running_and_a_failed_task() {
    let mut world = World::new();
    world.pool("p", 1, 4);
    world.job("j", "p");
    let node = world.nodes("p")[0];
    let (runs, fails, works) = (world.task("j", "runs"), world.task("j", "fails"), world.task("j", "works"));
    world.run(node, runs);
    let attempt = world.run(node, fails);
    world.exit(node, attempt, 3);
    let attempt = world.run(node, works);
    world.exit(node, attempt, 0);
    let id = world.node(node).id.clone();
    let server = Server::over(world);
    let task = server.get("/jobs/j/tasks/runs").await.expect(200).json();
    conforms("BatchTask", &task);
    assert_eq!((&task["state"], &task["previousState"]), (&json!("running"), &json!("active")));
    let url = format!("http://batch.test:1/pools/p/nodes/{id}");
    let expected = json!({
        "affinityId": format!("TVM:{id}"), "nodeUrl": url, "poolId": "p", "nodeId": id,
        "taskRootDirectory": "workitems/j/job-1/runs",
        "taskRootDirectoryUrl": format!("{url}/files/workitems/j/job-1/runs")
    });
    assert_eq!(task["nodeInfo"], expected);
    let task = server.get("/jobs/j/tasks/fails").await.expect(200).json();
    conforms("BatchTask", &task);
    let info = &task["executionInfo"];
    assert_eq!((&info["exitCode"], &info["result"]), (&json!(3), &json!("failure")));
    assert_eq!(
        (&info["failureInfo"]["category"], &info["failureInfo"]["code"]),
        (&json!("usererror"), &json!("FailureExitCode"))
    );
    for (filter, expected) in [
        ("state eq 'running'", "runs"),
        ("state eq 'completed'", "fails,works"),
        ("state eq 'preparing'", ""),
        ("executionInfo/result eq 'failure'", "fails"),
        ("executionInfo/exitCode ne 0", "fails,runs"),
        ("executionInfo/exitCode le 3 and state ne 'active'", "fails,works"),
        ("lastModifiedTime gt DateTime'2001-01-01' and startswith(id,'W')", "works"),
    ] {
        let (items, _) = server.walk(&format!("/jobs/j/tasks?$filter={}", filter.replace(' ', "%20"))).await;
        let ids: Vec<&str> = items.iter().map(|item| item["id"].as_str().unwrap()).collect();
        assert_eq!(ids.join(","), expected, "{filter}");
    }
    server.send("POST", "/jobs/j/tasks/works/reactivate", b"", &[]).await.refused(409, "TaskSucceeded");
    server.send("POST", "/jobs/j/tasks/fails/reactivate", b"", &[]).await.expect(204);
    server.send("POST", "/jobs/j/tasks/fails/reactivate", b"", &[]).await.refused(409, "TaskNotCompleted");
    server.send("POST", "/jobs/j/tasks/works/terminate", b"{}", &[]).await.refused(409, "TaskCompleted");
    let put = br#"{"constraints": {"maxTaskRetryCount": 2}}"#;
    server.send("PUT", "/jobs/j/tasks/runs", put, &[]).await.expect(200);
    let task = server.get("/jobs/j/tasks/runs?$select=constraints").await.json();
    assert_eq!(task["constraints"]["maxTaskRetryCount"], 2);
    server.send("DELETE", "/jobs/j/tasks/works", b"", &[]).await.expect(200);
    server.get("/jobs/j/tasks/works").await.refused(404, "TaskNotFound");
}

#[actix_web::test]
async fn a_collection_answers_for_each_task() {
    let server = with_job().await;
    let task = |id: &str| json!({"id": id, "commandLine": "x"});
    let mut depends = task("d");
    depends["dependsOn"] = json!({"taskIds": ["a"]});
    let body = json!({"value": [task("a"), task("b"), task("A"), {"id": "c"}, depends, task("e")]});
    let answer = server.post("/jobs/Job/addtaskcollection", body).await.expect(200).json();
    assert_eq!(answer["odata.metadata"], "http://batch.test:1/$metadata#taskaddresult");
    let results = answer["value"].as_array().unwrap();
    for result in results {
        conforms("BatchTaskCreateResult", result);
    }
    let shown: Vec<(&str, &str, &str)> = results
        .iter()
        .map(|r| {
            let code = r["error"]["code"].as_str().unwrap_or("");
            (r["taskId"].as_str().unwrap(), r["status"].as_str().unwrap(), code)
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("a", "success", ""),
            ("b", "success", ""),
            ("A", "clienterror", "TaskExists"),
            ("c", "clienterror", "MissingRequiredProperty"),
            ("d", "clienterror", "TaskDependenciesNotSpecifiedOnJob"),
            ("e", "success", ""),
        ]
    );
    assert_eq!(results[0]["location"], "http://batch.test:1/jobs/Job/tasks/a");
    server.post("/jobs/none/addtaskcollection", json!({"value": []})).await.refused(404, "JobNotFound");
    server
        .post("/jobs/none/addtaskcollection", json!({"value": [task("a")]}))
        .await
        .refused(404, "JobNotFound");
    server.post("/jobs/Job/addtaskcollection", json!({"value": []})).await.expect(200);
}

#[actix_web::test]
async fn a_large_collection_becomes_several_commands() {
    let server = with_job().await;
    let task = |n: usize| json!({"id": format!("t{n:03}"), "commandLine": "x".repeat(9_000)});
    let tasks: Vec<Value> = (0..100).map(task).collect();
    let answer = server.post("/jobs/Job/addtaskcollection", json!({"value": tasks})).await.expect(200).json();
    let results = answer["value"].as_array().unwrap();
    assert!(results.iter().all(|result| result["status"] == "success"));
    let ids: Vec<String> =
        results.iter().map(|result| result["taskId"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, (0..100).map(|n| format!("t{n:03}")).collect::<Vec<_>>());
    // One task that no command can hold fails by itself.
    let huge = json!({"id": "huge", "commandLine": "x".repeat(300_000)});
    let body = json!({"value": [huge, {"id": "small", "commandLine": "x"}]});
    let answer = server.post("/jobs/Job/addtaskcollection", body).await.expect(200).json();
    assert_eq!(answer["value"][0]["error"]["code"], "RequestBodyTooLarge");
    assert_eq!(answer["value"][0]["status"], "clienterror");
    assert_eq!(answer["value"][1]["status"], "success");
    server.post("/jobs/Job/tasks", huge_task()).await.refused(413, "RequestBodyTooLarge");
}

fn huge_task() -> Value {
    json!({"id": "huge", "commandLine": "x".repeat(300_000)})
}

/// Whatever comes and goes between pages, a task that was there throughout is seen exactly once.
#[actix_web::test]
async fn a_walk_never_repeats_or_skips() {
    let server = with_job().await;
    let add = |from: usize, to: usize, step: usize| {
        let tasks = (from..to).step_by(step).map(|n| json!({"id": format!("{n:03}"), "commandLine": "x"}));
        json!({"value": tasks.collect::<Vec<_>>()})
    };
    server.post("/jobs/Job/addtaskcollection", add(0, 100, 2)).await.expect(200);
    let mut target = "/jobs/Job/tasks?maxresults=7&$select=id&api-version=2025-06-01".to_owned();
    let mut seen: Vec<usize> = Vec::new();
    let mut turn = 0;
    loop {
        let page = server.send_signed("GET", &target, b"", &[]).await.expect(200).json();
        let items = page["value"].as_array().unwrap();
        seen.extend(items.iter().map(|item| item["id"].as_str().unwrap().parse::<usize>().unwrap()));
        // Odd ones appear and some vanish, before and behind the position; multiples of four stay.
        let odd = json!({"id": format!("{:03}", ((turn * 37) % 100) | 1), "commandLine": "x"});
        server.post("/jobs/Job/tasks", odd).await;
        server.send("DELETE", &format!("/jobs/Job/tasks/{:03}", (turn * 20 + 2) % 100), b"", &[]).await;
        turn += 1;
        match page["odata.nextLink"].as_str() {
            None => break,
            Some(link) => target = link.trim_start_matches("http://batch.test:1").to_owned(),
        }
    }
    assert!(turn > 5);
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len(), "repeated: {seen:?}");
    assert!(seen.is_sorted());
    for stays in (0..100).step_by(4) {
        assert!(seen.contains(&stays), "{stays} was skipped");
    }
}

/// A filter that hardly anything passes goes on beyond one slice, without the client noticing.
#[actix_web::test]
async fn rare_tasks_are_found_in_long_lists() {
    let mut world = World::new();
    world.job("j", "p");
    world.tasks("j", 9_000);
    let server = Server::over(world);
    let (items, pages) = server.walk("/jobs/j/tasks?$filter=id%20eq%20't8999'").await;
    assert_eq!((items.len(), pages), (1, 1));
    let (items, pages) = server.walk("/jobs/j/tasks?$select=id").await;
    assert_eq!((items.len(), pages), (9_000, 9));
}
