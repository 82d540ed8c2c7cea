//! Pools (`pools-and-nodes.md` §4–§6).

use super::{collect, created, element, field, list_answer, page_answer, written};
use crate::api::batch::answers;
use crate::api::batch::call::Call;
use crate::api::batch::errors::{Code, Error};
use crate::api::batch::lookup;
use crate::api::batch::requests::pool as requests;
use crate::api::batch::response::{Answer, row};
use crate::api::odata::{Field, Filter, Kind, Operators, Value};
use crate::state::command::PoolPatch;
use crate::state::{Action, Cluster, Condition};
use lote_shared::model::{PackageReference, PoolId};

const FIELDS: [Field; 10] = [
    field("id", Kind::Text, Operators::OrderedAndPrefix),
    field("state", Kind::Text, Operators::Equality),
    field("stateTransitionTime", Kind::Time, Operators::Ordered),
    field("allocationState", Kind::Text, Operators::Equality),
    field("allocationStateTransitionTime", Kind::Time, Operators::Ordered),
    field("creationTime", Kind::Time, Operators::Ordered),
    field("lastModified", Kind::Time, Operators::Ordered),
    field("enableAutoScale", Kind::Boolean, Operators::Equality),
    field("vmSize", Kind::Text, Operators::Equality),
    field("enableInterNodeCommunication", Kind::Boolean, Operators::Equality),
];

/// The pool that the path names; what cannot be a name names nothing.
fn named(call: &Call) -> Result<PoolId, Error> {
    Ok(PoolId::new(call.parameter(0)).map_err(|_| Code::PoolNotFound)?)
}

fn url(call: &Call, id: &str) -> String {
    format!("{}/pools/{id}", call.base)
}

pub async fn add(call: &Call<'_>) -> Result<Answer, Error> {
    let (spec, extras) = requests::add(&call.body)?;
    let resource = url(call, spec.id.as_str());
    let spec = Box::new(spec);
    let action = match extras.is_empty() {
        true => Action::PoolAdd { spec },
        false => Action::PoolAddWith { spec, extras },
    };
    let outcome = call.propose(action).await?;
    Ok(created(&outcome, resource))
}

pub async fn list(call: &Call<'_>) -> Result<Answer, Error> {
    let filter = call.query.filter(&FIELDS)?;
    let page = collect(call, super::PAGE_MAX, |cluster, after, most| {
        lookup::pools(cluster, call.account, after, most, filter.as_ref())
    });
    Ok(page_answer(call, "pools", page.await?, |object, pool| {
        answers::pool::write(object, &call.base, call.version, pool);
    }))
}

pub async fn get(call: &Call<'_>) -> Result<Answer, Error> {
    call.query.check_expand()?;
    let pool = call.read(|cluster| lookup::pool(cluster, call.account, call.parameter(0))).await??;
    call.check_read(pool.record.version)?;
    let answer = element(call, "pools/@Element", |object| {
        answers::pool::write(object, &call.base, call.version, &pool);
    });
    Ok(answer.version(pool.record.version))
}

pub async fn exists(call: &Call<'_>) -> Result<Answer, Error> {
    let read = |cluster: &crate::state::Cluster| {
        lookup::pool_record(cluster, call.account, call.parameter(0)).map(|record| record.version)
    };
    let version = call.read(read).await??;
    call.check_read(version)?;
    Ok(Answer::empty(200).version(version))
}

pub async fn delete(call: &Call<'_>) -> Result<Answer, Error> {
    call.propose(Action::PoolDelete { pool: named(call)?, condition: call.condition()? }).await?;
    Ok(Answer::empty(202))
}

pub async fn patch(call: &Call<'_>) -> Result<Answer, Error> {
    let (patch, packages) = requests::patch(&call.body)?;
    let (pool, condition) = (named(call)?, call.condition()?);
    let outcome = call.propose(patching(call, pool, condition, patch, packages).await?).await?;
    Ok(written(&outcome, call.address.clone()))
}

/// Most clients say with every update that a pool has no packages; that is news only if it has some.
async fn patching(
    call: &Call<'_>,
    pool: PoolId,
    condition: Condition,
    patch: PoolPatch,
    packages: Option<Vec<PackageReference>>,
) -> Result<Action, Error> {
    let patch = Box::new(patch);
    let Some(packages) = packages else { return Ok(Action::PoolPatch { pool, condition, patch }) };
    let has_some = |cluster: &Cluster| {
        let record = cluster.pool_by_id(call.account, &pool);
        record.is_some_and(|record| !cluster.pool_extras(record.key).is_empty())
    };
    if packages.is_empty() && !call.read(has_some).await? {
        return Ok(Action::PoolPatch { pool, condition, patch });
    }
    Ok(Action::PoolPatchWith { pool, condition, patch, packages })
}

pub async fn update_properties(call: &Call<'_>) -> Result<Answer, Error> {
    let (patch, packages) = requests::update_properties(&call.body)?;
    let (pool, condition) = (named(call)?, call.condition()?);
    let outcome = call.propose(patching(call, pool, condition, patch, packages).await?).await?;
    Ok(written(&outcome, call.address.clone()))
}

pub async fn resize(call: &Call<'_>) -> Result<Answer, Error> {
    let resize = requests::resize(&call.body)?;
    let action = Action::PoolResize {
        pool: named(call)?,
        condition: call.condition()?,
        dedicated: resize.dedicated,
        low_priority: resize.low_priority,
        timeout: resize.timeout,
        option: resize.option,
    };
    Ok(written(&call.propose(action).await?, call.address.clone()))
}

pub async fn stop_resize(call: &Call<'_>) -> Result<Answer, Error> {
    let action = Action::PoolStopResize { pool: named(call)?, condition: call.condition()? };
    Ok(written(&call.propose(action).await?, call.address.clone()))
}

/// Publisher, offer, sku and node agent of the images that programs name most. Any Linux image is accepted; these are
/// the ones a client finds when it looks for one.
const IMAGES: [(&str, &str, &str, &str); 7] = [
    ("canonical", "ubuntu-24_04-lts", "server", "batch.node.ubuntu 24.04"),
    ("canonical", "0001-com-ubuntu-server-jammy", "22_04-lts", "batch.node.ubuntu 22.04"),
    ("canonical", "0001-com-ubuntu-server-focal", "20_04-lts", "batch.node.ubuntu 20.04"),
    ("canonical", "ubuntuserver", "18.04-lts", "batch.node.ubuntu 18.04"),
    ("debian", "debian-12", "12", "batch.node.debian 12"),
    ("debian", "debian-11", "11", "batch.node.debian 11"),
    ("almalinux", "almalinux-x86_64", "9-gen2", "batch.node.el 9"),
];

const IMAGE_FIELDS: [Field; 3] = [
    field("osType", Kind::Text, Operators::Equality),
    field("verificationType", Kind::Text, Operators::Equality),
    field("nodeAgentSKUId", Kind::Text, Operators::Equality),
];

pub fn supported_images(call: &Call<'_>) -> Result<Answer, Error> {
    let filter = call.query.filter(&IMAGE_FIELDS)?;
    let wanted = call.query.max_results(super::PAGE_MAX)?;
    let after = call.query.after()?.and_then(|text| text.parse().ok()).unwrap_or(0);
    let passes = |filter: &Filter, agent: &'static str| {
        filter.matches(&|path: &str| match path {
            "osType" => Value::Text("linux"),
            "verificationType" => Value::Text("verified"),
            "nodeAgentSKUId" => Value::Text(agent),
            _ => Value::Absent,
        })
    };
    let found: Vec<_> =
        IMAGES.iter().filter(|image| filter.as_ref().is_none_or(|filter| passes(filter, image.3))).collect();
    let select = call.query.select();
    let shown = found.iter().skip(after).take(wanted);
    let rows: Vec<Vec<u8>> = shown
        .map(|(publisher, offer, sku, agent)| {
            row(select.as_ref(), |object| {
                object.text("nodeAgentSKUId", agent);
                object.object("imageReference", |object| {
                    object.text("publisher", publisher);
                    object.text("offer", offer);
                    object.text("sku", sku);
                    object.text("version", "latest");
                });
                object.text("osType", "linux");
                object.text("verificationType", "verified");
            })
        })
        .collect();
    let end = after + rows.len();
    let next = (end < found.len() && !rows.is_empty()).then(|| end.to_string());
    Ok(list_answer(call, "supportedimages", &rows, next))
}
