//! The plan by itself, and in a model of rounds: each round a host passes on one part to each of its children.

use super::*;
use proptest::prelude::*;

const LENGTH: u64 = 100;
const CONTENT: ChunkId = ChunkId([7; 32]);

fn peers(count: usize) -> Vec<PeerId> {
    (0..count).map(|_| PeerId::random()).collect()
}

#[test]
fn many_hosts_make_a_chain_and_the_coordinator_uploads_once() {
    let (mut plan, peers) = (DistributionPlan::default(), peers(8));
    let firsts: Vec<Source> = peers.iter().map(|peer| plan.want(0, CONTENT, LENGTH, *peer, 0)[0]).collect();
    assert_eq!(firsts[0], Source::Coordinator);
    for (number, source) in firsts.iter().enumerate().skip(1) {
        assert_eq!(*source, Source::Host(peers[number - 1]));
    }
}

#[test]
fn a_host_that_loses_its_source_takes_that_ones_place() {
    let (mut plan, peers) = (DistributionPlan::default(), peers(4));
    peers.iter().for_each(|peer| drop(plan.want(0, CONTENT, LENGTH, *peer, 0)));
    for (peer, have) in peers.iter().zip([50, 40, 30, 20]) {
        plan.progress(CONTENT, *peer, have);
    }
    plan.gone(peers[1]);
    let sources = plan.failed(1, CONTENT, peers[2], Source::Host(peers[1]), Trouble::Dead);
    assert_eq!(sources[0], Source::Host(peers[0]), "{sources:?}");
    assert!(!sources.contains(&Source::Host(peers[3])), "it pulls from this one itself: {sources:?}");
    assert_eq!(sources.last(), Some(&Source::Coordinator));
}

#[test]
fn latecomers_take_who_holds_it_and_liars_are_asked_by_nobody() {
    let (mut plan, peers) = (DistributionPlan::default(), peers(4));
    plan.want(0, CONTENT, LENGTH, peers[0], 0);
    plan.done(CONTENT, peers[0]);
    assert_eq!(plan.held(CONTENT, peers[0]), LENGTH);
    assert_eq!(plan.want(1, CONTENT, LENGTH, peers[1], 0)[0], Source::Host(peers[0]));
    let instead = plan.failed(2, CONTENT, peers[1], Source::Host(peers[0]), Trouble::Lying);
    assert_eq!(instead, [Source::Coordinator]);
    let other = plan.want(3, CONTENT, LENGTH, peers[2], 0);
    assert!(!other.contains(&Source::Host(peers[0])), "{other:?}");
    let later = plan.want(3 + BANNED_MS, CONTENT, LENGTH, peers[3], 0);
    assert!(later.contains(&Source::Host(peers[0])), "{later:?}");
}

#[test]
fn everything_is_bounded() {
    let (mut plan, peers) = (DistributionPlan::default(), peers(1));
    for number in 0..CONTENTS_MAX as u64 + 10 {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.to_le_bytes());
        plan.want(number, ChunkId(id), LENGTH, peers[0], 0);
    }
    assert_eq!(plan.contents.len(), CONTENTS_MAX);
    plan.gone(peers[0]);
    assert!(plan.contents.is_empty());
}

/// Hosts come at their round and may die at theirs; a host asks anew when its source is dead.
fn play(comes: &[usize], dies: &[Option<usize>]) -> Result<(usize, u64), TestCaseError> {
    let peers = peers(comes.len());
    let number = |peer: PeerId| peers.iter().position(|other| *other == peer);
    let mut plan = DistributionPlan::default();
    let mut have = vec![0_u64; comes.len()];
    let mut sources: Vec<Option<Source>> = vec![None; comes.len()];
    let mut seed_sent = 0;
    let dead = |host: usize, round: usize| dies[host].is_some_and(|at| at <= round);
    for round in 0..4_000 {
        let now_ms = round as u64;
        let mut news = have.clone();
        for host in 0..comes.len() {
            if dead(host, round) || round < comes[host] || have[host] == LENGTH {
                continue;
            }
            if round == comes[host] {
                sources[host] = plan.want(now_ms, CONTENT, LENGTH, peers[host], 0).first().copied();
            }
            let mut source = sources[host];
            if let Some(Source::Host(peer)) = source
                && number(peer).is_some_and(|other| dead(other, round))
            {
                source = plan
                    .failed(now_ms, CONTENT, peers[host], Source::Host(peer), Trouble::Dead)
                    .first()
                    .copied();
                sources[host] = source;
                continue; // Noticing takes its time.
            }
            let Some(source) = source else { continue };
            let gives = match source {
                Source::Coordinator => true,
                Source::Host(peer) => number(peer).is_some_and(|other| have[other] > have[host]),
            };
            if gives {
                news[host] = have[host] + 1;
                seed_sent += u64::from(source == Source::Coordinator);
            }
        }
        have = news;
        for host in 0..comes.len() {
            if round >= comes[host] && !dead(host, round) {
                match have[host] {
                    LENGTH => plan.done(CONTENT, peers[host]),
                    bytes => plan.progress(CONTENT, peers[host], bytes),
                }
            }
        }
        let waits = |host: usize| !dead(host, round) && have[host] < LENGTH;
        if round > *comes.iter().max().unwrap_or(&0) && !(0..comes.len()).any(waits) {
            return Ok((round, seed_sent));
        }
    }
    Err(TestCaseError::fail(format!("hosts wait for ever: {have:?} from {sources:?}")))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whoever_lives_gets_it(
        hosts in prop::collection::vec((0_usize..300, prop::option::weighted(0.3, 0_usize..400)), 1..24)
    ) {
        let (comes, dies): (Vec<_>, Vec<_>) = hosts.into_iter().unzip();
        play(&comes, &dies)?;
    }

    #[test]
    fn the_coordinator_uploads_little_when_nobody_dies(comes in prop::collection::vec(0_usize..300, 1..24)) {
        let dies = vec![None; comes.len()];
        let (rounds, sent) = play(&comes, &dies)?;
        prop_assert!(sent <= LENGTH * 13 / 10, "{sent} of {LENGTH} with {comes:?}");
        let last = comes.iter().max().copied().unwrap_or(0);
        prop_assert!(rounds <= last + LENGTH as usize + 2 * comes.len(), "{rounds} rounds with {comes:?}");
    }
}
