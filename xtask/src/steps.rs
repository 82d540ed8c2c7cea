//! A run as a row of named steps: each is announced, timed and remembered; a failed one does not hide the rest.

use anyhow::Result;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What has been done so far.
#[derive(Debug, Default)]
pub struct Steps {
    done: Vec<Step>,
    notes: Vec<String>,
}

#[derive(Debug)]
struct Step {
    name: String,
    took: Duration,
    passed: bool,
}

impl Steps {
    /// Runs one step. Gives whether it passed, for steps that make no sense after a failure.
    pub fn run(&mut self, name: &str, step: impl FnOnce() -> Result<()>) -> bool {
        println!("\n=== {name}");
        let begun = clock();
        let outcome = step();
        let took = clock() - begun;
        if let Err(error) = &outcome {
            println!("=== {name} FAILED: {error:#}");
        }
        self.done.push(Step { name: name.to_owned(), took, passed: outcome.is_ok() });
        outcome.is_ok()
    }

    /// Something that the summary must not keep to itself.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Prints the summary; the exit code says whether every step passed.
    pub fn finish(self) -> ExitCode {
        println!();
        for step in &self.done {
            let outcome = if step.passed { "passed" } else { "FAILED" };
            println!("{outcome} {:>7.1} s  {}", step.took.as_secs_f64(), step.name);
        }
        for note in &self.notes {
            println!("note: {note}");
        }
        let passed = self.done.iter().filter(|step| step.passed).count();
        let failed = self.done.len() - passed;
        println!("steps: {passed} passed, {failed} failed");
        if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

#[expect(clippy::disallowed_methods, reason = "it measures its own steps; nothing is decided by it")]
fn clock() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(steps: &[bool]) -> String {
        let mut run = Steps::default();
        for passes in steps {
            let said = run.run("a step", || if *passes { Ok(()) } else { anyhow::bail!("it did not") });
            assert_eq!(said, *passes);
        }
        format!("{:?}", run.finish())
    }

    #[test]
    fn every_step_has_to_pass_and_there_has_to_be_one() {
        let success = format!("{:?}", ExitCode::SUCCESS);
        assert_eq!(outcome(&[true, true]), success);
        assert_ne!(outcome(&[true, false, true]), success);
        assert_ne!(outcome(&[false]), success);
        assert_ne!(outcome(&[]), success);
    }
}
