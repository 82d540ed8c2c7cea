//! Replication as a whole: openraft's own storage suite, restarts, kills, damage, snapshots, group commit.

mod cluster;
mod faults;
mod life;
mod storage;
mod toy;
