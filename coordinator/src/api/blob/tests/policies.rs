//! Stored access policies, and signatures that go by them.

use super::rig::{KEY, Rig, hmac};

const ACL: &str = "/acct/cont?restype=container&comp=acl";

fn identifiers(policies: &[(&str, &str)]) -> String {
    let one = |(id, policy): &(&str, &str)| {
        format!("<SignedIdentifier><Id>{id}</Id><AccessPolicy>{policy}</AccessPolicy></SignedIdentifier>")
    };
    let all: String = policies.iter().map(one).collect();
    format!("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<SignedIdentifiers>{all}</SignedIdentifiers>")
}

/// A signature for the container that names a policy, with these values of its own.
fn by_policy(policy: &str, permissions: &str, expiry: &str) -> String {
    let text =
        format!("{permissions}\n\n{expiry}\n/blob/acct/cont\n{policy}\n\n\n2021-12-02\nc\n\n\n\n\n\n\n");
    let encode = |text: &str| {
        percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    let mut query = format!("sv=2021-12-02&sr=c&si={policy}&sig={}", encode(&hmac(KEY, &text)));
    for (name, value) in [("sp", permissions), ("se", expiry)] {
        if !value.is_empty() {
            query.push_str(&format!("&{name}={}", encode(value)));
        }
    }
    query
}

#[actix_web::test]
async fn a_signature_is_good_as_long_as_its_policy() {
    let rig = Rig::new();
    rig.create("cont").await;
    rig.put("/acct/cont/b", &[], b"data").await;
    let expiry = "<Expiry>2030-01-01T00:00:00.0000000Z</Expiry>";
    let full = format!("<Start>2020-01-01</Start>{expiry}<Permission>r</Permission>");
    let body = identifiers(&[("full", &full), ("until", expiry), ("empty", "")]);
    assert_eq!(rig.send("PUT", ACL, &[], body.as_bytes()).await.status, 200);
    let found = rig.get(ACL).await;
    assert_eq!(found.texts("Id"), ["full", "until", "empty"]);
    assert_eq!(found.texts("Permission"), ["r"]);
    assert_eq!(found.texts("Expiry").len(), 2);
    let read =
        async |query: &str| rig.send_raw("GET", &format!("/acct/cont/b?{query}"), &[], b"").await.outcome().0;
    let table = [
        (("full", "", ""), 200),
        // What the policy says, the signature must not say again.
        (("full", "r", ""), 403),
        (("full", "", "2030-01-01"), 403),
        (("until", "r", ""), 200),
        (("until", "", ""), 403),
        (("empty", "r", "2030-01-01"), 200),
        (("empty", "r", ""), 403),
        (("none", "r", "2030-01-01"), 403),
    ];
    for ((policy, permissions, expiry), expected) in table {
        let query = by_policy(policy, permissions, expiry);
        assert_eq!(read(&query).await, expected, "{policy} {permissions} {expiry}");
    }
    let query = by_policy("full", "", "");
    let put = rig.send_raw("DELETE", &format!("/acct/cont/b?{query}"), &[], b"").await;
    assert_eq!(put.outcome(), (403, "AuthorizationPermissionMismatch"));
    let forged = by_policy("full", "", "").replace("sig=", "sig=A");
    assert_eq!(read(&forged).await, 403);
    // Taken away, it is good for nothing.
    assert_eq!(rig.send("PUT", ACL, &[], b"").await.status, 200);
    assert_eq!(read(&query).await, 403);
    assert!(rig.get(ACL).await.texts("Id").is_empty());
}

#[actix_web::test]
async fn policies_that_make_no_sense() {
    let rig = Rig::new();
    rig.create("cont").await;
    let many: Vec<(String, String)> = (0..6).map(|n| (n.to_string(), String::new())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(id, policy)| (id.as_str(), policy.as_str())).collect();
    let long = "x".repeat(65);
    let cases = [
        identifiers(&many),
        identifiers(&[("a", ""), ("a", "")]),
        identifiers(&[("", "")]),
        identifiers(&[(&long, "")]),
        identifiers(&[("a", "<Permission>rq</Permission>")]),
        identifiers(&[("a", "<Expiry>tomorrow</Expiry>")]),
        "<SignedIdentifiers>".to_owned(),
        "nonsense".to_owned(),
    ];
    for body in cases {
        let answer = rig.send("PUT", ACL, &[], body.as_bytes()).await;
        assert_eq!(answer.outcome(), (400, "InvalidXmlDocument"), "{body}");
    }
    let missing = rig.get("/acct/none?restype=container&comp=acl").await;
    assert_eq!(missing.outcome(), (404, "ContainerNotFound"));
    // Only with the key.
    let query = super::signatures::sas(&rig, "racwdl");
    let answer = rig.send_raw("GET", &format!("{ACL}&{query}"), &[], b"").await;
    assert_eq!(answer.outcome(), (403, "AuthorizationPermissionMismatch"));
    let old = [("if-unmodified-since", "Wed, 01 Jan 2020 00:00:00 GMT")];
    assert_eq!(rig.send("PUT", ACL, &old, b"").await.outcome(), (412, "ConditionNotMet"));
}
