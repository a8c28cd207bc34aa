//! The sessions' control words, through a shared mapping of the `CONTROL` map: a change is one atomic store.

#![expect(unsafe_code, reason = "maps kernel memory and stores to it atomically")]

use std::{
    num::NonZeroUsize,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::MapData;
use enforcer_common::{config::MAX_SESSIONS, session::ControlWord};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

const WORDS: usize = MAX_SESSIONS as usize;
const LENGTH_BYTES: NonZeroUsize = match NonZeroUsize::new(WORDS * size_of::<u64>()) {
    Some(length) => length,
    None => panic!("there is at least one session slot"),
};

/// The mapping. The kernel keeps the map alive for as long as it exists.
#[derive(Debug)]
pub(super) struct ControlWords {
    base: NonNull<AtomicU64>,
}

// SAFETY: the mapping is shared memory that is accessed through atomics only; the pointer is valid on any thread.
unsafe impl Send for ControlWords {}

impl ControlWords {
    /// Maps the pinned map, whose value size and number of entries `Maps::open` has checked.
    pub(super) fn map(control: &MapData) -> Result<Self, nix::Error> {
        // SAFETY: a fresh mapping of a map that was made with BPF_F_MMAPABLE and has exactly this length.
        let base = unsafe {
            mmap(
                None,
                LENGTH_BYTES,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                control.fd(),
                0,
            )
        }?;
        Ok(Self { base: base.cast() })
    }

    pub(super) fn load(&self, slot: u32) -> Option<ControlWord> {
        Some(ControlWord(self.word(slot)?.load(Ordering::Acquire)))
    }

    /// Stores the word; false if there is no such slot.
    pub(super) fn store(&self, slot: u32, word: ControlWord) -> bool {
        // Release: a reader that sees the word sees the rules and the row that were written before it.
        self.word(slot).map(|atomic| atomic.store(word.0, Ordering::Release)).is_some()
    }

    fn word(&self, slot: u32) -> Option<&AtomicU64> {
        // SAFETY: the mapping is `WORDS` words long and starts at a page; it lives as long as `self`.
        let words = unsafe { NonNull::slice_from_raw_parts(self.base, WORDS).as_ref() };
        words.get(usize::try_from(slot).ok()?)
    }
}

impl Drop for ControlWords {
    fn drop(&mut self) {
        // SAFETY: our own mapping, unmapped once; no reference outlives `self`.
        let unmapped = unsafe { munmap(self.base.cast(), LENGTH_BYTES.get()) };
        debug_assert!(unmapped.is_ok(), "a mapping of our own can be unmapped");
    }
}
