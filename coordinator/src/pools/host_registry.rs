//! The joined hosts: their sessions, their leases, and the shell of the [`Allocator`].
//!
//! Soft state only: which session is current, what each node asks for, when each lease was renewed. A pool's group
//! attaches when it is built and is then told the level of each of its nodes; node grants, kills and clean-ups go
//! from here straight to the sessions, so they do not depend on a pool's group.

use super::chunk::ChunkBuilder;
use super::cluster_supervisor::News;
use super::host_session::SessionHandle;
use super::pool_dispatcher::NodeLevel;
use crate::clock;
use crate::engine::Engine;
use crate::scheduling::{Allocation, Allocator};
use crate::state::{Action, Event, HostState, keys};
use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, Recipient, WrapFuture};
use lote_shared::model::{AttemptRef, HostKey, NodeKey, PoolKey};
use lote_shared::protocol::host::LeaderMessage;
use lote_shared::protocol::session::LeaseBook;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const TICK: Duration = Duration::from_millis(250);

/// A session said hello and was welcomed with these nodes.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SessionUp {
    pub handle: SessionHandle,
    pub nodes: Vec<NodeKey>,
    /// Attempts the host has or was just sent.
    pub attempts: BTreeSet<AttemptRef>,
}

/// Something committed for this node did not reach a session: its host must come back with its inventory.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Undelivered(pub NodeKey);

#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SessionDown {
    pub host: HostKey,
    pub session: u64,
}

/// How much a node wants to hold in all.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct AskLevel {
    pub host: HostKey,
    pub node: NodeKey,
    pub slots: u32,
}

/// A host asks for its lease; the quorum was asked after `confirmed_ms`. The answer is the length granted, `None` if
/// nothing is.
#[derive(Debug, Message)]
#[rtype(result = "Option<u64>")]
pub struct Renew {
    pub host: HostKey,
    pub session: u64,
    pub confirmed_ms: u64,
}

/// A pool's group was built and wants the levels of its nodes.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Attach {
    pub pool: PoolKey,
    pub generation: u64,
    pub group: Recipient<NodeLevel>,
}

/// Run the allocation again.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Reallocate;

/// Asks for the facts of every watched host.
#[derive(Debug, Message)]
#[rtype(result = "Vec<HostFacts>")]
pub struct Look;

/// A host's session and lease, for people.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct HostFacts {
    pub host: u32,
    /// Number of the session that is open; `None` while there is none.
    pub session: Option<u64>,
    /// Since it was last heard of, in this term.
    pub silent_ms: u64,
    /// Until it counts as lost; 0 once it does.
    pub lost_in_ms: u64,
}

/// Asks for the session a host has now.
#[derive(Debug, Message)]
#[rtype(result = "Option<SessionHandle>")]
pub struct SessionOf(pub HostKey);

#[derive(Debug)]
struct Group {
    generation: u64,
    address: Recipient<NodeLevel>,
}

#[derive(Debug)]
pub struct HostRegistry {
    engine: Engine,
    builder: ChunkBuilder,
    leases: LeaseBook,
    allocator: Allocator,
    sessions: BTreeMap<HostKey, SessionHandle>,
    levels: BTreeMap<NodeKey, u32>,
    groups: BTreeMap<PoolKey, Group>,
    /// Hosts that were proposed as unknown without having had a session in this term.
    unknown: BTreeSet<HostKey>,
    /// An allocation is being carried out; `true` = run once more after it.
    allocating: Option<bool>,
}

impl HostRegistry {
    pub fn new(engine: Engine, builder: ChunkBuilder, lease_ms: u64) -> HostRegistry {
        HostRegistry {
            engine,
            builder,
            leases: LeaseBook::new(clock::monotonic_ms(), lease_ms),
            allocator: Allocator::default(),
            sessions: BTreeMap::new(),
            levels: BTreeMap::new(),
            groups: BTreeMap::new(),
            unknown: BTreeSet::new(),
            allocating: None,
        }
    }

    fn session_of(&self, node: NodeKey) -> Option<&SessionHandle> {
        let host = self.engine.read(|cluster| cluster.node(node).map(|node| node.host))?;
        self.sessions.get(&host)
    }

    fn tell_group(&self, node: NodeKey) {
        let placed = self.engine.read(|cluster| cluster.node(node).map(|node| (node.pool, node.host)));
        let Some((pool, host)) = placed else { return };
        let Some(group) = self.groups.get(&pool) else { return };
        let session = self.sessions.get(&host).filter(|_| self.levels.contains_key(&node)).cloned();
        let slots = self.levels.get(&node).copied().unwrap_or(0);
        group.address.do_send(NodeLevel { node, slots, session });
    }

    /// Drops a session; what its nodes asked for is void.
    fn forget(&mut self, host: HostKey) {
        self.sessions.remove(&host);
        let nodes: Vec<NodeKey> =
            self.engine.read(|cluster| cluster.nodes_on_host(host).map(|node| node.key).collect());
        for node in nodes {
            if self.levels.remove(&node).is_some() {
                self.tell_group(node);
            }
        }
    }

    fn propose(&self, action: Action, ctx: &mut Context<Self>) {
        let engine = self.engine.clone();
        let work = async move {
            match engine.propose(keys::CLUSTER, action).await {
                Ok(Ok(_)) => {}
                Ok(Err(refusal)) => tracing::debug!(%refusal, "a host command no longer fits"),
                Err(error) => tracing::warn!(%error, "a host command was not taken"),
            }
        };
        ctx.spawn(work.into_actor(self));
    }

    fn is_joined(&self, host: HostKey) -> bool {
        self.engine.read(|cluster| cluster.host(host).is_some_and(|host| host.state == HostState::Joined))
    }

    /// The host may say hello again while this is under way, so that its `HostJoined` comes to lie before this; it
    /// then says it once more.
    fn propose_unknown(&self, host: HostKey, ctx: &mut Context<Self>) {
        let engine = self.engine.clone();
        let work = async move {
            if let Err(error) = engine.propose(keys::CLUSTER, Action::HostUnknown { host }).await {
                tracing::warn!(host = %host, %error, "that the host is unknown was not taken");
            }
        };
        ctx.spawn(work.into_actor(self).map(move |(), this, _| this.end_unless_joined(host)));
    }

    fn end_unless_joined(&self, host: HostKey) {
        if let Some(session) = self.sessions.get(&host)
            && !self.is_joined(host)
        {
            session.end();
        }
    }

    fn allocate(&mut self, ctx: &mut Context<Self>) {
        if let Some(again) = &mut self.allocating {
            *again = true;
            return;
        }
        let now = clock::wall();
        let allocator = &mut self.allocator;
        let allocations = self.engine.read(|cluster| allocator.plan(now, cluster));
        if allocations.is_empty() {
            return;
        }
        self.allocating = Some(false);
        let engine = self.engine.clone();
        let proposed = allocations.clone();
        let work = async move {
            for allocation in proposed {
                match engine.propose(keys::CLUSTER, command(allocation)).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(refusal)) => tracing::debug!(%refusal, "an allocation no longer fits"),
                    Err(error) => {
                        tracing::warn!(%error, "an allocation was not taken");
                        tokio::time::sleep(TICK).await;
                    }
                }
            }
        };
        ctx.spawn(work.into_actor(self).map(move |(), this, ctx| {
            for allocation in &allocations {
                this.answered(allocation);
            }
            // Whatever was decided may make room for more; an empty plan ends it.
            this.allocating = None;
            this.allocate(ctx);
        }));
    }

    fn answered(&mut self, allocation: &Allocation) {
        match allocation {
            Allocation::Grant { pool, host, dedicated, .. } => {
                self.allocator.on_grant_result(*pool, *host, *dedicated);
            }
            Allocation::Revoke { node, .. } => self.allocator.on_revoke_result(*node),
            Allocation::Settle { pool, .. } => self.allocator.on_settle_result(*pool),
        }
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        let now_ms = clock::monotonic_ms();
        // A host the last leader had a session with, and which has not come here.
        for host in self.leases.silent(now_ms) {
            if self.is_joined(host) && !self.sessions.contains_key(&host) && self.unknown.insert(host) {
                self.propose_unknown(host, ctx);
            }
        }
        for host in self.leases.lost(now_ms) {
            tracing::warn!(host = %host, "lease over; its tasks run elsewhere");
            if let Some(session) = self.sessions.get(&host) {
                session.end();
            }
            self.forget(host);
            self.leases.remove(host);
            self.propose(Action::HostLost { host }, ctx);
        }
    }

    /// Sends attempts that may start now. A host without a session hears of them with its next inventory.
    fn launch(&self, node: NodeKey, attempts: Vec<AttemptRef>, ctx: &mut Context<Self>) {
        let Some(session) = self.session_of(node).cloned() else { return };
        let (builder, engine) = (self.builder.clone(), self.engine.clone());
        let work = async move {
            if let Some(chunk) = builder.build(&engine, node, attempts).await {
                session.send(chunk);
            }
        };
        ctx.spawn(work.into_actor(self));
    }

    /// A node that is to go is wiped by its host, which then says that it is gone.
    fn revoke_if_due(&self, node: NodeKey) {
        if self.engine.read(|cluster| cluster.node_wants_revoke(node))
            && let Some(session) = self.session_of(node)
        {
            session.send(LeaderMessage::Revoke(node));
        }
    }

    fn news(&mut self, events: &[Event], ctx: &mut Context<Self>) {
        let mut reallocate = false;
        for event in events {
            match event {
                Event::Kill { node, attempt, reason } => {
                    if let Some(session) = self.session_of(*node) {
                        session.send(LeaderMessage::Kill { node: *node, attempt: *attempt, reason: *reason });
                    }
                }
                Event::Recall { node, attempt } => {
                    if let Some(session) = self.session_of(*node) {
                        session.send(LeaderMessage::Recall { node: *node, attempts: vec![*attempt] });
                    }
                }
                Event::WallClock { node, attempt, wall_clock_ms } => {
                    let (node, attempt, wall_clock_ms) = (*node, *attempt, *wall_clock_ms);
                    if let Some(session) = self.session_of(node) {
                        session.send(LeaderMessage::WallClock { node, attempt, wall_clock_ms });
                    }
                }
                Event::Clean { node, directory } => {
                    if let Some(session) = self.session_of(*node) {
                        session
                            .send(LeaderMessage::Clean { node: *node, directories: vec![directory.clone()] });
                    }
                }
                Event::Launch { node, attempts } => self.launch(*node, attempts.clone(), ctx),
                Event::NodeGranted(node) => {
                    if let (Some(session), Some(grant)) =
                        (self.session_of(*node), self.builder.grant(&self.engine, *node))
                    {
                        session.send(LeaderMessage::Grant(grant));
                    }
                }
                Event::NodeLeaving(node) => self.revoke_if_due(*node),
                Event::PoolAdded(_) | Event::PoolChanged(_) | Event::HostsChanged => reallocate = true,
                Event::PoolRemoved(pool) => {
                    self.groups.remove(pool);
                    reallocate = true;
                }
                _ => {}
            }
        }
        if reallocate {
            self.allocate(ctx);
        }
    }
}

/// The command that carries a decision of the allocator out.
fn command(allocation: Allocation) -> Action {
    match allocation {
        Allocation::Grant { pool, host, node_id, dedicated } => {
            Action::NodeGrant { pool, host, node_id, dedicated }
        }
        Allocation::Revoke { node, option } => Action::NodeRevoke { node, option },
        Allocation::Settle { pool, errors } => Action::PoolSettled { pool, errors },
    }
}

impl Actor for HostRegistry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(4096);
        let hosts: Vec<HostKey> = self.engine.read(|cluster| cluster.hosts().map(|host| host.key).collect());
        for host in hosts {
            self.leases.watch(host, clock::monotonic_ms());
        }
        ctx.run_interval(TICK, |this, ctx| this.tick(ctx));
        self.allocate(ctx);
    }
}

impl Handler<SessionUp> for HostRegistry {
    type Result = ();
    fn handle(&mut self, up: SessionUp, ctx: &mut Context<Self>) {
        let host = up.handle.host;
        self.unknown.remove(&host);
        if let Some(old) = self.sessions.insert(host, up.handle.clone()) {
            old.end();
        }
        let now_ms = clock::monotonic_ms();
        self.leases.renew(host, now_ms, now_ms);
        // What was assigned between the inventory and now was sent to nobody: the host says hello once more.
        let unsent = self.engine.read(|cluster| {
            let held = cluster.nodes_on_host(host).flat_map(|node| cluster.attempts_on(node.key));
            held.into_iter().any(|held| !held.started && !up.attempts.contains(&held.attempt))
        });
        if unsent {
            up.handle.end();
        }
        self.end_unless_joined(host);
        // Whatever was granted between the welcome and now is granted again; a host knows what it has.
        let nodes: Vec<NodeKey> =
            self.engine.read(|cluster| cluster.nodes_on_host(host).map(|node| node.key).collect());
        for node in nodes {
            // A host that never heard of a node that is to go says so when it is asked for it.
            if up.nodes.contains(&node) || self.engine.read(|cluster| cluster.node_wants_revoke(node)) {
                self.revoke_if_due(node);
            } else if let Some(grant) = self.builder.grant(&self.engine, node)
                && self.engine.read(|cluster| cluster.node(node).is_some_and(|n| n.leaving.is_none()))
            {
                up.handle.send(LeaderMessage::Grant(grant));
            }
        }
        self.allocate(ctx);
    }
}

impl Handler<Undelivered> for HostRegistry {
    type Result = ();
    fn handle(&mut self, undelivered: Undelivered, _: &mut Context<Self>) {
        if let Some(session) = self.session_of(undelivered.0) {
            session.end();
        }
    }
}

impl Handler<SessionDown> for HostRegistry {
    type Result = ();
    fn handle(&mut self, down: SessionDown, ctx: &mut Context<Self>) {
        if self.sessions.get(&down.host).is_some_and(|current| current.session == down.session) {
            self.forget(down.host);
            self.propose_unknown(down.host, ctx);
        }
    }
}

impl Handler<SessionOf> for HostRegistry {
    type Result = Option<SessionHandle>;
    fn handle(&mut self, of: SessionOf, _: &mut Context<Self>) -> Option<SessionHandle> {
        self.sessions.get(&of.0).cloned()
    }
}

impl Handler<Look> for HostRegistry {
    type Result = actix::MessageResult<Look>;
    fn handle(&mut self, _: Look, _: &mut Context<Self>) -> Self::Result {
        let facts = self.leases.facts(clock::monotonic_ms()).map(|(host, silent_ms, lost_in_ms)| HostFacts {
            host: host.0,
            session: self.sessions.get(&host).map(|session| session.session),
            silent_ms,
            lost_in_ms,
        });
        actix::MessageResult(facts.collect())
    }
}

impl Handler<AskLevel> for HostRegistry {
    type Result = ();
    fn handle(&mut self, ask: AskLevel, _: &mut Context<Self>) {
        if self.sessions.contains_key(&ask.host) {
            self.levels.insert(ask.node, ask.slots);
            self.tell_group(ask.node);
        }
    }
}

impl Handler<Renew> for HostRegistry {
    type Result = Option<u64>;
    fn handle(&mut self, renew: Renew, _: &mut Context<Self>) -> Option<u64> {
        self.sessions.get(&renew.host).filter(|current| current.session == renew.session)?;
        self.leases.renew(renew.host, clock::monotonic_ms(), renew.confirmed_ms)
    }
}

impl Handler<Attach> for HostRegistry {
    type Result = ();
    fn handle(&mut self, attach: Attach, _: &mut Context<Self>) {
        let newer = self.groups.get(&attach.pool).is_none_or(|group| group.generation < attach.generation);
        if !newer {
            return;
        }
        let pool = attach.pool;
        self.groups.insert(pool, Group { generation: attach.generation, address: attach.group });
        let nodes: Vec<NodeKey> =
            self.engine.read(|cluster| cluster.nodes_of(pool, None).map(|node| node.key).collect());
        for node in nodes.into_iter().filter(|node| self.levels.contains_key(node)) {
            self.tell_group(node);
        }
    }
}

impl Handler<Reallocate> for HostRegistry {
    type Result = ();
    fn handle(&mut self, _: Reallocate, ctx: &mut Context<Self>) {
        self.allocate(ctx);
    }
}

impl Handler<News> for HostRegistry {
    type Result = ();
    fn handle(&mut self, news: News, ctx: &mut Context<Self>) {
        match news.0 {
            Some(events) => self.news(&events, ctx),
            // Too many were missed to know what to tell whom: every host comes back with its inventory.
            None => {
                for session in self.sessions.values() {
                    session.end();
                }
                self.allocate(ctx);
            }
        }
    }
}
