//! `linux_binprm`: the program about to be executed.

use aya_ebpf::{cty::c_void, helpers::generated::bpf_probe_read_kernel_str};
use enforcer_common::{image::ImageId, record::PATH_LEN};

use super::Place;
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

    /// Whether something else is executed than what was named: that names an interpreter (`#!`, or by its format), which takes its
    /// place (v6.1/fs/binfmt_script.c, load_script; bprm_change_interp).
    #[inline(always)]
    pub(crate) fn is_interpreted(self) -> bool {
        let field = |offset: u32| {
            let field = self.0.cast::<u8>().wrapping_add(offset as usize).cast::<*const c_void>();
            // SAFETY: the verifier refuses the program unless this is a field of the structure.
            Place::of(unsafe { field.read() }).map_or(0, Place::address)
        };
        field(loaded!(offsets.binprm_interp)) != field(loaded!(offsets.binprm_filename))
    }

    /// What the file that is executed is told by, at last: of a script, its interpreter's. `None` if it cannot be read.
    #[inline(always)]
    pub(crate) fn image(self) -> Option<ImageId> {
        // Where the kernel notes that somebody has asked for the time of the last change (v6.13/include/linux/fs.h, I_CTIME_QUERIED).
        const QUERIED: u32 = 1 << 31;
        let file = Place::of(self.0)?.follow(loaded!(offsets.binprm_file))?;
        let inode = file.follow(loaded!(offsets.file_inode))?;
        let super_block = inode.follow(loaded!(offsets.inode_sb))?;
        Some(ImageId {
            inode: inode.load(loaded!(offsets.inode_ino))?,
            size_bytes: inode.load(loaded!(offsets.inode_size))?,
            ctime_s: inode.load(loaded!(offsets.inode_ctime_s))?,
            mtime_s: inode.load(loaded!(offsets.inode_mtime_s))?,
            ctime_ns: inode.load::<u32>(loaded!(offsets.inode_ctime_ns))? & !QUERIED,
            mtime_ns: inode.load(loaded!(offsets.inode_mtime_ns))?,
            device: super_block.load(loaded!(offsets.super_block_dev))?,
            pad: 0,
        })
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
