//! Shared access signatures on the wire, and credentials that are refused.

use super::rig::{KEY, Rig, hmac};
use crate::api::auth::blob::sas::{ContainerSas, sign_container};
use lote_shared::model::Timestamp;

pub fn sas(rig: &Rig, permissions: &str) -> String {
    let expiry = Timestamp(rig.now().0 + 60_000);
    let container =
        ContainerSas { account: "acct", key: KEY, container: "cont", permissions, expiry, protocol: None };
    sign_container(&container)
}

fn encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

const BLOCK_BLOB: [(&str, &str); 1] = [("x-ms-blob-type", "BlockBlob")];

#[actix_web::test]
async fn a_container_signature_allows_what_it_says() {
    let rig = Rig::new();
    rig.create("cont").await;
    rig.create("other").await;
    rig.put("/acct/cont/b", &[], b"data").await;
    rig.put("/acct/cont/c", &[], b"data").await;
    let denied = (403, "AuthorizationPermissionMismatch");
    let table = [
        // Letters, then: read, put over, put new, stage, commit over, delete, list, metadata.
        ("r", [200, 403, 403, 403, 403, 403, 403, 403]),
        ("l", [403, 403, 403, 403, 403, 403, 200, 403]),
        ("c", [403, 403, 201, 201, 403, 403, 403, 403]),
        ("w", [403, 201, 201, 201, 201, 403, 403, 200]),
        ("d", [403, 403, 403, 403, 403, 202, 403, 403]),
        ("racwdl", [200, 201, 201, 201, 201, 202, 200, 200]),
    ];
    for (letters, expected) in table {
        let query = sas(&rig, letters);
        let list = b"<BlockList></BlockList>";
        let found = [
            rig.send_raw("GET", &format!("/acct/cont/b?{query}"), &[], b"").await,
            rig.send_raw("PUT", &format!("/acct/cont/b?{query}"), &BLOCK_BLOB, b"x").await,
            rig.send_raw("PUT", &format!("/acct/cont/new?{query}"), &BLOCK_BLOB, b"x").await,
            rig.send_raw("PUT", &format!("/acct/cont/s?comp=block&blockid=QQ%3D%3D&{query}"), &[], b"x")
                .await,
            rig.send_raw("PUT", &format!("/acct/cont/b?comp=blocklist&{query}"), &[], list).await,
            rig.send_raw("DELETE", &format!("/acct/cont/b?{query}"), &[], b"").await,
            rig.send_raw("GET", &format!("/acct/cont?restype=container&comp=list&{query}"), &[], b"").await,
            rig.send_raw("PUT", &format!("/acct/cont/c?comp=metadata&{query}"), &[], b"").await,
        ];
        for (index, answer) in found.iter().enumerate() {
            assert_eq!(
                answer.status,
                expected[index],
                "{letters} {index} {}",
                answer.header("x-ms-error-code")
            );
            if answer.status == 403 {
                assert_eq!(answer.outcome(), denied, "{letters} {index}");
            }
        }
        rig.put("/acct/cont/b", &[], b"data").await;
        rig.send("DELETE", "/acct/cont/new", &[], b"").await;
    }
    let query = sas(&rig, "racwdl");
    let other =
        rig.send_raw("GET", &format!("/acct/other?restype=container&comp=list&{query}"), &[], b"").await;
    assert_eq!(other.outcome(), (403, "AuthenticationFailed"));
    for (method, target) in [
        ("PUT", "cont?restype=container"),
        ("DELETE", "cont?restype=container"),
        ("GET", "cont?restype=container"),
    ] {
        let answer = rig.send_raw(method, &format!("/acct/{target}&{query}"), &[], b"").await;
        assert_eq!(answer.outcome(), denied, "{method} {target}");
    }
    // The version of a client that names none is the signature's.
    let get = rig.send_raw("GET", &format!("/acct/cont/b?{query}"), &[], b"").await;
    assert_eq!(get.header("x-ms-version"), "2021-12-02");
    rig.advance_ms(61_000);
    let late = rig.send_raw("GET", &format!("/acct/cont/b?{query}"), &[], b"").await;
    assert_eq!(late.outcome(), (403, "AuthenticationFailed"));
}

#[actix_web::test]
async fn a_blob_signature_with_an_odd_name_and_overrides() {
    let rig = Rig::new();
    rig.create("cont").await;
    rig.put("/acct/cont/dir%2Fa%20+%25.txt", &[("content-type", "text/plain")], b"data").await;
    let lines = [
        "r",
        "",
        "2030-01-01",
        "/blob/acct/cont/dir/a +%.txt",
        "",
        "",
        "",
        "2021-12-02",
        "b",
        "",
        "",
        "",
        "inline",
        "",
        "",
        "text/html",
    ];
    let signature = encode(&hmac(KEY, &lines.join("\n")));
    let query = format!("sv=2021-12-02&sr=b&sp=r&se=2030-01-01&rscd=inline&rsct=text%2Fhtml&sig={signature}");
    for path in ["dir%2Fa%20+%25.txt", "dir/a%20%2B%25.txt"] {
        let get = rig.send_raw("GET", &format!("/acct/cont/{path}?{query}"), &[], b"").await;
        assert_eq!((get.status, get.body.as_slice()), (200, b"data".as_slice()), "{}", get.text());
        assert_eq!(get.header("content-type"), "text/html");
        assert_eq!(get.header("content-disposition"), "inline");
    }
    let list =
        rig.send_raw("GET", &format!("/acct/cont?restype=container&comp=list&{query}"), &[], b"").await;
    assert_eq!(list.outcome(), (403, "AuthorizationResourceTypeMismatch"));
}

#[actix_web::test]
async fn an_account_signature() {
    let rig = Rig::new();
    rig.create("cont").await;
    let text = "acct\nrwlc\nb\nsc\n\n2030-01-01\n\n\n2021-12-02\n\n";
    let signature = encode(&hmac(KEY, text));
    let query = format!("sv=2021-12-02&ss=b&srt=sc&sp=rwlc&se=2030-01-01&sig={signature}");
    let list = rig.send_raw("GET", &format!("/acct/?comp=list&{query}"), &[], b"").await;
    assert_eq!(list.texts("Name"), ["cont"]);
    let create = rig.send_raw("PUT", &format!("/acct/made?restype=container&{query}"), &[], b"").await;
    assert_eq!(create.status, 201);
    let get = rig.send_raw("GET", &format!("/acct/cont/b?{query}"), &[], b"").await;
    assert_eq!(get.outcome(), (403, "AuthorizationResourceTypeMismatch"));
    let delete = rig.send_raw("DELETE", &format!("/acct/made?restype=container&{query}"), &[], b"").await;
    assert_eq!(delete.outcome(), (403, "AuthorizationPermissionMismatch"));
}

#[actix_web::test]
async fn bad_credentials() {
    let rig = Rig::new();
    let none = rig.send_raw("GET", "/acct?comp=list", &[], b"").await;
    assert_eq!(none.outcome(), (401, "NoAuthenticationInformation"));
    assert_eq!(none.header("www-authenticate"), "SharedKey");
    let date = rig.now().to_http_date();
    for authorization in
        ["SharedKey acct:AAAA", "SharedKeyLite acct:x", "Bearer x", "SharedKey nobody:AAAA", "x"]
    {
        let headers = [("authorization", authorization), ("x-ms-date", date.as_str())];
        let answer = rig.send_raw("GET", "/acct?comp=list", &headers, b"").await;
        assert_eq!(answer.outcome(), (403, "AuthenticationFailed"), "{authorization}");
    }
    // Host style: the path starts with the container.
    rig.create("cont").await;
    let query = sas(&rig, "l");
    let host = [("host", "acct.blob.example.org")];
    let list = rig.send_raw("GET", &format!("/cont?restype=container&comp=list&{query}"), &host, b"").await;
    assert_eq!(list.status, 200, "{}", list.text());
    assert!(list.text().contains("ServiceEndpoint=\"http://acct.blob.example.org/\""));
    let default = rig.send_raw("GET", &format!("/cont?restype=container&comp=list&{query}"), &[], b"").await;
    assert_eq!(default.status, 200);
}
