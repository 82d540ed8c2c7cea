//! `/lote/status`: what the cluster consists of and is doing, for `lote status`. Signed like a Batch request,
//! because it names pools and jobs.

use super::upgrade;
use crate::api::batch::{self, BatchApi};
use crate::engine::Engine;
use crate::pools::{GroupStatus, HostFacts, LeaderTree};
use crate::replication::{MemberId, MemberStatus, Replica};
use crate::state::{Cluster, HostState, MemberRecord, version};
use crate::versions::{Told, Versions};
use actix_web::{HttpRequest, HttpResponse, web};
use lote_shared::model::AccountId;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Jobs shown at most, newest first; a status is for looking at.
const JOBS_MAX: usize = 20;

/// What the page looks at.
#[derive(Debug, Clone)]
pub struct Watch {
    pub engine: Engine,
    pub replica: Arc<Replica>,
    pub tree: Arc<LeaderTree>,
    pub versions: Versions,
}

/// Registers the page; before anything that takes every path.
pub fn service(config: &mut web::ServiceConfig, watch: Watch) {
    config.app_data(web::Data::new(watch)).route("/lote/status", web::get().to(status));
}

async fn status(request: HttpRequest, watch: web::Data<Watch>, api: web::Data<BatchApi>) -> HttpResponse {
    let account = match batch::admit(&request, &api) {
        Ok(account) => account,
        Err(refusal) => return *refusal,
    };
    let groups = watch.tree.inspect().await;
    let replica = watch.replica.status();
    let facts = watch.tree.hosts().await;
    let leadership = watch.tree.leadership();
    let mut body = watch.engine.read(|cluster| of_cluster(cluster, account, &groups, &facts));
    body["replica"] = json!({
        "member": replica.member,
        "leader": replica.leader,
        "role": format!("{:?}", replica.role).to_lowercase(),
        "term": replica.term,
        "lastLogIndex": replica.last_log,
        "appliedIndex": replica.applied,
        "snapshotIndex": replica.snapshot,
        "snapshotTrouble": replica.snapshot_trouble,
        "stateHash": replica.state_hash,
        "clusterTime": replica.now.to_string(),
        "logSyncs": replica.log.syncs,
        "logBytes": replica.log.bytes,
    });
    // Sessions, leases and groups are the leader's: elsewhere they are null or missing, and this says whom to ask.
    body["leadership"] = json!({
        "term": leadership.term,
        "isOurs": leadership.is_ours,
        "leader": leadership.leader.as_ref().map(|leader| json!({
            "member": leader.member,
            "peer": leader.peer,
            "addresses": leader.addresses,
        })),
    });
    let told = watch.versions.told();
    body["members"] = watch.engine.read(|cluster| members(cluster, &watch.replica.members(), &told)).into();
    body["software"] = json!(version::SOFTWARE);
    body["version"] = upgrade::shown(&watch.engine, &watch.versions);
    let clocks = watch.replica.clocks();
    // Of the voters' clocks those that this member knows: how far off the median of them each is at least.
    body["clocks"] = json!({
        "offMs": clocks.off_ms.iter().map(|(member, off_ms)| (member.to_string(), json!(off_ms)))
            .collect::<serde_json::Map<_, _>>(),
        "isOff": clocks.is_off,
    });
    HttpResponse::Ok().json(body)
}

/// Who was admitted; of coordinators also what Raft makes of them. Only the leader knows how far each of them is.
fn members(
    cluster: &Cluster,
    raft: &BTreeMap<MemberId, MemberStatus>,
    builds: &BTreeMap<String, Told>,
) -> Vec<Value> {
    let member = |record: &MemberRecord| {
        let mut told = json!({
            "name": record.name,
            "role": record.role.to_string(),
            "peer": record.peer,
            "addresses": record.addresses,
        });
        if let Some(number) = record.member {
            let known = raft.get(&number);
            told["member"] = json!(number);
            told["leaving"] = json!(cluster.is_leaving(&record.peer));
            told["voter"] = json!(known.is_some_and(|known| known.is_voter));
            told["matchedIndex"] = json!(known.and_then(|known| known.matched));
            // Null for one that does not answer.
            let build = builds.get(&record.peer);
            told["software"] = json!(build.map(|build| &build.software));
            told["supports"] = json!(build.map(|build| upgrade::range(&build.supported)));
        }
        told
    };
    cluster.members().map(member).collect()
}

fn of_cluster(cluster: &Cluster, account: AccountId, groups: &[GroupStatus], facts: &[HostFacts]) -> Value {
    let hosts = cluster.hosts().map(|host| {
        let state = match host.state {
            HostState::Joined if cluster.is_draining(host.key) => "draining",
            HostState::Joined => "joined",
            HostState::Unknown => "unknown",
            HostState::Lost => "lost",
        };
        let facts = facts.iter().find(|facts| facts.host == host.key.0);
        json!({
            "host": host.key.0,
            "peer": host.peer,
            "name": host.name,
            "state": state,
            "software": host.software,
            "cores": host.capacity.cores,
            "nodes": cluster.nodes_on_host(host.key).count(),
            "session": facts.and_then(|facts| facts.session),
            "silentMs": facts.map(|facts| facts.silent_ms),
            "lostInMs": facts.map(|facts| facts.lost_in_ms),
        })
    });
    let pools = cluster.pools(account, None).map(|pool| {
        let group = groups.iter().find(|group| group.pool == pool.key.0);
        json!({
            "pool": pool.id.to_string(),
            "state": pool.state.as_str(),
            "allocation": pool.allocation.as_str(),
            "nodes": cluster.nodes_of(pool.key, None).count(),
            "target": pool.target_dedicated + pool.target_low_priority,
            "generation": group.map(|group| group.generation),
            "restarts": group.map(|group| group.restarts),
            "lastFailure": group.and_then(|group| group.last_failure.clone()),
        })
    });
    let mut newest: Vec<_> = cluster.all_jobs().filter(|job| job.account == account).collect();
    newest.sort_by_key(|job| std::cmp::Reverse(job.key));
    let jobs = newest.into_iter().take(JOBS_MAX).map(|job| {
        json!({
            "job": job.id.to_string(),
            "state": job.state.as_str(),
            "pool": job.pool.to_string(),
            "active": job.counts.active,
            "running": job.counts.running,
            "succeeded": job.counts.succeeded,
            "failed": job.counts.failed,
        })
    });
    json!({
        "hosts": hosts.collect::<Vec<_>>(),
        "pools": pools.collect::<Vec<_>>(),
        "jobs": jobs.collect::<Vec<_>>(),
    })
}
