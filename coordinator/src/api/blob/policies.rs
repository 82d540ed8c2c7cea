//! Stored access policies of a container, which signatures can go by.

use super::body::Body;
use super::call::Call;
use super::containers::{answer, find, xml_body};
use super::error::{Code, Error};
use super::{respond, xml};
use crate::state::blobs::{AccessPolicy, BlobAction};
use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use std::collections::BTreeSet;

/// Policies of one container.
const POLICIES_MAX: usize = 5;
/// Characters of a policy's name.
const ID_MAX: usize = 64;
const BODY_MAX: usize = 64 * 1024;
/// Letters that a signature for a container can have.
const PERMISSIONS: &str = "racwdxyltfmeopi";

pub async fn get(call: &Call<'_>) -> Result<HttpResponse, Error> {
    let (version, policies) = find(call, |container| container.policies.clone()).await?;
    let mut response = xml_body(xml::policies(&policies));
    respond::version_headers(response.headers_mut(), version);
    Ok(response)
}

pub async fn set(call: &Call<'_>, body: &mut Body) -> Result<HttpResponse, Error> {
    let condition = call.condition()?;
    let policies = xml::parse_policies(&body.read(BODY_MAX).await?)?;
    check(&policies)?;
    let action = BlobAction::ContainerPolicies { name: call.container.clone(), condition, policies };
    answer(StatusCode::OK, call.propose(action).await?)
}

fn check(policies: &[AccessPolicy]) -> Result<(), Error> {
    let bad = |why: String| Err(Error::new(Code::InvalidXmlDocument).because(why));
    if policies.len() > POLICIES_MAX {
        return bad(format!("{} policies; a container can have {POLICIES_MAX}.", policies.len()));
    }
    let mut ids = BTreeSet::new();
    for policy in policies {
        let id = &policy.id;
        if !(1..=ID_MAX).contains(&id.chars().count()) {
            return bad(format!("The Id `{id}` must have 1 to {ID_MAX} characters."));
        }
        if !ids.insert(id) {
            return bad(format!("The Id `{id}` is there twice."));
        }
        let permissions = policy.permissions.as_deref().unwrap_or_default();
        if let Some(letter) = permissions.chars().find(|letter| !PERMISSIONS.contains(*letter)) {
            return bad(format!("Policy `{id}`: there is no permission `{letter}`."));
        }
    }
    Ok(())
}
