//! Records from the kernel, one at a time.

#![expect(unsafe_code, reason = "a descriptor is registered for as long as its owner lives")]

use std::{io, time::Instant};

use aya::maps::{MapData, RingBuf};
use tokio::io::unix::AsyncFd;

/// The ring buffer. What was written while no daemon ran is still in it, up to its size: the position up to which it was
/// read is kept in the ring itself.
pub(crate) struct Ring {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Ring {
    pub(super) fn new(ring: RingBuf<MapData>) -> io::Result<Self> {
        // SAFETY: the ring owns its descriptor, gives out the same one each time, and closes it only when dropped.
        let ring = unsafe { AsyncFd::register(ring) };
        Ok(Self { ring: ring.map_err(|failed| failed.into_parts().1)? })
    }

    /// Waits until there are records, then hands up to `limit` of them to `take`. Safe to cancel: a record that was not
    /// handed on stays in the ring.
    pub(crate) async fn read(&mut self, limit: usize, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        let mut guard = self.ring.readable_mut().await?;
        for _ in 0..limit {
            let Some(record) = guard.get_inner_mut().next() else {
                guard.clear_ready();
                break;
            };
            take(&record);
        }
        Ok(())
    }

    /// Hands the records that are there to `take`, until there is none, `until` has come, or it wants no more: a session can make them
    /// faster than anybody takes them. Whether there was none left.
    pub(crate) fn drain(&mut self, until: Instant, mut take: impl FnMut(&[u8]) -> bool) -> bool {
        const BETWEEN_LOOKS_AT_THE_CLOCK: usize = 64;
        while Instant::now() < until {
            for _ in 0..BETWEEN_LOOKS_AT_THE_CLOCK {
                let Some(record) = self.ring.get_mut().next() else {
                    return true;
                };
                if !take(&record) {
                    return false;
                }
            }
        }
        false
    }
}
