//! What travels between hosts and coordinators, and the rules that bound it.
//!
//! * [`build`]: which build a coordinator is, and what it supports.
//! * [`codec`]: bincode with a format byte, a schema version and a size limit. The only door to bincode.
//! * [`host`]: the messages of a host's session with the leader.
//! * [`members`]: who belongs to the cluster, as members tell one another.
//! * [`session`]: numbering, acknowledgement and resend of those messages; a pure state machine.
//! * [`data`]: content of our own storage, chunk by chunk.
//! * [`swarm`]: content from host to host, and the plan of who pulls from whom.
//! * [`storage`]: which chunks a coordinator keeps, and how its upkeep of them is doing.
//! * [`files`]: reading a node's files through a substream.

pub mod build;
pub mod codec;
pub mod data;
pub mod files;
pub mod host;
pub mod members;
pub mod session;
pub mod storage;
pub mod swarm;
