//! The campaign of damage with three members that talk over libp2p: one of them, two or all are stopped, files of theirs
//! are cut, zeroed, flipped, removed or replaced by older copies, and they start again.
//!
//! Of each member that was damaged one of three things may come: it has the state of the others at the same entry, from
//! its disk or by a snapshot; it is refused with the remedy in words, by its own start or by what the others remember
//! of it; whoever is refused is replaced by a new member with an empty disk, and if that leaves no quorum, the one that
//! is left is recovered first. After every case all members have the same state and every task that was acknowledged,
//! and no term has had two leaders.
//!
//! Rounds of [`CASES`] cases begin with a new cluster each; the seed names the round. `LOTE_FAULTS` sets the number of
//! cases (`LOTE_SLOW=1`: 1 000), `LOTE_SEED` the first round.

use super::faults::{Dice, copy, damage, number};
use super::members::{Desired, Node, Stopped, introduce, leader, same_state, three, until, voters};
use crate::replication::recover::force_single;
use crate::replication::{MemberId, Role};
use crate::state::Cluster;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const CASES: u64 = 25;
/// In CI.
const CASES_SHORT: u64 = 10;

/// Says where the campaign is when it fails.
struct Place {
    seed: u64,
    case: u64,
    what: Vec<String>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "round of seed {}, case {}: {}\nagain: LOTE_SEED={} LOTE_FAULTS={CASES}",
                self.seed,
                self.case,
                self.what.join("; "),
                self.seed
            );
        }
    }
}

/// What came of the members that were damaged, by kind of damage.
type Outcomes = BTreeMap<(String, &'static str), u64>;

struct Round {
    nodes: Vec<Node>,
    desired: Desired,
    dice: Dice,
    acknowledged: BTreeSet<String>,
    /// Who was seen to lead a term.
    leaders: BTreeMap<u64, MemberId>,
    /// Copies of folders that were taken while their members were stopped.
    copies: BTreeMap<MemberId, PathBuf>,
    shelf: tempfile::TempDir,
    number: MemberId,
}

impl Round {
    async fn new(seed: u64) -> Round {
        let (nodes, desired) = three().await;
        Round {
            nodes,
            desired,
            dice: Dice(seed),
            acknowledged: BTreeSet::new(),
            leaders: BTreeMap::new(),
            copies: BTreeMap::new(),
            shelf: tempfile::tempdir().unwrap(),
            number: 3,
        }
    }

    async fn write(&mut self, count: usize) {
        for _ in 0..count {
            let name = format!("t{}", self.acknowledged.len());
            let node = &self.nodes[self.dice.below(self.nodes.len())];
            node.add(&name).await.unwrap();
            self.acknowledged.insert(name);
        }
    }

    /// A term has one leader.
    fn note_leaders(&mut self) {
        for node in &self.nodes {
            let status = node.replica.status();
            if status.role == Role::Leader {
                let first = *self.leaders.entry(status.term).or_insert(status.member);
                assert_eq!(first, status.member, "two members led term {}", status.term);
            }
        }
    }

    /// Puts an older copy in the place of the folder or of a part of it.
    fn age(&mut self, member: &Stopped) -> Option<(String, String)> {
        let old = self.copies.get(&member.id)?;
        let part = [".", ".", ".", "raft/log", "raft/log", "state", "raft/snapshots"][self.dice.below(7)];
        if part == "." {
            // The lock is a file too, but holds nothing.
            for name in ["raft", "state"] {
                replace(&old.join(name), &member.folder.path().join(name));
            }
        } else {
            replace(&old.join(part), &member.folder.path().join(part));
        }
        let part = if part == "." { "all" } else { part };
        Some((format!("older {part}"), format!("member {} has an older copy of {part}", member.id)))
    }

    /// One case; says what came of it.
    async fn case(&mut self, place: &mut Place, outcomes: &mut Outcomes) {
        let written = [0, 1, 3, 8, 70][self.dice.below(5)];
        self.write(written).await;
        same_state(&self.nodes.iter().collect::<Vec<_>>()).await;
        self.note_leaders();
        // How many are stopped, and how many of them are damaged.
        let (stopped, damaged) =
            [(1, 1), (1, 1), (1, 1), (1, 1), (2, 1), (2, 2), (3, 1), (3, 1)][self.dice.below(8)];
        let mut down = Vec::new();
        for _ in 0..stopped {
            let node = self.nodes.remove(self.dice.below(self.nodes.len()));
            down.push(node.stop().await);
        }
        let meanwhile = [0, 2, 5, 90][self.dice.below(4)];
        if self.nodes.len() > 1 {
            self.write(meanwhile).await;
        }
        place.what.push(format!("{written} writes, {stopped} stopped, {meanwhile} writes"));
        let mut kinds = BTreeMap::new();
        for member in down.iter().take(damaged) {
            let aged = if self.dice.below(3) == 0 { self.age(member) } else { None };
            let (kind, what) = aged.unwrap_or_else(|| {
                let (kind, how, what) = damage(member.folder.path(), &mut self.dice);
                (format!("{kind} {how}"), format!("member {}: {what}", member.id))
            });
            place.what.push(what);
            kinds.insert(member.id, kind);
        }
        // An older copy for later cases, of one that is whole.
        for member in down.iter().skip(damaged) {
            self.keep_copy(member);
        }
        if kinds.is_empty() || self.dice.below(2) == 0 {
            down.reverse();
        }
        let mut refused = Vec::new();
        for member in down {
            let id = member.id;
            match member.start(&self.desired).await {
                Ok(node) => self.nodes.push(node),
                Err((member, error)) => {
                    assert!(kinds.contains_key(&id), "a whole member {id} is refused: {error}");
                    let text = error.to_string();
                    let has_remedy = text.contains("lote recover") || text.contains("newer Lote");
                    assert!(has_remedy, "refused without a remedy: {text}");
                    refused.push((id, "refused"));
                    drop(member);
                }
            }
        }
        introduce(&self.nodes.iter().collect::<Vec<_>>());
        let begun: BTreeMap<MemberId, Option<u64>> =
            self.nodes.iter().map(|node| (node.id, node.replica.status().applied)).collect();
        self.settle(&kinds, &mut refused).await;
        if self.nodes.len() == 1 {
            place.what.push("the last one is recovered".to_owned());
            self.recover().await;
        }
        for node in self.nodes.iter().filter(|node| kinds.contains_key(&node.id)) {
            let purged = node.replica.status().purged;
            let outcome = if purged > begun[&node.id] { "by snapshot" } else { "same state" };
            *outcomes.entry((kinds[&node.id].clone(), outcome)).or_default() += 1;
        }
        for (id, outcome) in &refused {
            *outcomes.entry((kinds[id].clone(), outcome)).or_default() += 1;
        }
        self.replace_missing().await;
        self.check(place).await;
    }

    /// Waits until everybody who runs has the same state, or has been told by the others that its disk is old.
    async fn settle(
        &mut self,
        kinds: &BTreeMap<MemberId, String>,
        refused: &mut Vec<(MemberId, &'static str)>,
    ) {
        let nodes = &self.nodes;
        let looking = Looking(nodes);
        until("the same state, or a refusal", || {
            if nodes.len() - nodes.iter().filter(|node| has_stopped(node)).count() < 2 {
                return Some(()); // No quorum: nothing more can be waited for.
            }
            let running = || nodes.iter().filter(|node| !has_stopped(node));
            let states: BTreeSet<_> = running()
                .map(|node| node.replica.status())
                .map(|status| (status.applied, status.state_hash, status.last_log))
                .collect();
            let is_led = running().any(|node| node.replica.leadership().borrow().is_ours);
            (states.len() == 1 && is_led).then_some(())
        })
        .await;
        drop(looking);
        let (stopped, running): (Vec<_>, Vec<_>) = self.nodes.drain(..).partition(has_stopped);
        self.nodes = running;
        for node in stopped {
            let why = node.replica.stopped().await;
            assert!(kinds.contains_key(&node.id), "a whole member {} stops: {why}", node.id);
            assert!(why.contains("--replace"), "stopped without a remedy: {why}");
            refused.push((node.id, "refused by the others"));
            drop(node.stop().await);
        }
    }

    /// What an operator does about a quorum that is lost for good.
    async fn recover(&mut self) {
        let last = self.nodes.remove(0).stop().await;
        let recovery = force_single(last.folder.path()).unwrap();
        self.number = self.number.max(recovery.member);
        self.desired.lock().clear();
        let node = last.start(&self.desired).await.map_err(|(_, error)| error).unwrap();
        assert_eq!(node.id, recovery.member);
        self.desired.lock().insert(node.id, node.member());
        self.nodes.push(node);
    }

    /// New members with empty disks for those that are gone.
    async fn replace_missing(&mut self) {
        let present: BTreeSet<MemberId> = self.nodes.iter().map(|node| node.id).collect();
        let gone: Vec<MemberId> =
            self.desired.lock().keys().filter(|id| !present.contains(id)).copied().collect();
        while self.nodes.len() < 3 {
            self.number += 1;
            let node = Node::start(self.number, &self.desired).await;
            self.nodes.push(node);
        }
        introduce(&self.nodes.iter().collect::<Vec<_>>());
        {
            let mut desired = self.desired.lock();
            desired.retain(|id, _| !gone.contains(id));
            desired.extend(self.nodes.iter().map(|node| (node.id, node.member())));
        }
        self.copies.retain(|id, _| !gone.contains(id));
        let wanted: BTreeSet<MemberId> = self.nodes.iter().map(|node| node.id).collect();
        until("three voters", || {
            let is_so = |node: &Node| {
                voters(node) == wanted && node.replica.members().keys().copied().eq(wanted.iter().copied())
            };
            self.nodes.iter().all(is_so).then_some(())
        })
        .await;
    }

    fn keep_copy(&mut self, member: &Stopped) {
        let path = self.shelf.path().join(member.id.to_string());
        let _ = fs::remove_dir_all(&path);
        copy(member.folder.path(), &path);
        self.copies.insert(member.id, path);
    }

    /// All of it is there, everywhere, and goes on.
    async fn check(&mut self, place: &mut Place) {
        leader(self.nodes.iter()).await;
        self.write(1).await;
        let nodes: Vec<&Node> = self.nodes.iter().collect();
        same_state(&nodes).await;
        for node in &nodes {
            node.engine.linearize().await.unwrap();
            assert_eq!(node.tasks(), self.acknowledged, "member {} of {}", node.id, place.case);
        }
        let digests: BTreeSet<_> = nodes.iter().map(|node| node.engine.read(Cluster::digest)).collect();
        assert_eq!(digests.len(), 1, "the states differ although their hashes do not");
        self.note_leaders();
    }
}

/// Shows what everybody was at when nothing came of it.
struct Looking<'a>(&'a [Node]);

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in self.0 {
                eprintln!("{:?}\n  {:?}", node.replica.status(), node.replica.members());
            }
        }
    }
}

fn has_stopped(node: &Node) -> bool {
    node.replica.status().stopped.is_some()
}

fn replace(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    copy(from, to);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_outlive_damage_and_older_copies() {
    let slow = std::env::var_os("LOTE_SLOW").is_some_and(|value| value == "1");
    let cases = number("LOTE_FAULTS").unwrap_or(if slow { 1_000 } else { CASES_SHORT });
    let first = number("LOTE_SEED").unwrap_or(1);
    let mut outcomes = Outcomes::new();
    for (seed, begin) in (first..).zip((0..cases).step_by(CASES as usize)) {
        let mut round = Round::new(seed).await;
        for case in begin..cases.min(begin + CASES) {
            let mut place = Place { seed, case, what: Vec::new() };
            round.case(&mut place, &mut outcomes).await;
            println!("seed {seed} case {case}: {}", place.what.join("; "));
        }
    }
    println!("{cases} cases from seed {first}");
    for ((kind, outcome), count) in &outcomes {
        println!("{kind:>20} {outcome:<22} {count:>4}");
    }
    let sum = |wanted: &str| {
        outcomes.iter().filter(|((_, outcome), _)| *outcome == wanted).map(|(_, count)| count).sum::<u64>()
    };
    assert!(sum("same state") + sum("by snapshot") > 0, "nobody came back");
    assert!(sum("refused") > 0, "nobody was refused");
}
