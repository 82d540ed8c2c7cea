//! The coordinator's only door to the clocks of the machine. Cores get the time as an argument.

use lote_shared::model::Timestamp;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// For tests: this many milliseconds are added to every reading of the wall clock, as if it were set wrong.
const OFFSET_VARIABLE: &str = "LOTE_TEST_WALL_CLOCK_OFFSET_MS";

/// The wall clock, in milliseconds.
#[expect(clippy::disallowed_methods, reason = "this module is the door")]
pub fn wall() -> Timestamp {
    static OFFSET_MS: OnceLock<i64> = OnceLock::new();
    let offset_ms = *OFFSET_MS
        .get_or_init(|| std::env::var(OFFSET_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(0));
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let wall_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX).saturating_add_signed(offset_ms);
    Timestamp(wall_ms.min(Timestamp::MAX.0))
}

/// The wall clock by which the file system gives files their times, in ms since 1970. No test sets it wrong.
#[expect(clippy::disallowed_methods, reason = "this module is the door")]
pub fn files_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
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
