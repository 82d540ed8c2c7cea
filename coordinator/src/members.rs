//! The shell of the allow-list: keeps the network's equal to the one in the replicated state, on every coordinator,
//! leader or not.
//!
//! It follows the events and looks again now and then, because a state that came as a snapshot brings no events.

use crate::engine::Engine;
use crate::join::Joinable;
use crate::service::Error;
use crate::state::{Action, Admission, Cluster, Event, keys};
use lote_shared::model::MemberRole;
use lote_shared::network::{Multiaddr, Network, PeerId, Role};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;

const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// The role as the network names it.
pub fn network_role(role: MemberRole) -> Role {
    match role {
        MemberRole::Coordinator => Role::Coordinator,
        MemberRole::Worker => Role::Worker,
    }
}

type AllowList = BTreeMap<PeerId, Role>;
type Addresses = BTreeMap<PeerId, Vec<Multiaddr>>;

/// Everybody but `own`, and where coordinators listen. What cannot be read was never admitted through our doors.
fn look(cluster: &Cluster, own: PeerId) -> (AllowList, Addresses) {
    let peer = |text: &str| text.parse::<PeerId>().ok().filter(|peer| *peer != own);
    let allowed = cluster.allowed().filter_map(|(text, role)| Some((peer(text)?, network_role(role))));
    let addresses = cluster.coordinators().filter_map(|member| {
        let known = member.addresses.iter().filter_map(|address| address.parse().ok());
        Some((peer(&member.peer)?, known.collect()))
    });
    (allowed.collect(), addresses.collect())
}

/// Tells the state what cluster this is, and that this coordinator and those it brings along are members. Said at
/// every start: it changes nothing but addresses that moved.
pub async fn found(
    engine: &Engine,
    network: &Network,
    joinable: Option<&Joinable>,
    admit: &[Admission],
) -> Result<(), Error> {
    let listening = || network.addresses().iter().map(Multiaddr::to_string).collect();
    let own = Admission {
        peer: network.peer().to_string(),
        role: MemberRole::Coordinator,
        name: joinable.map_or_else(|| "coordinator".to_owned(), |joinable| joinable.name.clone()),
        addresses: joinable.map_or_else(listening, |joinable| joinable.p2p_addresses(&network.addresses())),
        machine: lote_shared::machine::hash(),
        replaces: None,
    };
    if let Some(joinable) = joinable {
        let settings = Box::new(joinable.settings.clone());
        engine.propose(keys::CLUSTER, Action::ClusterInit { settings }).await??;
    }
    for admission in std::iter::once(&own).chain(admit) {
        let admission = Box::new(admission.clone());
        engine.propose(keys::CLUSTER, Action::MemberAdmit { token: None, admission }).await??;
    }
    Ok(())
}

/// Brings the network's allow-list up to date, and keeps it so until the engine or the network ends.
pub struct Keeper {
    engine: Engine,
    network: Network,
    last: Option<(AllowList, Addresses)>,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("members::Keeper")
    }
}

impl Keeper {
    /// The allow-list is in place when this returns.
    pub fn start(engine: Engine, network: Network) -> tokio::task::JoinHandle<()> {
        let mut events = engine.events();
        let mut keeper = Keeper { engine, network, last: None };
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

    fn refresh(&mut self) {
        let own = self.network.peer();
        let now = self.engine.read(|cluster| look(cluster, own));
        if self.last.as_ref() == Some(&now) {
            return;
        }
        self.network.set_allowed(now.0.clone());
        for (peer, addresses) in &now.1 {
            for address in addresses {
                self.network.add_address(*peer, address.clone());
            }
        }
        self.last = Some(now);
    }
}
