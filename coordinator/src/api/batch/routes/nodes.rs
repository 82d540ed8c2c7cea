//! Nodes and their counts (`pools-and-nodes.md` §15).

use super::{collect, element, field, page_answer};
use crate::api::batch::answers::node as answers;
use crate::api::batch::call::Call;
use crate::api::batch::errors::Error;
use crate::api::batch::lookup;
use crate::api::batch::response::Answer;
use crate::api::odata::{Field, Kind, Operators};

const FIELDS: [Field; 9] = [
    field("state", Kind::Text, Operators::Equality),
    field("stateTransitionTime", Kind::Time, Operators::Ordered),
    field("lastBootTime", Kind::Time, Operators::Ordered),
    field("allocationTime", Kind::Time, Operators::Ordered),
    field("startTaskInfo/state", Kind::Text, Operators::Equal),
    field("startTaskInfo/startTime", Kind::Time, Operators::Ordered),
    field("startTaskInfo/endTime", Kind::Time, Operators::Ordered),
    field("startTaskInfo/exitCode", Kind::Number, Operators::Ordered),
    field("startTaskInfo/result", Kind::Text, Operators::Equality),
];

const COUNT_FIELDS: [Field; 1] = [field("poolId", Kind::Text, Operators::Equal)];
/// Pools in one page of counts.
const COUNTS_MAX: usize = 10;

pub async fn list(call: &Call<'_>) -> Result<Answer, Error> {
    let filter = call.query.filter(&FIELDS)?;
    let page = collect(call, super::PAGE_MAX, |cluster, after, most| {
        lookup::nodes(cluster, call.account, call.parameter(0), after, most, filter.as_ref())
    });
    Ok(page_answer(call, "nodes", page.await?, |object, node| answers::write(object, &call.base, node)))
}

pub async fn get(call: &Call<'_>) -> Result<Answer, Error> {
    let look = |cluster: &crate::state::Cluster| {
        lookup::node(cluster, call.account, call.parameter(0), call.parameter(1))
    };
    let node = call.read(look).await??;
    Ok(element(call, "nodes/@Element", |object| answers::write(object, &call.base, &node)))
}

pub async fn counts(call: &Call<'_>) -> Result<Answer, Error> {
    let filter = call.query.filter(&COUNT_FIELDS)?;
    let page = collect(call, COUNTS_MAX, |cluster, after, most| {
        lookup::node_counts(cluster, call.account, after, most, filter.as_ref())
    });
    Ok(page_answer(call, "poolnodecounts", page.await?, |object, (pool, counts)| {
        object.text("poolId", pool.as_str());
        object.object("dedicated", |object| answers::write_counts(object, |state| counts.of(true, state)));
        object.object("lowPriority", |object| answers::write_counts(object, |state| counts.of(false, state)));
    }))
}
