//! Pools and nodes.

use super::server::{Server, conforms};
use crate::state::testing::World;
use serde_json::{Value, json};

pub fn pool_body(id: &str) -> Value {
    json!({
        "id": id, "vmSize": "STANDARD_D2s_v3", "targetDedicatedNodes": "0", "displayName": "Pool é",
        "virtualMachineConfiguration": {
            "imageReference": {"publisher": "canonical", "offer": "ubuntuserver", "sku": "18.04-lts"},
            "nodeAgentSKUId": "batch.node.ubuntu 18.04",
            "dataDisks": [{"lun": 0, "diskSizeGB": 5, "caching": "ReadOnly"}]
        },
        "startTask": {
            "commandLine": "echo", "resourceFiles": [{"httpUrl": "http://h/f", "filePath": "f"}],
            "environmentSettings": [{"name": "A", "value": "1"}]
        },
        "metadata": [{"name": "n", "value": "v"}]
    })
}

#[actix_web::test]
async fn a_pool_is_read_back_as_the_model_says() {
    let server = Server::new();
    let made = server.post("/pools", pool_body("P-1")).await.expect(201);
    assert!(made.body.is_empty());
    assert_eq!(made.header("location"), "http://batch.test:1/pools/P-1");
    assert_eq!(made.header("dataserviceid"), made.header("location"));
    let got = server.get("/pools/p-1").await.expect(200);
    assert_eq!(got.header("etag"), made.header("etag"));
    assert_eq!(got.header("last-modified"), made.header("last-modified"));
    let pool = got.json();
    conforms("BatchPool", &pool);
    assert_eq!(pool["odata.metadata"], "http://batch.test:1/$metadata#pools/@Element");
    let expected = json!({
        "id": "P-1", "displayName": "Pool é", "url": "http://batch.test:1/pools/P-1", "eTag": made.header("etag"),
        "state": "active", "allocationState": "steady", "vmSize": "STANDARD_D2s_v3", "resizeTimeout": "PT15M",
        "currentDedicatedNodes": 0, "currentLowPriorityNodes": 0, "targetDedicatedNodes": 0,
        "targetLowPriorityNodes": 0, "enableAutoScale": false, "enableInterNodeCommunication": false,
        "taskSlotsPerNode": 1, "taskSchedulingPolicy": {"nodeFillType": "spread", "jobDefaultOrder": "none"},
        "metadata": [{"name": "n", "value": "v"}]
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&pool[name], value, "{name}");
    }
    assert_eq!(pool["virtualMachineConfiguration"]["dataDisks"][0]["caching"], "readonly");
    assert_eq!(pool["startTask"]["userIdentity"]["autoUser"]["scope"], "pool");
    assert_eq!(pool["startTask"]["waitForSuccess"], true);
    assert!(pool.get("resizeErrors").is_none() && pool.get("stats").is_none());
    // The same pool through an old version.
    let old = server
        .send_signed("GET", "/pools/P-1?api-version=2020-03-01.11.0", b"", &[])
        .await
        .expect(200)
        .json();
    assert_eq!(old["maxTasksPerNode"], 1);
    server.post("/pools", pool_body("p-1")).await.refused(409, "PoolExists");
}

#[actix_web::test]
async fn conditions_of_reads_and_writes() {
    let server = Server::new();
    let etag = server.post("/pools", pool_body("p")).await.expect(201).header("etag").to_owned();
    let quoted = format!("\"{etag}\"");
    for tag in [etag.as_str(), &quoted, "*"] {
        server.send("GET", "/pools/p", b"", &[("if-match", tag)]).await.expect(200);
        let unchanged = server.send("GET", "/pools/p", b"", &[("if-none-match", tag)]).await.expect(304);
        assert!(unchanged.body.is_empty());
        server.send("HEAD", "/pools/p", b"", &[("if-none-match", tag)]).await.expect(304);
    }
    let other = [("if-match", "0x0")];
    server.send("PATCH", "/pools/p", b"{}", &other).await.refused(412, "ConditionNotMet");
    server.send("DELETE", "/pools/p", b"", &other).await.refused(412, "ConditionNotMet");
    let two = [("if-match", "*"), ("if-none-match", "x")];
    server.send("GET", "/pools/p", b"", &two).await.refused(400, "MultipleConditionHeadersNotSupported");
    let changed =
        server.send("PATCH", "/pools/p", br#"{"metadata":[]}"#, &[("if-match", &quoted)]).await.expect(200);
    assert_ne!(changed.header("etag"), etag);
    let pool = server.get("/pools/p").await.json();
    assert!(pool.get("metadata").is_none());
    assert_eq!(pool["startTask"]["commandLine"], "echo");
}

#[actix_web::test]
async fn a_pool_is_resized_replaced_and_deleted() {
    let server = Server::new();
    server.post("/pools", pool_body("p")).await.expect(201);
    let none = json!({"metadata": [], "applicationPackageReferences": []});
    server.post("/pools/p/updateproperties", none).await.expect(204);
    assert!(server.get("/pools/p").await.json().get("startTask").is_none());
    server.post("/pools/p/resize", json!({"targetDedicatedNodes": "2"})).await.expect(202);
    let pool = server.get("/pools/p?$select=id,allocationState,targetDedicatedNodes").await.json();
    let metadata = "http://batch.test:1/$metadata#pools/@Element";
    let expected = json!({"odata.metadata": metadata, "id": "p", "allocationState": "resizing", "targetDedicatedNodes": 2});
    assert_eq!(pool, expected);
    server.post("/pools/p/resize", json!({"targetDedicatedNodes": 3})).await.refused(409, "PoolBeingResized");
    server.send("POST", "/pools/p/stopresize", b"", &[]).await.expect(202);
    server.send("HEAD", "/pools/p", b"", &[]).await.expect(200);
    let gone = server.send("DELETE", "/pools/p", b"", &[]).await.expect(202);
    assert_eq!(gone.header("etag"), "");
    server.send("DELETE", "/pools/no%20such%20name", b"", &[]).await.refused(404, "PoolNotFound");
}

#[actix_web::test]
async fn pool_lists_are_filtered_and_paged() {
    let server = Server::new();
    for n in 0..7 {
        server.post("/pools", pool_body(&format!("pool-{n}"))).await.expect(201);
    }
    let ids = |items: Vec<Value>| {
        let ids =
            items.iter().map(|item| item["id"].as_str().unwrap().trim_start_matches("pool-").to_owned());
        ids.collect::<Vec<_>>().join("")
    };
    let (items, pages) = server.walk("/pools?maxresults=3").await;
    assert_eq!((ids(items), pages), ("0123456".to_owned(), 3));
    let (items, _) = server.walk("/pools?$filter=startswith(id,'POOL-')%20and%20id%20gt%20'pool-4'").await;
    assert_eq!(ids(items), "56");
    let (items, _) = server.walk("/pools?$filter=enableAutoScale%20eq%20true&maxresults=1").await;
    assert_eq!(ids(items), "");
    for bad in ["$filter=x%20eq%201", "$filter=state%20gt%20'a'", "$skiptoken=AAAA", "$expand=tasks"] {
        server.get(&format!("/pools?{bad}")).await.refused(400, "InvalidQueryParameterValue");
    }
    server.get("/pools?maxresults=0").await.refused(400, "OutOfRangeQueryParameterValue");
    server.get("/pools?$expand=stats").await.expect(200);
    let counts = server.get("/nodecounts").await.expect(200).json();
    assert_eq!(counts["value"].as_array().unwrap().len(), 7);
    server.get("/nodecounts?maxresults=11").await.refused(400, "OutOfRangeQueryParameterValue");
    let one = server.get("/nodecounts?$filter=poolId%20eq%20'pool-3'").await.json();
    conforms("BatchPoolNodeCounts", &one["value"][0]);
    assert_eq!(one["value"].as_array().unwrap().len(), 1);
}

#[actix_web::test]
async fn nodes_are_read_back_as_the_model_says() {
    let mut world = World::new();
    world.pool("p", 3, 2);
    let job = world.job("j", "p");
    assert_eq!(job.0, 1);
    let task = world.task("j", "t");
    let node = world.nodes("p")[1];
    world.run(node, task);
    let id = world.node(node).id.clone();
    let server = Server::over(world);
    let nodes = server.get("/pools/p/nodes").await.expect(200).json();
    assert_eq!(nodes["odata.metadata"], "http://batch.test:1/$metadata#nodes");
    for node in nodes["value"].as_array().unwrap() {
        conforms("BatchNode", node);
    }
    let node = server.get(&format!("/pools/p/nodes/{id}")).await.expect(200).json();
    assert_eq!(node["state"], "running");
    assert_eq!(node["runningTasksCount"], 1);
    assert_eq!(node["affinityId"], format!("TVM:{id}"));
    assert_eq!(node["ipAddress"], "127.0.0.1");
    assert_eq!(node["recentTasks"][0]["taskUrl"], "http://batch.test:1/jobs/j/tasks/t");
    let (idle, _) =
        server.walk("/pools/p/nodes?$filter=state%20eq%20'Idle'&$select=id,state&maxresults=1").await;
    assert_eq!(idle.len(), 2);
    assert_eq!(idle[0].as_object().unwrap().len(), 2);
    let counts = server.get("/nodecounts").await.json()["value"][0].clone();
    conforms("BatchPoolNodeCounts", &counts);
    assert_eq!((&counts["dedicated"]["running"], &counts["dedicated"]["total"]), (&json!(1), &json!(3)));
    assert_eq!(counts["lowPriority"]["total"], 0);
    server.get("/pools/p/nodes/none").await.refused(404, "NodeNotFound");
    server.get("/pools/q/nodes").await.refused(404, "PoolNotFound");
}

#[actix_web::test]
async fn images_that_programs_look_for() {
    let server = Server::new();
    let filter = "$filter=verificationType%20eq%20'verified'%20and%20osType%20eq%20'linux'";
    let (images, pages) = server.walk(&format!("/supportedimages?{filter}&maxresults=3")).await;
    assert_eq!(pages, 3);
    for image in &images {
        conforms("BatchSupportedImage", image);
    }
    for (offer, sku) in [("ubuntuserver", "18.04-lts"), ("0001-com-ubuntu-server-jammy", "22_04-lts")] {
        let found = images
            .iter()
            .any(|image| image["imageReference"]["offer"] == offer && image["imageReference"]["sku"] == sku);
        assert!(found, "{offer} {sku}");
    }
    let (images, _) = server.walk("/supportedimages?$filter=osType%20eq%20'windows'").await;
    assert!(images.is_empty());
}
