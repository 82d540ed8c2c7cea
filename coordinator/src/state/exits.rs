//! What the final end of a task means for those that depend on it and for its job (`jobs-and-tasks.md` §6.2).

use lote_shared::model::{AttemptOutcome, DependencyAction, ExitConditions, ExitJobAction, ExitOptions};

/// How a task came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FinalEnd {
    /// The process ended by itself.
    Exited { code: i32, upload_failed: bool },
    /// It could not be started: files, packages, container, launch.
    NotStarted,
    /// A wall clock, the limit of internal retries, a node's or disable's `terminate`.
    Stopped,
    /// Somebody ended the task or the whole job.
    Ended,
}

impl From<&AttemptOutcome> for FinalEnd {
    fn from(outcome: &AttemptOutcome) -> FinalEnd {
        match outcome {
            AttemptOutcome::Exited { exit_code, upload } => {
                FinalEnd::Exited { code: *exit_code, upload_failed: upload.is_some() }
            }
            AttemptOutcome::NotStarted(_) => FinalEnd::NotStarted,
            AttemptOutcome::WallClock { .. }
            | AttemptOutcome::Killed { .. }
            | AttemptOutcome::Lost { .. } => FinalEnd::Stopped,
        }
    }
}

/// What follows. The job's action counts only if the job opted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Consequence {
    pub dependency: DependencyAction,
    pub job: ExitJobAction,
}

/// The table of §6.2; the first row that fits wins.
pub(super) fn consequence(conditions: Option<&ExitConditions>, end: FinalEnd) -> Consequence {
    let options = conditions.and_then(|conditions| chosen(conditions, end)).unwrap_or_default();
    let good = end == FinalEnd::Exited { code: 0, upload_failed: false };
    let fallback = if good {
        Consequence { dependency: DependencyAction::Satisfy, job: ExitJobAction::None }
    } else {
        Consequence { dependency: DependencyAction::Block, job: ExitJobAction::Terminate }
    };
    Consequence {
        dependency: options.dependency.unwrap_or(fallback.dependency),
        job: if end == FinalEnd::Ended { ExitJobAction::None } else { options.job.unwrap_or(fallback.job) },
    }
}

fn chosen(conditions: &ExitConditions, end: FinalEnd) -> Option<ExitOptions> {
    let FinalEnd::Exited { code, upload_failed } = end else {
        let own = conditions.pre_processing_error.filter(|_| end == FinalEnd::NotStarted);
        return own.or(conditions.default);
    };
    let listed = conditions.codes.iter().find(|(listed, _)| *listed == code).map(|(_, options)| *options);
    let within = || {
        let range = conditions.ranges.iter().find(|range| range.start <= code && code <= range.end);
        range.map(|range| range.options)
    };
    let unlisted = || match (upload_failed, code) {
        (true, _) => conditions.file_upload_error.or(conditions.default),
        (false, 0) => None,
        (false, _) => conditions.default,
    };
    listed.or_else(within).or_else(unlisted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lote_shared::model::ExitCodeRange;

    const SATISFY: DependencyAction = DependencyAction::Satisfy;
    const BLOCK: DependencyAction = DependencyAction::Block;
    const NONE: ExitJobAction = ExitJobAction::None;
    const DISABLE: ExitJobAction = ExitJobAction::Disable;
    const TERMINATE: ExitJobAction = ExitJobAction::Terminate;

    fn options(dependency: Option<DependencyAction>, job: Option<ExitJobAction>) -> ExitOptions {
        ExitOptions { dependency, job }
    }

    fn exited(code: i32) -> FinalEnd {
        FinalEnd::Exited { code, upload_failed: false }
    }

    fn upload_failed(code: i32) -> FinalEnd {
        FinalEnd::Exited { code, upload_failed: true }
    }

    #[test]
    fn without_conditions() {
        for (end, dependency, job) in [
            (exited(0), SATISFY, NONE),
            (exited(1), BLOCK, TERMINATE),
            (upload_failed(0), BLOCK, TERMINATE),
            (FinalEnd::NotStarted, BLOCK, TERMINATE),
            (FinalEnd::Stopped, BLOCK, TERMINATE),
            (FinalEnd::Ended, BLOCK, NONE),
        ] {
            assert_eq!(consequence(None, end), Consequence { dependency, job }, "{end:?}");
        }
    }

    #[test]
    fn the_first_row_that_fits() {
        // Each place has options of its own, so that the answer tells where they came from.
        let conditions = ExitConditions {
            codes: vec![(3, options(Some(SATISFY), None)), (0, options(Some(BLOCK), Some(DISABLE)))],
            ranges: vec![
                ExitCodeRange { start: 10, end: 20, options: options(None, Some(NONE)) },
                ExitCodeRange { start: 3, end: 15, options: options(Some(SATISFY), Some(DISABLE)) },
            ],
            pre_processing_error: Some(options(Some(SATISFY), Some(NONE))),
            file_upload_error: Some(options(Some(BLOCK), Some(NONE))),
            default: Some(options(Some(SATISFY), Some(TERMINATE))),
        };
        for (end, dependency, job) in [
            // A listed code, even if an upload failed; what it leaves out is the fallback, not `default`.
            (exited(3), SATISFY, TERMINATE),
            (upload_failed(3), SATISFY, TERMINATE),
            (exited(0), BLOCK, DISABLE),
            (upload_failed(0), BLOCK, DISABLE),
            // Overlapping ranges: the first in the list.
            (exited(10), BLOCK, NONE),
            (exited(20), BLOCK, NONE),
            (upload_failed(15), BLOCK, NONE),
            (exited(9), SATISFY, DISABLE),
            (exited(21), SATISFY, TERMINATE),
            (upload_failed(21), BLOCK, NONE),
            (FinalEnd::NotStarted, SATISFY, NONE),
            (FinalEnd::Stopped, SATISFY, TERMINATE),
            (FinalEnd::Ended, SATISFY, NONE),
        ] {
            assert_eq!(consequence(Some(&conditions), end), Consequence { dependency, job }, "{end:?}");
        }
    }

    #[test]
    fn default_never_speaks_of_success() {
        let conditions = ExitConditions {
            default: Some(options(Some(BLOCK), Some(DISABLE))),
            ..ExitConditions::default()
        };
        let plain = Consequence { dependency: SATISFY, job: NONE };
        assert_eq!(consequence(Some(&conditions), exited(0)), plain);
        let marked = Consequence { dependency: BLOCK, job: DISABLE };
        for end in [upload_failed(0), exited(7), FinalEnd::NotStarted] {
            assert_eq!(consequence(Some(&conditions), end), marked, "{end:?}");
        }
    }
}
