//! The simulator. (In progress.)

pub mod world;
