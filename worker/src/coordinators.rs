//! The coordinators this host knows: those it was started with and those it was told of, kept on the disk, so that it
//! finds a cluster whose coordinators have all been replaced one by one since it was set up.
//!
//! The network's allow-list follows. Once the leader of a session named the members, they alone are admitted: other
//! hosts for content, coordinators for everything. Until then it is whoever the disk or the start names.

use crate::session::Coordinator;
use lote_shared::network::{Multiaddr, Network, PeerId, Role};
use lote_shared::protocol::codec;
use lote_shared::protocol::members::{self, Known, Member};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const FILE: &str = "coordinators";
const VERSION: u8 = 1;
/// Longest file that is read.
const FILE_MAX: u64 = 1024 * 1024;
const CHECK_BYTES: usize = 32;
/// Coordinators kept from rumours of such as do not lead.
const RUMOURS_MAX: usize = 32;

#[derive(Debug)]
struct State {
    /// Where to try, in the order learnt.
    coordinators: BTreeMap<PeerId, Vec<Multiaddr>>,
    workers: Vec<Known>,
    /// What the file holds.
    written: Vec<Member>,
}

/// Clones mean the same list.
#[derive(Debug, Clone)]
pub struct Coordinators {
    directory: PathBuf,
    network: Network,
    state: Arc<Mutex<State>>,
}

impl Coordinators {
    /// Reads what the disk has and adds those of the start.
    pub fn open(directory: &Path, network: Network, given: &[Coordinator]) -> Coordinators {
        let written = read(&directory.join(FILE)).unwrap_or_else(|error| {
            tracing::warn!(%error, "the list of coordinators cannot be read; those given at the start are used");
            Vec::new()
        });
        let mut coordinators: BTreeMap<PeerId, Vec<Multiaddr>> = BTreeMap::new();
        for known in members::read(&written).into_iter().filter(|known| known.role == Role::Coordinator) {
            coordinators.insert(known.peer, known.addresses);
        }
        for (peer, addresses) in given {
            let known = coordinators.entry(*peer).or_default();
            known.extend(
                addresses.iter().filter(|address| !known.contains(address)).cloned().collect::<Vec<_>>(),
            );
        }
        let state = State { coordinators, workers: Vec::new(), written };
        let this =
            Coordinators { directory: directory.to_owned(), network, state: Arc::new(Mutex::new(state)) };
        this.admit(&this.state.lock());
        this
    }

    pub fn peers(&self) -> Vec<PeerId> {
        self.state.lock().coordinators.keys().copied().collect()
    }

    /// The leader's list of all members: it replaces what was known, on the disk too. One that lacks the leader itself
    /// is no list of members, and only adds.
    pub fn told(&self, leader: PeerId, list: &[Member]) {
        let (coordinators, workers): (Vec<Known>, Vec<Known>) =
            members::read(list).into_iter().partition(|known| known.role == Role::Coordinator);
        let is_whole = coordinators.iter().any(|known| known.peer == leader);
        let mut state = self.state.lock();
        if is_whole {
            state.coordinators.retain(|peer, _| coordinators.iter().any(|known| known.peer == *peer));
        }
        for known in coordinators {
            learn(&mut state, known);
        }
        state.workers = workers;
        self.admit(&state);
        let new = to_members(&state);
        if state.written != new {
            match write(&self.directory, &new) {
                Ok(()) => state.written = new,
                Err(error) => tracing::warn!(%error, "the list of coordinators cannot be kept on the disk"),
            }
        }
    }

    /// What a coordinator that does not lead says: worth a try, not worth keeping.
    pub fn heard(&self, rumour: &[Member]) {
        let mut state = self.state.lock();
        for known in members::read(rumour).into_iter().filter(|known| known.role == Role::Coordinator) {
            if state.coordinators.contains_key(&known.peer) || state.coordinators.len() < RUMOURS_MAX {
                learn(&mut state, known);
            }
        }
        self.admit(&state);
    }

    fn admit(&self, state: &State) {
        let own = self.network.peer();
        let workers = state.workers.iter().map(|known| (known.peer, Role::Worker));
        let coordinators = state.coordinators.keys().map(|peer| (*peer, Role::Coordinator));
        let all = workers.chain(coordinators).filter(|(peer, _)| *peer != own);
        self.network.set_allowed(all.collect());
        let workers = state.workers.iter().map(|known| (&known.peer, &known.addresses));
        for (peer, addresses) in state.coordinators.iter().chain(workers) {
            // The book puts the newest first.
            for address in addresses.iter().rev() {
                self.network.add_address(*peer, address.clone());
            }
        }
    }
}

/// Addresses that were told are the ones; a member that is told without any keeps those it had.
fn learn(state: &mut State, known: Known) {
    let addresses = state.coordinators.entry(known.peer).or_default();
    if !known.addresses.is_empty() {
        *addresses = known.addresses;
    }
}

fn to_members(state: &State) -> Vec<Member> {
    let member =
        |(peer, addresses): (&PeerId, &Vec<Multiaddr>)| Member::new(*peer, Role::Coordinator, addresses);
    state.coordinators.iter().map(member).collect()
}

fn read(path: &Path) -> io::Result<Vec<Member>> {
    let bytes = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
        Ok(metadata) if metadata.len() > FILE_MAX => {
            return Err(io::Error::other(format!("`{}` is too long", path.display())));
        }
        Ok(_) => fs::read(path)?,
    };
    let damaged = || io::Error::other(format!("`{}` is damaged", path.display()));
    let (check, body) = bytes.split_at_checked(CHECK_BYTES).ok_or_else(damaged)?;
    if blake3::hash(body).as_bytes() != check {
        return Err(damaged());
    }
    codec::decode(VERSION, body, FILE_MAX).map_err(io::Error::other)
}

/// Beside the old file, then in its place: there is always a whole one.
fn write(directory: &Path, list: &[Member]) -> io::Result<()> {
    let body = codec::encode(VERSION, &list).map_err(io::Error::other)?;
    let temporary = directory.join("coordinators.new");
    let mut file = File::create(&temporary)?;
    file.write_all(blake3::hash(&body).as_bytes())?;
    file.write_all(&body)?;
    file.sync_all()?;
    fs::rename(&temporary, directory.join(FILE))?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lote_shared::network::{Config, Identity};

    async fn network() -> Network {
        Network::start(Config::new(Identity::ephemeral(), vec![])).await.unwrap()
    }

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()
    }

    #[tokio::test]
    async fn the_list_outlives_the_process_and_every_coordinator_of_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let [old, new, worker] = [(); 3].map(|()| PeerId::random());
        let given = [(old, vec![address(1)])];
        let open = async || Coordinators::open(folder.path(), network().await, &given);
        let first = open().await;
        assert_eq!(first.peers(), [old]);
        let both = [
            Member::new(old, Role::Coordinator, &[address(1)]),
            Member::new(new, Role::Coordinator, &[address(2)]),
            Member::new(worker, Role::Worker, &[]),
        ];
        first.told(old, &both);
        first.told(new, &both[1..]);
        assert_eq!(first.peers(), [new], "who left is not admitted any more");
        // A start names it again, and only a leader can take it off.
        let again = open().await;
        let mut both = [old, new];
        both.sort();
        assert_eq!(again.peers(), both);
        again.told(new, &[Member::new(new, Role::Coordinator, &[])]);
        assert_eq!(again.state.lock().coordinators, BTreeMap::from([(new, vec![address(2)])]));
    }

    #[tokio::test]
    async fn rumours_are_tried_but_not_kept_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let [given, rumoured] = [(); 2].map(|()| PeerId::random());
        let open = async || Coordinators::open(folder.path(), network().await, &[(given, vec![])]);
        let list = open().await;
        list.heard(&[Member::new(rumoured, Role::Coordinator, &[address(3)])]);
        assert!(list.peers().contains(&rumoured));
        let many: Vec<Member> =
            (0..100).map(|_| Member::new(PeerId::random(), Role::Coordinator, &[])).collect();
        list.heard(&many);
        assert_eq!(list.peers().len(), RUMOURS_MAX);
        assert_eq!(open().await.peers(), [given]);
        // What a leader says without naming itself takes nobody away.
        list.told(given, &[]);
        assert_eq!(list.peers().len(), RUMOURS_MAX);
    }

    #[tokio::test]
    async fn a_damaged_file_is_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let [given, told] = [(); 2].map(|()| PeerId::random());
        let open = async || Coordinators::open(folder.path(), network().await, &[(given, vec![])]);
        open().await.told(told, &[Member::new(told, Role::Coordinator, &[address(4)])]);
        assert_eq!(open().await.peers().len(), 2);
        let path = folder.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[CHECK_BYTES + 7] ^= 1;
        for damaged in [&flipped[..], &whole[..whole.len() - 1], &whole[..9], &[]] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(open().await.peers(), [given]);
        }
    }
}
