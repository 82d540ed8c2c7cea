//! The coordinator's only door to the clocks of the machine. Cores get the time as an argument.

use lote_shared::model::Timestamp;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The wall clock, in milliseconds.
#[expect(clippy::disallowed_methods, reason = "this module is the door")]
pub fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX).min(Timestamp::MAX.0))
}

/// The time since this process first asked; never backwards.
#[expect(clippy::disallowed_methods, reason = "this module is the door")]
pub fn monotonic() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// [`monotonic`] in milliseconds.
pub fn monotonic_ms() -> u64 {
    u64::try_from(monotonic().as_millis()).unwrap_or(u64::MAX)
}
