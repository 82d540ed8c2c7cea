//! Containers and listings.

use super::rig::Rig;

/// Method, target, headers.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

#[actix_web::test]
async fn containers_come_and_go() {
    let rig = Rig::new();
    let target = "/acct/cont?restype=container";
    let made = rig.send("PUT", target, &[("x-ms-meta-owner", "me")], b"").await;
    assert_eq!(made.status, 201);
    assert_eq!(made.header("x-ms-request-server-encrypted"), "true");
    assert!(made.header("etag").starts_with("\"0x"));
    assert_eq!(made.header("last-modified"), "Tue, 15 Jul 2025 12:00:00 GMT");
    let again = rig.send("PUT", target, &[], b"").await;
    assert_eq!(again.outcome(), (409, "ContainerAlreadyExists"));
    assert_eq!(again.header("content-type"), "application/xml");
    assert_eq!(again.texts("Code"), ["ContainerAlreadyExists"]);

    for method in ["GET", "HEAD"] {
        let found = rig.send(method, target, &[("x-ms-client-request-id", "mine")], b"").await;
        assert_eq!(found.status, 200);
        assert_eq!(found.header("x-ms-meta-owner"), "me");
        assert_eq!(found.header("x-ms-lease-state"), "available");
        assert_eq!(found.header("x-ms-has-legal-hold"), "false");
        assert_eq!(found.header("x-ms-client-request-id"), "mine");
        assert_eq!(found.header("x-ms-version"), "2025-07-05");
        assert_eq!(found.header("etag"), made.header("etag"));
        assert_eq!(found.body, b"");
    }
    let changed =
        rig.send("PUT", "/acct/cont?restype=container&comp=metadata", &[("x-ms-meta-a", "b")], b"").await;
    assert_eq!(changed.status, 200);
    assert_ne!(changed.header("etag"), made.header("etag"));
    let stale = [("if-match", made.header("etag"))];
    assert_eq!(rig.send("DELETE", target, &stale, b"").await.outcome(), (412, "ConditionNotMet"));
    assert_eq!(rig.send("DELETE", target, &[], b"").await.status, 202);
    for (method, target) in [
        ("DELETE", target),
        ("GET", target),
        ("HEAD", target),
        ("GET", "/acct/cont?restype=container&comp=list"),
        ("GET", "/acct/cont/blob"),
        ("PUT", "/acct/cont/blob?comp=block&blockid=QQ=="),
    ] {
        let missing = rig.send(method, target, &[], b"").await;
        assert_eq!(missing.outcome(), (404, "ContainerNotFound"), "{method} {target}");
    }
    let put = rig.put("/acct/cont/blob", &[], b"data").await;
    assert_eq!(put.outcome(), (404, "ContainerNotFound"));
    let bad = rig.send("PUT", "/acct/Bad_Name?restype=container", &[], b"").await;
    assert_eq!(bad.outcome(), (400, "InvalidResourceName"));
    let bad = rig.send("PUT", "/acct/good?restype=container", &[("x-ms-meta-a-b", "x")], b"").await;
    assert_eq!(bad.outcome(), (400, "InvalidMetadata"));
}

#[actix_web::test]
async fn listing_containers_by_page() {
    let rig = Rig::new();
    for name in ["beta", "alpha", "alpine", "gamma"] {
        rig.create(name).await;
    }
    let all = rig.get("/acct?comp=list").await;
    assert_eq!(all.status, 200);
    assert_eq!(all.header("content-type"), "application/xml");
    assert_eq!(all.texts("Name"), ["alpha", "alpine", "beta", "gamma"]);
    assert!(all.texts("Etag")[0].starts_with("&quot;0x"));
    assert_eq!(all.texts("NextMarker"), [""]);
    let some = rig.get("/acct/?comp=list&prefix=al&maxresults=1&include=metadata").await;
    assert_eq!(some.texts("Name"), ["alpha"]);
    assert_eq!(some.texts("Metadata"), [""]);
    let marker = some.texts("NextMarker")[0];
    let rest = rig.get(&format!("/acct/?comp=list&prefix=al&maxresults=1&marker={marker}")).await;
    assert_eq!(rest.texts("Name"), ["alpine"]);
    assert_eq!(rest.texts("NextMarker"), [""]);
    for query in ["maxresults=0", "maxresults=x", "marker=%21"] {
        assert_eq!(rig.get(&format!("/acct?comp=list&{query}")).await.status, 400, "{query}");
    }
    let info = rig.get("/acct/?restype=account&comp=properties").await;
    assert_eq!((info.status, info.header("x-ms-account-kind")), (200, "StorageV2"));
}

#[actix_web::test]
async fn listing_blobs() {
    let rig = Rig::new();
    rig.create("cont").await;
    for name in ["a.txt", "dir/1", "dir/2", "dir/sub/3", "other/x", "z&<>"] {
        let target =
            format!("/acct/cont/{}", name.replace('&', "%26").replace('<', "%3C").replace('>', "%3E"));
        let headers = [("content-type", "text/plain"), ("x-ms-meta-key", "a<b")];
        assert_eq!(rig.put(&target, &headers, name.as_bytes()).await.status, 201);
    }
    let list = "/acct/cont?restype=container&comp=list";
    let all = rig.get(list).await;
    assert_eq!(all.texts("Name"), ["a.txt", "dir/1", "dir/2", "dir/sub/3", "other/x", "z&amp;&lt;&gt;"]);
    assert_eq!(all.texts("Content-Length"), ["5", "5", "5", "9", "7", "4"]);
    assert_eq!(all.texts("Content-Type")[0], "text/plain");
    assert!(all.texts("Etag")[0].starts_with("0x"), "unquoted");
    assert!(all.texts("Metadata").is_empty());
    assert_eq!(all.texts("BlobType")[0], "BlockBlob");
    let folded = rig.get(&format!("{list}&delimiter=%2F&include=metadata,copy")).await;
    assert_eq!(folded.texts("Name"), ["a.txt", "dir/", "other/", "z&amp;&lt;&gt;"]);
    assert_eq!(folded.texts("BlobPrefix").len(), 2);
    assert_eq!(folded.texts("Metadata"), ["<key>a&lt;b</key>"; 2]);
    let inside = rig.get(&format!("{list}&prefix=dir%2F&delimiter=/")).await;
    assert_eq!(inside.texts("Name"), ["dir/1", "dir/2", "dir/sub/"]);
    // Page by page, also across a folded prefix; azcopy asks for pages of one.
    for query in ["", "&delimiter=/", "&prefix=dir"] {
        let whole = rig.get(&format!("{list}{query}")).await;
        let mut found = Vec::new();
        let mut marker = String::new();
        loop {
            let page = rig.get(&format!("{list}{query}&maxresults=1&marker={marker}")).await;
            assert_eq!(page.texts("MaxResults"), ["1"]);
            assert_eq!(page.texts("Name").len(), 1);
            found.push(page.texts("Name")[0].to_owned());
            marker = page.texts("NextMarker")[0].to_owned();
            if marker.is_empty() {
                break;
            }
        }
        assert_eq!(found, whole.texts("Name"), "{query}");
    }
}

#[actix_web::test]
async fn what_is_not_built_says_so() {
    let rig = Rig::new();
    rig.create("cont").await;
    let page = [("x-ms-blob-type", "PageBlob")];
    let cases: [Case; 13] = [
        ("PUT", "/acct/cont/b", &page),
        ("PUT", "/acct/cont/b?comp=snapshot", &[]),
        ("PUT", "/acct/cont/b?comp=lease", &[]),
        ("GET", "/acct/cont/b?comp=tags", &[]),
        ("GET", "/acct/cont/b?snapshot=2025-01-01T00:00:00.0000000Z", &[]),
        ("PUT", "/acct/?restype=service&comp=properties", &[]),
        ("GET", "/acct/cont?restype=container&comp=list&include=metadata,uncommittedblobs", &[]),
        ("GET", "/acct/cont/b", &[("x-ms-if-tags", "a='b'")]),
        ("PUT", "/acct/cont/b?comp=metadata", &[("x-ms-tags", "a=b")]),
        ("PUT", "/acct/cont/b?comp=metadata", &[("x-ms-encryption-key", "AAAA")]),
        ("PUT", "/acct/cont/b?comp=metadata", &[("x-ms-structured-body", "XSM/1.0; properties=crc64")]),
        ("PUT", "/acct/cont/b?comp=metadata", &[("x-ms-legal-hold", "true")]),
        ("PUT", "/acct/cont/b?comp=tier", &[("x-ms-access-tier", "Cool")]),
    ];
    for (method, target, headers) in cases {
        let answer = rig.send(method, target, headers, b"").await;
        assert_eq!(answer.outcome(), (501, "NotImplemented"), "{method} {target}");
        assert_eq!(answer.texts("Code"), ["NotImplemented"]);
    }
}

#[actix_web::test]
async fn leases_and_public_access_are_not_there() {
    let rig = Rig::new();
    rig.create("cont").await;
    rig.put("/acct/cont/b", &[], b"x").await;
    let lease = [("x-ms-lease-id", "3c2a5f68-53c0-4f5d-8a43-3a1d6a0c7c55")];
    let on_blob = rig.send("GET", "/acct/cont/b", &lease, b"").await;
    assert_eq!(on_blob.outcome(), (412, "LeaseNotPresentWithBlobOperation"));
    let on_container = rig.send("DELETE", "/acct/cont?restype=container", &lease, b"").await;
    assert_eq!(on_container.outcome(), (412, "LeaseNotPresentWithContainerOperation"));
    for access in ["blob", "container"] {
        let public = [("x-ms-blob-public-access", access)];
        let made = rig.send("PUT", "/acct/more?restype=container", &public, b"").await;
        assert_eq!(made.outcome(), (409, "PublicAccessNotPermitted"));
    }
    assert_eq!(rig.get("/acct/?restype=service&comp=properties").await.status, 200);
}
