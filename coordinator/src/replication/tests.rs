//! Replication as a whole: openraft's own storage suite, restarts, kills, damage, snapshots, group commit, members
//! over libp2p.

mod cluster;
mod damage;
mod faults;
mod golden;
mod leaving;
mod life;
mod members;
mod storage;
pub mod toy;
mod version;
