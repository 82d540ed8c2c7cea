//! (In progress.)
pub mod answers;
pub mod errors;
pub mod json;
pub mod requests;
pub mod schema;
pub mod views;
