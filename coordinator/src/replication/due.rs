//! Answers that are known and not yet given: their caller must find them in the state of this member.

use super::waiting::Answer;
use crate::engine::Unavailable;
use crate::state::{RefusalCode, Reply};
use tokio::time::Instant;

/// A read that waits.
pub struct Read {
    pub answer: Answer<()>,
    /// It is answered only while this member leads in this term.
    pub term: Option<u64>,
    pub deadline: Instant,
}

impl Read {
    pub fn refuse(self) {
        let _ = self.answer.send(Err(Unavailable::NoQuorum));
    }
}

/// Answers that wait until this member has applied the entry at `index`.
pub struct Due {
    pub index: u64,
    pub deadline: Instant,
    pub replies: Vec<(Answer<Reply>, Reply)>,
    pub reads: Vec<Read>,
}

impl Due {
    pub fn answer(self) {
        for (answer, reply) in self.replies {
            let is_fenced = matches!(&reply, Err(refusal) if refusal.code == RefusalCode::OtherTerm);
            let _ = answer.send(if is_fenced { Err(Unavailable::NoQuorum) } else { Ok(reply) });
        }
        for read in self.reads {
            let _ = read.answer.send(Ok(()));
        }
    }

    pub fn refuse(self) {
        for (answer, _) in self.replies {
            let _ = answer.send(Err(Unavailable::NoQuorum));
        }
        self.reads.into_iter().for_each(Read::refuse);
    }
}
