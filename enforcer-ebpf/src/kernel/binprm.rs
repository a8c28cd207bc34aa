//! `linux_binprm`: the program about to be executed.

use aya_ebpf::{cty::c_void, helpers::generated::bpf_probe_read_kernel_str};
use enforcer_common::record::PATH_LEN;

use crate::config::loaded;

/// A pointer to a `linux_binprm` that the verifier knows as such.
#[derive(Clone, Copy)]
pub(crate) struct Binprm(*const c_void);

impl Binprm {
    /// # Safety
    ///
    /// `pointer` must be a `linux_binprm *` argument of the running hook.
    #[inline(always)]
    pub(crate) const unsafe fn from_argument(pointer: *const c_void) -> Self {
        Self(pointer)
    }

    /// Copies the path, as the caller wrote it. Returns the bytes written with the closing zero, or `None` if it cannot be
    /// read.
    #[inline(always)]
    pub(crate) fn copy_filename(self, to: &mut [u8; PATH_LEN]) -> Option<u32> {
        let field = self.0.cast::<u8>().wrapping_add(loaded!(offsets.binprm_filename) as usize);
        // SAFETY: the verifier refuses the program unless this is a field of the structure.
        let filename = unsafe { field.cast::<*const c_void>().read() };
        // SAFETY: the destination holds PATH_LEN bytes; a bad source makes the helper fail, not fault.
        let read = unsafe { bpf_probe_read_kernel_str(to.as_mut_ptr().cast(), PATH_LEN as u32, filename) };
        u32::try_from(read).ok()
    }
}
