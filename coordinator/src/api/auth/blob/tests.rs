//! Signatures against texts written out by hand from WIRE.md, and the permission table.

use super::*;
use crate::api::auth::{encode_signature, sign};
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine as _;

/// Well-known development key; any 64 bytes would do.
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

fn key() -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(KEY).unwrap()
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(
            HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes()).unwrap(),
            HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        );
    }
    map
}

fn request<'a>(method: &'a str, path: &'a str, query: &'a str, headers: &'a HeaderMap) -> Request<'a> {
    Request {
        method,
        path,
        query,
        headers,
        account: "acct",
        container: Some("cont"),
        blob: Some("dir/my file.txt"),
        secure: false,
        peer: Some([127, 0, 0, 1].into()),
    }
}

const DATE: &str = "Tue, 15 Jul 2025 12:00:00 GMT";

fn now() -> Timestamp {
    Timestamp::parse(DATE).unwrap()
}

#[test]
fn shared_key_signs_this_text() {
    let map = headers(&[
        ("Content-Length", "11"),
        ("Content-Type", "text/plain"),
        ("Date", "ignored because of x-ms-date"),
        ("If-None-Match", "*"),
        ("Range", "bytes=0-5"),
        ("x-ms-version", "2025-07-05"),
        ("x-ms-date", DATE),
        ("x-ms-blob-type", "BlockBlob"),
        ("x-ms-meta-ab", " spaced "),
        ("x-ms-meta-a1", "1"),
        ("x-ms-meta-a_b", "2"),
        ("x-ms-client-request-id", "id"),
    ]);
    let request = request(
        "PUT",
        "/acct/cont/dir%2Fmy%20file.txt",
        "comp=block&Timeout=30&blockid=QUE%3D&x=b&x=a",
        &map,
    );
    let head = "PUT\n\n\n11\n\ntext/plain\n\n\n\n*\n\nbytes=0-5\n";
    let tail = "/acct/acct/cont/dir%2Fmy%20file.txt\nblockid:QUE=\ncomp:block\ntimeout:30\nx:a,b";
    let first =
        "x-ms-blob-type:BlockBlob\nx-ms-client-request-id:id\nx-ms-date:Tue, 15 Jul 2025 12:00:00 GMT\n";
    let collated = format!(
        "{head}{first}x-ms-meta-a_b:2\nx-ms-meta-a1:1\nx-ms-meta-ab:spaced\nx-ms-version:2025-07-05\n{tail}"
    );
    let bytes = format!(
        "{head}{first}x-ms-meta-a1:1\nx-ms-meta-a_b:2\nx-ms-meta-ab:spaced\nx-ms-version:2025-07-05\n{tail}"
    );
    assert_eq!(shared_key::string_to_sign(&request, shared_key::Order::Collated, false), collated);
    assert_eq!(shared_key::string_to_sign(&request, shared_key::Order::Bytes, false), bytes);
    // Either order is accepted, with either key.
    for text in [collated, bytes] {
        for signer in [key(), b"second".to_vec()] {
            let mut map = map.clone();
            let value = format!("SharedKey acct:{}", encode_signature(&sign(&signer, &text)));
            map.insert(HeaderName::from_static("authorization"), value.parse().unwrap());
            let request = Request { headers: &map, ..request };
            let keys = [key(), b"second".to_vec()];
            assert_eq!(authorise(&request, &keys, None, now()), Ok(Access::Owner));
            assert!(matches!(authorise(&request, &[b"third".to_vec()], None, now()), Err(Denied::Failed(_))));
            let late = now().plus_ms(16 * 60 * 1000);
            assert!(matches!(authorise(&request, &keys, None, late), Err(Denied::Failed(_))));
            let other = Request { account: "other", ..request };
            assert!(matches!(authorise(&other, &keys, None, now()), Err(Denied::Failed(_))));
        }
    }
}

#[test]
fn a_zero_length_and_a_plain_date() {
    let map = headers(&[("Content-Length", "0"), ("Date", DATE)]);
    let text = shared_key::string_to_sign(
        &request("DELETE", "/acct/cont", "restype=container", &map),
        shared_key::Order::Collated,
        false,
    );
    assert_eq!(text, format!("DELETE\n\n\n\n\n\n{DATE}\n\n\n\n\n\n/acct/acct/cont\nrestype:container"));
}

#[test]
fn the_signature_of_a_fixed_text_is_fixed() {
    // Computed with Python: base64(hmac.new(base64.b64decode(KEY), text.encode(), sha256)).
    let text = "r\n\n2030-01-01T00:00:00Z\n/blob/acct/cont\n\n\n\n2021-12-02\nc\n\n\n\n\n\n\n";
    assert_eq!(encode_signature(&sign(&key(), text)), "zM6+oAHqT7c7/lFXp3i6m4O6toXwvxQrn9PY3t/rvls=");
}

#[test]
fn collation() {
    let mut names = ["x-ms-ab", "x-ms-a1", "x-ms-a_b", "x-ms-a-c", "x-ms-a"];
    names.sort_by(|a, b| shared_key::collate(a, b));
    assert_eq!(names, ["x-ms-a", "x-ms-a_b", "x-ms-a1", "x-ms-ab", "x-ms-a-c"]);
}

/// A second, naive writing of the table in WIRE.md §4.
fn service_sas(sv: &str, sr: &str, resource: &str, extra: &[(&str, &str)]) -> String {
    let get = |name: &str| extra.iter().find(|(n, _)| *n == name).map_or("", |(_, v)| *v);
    let mut lines: Vec<&str> = Vec::new();
    lines.extend([get("sp"), get("st"), get("se"), resource, get("si"), get("sip"), get("spr"), sv]);
    match sv {
        sv if sv < "2018-11-09" => {}
        sv if sv < "2020-12-06" => lines.extend([sr, ""]),
        _ => lines.extend([sr, "", get("ses")]),
    }
    lines.extend([get("rscc"), get("rscd"), get("rsce"), get("rscl"), get("rsct")]);
    let signature = encode_signature(&sign(&key(), &lines.join("\n")));
    let mut query = format!("sv={sv}&sr={sr}&sig={}", encode(&signature));
    for (name, value) in extra {
        query.push_str(&format!("&{name}={}", encode(value)));
    }
    query
}

fn encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn grant(query: &str) -> Result<sas::Grant, Denied> {
    grant_of(Request { ..request("GET", "/acct/cont/x", query, &HeaderMap::new()) })
}

fn grant_of(request: Request) -> Result<sas::Grant, Denied> {
    match authorise(&request, &[b"other".to_vec(), key()], None, now())? {
        Access::Signature(grant) => Ok(grant),
        Access::Owner => panic!("not by key"),
    }
}

const BLOB: &str = "/blob/acct/cont/dir/my file.txt";
const CONTAINER: &str = "/blob/acct/cont";

#[test]
fn service_signatures_of_all_versions() {
    let versions = [
        "2015-04-05",
        "2018-03-28",
        "2018-11-09",
        "2019-12-12",
        "2020-10-02",
        "2020-12-06",
        "2021-12-02",
        "2023-11-03",
        "2026-10-06",
    ];
    for sv in versions {
        for se in ["2030-01-01", "2030-01-01T00:00Z", "2030-01-01T00:00:00Z", "2030-01-01T00:00:00.0000000Z"]
        {
            let extra = [("sp", "rl"), ("se", se), ("rsct", "text/html; a=b+c")];
            let found = grant(&service_sas(sv, "b", BLOB, &extra)).unwrap();
            assert_eq!(found.scope, sas::Scope::Blob);
            assert_eq!(found.overrides.content_type.as_deref(), Some("text/html; a=b+c"));
            assert_eq!(grant(&service_sas(sv, "c", CONTAINER, &extra)).unwrap().scope, sas::Scope::Container);
            // Signed for another blob, and one version's order under another's name.
            assert!(grant(&service_sas(sv, "b", CONTAINER, &extra)).is_err());
            if sv != "2026-10-06" {
                let swapped = service_sas(sv, "b", BLOB, &extra).replace(sv, "2026-10-06");
                assert!(matches!(grant(&swapped), Err(Denied::Failed(_))), "{sv}");
            }
        }
    }
}

#[test]
fn limits_of_a_signature() {
    let sv = "2021-12-02";
    let se = ("se", "2030-01-01");
    let failed = |extra: &[(&str, &str)]| {
        matches!(grant(&service_sas(sv, "c", CONTAINER, extra)), Err(Denied::Failed(_)))
    };
    assert!(failed(&[("sp", "r"), ("se", "2025-07-15T11:59:59Z")]), "expired");
    assert!(failed(&[("sp", "r"), se, ("st", "2025-07-15T12:00:01Z")]), "not yet");
    assert!(failed(&[("sp", "r")]), "no expiry");
    assert!(failed(&[("sp", "r"), se, ("si", "policy")]), "stored policy");
    assert!(!failed(&[("sp", "r"), se, ("st", "2025-07-15T12:00:00Z")]));
    let check = |extra: &[(&str, &str)]| grant(&service_sas(sv, "c", CONTAINER, extra)).map(|_| ());
    assert_eq!(check(&[("sp", "r"), se, ("spr", "https")]), Err(Denied::Protocol));
    assert_eq!(check(&[("sp", "r"), se, ("spr", "https,http")]), Ok(()));
    assert_eq!(check(&[("sp", "r"), se, ("sip", "10.0.0.1")]), Err(Denied::SourceAddress));
    assert_eq!(check(&[("sp", "r"), se, ("sip", "127.0.0.0-127.0.0.9")]), Ok(()));
    let mut tampered = service_sas(sv, "c", CONTAINER, &[("sp", "r"), se]);
    tampered = tampered.replace("sp=r", "sp=rw");
    assert!(matches!(grant(&tampered), Err(Denied::Failed(_))));
    let nothing = HeaderMap::new();
    let at_service = Request { container: None, blob: None, ..request("GET", "/", "", &nothing) };
    assert_eq!(authorise(&at_service, &[], None, now()), Err(Denied::Missing));
}

fn account_sas(sv: &str, extra: &[(&str, &str)]) -> String {
    let get = |name: &str| extra.iter().find(|(n, _)| *n == name).map_or("", |(_, v)| *v);
    let mut text = format!(
        "acct\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{sv}\n",
        get("sp"),
        get("ss"),
        get("srt"),
        get("st"),
        get("se"),
        get("sip"),
        get("spr")
    );
    if sv >= "2020-12-06" {
        text.push_str(&format!("{}\n", get("ses")));
    }
    let mut query = format!("sv={sv}&sig={}", encode(&encode_signature(&sign(&key(), &text))));
    for (name, value) in extra {
        query.push_str(&format!("&{name}={}", encode(value)));
    }
    query
}

#[test]
fn account_signatures() {
    for sv in ["2015-04-05", "2019-12-12", "2020-12-06", "2026-10-06"] {
        let extra = [("sp", "rwl"), ("ss", "bq"), ("srt", "co"), ("se", "2030-01-01")];
        let found = grant(&account_sas(sv, &extra)).unwrap();
        assert_eq!(found.scope, sas::Scope::Account { resource_types: "co".into() });
        let extra = [("sp", "r"), ("ss", "q"), ("srt", "co"), ("se", "2030-01-01")];
        assert_eq!(grant(&account_sas(sv, &extra)), Err(Denied::Service));
    }
}

#[test]
fn our_own_container_signature_is_accepted() {
    let sas = sas::ContainerSas {
        account: "acct",
        key: &key(),
        container: "cont",
        permissions: "rl",
        expiry: Timestamp(now().0 + 60_123),
        protocol: None,
    };
    let query = sas::sign_container(&sas);
    let found = grant(&query).unwrap();
    assert_eq!((found.permissions.as_str(), found.scope), ("rl", sas::Scope::Container));
    let query = sas::sign_container(&sas::ContainerSas { protocol: Some("https"), ..sas });
    assert_eq!(grant(&query), Err(Denied::Protocol));
}

#[test]
fn permission_table() {
    let needs = |level, letters| Needs { level, letters, create_if_new: false, account_only: false };
    let read = needs(Level::Blob, "r");
    let put = Needs { create_if_new: true, ..needs(Level::Blob, "w") };
    let set = needs(Level::Blob, "w");
    let delete = needs(Level::Blob, "d");
    let list = needs(Level::Container, "l");
    let create = Needs { account_only: true, ..needs(Level::Container, "cw") };
    let containers = Needs { account_only: true, ..needs(Level::Service, "l") };
    let ok = Ok(Verdict::Allowed);
    let new = Ok(Verdict::OnlyIfNew);
    let no = Err(Denied::Permission);
    let kind = Err(Denied::ResourceType);
    let account = |types: &str| sas::Scope::Account { resource_types: types.to_owned() };
    let table = [
        // Scope, letters, then: read, put, set, delete, list, create container, list containers.
        (sas::Scope::Blob, "r", [&ok, &no, &no, &no, &no, &no, &no]),
        (sas::Scope::Blob, "c", [&no, &new, &no, &no, &no, &no, &no]),
        (sas::Scope::Blob, "w", [&no, &ok, &ok, &no, &no, &no, &no]),
        (sas::Scope::Blob, "rcwdl", [&ok, &ok, &ok, &ok, &no, &no, &no]),
        (sas::Scope::Container, "l", [&no, &no, &no, &no, &ok, &no, &no]),
        (sas::Scope::Container, "rcwdl", [&ok, &ok, &ok, &ok, &ok, &no, &no]),
        (account("o"), "rcwdl", [&ok, &ok, &ok, &ok, &kind, &kind, &kind]),
        (account("c"), "rcwdl", [&kind, &kind, &kind, &kind, &ok, &ok, &kind]),
        (account("c"), "r", [&kind, &kind, &kind, &kind, &no, &no, &kind]),
        (account("sco"), "l", [&no, &no, &no, &no, &ok, &no, &ok]),
        (account("sco"), "c", [&no, &new, &no, &no, &no, &ok, &no]),
    ];
    for (scope, permissions, expected) in table {
        let overrides = sas::Overrides::default();
        let access = Access::Signature(sas::Grant { permissions: permissions.into(), scope, overrides });
        let found = [read, put, set, delete, list, create, containers].map(|needs| access.check(needs));
        assert_eq!(found.each_ref(), expected, "{access:?}");
    }
}
