//! The worked examples of WIRE.md §3.2, and what must be refused.

use super::*;
use crate::api::auth::{encode_signature, sign};
use actix_web::http::header::{HeaderName, HeaderValue};
use base64::Engine as _;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw==";
const DATE: &str = "Tue, 15 Jul 2025 12:00:00 GMT";

fn key() -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(KEY).unwrap()
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    map
}

/// Verifies `method target` at noon with the example account.
fn verify_at_noon(method: &str, target: &str, pairs: &[(&str, &str)]) -> Result<(), Error> {
    let headers = headers(pairs);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let request = Request { method, path, query, headers: &headers };
    let claim = claim(&request)?;
    verify(&request, &claim, &[vec![9; 64], key()], Timestamp::parse(DATE).unwrap())
}

fn check(method: &str, target: &str, signature: &str, pairs: &[(&str, &str)]) {
    let authorization = format!("SharedKey contosobatch:{signature}");
    let mut all = vec![("ocp-date", DATE), ("authorization", authorization.as_str())];
    all.extend_from_slice(pairs);
    assert_eq!(verify_at_noon(method, target, &all), Ok(()), "{method} {target}");
    // One bit of the signature makes the difference.
    let mut bytes = decode_signature(signature).unwrap();
    bytes[31] ^= 1;
    let wrong = format!("SharedKey contosobatch:{}", encode_signature(&bytes));
    all[1].1 = &wrong;
    assert!(matches!(verify_at_noon(method, target, &all), Err(Error::Failed(_))));
}

#[test]
fn worked_examples() {
    let old_json = "application/json; odata=minimalmetadata; charset=utf-8";
    let new_json = "application/json; odata=minimalmetadata";
    check(
        "GET",
        "/jobs/job1/tasks?api-version=2024-02-01.19.0&$filter=state%20eq%20%27active%27&$select=id%2Cstate&maxresults=10&timeout=30",
        "lZ4g0X5NCh7P//wOmhnAtjc7E673OeSDiKh2biqKRKY=",
        &[],
    );
    check(
        "POST",
        "/jobs/job1/tasks?api-version=2024-02-01.19.0",
        "rDJi3SL8e5ssXXPzQIT1eov9N/mpD+KrYBX634R4OQc=",
        &[("content-length", "40"), ("content-type", old_json)],
    );
    check(
        "POST",
        "/jobs/job1/tasks?api-version=2025-06-01",
        "hs/zLXxCjK1xSxCgDXP12j1wlbPeGcEMwxTWOsyOQt8=",
        &[("content-length", "40"), ("content-type", new_json)],
    );
    check(
        "GET",
        "/jobs/job1/tasks?api-version=2025-06-01&timeOut=30&maxresults=10&$filter=state%20eq%20%27active%27&$select=id,state",
        "iHDR/FHCq+P3N6hNWddNVX6Sa1zmZvG4tgxYWob7zi8=",
        &[],
    );
    check(
        "POST",
        "/jobs/job1/enable?api-version=2025-06-01",
        "X57ZsBs7lhNKRwf7Z1UrLhpZ62TIBtIj03qdrzoTWnM=",
        &[("content-length", "0")],
    );
    check(
        "DELETE",
        "/jobs/job1?api-version=2024-02-01.19.0",
        "Gkh09IbM6OaJAhfo5jS2mbGhTe9SVzuNUdUrk04nd6A=",
        &[("if-match", "0x8D1"), ("content-length", "0")],
    );
    check(
        "GET",
        "/jobs/job1/tasks/t1/files/wd%2Fout.txt?api-version=2024-02-01.19.0",
        "j05s4mOOXV07llED8VZVG/mFav7euZPZcDy2KdzTnRc=",
        &[("ocp-range", "bytes=0-1023")],
    );
}

#[test]
fn the_first_example_is_written_down_as_documented() {
    let headers = headers(&[("ocp-date", DATE)]);
    let query = "api-version=2024-02-01.19.0&$filter=state%20eq%20%27active%27&$select=id%2Cstate&maxresults=10&timeout=30";
    let request = Request { method: "GET", path: "/jobs/job1/tasks", query, headers: &headers };
    assert_eq!(
        string_to_sign(&request, &Form::first(&request, "contosobatch")),
        "GET\n\n\n\n\n\n\n\n\n\n\n\nocp-date:Tue, 15 Jul 2025 12:00:00 GMT\n/contosobatch/jobs/job1/tasks\n\
         $filter:state eq 'active'\n$select:id,state\napi-version:2024-02-01.19.0\nmaxresults:10\ntimeout:30"
    );
}

/// Signs `text` as some client would and has it verified.
fn signed_as(
    text: &str,
    account: &str,
    method: &str,
    target: &str,
    pairs: &[(&str, &str)],
) -> Result<(), Error> {
    let signature = encode_signature(&sign(&key(), text));
    let authorization = format!("SharedKey {account}:{signature}");
    let mut all = vec![("ocp-date", DATE), ("authorization", authorization.as_str())];
    all.extend_from_slice(pairs);
    verify_at_noon(method, target, &all)
}

#[test]
fn forms_of_other_clients() {
    let head =
        |method: &str, length: &str| format!("{method}\n\n\n{length}\n\n\n\n\n\n\n\n\nocp-date:{DATE}\n");
    // A body-less DELETE signed with an empty length although `0` arrives, and the other way round.
    let text = head("DELETE", "") + "/contosobatch/jobs/j\napi-version:1";
    assert_eq!(
        signed_as(&text, "contosobatch", "DELETE", "/jobs/j?api-version=1", &[("content-length", "0")]),
        Ok(())
    );
    let text = head("DELETE", "0") + "/contosobatch/jobs/j\napi-version:1";
    assert_eq!(signed_as(&text, "contosobatch", "DELETE", "/jobs/j?api-version=1", &[]), Ok(()));
    // Lower-cased names, sorted again.
    let text = head("GET", "") + "/contosobatch/jobs\napi-version:1\nstarttime:x\ntimeout:30";
    assert_eq!(
        signed_as(&text, "contosobatch", "GET", "/jobs?timeOut=30&startTime=x&api-version=1", &[]),
        Ok(())
    );
    // Lower-cased account in the path line only.
    let text = head("GET", "") + "/contosobatch/jobs\napi-version:1";
    assert_eq!(signed_as(&text, "ContosoBatch", "GET", "/jobs?api-version=1", &[]), Ok(()));
    // Empty values dropped or kept; the first of repeated names counts.
    for empty in ["", "\n$filter:"] {
        let text = head("GET", "") + "/contosobatch/jobs" + empty + "\napi-version:1";
        let target = "/jobs?api-version=1&$filter=&api-version=2";
        assert_eq!(signed_as(&text, "contosobatch", "GET", target, &[]), Ok(()));
    }
    // A length that is not zero is never guessed.
    let text = head("POST", "") + "/contosobatch/jobs\napi-version:1";
    let result = signed_as(&text, "contosobatch", "POST", "/jobs?api-version=1", &[("content-length", "7")]);
    assert!(matches!(result, Err(Error::Failed(_))));
}

#[test]
fn what_is_refused_and_how() {
    let sig = "X57ZsBs7lhNKRwf7Z1UrLhpZ62TIBtIj03qdrzoTWnM=";
    let malformed = [
        "SharedKey",
        "SharedKey contosobatch",
        "SharedKey :AAAA",
        "SharedKey contosobatch:AAAA",
        "Basic Zm9vOmJhcg==",
    ];
    for text in malformed {
        let result = verify_at_noon("GET", "/jobs", &[("authorization", text), ("ocp-date", DATE)]);
        assert!(matches!(result, Err(Error::Malformed(_))), "{text}: {result:?}");
    }
    let good_form = format!("SharedKey contosobatch:{sig}");
    let failed: [&[(&str, &str)]; 5] = [
        &[("ocp-date", DATE)],
        &[("authorization", "Bearer abc"), ("ocp-date", DATE)],
        &[("authorization", &good_form)],
        &[("authorization", &good_form), ("ocp-date", "Tue, 15 Jul 2025 12:16:00 GMT")],
        &[("authorization", &good_form), ("ocp-date", DATE)],
    ];
    for pairs in failed {
        let result = verify_at_noon("GET", "/jobs", pairs);
        assert!(matches!(result, Err(Error::Failed(_))), "{pairs:?}: {result:?}");
    }
}

#[test]
fn the_plain_date_header_counts_where_ocp_date_is_absent() {
    let text = format!("GET\n\n\n\n\n\n{DATE}\n\n\n\n\n\n/contosobatch/jobs");
    let signature = encode_signature(&sign(&key(), &text));
    let authorization = format!("SharedKey contosobatch:{signature}");
    let pairs = [("authorization", authorization.as_str()), ("date", DATE)];
    assert_eq!(verify_at_noon("GET", "/jobs", &pairs), Ok(()));
}
