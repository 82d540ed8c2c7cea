//! The OData parts of list requests: `$filter` ([`filter`]), and the opaque position and absolute link with which a
//! list goes on ([`page`]). Pure; knows nothing of pools, jobs and tasks.

pub mod filter;
pub mod page;

pub use filter::{Field, Filter, Kind, Operators, Value};
