//! A completed task stays completed, and its result is what its latest attempt really did: nobody else's report.

use lote_coordinator::state::{TaskPlace, TaskRecord};
use lote_shared::model::{AttemptRef, TaskKey, TaskResult};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub struct Results {
    /// How processes ended.
    exits: BTreeMap<AttemptRef, i32>,
    completed: BTreeMap<TaskKey, AttemptRef>,
}

impl Results {
    pub fn ended(&mut self, attempt: AttemptRef, exit_code: i32) {
        self.exits.insert(attempt, exit_code);
    }

    /// A task's record was written; `None` = removed.
    pub fn changed(&mut self, key: TaskKey, task: Option<&TaskRecord>) -> Result<(), String> {
        let Some(task) = task else { return Err(format!("task {key} was removed and nobody asked for it")) };
        let TaskPlace::Completed { result } = task.place else {
            return match self.completed.get(&key) {
                None => Ok(()),
                Some(attempt) => {
                    Err(format!("task {key} was completed by {attempt} and is {:?}", task.place))
                }
            };
        };
        let attempt = task.attempt_ref();
        match self.completed.insert(key, attempt) {
            Some(before) if before != attempt => {
                return Err(format!("task {key} was completed by {before} and then by {attempt}"));
            }
            Some(_) => return Ok(()),
            None => {}
        }
        let exit = self.exits.get(&attempt).copied();
        let (success, code) = (result == TaskResult::Success, task.exit_code);
        if success && exit != Some(0) {
            return Err(format!("task {key} succeeded, but the process of {attempt} ended with {exit:?}"));
        }
        if code.is_some() && code != exit {
            return Err(format!(
                "task {key} has exit code {code:?}, but the process of {attempt} ended with {exit:?}"
            ));
        }
        Ok(())
    }
}
