//! How full the ring buffer is: from the positions that the kernel shows in memory, one page each
//! (v6.1/kernel/bpf/ringbuf.c, `struct bpf_ringbuf`).

#![expect(unsafe_code, reason = "maps kernel memory and reads it atomically")]

use std::{
    num::NonZeroUsize,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::MapData;
use nix::{
    sys::mman::{MapFlags, ProtFlags, mmap, munmap},
    unistd::{SysconfVar, sysconf},
};

use super::maps::{MapsError, access};

/// The position up to which records were read, and the one up to which they were written.
#[derive(Debug)]
pub(crate) struct RingFill {
    read: Position,
    written: Position,
    size_bytes: u64,
}

impl RingFill {
    pub(super) fn of(ring: &MapData) -> Result<Self, MapsError> {
        let size = ring.info().map_err(access("look at", "RECORDS"))?.max_entries();
        let page = sysconf(SysconfVar::PAGE_SIZE).map_err(MapsError::Mmap)?;
        let page = page.and_then(|page| NonZeroUsize::new(usize::try_from(page).ok()?));
        let page = page.ok_or(MapsError::Mmap(nix::Error::EINVAL))?;
        let position = |offset| Position::map(ring, page, offset).map_err(MapsError::Mmap);
        Ok(Self { read: position(0)?, written: position(page.get())?, size_bytes: u64::from(size) })
    }

    /// Bytes that wait to be read, and how many there can be.
    pub(crate) fn read(&self) -> (u64, u64) {
        // In this order: what is written meanwhile makes it more, and nothing makes it less than none.
        let read = self.read.load();
        (self.written.load().wrapping_sub(read).min(self.size_bytes), self.size_bytes)
    }
}

/// A page of the kernel's whose first word is a position. The kernel keeps the ring alive for as long as it is mapped.
#[derive(Debug)]
struct Position {
    base: NonNull<AtomicU64>,
    page: NonZeroUsize,
}

// SAFETY: the mapping is shared memory that is read through an atomic only; the pointer is valid on any thread.
unsafe impl Send for Position {}

impl Position {
    fn map(ring: &MapData, page: NonZeroUsize, offset: usize) -> Result<Self, nix::Error> {
        let offset = i64::try_from(offset).map_err(|_| nix::Error::EINVAL)?;
        // SAFETY: a fresh mapping, of a page that every ring buffer shows.
        let base =
            unsafe { mmap(None, page, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, ring.fd(), offset) }?;
        Ok(Self { base: base.cast(), page })
    }

    fn load(&self) -> u64 {
        // SAFETY: the mapping starts at a page and lives as long as `self`.
        unsafe { self.base.as_ref() }.load(Ordering::Acquire)
    }
}

impl Drop for Position {
    fn drop(&mut self) {
        // SAFETY: our own mapping, unmapped once; no reference outlives `self`.
        let unmapped = unsafe { munmap(self.base.cast(), self.page.get()) };
        debug_assert!(unmapped.is_ok(), "a mapping of our own can be unmapped");
    }
}
