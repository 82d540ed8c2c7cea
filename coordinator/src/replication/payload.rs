//! What one entry carries: the leader's time and the commands that gathered. Bytes, little-endian:
//!
//! ```text
//! 1 u8 │ now u64 │            count u32 │ count × (length u32 │ command)
//! 2 u8 │ now u64 │ term u64 │ count u32 │ count × (length u32 │ command)
//! ```
//! The second form is written if some of the commands are *fenced*: made for the leadership of one term and good in no
//! other ([`Engine::in_term`]). The top bit of their length says which. Whoever hands an entry to Raft cannot know in
//! which term it will stand, since the same member may be elected anew at that moment; so the term travels along and is
//! compared with the entry's own when it is applied, on every member alike.
//!
//! [`Engine::in_term`]: crate::engine::Engine::in_term

use crate::state::{Command, Refusal, RefusalCode, Reply};
use bytes::{BufMut, Bytes, BytesMut};
use lote_shared::model::Timestamp;
use lote_shared::protocol::codec;
use serde::{Deserialize, Serialize};
use std::fmt;

const VERSION_PLAIN: u8 = 1;
const VERSION_FENCED: u8 = 2;
/// No command is nearly so long.
const FENCED_BIT: u32 = 1 << 31;

/// Why an entry's payload cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("its payload has version {0}")]
    Version(u8),
    #[error("its payload is cut short")]
    Short,
    #[error("its payload has {0} bytes too many")]
    Trailing(usize),
    #[error("command {number}: {why}")]
    Command { number: usize, why: codec::Error },
    #[error("command {0} is fenced, but no term is named")]
    NoTerm(usize),
}

/// The encoded payload of one entry.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(Bytes);

/// A payload in the place where it stands in the log.
#[derive(Debug, PartialEq, Eq)]
pub struct Content {
    pub now: Timestamp,
    /// Those to be applied, in order.
    pub commands: Vec<Command>,
    /// Of all commands in their order, whether it is among `commands`.
    is_good: Vec<bool>,
}

impl Content {
    /// The answers to all commands, from those to the ones that were applied; `None` if these are too many or too few.
    pub fn answers(&self, applied: Vec<Reply>) -> Option<Vec<Reply>> {
        if applied.len() != self.commands.len() {
            return None;
        }
        let mut applied = applied.into_iter();
        let refusal = || Refusal::new(RefusalCode::OtherTerm);
        let answer = |is_good: &bool| if *is_good { applied.next() } else { Some(Err(refusal())) };
        self.is_good.iter().map(answer).collect()
    }
}

impl Payload {
    /// `commands` in their encoded form, good in any term.
    pub fn new<'a>(now: Timestamp, commands: impl ExactSizeIterator<Item = &'a [u8]>) -> Payload {
        Payload::fenced(now, None, commands.map(|command| (command, false)))
    }

    /// Each of `commands` with whether it is good in `term` only; without a term none is.
    pub fn fenced<'a>(
        now: Timestamp,
        term: Option<u64>,
        commands: impl ExactSizeIterator<Item = (&'a [u8], bool)>,
    ) -> Payload {
        let mut out = BytesMut::new();
        out.put_u8(if term.is_some() { VERSION_FENCED } else { VERSION_PLAIN });
        out.put_u64_le(now.0);
        if let Some(term) = term {
            out.put_u64_le(term);
        }
        out.put_u32_le(commands.len() as u32);
        for (command, is_fenced) in commands {
            debug_assert!(!is_fenced || term.is_some(), "a fenced command names its term");
            out.put_u32_le(command.len() as u32 | if is_fenced { FENCED_BIT } else { 0 });
            out.put_slice(command);
        }
        Payload(out.freeze())
    }

    /// As the log kept it; nothing is checked yet.
    pub fn from_bytes(bytes: Bytes) -> Payload {
        Payload(bytes)
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The leader's time alone.
    pub fn now(&self) -> Result<Timestamp, Error> {
        Ok(self.head()?.now)
    }

    /// What it says in an entry of this term. What was meant for another is decoded all the same: bytes that one
    /// member can read and another cannot would part them.
    pub fn decode(&self, entry_term: u64) -> Result<Content, Error> {
        let Head { now, term, count, mut rest } = self.head()?;
        // Every command takes four bytes at least, so a made-up count allocates nothing large.
        let room = (count as usize).min(rest.len() / 4);
        let mut content =
            Content { now, commands: Vec::with_capacity(room), is_good: Vec::with_capacity(room) };
        for number in 0..count as usize {
            let (length, after) = rest.split_first_chunk::<4>().ok_or(Error::Short)?;
            let length = u32::from_le_bytes(*length);
            let is_fenced = term.is_some() && length & FENCED_BIT != 0;
            let length = if term.is_some() { length & !FENCED_BIT } else { length } as usize;
            let command = after.get(..length).ok_or(Error::Short)?;
            rest = &after[length..];
            let command = Command::decode(command).map_err(|why| Error::Command { number, why })?;
            let is_good = !is_fenced || term == Some(entry_term);
            content.is_good.push(is_good);
            if is_good {
                content.commands.push(command);
            }
        }
        if rest.is_empty() { Ok(content) } else { Err(Error::Trailing(rest.len())) }
    }

    fn head(&self) -> Result<Head<'_>, Error> {
        let (version, rest) = self.0.split_first().ok_or(Error::Short)?;
        let (now, rest) = rest.split_first_chunk::<8>().ok_or(Error::Short)?;
        let (term, rest) = match *version {
            VERSION_PLAIN => (None, rest),
            VERSION_FENCED => {
                let (term, rest) = rest.split_first_chunk::<8>().ok_or(Error::Short)?;
                (Some(u64::from_le_bytes(*term)), rest)
            }
            version => return Err(Error::Version(version)),
        };
        let (count, rest) = rest.split_first_chunk::<4>().ok_or(Error::Short)?;
        let now = Timestamp(u64::from_le_bytes(*now));
        Ok(Head { now, term, count: u32::from_le_bytes(*count), rest })
    }
}

struct Head<'a> {
    now: Timestamp,
    /// The term that the fenced commands were made for.
    term: Option<u64>,
    count: u32,
    rest: &'a [u8],
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.0.len())
    }
}

impl Serialize for Payload {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Payload, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Payload;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Payload, E> {
                Ok(Payload(Bytes::copy_from_slice(bytes)))
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Payload, E> {
                Ok(Payload(Bytes::from(bytes)))
            }
        }
        deserializer.deserialize_byte_buf(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Action, IdempotencyKey, Outcome};
    use lote_shared::model::AccountId;

    fn command(name: &str) -> Command {
        let action = Action::AccountAdd { name: name.to_owned(), keys: vec![] };
        Command { account: AccountId(1), key: IdempotencyKey(7), action }
    }

    /// `a` is good in any term, `b` in term 5 only, `c` again in any.
    fn mixed() -> (Payload, [Command; 3]) {
        let commands = [command("a"), command("b"), command("c")];
        let bytes: Vec<Vec<u8>> = commands.iter().map(|command| command.encode().unwrap()).collect();
        let fenced = bytes.iter().map(Vec::as_slice).zip([false, true, false]);
        (Payload::fenced(Timestamp(77), Some(5), fenced), commands)
    }

    #[test]
    fn payloads_come_back_and_malformed_ones_are_refused() {
        let commands = [command("a"), command("b")];
        let bytes: Vec<Vec<u8>> = commands.iter().map(|command| command.encode().unwrap()).collect();
        let plain = Payload::new(Timestamp(77), bytes.iter().map(Vec::as_slice));
        for term in [0, 1, u64::MAX] {
            let content = plain.decode(term).unwrap();
            assert_eq!((content.now, &content.commands[..]), (Timestamp(77), &commands[..]));
        }
        for (payload, count_at) in [(plain, 9), (mixed().0, 17)] {
            for size in 0..payload.0.len() {
                assert!(Payload(payload.0.slice(..size)).decode(5).is_err(), "cut at {size}");
            }
            let mut longer = payload.0.to_vec();
            longer.push(0);
            assert!(matches!(Payload(longer.into()).decode(5), Err(Error::Trailing(1))));
            let mut many = payload.0.to_vec();
            many[count_at..count_at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
            assert!(matches!(Payload(many.into()).decode(5), Err(Error::Short)));
            let mut newer = payload.0.to_vec();
            newer[0] = 3;
            assert!(matches!(Payload(newer.into()).decode(5), Err(Error::Version(3))));
            let serde = codec::encode(1, &payload).unwrap();
            assert_eq!(codec::decode::<Payload>(1, &serde, 10_000).unwrap(), payload);
        }
    }

    #[test]
    fn what_was_meant_for_another_term_is_left_out_and_answered_so() {
        let (payload, [a, b, c]) = mixed();
        let there = payload.decode(5).unwrap();
        assert_eq!(there.commands, [a.clone(), b, c.clone()]);
        assert_eq!(there.answers(vec![Ok(Outcome::Done); 3]), Some(vec![Ok(Outcome::Done); 3]));
        for term in [4, 6] {
            let elsewhere = payload.decode(term).unwrap();
            assert_eq!(
                (elsewhere.now, &elsewhere.commands[..]),
                (Timestamp(77), &[a.clone(), c.clone()][..])
            );
            let refused = Err(Refusal::new(RefusalCode::OtherTerm));
            let answers = vec![Ok(Outcome::Done), refused, Ok(Outcome::Done)];
            assert_eq!(elsewhere.answers(vec![Ok(Outcome::Done); 2]), Some(answers));
            assert_eq!(elsewhere.answers(vec![Ok(Outcome::Done); 3]), None, "an answer too many");
        }
    }

    /// Entries that older builds wrote stay readable, and what is not fenced is still written so.
    #[test]
    fn the_old_form_is_read_and_written() {
        let old = "014d0000000000000002000000080000000101010700016100080000000101010700016200";
        let byte = |at: usize| u8::from_str_radix(&old[2 * at..2 * at + 2], 16).unwrap();
        let old = Payload::from_bytes((0..old.len() / 2).map(byte).collect());
        let commands = [command("a"), command("b")];
        assert_eq!((old.now().unwrap(), old.decode(9).unwrap().commands), (Timestamp(77), commands.to_vec()));
        let bytes = commands.map(|command| command.encode().unwrap());
        assert_eq!(Payload::new(Timestamp(77), bytes.iter().map(Vec::as_slice)).bytes(), old.bytes());
    }

    /// The bytes in the log are a promise to the next version.
    #[test]
    fn the_form_with_a_fence_stays() {
        let hex: String = mixed().0.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        expect_test::expect!["024d00000000000000050000000000000003000000080000000101010700016100080000800101010700016200080000000101010700016300"].assert_eq(&hex);
    }
}
