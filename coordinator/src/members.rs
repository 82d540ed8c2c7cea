//! Who belongs to the cluster, between the replicated state and everything that has to find a member.
//!
//! [`Seat`] is this coordinator's own place. [`Keeper`] publishes the members of the state as the
//! [`Directory`](crate::directory::Directory), on every coordinator, leader or not; [`Coordinators`] tells the leader's
//! Raft which coordinators there should be. Both read the state and own nothing.

use crate::clock;
use crate::directory::Publisher;
use crate::engine::{Engine, Unavailable};
use crate::join::Joinable;
use crate::leadership::Leadership;
use crate::replication::membership::Roster;
use crate::replication::{self, MemberId, Start};
use crate::service::{CoordinatorConfig, Error};
use crate::state::{
    Action, Admission, Cluster, ClusterVersion, Endpoints, Event, MembershipCode, Refusal, RefusalCode,
    Reply, keys,
};
use futures::future::BoxFuture;
use lote_shared::model::MemberRole;
use lote_shared::network::{Multiaddr, Network, Role};
use lote_shared::protocol::members::Member;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A state that came as a snapshot brings no events, so it is looked at again now and then.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Before this coordinator tries again to say where it is.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(1);
/// How long a coordinator that is to be taken out waits for the one before it.
const LEAVE_WITHIN: Duration = Duration::from_secs(10);
/// Before a state that was not yet ready for something is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// The role as the network names it.
pub fn network_role(role: MemberRole) -> Role {
    match role {
        MemberRole::Coordinator => Role::Coordinator,
        MemberRole::Worker => Role::Worker,
    }
}

/// What a coordinator that joined was told.
#[derive(Debug, Clone)]
pub struct Joined {
    /// Its number.
    pub member: MemberId,
    pub coordinators: Vec<Member>,
}

/// This coordinator's own place in the cluster.
#[derive(Debug, Clone)]
pub struct Seat {
    own: Member,
    name: String,
    endpoints: Endpoints,
    joined: Option<Joined>,
}

impl Seat {
    pub fn new(
        network: &Network,
        joinable: Option<&Joinable>,
        endpoints: Endpoints,
        joined: Option<Joined>,
    ) -> Seat {
        let listening = network.addresses();
        let addresses = match joinable {
            Some(joinable) => joinable.p2p_addresses(&listening),
            None => listening.iter().map(Multiaddr::to_string).collect(),
        };
        let name = joinable.map_or_else(|| "coordinator".to_owned(), |joinable| joinable.name.clone());
        let storage = Some(endpoints.blob.clone());
        let own = Member { peer: network.peer().to_string(), role: Role::Coordinator, addresses, storage };
        Seat { own, name, endpoints, joined }
    }

    /// Those who are known before the state is.
    pub fn known(&self) -> Vec<Member> {
        let others = self.joined.iter().flat_map(|joined| joined.coordinators.clone());
        std::iter::once(self.own.clone()).chain(others).collect()
    }

    pub fn start(&self) -> Start {
        match &self.joined {
            Some(joined) => Start::Join { member: joined.member },
            None => Start::Found {
                me: replication::Member {
                    peer: self.own.peer.clone(),
                    addresses: self.own.addresses.clone(),
                },
            },
        }
    }

    pub fn admission(&self) -> Admission {
        Admission {
            peer: self.own.peer.clone(),
            role: MemberRole::Coordinator,
            name: self.name.clone(),
            addresses: self.own.addresses.clone(),
            endpoints: Some(self.endpoints.clone()),
            machine: lote_shared::machine::hash(),
            replaces: None,
        }
    }
}

/// Tells the state what cluster this is, its account, and that this coordinator and those it brings along are members.
/// Said at every start of the only voter: it changes nothing but addresses that moved. `alone`: the number that Raft has
/// for the only voter; a state that has another for it is a new one, or that of a cluster before its recovery.
pub async fn found(
    engine: &Engine,
    seat: &Seat,
    config: &CoordinatorConfig,
    alone: Option<MemberId>,
) -> Result<(), Error> {
    let account =
        Action::AccountAdd { name: config.account_name.clone(), keys: vec![config.account_key.clone()] };
    if let Err(refusal) = engine.propose(keys::CLUSTER, account).await? {
        tracing::warn!(%refusal, "the account was not added");
    }
    if let Some(joinable) = &config.joinable {
        let settings = Box::new(joinable.settings.clone());
        engine.propose(keys::CLUSTER, Action::ClusterInit { settings }).await??;
    }
    let own = seat.admission();
    let known = engine.read(|cluster| cluster.member(&own.peer).and_then(|record| record.member));
    if let Some(member) = alone.filter(|_| known != alone) {
        let admission = Box::new(own.clone());
        engine.propose(keys::CLUSTER, Action::CoordinatorFounded { admission, member }).await??;
        if config.joinable.is_none() {
            forget_workers(engine, &config.admit).await?;
        }
    }
    for admission in std::iter::once(&own).chain(&config.admit) {
        let admission = Box::new(admission.clone());
        engine.propose(keys::CLUSTER, Action::MemberAdmit { token: None, admission }).await??;
    }
    Ok(())
}

/// An embedded cluster that was restored has workers of its own: nobody can bring back those that the state names, and
/// their nodes would keep the pools' places for ever.
async fn forget_workers(engine: &Engine, own: &[Admission]) -> Result<(), Error> {
    let is_own = |peer: &str| own.iter().any(|admission| admission.peer == peer);
    let gone: Vec<String> = engine.read(|cluster| {
        let workers = cluster.members().filter(|record| record.role == MemberRole::Worker);
        workers.map(|record| record.peer.clone()).filter(|peer| !is_own(peer)).collect()
    });
    for peer in gone {
        engine.propose(keys::CLUSTER, Action::MemberRemove { peer }).await??;
    }
    Ok(())
}

/// Says where this coordinator is now, until whoever leads has heard it.
pub async fn announce(engine: Engine, own: Admission) {
    loop {
        let admit = Action::MemberAdmit { token: None, admission: Box::new(own.clone()) };
        match engine.propose(keys::CLUSTER, admit).await {
            Ok(Ok(_)) => return,
            Ok(Err(refusal)) => return tracing::error!(%refusal, "this coordinator is not wanted"),
            Err(error) => tracing::debug!(%error, "the cluster does not know yet where this coordinator is"),
        }
        tokio::time::sleep(ANNOUNCE_AGAIN).await;
    }
}

/// Whether what was refused may be granted a moment later: Raft's voters change.
pub fn waits(code: RefusalCode) -> bool {
    let RefusalCode::Membership(code) = code else { return false };
    matches!(code, MembershipCode::CoordinatorLeaving | MembershipCode::NoMajority)
}

/// Proposes what takes a coordinator out until the state grants it: the one before it has to be gone, and those who
/// stay have to be a majority. After [`LEAVE_WITHIN`] its refusal is the answer.
pub async fn take_out(engine: &Engine, action: Action) -> Result<Reply, Unavailable> {
    let deadline = clock::monotonic() + LEAVE_WITHIN;
    loop {
        let reply = match in_one_step(engine, &action) {
            Ok(action) => engine.propose(keys::CLUSTER, action).await?,
            Err(refusal) => Err(refusal),
        };
        let has_to_wait = matches!(&reply, Err(refusal) if waits(refusal.code));
        if !has_to_wait || clock::monotonic() >= deadline {
            return Ok(reply);
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// What is proposed for it. Beside a build of before cluster version 2 a coordinator is taken out as that build does it, if
/// it looks good here: at once, and two that are asked for at the same time may both look good.
fn in_one_step(engine: &Engine, action: &Action) -> Result<Action, Refusal> {
    if engine.version() >= ClusterVersion::V2 {
        return Ok(action.clone());
    }
    engine.read(|cluster| match action {
        Action::CoordinatorLeave { peer } => {
            cluster.may_leave(peer, false)?;
            Ok(Action::MemberRemove { peer: peer.clone() })
        }
        Action::MemberReplace { token, admission } => {
            if let Some(replaces) = &admission.replaces
                && let Ok(peer) = cluster.find_coordinator(replaces, &admission.peer)
            {
                cluster.may_leave(&peer, true)?;
            }
            Ok(Action::MemberAdmit { token: *token, admission: admission.clone() })
        }
        action => Ok(action.clone()),
    })
}

/// Waits until this member's state is so; false if it is not for so long.
pub async fn until(engine: &Engine, within: Duration, is_so: impl Fn(&Cluster) -> bool) -> bool {
    let deadline = clock::monotonic() + within;
    loop {
        if engine.read(&is_so) {
            return true;
        }
        if clock::monotonic() >= deadline {
            return false;
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// The coordinators of the state, as the membership keeper of the leader wants them.
#[derive(Debug)]
pub struct Coordinators {
    pub engine: Engine,
    pub leadership: watch::Receiver<Leadership>,
}

impl Roster for Coordinators {
    fn desired(&self) -> Option<BTreeMap<MemberId, replication::Member>> {
        let coordinators = self.engine.read(|cluster| {
            let numbered = cluster.staying().filter_map(|record| {
                let (peer, addresses) = (record.peer.clone(), record.addresses.clone());
                Some((record.member?, replication::Member { peer, addresses }))
            });
            numbered.collect::<BTreeMap<_, _>>()
        });
        (!coordinators.is_empty()).then_some(coordinators)
    }

    fn leaving(&self) -> BTreeSet<MemberId> {
        self.engine.read(|cluster| cluster.leaving().filter_map(|record| record.member).collect())
    }

    fn left(&self, term: u64, member: MemberId) -> BoxFuture<'_, ()> {
        let gone = self.engine.read(|cluster| {
            cluster.leaving().find(|record| record.member == Some(member)).map(|record| record.peer.clone())
        });
        // Another leader looks at Raft by itself.
        let engine = self.engine.in_term(term, self.leadership.clone(), true);
        Box::pin(async move {
            let Some(peer) = gone else { return };
            match engine.propose(keys::CLUSTER, Action::CoordinatorLeft { peer }).await {
                Ok(Ok(_)) => {}
                Ok(Err(refusal)) => tracing::warn!(%refusal, member, "a coordinator was not let go"),
                Err(error) => tracing::debug!(%error, member, "the state has not heard yet who left"),
            }
        })
    }
}

/// Publishes the members of the state whenever they change.
pub struct Keeper {
    engine: Engine,
    seat: Seat,
    publisher: Publisher,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("members::Keeper")
    }
}

impl Keeper {
    /// The list is published when this returns; it is kept until the engine ends.
    pub fn start(engine: Engine, seat: Seat, publisher: Publisher) -> JoinHandle<()> {
        let mut events = engine.events();
        let keeper = Keeper { engine, seat, publisher };
        keeper.refresh();
        tokio::spawn(async move {
            loop {
                match tokio::time::timeout(LOOK_AGAIN, events.recv()).await {
                    Ok(Ok(batch)) if !batch.contains(&Event::MembersChanged) => {}
                    Ok(Ok(_) | Err(RecvError::Lagged(_))) | Err(_) => keeper.refresh(),
                    Ok(Err(RecvError::Closed)) => return,
                }
            }
        })
    }

    /// A state that does not know this coordinator is behind; until it has caught up, what was told at joining holds.
    fn refresh(&self) {
        let members = self.engine.read(look);
        if members.iter().any(|member| member.peer == self.seat.own.peer) {
            self.publisher.publish(members);
        }
    }
}

fn look(cluster: &Cluster) -> Vec<Member> {
    let member = |record: &crate::state::MemberRecord| Member {
        peer: record.peer.clone(),
        role: network_role(record.role),
        addresses: record.addresses.clone(),
        storage: record.endpoints.as_ref().map(|endpoints| endpoints.blob.clone()),
    };
    cluster.members().map(member).collect()
}
