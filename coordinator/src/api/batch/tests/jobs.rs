//! Jobs and their counts.

use super::server::{Server, conforms};
use serde_json::{Value, json};

#[actix_web::test]
async fn a_job_is_read_back_as_the_model_says() {
    let server = Server::new();
    let body = json!({
        "id": "Job-1", "displayName": "d", "poolInfo": {"poolId": "later"}, "priority": 5,
        "commonEnvironmentSettings": [{"name": "A", "value": "1"}], "metadata": [{"name": "n", "value": "v"}],
        "networkConfiguration": {"subnetId": "here", "skipWithdrawFromVNet": "true"}
    });
    let made = server.post("/jobs", body).await.expect(201);
    let got = server.get("/jobs/JOB-1").await.expect(200);
    assert_eq!(got.header("etag"), made.header("etag"));
    let job = got.json();
    conforms("BatchJob", &job);
    let expected = json!({
        "odata.metadata": "http://batch.test:1/$metadata#jobs/@Element", "id": "Job-1", "displayName": "d",
        "url": "http://batch.test:1/jobs/Job-1", "state": "active", "priority": 5, "maxParallelTasks": -1,
        "allowTaskPreemption": false, "usesTaskDependencies": false,
        "constraints": {"maxWallClockTime": "P10675199DT2H48M5.4775807S", "maxTaskRetryCount": 0},
        "onAllTasksComplete": "noaction", "onTaskFailure": "noaction", "poolInfo": {"poolId": "later"},
        "commonEnvironmentSettings": [{"name": "A", "value": "1"}], "metadata": [{"name": "n", "value": "v"}],
        "networkConfiguration": {"subnetId": "here", "skipWithdrawFromVNet": true},
        "executionInfo": {"startTime": job["creationTime"], "poolId": "later"}
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&job[name], value, "{name}");
    }
    assert!(job.get("previousState").is_none());
    server.post("/jobs", json!({"id": "job-1", "poolInfo": {"poolId": "p"}})).await.refused(409, "JobExists");
}

#[actix_web::test]
async fn a_job_is_patched_put_and_moved_through_its_states() {
    let server = Server::new();
    server.post("/jobs", json!({"id": "j", "poolInfo": {"poolId": "p"}, "priority": 3})).await.expect(201);
    server.send("PATCH", "/jobs/j", br#"{"maxParallelTasks": 4}"#, &[]).await.expect(200);
    let job = server.get("/jobs/j").await.json();
    assert_eq!((&job["priority"], &job["maxParallelTasks"]), (&json!(3), &json!(4)));
    // A newer client's PUT is the job as it read it.
    let mut whole = job.clone();
    whole.as_object_mut().unwrap().remove("odata.metadata");
    whole["priority"] = json!(9);
    let body = whole.to_string();
    server.send("PUT", "/jobs/j", body.as_bytes(), &[]).await.expect(200);
    assert_eq!(server.get("/jobs/j").await.json()["priority"], 9);
    server.send("PUT", "/jobs/j", br#"{"poolInfo": {"poolId": "p"}}"#, &[]).await.expect(200);
    let job = server.get("/jobs/j").await.json();
    assert_eq!((&job["priority"], &job["maxParallelTasks"]), (&json!(0), &json!(-1)));

    server.post("/jobs/j/disable", json!({})).await.refused(400, "MissingRequiredProperty");
    server.post("/jobs/j/disable", json!({"disableTasks": "Wait"})).await.expect(202);
    let job = server.get("/jobs/j").await.json();
    conforms("BatchJob", &job);
    assert!(["disabling", "disabled"].contains(&job["state"].as_str().unwrap()));
    assert_eq!(job["previousState"], "active");
    server.send("POST", "/jobs/j/enable", b"", &[]).await.expect(202);
    server.post("/jobs/j/terminate", json!({"terminateReason": "enough"})).await.expect(202);
    assert_eq!(server.get("/jobs/j").await.json()["executionInfo"]["terminateReason"], "enough");
    let again = server.send("POST", "/jobs/j/enable", b"", &[]).await.expect(409);
    assert!(["JobBeingTerminated", "JobCompleted"].contains(&again.code().as_str()));
    server.send("DELETE", "/jobs/j?force=true", b"", &[]).await.expect(202);
    server.send("DELETE", "/jobs/none", b"", &[]).await.refused(404, "JobNotFound");
    server.send("DELETE", "/jobs/bad%20name", b"", &[]).await.refused(404, "JobNotFound");
}

#[actix_web::test]
async fn counts_of_tasks() {
    let server = Server::new();
    server.post("/jobs", json!({"id": "j", "poolInfo": {"poolId": "p"}})).await.expect(201);
    let tasks: Vec<Value> =
        (0..3).map(|n| json!({"id": n.to_string(), "commandLine": "x", "requiredSlots": 2})).collect();
    server.post("/jobs/j/addtaskcollection", json!({"value": tasks})).await.expect(200);
    server.send("POST", "/jobs/j/tasks/1/terminate", b"", &[]).await.expect(204);
    let counts = server.get("/jobs/j/taskcounts").await.expect(200).json();
    conforms("BatchTaskCountsResult", &counts);
    assert_eq!(
        counts["taskCounts"],
        json!({"active": 2, "running": 0, "completed": 1, "succeeded": 0, "failed": 1})
    );
    assert_eq!(
        counts["taskSlotCounts"],
        json!({"active": 4, "running": 0, "completed": 2, "succeeded": 0, "failed": 2})
    );
    server.get("/jobs/none/taskcounts").await.refused(404, "JobNotFound");
}

#[actix_web::test]
async fn job_lists_are_filtered_by_state_and_time() {
    let server = Server::new();
    for n in 0..5 {
        server
            .post("/jobs", json!({"id": format!("j{n}"), "poolInfo": {"poolId": format!("p{}", n % 2)}}))
            .await
            .expect(201);
    }
    server.post("/jobs/j2/terminate", json!({})).await.expect(202);
    let made = server.get("/jobs/j3").await.json()["creationTime"].as_str().unwrap().to_owned();
    let ids = |items: Vec<Value>| {
        items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(",")
    };
    for (filter, expected) in [
        ("state eq 'active'".to_owned(), "j0,j1,j3,j4"),
        ("executionInfo/poolId eq 'P1' and state ne 'deleting'".to_owned(), "j1,j3"),
        (format!("creationTime ge DateTime'{made}'"), "j3,j4"),
        (format!("(id eq 'j0') or (creationTime gt datetime'{made}')"), "j0,j4"),
    ] {
        let target = format!("/jobs?maxresults=2&$filter={}", filter.replace(' ', "%20"));
        assert_eq!(ids(server.walk(&target).await.0), expected, "{filter}");
    }
}
