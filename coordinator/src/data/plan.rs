//! Who pulls what from whom. Pure: requests and the time in, ranked sources out.
//!
//! For each content that hosts are about to need the plan knows who wants it, how far each of them is, and who holds all of
//! it. A host pulls from one source at a time and passes on what it has while it still receives, so a file goes to many
//! hosts along a chain: whoever comes next is sent to the one that nobody pulls from yet. The coordinator uploads about
//! once, and the last of n hosts is done a few units after the first.
//!
//! ```text
//!   coordinator ─► h1 ─► h2 ─► h3 …        the tail is free; a host that is done and that nobody pulls from is free too
//! ```
//!
//! Rules, in this order: a source has not failed this host and lies to nobody; it does not itself depend on this host; one
//! child each, before two; the one that holds more comes first; the coordinator comes last, unless nobody else is free.
//! So a host that lost its source is given that one's source, and the chain closes.
//!
//! All of it is the soft state of whoever leads: lost with it and told anew. Everything is bounded.

use lote_shared::chunks::ChunkId;
use lote_shared::network::PeerId;
use lote_shared::protocol::swarm::Trouble;
use std::collections::{BTreeMap, BTreeSet};

/// Contents known at a time; the one that was asked for longest ago is forgotten first.
pub const CONTENTS_MAX: usize = 4_096;
/// Hosts of one content; further ones pull from the coordinator.
pub const HOSTS_MAX: usize = 4_096;
/// Alternatives beside the first source.
const ALTERNATIVES: usize = 2;
/// A liar is nobody's source for so long.
const BANNED_MS: u64 = 10 * 60 * 1_000;

/// Whom to pull from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    Host(PeerId),
    Coordinator,
}

#[derive(Debug)]
struct Holder {
    /// Order of arrival.
    number: u64,
    have: u64,
    /// From whom it pulls; `None`: it does not pull.
    parent: Option<Source>,
    /// Sources that failed it.
    failed: BTreeSet<PeerId>,
    /// Whether it may be a source: it was not found dead or without the content.
    is_good: bool,
}

#[derive(Debug)]
struct Content {
    length: u64,
    asked_ms: u64,
    holders: BTreeMap<PeerId, Holder>,
}

/// The plan of all contents.
#[derive(Debug, Default)]
pub struct DistributionPlan {
    contents: BTreeMap<ChunkId, Content>,
    /// Until when nobody pulls from a host that sent wrong bytes.
    banned: BTreeMap<PeerId, u64>,
    next_number: u64,
}

impl DistributionPlan {
    /// A host wants this content and holds so much of it: from whom it pulls, best first. The coordinator is always the
    /// last.
    pub fn want(
        &mut self,
        now_ms: u64,
        content: ChunkId,
        length: u64,
        host: PeerId,
        have: u64,
    ) -> Vec<Source> {
        if !self.contents.contains_key(&content) && self.contents.len() >= CONTENTS_MAX {
            let oldest = self.contents.iter().min_by_key(|(id, content)| (content.asked_ms, **id));
            if let Some(oldest) = oldest.map(|(id, _)| *id) {
                self.contents.remove(&oldest);
            }
        }
        let number = self.next_number;
        self.next_number += 1;
        let fresh = || Content { length, asked_ms: now_ms, holders: BTreeMap::new() };
        let known = self.contents.entry(content).or_insert_with(fresh);
        known.asked_ms = now_ms;
        if known.holders.len() >= HOSTS_MAX && !known.holders.contains_key(&host) {
            return vec![Source::Coordinator];
        }
        let have = have.min(known.length);
        let fresh = || Holder { number, have, parent: None, failed: BTreeSet::new(), is_good: true };
        let holder = known.holders.entry(host).or_insert_with(fresh);
        // What it said before is over: it may have lost its cache.
        (holder.have, holder.is_good) = (have, true);
        self.assign(now_ms, content, host)
    }

    /// A host has so much by now.
    pub fn progress(&mut self, content: ChunkId, host: PeerId, have: u64) {
        if let Some(known) = self.contents.get_mut(&content)
            && let Some(holder) = known.holders.get_mut(&host)
        {
            holder.have = have.min(known.length);
        }
    }

    /// A source is no good: from whom this host pulls instead.
    pub fn failed(
        &mut self,
        now_ms: u64,
        content: ChunkId,
        host: PeerId,
        source: Source,
        why: Trouble,
    ) -> Vec<Source> {
        if let (Source::Host(source), Some(known)) = (source, self.contents.get_mut(&content)) {
            if let Some(holder) = known.holders.get_mut(&host) {
                if holder.failed.len() >= HOSTS_MAX {
                    holder.failed.clear();
                }
                holder.failed.insert(source);
            }
            if let Some(accused) = known.holders.get_mut(&source).filter(|_| why == Trouble::Missing) {
                accused.is_good = false;
            }
            if why == Trouble::Lying {
                self.banned.retain(|_, until_ms| *until_ms > now_ms);
                if self.banned.len() < HOSTS_MAX {
                    self.banned.insert(source, now_ms + BANNED_MS);
                }
            }
        }
        self.assign(now_ms, content, host)
    }

    /// A host holds all of it.
    pub fn done(&mut self, content: ChunkId, host: PeerId) {
        if let Some(known) = self.contents.get_mut(&content)
            && let Some(holder) = known.holders.get_mut(&host)
        {
            (holder.have, holder.parent) = (known.length, None);
            holder.failed.clear();
        }
    }

    /// A host gave up pulling this content.
    pub fn gave_up(&mut self, content: ChunkId, host: PeerId) {
        let Some(known) = self.contents.get_mut(&content) else { return };
        known.holders.remove(&host);
        if known.holders.is_empty() {
            self.contents.remove(&content);
        }
    }

    /// A host cannot be reached any more.
    pub fn gone(&mut self, host: PeerId) {
        self.contents.retain(|_, content| {
            content.holders.remove(&host);
            !content.holders.is_empty()
        });
    }

    /// Bytes of a content that a host holds.
    pub fn held(&self, content: ChunkId, host: PeerId) -> u64 {
        let holder = self.contents.get(&content).and_then(|content| content.holders.get(&host));
        holder.filter(|holder| holder.is_good).map_or(0, |holder| holder.have)
    }

    fn assign(&mut self, now_ms: u64, content: ChunkId, host: PeerId) -> Vec<Source> {
        let Some(known) = self.contents.get_mut(&content) else { return vec![Source::Coordinator] };
        let Some(own) = known.holders.get_mut(&host) else { return vec![Source::Coordinator] };
        own.parent = None;
        let mut children: BTreeMap<Source, u32> = BTreeMap::new();
        for parent in known.holders.values().filter_map(|holder| holder.parent) {
            *children.entry(parent).or_default() += 1;
        }
        let children = |source: Source| children.get(&source).copied().unwrap_or(0);
        let is_banned = |peer: &PeerId| self.banned.get(peer).is_some_and(|until_ms| *until_ms > now_ms);
        let Some(own) = known.holders.get(&host) else { return vec![Source::Coordinator] };
        let usable = known.holders.iter().filter(|(peer, holder)| {
            let is_source = holder.is_good && (holder.parent.is_some() || holder.have > 0);
            **peer != host && is_source && !own.failed.contains(peer) && !is_banned(peer)
        });
        let complete = |holder: &Holder| holder.have >= known.length;
        let independent = usable.filter(|(peer, holder)| complete(holder) || !known.depends(**peer, host));
        let mut ranked: Vec<_> = independent
            .map(|(peer, holder)| {
                let source = Source::Host(*peer);
                (children(source), std::cmp::Reverse(holder.have), holder.number, source)
            })
            .collect();
        ranked.sort_unstable();
        let seed = children(Source::Coordinator);
        // The coordinator is as good as a host that is as busy, and better than one that is busier.
        let first_is_host = ranked.first().is_some_and(|(children, ..)| *children <= seed);
        let mut sources: Vec<Source> =
            ranked.iter().map(|(_, _, _, source)| *source).take(1 + ALTERNATIVES).collect();
        match first_is_host {
            true => sources.push(Source::Coordinator),
            false => sources.insert(0, Source::Coordinator),
        }
        if let Some(own) = known.holders.get_mut(&host) {
            own.parent = sources.first().copied();
        }
        if sources.last() != Some(&Source::Coordinator) {
            sources.push(Source::Coordinator);
        }
        sources
    }
}

impl Content {
    /// Whether what this host pulls comes, by way of others, from that one.
    fn depends(&self, host: PeerId, on: PeerId) -> bool {
        let mut at = host;
        for _ in 0..=self.holders.len() {
            match self.holders.get(&at).and_then(|holder| holder.parent) {
                Some(Source::Host(parent)) if parent == on => return true,
                Some(Source::Host(parent)) => at = parent,
                Some(Source::Coordinator) | None => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
