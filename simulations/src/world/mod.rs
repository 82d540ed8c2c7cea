//! What the simulator owns instead of the operating system: time, chance, the wire, and a record of it all.
//!
//! Nothing in here knows about batch. [`Queue`] orders events, [`Stream`]s draw every random choice, [`Network`]
//! decides which bytes arrive and when, [`Trace`] folds every event into one hash. All are plain structs; whoever
//! drives them passes the time in, so each can be tested alone.

mod network;
mod queue;
mod random;
mod trace;

pub use network::{Arrival, LinkId, Network, NetworkSettings, Notice, SessionId, Side};
pub use queue::Queue;
pub use random::{Random, Stream};
pub use trace::{Line, Listener, Source, Trace, TraceHash};
