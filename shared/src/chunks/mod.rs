//! Chunk store. (In progress.)
