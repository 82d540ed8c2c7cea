//! One attempt of a task on this host: prepare → fetch → launch → wait → collect → upload → report
//! (`task-execution.md` §2).
//!
//! * [`machine`]: what comes next and what the outcome is; pure.
//! * [`environment`], [`pattern`]: what the process sees, which files an output pattern means; pure but for looking.
//! * [`transfer`]: the trait through which files come and go; [`http`] does it for any URL, [`own`] for the
//!   cluster's own storage.
//! * [`fetch`], [`upload`], [`directories`]: the steps that touch disk and network.

pub mod actor;
pub mod directories;
pub mod environment;
pub mod fetch;
pub mod http;
pub mod machine;
pub mod own;
mod packages;
pub mod pattern;
pub mod transfer;
pub mod upload;
