//! Replication as a whole: openraft's own storage suite, restarts, kills, damage, snapshots, group commit.

mod cluster;
mod life;
mod storage;
pub mod toy;
