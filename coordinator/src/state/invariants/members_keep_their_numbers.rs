//! A coordinator has a number, nobody else has, no two have the same, it stays while the coordinator does (one that
//! founds alone after a recovery gets a new one), and a number that was given is never given again: replication would
//! take a newcomer for somebody who voted before.
//! Members and tokens stay within their bounds.

use super::super::cluster::Cluster;
use super::super::members::{COORDINATORS_MAX, MEMBERS_MAX, TOKENS_MAX};
use super::{Before, ensure};
use lote_shared::model::MemberRole;
use std::collections::BTreeSet;

pub(super) fn check(before: &Before, cluster: &Cluster) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for member in cluster.members() {
        let peer = &member.peer;
        let Some(number) = member.member else {
            ensure(member.role == MemberRole::Worker, || format!("coordinator {peer} has no number"))?;
            continue;
        };
        ensure(member.role == MemberRole::Coordinator, || format!("worker {peer} has number {number}"))?;
        ensure(seen.insert(number), || format!("number {number} is given twice, to {peer} as well"))?;
        let last = cluster.membership.last_member;
        ensure(number <= last, || format!("{peer} has number {number}, the last given is {last}"))?;
        match before.numbers.get(peer) {
            Some(old) if *old == number => {}
            // Removed and admitted again between two looks, it has a new one.
            Some(_) if !before.every_step => {}
            Some(old) => {
                let alone = cluster.coordinators().count() == 1 && number > before.last_number;
                ensure(alone, || format!("{peer} was number {old} and is {number}"))?;
            }
            None => {
                let last = before.last_number;
                ensure(number > last, || format!("{peer} got number {number}; {last} had been given"))?;
            }
        }
    }
    let coordinators = seen.len();
    ensure(coordinators <= COORDINATORS_MAX, || format!("{coordinators} coordinators"))?;
    let members = cluster.members().count();
    ensure(members <= MEMBERS_MAX, || format!("{members} members"))?;
    let tokens = cluster.tokens().count();
    ensure(tokens <= TOKENS_MAX, || format!("{tokens} tokens"))
}
