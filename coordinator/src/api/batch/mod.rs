//! (In progress.)
pub mod errors;
pub mod json;
pub mod requests;
pub mod schema;
