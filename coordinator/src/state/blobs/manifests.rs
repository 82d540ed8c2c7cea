//! Going through everything that is referred to, a bounded page at a time. For the upkeep of chunks.
//!
//! The state changes between pages. Content that is committed from staged blocks is not missed: an account's blocks come
//! before its blobs. A blob that is composed from its own committed blocks stays in its place. Whatever else gives old
//! content a new name must have its chunks adopted first, which makes them too young for the collector.

use super::{Blobs, Space};
use lote_shared::chunks::Manifest;
use lote_shared::model::AccountId;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Where the next page begins; the default is the beginning of all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// `None` before the first account.
    account: Option<AccountId>,
    stage: Stage,
    /// The set or container to go on with.
    key: u64,
    /// The block or blob of it that was last seen.
    after: Option<Box<str>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    #[default]
    Blocks,
    Blobs,
}

/// What a page has room for.
struct Page {
    left: usize,
    found: Vec<Manifest>,
}

impl Blobs {
    /// The manifests from this place on, after looking at about `max` records, and where to go on if there are more.
    pub fn manifests(&self, from: &Place, max: usize) -> (Vec<Manifest>, Option<Place>) {
        let mut page = Page { left: max, found: Vec::new() };
        let mut from = from.clone();
        let first = from.account.map_or(Bound::Unbounded, Bound::Included);
        for (account, space) in self.spaces.range((first, Bound::Unbounded)) {
            if from.account != Some(*account) {
                from = Place { account: Some(*account), ..Place::default() };
            }
            if let Some(next) = space.manifests(&from, &mut page) {
                return (page.found, Some(next));
            }
        }
        (page.found, None)
    }
}

impl Space {
    fn manifests(&self, from: &Place, page: &mut Page) -> Option<Place> {
        let mut from = from.clone();
        if from.stage == Stage::Blocks {
            for (key, set) in self.sets.range(from.key..) {
                let next = page.take(*key, &set.blocks, &from, |block, found| found.push(block.content));
                if next.is_some() {
                    return next;
                }
            }
            from = Place { account: from.account, stage: Stage::Blobs, key: 0, after: None };
        }
        for (key, container) in self.containers.range(from.key..) {
            let next = page.take(*key, &container.blobs, &from, |blob, found| {
                found.push(blob.content);
                found.extend(blob.blocks.as_deref());
            });
            if next.is_some() {
                return next;
            }
        }
        None
    }
}

impl Page {
    /// Takes what there is room for from one set or container; where to go on if that was not all.
    fn take<T>(
        &mut self,
        key: u64,
        records: &BTreeMap<Box<str>, T>,
        from: &Place,
        push: impl Fn(&T, &mut Vec<Manifest>),
    ) -> Option<Place> {
        let mut after = from.after.clone().filter(|_| from.key == key);
        if self.left == 0 {
            return Some(Place { account: from.account, stage: from.stage, key, after });
        }
        self.left -= 1;
        let bound = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        for (name, record) in records.range::<str, _>((bound, Bound::Unbounded)) {
            if self.left == 0 {
                // The name of the one before: what a page has seen stays behind it, whatever is added meanwhile.
                return Some(Place { account: from.account, stage: from.stage, key, after });
            }
            self.left -= 1;
            push(record, &mut self.found);
            after = Some(name.clone());
        }
        None
    }
}
