//! Files of tasks and nodes.

use super::server::{Server, conforms};
use crate::state::testing::{World, task_add};
use lote_shared::model::Span;
use serde_json::{Value, json};

/// A task that ran, with some files; and one that never did.
pub fn with_files() -> (Server, String) {
    let mut world = World::new();
    world.pool("p", 1, 1);
    world.job("j", "p");
    let node = world.nodes("p")[0];
    let ran = world.task("j", "ran");
    let mut short = task_add("short");
    short.retention = Span::from_secs(60);
    let short = world.task_with("j", short);
    let attempt = world.run(node, short);
    world.exit(node, attempt, 0);
    world.task("j", "waits");
    let attempt = world.run(node, ran);
    world.exit(node, attempt, 0);
    let id = world.node(node).id.clone();
    let server = Server::over(world);
    let base = "workitems/j/job-1/ran";
    for (name, content) in [
        ("stdout.txt", "0123456789"),
        ("stderr.txt", ""),
        ("wd/a b.txt", "ab"),
        ("wd/d/x", "x"),
        ("wd/d/y", "yy"),
    ] {
        server.files.0.write().insert((node, format!("{base}/{name}")), content.as_bytes().to_vec());
    }
    server.files.0.write().insert((node, "startup/stdout.txt".to_owned()), b"hi".to_vec());
    (server, id)
}

#[actix_web::test]
async fn files_are_streamed_and_described() {
    let (server, _) = with_files();
    let file = server.get("/jobs/j/tasks/ran/files/stdout.txt").await.expect(200);
    assert_eq!(&file.body[..], b"0123456789");
    assert_eq!(file.header("ocp-batch-file-isdirectory"), "False");
    assert_eq!(file.header("ocp-batch-file-mode"), "0o100644");
    assert_eq!(file.header("content-type"), "application/octet-stream");
    assert_eq!(file.header("last-modified"), "Tue, 14 Nov 2023 22:13:20 GMT");
    let url = "http%3A%2F%2Fbatch.test%3A1%2Fjobs%2Fj%2Ftasks%2Fran%2Ffiles%2Fstdout.txt";
    assert_eq!(file.header("ocp-batch-file-url"), url);
    let encoded = server.get("/jobs/j/tasks/ran/files/wd%2Fa%20b.txt").await.expect(200);
    assert_eq!(&encoded.body[..], b"ab");
    let head = server.send("HEAD", "/jobs/j/tasks/ran/files/stdout.txt", b"", &[]).await.expect(200);
    assert_eq!(head.header("ocp-batch-file-mode"), "0o100644");
    let directory = server.send("HEAD", "/jobs/j/tasks/ran/files/wd", b"", &[]).await.expect(200);
    assert_eq!(directory.header("ocp-batch-file-isdirectory"), "True");
}

#[actix_web::test]
async fn ranges_answer_200() {
    let (server, id) = with_files();
    let range = async |text: &str| {
        server.send("GET", "/jobs/j/tasks/ran/files/stdout.txt", b"", &[("ocp-range", text)]).await
    };
    for (text, expected) in [
        ("bytes=0-1", "01"),
        ("bytes=7-", "789"),
        ("bytes=8-100", "89"),
        ("bytes=-3", "789"),
        ("bytes=0-0", "0"),
    ] {
        assert_eq!(range(text).await.expect(200).body, expected, "{text}");
    }
    for bad in ["bytes=10-", "bytes=5-4", "first"] {
        range(bad).await.refused(416, "InvalidRange");
    }
    let node = server.get(&format!("/pools/p/nodes/{id}/files/startup%2Fstdout.txt")).await.expect(200);
    assert_eq!(&node.body[..], b"hi");
}

#[actix_web::test]
async fn lists_are_narrowed_and_paged() {
    let (server, _) = with_files();
    let names = async |query: &str| {
        let (items, pages) = server.walk(&format!("/jobs/j/tasks/ran/files{query}")).await;
        items.iter().for_each(|item| conforms("BatchNodeFile", item));
        let names: Vec<String> = items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect();
        (names.join(" "), pages)
    };
    assert_eq!(names("").await, ("stderr.txt stdout.txt wd".to_owned(), 1));
    let all = "stderr.txt stdout.txt wd wd/a b.txt wd/d wd/d/x wd/d/y";
    assert_eq!(names("?recursive=true").await, (all.to_owned(), 1));
    assert_eq!(names("?recursive=true&maxresults=2").await, (all.to_owned(), 4));
    assert_eq!(names("?$filter=startswith(name,'std')").await.0, "stderr.txt stdout.txt");
    assert_eq!(names("?$filter=startswith(name,'wd/')").await.0, "wd/a b.txt wd/d");
    assert_eq!(
        names("?$filter=startswith(name,'wd/d/')&recursive=true&maxresults=1").await,
        ("wd/d/x wd/d/y".to_owned(), 2)
    );
    assert_eq!(names("?$filter=startswith(name,'none/')").await.0, "");
    let listed = server.get("/jobs/j/tasks/ran/files").await.json();
    let stdout = &listed["value"][1];
    assert_eq!(stdout["properties"]["contentLength"], "10");
    assert_eq!(stdout["url"], "http://batch.test:1/jobs/j/tasks/ran/files/stdout.txt");
    assert_eq!(listed["value"][2]["isDirectory"], json!(true));
    assert_eq!(listed["value"][2].get("properties"), None::<&Value>);
    let refused = server.get("/jobs/j/tasks/ran/files?$filter=name%20eq%20'x'").await;
    refused.refused(400, "InvalidQueryParameterValue");
}

#[actix_web::test]
async fn what_is_missing_and_what_is_not_allowed() {
    let (server, _) = with_files();
    let get = async |path: &str| server.get(&format!("/jobs/j/tasks/{path}")).await;
    get("ran/files/none").await.refused(404, "FileNotFound");
    get("ran/files/wd").await.refused(404, "FileNotFound");
    get("short/files/stdout.txt").await.refused(409, "TaskFilesCleanedup");
    get("waits/files/stdout.txt").await.refused(409, "TaskFilesUnavailable");
    get("waits/files").await.refused(409, "TaskFilesUnavailable");
    get("none/files/x").await.refused(404, "TaskNotFound");
    for path in ["..%2Fx", "wd%2F..%2F..%2Fx", "wd%5C..%5C..%5Cx"] {
        get(&format!("ran/files/{path}")).await.refused(400, "InvalidUri");
    }
    // Nobody deletes the directory that the task's files lie in.
    for path in ["%2F", ".", ".%2F.", "%5C"] {
        let target = format!("/jobs/j/tasks/ran/files/{path}?recursive=true");
        server.send("DELETE", &target, b"", &[]).await.refused(404, "FileNotFound");
    }
    let path = "/jobs/j/tasks/ran/files/wd%2Fd";
    server.send("DELETE", path, b"", &[]).await.refused(409, "OperationInvalidForCurrentState");
    server.send("DELETE", &format!("{path}?recursive=true"), b"", &[]).await.expect(200);
    get("ran/files/wd%2Fd%2Fx").await.refused(404, "FileNotFound");
    let since = [("if-modified-since", "Tue, 14 Nov 2023 22:13:20 GMT")];
    server.send("GET", "/jobs/j/tasks/ran/files/stdout.txt", b"", &since).await.expect(304);
    let until = [("if-unmodified-since", "Tue, 14 Nov 2023 22:13:19 GMT")];
    let answer = server.send("GET", "/jobs/j/tasks/ran/files/stdout.txt", b"", &until).await;
    answer.refused(412, "ConditionNotMet");
    server.files.0.write().clear();
    get("ran/files/stdout.txt").await.refused(409, "TaskFilesUnavailable");
}
