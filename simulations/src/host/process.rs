//! What task processes do: how long they run, how they end, and whether they listen to SIGTERM.

use crate::scenario::JobScenario;
use crate::world::Random;
use lote_shared::model::AttemptRef;

/// One process in sixteen ignores SIGTERM and has to be killed.
const STUBBORN_PER_MILLION: u32 = 62_500;

/// The fate of one process, fixed by the seed, the task and the attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// `None` = never ends by itself.
    pub run_ms: Option<u64>,
    pub exit_code: i32,
    /// Time from SIGTERM to its end; `None` = ignores it.
    pub term_ms: Option<u64>,
}

impl Lifetime {
    pub fn of(random: Random, job: &JobScenario, attempt: AttemptRef) -> Lifetime {
        let mut stream = random.stream("process", &[attempt.task.0, u64::from(attempt.attempt.0)]);
        let run_ms = job.run_time_ms.draw(&mut stream);
        let hangs = stream.chance(job.hanging);
        let fails = stream.chance(job.failing);
        let exit_code = if fails { stream.between(1, 127) as i32 } else { 0 };
        let stubborn = stream.chance(STUBBORN_PER_MILLION);
        let term_ms = stream.between(1, 20);
        Lifetime { run_ms: (!hangs).then_some(run_ms), exit_code, term_ms: (!stubborn).then_some(term_ms) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scenario;
    use lote_shared::model::{Attempt, TaskKey};

    #[test]
    fn fates_are_fixed_and_as_frequent_as_asked() {
        let job = Scenario::first_light().job;
        let fate = |task| {
            let attempt = AttemptRef { task: TaskKey(task), attempt: Attempt(1) };
            Lifetime::of(Random::new(3), &job, attempt)
        };
        assert_eq!(fate(17), fate(17));
        let fates: Vec<Lifetime> = (0..50_000).map(fate).collect();
        let failing = fates.iter().filter(|fate| fate.exit_code != 0).count();
        let hanging = fates.iter().filter(|fate| fate.run_ms.is_none()).count();
        let stubborn = fates.iter().filter(|fate| fate.term_ms.is_none()).count();
        assert!((1_300..1_700).contains(&failing), "{failing}");
        assert!((25..80).contains(&hanging), "{hanging}");
        assert!((2_800..3_500).contains(&stubborn), "{stubborn}");
    }
}
