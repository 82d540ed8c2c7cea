//! What holds for every request: who asks, versions, headers, errors, operations that are not built.

use super::server::{NOW, Server, VERSION, conforms};
use serde_json::json;

#[actix_web::test]
async fn requests_need_a_good_signature() {
    let server = Server::new();
    let date = NOW.to_http_date();
    let target = format!("/pools?api-version={VERSION}");
    server.send_signed("GET", &target, b"", &[]).await.expect(200);
    let unsigned = server.send_raw("GET", &target, b"", &[("ocp-date", &date)]).await;
    unsigned.refused(403, "AuthenticationFailed");
    let cases = [
        ("Bearer abc", 403, "AuthenticationFailed"),
        ("SharedKey lote", 400, "InvalidAuthenticationInfo"),
        ("SharedKey nobody:X57ZsBs7lhNKRwf7Z1UrLhpZ62TIBtIj03qdrzoTWnM=", 403, "AuthenticationFailed"),
        ("SharedKey lote:X57ZsBs7lhNKRwf7Z1UrLhpZ62TIBtIj03qdrzoTWnM=", 403, "AuthenticationFailed"),
    ];
    for (authorization, status, code) in cases {
        let headers = [("ocp-date", date.as_str()), ("authorization", authorization)];
        let answer = server.send_raw("GET", &target, b"", &headers).await.refused(status, code);
        conforms("BatchError", &answer.json());
        assert!(!answer.json()["values"].as_array().unwrap().is_empty());
    }
    // A body that nobody may send is not worth an answer of its own, but it gets the same one.
    let big = vec![b' '; 3 << 20];
    let answer = server.send_raw("POST", &target, &big, &[("ocp-date", &date)]).await;
    answer.refused(403, "AuthenticationFailed");
}

#[actix_web::test]
async fn versions_are_checked_before_operations() {
    let server = Server::new();
    let answer =
        server.send_signed("GET", "/pools", b"", &[]).await.refused(400, "MissingRequiredQueryParameter");
    assert_eq!(answer.json()["values"], json!([{"key": "QueryParameterName", "value": "api-version"}]));
    let unknown = server.send_signed("GET", "/pools?api-version=2001-01-01", b"", &[]).await;
    unknown.refused(400, "UnsupportedRequestVersion");
}

#[actix_web::test]
async fn headers_of_every_answer() {
    let server = Server::new();
    let id = [("client-request-id", "abc"), ("return-client-request-id", "true")];
    let answer = server.send("GET", "/pools", b"", &id).await.expect(200);
    assert_eq!(answer.header("client-request-id"), "abc");
    assert_eq!(answer.header("dataserviceversion"), "3.0");
    assert_eq!(answer.header("content-type"), "application/json; odata=minimalmetadata");
    assert_eq!(answer.header("request-id").len(), 36);
    let answer = server.send("GET", "/pools", b"", &id[..1]).await.expect(200);
    assert_eq!(answer.header("client-request-id"), "");
    let error = server.get("/pools/none").await.refused(404, "PoolNotFound");
    let message = error.json()["message"]["value"].as_str().unwrap().to_owned();
    let lines: Vec<&str> = message.lines().collect();
    assert_eq!(lines[0], "The specified pool does not exist.");
    assert_eq!(lines[1], format!("RequestId:{}", error.header("request-id")));
    assert!(lines[2].starts_with("Time:2023-11-14T23:13:20Z"));
    assert_eq!(error.header("retry-after"), "");
}

#[actix_web::test]
async fn wrong_paths_and_methods() {
    let server = Server::new();
    server.get("/nothing").await.refused(400, "InvalidUri");
    server.get("/").await.refused(400, "InvalidUri");
    server.send("PUT", "/pools", b"", &[]).await.refused(405, "UnsupportedHttpVerb");
    let head = server.send("HEAD", "/pools/none", b"", &[]).await.expect(404);
    assert!(head.body.is_empty());
    // The account may stand in front of the path.
    let answer = server.get("/lote/pools").await.expect(200).json();
    assert_eq!(answer["odata.metadata"], "http://batch.test:1/lote/$metadata#pools");
}

#[actix_web::test]
async fn operations_that_are_not_built_say_their_name() {
    let server = Server::new();
    for (method, target, name) in [
        ("GET", "/poolusagemetrics", "Pool_ListUsageMetrics"),
        ("POST", "/pools/p/removenodes", "Pool_RemoveNodes"),
        ("GET", "/certificates(thumbprintAlgorithm=sha1,thumbprint=ab)", "Certificate_Get"),
        ("POST", "/pools/p/nodes/n/reboot", "ComputeNode_Reboot"),
    ] {
        let answer = server.send(method, target, b"", &[]).await.refused(501, "NotImplemented");
        assert!(answer.json()["message"]["value"].as_str().unwrap().contains(name), "{target}");
    }
}

#[actix_web::test]
async fn bodies_are_bounded() {
    let server = Server::new();
    server.send("POST", "/jobs", b"{", &[]).await.refused(400, "InvalidRequestBody");
    server.send("POST", "/jobs", b"", &[]).await.refused(400, "InvalidRequestBody");
    let big = vec![b' '; (1 << 20) + 1];
    server.send("POST", "/jobs", &big, &[]).await.refused(413, "RequestBodyTooLarge");
    let exactly = vec![b' '; 1 << 20];
    server.send("POST", "/jobs", &exactly, &[]).await.refused(400, "InvalidRequestBody");
}

#[actix_web::test]
async fn without_a_quorum_clients_are_told_to_come_back() {
    let server = Server::without_quorum();
    let job = br#"{"id": "j", "poolInfo": {"poolId": "p"}}"#;
    for (method, target, body) in
        [("GET", "/pools", &b""[..]), ("POST", "/jobs", job), ("GET", "/jobs/j", b"")]
    {
        let answer = server.send(method, target, body, &[]).await.refused(503, "ServerBusy");
        assert_eq!(answer.header("retry-after"), "1", "{method} {target}");
    }
    server.send_raw("GET", "/healthz", b"", &[]).await.expect(200);
    server.send_raw("GET", "/readyz", b"", &[]).await.expect(503);
}

#[actix_web::test]
async fn health_and_metrics() {
    let server = Server::new();
    server.get("/pools").await.expect(200);
    server.send_raw("GET", "/healthz", b"", &[]).await.expect(200);
    server.send_raw("GET", "/readyz", b"", &[]).await.expect(200);
    let text = server.send_raw("GET", "/metrics", b"", &[]).await.expect(200).body;
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert!(text.contains(r#"lote_batch_requests_total{operation="Pool_List",status="200"} 1"#), "{text}");
    assert!(text.contains(r#"lote_tasks{state="active"} 0"#), "{text}");
}
