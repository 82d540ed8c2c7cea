//! What waits at the driver's door: proposals in their order, as entries are made of them.

use super::forward::EngineAnswer;
use super::types::{COMMAND_BYTES_MAX, COMMANDS_MAX};
use super::wire::Blob;
use crate::engine::{Proposal, Unavailable};
use crate::state::{Reply, command};
use std::collections::VecDeque;
use tokio::sync::oneshot;
use tokio::time::Instant;

pub type Answer<T> = oneshot::Sender<Result<T, Unavailable>>;

/// Proposals that stay together: one of this member's callers, or what another member gathered.
#[derive(Debug)]
pub enum Item {
    Own {
        command: Blob,
        /// Taken when it was told that time is up.
        answer: Option<Answer<Reply>>,
        deadline: Instant,
        /// It is good only in an entry of this term.
        term: Option<u64>,
    },
    Forwarded {
        commands: Vec<Blob>,
        answer: oneshot::Sender<EngineAnswer>,
    },
}

impl Item {
    pub fn own(proposal: Proposal, deadline: Instant) -> Item {
        let command = Blob(proposal.bytes.into());
        Item::Own { command, answer: Some(proposal.answer), deadline, term: proposal.term }
    }

    pub fn commands(&self) -> &[Blob] {
        match self {
            Item::Own { command, .. } => std::slice::from_ref(command),
            Item::Forwarded { commands, .. } => commands,
        }
    }

    /// The term in which alone it is good.
    pub fn term(&self) -> Option<u64> {
        match self {
            Item::Own { term, .. } => *term,
            Item::Forwarded { .. } => None,
        }
    }

    fn bytes(&self) -> usize {
        self.commands().iter().map(|command| command.0.len()).sum()
    }

    /// Whether anybody still waits for it.
    pub fn is_awaited(&self) -> bool {
        match self {
            Item::Own { answer, .. } => answer.as_ref().is_some_and(|answer| !answer.is_closed()),
            Item::Forwarded { answer, .. } => !answer.is_closed(),
        }
    }

    /// Tells its caller that time is up, if it is. The commands may still be applied.
    pub fn expire(&mut self, now: Instant) {
        if matches!(self, Item::Own { deadline, .. } if *deadline <= now) {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        if let Item::Own { answer, .. } = self
            && let Some(answer) = answer.take()
        {
            let _ = answer.send(Err(Unavailable::NoQuorum));
        }
    }
}

/// A queue that keeps order and knows its size.
#[derive(Debug, Default)]
pub struct Waiting {
    items: VecDeque<Item>,
    commands: usize,
    bytes: usize,
}

impl Waiting {
    /// Whether any one command more surely fits into what becomes the next entry.
    pub fn has_room(&self) -> bool {
        self.commands < COMMANDS_MAX && self.bytes + command::SIZE_MAX as usize <= COMMAND_BYTES_MAX
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn push(&mut self, item: Item) {
        self.count(&item);
        self.items.push_back(item);
    }

    /// Puts back what was taken, before everything that came later.
    pub fn put_back(&mut self, items: Vec<Item>) {
        for item in items.into_iter().rev() {
            self.count(&item);
            self.items.push_front(item);
        }
    }

    fn count(&mut self, item: &Item) {
        self.commands += item.commands().len();
        self.bytes += item.bytes();
    }

    /// The next entry's commands, within its limits and fenced to one term at most; what nobody waits for any more is
    /// dropped.
    pub fn take(&mut self) -> Vec<Item> {
        let mut taken: Vec<Item> = Vec::new();
        let (mut commands, mut bytes, mut term) = (0, 0, None);
        while let Some(item) = self.items.front() {
            let (more, more_bytes) = (item.commands().len(), item.bytes());
            let is_full = commands + more > COMMANDS_MAX || bytes + more_bytes > COMMAND_BYTES_MAX;
            let is_of_another = term.is_some() && item.term().is_some() && item.term() != term;
            if (is_full || is_of_another) && !taken.is_empty() {
                break;
            }
            self.commands -= more;
            self.bytes -= more_bytes;
            if let Some(item) = self.items.pop_front().filter(Item::is_awaited) {
                commands += more;
                bytes += more_bytes;
                term = term.or(item.term());
                taken.push(item);
            }
        }
        taken
    }

    /// Tells those whose time is up.
    pub fn expire(&mut self, now: Instant) {
        for item in &mut self.items {
            item.expire(now);
        }
        self.drop_unless(Item::is_awaited);
    }

    /// Gives up what belongs to another term than the one in which this member leads, if it does.
    pub fn fence(&mut self, led: Option<u64>) {
        let is_past = |item: &Item| matches!(item, Item::Own { term, .. } if term.is_some() && *term != led);
        if self.items.iter().any(is_past) {
            self.items.iter_mut().filter(|item| is_past(item)).for_each(Item::give_up);
            self.drop_unless(|item| !is_past(item));
        }
    }

    /// The disk is full: callers come back later, other members ask whoever leads then.
    pub fn refuse_all(&mut self) {
        for item in std::mem::take(self).items {
            if let Item::Own { answer: Some(answer), .. } = item {
                let _ = answer.send(Err(Unavailable::Busy));
            }
        }
    }

    /// Whoever forwarded something here asks whoever leads now.
    pub fn turn_away_forwarded(&mut self) {
        self.drop_unless(|item| matches!(item, Item::Own { .. }));
    }

    fn drop_unless(&mut self, keep: impl Fn(&Item) -> bool) {
        self.items.retain(keep);
        self.commands = self.items.iter().map(|item| item.commands().len()).sum();
        self.bytes = self.items.iter().map(Item::bytes).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn item(size: usize, deadline: Instant) -> (Item, oneshot::Receiver<Result<Reply, Unavailable>>) {
        let (answer, wait) = oneshot::channel();
        let command = Blob(vec![0; size].into());
        (Item::Own { command, answer: Some(answer), deadline, term: None }, wait)
    }

    fn sizes(items: &[Item]) -> Vec<usize> {
        items.iter().map(Item::bytes).collect()
    }

    #[tokio::test]
    async fn entries_keep_their_limits_and_what_is_put_back_its_order() {
        let later = Instant::now() + Duration::from_secs(60);
        let mut waiting = Waiting::default();
        let mut waits = Vec::new();
        for size in [1, COMMAND_BYTES_MAX - 1, 2, 3, 4] {
            let (item, wait) = item(size, later);
            waiting.push(item);
            waits.push(wait);
        }
        assert!(!waiting.has_room());
        let first = waiting.take();
        assert_eq!(sizes(&first), [1, COMMAND_BYTES_MAX - 1]);
        assert!(waiting.has_room());
        waiting.put_back(first);
        assert_eq!(sizes(&waiting.take()), [1, COMMAND_BYTES_MAX - 1]);
        drop(waits.remove(3));
        assert_eq!(sizes(&waiting.take()), [2, 4], "nobody waits for the third");
        assert!(waiting.is_empty() && waiting.has_room() && waiting.bytes == 0 && waiting.commands == 0);
    }

    #[tokio::test]
    async fn time_is_up_for_each_by_itself() {
        let now = Instant::now();
        let (early, early_wait) = item(1, now);
        let (late, mut late_wait) = item(2, now + Duration::from_secs(60));
        let mut waiting = Waiting::default();
        waiting.push(early);
        waiting.push(late);
        waiting.expire(now);
        assert_eq!(early_wait.await, Ok(Err(Unavailable::NoQuorum)));
        assert!(late_wait.try_recv().is_err());
        assert_eq!(sizes(&waiting.take()), [2]);
    }

    #[tokio::test]
    async fn what_is_fenced_goes_with_its_term() {
        let later = Instant::now() + Duration::from_secs(60);
        let mut waits = Vec::new();
        let mut waiting = Waiting::default();
        for (size, fence) in [(1, None), (2, Some(7)), (3, Some(8))] {
            let (mut item, wait) = item(size, later);
            if let Item::Own { term, .. } = &mut item {
                *term = fence;
            }
            waiting.push(item);
            waits.push(wait);
        }
        let first = waiting.take();
        assert_eq!(sizes(&first), [1, 2], "an entry is fenced to one term");
        waiting.put_back(first);
        waiting.fence(Some(7));
        assert_eq!(waits.pop().unwrap().await, Ok(Err(Unavailable::NoQuorum)));
        waiting.fence(None);
        assert_eq!(waits.pop().unwrap().await, Ok(Err(Unavailable::NoQuorum)));
        assert_eq!((waiting.commands, waiting.bytes), (1, 1));
        assert_eq!(sizes(&waiting.take()), [1]);
    }

    #[tokio::test]
    async fn what_others_forwarded_goes_when_this_member_does_not_lead() {
        let mut waiting = Waiting::default();
        let (answer, wait) = oneshot::channel();
        waiting.push(Item::Forwarded { commands: vec![Blob::default(); 3], answer });
        assert_eq!(waiting.commands, 3);
        waiting.turn_away_forwarded();
        assert!(wait.await.is_err());
        assert_eq!(waiting.commands, 0);
    }
}
