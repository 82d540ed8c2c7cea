//! Deletions in batches.

use super::rig::{Answer, Rig, shared_key};
use super::signatures::sas;

/// A part that is signed with the account's key.
fn part(rig: &Rig, id: usize, method: &str, target: &str) -> String {
    let date = rig.now().to_http_date();
    let headers = [("x-ms-date", date.as_str()), ("content-length", "0")];
    let signature = shared_key(method, target, &headers);
    format!(
        "--b_1\r\nContent-Type: application/http\r\nContent-ID: {id}\r\n\r\n{method} {target}? HTTP/1.1\r\n\
         x-ms-date: {date}\r\nContent-Length: 0\r\nAuthorization: SharedKey acct:{signature}\r\n\r\n"
    )
}

async fn send(rig: &Rig, target: &str, parts: &[String]) -> Answer {
    let body = format!("{}--b_1--\r\n", parts.concat());
    let headers = [("content-type", "multipart/mixed; boundary=b_1")];
    rig.send("POST", target, &headers, body.as_bytes()).await
}

/// Status of each part, with its id.
fn statuses(answer: &Answer) -> Vec<(String, u16)> {
    assert_eq!(answer.header("content-type"), "multipart/mixed; boundary=b_1");
    let parts: Vec<&str> = answer.text().split("--b_1").collect();
    assert_eq!(parts.last(), Some(&"--\r\n"));
    let line = |part: &str, start: &str| {
        let line = part.lines().find_map(|line| line.strip_prefix(start)).unwrap();
        line.split(' ').next().unwrap().to_owned()
    };
    let inner = &parts[1..parts.len() - 1];
    inner.iter().map(|part| (line(part, "Content-ID: "), line(part, "HTTP/1.1 ").parse().unwrap())).collect()
}

#[actix_web::test]
async fn each_part_stands_alone() {
    let rig = Rig::new();
    rig.create("cont").await;
    rig.create("other").await;
    for blob in ["/acct/cont/a", "/acct/cont/b%20c", "/acct/cont/d", "/acct/other/e"] {
        rig.put(blob, &[], b"x").await;
    }
    let parts = [
        part(&rig, 0, "DELETE", "/acct/cont/a"),
        part(&rig, 1, "DELETE", "/acct/cont/none"),
        part(&rig, 2, "DELETE", "/acct/cont/b%20c"),
        part(&rig, 3, "GET", "/acct/cont/d"),
        part(&rig, 4, "DELETE", "/acct/other/e"),
        part(&rig, 5, "DELETE", "/acct/cont/d").replace("SharedKey acct:", "SharedKey acct:x"),
    ];
    let answer = send(&rig, "/acct/cont?restype=container&comp=batch", &parts).await;
    assert_eq!(answer.status, 202);
    let expected = [202, 404, 202, 400, 400, 403].into_iter().enumerate();
    let expected: Vec<_> = expected.map(|(id, status)| (id.to_string(), status)).collect();
    assert_eq!(statuses(&answer), expected);
    assert!(answer.text().contains("x-ms-error-code: BlobNotFound\r\n"));
    let left = rig.get("/acct/cont?restype=container&comp=list").await;
    assert_eq!(left.texts("Name"), ["d"]);
    // At the level of the account, of any container.
    let parts = [part(&rig, 0, "DELETE", "/acct/other/e"), part(&rig, 1, "DELETE", "/acct/cont/d")];
    let answer = send(&rig, "/acct/?comp=batch", &parts).await;
    assert_eq!(statuses(&answer), [("0".to_owned(), 202), ("1".to_owned(), 202)]);
}

#[actix_web::test]
async fn parts_need_permissions_of_their_own() {
    let rig = Rig::new();
    rig.create("cont").await;
    rig.put("/acct/cont/a", &[], b"x").await;
    let ask = async |of_batch: &str, of_part: &str| {
        let query = sas(&rig, of_part);
        let body =
            format!("--b_1\r\nContent-ID: 0\r\n\r\nDELETE /acct/cont/a?{query} HTTP/1.1\r\n\r\n--b_1--");
        let headers = [("content-type", "multipart/mixed; boundary=b_1")];
        let target = format!("/acct/cont?restype=container&comp=batch&{}", sas(&rig, of_batch));
        statuses(&rig.send_raw("POST", &target, &headers, body.as_bytes()).await)[0].1
    };
    assert_eq!(ask("d", "r").await, 403);
    assert_eq!(ask("r", "d").await, 202);
    for body in ["", "--b_1--", "--b_1\r\n\r\nnonsense\r\n--b_1--"] {
        let headers = [("content-type", "multipart/mixed; boundary=b_1")];
        let answer = rig.send("POST", "/acct/?comp=batch", &headers, body.as_bytes()).await;
        assert_eq!(answer.outcome(), (400, "InvalidInput"));
    }
    let answer = rig.send("POST", "/acct/?comp=batch", &[], b"").await;
    assert_eq!(answer.outcome(), (400, "InvalidHeaderValue"));
}
