//! The clocks. The boot clock counts suspended time and is not set by anybody: what is enforced goes by it. The wall
//! clock is for people.

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

/// Now, ns on the boot clock (`CLOCK_BOOTTIME`).
pub(crate) fn boot_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every supported kernel has the boot clock");
    u64::try_from(now.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0)
}

/// The wall-clock time of a moment on the boot clock, as the wall clock is set now.
pub(crate) fn wall(boot_moment_ns: u64) -> Timestamp {
    let wall = Timestamp::now().as_nanosecond();
    let ago = i128::from(boot_ns()) - i128::from(boot_moment_ns);
    Timestamp::from_nanosecond(wall - ago).unwrap_or(Timestamp::MAX)
}

/// Now, by the wall clock, s of Unix time: the time that credentials speak of.
pub(crate) fn unix_s() -> i64 {
    Timestamp::now().as_second()
}
