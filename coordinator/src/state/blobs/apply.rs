//! Applying actions to one account's containers and blobs.

use super::super::keys::{self, Table};
use super::super::reply::{Outcome, Refusal, RefusalCode, Reply, Version};
use super::super::{Batch, Condition};
use super::condition::{self, check_write};
use super::records::{Blob, BlobExtra, Block, BlockRow, BlockSet, Container, Headers, Row, encode};
use super::{BlobAction, Composed, STAGED_MAX, Space};
use lote_shared::chunks::Manifest;
use lote_shared::model::{AccountId, Timestamp};
use std::collections::BTreeMap;

/// Where rows go: the account and the batch of the entry.
pub(super) struct Rows<'a> {
    pub account: AccountId,
    pub batch: &'a mut Batch,
}

impl Rows<'_> {
    pub fn put(&mut self, table: Table, numbers: &[u64], row: &impl Row) {
        self.batch.writes.push((self.key(table, numbers), Some(encode(row))));
    }

    pub fn remove(&mut self, table: Table, numbers: &[u64]) {
        self.batch.writes.push((self.key(table, numbers), None));
    }

    pub fn remove_blob(&mut self, blob: &Blob) {
        self.remove(Table::Blob, &[blob.key]);
        if !blob.extras.is_empty() {
            self.remove(Table::Blob, &[blob.key, 0]);
        }
    }

    fn key(&self, table: Table, numbers: &[u64]) -> Vec<u8> {
        let rest: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
        keys::key(self.account, table, &rest)
    }
}

impl Space {
    pub(super) fn apply(
        &mut self,
        account: AccountId,
        now: Timestamp,
        action: &BlobAction,
        batch: &mut Batch,
    ) -> Reply {
        let before = self.next;
        let mut rows = Rows { account, batch };
        let reply = self.act(now, action, &mut rows);
        if self.next != before {
            rows.put(Table::Container, &[], &self.next);
        }
        reply
    }

    fn act(&mut self, now: Timestamp, action: &BlobAction, rows: &mut Rows) -> Reply {
        match action {
            BlobAction::ContainerCreate { name, metadata } => {
                self.create_container(now, name, metadata, rows)
            }
            BlobAction::ContainerDelete { name, condition } => self.delete_container(name, condition, rows),
            BlobAction::ContainerMetadata { name, condition, metadata } => {
                self.change_container(now, name, condition, rows, |_, _, container| {
                    container.metadata.clone_from(metadata);
                })
            }
            BlobAction::Put { container, blob, condition, content, headers, metadata, composed } => {
                let new = NewBlob { content, headers, metadata, composed: composed.as_ref(), extras: &[] };
                self.put(now, container, blob, condition, new, rows)
            }
            BlobAction::Stage { container, blob, id, content } => {
                self.stage(now, container, blob, id, content, rows)
            }
            BlobAction::Delete { container, blob, condition } => {
                let (_, container) = self.container_mut(container)?;
                let found = container.blobs.get(blob.as_str()).ok_or(RefusalCode::BlobNotFound)?;
                check_write(condition, Some(found.version))?;
                rows.remove_blob(found);
                container.blobs.remove(blob.as_str());
                Ok(Outcome::Done)
            }
            BlobAction::SetMetadata { container, blob, condition, metadata } => {
                self.change(now, container, blob, condition, rows, |blob| {
                    blob.metadata = metadata.clone().into();
                })
            }
            BlobAction::SetHeaders { container, blob, condition, headers } => {
                self.change(now, container, blob, condition, rows, |blob| blob.set_headers(headers))
            }
            BlobAction::Sweep => Ok(Outcome::Continued { more: self.sweep(now, rows) }),
            BlobAction::ContainerPolicies { name, condition, policies } => {
                self.change_container(now, name, condition, rows, |rows, key, container| {
                    container.policies.clone_from(policies);
                    match policies.is_empty() {
                        true => rows.remove(Table::Container, &[key, 0]),
                        false => rows.put(Table::Container, &[key, 0], policies),
                    }
                })
            }
            BlobAction::PutWith { container, blob, condition, content, headers, metadata, extras } => {
                let new = NewBlob { content, headers, metadata, composed: None, extras };
                self.put(now, container, blob, condition, new, rows)
            }
            BlobAction::Append { container, blob, condition, base, content } => {
                self.append(now, (container, blob), condition, *base, content, rows)
            }
        }
    }

    fn draw(&mut self) -> u64 {
        // 0 is no key and no generation.
        self.next = self.next.max(1).saturating_add(1);
        self.next
    }

    fn new_version(&mut self, now: Timestamp) -> Version {
        Version { etag: self.draw(), modified: now }
    }

    fn container_mut(&mut self, name: &str) -> Result<(u64, &mut Container), Refusal> {
        let key = *self.names.get(name).ok_or(RefusalCode::ContainerNotFound)?;
        let container = self.containers.get_mut(&key).ok_or(RefusalCode::ContainerNotFound)?;
        Ok((key, container))
    }

    fn change_container(
        &mut self,
        now: Timestamp,
        name: &str,
        condition: &Condition,
        rows: &mut Rows,
        edit: impl FnOnce(&mut Rows, u64, &mut Container),
    ) -> Reply {
        check_container(condition, self.container_mut(name)?.1)?;
        let version = self.new_version(now);
        let (key, container) = self.container_mut(name)?;
        edit(rows, key, container);
        container.version = version;
        rows.put(Table::Container, &[key], &container.row(false));
        Ok(Outcome::Record(version))
    }

    fn create_container(
        &mut self,
        now: Timestamp,
        name: &str,
        metadata: &super::Metadata,
        rows: &mut Rows,
    ) -> Reply {
        if self.names.contains_key(name) {
            return Err(RefusalCode::ContainerAlreadyExists.into());
        }
        let key = self.draw();
        let version = self.new_version(now);
        let container = Container {
            name: name.into(),
            created: now,
            version,
            metadata: metadata.clone(),
            policies: Vec::new(),
            blobs: BTreeMap::new(),
            staged: BTreeMap::new(),
        };
        rows.put(Table::Container, &[key], &container.row(false));
        self.containers.insert(key, container);
        self.names.insert(name.into(), key);
        Ok(Outcome::Record(version))
    }

    fn delete_container(&mut self, name: &str, condition: &Condition, rows: &mut Rows) -> Reply {
        let (key, container) = self.container_mut(name)?;
        check_container(condition, container)?;
        rows.put(Table::Container, &[key], &container.row(true));
        self.names.remove(name);
        self.dead_containers.insert(key);
        Ok(Outcome::Done)
    }

    fn put(
        &mut self,
        now: Timestamp,
        container_name: &str,
        name: &str,
        condition: &Condition,
        new: NewBlob,
        rows: &mut Rows,
    ) -> Reply {
        let (container_key, container) = self.container_mut(container_name)?;
        let old = container.blobs.get(name);
        let (old_key, created) = (old.map(|old| old.key), old.map_or(now, |old| old.created));
        let old_version = old.map(|old| old.version);
        let had_extras = old.is_some_and(|old| !old.extras.is_empty());
        let staged = container.staged.get(name).copied();
        check_write(condition, old_version)?;
        if let Some(composed) = new.composed {
            let generation = staged.and_then(|set| self.sets.get(&set)).map_or(0, |set| set.generation);
            let base_changed = composed.base.is_some() && composed.base != old_version.map(|old| old.etag);
            if composed.generation != generation || base_changed {
                return Err(RefusalCode::Fenced.into());
            }
        }
        let key = match old_key {
            Some(key) => key,
            None => self.draw(),
        };
        let version = self.new_version(now);
        let mut blob = Blob {
            key,
            created,
            version,
            content: *new.content,
            blocks: new.composed.map(|composed| Box::new(composed.list)),
            metadata: new.metadata.clone().into(),
            content_md5: None,
            other_headers: None,
            extras: new.extras.into(),
        };
        blob.set_headers(new.headers);
        rows.put(Table::Blob, &[key], &blob.row(container_key, name));
        if !blob.extras.is_empty() {
            rows.put(Table::Blob, &[key, 0], &blob.extras_row(container_key, name));
        } else if had_extras {
            rows.remove(Table::Blob, &[key, 0]);
        }
        if let Some(container) = self.containers.get_mut(&container_key) {
            container.blobs.insert(name.into(), blob);
        }
        if let Some(set) = staged {
            self.detach_set(set, rows);
        }
        Ok(Outcome::Blob(version))
    }

    fn append(
        &mut self,
        now: Timestamp,
        (container, name): (&str, &str),
        condition: &Condition,
        base: u64,
        content: &Manifest,
        rows: &mut Rows,
    ) -> Reply {
        let found = self.container_mut(container)?.1.blobs.get(name).ok_or(RefusalCode::BlobNotFound)?;
        check_write(condition, Some(found.version))?;
        let grows = found.appended().is_some() && found.content.length <= content.length;
        if found.version.etag != base || !grows {
            return Err(RefusalCode::Fenced.into());
        }
        let outcome = self.change(now, container, name, &Condition::default(), rows, |blob| {
            blob.content = *content;
            for extra in &mut blob.extras {
                if let BlobExtra::Append { blocks } = extra {
                    *blocks = blocks.saturating_add(1);
                }
            }
        })?;
        let (container_key, container) = self.container_mut(container)?;
        if let Some(blob) = container.blobs.get(name) {
            rows.put(Table::Blob, &[blob.key, 0], &blob.extras_row(container_key, name));
        }
        Ok(outcome)
    }

    fn change(
        &mut self,
        now: Timestamp,
        container: &str,
        name: &str,
        condition: &Condition,
        rows: &mut Rows,
        edit: impl FnOnce(&mut Blob),
    ) -> Reply {
        let found = self.container_mut(container)?.1.blobs.get(name).ok_or(RefusalCode::BlobNotFound)?;
        check_write(condition, Some(found.version))?;
        // A refusal uses up no number.
        let version = self.new_version(now);
        let (container_key, container) = self.container_mut(container)?;
        let blob = container.blobs.get_mut(name).ok_or(RefusalCode::BlobNotFound)?;
        edit(blob);
        blob.version = version;
        rows.put(Table::Blob, &[blob.key], &blob.row(container_key, name));
        Ok(Outcome::Blob(version))
    }

    fn stage(
        &mut self,
        now: Timestamp,
        container_name: &str,
        name: &str,
        id: &str,
        content: &Manifest,
        rows: &mut Rows,
    ) -> Reply {
        let (container_key, container) = self.container_mut(container_name)?;
        let known = container.staged.get(name).copied();
        if let Some(set) = known.and_then(|set| self.sets.get(&set)) {
            if set.blocks.keys().next().is_some_and(|other| other.len() != id.len()) {
                let detail = "all block ids of a blob must have the same length";
                return Err(Refusal::from(RefusalCode::InvalidBlobOrBlock).because(detail));
            }
            if set.blocks.len() >= STAGED_MAX && !set.blocks.contains_key(id) {
                let detail = format!("a blob can have at most {STAGED_MAX} uncommitted blocks");
                return Err(Refusal::from(RefusalCode::InvalidBlobOrBlock).because(detail));
            }
        }
        let set_key = match known {
            Some(key) => key,
            None => self.draw(),
        };
        let generation = self.draw();
        if known.is_none()
            && let Some(container) = self.containers.get_mut(&container_key)
        {
            container.staged.insert(name.into(), set_key);
        }
        let set = self.sets.entry(set_key).or_insert_with(|| BlockSet {
            container: container_key,
            blob: name.into(),
            generation,
            last: now,
            blocks: BTreeMap::new(),
        });
        self.by_age.remove(&(set.last, set_key));
        set.last = now;
        set.generation = generation;
        self.by_age.insert((now, set_key));
        // A replaced block keeps its row's key; a new one takes the generation, which is never used again.
        let n = set.blocks.get(id).map_or(generation, |block| block.n);
        rows.put(Table::Block, &[set_key], &set.row(false));
        rows.put(Table::Block, &[set_key, n], &BlockRow { id: id.into(), content: *content });
        set.blocks.insert(id.into(), Block { n, content: *content });
        Ok(Outcome::Blob(Version { etag: generation, modified: now }))
    }
}

struct NewBlob<'a> {
    content: &'a Manifest,
    headers: &'a Headers,
    metadata: &'a super::Metadata,
    composed: Option<&'a Composed>,
    extras: &'a [BlobExtra],
}

fn check_container(condition: &Condition, container: &Container) -> Result<(), RefusalCode> {
    condition::check(condition, Some(container.version)).map_err(|_| RefusalCode::ConditionNotMet)
}
