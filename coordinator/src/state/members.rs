//! Who belongs to the cluster, and by what leave (`docs/decisions/0005-a-cluster-of-coordinators.md`, 1 and 3).
//!
//! The allow-list of every network is made from here, and replication follows the coordinators named here. A token
//! is judged when its command is applied, by cluster time, together with the admission and the count of the use: so
//! two callers never share the last use, and whoever asks again after a lost answer does not use it twice.

use super::cluster::{Cluster, Event};
use super::command::{Admission, TokenClaim};
use super::cursors::NodeWork;
use super::draining::Draining;
use super::keys;
use super::records::{ClusterSettings, HostState, MemberRecord, TokenRecord};
use super::reply::{MembershipCode as Code, Outcome, Refusal, RefusalCode, Reply};
use super::step::{ROW_VERSION, Step};
use lote_shared::model::{AllocationState, HostKey, MemberRole, PoolState, Timestamp, TokenId};
use lote_shared::protocol::codec;
use std::collections::BTreeMap;

/// Members of both roles together.
pub const MEMBERS_MAX: usize = 10_000;
/// One to five vote; a new one needs a free place, or the place of one that it replaces.
pub const COORDINATORS_MAX: usize = 5;
/// Tokens kept, good and bad together.
pub const TOKENS_MAX: usize = 1_000;
/// How long a token that expired is still known by that name.
pub const TOKEN_KEPT_MS: u64 = 24 * 60 * 60 * 1000;
/// Tokens forgotten by one add.
const FORGET_MAX: usize = 16;

/// What becomes of a coordinator that another one replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replacing {
    /// As earlier versions had it; their logs still say so.
    AtOnce,
    /// It leaves as [`super::leaving`] has it.
    InTwoSteps,
}

/// The part of the state that this module owns.
#[derive(Debug, Default)]
pub(super) struct Membership {
    settings: Option<ClusterSettings>,
    /// By peer id.
    pub(super) members: BTreeMap<String, MemberRecord>,
    tokens: BTreeMap<TokenId, TokenRecord>,
    pub last_member: u64,
    /// Coordinators on their way out by peer id, and since when; always among the members.
    pub(super) leaving: BTreeMap<String, Timestamp>,
    /// Hosts on their way out.
    pub(super) draining: BTreeMap<HostKey, Draining>,
}

impl Membership {
    /// Takes a row back into memory; `rest` is its key behind the table.
    pub fn load(&mut self, rest: &[u8], value: &[u8]) -> Result<(), String> {
        fn decode<T: serde::de::DeserializeOwned>(value: &[u8]) -> Result<T, String> {
            codec::decode(ROW_VERSION, value, codec::LIMIT_DEFAULT).map_err(|error| error.to_string())
        }
        match rest.first() {
            Some(0) => self.settings = Some(decode(value)?),
            Some(1) => self.last_member = decode(value)?,
            Some(2) => {
                let member: MemberRecord = decode(value)?;
                self.members.insert(member.peer.clone(), member);
            }
            Some(3) => {
                let token: TokenRecord = decode(value)?;
                self.tokens.insert(token.id, token);
            }
            Some(6) => {
                let peer = std::str::from_utf8(&rest[1..]).map_err(|error| error.to_string())?;
                self.leaving.insert(peer.to_owned(), decode(value)?);
            }
            Some(7) => {
                let host: [u8; 4] = rest[1..].try_into().map_err(|_| "no host's number".to_owned())?;
                self.draining.insert(HostKey(u32::from_be_bytes(host)), decode(value)?);
            }
            _ => return Err("no such row".to_owned()),
        }
        Ok(())
    }

    fn coordinators(&self) -> impl Iterator<Item = &MemberRecord> {
        self.members.values().filter(|member| member.role == MemberRole::Coordinator)
    }
}

pub(super) fn refuse(code: Code, detail: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::Membership(code)).because(detail)
}

/// What may be asked.
impl Cluster {
    /// What the cluster is; `None` for an embedded one.
    pub fn settings(&self) -> Option<&ClusterSettings> {
        self.membership.settings.as_ref()
    }

    /// Everybody who may speak to members, and as what.
    pub fn allowed(&self) -> impl Iterator<Item = (&str, MemberRole)> {
        self.membership.members.values().map(|member| (member.peer.as_str(), member.role))
    }

    pub fn members(&self) -> impl Iterator<Item = &MemberRecord> {
        self.membership.members.values()
    }

    pub fn member(&self, peer: &str) -> Option<&MemberRecord> {
        self.membership.members.get(peer)
    }

    pub fn coordinators(&self) -> impl Iterator<Item = &MemberRecord> {
        self.membership.coordinators()
    }

    pub fn tokens(&self) -> impl Iterator<Item = &TokenRecord> {
        self.membership.tokens.values()
    }

    /// The last number that was given to a coordinator; 0 before the first.
    pub fn last_member(&self) -> u64 {
        self.membership.last_member
    }
}

impl Cluster {
    pub(super) fn init_cluster(&mut self, step: &mut Step, settings: &ClusterSettings) -> Reply {
        match &self.membership.settings {
            Some(ours) if ours.cluster_id == settings.cluster_id => Ok(Outcome::Done),
            Some(ours) => {
                let detail = format!("this is cluster {}, not {}", ours.cluster_id, settings.cluster_id);
                Err(refuse(Code::ClusterMismatch, detail))
            }
            None => {
                step.put(keys::settings(), settings);
                self.membership.settings = Some(settings.clone());
                step.event(Event::MembersChanged);
                Ok(Outcome::Done)
            }
        }
    }

    pub(super) fn add_token(&mut self, step: &mut Step, token: TokenRecord) -> Reply {
        let tokens = &mut self.membership.tokens;
        if tokens.contains_key(&token.id) {
            return Err(refuse(Code::TokenExists, format!("token {} exists", token.id)));
        }
        let forgettable = |old: &&TokenRecord| step.now.since_ms(old.expires) > TOKEN_KEPT_MS;
        let old: Vec<TokenId> =
            tokens.values().filter(forgettable).take(FORGET_MAX).map(|old| old.id).collect();
        if tokens.len() - old.len() >= TOKENS_MAX {
            let detail = format!("there are {TOKENS_MAX} tokens; they go a day after they expire");
            return Err(refuse(Code::TokenQuotaReached, detail));
        }
        for old in old {
            tokens.remove(&old);
            step.delete(keys::token(old));
        }
        step.put(keys::token(token.id), &token);
        tokens.insert(token.id, token);
        Ok(Outcome::Done)
    }

    pub(super) fn revoke_token(&mut self, step: &mut Step, id: TokenId) -> Reply {
        let unknown = || refuse(Code::TokenNotFound, format!("there is no token {id}"));
        let token = self.membership.tokens.get_mut(&id).ok_or_else(unknown)?;
        token.revoked = true;
        step.put(keys::token(id), &*token);
        Ok(Outcome::Done)
    }

    /// Whether the token lets this peer in. `true` if it uses the token up by one.
    fn judge_token(&self, step: &Step, claim: &TokenClaim, admission: &Admission) -> Result<bool, Refusal> {
        let known = self.membership.tokens.get(&claim.token);
        let token = known.filter(|token| token.secret_hash == claim.secret_hash);
        let id = claim.token;
        let unknown = || refuse(Code::TokenNotFound, format!("token {id} is not known here"));
        let token = token.ok_or_else(unknown)?;
        if token.revoked {
            return Err(refuse(Code::TokenRevoked, format!("token {id} was revoked")));
        }
        if step.now >= token.expires {
            let detail = format!("token {id} expired at {}; it is {} now", token.expires, step.now);
            return Err(refuse(Code::TokenExpired, detail));
        }
        if token.role != admission.role {
            let detail = format!("token {id} is for a {}, not for a {}", token.role, admission.role);
            return Err(refuse(Code::TokenRoleMismatch, detail));
        }
        let repeated = self.membership.members.get(&admission.peer).is_some_and(|member| {
            member.token == Some(id) && member.role == admission.role && member.machine == admission.machine
        });
        if !repeated && token.uses_left == 0 {
            return Err(refuse(Code::TokenUsedUp, format!("token {id} has been used as often as it may be")));
        }
        Ok(!repeated)
    }

    /// The coordinator that `text` names.
    pub(crate) fn find_coordinator(&self, text: &str, except: &str) -> Result<String, Refusal> {
        let others = || self.membership.coordinators().filter(|member| member.peer != except);
        let number = text.parse::<u64>().ok();
        let exact =
            others().find(|member| member.peer == text || (number.is_some() && member.member == number));
        if let Some(member) = exact {
            return Ok(member.peer.clone());
        }
        let named: Vec<&MemberRecord> = others().filter(|member| member.name == text).collect();
        match named.as_slice() {
            [one] => Ok(one.peer.clone()),
            [] => Err(refuse(Code::MemberNotFound, format!("no other coordinator is called `{text}`"))),
            more => {
                let detail =
                    format!("{} coordinators are called `{text}`; name one by its peer id", more.len());
                Err(refuse(Code::MemberNotFound, detail))
            }
        }
    }

    pub(super) fn admit_member(
        &mut self,
        step: &mut Step,
        claim: Option<&TokenClaim>,
        admission: &Admission,
        replacing: Replacing,
    ) -> Reply {
        let uses = match claim {
            Some(claim) => self.judge_token(step, claim, admission)?,
            None => false,
        };
        let known = self.membership.members.get(&admission.peer).cloned();
        if let Some(known) = &known
            && known.role != admission.role
        {
            let detail = format!("{} is a member as {}; remove it there first", admission.peer, known.role);
            return Err(refuse(Code::MemberRoleMismatch, detail));
        }
        let replaced = match &admission.replaces {
            Some(_) if admission.role != MemberRole::Coordinator => {
                return Err(refuse(Code::MemberRoleMismatch, "only a coordinator can replace another"));
            }
            Some(text) => match self.find_coordinator(text, &admission.peer) {
                Ok(peer) => Some(peer),
                // Asked again after a lost answer: the one it replaced is gone already.
                Err(_) if known.is_some() => None,
                Err(refusal) => return Err(refusal),
            },
            None => None,
        };
        if known.is_none() {
            self.check_room(admission.role, replaced.as_deref())?;
        }
        if let (Some(replaced), Replacing::InTwoSteps) = (&replaced, replacing) {
            self.check_leave(replaced, true)?;
        }
        let (number, admitted) = match &known {
            Some(known) => (known.member, known.admitted),
            None if admission.role == MemberRole::Coordinator => {
                self.membership.last_member += 1;
                step.put(keys::last_member(), &self.membership.last_member);
                (Some(self.membership.last_member), step.now)
            }
            None => (None, step.now),
        };
        let record = MemberRecord {
            peer: admission.peer.clone(),
            role: admission.role,
            name: admission.name.clone(),
            addresses: admission.addresses.clone(),
            endpoints: admission
                .endpoints
                .clone()
                .or(known.as_ref().and_then(|known| known.endpoints.clone())),
            member: number,
            machine: admission.machine.clone(),
            admitted,
            token: claim.map(|claim| claim.token).or(known.as_ref().and_then(|known| known.token)),
        };
        if known.as_ref() != Some(&record) {
            step.put(keys::member(&record.peer), &record);
            self.membership.members.insert(record.peer.clone(), record);
            step.event(Event::MembersChanged);
        }
        if uses && let Some(token) = claim.and_then(|claim| self.membership.tokens.get_mut(&claim.token)) {
            token.uses_left = token.uses_left.saturating_sub(1);
            step.put(keys::token(token.id), &*token);
        }
        match (replaced, replacing) {
            (Some(peer), Replacing::AtOnce) => self.drop_member(step, &peer),
            (Some(peer), Replacing::InTwoSteps) => self.begin_leave(step, &peer),
            (None, _) => {}
        }
        Ok(Outcome::MemberAdmitted { member: number })
    }

    /// Makes this coordinator the only one, with this number: a folder that was recovered or restored is a new member
    /// to Raft, and those that the state still names must never come back. Asked again it changes nothing.
    pub(super) fn found_alone(&mut self, step: &mut Step, admission: &Admission, number: u64) -> Reply {
        let peer = &admission.peer;
        if admission.role != MemberRole::Coordinator || admission.replaces.is_some() {
            return Err(refuse(
                Code::MemberRoleMismatch,
                "only a coordinator founds, and it replaces nobody",
            ));
        }
        let known = self.membership.members.get(peer).cloned();
        if let Some(known) = known.as_ref().filter(|known| known.role != MemberRole::Coordinator) {
            let detail = format!("{peer} is a member as {}; remove it there first", known.role);
            return Err(refuse(Code::MemberRoleMismatch, detail));
        }
        let keeps = known.as_ref().is_some_and(|known| known.member == Some(number));
        let last = self.membership.last_member;
        if !keeps && number <= last {
            let detail = format!("number {number} cannot be {peer}'s: numbers up to {last} have been given");
            return Err(refuse(Code::MemberNumberGiven, detail));
        }
        if known.is_none() && self.membership.coordinators().next().is_none() {
            self.check_room(MemberRole::Coordinator, None)?;
        }
        let others = self.membership.coordinators().filter(|member| member.peer != *peer);
        let others: Vec<String> = others.map(|member| member.peer.clone()).collect();
        for other in others {
            self.drop_member(step, &other);
        }
        if self.membership.leaving.remove(peer).is_some() {
            step.delete(keys::leaving(peer));
        }
        if number > last {
            self.membership.last_member = number;
            step.put(keys::last_member(), &number);
        }
        let record = MemberRecord {
            peer: peer.clone(),
            role: MemberRole::Coordinator,
            name: admission.name.clone(),
            addresses: admission.addresses.clone(),
            endpoints: admission
                .endpoints
                .clone()
                .or(known.as_ref().and_then(|known| known.endpoints.clone())),
            member: Some(number),
            machine: admission.machine.clone(),
            admitted: known.as_ref().map_or(step.now, |known| known.admitted),
            token: known.as_ref().and_then(|known| known.token),
        };
        if known.as_ref() != Some(&record) {
            step.put(keys::member(peer), &record);
            self.membership.members.insert(peer.clone(), record);
            step.event(Event::MembersChanged);
        }
        Ok(Outcome::MemberAdmitted { member: Some(number) })
    }

    /// Whoever is leaving or is replaced takes no place.
    fn check_room(&self, role: MemberRole, replaces: Option<&str>) -> Result<(), Refusal> {
        if self.membership.members.len() >= MEMBERS_MAX && replaces.is_none() {
            return Err(refuse(Code::MemberQuotaReached, format!("there are {MEMBERS_MAX} members")));
        }
        let coordinators = self.staying().filter(|member| Some(member.peer.as_str()) != replaces).count();
        if role == MemberRole::Coordinator && coordinators >= COORDINATORS_MAX {
            let detail = format!("there are {COORDINATORS_MAX} coordinators; remove or replace one");
            return Err(refuse(Code::MemberQuotaReached, detail));
        }
        Ok(())
    }

    pub(super) fn remove_member(&mut self, step: &mut Step, peer: &str) -> Reply {
        let unknown = || refuse(Code::MemberNotFound, format!("no member has the peer id `{peer}`"));
        let member = self.membership.members.get(peer).ok_or_else(unknown)?;
        if member.role == MemberRole::Coordinator && self.membership.coordinators().count() == 1 {
            let detail =
                format!("`{}` is the last coordinator; the state would be gone with it", member.name);
            return Err(refuse(Code::LastCoordinator, detail));
        }
        self.drop_member(step, peer);
        Ok(Outcome::Done)
    }

    pub(super) fn drop_member(&mut self, step: &mut Step, peer: &str) {
        if self.forget_member(step, peer) == Some(MemberRole::Worker) {
            self.drop_host(step, peer);
        }
    }

    /// Nobody speaks to it any more; what its host has is another matter. Tells what it was.
    pub(super) fn forget_member(&mut self, step: &mut Step, peer: &str) -> Option<MemberRole> {
        let member = self.membership.members.remove(peer)?;
        if self.membership.leaving.remove(peer).is_some() {
            step.delete(keys::leaving(peer));
        }
        step.delete(keys::member(peer));
        step.event(Event::MembersChanged);
        Some(member.role)
    }

    /// The host of a removed worker: lost at once and for good, so its nodes go and their pools fill up elsewhere.
    fn drop_host(&mut self, step: &mut Step, peer: &str) {
        let Some(key) = self.peers.get(peer).copied() else { return };
        self.forget_draining(step, key);
        let Some(host) = self.hosts.get_mut(&key) else { return };
        if host.record.state != HostState::Lost {
            host.record.state = HostState::Lost;
            host.record.changed = step.now;
            step.put(keys::host(key), &host.record);
        }
        step.event(Event::HostsChanged);
        let nodes: Vec<_> = host.nodes.iter().copied().collect();
        for node in nodes {
            if let Some(node) = self.nodes.get(&node) {
                self.refill_pool(step, node.record.pool);
            }
            self.end_attempts_of(step, node, NodeWork::Gone);
        }
    }

    /// A pool that was at its target is to get another node for one that goes unasked.
    pub(super) fn refill_pool(&mut self, step: &mut Step, key: lote_shared::model::PoolKey) {
        let Some(pool) = self.pools.get_mut(&key) else { return };
        if pool.record.state != PoolState::Active || pool.record.allocation != AllocationState::Steady {
            return;
        }
        pool.record.allocation = AllocationState::Resizing;
        pool.record.allocation_changed = step.now;
        step.put(keys::pool(pool.record.account, key), &pool.record);
        step.event(Event::PoolChanged(key));
    }

    /// Whether a host with this identity may present itself from this machine.
    pub(super) fn check_host(&self, peer: &str, machine: &str) -> Result<(), Refusal> {
        let member = self.membership.members.get(peer);
        let worker = member.filter(|member| member.role == MemberRole::Worker);
        let Some(worker) = worker else {
            let detail = format!("{peer} is no worker of this cluster; it joins with a token");
            return Err(refuse(Code::HostNotAdmitted, detail));
        };
        if !worker.machine.is_empty() && worker.machine != machine {
            let detail = format!(
                "the identity of `{}` ({peer}) was admitted on another machine; give this one a data folder of \
                 its own and join it with a token",
                worker.name
            );
            return Err(refuse(Code::HostIdentityCopied, detail));
        }
        Ok(())
    }
}
