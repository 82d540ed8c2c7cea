//! Listing containers and blobs: ordered by name, by prefix, folded at a delimiter, in pages.

use super::{Blob, Blobs, Container};
use crate::state::RefusalCode;
use lote_shared::model::AccountId;
use std::ops::Bound;

/// One entry of a blob listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item<'a> {
    Blob(&'a str, &'a Blob),
    /// All blobs whose names go on after the delimiter, as one.
    Prefix(&'a str),
}

impl Item<'_> {
    pub fn name(&self) -> &str {
        match self {
            Item::Blob(name, _) | Item::Prefix(name) => name,
        }
    }
}

/// Entries of one page, and the name at which the next page starts.
#[derive(Debug, PartialEq, Eq)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next: Option<String>,
}

impl Blobs {
    /// Containers with this prefix, from `marker` on (which is itself listed).
    pub fn list_containers(
        &self,
        account: AccountId,
        prefix: &str,
        marker: &str,
        max: usize,
    ) -> Page<&Container> {
        let mut page = Page { items: Vec::new(), next: None };
        let Some(space) = self.spaces.get(&account) else { return page };
        let start = Bound::Included(prefix.max(marker));
        for (name, key) in space.names.range::<str, _>((start, Bound::Unbounded)) {
            if !name.starts_with(prefix) {
                break;
            }
            if page.items.len() == max {
                page.next = Some(name.to_string());
                break;
            }
            page.items.extend(space.containers.get(key));
        }
        page
    }

    /// Blobs of a container with this prefix, from `marker` on (which is itself listed). With a delimiter, names
    /// that contain it after the prefix are listed as one up to there; what they stand for is skipped, not walked.
    pub fn list_blobs(
        &self,
        account: AccountId,
        container: &str,
        prefix: &str,
        delimiter: Option<&str>,
        marker: &str,
        max: usize,
    ) -> Result<Page<Item<'_>>, RefusalCode> {
        let blobs = &self.container(account, container)?.blobs;
        let mut page = Page { items: Vec::new(), next: None };
        let mut start = prefix.max(marker).to_owned();
        'seek: loop {
            let from = Bound::Included(start.as_str());
            for (name, blob) in blobs.range::<str, _>((from, Bound::Unbounded)) {
                let Some(rest) = name.strip_prefix(prefix) else { return Ok(page) };
                let folded = delimiter
                    .filter(|delimiter| !delimiter.is_empty())
                    .and_then(|delimiter| Some(rest.find(delimiter)? + delimiter.len()))
                    .map(|length| &name[..prefix.len() + length]);
                if page.items.len() == max {
                    page.next = Some(folded.unwrap_or(name).to_owned());
                    return Ok(page);
                }
                let Some(folded) = folded else {
                    page.items.push(Item::Blob(name, blob));
                    continue;
                };
                page.items.push(Item::Prefix(folded));
                match after_prefix(folded) {
                    Some(after) => start = after,
                    None => return Ok(page),
                }
                continue 'seek;
            }
            return Ok(page);
        }
    }
}

/// The least text that is greater than every text with this prefix.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        let next = match last {
            // Surrogates are no characters.
            '\u{D7FF}' => Some('\u{E000}'),
            last => char::from_u32(last as u32 + 1),
        };
        if let Some(next) = next {
            text.push(next);
            return Some(text);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::after_prefix;

    #[test]
    fn the_text_after_a_prefix() {
        assert_eq!(after_prefix("a/").as_deref(), Some("a0"));
        assert_eq!(after_prefix("a\u{D7FF}").as_deref(), Some("a\u{E000}"));
        assert_eq!(after_prefix("a\u{10FFFF}").as_deref(), Some("b"));
        assert_eq!(after_prefix("\u{10FFFF}"), None);
    }
}
